//! A polite guest: what the agent must not do to the server that it follows, and how it leaves.

use std::time::{Duration, Instant};

use redwind_tests::oracle::{capture_live, wait_level};
use redwind_tests::redwind::Stage;
use redwind_tests::server::{Server, ServerOptions};
use redwind_tests::servers::Flavor;
use redwind_tests::story::{Following, QUICK, assert_lasting_same, patient_server};
use redwind_tests::workload::Workload;
use redwind_tests::{on_each_flavor, poll};
use serde_json::Value as Json;

/// Nothing but a stop or WAIT flushes within a story.
const LAZY: &[&str] = &["--flush-interval", "60s"];
/// Far below the ten seconds that a server waits for its replicas, and a supervisor for its child.
const SOON: Duration = Duration::from_secs(5);

/// SIGTERM loses nothing, though nothing had been flushed, and takes no time.
fn orderly_stop_flushes_and_exits_quickly(flavor: &Flavor) {
    let server = patient_server(flavor);
    let (mut cli, mut workload) = (server.cli(), Workload::any(flavor));
    let mut following = Following::start_with(&server, LAZY);
    workload.run(&mut cli, 200);
    let mark = following.mark("before the stop", &server);
    let started = Instant::now();
    assert_eq!(following.agent.stop().code(), Some(0), "{}", following.agent.log());
    assert!(started.elapsed() < SOON, "it took {:?}", started.elapsed());
    // its last moment is vouched for too
    following.check(&mark);
    following.verify();

    workload.run(&mut cli, 50);
    following.agent.start_again();
    following.agent.wait_ready();
    let mark = following.mark("after the restart", &server);
    assert_eq!(following.agent.stop().code(), Some(0));
    following.check_offset(&mark);
    assert_eq!(following.list()["gaps"], Json::Array(Vec::new()));
    following.verify();
}
on_each_flavor!(orderly_stop_flushes_and_exits_quickly: redis_7_0 redis_8_6 valkey_9);

/// Nor does a stop take long when the store takes nothing: the spool keeps it.
fn a_stop_without_a_store_keeps_the_spool(flavor: &Flavor) {
    let mut server = patient_server(flavor);
    let mut following = Following::start_with(&server, LAZY);
    server.cli().command(&["SET", "key", "kept"]);
    following.agent.wait_offset(Stage::Received, server.cli().offset());
    let away = following.take_the_store_away();
    let started = Instant::now();
    assert_eq!(following.agent.stop().code(), Some(0), "{}", following.agent.log());
    assert!(started.elapsed() < 3 * SOON, "it took {:?}", started.elapsed());
    away.give_back();
    server.kill9();
    following.agent.start_again();
    poll::until_true("what was kept is stored", || {
        let restored = following.plan("latest");
        restored.code == Some(0) && following.restored("latest").get("key") == "kept"
    });
    following.verify();
}
on_each_flavor!(a_stop_without_a_store_keeps_the_spool: redis_7_0);

/// From 7.0 on a server waits for its replicas to acknowledge everything before it ends.
fn server_shutdown_is_not_delayed(flavor: &Flavor) {
    let mut server = patient_server(flavor);
    let (mut cli, mut workload) = (server.cli(), Workload::any(flavor));
    let mut following = Following::start_with(&server, LAZY);
    workload.run(&mut cli, 100);
    cli.command(&["SELECT", "0"]);
    cli.command(&["SET", "last", "words"]);
    let held = capture_live(&server);
    let started = Instant::now();
    server.shutdown(false);
    assert!(started.elapsed() < SOON, "it took {:?}", started.elapsed());
    assert_eq!(following.agent.stop().code(), Some(0), "{}", following.agent.log());
    let restored = following.restored("latest");
    assert_eq!(restored.get("last"), "words");
    let dataset = redwind_tests::oracle::capture_suspended(&restored.server);
    assert_lasting_same(&held, &dataset, flavor);
    following.verify();
}
on_each_flavor!(server_shutdown_is_not_delayed: redis_6_2 redis_7_0 redis_8_6 valkey_9);

