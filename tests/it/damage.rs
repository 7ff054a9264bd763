//! Damage in the bucket: it is named and never restored, what does not need it is, and an agent that
//! starts goes on.

use std::path::{Path, PathBuf};

use redwind_tests::files::below;
use redwind_tests::mark::Mark;
use redwind_tests::on_each_flavor;
use redwind_tests::redwind::{restore, run, verify};
use redwind_tests::server::{Server, ServerOptions};
use redwind_tests::servers::Flavor;
use redwind_tests::story::{Following, assert_restored, patient_server};
use redwind_tests::workload::Workload;

fn flip_a_bit(object: &Path) {
    Damage::FlippedBit.strike(object, None);
}

/// What may happen to an object in a store.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Damage {
    FlippedBit,
    Truncation,
    NoBytes,
    Zeroes,
    Garbage,
    Sibling,
    Loss,
}

impl Damage {
    const ALL: [Self; 7] =
        [Self::FlippedBit, Self::Truncation, Self::NoBytes, Self::Zeroes, Self::Garbage, Self::Sibling, Self::Loss];

    /// Damages an object; false if a sibling should take its place, and there is none.
    fn strike(self, object: &Path, sibling: Option<&Path>) -> bool {
        let mut bytes = std::fs::read(object).unwrap();
        let middle = bytes.len() / 2;
        match self {
            Self::FlippedBit => bytes[middle] ^= 4,
            Self::Truncation => bytes.truncate(bytes.len() - 9),
            Self::NoBytes => bytes.clear(),
            Self::Zeroes => bytes.fill(0),
            Self::Garbage => bytes.extend_from_slice(b"\0garbage\n"),
            Self::Sibling => {
                let Some(sibling) = sibling else { return false };
                bytes = std::fs::read(sibling).unwrap();
            }
            Self::Loss => std::fs::remove_file(object).unwrap(),
        }
        if self != Self::Loss {
            std::fs::write(object, bytes).unwrap();
        }
        true
    }
}

/// An archive of two snapshots, with marks: before and after one of its segments, and after the second
/// snapshot.
struct Archived {
    following: Following,
    early: Mark,
    late: Mark,
    newest: Mark,
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
        following.flush(&server);
        let sound = below(&following.archive().join("log")).len();
        workload.run(&mut cli, 100);
        let late = following.mark("after the damage", &server);
        // so that the second snapshot does not stand at the mark
        following.flush(&server);
        let between = below(&following.archive().join("log")).swap_remove(sound);
        let _ = following.agent.snapshot().expect(0);
        workload.run(&mut cli, 20);
        let newest = following.mark("after the second snapshot", &server);
        // the next term says where the log of this one ended: what is lost before is no longer a tail
        assert_eq!(following.agent.stop().code(), Some(0));
        following.agent.start_again();
        following.wait_restorable();
        cli.command(&["SET", "another", "term"]);
        following.wait_durable(&server);
        // entered into the audit log
        following.check_offset(&early);
        following.verify();
        Self { following, early, late, newest, between }
    }

    fn first(&self, kind: &str) -> PathBuf {
        let path = self.following.archive().join(kind);
        if path.is_file() { path } else { below(&path).swap_remove(0) }
    }

    /// Another object of the kind; of the archive's marker, which is the only one, any other.
    fn sibling(&self, kind: &str, object: &Path) -> Option<PathBuf> {
        let path = self.following.archive().join(kind);
        let folder = if path.is_file() { self.following.archive() } else { path };
        below(&folder).into_iter().rfind(|sibling| sibling != object)
    }

    /// `verify` names the object, but for what nobody can miss.
    fn assert_named(&self, kind: &str, damage: Damage, object: &Path) {
        // Without the archive's own document no entry can be told to belong to it.
        let audited = run(Some(&self.following.store), &["list", "--audit"]);
        let _ = audited.expect(if kind == "archive" { 4 } else { 0 });
        let found = verify(&self.following.store);
        if (kind, damage) == ("audit", Damage::Loss) {
            let _ = found.expect(0);
            return;
        }
        let found = found.expect(4);
        let name = object.strip_prefix(self.following.archive()).unwrap().to_str().unwrap();
        let named = match (kind, damage) {
            // what is lost from the log is told by what comes next
            ("log", Damage::Loss) => "log/",
            // of a lost manifest only the snapshot is known
            ("snapshot", Damage::Loss) => name.rsplit('-').next().unwrap(),
            _ => name,
        };
        let told = found.stdout.lines().any(|line| line.starts_with("DAMAGE") && line.contains(named));
        assert!(told, "{damage:?} of {name}: {}", found.stdout);
    }

    /// What needs the object is refused and leaves nothing; what does not is restored.
    fn assert_restores(&self, kind: &str, damage: Damage) {
        // without the manifest there is no snapshot to begin with
        let refused = if (kind, damage) == ("snapshot", Damage::Loss) { 3 } else { 4 };
        let (over_it, beside_it) = match kind {
            "archive" | "history" => (refused, refused),
            "term" | "audit" => (0, 0),
            _ => (refused, 0),
        };
        for (mark, code) in [(&self.late, over_it), (&self.newest, beside_it)] {
            let parent = tempfile::tempdir().unwrap();
            let folder = parent.path().join("data");
            let to = format!("offset:{}", mark.offset);
            let outcome = restore(&self.following.store, &to, &["--aof", folder.to_str().unwrap()]);
            assert_eq!(outcome.code, Some(code), "{damage:?} of {kind}, {}: {outcome:?}", mark.label);
            assert_eq!(folder.exists(), code == 0, "{damage:?} of {kind}: nothing appears unless all is well");
        }
    }
}

