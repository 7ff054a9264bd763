//! Lua, whose effects are replicated, and functions, which are replicated themselves.

use super::{Command, Workload, command};

const SCRIPT: &str = "
redis.call('SET', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], 5000)
redis.call('SPOP', KEYS[2])
redis.call('SELECT', 1)
redis.call('RPUSH', KEYS[3], ARGV[1], 'from a script')
return redis.call('INCR', KEYS[4])";

const LIBRARY: &str = "
redis.register_function('remember', function(keys, args)
  redis.call('HSET', keys[1], args[1], args[2])
  return redis.call('SPOP', keys[2], 2)
end)";

pub(super) fn scripts(w: &mut Workload) -> Vec<Command> {
    let keys = [w.key("string"), w.key("set"), w.key("list"), w.key("counter")];
    let [string, set, list, counter] = keys;
    vec![command!["EVAL", SCRIPT, "4", string, set, list, counter, w.value()]]
}

pub(super) fn functions(w: &mut Workload) -> Vec<Command> {
    if !w.flavor.is_7_0() {
        return scripts(w);
    }
    let version = w.number(1000);
    let load = |name: &str| {
        let code = format!("#!lua name={name}\n-- version {version}{}", LIBRARY.replace("remember", name));
        command!["FUNCTION", "LOAD", "REPLACE", code]
    };
    let call = command!["FCALL", "store", "2", w.key("hash"), w.key("set"), w.number(30), w.value()];
    match w.rng.u8(0..5) {
        0 => vec![load("extra"), call],
        1 => vec![load("store"), command!["FUNCTION", "DELETE", "extra"]],
        _ => vec![load("store"), call],
    }
}
