//! Streams, awkward bytes, transactions, messages, graphs.

use super::{Command, Workload, command, data};

pub(super) fn streams(w: &mut Workload) -> Vec<Command> {
    let key = w.key("stream");
    let group = w.pick(&["workers", "audit"]);
    let consumer = w.pick(&["alice", "bob"]);
    let read = command!["XREADGROUP", "GROUP", group, consumer, "COUNT", "2", "STREAMS", key, ">"];
    let add = command!["XADD", key, "*", "field", w.value()];
    match w.rng.u8(0..10) {
        0 => vec![command!["XGROUP", "CREATE", key, group, "0", "MKSTREAM"], add, read],
        1 => vec![command!["XTRIM", key, "MAXLEN", "20"]],
        2 => vec![command!["XADD", key, "MAXLEN", "~", "100", "*", "a", "1", "b", "2"]],
        // The consumer first: one that XAUTOCLAIM makes and gives nothing is not replicated (seen with
        // Valkey 9.1.2), so that no replica has it.
        3 => vec![
            command!["XGROUP", "CREATECONSUMER", key, group, consumer],
            command!["XAUTOCLAIM", key, group, consumer, "0", "0", "COUNT", "2"],
        ],
        4 => vec![command!["XGROUP", "SETID", key, group, "$"]],
        5 => vec![command!["XGROUP", "CREATECONSUMER", key, group, consumer]],
        6 => vec![command!["XGROUP", "DELCONSUMER", key, group, consumer]],
        7 => vec![command!["XGROUP", "CREATE", key, group, "$"], add.clone(), add, read],
        _ => vec![add, read],
    }
}

/// Bytes that a reader may take for something else.
pub(super) fn binary(w: &mut Workload) -> Vec<Command> {
    let traps: [&[u8]; 6] = [
        b"*1\r\n$4\r\nPING\r\n",
        b"$-1\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n",
        b"\0\r\n\n\r",
        b"*2\r\n$6\r\nSELECT\r\n$1\r\n7\r\n*1\r\n$5\r\nMULTI\r\n",
        b"REDIS0011\xff\xfe",
    ];
    let trap = traps[w.rng.usize(0..traps.len())];
    let mut key = b"binary:".to_vec();
    key.extend(trap);
    let mut value = w.value();
    value.extend(trap);
    vec![command!["SET", key, value.clone()], command!["HSET", w.key("hash"), trap, value]]
}

pub(super) fn megabyte(w: &mut Workload) -> Vec<Command> {
    let length = w.rng.usize(1 << 16..1 << 20);
    let value = w.random_bytes(length);
    vec![command!["SET", w.key("string"), value]]
}

pub(super) fn transaction(w: &mut Workload) -> Vec<Command> {
    let mut commands = vec![command!["MULTI"]];
    for _ in 0..w.rng.u8(0..6) {
        commands.extend(data::hashes(w));
        commands.extend(data::sets(w));
    }
    if w.coin() {
        let database = w.pick(&["0", "1", "3"]);
        commands.push(command!["SELECT", database]);
        commands.extend(data::strings(w));
    }
    // one that fails inside, and leaves no trace in the stream
    commands.push(command!["LPUSH", "string:wrong-type", "x"]);
    commands.push(if w.rng.u8(0..8) == 0 { command!["DISCARD"] } else { command!["EXEC"] });
    vec![command!["SET", "string:wrong-type", "not a list"]].into_iter().chain(commands).collect()
}

pub(super) fn large_transaction(w: &mut Workload) -> Vec<Command> {
    let mut commands = vec![command!["MULTI"]];
    for number in 0..1000 {
        commands.push(command!["HSET", w.key("large"), number.to_string(), w.value()]);
    }
    commands.push(command!["EXEC"]);
    commands
}

/// In the stream, and without effect on the data.
pub(super) fn published(w: &mut Workload) -> Vec<Command> {
    vec![command!["PUBLISH", "news", w.value()]]
}

pub(super) fn graphs(w: &mut Workload) -> Vec<Command> {
    let graph = w.pick(&["graph:a", "graph:b"]);
    let (one, other) = (w.number(40), w.number(40));
    let query = match w.rng.u8(0..9) {
        0 => format!("MATCH (p:Person {{n: {one}}}) DELETE p"),
        1 => format!(
            "MATCH (a:Person {{n: {one}}}), (b:Person {{n: {other}}}) CREATE (a)-[:KNOWS {{since: {one}}}]->(b)"
        ),
        2 => format!("MATCH (p:Person {{n: {one}}}) SET p.seen = {other}, p.tags = ['a', {other}]"),
        3 => format!("MATCH (:Person {{n: {one}}})-[e:KNOWS]->() DELETE e"),
        4 => "CREATE INDEX FOR (p:Person) ON (p.n)".to_owned(),
        5 => format!("UNWIND range(1, 20) AS i CREATE (:Thing {{i: i, s: 'thing {one}'}})"),
        6 => format!("MATCH (t:Thing) WHERE t.i = {one} SET t:Old REMOVE t.s"),
        _ => format!("MERGE (:Person {{n: {one}, name: 'person {one}'}})"),
    };
    // a query that changes nothing makes an empty graph where there is none, and no replica hears of
    // it (FalkorDB 4.18)
    let made = command!["GRAPH.QUERY", graph, "MERGE (:Root)"];
    vec![command!["SELECT", "0"], made, command!["GRAPH.QUERY", graph, query]]
}
