//! Describing what a running server holds, in two ways.
//!
//! **By asking** ([`capture_live`]): SCAN, and for each key its TYPE, `DEBUG DIGEST-VALUE`,
//! PEXPIRETIME, HPEXPIRETIME of its fields, `XINFO STREAM FULL`. Good for a primary, also while a
//! child process of it runs. A primary deletes what has expired as soon as it is looked at, so the
//! answer holds only what is alive.
//!
//! **By an AOF rewrite** ([`capture_suspended`]): a replica, whose expiry is suspended until its
//! primary sends the deletion, keeps keys whose time has run out but hides them: SCAN, TYPE and
//! PEXPIRETIME act as if they were gone (`expireIfNeeded`, db.c), while DBSIZE, `DEBUG DIGEST` and
//! `DEBUG DIGEST-VALUE` still see them (debug.c looks into the dictionary itself). Their names and
//! times come out only where the server writes everything down: BGREWRITEAOF without an RDB preamble
//! is plain commands ([`crate::rewrite`]).
//!
//! Both give the same [`Dataset`]; `tests/it/harness.rs` holds them against each other.

use std::collections::BTreeMap;
use std::path::Path;

use redis::Value;

use crate::dataset::{Database, Dataset, Entry, Field, Group, Library, Name, Pending, Stream};
use crate::graph::Graph;
use crate::poll;
use crate::rewrite;
use crate::server::{Cli, Server, ServerOptions, array, bytes, number, text};
use crate::servers::Flavor;

/// Keys asked about in one round trip.
const BATCH: usize = 500;

/// Describes a primary on which nothing writes meanwhile, by asking.
///
/// # Panics
/// When the server is not quiet: what it holds changes over and over while it is asked.
pub fn capture_live(server: &Server) -> Dataset {
    let (mut cli, flavor) = (server.cli(), server.flavor());
    let cli = &mut cli;
    poll::until("the dataset stays the same while it is described", || {
        let before = digest(cli);
        let databases =
            sizes(cli).into_iter().map(|(number, size)| (number, ask_database(cli, flavor, number, size))).collect();
        let dataset = Dataset { digest: digest(cli), databases, libraries: libraries(cli, flavor) };
        // asking made the server drop what had expired, or its own cycle did: ask once more
        let whole = dataset.databases.values().all(|db| db.size == db.keys.len() as u64);
        (before == dataset.digest && whole).then_some(dataset)
    })
}

/// Describes a replica whose expiry is suspended, with all that it hides, by an AOF rewrite.
///
/// # Panics
/// When the rewrite fails, does not hold every key that the server counts, or the server is not
/// quiet.
pub fn capture_suspended(server: &Server) -> Dataset {
    let (mut cli, flavor) = (server.cli(), server.flavor());
    for _ in 0..20 {
        let before = digest(&mut cli);
        let written = rewritten(server);
        let databases = sizes(&mut cli)
            .into_iter()
            .map(|(number, size)| {
                let mut keys = written.get(&number).cloned().unwrap_or_default();
                cli.command(&["SELECT", &number.to_string()]);
                if flavor.has_graphs() {
                    keys.extend(graph_entries(&mut cli));
                }
                add_digests(&mut cli, &mut keys);
                (number, Database { size, keys })
            })
            .collect();
        cli.command(&["SELECT", "0"]);
        let dataset = Dataset { digest: digest(&mut cli), databases, libraries: libraries(&mut cli, flavor) };
        if before == dataset.digest {
            for (number, database) in &dataset.databases {
                let (size, written) = (database.size, database.keys.len() as u64);
                assert_eq!(size, written, "the rewrite holds every key of db{number}");
            }
            return dataset;
        }
    }
    panic!("the server is not quiet: its dataset changes while it is described");
}

