//! Any instant comes back: what the server held at marks is what each kind of restore gives.

use redwind_tests::mark::Mark;
use redwind_tests::oracle::{capture_live, wait_level};
use redwind_tests::proxy::{Flow, Proxy};
use redwind_tests::redwind::restore;
use redwind_tests::server::{Server, ServerOptions};
use redwind_tests::servers::Flavor;
use redwind_tests::serving::Serving;
use redwind_tests::story::{
    Following, Load, QUICK, assert_lasting_same, assert_restored, patient_server, restored_rdb, server_in_database_3,
};
use redwind_tests::workload::{Workload, noise};
use redwind_tests::{on_each_flavor, poll};

/// The product's promise, from end to end, by the binary alone.
fn restores_every_mark(flavor: &Flavor) {
    let (server, mut cli, mut workload) = server_in_database_3(flavor);
    let following = Following::start(&server);
    let mut marks = vec![following.mark("before the workload", &server)];
    for round in 1..=3 {
        workload.run(&mut cli, 150);
        marks.push(following.mark(&format!("round {round}"), &server));
    }
    // the accident
    cli.command(&["FLUSHALL"]);
    workload.run(&mut cli, 30);
    following.wait_durable(&server);

    for mark in &marks {
        following.check(mark);
    }
    let mark = &marks[2];
    let to = format!("offset:{}", mark.offset);
    assert_restored(mark, &restored_rdb(&following.store, flavor, &to).server);
    serves(&following, mark, flavor, &to);
    goes_into_a_server(&following, mark, flavor, &to);
    following.verify();
}
on_each_flavor!(restores_every_mark: every);

fn serves(following: &Following, mark: &Mark, flavor: &Flavor, to: &str) {
    let mut serving = Serving::start(&following.store, to);
    let replica = serving.replica(flavor);
    assert_restored(mark, &replica);
    replica.cli().command(&["REPLICAOF", "NO", "ONE"]);
    serving.wait_end();
}

fn goes_into_a_server(following: &Following, mark: &Mark, flavor: &Flavor, to: &str) {
    let target = Server::start(flavor);
    target.cli().command(&["SET", "in the way", "1"]);
    let url = target.url();
    let refused = restore(&following.store, to, &["--into", &url]).expect(1);
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    let done = restore(&following.store, to, &["--into", &url, "--force", "--yes", "--json"]).expect(0);
    assert_eq!(done.json()["restored"]["refused_commands"], 0);
    assert_eq!(target.info("replication", "role").as_deref(), Some("master"));
    // released, it drops what has expired since
    assert_lasting_same(&mark.dataset, &capture_live(&target), flavor);
}

/// What is written while the snapshot is being transferred is in the log, and comes on top.
fn writes_during_the_snapshot_are_restorable(flavor: &Flavor) {
    let server = patient_server(flavor);
    let (mut cli, mut workload) = (server.cli(), Workload::any(flavor));
    // noise, which takes its time, and a link on which there is time to write meanwhile
    noise(&mut cli, 0..16);
    workload.run(&mut cli, 100);
    let proxy = Proxy::start(server.addr());
    proxy.set_flow(Flow::Throttle(2 << 20));
    let mut following = Following::start_at(flavor, &format!("redis://{}", proxy.addr()), QUICK);
    poll::until_true("the snapshot is under way", || following.snapshot_received().is_some_and(|bytes| bytes > 1e6));
    let mut marks = Vec::new();
    for n in 1..=2 {
        workload.run(&mut cli, 20);
        marks.push(following.mark(&format!("number {n} during the snapshot"), &server));
    }
    assert!(following.snapshot_received().is_some(), "the snapshot is still under way");
    proxy.set_flow(Flow::Free);
    following.wait_restorable();
    marks.push(following.mark("when the snapshot was complete", &server));
    workload.run(&mut cli, 50);
    following.wait_durable(&server);
    for mark in &marks {
        following.check(mark);
    }
    following.verify();
}
on_each_flavor!(writes_during_the_snapshot_are_restorable: redis_7_0 redis_8_6 valkey_9 falkordb);

/// A replica's stream is its primary's; which database it has selected, only a snapshot can tell.
fn a_replica_is_as_good_a_source(flavor: &Flavor) {
    let primary = patient_server(flavor);
    let options = ServerOptions::replica_of(primary.addr()).config("repl-backlog-size 256mb");
    let replica = Server::start_with(flavor, options);
    let (mut cli, mut workload) = (primary.cli(), Workload::any(flavor));
    replica.wait_synced();
    workload.run(&mut cli, 100);
    cli.command(&["SELECT", "5"]);
    cli.command(&["SET", "selected", "5"]);
    wait_level(&primary, &replica);
    let following = Following::start(&replica);
    for n in 0..10 {
        // no SELECT comes before these
        cli.command(&["SET", &format!("in:{n}"), "5"]);
    }
    let first = following.mark("in a database never named", &primary);
    workload.run(&mut cli, 200);
    let second = following.mark("after the workload", &primary);
    workload.run(&mut cli, 50);
    following.wait_durable(&primary);
    following.check(&first);
    following.check(&second);
    following.verify();
}
on_each_flavor!(a_replica_is_as_good_a_source: redis_6_2 redis_7_0 redis_8_6 valkey_9 falkordb);

/// A snapshot that is asked for is another place to start from, and changes nothing else.
fn a_snapshot_can_be_asked_for(flavor: &Flavor) {
    let server = patient_server(flavor);
    let (mut cli, mut workload) = (server.cli(), Workload::any(flavor));
    let following = Following::start(&server);
    workload.run(&mut cli, 100);
    let mark = following.mark("before the second snapshot", &server);
    let load = Load::start(&server, workload);
    let _ = following.agent.snapshot().expect(0);
    workload = load.stop();
    let second = following.mark("after the second snapshot", &server);
    workload.run(&mut cli, 50);
    following.wait_durable(&server);
    poll::until_true("both snapshots are listed", || {
        following.list()["snapshots"].as_array().is_some_and(|snapshots| snapshots.len() == 2)
    });
    let status = following.agent.status().unwrap();
    let source = &status["sources"][0];
    assert!(source["durable"]["offset"].as_u64() >= Some(second.offset), "{status}");
    assert!(source["last_snapshot"].is_object() && source["gaps"] == 0, "{status}");
    following.check(&mark);
    following.check(&second);
    following.verify();
}
on_each_flavor!(a_snapshot_can_be_asked_for: redis_6_2 redis_7_2 valkey_8_1);
