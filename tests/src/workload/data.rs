//! The plain types.

use super::{Command, Workload, command};

pub(super) fn strings(w: &mut Workload) -> Vec<Command> {
    let (key, value) = (w.key("string"), w.value());
    let command = match w.rng.u8(0..10) {
        0 => command!["APPEND", key, value],
        1 => command!["SETRANGE", key, w.number(500), value],
        2 => command!["GETSET", key, value],
        3 => command!["SETNX", key, value],
        4 => command!["MSET", key, value, w.key("string"), "second"],
        5 => command!["GETDEL", key],
        6 => command!["SET", key, value, "KEEPTTL"],
        _ => command!["SET", key, value],
    };
    vec![command]
}

pub(super) fn counters(w: &mut Workload) -> Vec<Command> {
    let key = w.key("counter");
    let command = match w.rng.u8(0..4) {
        0 => command!["INCR", key],
        1 => command!["DECRBY", key, w.number(1000)],
        2 => command!["INCRBYFLOAT", w.key("float"), "0.1"],
        _ => command!["INCRBY", key, w.number(1000)],
    };
    vec![command]
}

pub(super) fn lists(w: &mut Workload) -> Vec<Command> {
    let (key, value) = (w.key("list"), w.value());
    let command = match w.rng.u8(0..10) {
        0 => command!["LMOVE", key, w.key("list"), "LEFT", "RIGHT"],
        1 => command!["RPOPLPUSH", key, w.key("list")],
        2 => command!["LTRIM", key, "0", "100"],
        3 => command!["LINSERT", key, "BEFORE", "pivot", value],
        4 => command!["LPOP", key, w.number(3)],
        5 => command!["LREM", key, "0", "pivot"],
        6 => command!["BLMOVE", key, w.key("list"), "RIGHT", "LEFT", "0.01"],
        7 => command!["LPUSH", key, "pivot", value],
        _ => command!["RPUSH", key, value, "pivot", w.number(100)],
    };
    vec![command]
}

pub(super) fn sets(w: &mut Workload) -> Vec<Command> {
    let key = w.key("set");
    let command = match w.rng.u8(0..10) {
        0 => command!["SPOP", key],
        1 => command!["SPOP", key, w.number(5)],
        2 => command!["SREM", key, w.number(50)],
        3 => command!["SMOVE", key, w.key("set"), w.number(50)],
        4 => command!["SUNIONSTORE", w.key("set"), key, w.key("set")],
        5 => command!["SDIFFSTORE", w.key("set"), key, w.key("set")],
        6 => command!["SADD", key, w.value()],
        _ => command!["SADD", key, w.number(50), w.number(50), w.number(50)],
    };
    vec![command]
}

pub(super) fn sorted_sets(w: &mut Workload) -> Vec<Command> {
    let (key, member) = (w.key("zset"), w.value());
    let command = match w.rng.u8(0..10) {
        0 => command!["ZPOPMIN", key],
        1 => command!["ZINCRBY", key, "0.3", w.number(50)],
        2 => command!["ZREMRANGEBYRANK", key, "0", "1"],
        3 => command!["ZUNIONSTORE", w.key("zset"), "2", key, w.key("zset")],
        4 => command!["ZRANGESTORE", w.key("zset"), key, "0", "10"],
        5 => command!["ZADD", key, "GT", "CH", w.number(1000), w.number(50)],
        6 => command!["ZADD", key, "-inf", "lowest", "inf", "highest"],
        7 => command!["ZREM", key, w.number(50)],
        _ => command!["ZADD", key, w.number(1000), w.number(50), "1.5", member],
    };
    vec![command]
}

pub(super) fn hashes(w: &mut Workload) -> Vec<Command> {
    let (key, field, value) = (w.key("hash"), w.number(30), w.value());
    let command = match w.rng.u8(0..8) {
        0 => command!["HDEL", key, field, w.number(30)],
        1 => command!["HINCRBYFLOAT", key, "float", "0.7"],
        2 => command!["HSETNX", key, field, value],
        3 => command!["HINCRBY", key, "count", "3"],
        4 => command!["HMSET", key, field, value],
        _ => command!["HSET", key, field, value, w.number(30), w.value()],
    };
    vec![command]
}

/// Redis 7.4 and Valkey 9.0; elsewhere an ordinary hash.
pub(super) fn hash_field_expiries(w: &mut Workload) -> Vec<Command> {
    let (key, field) = (w.key("hash"), w.number(30));
    if !w.flavor.expires_hash_fields() {
        return hashes(w);
    }
    let set = command!["HSET", key, field, w.value(), "kept", "for ever"];
    let (short, long) = (1 + w.rng.u32(0..1500), 100 + w.rng.u32(0..100_000));
    let expire = match w.rng.u8(0..4) {
        0 => command!["HPEXPIRE", key, short.to_string(), "FIELDS", "1", field],
        1 => command!["HEXPIRE", key, long.to_string(), "FIELDS", "2", field, "kept"],
        2 => command!["HPERSIST", key, "FIELDS", "1", field],
        _ => command!["HEXPIRE", key, long.to_string(), "FIELDS", "1", field],
    };
    vec![set, expire]
}

pub(super) fn bits_and_hyperloglogs(w: &mut Workload) -> Vec<Command> {
    let key = w.key("bits");
    let command = match w.rng.u8(0..5) {
        0 => command!["SETBIT", key, w.number(5000), "1"],
        1 => command!["BITFIELD", key, "INCRBY", "u8", "#3", "7"],
        2 => command!["BITOP", "XOR", w.key("bits"), key, w.key("bits")],
        3 => command!["PFMERGE", w.key("hll"), w.key("hll"), w.key("hll")],
        _ => command!["PFADD", w.key("hll"), w.value(), w.number(1000)],
    };
    vec![command]
}

pub(super) fn geo(w: &mut Workload) -> Vec<Command> {
    let (longitude, latitude) = (w.number(180), w.number(85));
    let add = command!["GEOADD", w.key("geo"), longitude, latitude, w.number(20)];
    let store =
        command!["GEOSEARCHSTORE", w.key("zset"), w.key("geo"), "FROMLONLAT", "15", "37", "BYRADIUS", "5000", "km"];
    vec![add, store]
}
