//! Who may do what, and what is left of it: TLS, tokens, the audit log.

use std::path::Path;

use redwind_tests::certificates::Certificates;
use redwind_tests::files::below;
use redwind_tests::objects::ObjectServer;
use redwind_tests::process::free_port;
use redwind_tests::redwind::{
    Agent, Finished, Stage, StoreAddress, http_get, http_get_with, restore, run, run_with, verify,
};
use redwind_tests::server::{Server, ServerOptions, text};
use redwind_tests::servers::Flavor;
use redwind_tests::story::{Following, QUICK, patient_server};
use redwind_tests::{on_each_flavor, poll};
use serde_json::Value as Json;

/// The audit log of the only source, oldest first.
fn audit_log(following: &Following) -> Vec<Json> {
    let listed = run(Some(&following.store), &["list", "--audit", "--json"]).expect(0).json();
    let log = listed["sources"][0]["audit"].as_array().unwrap();
    log.iter().map(|recorded| recorded["entry"].clone()).collect()
}

/// Every restore is in the log, but for dry runs; where nothing can be written there, it is done all
/// the same.
fn a_restore_is_in_the_audit_log(flavor: &Flavor) {
    let server = patient_server(flavor);
    let mut following = Following::start(&server);
    server.cli().command(&["SET", "key", "value"]);
    following.wait_durable(&server);
    assert_eq!(following.agent.stop().code(), Some(0));
    let _ = following.plan("latest").expect(0);
    assert!(audit_log(&following).is_empty(), "nothing was done yet");

    assert_eq!(following.restored("latest").get("key"), "value");
    let log = audit_log(&following);
    assert_eq!(log.len(), 1, "{log:?}");
    let event = &log[0]["event"];
    assert_eq!((event["what"].as_str(), event["target"].as_str()), (Some("restore"), Some("latest")), "{event}");
    assert_eq!(event["destination"], "aof", "{event}");
    assert!(log[0]["by"]["pid"].is_number() && log[0]["by"]["host"].is_string(), "{}", log[0]);
    let shown = run(Some(&following.store), &["list", "--audit"]).expect(0).stdout;
    assert!(shown.contains("restore of latest"), "{shown}");
    following.verify();

    // a flipped bit is found, and named
    let folder = following.archive().join("audit");
    let entry = below(&folder).swap_remove(0);
    let sound = std::fs::read(&entry).unwrap();
    let mut damaged = sound.clone();
    damaged[sound.len() / 2] ^= 1;
    std::fs::write(&entry, &damaged).unwrap();
    let found = verify(&following.store).expect(4).stdout;
    assert!(found.contains(&format!("audit/{}", entry.file_name().unwrap().to_str().unwrap())), "{found}");
    std::fs::remove_dir_all(&folder).unwrap();

    // no folder can be made in its place
    std::fs::write(&folder, b"in the way").unwrap();
    let to = tempfile::tempdir().unwrap();
    let restored = restore(&following.store, "latest", &["--aof", to.path().join("data").to_str().unwrap()]).expect(0);
    assert!(restored.stderr.contains("not in the archive's audit log"), "{}", restored.stderr);
}
on_each_flavor!(a_restore_is_in_the_audit_log: redis_7_0 valkey_9);

const READER: &str = "reader-0123456789abcdef";
const OPERATOR: &str = "operator-0123456789abcdef";

fn assert_refused(ended: Finished, words: &str) {
    let ended = ended.expect(1);
    assert!(ended.stderr.contains(words), "{words} in {}", ended.stderr);
}

