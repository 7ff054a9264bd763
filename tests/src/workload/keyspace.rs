//! What happens to keys whatever is under them.

use super::{Command, Workload, command};

const KINDS: [&str; 9] = ["string", "counter", "list", "set", "zset", "hash", "bits", "stream", "geo"];

pub(super) fn expiries(w: &mut Workload) -> Vec<Command> {
    let kind = w.pick(&KINDS);
    let key = w.key(kind);
    let short = (1 + w.rng.u32(0..2000)).to_string();
    let long = (60 + w.rng.u32(0..1_000_000)).to_string();
    let command = match w.rng.u8(0..12) {
        0 => command!["PEXPIRE", key, short],
        1 => command!["PERSIST", key],
        2 => command!["SET", w.key("string"), w.value(), "PX", short],
        3 => command!["SET", w.key("string"), w.value(), "EX", long],
        4 => command!["SETEX", w.key("string"), long, w.value()],
        5 => command!["PSETEX", w.key("string"), short, w.value()],
        6 => command!["GETEX", w.key("string"), "EX", long],
        7 => command!["GETEX", w.key("string"), "PERSIST"],
        8 => command!["EXPIREAT", key, "1"],
        9 => command!["PEXPIREAT", key, "4102444800123"],
        10 if w.flavor.is_7_0() => command!["EXPIRE", key, long, "GT"],
        _ => command!["EXPIRE", key, long],
    };
    vec![command]
}

pub(super) fn moves(w: &mut Workload) -> Vec<Command> {
    let kind = w.pick(&KINDS);
    let (from, to) = (w.key(kind), w.key(kind));
    let command = match w.rng.u8(0..6) {
        0 => command!["RENAME", from, to],
        1 => command!["RENAMENX", from, to],
        2 => command!["COPY", from, to, "REPLACE"],
        3 => command!["COPY", from, to, "DB", "3", "REPLACE"],
        4 => command!["MOVE", from, "1"],
        _ => command!["SORT", w.key("set"), "ALPHA", "STORE", w.key("list")],
    };
    vec![command]
}

pub(super) fn deletions(w: &mut Workload) -> Vec<Command> {
    let kind = w.pick(&KINDS);
    let (one, other) = (w.key(kind), w.key("string"));
    vec![if w.coin() { command!["UNLINK", one, other] } else { command!["DEL", one] }]
}

pub(super) fn whole_databases(w: &mut Workload) -> Vec<Command> {
    let swap = command!["SWAPDB", "9", "3"];
    let flush = match w.rng.u8(0..3) {
        0 => command!["FLUSHDB", "ASYNC"],
        _ => command!["FLUSHDB"],
    };
    if w.coin() {
        return vec![swap];
    }
    vec![command!["SELECT", "9"], flush, command!["SET", "string:after", "flush"]]
}
