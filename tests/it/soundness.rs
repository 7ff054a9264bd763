//! An archive proves itself: one agent writes it, and it can be read without redwind.

use std::path::Path;
use std::process::Command;

use redwind_tests::redwind::Agent;
use redwind_tests::server::{Server, ServerOptions};
use redwind_tests::servers::{Flavor, skip_without};
use redwind_tests::story::{Following, QUICK, assert_restored, patient_server, server_in_database_3};
use redwind_tests::workload::Workload;
use redwind_tests::{on_each_flavor, poll};

/// An agent that is told to take over writes, and the one before says that it is fenced.
fn the_older_of_two_agents_is_fenced(flavor: &Flavor) {
    let server = patient_server(flavor);
    let (mut cli, mut workload) = (server.cli(), Workload::any(flavor));
    let mut following = Following::start(&server);
    workload.run(&mut cli, 100);
    let before = following.mark("the first agent's", &server);
    following.flush(&server);
    let mut second = Agent::start(&server.url(), &following.store, &[QUICK, &["--takeover"]].concat());
    second.wait_ready();
    workload.run(&mut cli, 50);
    let fenced = following.agent.wait_end(poll::PATIENCE);
    assert_eq!(fenced.code(), Some(6), "{}", following.agent.log());
    assert!(following.agent.log().contains("another agent"), "{}", following.agent.log());
    std::mem::swap(&mut following.agent, &mut second);
    let after = following.mark("the second agent's", &server);
    workload.run(&mut cli, 20);
    following.wait_durable(&server);
    following.check(&before);
    following.check(&after);
    following.verify();
}
on_each_flavor!(the_older_of_two_agents_is_fenced: redis_7_0 valkey_9);

/// A reader in Python, written from the format's description alone, comes to the same.
fn python_decoder_agrees(flavor: &Flavor) {
    let python = std::env::var("REDWIND_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let usable = Command::new(&python).args(["-c", "import zstandard"]).output();
    if !usable.is_ok_and(|output| output.status.success()) {
        return skip_without("zstandard for python3", "tests/run.sh", "python_decoder_agrees");
    }
    let (server, mut cli, mut workload) = server_in_database_3(flavor);
    let following = Following::start(&server);
    workload.run(&mut cli, 200);
    let mark = following.mark("to decode", &server);
    cli.command(&["FLUSHALL"]);
    workload.run(&mut cli, 20);
    following.wait_durable(&server);
    for point in [["--offset", &mark.offset.to_string()], ["--time", &mark.at.to_string()]] {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("data");
        let decoder = Path::new(env!("CARGO_MANIFEST_DIR")).join("decoder/decode.py");
        let output =
            Command::new(&python).arg(decoder).arg(following.archive()).arg(&folder).args(point).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        if point[0] == "--time" && output.status.code() == Some(3) {
            // a busy machine blurs the time; then redwind refuses it as well
            let _ = following.plan(point[1]).expect(3);
            continue;
        }
        assert!(output.status.success(), "{point:?}: {stderr}");
        let restored = Server::start_with(flavor, ServerOptions::restored_aof(&folder));
        assert_restored(&mark, &restored);
    }
}
on_each_flavor!(python_decoder_agrees: redis_7_0 redis_8_6 valkey_9 falkordb);