/// An agent that asks for a certificate and a token, and everything that is missing or wrong in turn.
fn tls_and_tokens_guard_an_agent(flavor: &Flavor) {
    let files = Certificates::create();
    let [read_tokens, operator_tokens] = ["read.tokens", "operator.tokens"].map(|name| files.path(name));
    std::fs::write(&read_tokens, READER).unwrap();
    std::fs::write(&operator_tokens, OPERATOR).unwrap();
    let [ca, cert, key, client_cert, client_key] =
        ["ca.pem", "server.pem", "server.key", "client.pem", "client.key"].map(|name| files.path(name));
    let guards = [
        ["--listen-cert", &cert],
        ["--listen-key", &key],
        ["--listen-client-ca", &ca],
        ["--read-token-file", &read_tokens],
        ["--operator-token-file", &operator_tokens],
    ];
    let server = patient_server(flavor);
    let following = Following::start_unready(&server, &[QUICK, guards.as_flattened()].concat());
    let agent = format!("https://{}", following.agent.grpc());
    let trust = ["--tls-ca", &ca];
    let identity = [trust.as_slice(), &["--tls-cert", &client_cert, "--tls-key", &client_key]].concat();
    let ask = |command: &str, agent: &str, more: &[&str], token: Option<&str>| {
        let env = token.map(|token| ("REDWIND_TOKEN", token));
        run_with(None, &[&[command, "--json", "--agent", agent], more].concat(), env.as_slice())
    };
    poll::until_true("a reader sees that the agent streams", || {
        let told = ask("status", &agent, &identity, Some(READER));
        told.code == Some(0) && told.json()["sources"][0]["state"] == "streaming"
    });

    assert_refused(ask("status", &agent, &identity, None), "a token is required");
    assert_refused(ask("status", &agent, &identity, Some("guessed-0123456789abcdef")), "not known");
    assert_refused(ask("status", &agent, &trust, Some(READER)), "a client certificate is required");
    assert_refused(ask("status", &agent, &[], Some(READER)), "certificate");
    let plain = format!("http://{}", following.agent.grpc());
    assert_refused(ask("status", &plain, &[], Some(READER)), "https://");
    let metrics = http_get(following.agent.http(), "/metrics");
    assert!(metrics.is_none_or(|(_, page)| !page.contains("redwind_")), "metrics were told without TLS");
    assert_refused(ask("snapshot", &agent, &identity, Some(READER)), "only an operator");
    assert!(audit_log(&following).is_empty(), "nothing was done yet");

    let _ = ask("snapshot", &agent, &identity, Some(OPERATOR)).expect(0);
    let log =
        poll::until("the request is in the audit log", || Some(audit_log(&following)).filter(|log| !log.is_empty()));
    let event = &log[0]["event"];
    assert_eq!((event["what"].as_str(), event["role"].as_str()), (Some("snapshot"), Some("operator")), "{event}");
    assert!(event["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{event}");

    // taken away, it counts no more
    std::fs::write(&read_tokens, "other-0123456789abcdef").unwrap();
    poll::until_true("the old token is refused", || ask("status", &agent, &identity, Some(READER)).code == Some(1));
    let other = || ask("status", &agent, &identity, Some("other-0123456789abcdef"));
    let _ = other().expect(0);
    // nor does the last one, while a renewed certificate does not fit its key yet
    std::fs::copy(&client_cert, &cert).unwrap();
    std::fs::write(&read_tokens, "").unwrap();
    poll::until_true("the last token is refused", || other().code == Some(1));
    assert_refused(other(), "not known");
    following.verify();
}
on_each_flavor!(tls_and_tokens_guard_an_agent: redis_7_0);

/// The newest objects are gone from the bucket: it cannot show that, but the agent knows.
fn verify_asks_the_agent_what_is_durable(flavor: &Flavor) {
    let server = patient_server(flavor);
    let following = Following::start(&server);
    let verify_with = |store, agent: &str| run(store, &["verify", "--agent", agent]);
    let agent = following.agent.grpc().to_string();
    for value in ["one", "two", "three"] {
        server.cli().command(&["SET", "key", value]);
        following.wait_durable(&server);
    }
    let _ = verify_with(Some(&following.store), &agent).expect(0);

    let newest = below(&following.archive().join("log")).pop().unwrap();
    std::fs::remove_file(&newest).unwrap();
    following.verify();
    let found = verify_with(Some(&following.store), &agent).expect(4).stdout;
    assert!(
        found.contains("DAMAGE default/history/") && found.contains("newest objects of its log are lost"),
        "{found}"
    );

    // an agent of another archive cannot tell, nor can one that is not there
    let other = Following::start(&server);
    let refused = verify_with(Some(&other.store), &agent).expect(2).stderr;
    assert!(refused.contains("writes archive"), "{refused}");
    let _ = verify_with(Some(&following.store), &format!("127.0.0.1:{}", free_port())).expect(1);
}
on_each_flavor!(verify_asks_the_agent_what_is_durable: redis_7_0 valkey_9);

/// The policies that docs/security.md gives are enough, and each leaves out what it should.
fn the_policies_of_the_docs_are_enough(flavor: &Flavor) {
    let docs = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md")).unwrap();
    let policies: Vec<&str> = docs.split("```json").skip(1).map(|block| block.split("```").next().unwrap()).collect();
    let [writing, reading] = policies[..] else { panic!("{} policies in the docs", policies.len()) };
    let without_audit: String =
        reading.lines().filter(|line| !line.contains("/audit/")).map(|line| format!("{line}\n")).collect();
    let story = "the_policies_of_the_docs_are_enough";
    let Some((_objects, users)) = ObjectServer::start_guarded(&[writing, reading, &without_audit], story) else {
        return;
    };
    let [agents, restorers, readers] = &users[..] else { panic!("three users") };

    let server = patient_server(flavor);
    let mut agent = Agent::start(&server.url(), agents, QUICK);
    agent.wait_ready();
    server.cli().command(&["SET", "key", "value"]);
    agent.wait_offset(Stage::Durable, server.cli().offset());
    let _ = agent.snapshot().expect(0);
    assert_eq!(agent.stop().code(), Some(0), "{}", agent.log());
    agent.start_again();
    agent.wait_ready();
    assert!(!agent.log().contains("AccessDenied"), "{}", agent.log());
    let checked = run(Some(agents), &["check"]).expect(0).stdout;
    assert!(checked.contains("delete") && checked.contains("needs no right to delete"), "{checked}");

    let to = tempfile::tempdir().unwrap();
    let restored = |user: &StoreAddress, name: &str| {
        let folder = to.path().join(name);
        let restored = restore(user, "latest", &["--aof", folder.to_str().unwrap()]).expect(0);
        let server = Server::start_with(flavor, ServerOptions::restored_aof(&folder));
        assert_eq!(text(&server.cli().command(&["GET", "key"])), "value");
        restored.stderr
    };
    assert!(!restored(restorers, "signed").contains("audit log"));
    assert!(restored(readers, "unsigned").contains("not in the archive's audit log"));
    for reader in [restorers, readers] {
        let _ = verify(reader).expect(0);
        let log = run(Some(reader), &["list", "--audit", "--json"]).expect(0).json();
        let events = log["sources"][0]["audit"].as_array().unwrap().clone();
        let what: Vec<&str> = events.iter().filter_map(|found| found["entry"]["event"]["what"].as_str()).collect();
        assert_eq!(what, ["snapshot", "restore"], "{log}");
        // an agent with these could not write
        let mut refused = Agent::start(&server.url(), reader, &["--takeover"]);
        assert_eq!(refused.wait_end(poll::PATIENCE).code(), Some(5), "{}", refused.log());
    }
}
on_each_flavor!(the_policies_of_the_docs_are_enough: redis_7_0);

const CANARY: &str = "canary-";

/// Whatever a story wrote, by what wrote it.
#[derive(Default)]
struct Written(Vec<(String, Vec<u8>)>);

impl Written {
    fn take(&mut self, by: &str, ended: Finished) -> Finished {
        self.0.push((format!("stdout of {by}"), ended.stdout.clone().into_bytes()));
        self.0.push((format!("stderr of {by}"), ended.stderr.clone().into_bytes()));
        ended
    }

    fn folder(&mut self, folder: &Path) {
        for path in below(folder) {
            // the lock of a spool may go at any time
            self.0.push((path.display().to_string(), std::fs::read(&path).unwrap_or_default()));
        }
    }

    fn assert_no_canary(&self) {
        for (what, bytes) in &self.0 {
            let shown = String::from_utf8_lossy(bytes);
            let line = shown.lines().find(|line| line.contains(CANARY));
            assert!(line.is_none(), "a secret in {what}: {}", line.unwrap_or_default());
        }
    }
}

/// Secrets from the environment and from files are nowhere to be seen, whether things go well or not.
fn no_secret_is_ever_shown(flavor: &Flavor) {
    const PASSWORD: &str = "canary-password-0123456789";
    const READ_TOKEN: &str = "canary-reader-0123456789";
    const OPERATOR_TOKEN: &str = "canary-operator-0123456789";
    /// All that our own parts have to say, and the libraries through which secrets pass.
    const EVERYTHING: &str = "trace,hyper=trace,hyper_util=trace,h2=trace,tower=trace,tonic=trace,rustls=trace,object_store=trace,reqwest=trace";
    let folder = tempfile::tempdir().unwrap();
    let operator_file = folder.path().join("operator.tokens");
    std::fs::write(&operator_file, OPERATOR_TOKEN).unwrap();
    let operator_file = operator_file.to_str().unwrap();
    let acl = format!("user redwind on >{PASSWORD} ~* &* +@all");
    let server = Server::start_with(flavor, ServerOptions::default().config(acl));
    let env = [
        ("REDWIND_SOURCE_USER", "redwind"),
        ("REDWIND_SOURCE_PASSWORD", PASSWORD),
        ("REDWIND_READ_TOKEN", READ_TOKEN),
        ("REDWIND_TOKEN", READ_TOKEN),
        ("AWS_ACCESS_KEY_ID", "canary-access-key"),
        ("AWS_SECRET_ACCESS_KEY", "canary-secret-key"),
        ("AWS_SESSION_TOKEN", "canary-session-token"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
    ];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let archive = folder.path().join("archive");
    let store = StoreAddress { url: format!("file://{}", archive.display()), env: env.clone() };
    let mut written = Written::default();

    let guards = ["--operator-token-file", operator_file, "--log-level", EVERYTHING];
    let mut agent = Agent::start(&server.url(), &store, &[QUICK, &guards].concat());
    agent.wait_ready();
    let grpc = agent.grpc().to_string();
    let mut tell = |arguments: &[&str], code: i32| {
        let ended = written.take(
            &arguments.join(" "),
            run(Some(&store).filter(|_| !["status", "snapshot"].contains(&arguments[0])), arguments),
        );
        ended.expect(code)
    };
    let _ = tell(&["check", "--source", &server.url()], 0);
    let _ = tell(&["verify", "--agent", &grpc], 0);
    let into = Server::start_with(flavor, ServerOptions::default().config(format!("requirepass {PASSWORD}")));
    let _ = tell(&["restore", "--to", "latest", "--aof", folder.path().join("data").to_str().unwrap()], 0);
    let _ = tell(&["list", "--audit"], 0);
    let _ = tell(&["agent", "--help"], 0);
    let _ = tell(&["status", "--help"], 0);
    let token = [("REDWIND_TOKEN", OPERATOR_TOKEN)];
    for (arguments, env, code) in [
        (&["status", "--json", "--agent", &grpc][..], &[("REDWIND_TOKEN", READ_TOKEN)][..], 0),
        (&["snapshot", "--agent", &grpc], &token, 0),
        (&["snapshot", "--agent", &grpc], &[("REDWIND_TOKEN", READ_TOKEN)], 1),
        (&["status", "--agent", &grpc], &[("REDWIND_TOKEN", "canary-unknown-0123456789")], 1),
        (&["status", "--agent", "http://192.0.2.1:7"], &token, 2),
        (&["status", "--agent", &grpc, "--token", "canary-on-the-command-line"], &[], 2),
    ] {
        let ended = written.take(&arguments.join(" "), run_with(None, arguments, env));
        let _ = ended.expect(code);
    }
    let secret_url = format!("redis://:{PASSWORD}@{}", into.addr());
    for (url, code) in [(secret_url, 0), (format!("redis://:canary-wrong@{}", into.addr()), 1)] {
        let arguments = ["restore", "--to", "latest", "--force", "--into"];
        // in the environment, and on the command line, which warns
        let quiet = run_with(Some(&store), &arguments[..4], &[("REDWIND_INTO", &url)]);
        assert!(!quiet.stderr.contains("process list"), "{}", quiet.stderr);
        let _ = written.take("restore --into", quiet).expect(code);
        let warned = run(Some(&store), &[&arguments[..], &[&url]].concat());
        assert!(warned.stderr.contains("visible in the process list"), "{}", warned.stderr);
        let _ = written.take("restore --into", warned).expect(code);
    }
    let wrong = [("REDWIND_SOURCE_PASSWORD", "canary-wrong-password")];
    let ended = run_with(
        Some(&StoreAddress { env: Vec::new(), ..store.clone() }),
        &["check", "--source", &server.url(), "--source-user", "redwind"],
        &wrong,
    );
    let _ = written.take("check with a wrong password", ended).expect(7);
    let bucket = StoreAddress { url: "s3://bucket/prefix".to_owned(), env };
    let _ = written.take("list of a store that is not there", run(Some(&bucket), &["list"])).expect(5);

    for page in ["/metrics", "/healthz", "/readyz"] {
        let told = http_get_with(agent.http(), page, &format!("Authorization: Bearer {READ_TOKEN}\r\n"));
        let (status, body) = told.expect("the agent answers");
        assert_eq!(status, 200, "{page}");
        written.0.push((page.to_owned(), body.into_bytes()));
    }
    let cmdline = std::fs::read(format!("/proc/{}/cmdline", agent.pid())).unwrap();
    written.0.push(("the process list".to_owned(), cmdline));
    written.folder(&agent.spool());
    assert_eq!(agent.stop().code(), Some(0), "{}", agent.log());
    assert!(agent.log().contains("TRACE"), "nothing was told at that level");
    written.0.push(("the agent's log".to_owned(), agent.log().into_bytes()));
    written.folder(&archive);
    written.assert_no_canary();
}
on_each_flavor!(no_secret_is_ever_shown: redis_7_0);
