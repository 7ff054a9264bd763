//! Whatever ends an agent or holds it up: nothing that was promised is lost, and what could not be
//! archived is shown.

use std::time::{Duration, Instant};

use redwind_tests::mark::{Mark, now};
use redwind_tests::oracle::capture_suspended;
use redwind_tests::proxy::{Ending, Flow, Proxy};
use redwind_tests::redwind::{Stage, restore};
use redwind_tests::server::{Server, ServerOptions, array, number};
use redwind_tests::servers::{Flavor, Vendor, Version};
use redwind_tests::story::{Following, QUICK, assert_lasting_same, patient_server};
use redwind_tests::workload::{Workload, noise};
use redwind_tests::{on_each_flavor, poll};
use serde_json::Value as Json;

/// kill -9 under load: the spool has what the store has not, the server still has the rest.
fn agent_killed_and_started_again_continues(flavor: &Flavor) {
    let server = patient_server(flavor);
    let (mut cli, mut workload) = (server.cli(), Workload::any(flavor));
    workload.run(&mut cli, 100);
    let mut following = Following::start(&server);
    workload.run(&mut cli, 100);
    let before = following.mark("before the kill", &server);
    for _ in 0..3 {
        workload = following.kill_under_load(&server, workload);
    }
    let after = following.mark("after three kills", &server);
    workload.run(&mut cli, 30);
    following.wait_durable(&server);
    let listed = following.list();
    assert_eq!(listed["gaps"], Json::Array(Vec::new()));
    assert_eq!(listed["windows"].as_array().map(Vec::len), Some(1), "{listed}");
    let full = following.agent.metric("redwind_full_resyncs_total");
    assert!(full.is_none_or(|count| count == 0.0), "{full:?}");
    for mark in [&before, &after] {
        if flavor.is_7_0() {
            following.check(mark);
        } else {
            // what was read late expires late, where the stream carries relative expiries
            let restored = following.restored(&format!("offset:{}", mark.offset));
            let held = capture_suspended(&restored.server);
            assert_lasting_same(&mark.dataset, &held, flavor);
        }
    }
    following.verify();
}
on_each_flavor!(agent_killed_and_started_again_continues: redis_6_2 redis_7_0 redis_8_6 valkey_9 falkordb);

/// kill -9 in the middle of the first snapshot: nothing of it counts, and another one is taken.
fn agent_killed_during_its_first_snapshot_takes_another(flavor: &Flavor) {
    let server = patient_server(flavor);
    let mut cli = server.cli();
    noise(&mut cli, 0..16);
    let proxy = Proxy::start(server.addr());
    proxy.set_flow(Flow::Throttle(4 << 20));
    let mut following = Following::start_at(flavor, &format!("redis://{}", proxy.addr()), QUICK);
    poll::until_true("the snapshot is under way", || following.snapshot_received().is_some_and(|bytes| bytes > 1e6));
    cli.command(&["SET", "written", "during the snapshot"]);
    following.agent.wait_offset(Stage::Received, cli.offset());
    following.agent.kill9();
    let _ = following.plan("latest").expect(3);
    proxy.set_flow(Flow::Free);
    following.agent.start_again();
    following.wait_restorable();
    let mark = following.mark("after the second snapshot", &server);
    following.flush(&server);
    following.check(&mark);
    following.verify();
}
on_each_flavor!(agent_killed_during_its_first_snapshot_takes_another: redis_6_2 redis_7_0 valkey_9);

/// A store that is away for longer than the spool lasts: the agent leaves the server alone, and comes
/// back for what the server still has.
fn a_full_spool_lets_go_of_the_server(flavor: &Flavor) {
    let server = patient_server(flavor);
    let small = ["--segment-size", "1MiB", "--spool-size", "32MiB"];
    let following = Following::start_with(&server, &[QUICK, &small].concat());
    let mut cli = server.cli();
    let away = following.take_the_store_away();
    noise(&mut cli, (0..100).map(|n| n % 10));
    poll::until_true("the agent has left", || server.info("replication", "connected_slaves").as_deref() == Some("0"));
    let received = following.agent.offset(Stage::Received).unwrap();
    assert!(received < cli.offset(), "it took no more than the spool holds");
    away.give_back();
    following.flush(&server);
    let mark = following.mark("when the store was back", &server);
    following.flush(&server);
    assert_eq!(following.list()["gaps"], Json::Array(Vec::new()));
    following.check(&mark);
    following.verify();
}
on_each_flavor!(a_full_spool_lets_go_of_the_server: redis_7_0 valkey_9);

