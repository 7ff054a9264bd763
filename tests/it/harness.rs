//! The harness itself: the oracle must find servers equal that are, and see every kind of
//! difference; otherwise no other story here proves anything.

use std::time::Duration;

use redwind_tests::dataset::{Dataset, Tolerance};
use redwind_tests::ledger::Ledger;
use redwind_tests::mark::Mark;
use redwind_tests::oracle::{capture_live, capture_suspended, wait_level};
use redwind_tests::server::{Cli, Server, ServerOptions};
use redwind_tests::servers::Flavor;
use redwind_tests::workload::Workload;
use redwind_tests::{on_each_flavor, poll};

/// Real replication is the model of a perfect restore.
fn a_replica_is_the_same(flavor: &Flavor) {
    let primary = Server::start(flavor);
    let (mut cli, mut workload) = (primary.cli(), Workload::any(flavor));
    workload.prelude(&mut cli);
    let replica = Server::start_with(flavor, ServerOptions::replica_of(primary.addr()));
    workload.run(&mut cli, 1500);
    for round in 0..3 {
        workload.run(&mut cli, 300);
        let mark = mark_and_freeze(&format!("round {round}"), &primary, &replica);
        let dataset = capture_suspended(&replica);
        mark.dataset.assert_same(&dataset, Tolerance::of(flavor));
        primary.go_on();
    }
}
// Not FalkorDB 4.18, whose own replicas differ now and then.
on_each_flavor!(a_replica_is_the_same: redis_6_2 redis_7_0 redis_7_2 redis_7_4 redis_8_0 redis_8_6 valkey_8_0 valkey_8_1 valkey_9);

/// Takes a mark and stops the primary, so that the replica hears of nothing that expires later.
fn mark_and_freeze(label: &str, primary: &Server, replica: &Server) -> Mark {
    poll::until("nothing expires between a mark and the primary's standstill", || {
        let mark = Mark::take(label, primary, |_| wait_level(primary, replica));
        primary.pause();
        if replica.cli().offset() == mark.offset {
            return Some(mark);
        }
        primary.go_on();
        None
    })
}

/// Cut off from its primary, a replica keeps what has expired since, and so must the oracle.
fn expired_keys_are_seen(flavor: &Flavor) {
    let primary = Server::start(flavor);
    let replica = Server::start_with(flavor, ServerOptions::replica_of(primary.addr()));
    let mut cli = primary.cli();
    replica.wait_synced();
    cli.command(&["SET", "string", "value", "PX", "2500"]);
    cli.command(&["XADD", "stream", "1-1", "a", "b"]);
    cli.command(&["XGROUP", "CREATE", "stream", "group", "0"]);
    cli.command(&["XREADGROUP", "GROUP", "group", "me", "STREAMS", "stream", ">"]);
    cli.command(&["PEXPIRE", "stream", "2500"]);
    cli.command(&["HSET", "hash", "field", "value", "other", "value"]);
    if flavor.expires_hash_fields() {
        cli.command(&["HPEXPIRE", "hash", "2500", "FIELDS", "1", "field"]);
    } else {
        cli.command(&["PEXPIRE", "hash", "2500"]);
    }
    let mark = mark_and_freeze("before anything expires", &primary, &replica);
    assert_eq!(mark.dataset.len(), 3, "nothing has expired yet");
    poll::until_true("the replica hides the key", || {
        replica.cli().command(&["EXISTS", "string"]) == redis::Value::Int(0)
    });
    // the field expires a little later than the keys
    std::thread::sleep(Duration::from_millis(300));
    let after = capture_suspended(&replica);
    mark.dataset.assert_same(&after, Tolerance::of(flavor));
    primary.go_on();
}
on_each_flavor!(expired_keys_are_seen: every);

/// The two ways to describe a server agree where both can be used.
fn both_ways_agree(flavor: &Flavor) {
    let server = Server::start(flavor);
    let (mut cli, mut workload) = (server.cli(), Workload::any(flavor));
    workload.prelude(&mut cli);
    workload.run(&mut cli, 1000);
    // what is about to expire would expire between the two
    poll::until("nothing changes for a while", || {
        let [live, written] = both(&server);
        live.differences(&written, Tolerance::of(flavor)).is_empty().then_some(())
    });
}
on_each_flavor!(both_ways_agree: every);

