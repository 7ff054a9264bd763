//! An archive proves itself: damage is found and never restored, one agent writes it, and it can be
//! read without redwind.

use std::path::{Path, PathBuf};
use std::process::Command;

use redwind_tests::mark::Mark;
use redwind_tests::redwind::{Agent, restore, verify};
use redwind_tests::server::{Server, ServerOptions};
use redwind_tests::servers::{Flavor, skip_without};
use redwind_tests::story::{Following, QUICK, assert_restored, patient_server};
use redwind_tests::workload::Workload;
use redwind_tests::{on_each_flavor, poll};

/// All objects below a folder of the archive, in order.
fn objects(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(objects(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// What may happen to an object in a store.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Damage {
    FlippedBit,
    Truncation,
    Loss,
}

impl Damage {
    fn strike(self, object: &Path) {
        let mut bytes = std::fs::read(object).unwrap();
        let middle = bytes.len() / 2;
        match self {
            Self::FlippedBit => bytes[middle] ^= 4,
            Self::Truncation => bytes.truncate(bytes.len() - 9),
            Self::Loss => return std::fs::remove_file(object).unwrap(),
        }
        std::fs::write(object, bytes).unwrap();
    }
}

/// An archive with a mark before and a mark after one of its segments.
struct Archived {
    following: Following,
    early: Mark,
    late: Mark,
    between: PathBuf,
}

impl Archived {
    fn by(flavor: &Flavor) -> Self {
        let server = patient_server(flavor);
        let (mut cli, mut workload) = (server.cli(), Workload::any(flavor));
        workload.run(&mut cli, 50);
        let mut following = Following::start(&server);
        workload.run(&mut cli, 100);
        let early = following.mark("before the damage", &server);
        following.wait_durable(&server);
        let sound = objects(&following.archive().join("log")).len();
        workload.run(&mut cli, 100);
        let late = following.mark("after the damage", &server);
        cli.command(&["SET", "one", "more"]);
        following.wait_durable(&server);
        let between = objects(&following.archive().join("log")).swap_remove(sound);
        // the next term says where the log of this one ended: what is lost before is no longer a tail
        assert_eq!(following.agent.stop().code(), Some(0));
        following.agent.start_again();
        following.wait_restorable();
        cli.command(&["SET", "another", "term"]);
        following.wait_durable(&server);
        following.verify();
        Self { following, early, late, between }
    }

    fn first(&self, kind: &str) -> PathBuf {
        objects(&self.following.archive().join(kind)).swap_remove(0)
    }

    /// With this damage, `verify` names the object, and nothing that needs it is restored.
    fn assert_found(&self, damage: Damage, object: &Path) {
        let store = &self.following.store;
        let name = object.strip_prefix(self.following.archive()).unwrap().to_str().unwrap();
        // chunks without a manifest look like a snapshot under way
        let of_a_manifest = name.starts_with("snapshot/");
        if !(of_a_manifest && damage == Damage::Loss) {
            let found = verify(store).expect(4);
            // what is lost is told by what comes next
            let named = if damage == Damage::Loss { "" } else { name };
            let told = found.stdout.contains("DAMAGE") && found.stdout.contains(named);
            assert!(told, "{damage:?} of {name}: {}", found.stdout);
        }
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("data");
        let to = format!("offset:{}", self.late.offset);
        let refused = restore(store, &to, &["--aof", folder.to_str().unwrap()]);
        // without its only snapshot, nothing is restorable
        let codes: &[i32] = if of_a_manifest { &[3, 4] } else { &[4] };
        assert!(refused.code.is_some_and(|code| codes.contains(&code)), "{damage:?} of {name}: {refused:?}");
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0, "nothing appears");
    }
}

/// Every kind of object, damaged in every way that a store may: named, and never restored.
fn verify_finds_damage(flavor: &Flavor) {
    let archived = Archived::by(flavor);
    let following = &archived.following;
    let (chunk, manifest) = (archived.first("chunk"), archived.first("snapshot"));
    for object in [&archived.between, &chunk, &manifest] {
        let whole = std::fs::read(object).unwrap();
        for damage in [Damage::FlippedBit, Damage::Truncation, Damage::Loss] {
            damage.strike(object);
            archived.assert_found(damage, object);
            if object == &archived.between {
                following.check_offset(&archived.early);
            }
            std::fs::write(object, &whole).unwrap();
        }
    }
    following.verify();
    following.check_offset(&archived.late);
}
on_each_flavor!(verify_finds_damage: redis_7_0 valkey_9);

/// An agent that is told to take over writes, and the one before says that it is fenced.
fn the_older_of_two_agents_is_fenced(flavor: &Flavor) {
    let server = patient_server(flavor);
    let (mut cli, mut workload) = (server.cli(), Workload::any(flavor));
    let mut following = Following::start(&server);
    workload.run(&mut cli, 100);
    let before = following.mark("the first agent's", &server);
    following.wait_durable(&server);
    let mut second = Agent::start(&server.url(), &following.store, &[QUICK, &["--takeover"]].concat());
    second.wait_ready();
    workload.run(&mut cli, 50);
    let fenced = following.agent.wait_end(poll::PATIENCE);
    assert_eq!(fenced.code(), Some(6), "{}", following.agent.log());
    assert!(following.agent.log().contains("another agent"), "{}", following.agent.log());
    std::mem::swap(&mut following.agent, &mut second);
    let after = following.mark("the second agent's", &server);
    workload.run(&mut cli, 20);
    following.wait_durable(&server);
    following.check(&before);
    following.check(&after);
    following.verify();
}
on_each_flavor!(the_older_of_two_agents_is_fenced: redis_7_0 valkey_9);

/// A reader in Python, written from the format's description alone, comes to the same.
fn python_decoder_agrees(flavor: &Flavor) {
    let python = std::env::var("REDWIND_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let usable = Command::new(&python).args(["-c", "import zstandard"]).output();
    if !usable.is_ok_and(|output| output.status.success()) {
        return skip_without("zstandard for python3", "tests/run.sh", "python_decoder_agrees");
    }
    let server = patient_server(flavor);
    let (mut cli, mut workload) = (server.cli(), Workload::any(flavor));
    workload.prelude(&mut cli);
    cli.command(&["SELECT", "3"]);
    cli.command(&["SET", "last", "before the agent"]);
    let following = Following::start(&server);
    workload.run(&mut cli, 200);
    let mark = following.mark("to decode", &server);
    cli.command(&["FLUSHALL"]);
    workload.run(&mut cli, 20);
    following.wait_durable(&server);
    for point in [["--offset", &mark.offset.to_string()], ["--time", &mark.at.to_string()]] {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("data");
        let decoder = Path::new(env!("CARGO_MANIFEST_DIR")).join("decoder/decode.py");
        let output =
            Command::new(&python).arg(decoder).arg(following.archive()).arg(&folder).args(point).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        if point[0] == "--time" && output.status.code() == Some(3) {
            // a busy machine blurs the time; then redwind refuses it as well
            let _ = following.plan(point[1]).expect(3);
            continue;
        }
        assert!(output.status.success(), "{point:?}: {stderr}");
        let restored = Server::start_with(flavor, ServerOptions::restored_aof(&folder));
        assert_restored(&mark, &restored);
    }
}
on_each_flavor!(python_decoder_agrees: redis_7_0 redis_8_6 valkey_9 falkordb);