/// When the machine of the agent burns down, what WAIT has confirmed is in the store.
fn what_wait_confirmed_survives_the_loss_of_the_spool(flavor: &Flavor) {
    let server = patient_server(flavor);
    let mut cli = server.cli();
    let mut following = Following::start_with(&server, &["--flush-interval", "60s"]);
    let local = match flavor.vendor {
        Vendor::Redis => flavor.version >= Version(7, 2, 0),
        Vendor::Valkey => true,
    };
    for n in 0..10 {
        cli.command(&["SET", "confirmed", &n.to_string()]);
        let confirmed = cli.command(&["WAIT", "1", "20000"]);
        assert_eq!(number(&confirmed), 1, "WAIT {n}");
        if local {
            cli.command(&["INCR", "synced"]);
            let confirmed = cli.command(&["WAITAOF", "0", "1", "20000"]);
            assert_eq!(number(&array(&confirmed)[1]), 1, "WAITAOF {n}");
        }
    }
    following.agent.kill9();
    std::fs::remove_dir_all(following.agent.spool()).unwrap();
    let restored = following.restored("latest");
    assert_eq!(restored.get("confirmed"), "9");
    if local {
        assert_eq!(restored.get("synced"), "10");
    }
    // the server still has what the store has not
    cli.command(&["SET", "confirmed", "later"]);
    following.agent.start_again_with(&["--takeover"]);
    following.agent.wait_ready();
    cli.command(&["INCR", "after"]);
    assert_eq!(number(&cli.command(&["WAIT", "1", "20000"])), 1);
    assert_eq!(following.list()["gaps"], Json::Array(Vec::new()));
    assert_eq!(following.restored("latest").get("confirmed"), "later");
    following.verify();
}
on_each_flavor!(what_wait_confirmed_survives_the_loss_of_the_spool: redis_6_2 redis_7_0 redis_8_6 valkey_9);

/// More is written while the agent is down than the server keeps: a gap, with its cause.
fn history_that_cannot_be_continued_leaves_a_gap(flavor: &Flavor) {
    let server = Server::start_with(flavor, ServerOptions::default().config("repl-backlog-size 16kb"));
    let (mut cli, mut workload) = (server.cli(), Workload::any(flavor));
    workload.run(&mut cli, 50);
    let mut following = Following::start(&server);
    cli.command(&["SET", "side", "before"]);
    let before = following.mark("before the gap", &server);
    cli.command(&["SET", "side", "nearly"]);
    following.wait_durable(&server);
    following.agent.kill9();

    workload.run(&mut cli, 20);
    cli.command(&["SET", "large", &"x".repeat(1 << 20)]);
    cli.command(&["DEL", "large"]);
    let (inside, inside_offset) = (now(), cli.offset());
    cli.command(&["SET", "side", "after"]);
    following.agent.start_again();
    following.wait_restorable();
    let after = following.mark("after the gap", &server);
    cli.command(&["SET", "side", "later"]);
    following.wait_durable(&server);

    let listed = following.list();
    let gaps = listed["gaps"].as_array().unwrap();
    assert_eq!(gaps.len(), 1, "{listed}");
    assert_eq!(gaps[0]["cause"], "backlog_lost", "{listed}");
    assert_eq!(listed["windows"].as_array().map(Vec::len), Some(2), "{listed}");
    let refused = following.plan(&inside.to_string()).expect(3);
    for edge in ["from", "to"] {
        let edge = gaps[0][edge].as_str().unwrap();
        assert!(refused.stderr.contains(edge), "{edge} is offered: {}", refused.stderr);
    }
    let _ = following.plan(&format!("offset:{inside_offset}")).expect(3);
    following.check(&before);
    following.check(&after);
    following.verify();
}
on_each_flavor!(history_that_cannot_be_continued_leaves_a_gap: redis_6_2 redis_7_0 redis_8_6 valkey_9 falkordb);

