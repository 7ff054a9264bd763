//! The ways to a source: TLS, users with few rights, unix sockets; and what is said when one is closed.

use redwind_tests::certificates::Certificates;
use redwind_tests::on_each_flavor;
use redwind_tests::process::free_port;
use redwind_tests::redwind::{Finished, StoreAddress, run};
use redwind_tests::server::{Server, ServerOptions};
use redwind_tests::servers::Flavor;
use redwind_tests::story::{Following, QUICK};
use redwind_tests::workload::Workload;

/// The line that the README gives.
const ACL: &str = "user redwind on >secret -@all +psync +replconf +ping +info +config|get +module|list +time";

/// Writes, marks, restores: whatever way the agent has come.
fn follow(flavor: &Flavor, server: &Server, source: &str, more: &[&str]) {
    let mut following = Following::start_at(flavor, source, &[QUICK, more].concat());
    following.wait_restorable();
    let (mut cli, mut workload) = (server.cli(), Workload::any(flavor));
    workload.run(&mut cli, 100);
    let mark = following.mark(source, server);
    workload.run(&mut cli, 20);
    following.wait_durable(server);
    following.check(&mark);
    following.verify();
}

/// An agent that is to give up, and what it says.
fn refused(source: &str, more: &[&str]) -> Finished {
    let folder = tempfile::tempdir().unwrap();
    let store = StoreAddress::folder(folder.path());
    let spool = folder.path().join("spool");
    let arguments = ["agent", "--source", source, "--spool", spool.to_str().unwrap(), "--grpc", "none"];
    run(Some(&store), &[&arguments, ["--http", "none"].as_slice(), more].concat()).expect(7)
}

fn assert_says(ended: &Finished, words: &[&str]) {
    let last = ended.stderr.lines().last().unwrap_or_default();
    for word in words {
        assert!(last.contains(word), "{word} in {last}");
    }
}

/// The ACL line of the README is enough, and anything less is told.
fn a_user_with_the_rights_of_the_readme_is_enough(flavor: &Flavor) {
    let options = ServerOptions::default().config(ACL).config("user poor on >secret -@all +ping +info +replconf");
    let server = Server::start_with(flavor, options);
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "secret\n").unwrap();
    let password = password.to_str().unwrap();
    let as_user = |name| ["--source-user", name, "--source-password-file", password];
    follow(flavor, &server, &server.url(), &as_user("redwind"));

    assert_says(&refused(&server.url(), &as_user("poor")), &["psync", "ACL SETUSER"]);
    std::fs::write(folder.path().join("password"), "wrong").unwrap();
    assert_says(&refused(&server.url(), &as_user("redwind")), &["password"]);
}
on_each_flavor!(a_user_with_the_rights_of_the_readme_is_enough: redis_6_2 redis_7_0 redis_8_6 valkey_9);

/// A server with a password, and an agent without.
fn a_password_that_is_missing_is_named(flavor: &Flavor) {
    let server = Server::start_with(flavor, ServerOptions::default().config("requirepass secret"));
    assert_says(&refused(&server.url(), &[]), &["password"]);
}
on_each_flavor!(a_password_that_is_missing_is_named: redis_6_2 redis_7_0 valkey_9);

fn a_unix_socket_is_a_source(flavor: &Flavor) {
    let server = Server::start(flavor);
    follow(flavor, &server, &format!("unix://{}", server.socket().display()), &[]);
}
on_each_flavor!(a_unix_socket_is_a_source: redis_7_0 valkey_9);

/// Both sides show a certificate.
fn a_source_behind_tls(flavor: &Flavor) {
    let files = Certificates::create();
    let port = free_port();
    let options = ServerOptions::default()
        .config(format!("tls-port {port}"))
        .config(format!("tls-cert-file {}", files.path("server.pem")))
        .config(format!("tls-key-file {}", files.path("server.key")))
        .config(format!("tls-ca-cert-file {}", files.path("ca.pem")))
        .config("tls-auth-clients yes");
    let server = Server::start_with(flavor, options);
    let [ca, cert, key] = ["ca.pem", "client.pem", "client.key"].map(|name| files.path(name));
    let url = format!("rediss://localhost:{port}");
    let identity = ["--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key];
    follow(flavor, &server, &url, &identity);

    // each mistake has its words
    let other_authority = Certificates::create();
    let not_trusted = refused(&url, &["--tls-ca", &other_authority.path("ca.pem")]);
    assert_says(&not_trusted, &["certificate"]);
    let plain_port = format!("rediss://{}", server.addr());
    assert_says(&refused(&plain_port, &["--tls-ca", &ca]), &["TLS"]);
    let tls_port = format!("redis://127.0.0.1:{port}");
    assert_says(&refused(&tls_port, &[]), &["rediss://"]);
}
on_each_flavor!(a_source_behind_tls: redis_7_0 redis_8_6 valkey_9);