/// Every kind of object, damaged in every way that a store may: named, and never restored.
fn verify_finds_damage(flavor: &Flavor) {
    let archived = Archived::by(flavor);
    let following = &archived.following;
    for kind in ["archive", "term", "history", "log", "chunk", "snapshot", "audit"] {
        let object = if kind == "log" { archived.between.clone() } else { archived.first(kind) };
        let whole = std::fs::read(&object).unwrap();
        let sibling = archived.sibling(kind, &object);
        assert_eq!(sibling.is_none(), kind == "history", "of {kind} there is {sibling:?}");
        for damage in Damage::ALL {
            if damage.strike(&object, sibling.as_deref()) {
                archived.assert_named(kind, damage, &object);
                archived.assert_restores(kind, damage);
                if (kind, damage) == ("log", Damage::FlippedBit) {
                    following.check_offset(&archived.early);
                }
            }
            std::fs::write(&object, &whole).unwrap();
        }
    }
    following.verify();
    following.check_offset(&archived.late);
}
on_each_flavor!(verify_finds_damage: redis_7_0 valkey_9);

/// The refusal says which snapshot to build on instead, and with it the same state comes back.
fn a_damaged_snapshot_has_a_way_round(flavor: &Flavor) {
    let archived = Archived::by(flavor);
    let following = &archived.following;
    let manifests = below(&following.archive().join("snapshot"));
    let ids: Vec<&str> =
        manifests.iter().map(|manifest| manifest.to_str().unwrap().rsplit('-').next().unwrap()).collect();
    flip_a_bit(&below(&following.archive().join("chunk").join(ids[1]))[0]);
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("data");
    let to = format!("offset:{}", archived.newest.offset);
    let aof = ["--aof", folder.to_str().unwrap()];
    let refused = restore(&following.store, &to, &aof).expect(4);
    let hint = format!("add --snapshot {}", ids[0]);
    assert!(refused.stderr.contains(&hint) && refused.stderr.contains("chunk/"), "{}", refused.stderr);
    let _ = restore(&following.store, &to, &[&aof[..], &["--snapshot", ids[0]]].concat()).expect(0);
    assert_restored(&archived.newest, &Server::start_with(flavor, ServerOptions::restored_aof(&folder)));
}
on_each_flavor!(a_damaged_snapshot_has_a_way_round: redis_7_0);

/// Damages the log's last segment with bytes in it, and what follows.
fn damage_the_end(following: &Following) {
    let log = below(&following.archive().join("log"));
    let holds_bytes = |object: &&PathBuf| {
        let name = object.file_name().unwrap().to_str().unwrap().to_owned();
        name[..19] != name[20..39]
    };
    let last = log.iter().rposition(|object| holds_bytes(&object)).unwrap();
    log[last..].iter().for_each(|object| flip_a_bit(object));
}

/// An agent that finds the end of its archive damaged reads it again from the server; if the server no
/// longer has it, a gap says why.
fn a_damaged_end_is_read_again_or_told(flavor: &Flavor) {
    let server = patient_server(flavor);
    let (mut cli, mut workload) = (server.cli(), Workload::any(flavor));
    let mut following = Following::start(&server);
    workload.run(&mut cli, 100);
    let mark = following.mark("in what gets damaged", &server);
    assert_eq!(following.agent.stop().code(), Some(0));
    damage_the_end(&following);
    let _ = verify(&following.store).expect(4);
    following.agent.start_again();
    following.wait_restorable();
    cli.command(&["SET", "after", "the damage"]);
    following.wait_durable(&server);
    assert!(following.agent.log().contains("the end of the archive's log is damaged"), "{}", following.agent.log());
    following.verify();
    following.check_offset(&mark);
    assert_eq!(following.list()["gaps"].as_array().map(Vec::len), Some(0));

    assert_eq!(following.agent.stop().code(), Some(0));
    damage_the_end(&following);
    cli.command(&["CONFIG", "SET", "repl-backlog-size", "16384"]);
    for n in 0..20 {
        cli.command(&[b"SET".as_slice(), format!("missed:{n}").as_bytes(), &[b'x'; 10_000]]);
    }
    following.agent.start_again();
    following.wait_restorable();
    let mark = following.mark("in the history after", &server);
    following.flush(&server);
    let gaps = following.list()["gaps"].take();
    assert_eq!(gaps[0]["cause"], "log_damaged", "{gaps}");
    following.check_newest(&mark);
}
on_each_flavor!(a_damaged_end_is_read_again_or_told: redis_7_0 valkey_9);