/// FAILOVER hands over to a replica that has acknowledged everything: never to us. And when it has
/// handed over to another, the history goes on.
fn failover_never_chooses_us(flavor: &Flavor) {
    let server = patient_server(flavor);
    let mut cli = server.cli();
    let following = Following::start(&server);
    let state = || server.info("replication", "master_failover_state");
    for n in 0..3 {
        cli.command(&["SET", "key", &n.to_string()]);
        // refused at once, or given up
        cli.try_command(&["FAILOVER", "TIMEOUT", "700"]).ok();
        poll::until_true("the failover is given up", || state().as_deref() == Some("no-failover"));
        assert_eq!(server.info("replication", "role").as_deref(), Some("master"), "alone with us");
    }

    let options = ServerOptions::replica_of(server.addr()).config("repl-backlog-size 256mb");
    let other = Server::start_with(flavor, options);
    wait_level(&server, &other);
    let before = following.mark("before the failover", &server);
    cli.command(&["FAILOVER", "TIMEOUT", "10000"]);
    poll::until_true("the other is the primary", || {
        other.info("replication", "role").as_deref() == Some("master") && state().as_deref() == Some("no-failover")
    });
    let (mut cli, mut workload) = (other.cli(), Workload::any(flavor));
    server.wait_synced();
    workload.run(&mut cli, 100);
    let after = following.mark("after the failover", &other);
    workload.run(&mut cli, 30);
    following.wait_durable(&other);
    let listed = following.list();
    assert_eq!(listed["gaps"], Json::Array(Vec::new()), "{listed}");
    following.check(&before);
    following.check(&after);
    following.verify();
}
on_each_flavor!(failover_never_chooses_us: redis_7_0 redis_8_6 valkey_9);

/// A store that takes nothing is no reason to leave the log unread: the server's buffers stay empty.
fn a_slow_store_costs_the_server_nothing(flavor: &Flavor) {
    let options =
        ServerOptions::default().config("repl-backlog-size 1mb").config("client-output-buffer-limit replica 4mb 2mb 1");
    let server = Server::start_with(flavor, options);
    let following = Following::start_with(&server, QUICK);
    let mut cli = server.cli();
    let away = following.take_the_store_away();
    let value = "x".repeat(100_000);
    for n in 0..300 {
        cli.command(&["SET", &format!("key:{n}"), &value]);
        following.agent.wait_offset(Stage::Received, cli.offset());
    }
    assert!(following.agent.offset(Stage::Durable).unwrap() < cli.offset(), "the store is away");
    away.give_back();
    let mark = following.mark("when the store was back", &server);
    following.flush(&server);
    assert_eq!(following.list()["gaps"], Json::Array(Vec::new()));
    following.check_offset(&mark);
    following.verify();
}
on_each_flavor!(a_slow_store_costs_the_server_nothing: redis_7_0 valkey_9);

/// PINGs alone are not worth an object each: an idle source costs next to nothing.
fn an_idle_source_makes_few_requests(flavor: &Flavor) {
    let options = ServerOptions::default().config("repl-ping-replica-period 1");
    let server = Server::start_with(flavor, options);
    let following = Following::start(&server);
    let mut cli = server.cli();
    cli.command(&["SET", "key", "value"]);
    following.wait_durable(&server);
    let stored = || following.agent.metric("redwind_segments_stored_total").expect("segments are counted");
    let requests = || -> f64 {
        let counted = following.agent.metrics().into_iter();
        counted.filter(|(name, _)| name.starts_with("redwind_store_requests_total")).map(|(_, count)| count).sum()
    };
    let (before, asked, offset) = (stored(), requests(), cli.offset());
    assert!(asked > before, "requests are counted");
    // some thirty flush intervals
    let pings = 3 * b"*1\r\n$4\r\nPING\r\n".len() as u64;
    following.agent.wait_offset(Stage::Received, offset + pings);
    assert!(stored() <= before + 1.0, "{before} segments became {}", stored());
    // a segment, a look for watchers after the writes, one for whoever has connected, and one at the term
    assert!(requests() <= asked + 4.0, "{asked} requests became {}", requests());
}
on_each_flavor!(an_idle_source_makes_few_requests: redis_7_0 valkey_9);
