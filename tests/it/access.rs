//! Who may do what, and what is left of it: TLS, tokens, the audit log.

use std::path::{Path, PathBuf};

use redwind_tests::certificates::Certificates;
use redwind_tests::process::free_port;
use redwind_tests::redwind::{Finished, http_get, restore, run, run_with, verify};
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
    let entry = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
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
    let _ = ask("status", &agent, &identity, Some("other-0123456789abcdef")).expect(0);
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

    let mut pages = files(&following.archive().join("log"));
    let newest = files(&pages.pop().unwrap()).pop().unwrap();
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

/// What lies in a folder, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}