/// What an AOF rewrite says the server holds.
///
/// FalkorDB crashes in the rewrite of a graph in commands (4.18: the child dies of SIGSEGV), so there
/// a copy of the server without its graphs does it.
fn rewritten(server: &Server) -> BTreeMap<u32, BTreeMap<Name, Entry>> {
    if !server.flavor().has_graphs() {
        return rewrite::read(&rewrite::make(&mut server.cli(), server.flavor()));
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    save_to(server, &folder.path().join("dump.rdb"));
    let options = ServerOptions::restored_rdb(folder.path()).config("replica-read-only no");
    let copy = Server::start_with(server.flavor(), options);
    let mut cli = copy.cli();
    for (number, _) in sizes(&mut cli) {
        cli.command(&["SELECT", &number.to_string()]);
        for graph in graphs(&mut cli) {
            cli.command(&[b"GRAPH.DELETE".as_slice(), &graph.0]);
        }
    }
    rewrite::read(&rewrite::make(&mut cli, server.flavor()))
}

/// Has the server save an RDB, which holds hidden keys too, and moves it to `path`.
fn save_to(server: &Server, path: &Path) {
    const NAME: &str = "oracle.rdb";
    let mut cli = server.cli();
    let own = cli.config_get("dbfilename").expect("every server has it");
    cli.command(&["CONFIG", "SET", "dbfilename", NAME]);
    // not SAVE: FalkorDB puts helper keys into the keyspace while it saves, and only a child forgets
    // them with its end
    let in_progress = "rdb_bgsave_in_progress";
    poll::until_true("the server begins a save", || cli.try_command(&["BGSAVE"]).is_ok());
    poll::until_true("the server has saved", || cli.info("persistence", in_progress).as_deref() == Some("0"));
    assert_eq!(cli.info("persistence", "rdb_last_bgsave_status").as_deref(), Some("ok"));
    cli.command(&["CONFIG", "SET", "dbfilename", &own]);
    let saved = server.data_dir().join(NAME);
    std::fs::copy(&saved, path).expect("the server has saved");
    std::fs::remove_file(&saved).expect("the server has saved");
}

pub(crate) fn digest(cli: &mut Cli) -> String {
    text(&cli.command(&["DEBUG", "DIGEST"]))
}

/// Keys counted in each database, the hidden ones too.
fn sizes(cli: &mut Cli) -> Vec<(u32, u64)> {
    let info = text(&cli.command(&["INFO", "keyspace"]));
    let database = |line: &str| {
        let (number, counts) = line.strip_prefix("db")?.split_once(":keys=")?;
        let (size, _) = counts.split_once(',')?;
        Some((number.parse().ok()?, size.parse().ok()?))
    };
    info.lines().filter_map(database).collect()
}

fn libraries(cli: &mut Cli, flavor: &Flavor) -> BTreeMap<Name, Library> {
    if !flavor.is_7_0() {
        return BTreeMap::new();
    }
    let listed = cli.command(&["FUNCTION", "LIST", "WITHCODE"]);
    let library = |reply: &Value| {
        let fields = pairs(reply);
        let code = Name(bytes(&fields["library_code"]));
        (Name(bytes(&fields["library_name"])), Library { code })
    };
    array(&listed).iter().map(library).collect()
}

fn add_digests(cli: &mut Cli, keys: &mut BTreeMap<Name, Entry>) {
    let names: Vec<_> = keys.keys().cloned().collect();
    for names in names.chunks(BATCH) {
        let ask = |name: &Name| request(&["DEBUG", "DIGEST-VALUE"], name);
        let replies = cli.pipeline(&names.iter().map(ask).collect::<Vec<_>>());
        for (name, reply) in names.iter().zip(&replies) {
            let digest = array(reply).first().map(text).unwrap_or_default();
            keys.get_mut(name).expect("it was just listed").digest = digest;
        }
    }
}

/// The graphs in the selected database. Not by GRAPH.LIST, which tells those of all databases, and
/// none after a FLUSHDB of any of them (4.18).
fn graphs(cli: &mut Cli) -> Vec<Name> {
    let mut names = scan(cli);
    names.retain(|name| text(&cli.command(&[b"TYPE".as_slice(), &name.0])) == "graphdata");
    names
}

fn graph_entries(cli: &mut Cli) -> Vec<(Name, Entry)> {
    let names = graphs(cli);
    let entry = |name: Name| {
        let graph = Some(Graph::capture(cli, &name.0));
        (name, Entry { kind: "graphdata".into(), graph, ..Entry::default() })
    };
    names.into_iter().map(entry).collect()
}

fn ask_database(cli: &mut Cli, flavor: &Flavor, number: u32, size: u64) -> Database {
    cli.command(&["SELECT", &number.to_string()]);
    let names = scan(cli);
    let mut keys = BTreeMap::new();
    for names in names.chunks(BATCH) {
        let kinds = cli.pipeline(&names.iter().map(|n| request(&["TYPE"], n)).collect::<Vec<_>>());
        for (name, kind) in names.iter().zip(&kinds) {
            // it has expired between SCAN and here; the caller sees that a key is missing
            if text(kind) != "none" {
                let entry = Entry { kind: text(kind), ..Entry::default() };
                keys.insert(name.clone(), entry);
            }
        }
    }
    add_digests(cli, &mut keys);
    add_expiries(cli, flavor, &mut keys);
    keys.retain(|name, entry| add_inside(cli, flavor, name, entry).is_some());
    cli.command(&["SELECT", "0"]);
    Database { size, keys }
}

/// Adds what the digest leaves out; nothing when the key has expired meanwhile.
fn add_inside(cli: &mut Cli, flavor: &Flavor, name: &Name, entry: &mut Entry) -> Option<()> {
    match entry.kind.as_str() {
        "hash" => entry.fields = ask_fields(cli, flavor, name)?,
        "stream" => entry.stream = Some(ask_stream(cli, name)?),
        "graphdata" => entry.graph = Some(Graph::capture(cli, &name.0)),
        _ => {}
    }
    Some(())
}

fn scan(cli: &mut Cli) -> Vec<Name> {
    let mut names = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        let reply = cli.command(&["SCAN", &cursor, "COUNT", "1000"]);
        let [next, page] = array(&reply) else { panic!("SCAN answers {reply:?}") };
        names.extend(array(page).iter().map(|name| Name(bytes(name))));
        cursor = text(next);
        if cursor == "0" {
            // SCAN may give a key twice while the table is resized
            names.sort();
            names.dedup();
            return names;
        }
    }
}

