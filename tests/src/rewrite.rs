//! Reading a server's dataset from an AOF rewrite in plain commands.
//!
//! With `aof-use-rdb-preamble no` a rewrite writes for each key the commands that make it
//! (`rewriteAppendOnlyFileRio`, aof.c), with absolute expiry times and without looking at the clock.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::dataset::{Entry, Field, Group, Name, Pending, Stream};
use crate::poll;
use crate::server::Cli;
use crate::servers::Flavor;

/// Makes the server rewrite its AOF in commands, and returns the bytes.
///
/// # Panics
/// When the rewrite fails.
pub fn make(cli: &mut Cli, flavor: &Flavor) -> Vec<u8> {
    let preamble = cli.config_get("aof-use-rdb-preamble").expect("known since 4.0");
    cli.command(&["CONFIG", "SET", "aof-use-rdb-preamble", "no"]);
    let idle = |cli: &mut Cli| {
        let zero = |field| move |cli: &mut Cli| cli.info("persistence", field).as_deref() == Some("0");
        zero("aof_rewrite_in_progress")(cli) && zero("aof_rewrite_scheduled")(cli)
    };
    // the first rewrite of a server that starts with `appendonly yes` may still run
    poll::until_true("no rewrite runs", || idle(cli));
    cli.command(&["BGREWRITEAOF"]);
    poll::until_true("the rewrite ends", || idle(cli));
    let status = cli.info("persistence", "aof_last_bgrewrite_status");
    assert_eq!(status.as_deref(), Some("ok"), "the server could rewrite its AOF");
    let path = base_file(cli, flavor);
    cli.command(&["CONFIG", "SET", "aof-use-rdb-preamble", &preamble]);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn base_file(cli: &mut Cli, flavor: &Flavor) -> PathBuf {
    let mut get = |name| cli.config_get(name).expect("the server has it");
    let folder = PathBuf::from(get("dir"));
    let name = get("appendfilename");
    if !flavor.is_7_0() {
        return folder.join(name);
    }
    let folder = folder.join(get("appenddirname"));
    let manifest =
        std::fs::read_to_string(folder.join(format!("{name}.manifest"))).expect("a rewrite leaves a manifest");
    let base = manifest.lines().find(|line| line.contains(" type b"));
    let file = base.and_then(|line| line.split_whitespace().nth(1));
    Path::new(&folder).join(file.expect("the manifest names a base file"))
}

/// What the commands of a rewrite make, by database; values are not kept, but for what
/// [`Entry::digest`] leaves out.
///
/// # Panics
/// At a command that no rewrite is known to write: the oracle must not overlook anything.
pub fn read(aof: &[u8]) -> BTreeMap<u32, BTreeMap<Name, Entry>> {
    let mut databases: BTreeMap<u32, BTreeMap<Name, Entry>> = BTreeMap::new();
    let mut selected = 0;
    for command in commands(aof) {
        let verb = command[0].to_ascii_uppercase();
        match verb.as_slice() {
            b"SELECT" => selected = parse(command[1]),
            // libraries are asked for; graphs are queried
            b"FUNCTION" | b"GRAPH.RESTORE" => {}
            _ => apply(databases.entry(selected).or_default(), &verb, &command),
        }
    }
    databases
}

fn apply(keys: &mut BTreeMap<Name, Entry>, verb: &[u8], command: &[&[u8]]) {
    let key = if verb == b"XGROUP" { command[2] } else { command[1] };
    let entry = keys.entry(Name(key.to_vec())).or_default();
    let kind = match verb {
        b"SET" => "string",
        b"RPUSH" => "list",
        b"SADD" => "set",
        b"ZADD" => "zset",
        b"HMSET" | b"HSET" | b"HPEXPIREAT" | b"HSETEX" => "hash",
        b"XADD" | b"XSETID" | b"XGROUP" | b"XCLAIM" => "stream",
        b"PEXPIREAT" => &entry.kind.clone(),
        verb => panic!("a rewrite holds {}, which the oracle does not know", verb.escape_ascii()),
    };
    kind.clone_into(&mut entry.kind);
    match verb {
        b"PEXPIREAT" => entry.expires_at = Some(parse(command[2])),
        b"HMSET" | b"HSET" => add_fields(entry, &command[2..], None),
        // HSETEX key PXAT time FIELDS n field value ...
        b"HSETEX" => add_fields(entry, &command[6..], Some(parse(command[3]))),
        // HPEXPIREAT key time FIELDS 1 field
        b"HPEXPIREAT" => {
            let field = Name(command[5].to_vec());
            entry.fields.entry(field).or_default().expires_at = Some(parse(command[2]));
        }
        b"XADD" => entry.stream.get_or_insert_default().last_id = Name(command[2].to_vec()),
        b"XSETID" => set_id(entry.stream.get_or_insert_default(), command),
        b"XGROUP" => add_group(entry.stream.get_or_insert_default(), command),
        b"XCLAIM" => add_pending(entry.stream.get_or_insert_default(), command),
        _ => {}
    }
}

fn add_fields(entry: &mut Entry, pairs: &[&[u8]], expires_at: Option<u64>) {
    let (pairs, _) = pairs.as_chunks::<2>();
    for [field, value] in pairs {
        let value = Name(value.to_vec());
        entry.fields.insert(Name(field.to_vec()), Field { value, expires_at });
    }
}

/// `XSETID key last-id [ENTRIESADDED n MAXDELETEDID id]`
fn set_id(stream: &mut Stream, command: &[&[u8]]) {
    stream.last_id = Name(command[2].to_vec());
    if let [_, _, _, _, added, _, deleted] = command {
        stream.added = Some(parse(added));
        stream.max_deleted_id = Some(Name(deleted.to_vec()));
    }
}

/// `XGROUP CREATE key group id [ENTRIESREAD n]`, `XGROUP CREATECONSUMER key group consumer`
fn add_group(stream: &mut Stream, command: &[&[u8]]) {
    let group = stream.groups.entry(Name(command[3].to_vec())).or_default();
    if command[1].eq_ignore_ascii_case(b"CREATECONSUMER") {
        group.consumers.entry(Name(command[4].to_vec())).or_default();
        return;
    }
    *group = Group { last_id: Name(command[4].to_vec()), ..Group::default() };
    if let Some(read) = command.get(6) {
        // -1 when it is not known
        group.entries_read = text(read).parse().ok();
    }
}

/// `XCLAIM key group consumer 0 id TIME ms RETRYCOUNT n JUSTID FORCE`
fn add_pending(stream: &mut Stream, command: &[&[u8]]) {
    let group = stream.groups.entry(Name(command[2].to_vec())).or_default();
    let pending = group.consumers.entry(Name(command[3].to_vec())).or_default();
    pending.push(Pending {
        id: Name(command[5].to_vec()),
        delivered_at: parse(command[7]),
        deliveries: parse(command[9]),
    });
    pending.sort();
}

fn text(argument: &[u8]) -> &str {
    std::str::from_utf8(argument).expect("numbers are ASCII")
}

fn parse<T: std::str::FromStr>(argument: &[u8]) -> T {
    let number = text(argument).parse();
    number.unwrap_or_else(|_| panic!("{} is not a number", argument.escape_ascii()))
}

/// The commands of a file that is whole, without its `#TS:` lines.
fn commands(mut aof: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    std::iter::from_fn(move || {
        while aof.first() == Some(&b'#') {
            line(&mut aof);
        }
        if aof.is_empty() {
            return None;
        }
        let arguments: usize = parse(&line(&mut aof)[1..]);
        let argument = |_| {
            let length: usize = parse(&line(&mut aof)[1..]);
            let (argument, rest) = aof.split_at(length);
            aof = &rest[2..];
            argument
        };
        Some((0..arguments).map(argument).collect())
    })
}

fn line<'a>(aof: &mut &'a [u8]) -> &'a [u8] {
    let end = aof.iter().position(|&byte| byte == b'\r').expect("every line ends");
    let (line, rest) = aof.split_at(end);
    *aof = &rest[2..];
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resp(command: &str) -> String {
        let words: Vec<_> = command.split(' ').collect();
        let bulks = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
        format!("*{}\r\n{}", words.len(), bulks.collect::<String>())
    }

    #[test]
    fn a_rewrite_is_read() {
        let aof: String = [
            "SELECT 3",
            "SET k v",
            "PEXPIREAT k 1700000000000",
            "XADD s 1-1 a b",
            "XSETID s 2-1 ENTRIESADDED 2 MAXDELETEDID 2-1",
            "XGROUP CREATE s g 1-1 ENTRIESREAD 1",
            "XCLAIM s g c 0 1-1 TIME 1600000000000 RETRYCOUNT 2 JUSTID FORCE",
        ]
        .map(resp)
        .concat();
        let databases = read(format!("#TS:1\r\n{aof}").as_bytes());
        let keys = &databases[&3];
        assert_eq!(keys[&Name(b"k".to_vec())].expires_at, Some(1_700_000_000_000));
        let stream = keys[&Name(b"s".to_vec())].stream.clone().unwrap();
        assert_eq!(stream.added, Some(2));
        let group = &stream.groups[&Name(b"g".to_vec())];
        assert_eq!(group.consumers[&Name(b"c".to_vec())][0].deliveries, 2);
    }
}
