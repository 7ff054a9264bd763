//! Who may do what, and what is left of it: the audit log.

use redwind_tests::on_each_flavor;
use redwind_tests::redwind::{restore, run, verify};
use redwind_tests::servers::Flavor;
use redwind_tests::story::{Following, patient_server};
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