/// A server that comes back empty is another history, even when its offsets look alike.
fn a_server_that_lost_its_data_begins_another_history(flavor: &Flavor) {
    let mut server = Server::start(flavor);
    let mut following = Following::start(&server);
    server.cli().command(&["SET", "side", "before"]);
    let before = following.mark("before the crash", &server);
    server.cli().command(&["SET", "side", "nearly"]);
    following.wait_durable(&server);
    server.kill9();
    server.start_again();
    // the agent looks again by itself
    poll::until_true("another history can be restored", || {
        following.list()["windows"].as_array().is_some_and(|windows| windows.len() == 2)
    });
    server.cli().command(&["SET", "side", "after"]);
    following.wait_restorable();
    let after = following.mark("after the crash", &server);
    server.cli().command(&["SET", "side", "later"]);
    following.wait_durable(&server);
    let time = |mark: &Mark| mark.at.to_string();
    assert_eq!(following.restored(&time(&before)).get("side"), "before");
    assert_eq!(following.restored(&time(&after)).get("side"), "after");
    assert_eq!(following.list()["gaps"].as_array().map(Vec::len), Some(1));
    following.verify();
}
on_each_flavor!(a_server_that_lost_its_data_begins_another_history: redis_6_2 redis_7_0 valkey_9);

/// Stopped longer than half a second, the agent does not know when things happened, and says so.
fn agent_stopped_for_long_leaves_a_blur(flavor: &Flavor) {
    let server = patient_server(flavor);
    let (mut cli, mut workload) = (server.cli(), Workload::any(flavor));
    let following = Following::start(&server);
    workload.run(&mut cli, 100);
    let before = following.mark("before the stop", &server);
    following.agent.pause();
    let stopped = Instant::now();
    while stopped.elapsed() < Duration::from_millis(800) {
        workload.step(&mut cli);
    }
    // nobody receives it now
    let inside = Mark::take("while it was stopped", &server, |_| ());
    while stopped.elapsed() < Duration::from_millis(1600) {
        workload.step(&mut cli);
    }
    following.agent.go_on();
    following.flush(&server);
    let after = following.mark("after the stop", &server);
    workload.run(&mut cli, 50);
    following.wait_durable(&server);

    let listed = following.list();
    let at = inside.at.to_string();
    let blurs = listed["blurs"].as_array().unwrap();
    let edges = |blur: &Json| ["from", "to"].map(|edge| blur[edge].as_str().unwrap_or_default().to_owned());
    let blur = blurs.iter().map(edges).find(|[from, to]| *from < at && at < *to);
    let [from, to] = blur.unwrap_or_else(|| panic!("{at} is in a blur: {listed}"));
    let refused = following.plan(&at).expect(3);
    for edge in [&from, &to] {
        assert!(refused.stderr.contains(edge), "{edge} is offered: {}", refused.stderr);
        let _ = restore(&following.store, edge, &["--dry-run"]).expect(0);
    }
    following.check_offset(&inside);
    following.check(&before);
    following.check(&after);
    following.verify();
}
on_each_flavor!(agent_stopped_for_long_leaves_a_blur: redis_7_0 redis_8_6 valkey_9);

/// Cut off in the middle of anything, again and again: the stream is taken up where it was left.
fn a_link_that_breaks_again_and_again_loses_nothing(flavor: &Flavor) {
    let server = patient_server(flavor);
    let (mut cli, mut workload) = (server.cli(), Workload::any(flavor));
    workload.run(&mut cli, 100);
    let proxy = Proxy::start(server.addr());
    let mut following = Following::start_at(flavor, &format!("redis://{}", proxy.addr()), QUICK);
    following.wait_restorable();
    for (n, ending) in [Ending::Reset, Ending::Close, Ending::Reset].into_iter().enumerate() {
        let connections = proxy.accepted();
        proxy.cut_after(1000 + 7777 * n as u64, ending);
        workload.run(&mut cli, 200);
        poll::until_true("the link is cut", || !proxy.cut_pending());
        proxy.end_all(ending);
        poll::until_true("the agent is back", || proxy.accepted() > connections);
    }
    following.flush(&server);
    let mark = following.mark("after the cuts", &server);
    workload.run(&mut cli, 20);
    following.wait_durable(&server);
    assert_eq!(following.list()["gaps"], Json::Array(Vec::new()));
    following.check(&mark);
    following.verify();
}
on_each_flavor!(a_link_that_breaks_again_and_again_loses_nothing: redis_7_0 redis_8_6 valkey_9);