fn add_expiries(cli: &mut Cli, flavor: &Flavor, keys: &mut BTreeMap<Name, Entry>) {
    let ask = if flavor.is_7_0() { "PEXPIRETIME" } else { "PTTL" };
    let names: Vec<_> = keys.keys().cloned().collect();
    for names in names.chunks(BATCH) {
        let mut requests = vec![vec![b"TIME".to_vec()]];
        requests.extend(names.iter().map(|name| request(&[ask], name)));
        let replies = cli.pipeline(&requests);
        // 6.2 tells only how long is left: counted from the time asked just before, which is a few
        // milliseconds off at the worst
        let now = array(&replies[0]);
        let now = if flavor.is_7_0() { 0 } else { number(&now[0]) * 1000 + number(&now[1]) / 1000 };
        for (name, reply) in names.iter().zip(&replies[1..]) {
            let at = u64::try_from(number(reply)).ok();
            let entry = keys.get_mut(name).expect("it was just listed");
            entry.expires_at = at.map(|at| at.saturating_add_signed(now));
        }
    }
}

fn ask_fields(cli: &mut Cli, flavor: &Flavor, name: &Name) -> Option<BTreeMap<Name, Field>> {
    let reply = cli.command(&[b"HGETALL".as_slice(), &name.0]);
    let (pairs, _) = array(&reply).as_chunks::<2>();
    let mut fields: BTreeMap<_, _> = pairs
        .iter()
        .map(|[field, value]| {
            let value = Name(bytes(value));
            (Name(bytes(field)), Field { value, expires_at: None })
        })
        .collect();
    if flavor.expires_hash_fields() {
        // a field whose time has run out is hidden, and counted until the server comes round to it
        let counted = number(&cli.command(&[b"HLEN".as_slice(), &name.0]));
        if fields.is_empty() || usize::try_from(counted) != Ok(fields.len()) {
            return None;
        }
        let mut ask = request(&["HPEXPIRETIME"], name);
        ask.extend([b"FIELDS".to_vec(), fields.len().to_string().into_bytes()]);
        ask.extend(fields.keys().map(|field| field.0.clone()));
        let times = cli.command(&ask);
        for (field, time) in fields.values_mut().zip(array(&times)) {
            field.expires_at = u64::try_from(number(time)).ok();
        }
    }
    (!fields.is_empty()).then_some(fields)
}

fn ask_stream(cli: &mut Cli, name: &Name) -> Option<Stream> {
    let ask = [b"XINFO".as_slice(), b"STREAM", &name.0, b"FULL", b"COUNT", b"0"];
    let reply = match cli.try_command(&ask) {
        Err(error) if error.to_string().contains("no such key") => return None,
        reply => reply.expect("XINFO answers"),
    };
    let fields = pairs(&reply);
    let groups = array(&fields["groups"]).iter().map(ask_group);
    Some(Stream {
        last_id: Name(bytes(&fields["last-generated-id"])),
        added: fields.get("entries-added").map(count),
        max_deleted_id: fields.get("max-deleted-entry-id").map(|id| Name(bytes(id))),
        groups: groups.collect(),
    })
}

fn ask_group(reply: &Value) -> (Name, Group) {
    let fields = pairs(reply);
    let consumer = |reply: &Value| {
        let fields = pairs(reply);
        let pending = |reply: &Value| Pending {
            id: Name(bytes(&array(reply)[0])),
            delivered_at: count(&array(reply)[1]),
            deliveries: count(&array(reply)[2]),
        };
        let mut pending: Vec<_> = array(&fields["pending"]).iter().map(pending).collect();
        pending.sort();
        (Name(bytes(&fields["name"])), pending)
    };
    let group = Group {
        last_id: Name(bytes(&fields["last-delivered-id"])),
        entries_read: match fields.get("entries-read") {
            None | Some(Value::Nil) => None,
            Some(read) => Some(count(read)),
        },
        consumers: array(&fields["consumers"]).iter().map(consumer).collect(),
    };
    (Name(bytes(&fields["name"])), group)
}

fn count(reply: &Value) -> u64 {
    u64::try_from(number(reply)).expect("counts and times are not negative")
}

/// A flat array of names and values.
fn pairs(reply: &Value) -> BTreeMap<String, Value> {
    let (pairs, _) = array(reply).as_chunks::<2>();
    pairs.iter().map(|[name, value]| (text(name), value.clone())).collect()
}

fn request(words: &[&str], name: &Name) -> Vec<Vec<u8>> {
    let words = words.iter().map(|word| word.as_bytes().to_vec());
    words.chain([name.0.clone()]).collect()
}

/// Waits until `replica` has everything that `primary` has sent.
///
/// # Panics
/// When it does not within [`poll::PATIENCE`].
pub fn wait_level(primary: &Server, replica: &Server) {
    replica.wait_synced();
    poll::until_true("the replica is level with its primary", || replica.cli().offset() == primary.cli().offset());
}