type Change<'a> = (&'a str, &'a [&'a [&'a str]]);

const CHANGES: &[Change] = &[
    ("db0 string: another value", &[&["APPEND", "string", "!"]]),
    ("db0 string: expires", &[&["PEXPIREAT", "string", "4102444805000"]]),
    ("db0 string: expires", &[&["PERSIST", "string"]]),
    ("db0 list: another value", &[&["LPUSH", "list", "0"]]),
    ("db0 zset: another value", &[&["ZINCRBY", "zset", "0.0001", "a"]]),
    ("db0 hash: field a", &[&["HSET", "hash", "a", "2"]]),
    ("db0 set: another value", &[&["SREM", "set", "a"]]),
    ("db0 stream: another value", &[&["XADD", "stream", "2-1", "a", "b"]]),
    ("db0 stream: last id", &[&["XSETID", "stream", "3-1"]]),
    ("db0 stream: group other", &[&["XGROUP", "CREATE", "stream", "other", "0"]]),
    ("db0 stream: group group", &[&["XACK", "stream", "group", "1-1"]]),
    ("db0 stream: group group", &[&["XGROUP", "SETID", "stream", "group", "0"]]),
    ("db0 set: lost", &[&["RENAME", "set", "set2"]]),
    ("db0 new: should not be there", &[&["SET", "new", "1"]]),
    ("db5: 0 keys became 1", &[&["MOVE", "set", "5"]]),
];

/// An expiry moved by one millisecond, functions: what 6.2 has not, or not exactly.
const CHANGES_7_0: &[Change] = &[
    ("db0 string: expires", &[&["PEXPIREAT", "string", "4102444800001"]]),
    ("library one", &[&["FUNCTION", "LOAD", "REPLACE", LIBRARY_CHANGED]]),
    ("library one", &[&["FUNCTION", "DELETE", "one"]]),
];
const CHANGES_OF_FIELDS: &[Change] = &[
    ("db0 hash: field a", &[&["HPEXPIREAT", "hash", "4102444800001", "FIELDS", "1", "a"]]),
    ("db0 hash: field b", &[&["HPEXPIREAT", "hash", "4102444800000", "FIELDS", "1", "b"]]),
];
const CHANGES_OF_GRAPHS: &[Change] = &[
    ("db0 graph: nodes", &[&["GRAPH.QUERY", "graph", "MATCH (n:P) SET n.x = 2"]]),
    ("db0 graph: edges", &[&["GRAPH.QUERY", "graph", "MATCH ()-[e]->() SET e.w = 2"]]),
    ("db0 graph: edges", &[&["GRAPH.QUERY", "graph", "MATCH ()-[e]->() DELETE e"]]),
    ("db0 graph: indexes", &[&["GRAPH.QUERY", "graph", "CREATE INDEX FOR (n:P) ON (n.x)"]]),
];

const LIBRARY: &str = "#!lua name=one\nredis.register_function('one', function() return 1 end)";
const LIBRARY_CHANGED: &str = "#!lua name=one\nredis.register_function('one', function() return 2 end)";

fn fill(cli: &mut Cli, flavor: &Flavor) {
    let commands: &[&[&str]] = &[
        &["FLUSHALL"],
        &["SET", "string", "value"],
        &["PEXPIREAT", "string", "4102444800000"],
        &["RPUSH", "list", "1", "2"],
        &["SADD", "set", "a", "b"],
        &["ZADD", "zset", "1.5", "a"],
        &["HSET", "hash", "a", "1", "b", "2", "c", "3"],
        &["XADD", "stream", "1-1", "a", "b"],
        &["XGROUP", "CREATE", "stream", "group", "0"],
        &["XREADGROUP", "GROUP", "group", "me", "STREAMS", "stream", ">"],
    ];
    for command in commands {
        cli.command(command);
    }
    if flavor.is_7_0() {
        cli.command(&["FUNCTION", "LOAD", "REPLACE", LIBRARY]);
    }
    if flavor.expires_hash_fields() {
        cli.command(&["HPEXPIREAT", "hash", "4102444800000", "FIELDS", "1", "a"]);
    }
    if flavor.has_graphs() {
        cli.command(&["GRAPH.QUERY", "graph", "CREATE (:P {x: 1})-[:R {w: 1}]->(:P {x: 9})"]);
    }
}

fn every_change_is_noticed(flavor: &Flavor) {
    let server = Server::start(flavor);
    let mut cli = server.cli();
    let mut changes = CHANGES.to_vec();
    if flavor.is_7_0() {
        changes.extend(CHANGES_7_0);
    }
    if flavor.expires_hash_fields() {
        changes.extend(CHANGES_OF_FIELDS);
    }
    if flavor.has_graphs() {
        changes.extend(CHANGES_OF_GRAPHS);
    }
    for (expected, commands) in changes {
        fill(&mut cli, flavor);
        let before = both(&server);
        for command in commands {
            cli.command(command);
        }
        let after = both(&server);
        for (before, after) in before.iter().zip(&after) {
            let found = before.differences(after, Tolerance::of(flavor));
            let seen = found.iter().any(|line| line.starts_with(expected));
            assert!(seen, "{commands:?} shows as {found:?}");
        }
    }
}
on_each_flavor!(every_change_is_noticed: every);

/// The server has made a write, and gone before its answer came: whoever goes on knows.
fn a_ledger_takes_up_a_write_whose_answer_was_lost(flavor: &Flavor) {
    let server = Server::start(flavor);
    let ledger = Ledger::start(&server, 1);
    poll::until_true("there are writes", || ledger.account().written > 10);
    let before = ledger.stop();
    let mut cli = server.cli();
    cli.command(&["SELECT", "7"]);
    cli.command(&["SETBIT", "ledger", &before.written.to_string(), "1"]);
    cli.command(&["INCR", "ledger:count"]);
    let ledger = Ledger::go_on(&server, 2, before);
    poll::until_true("there are more", || ledger.account().written > before.written + 10);
    let after = ledger.stop();
    assert_eq!(redwind_tests::ledger::held(&server), after.written);
}
on_each_flavor!(a_ledger_takes_up_a_write_whose_answer_was_lost: redis_7_0);

fn both(server: &Server) -> [Dataset; 2] {
    [capture_live(server), capture_suspended(server)]
}
