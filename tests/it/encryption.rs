//! Encrypted archives, as their owner meets them: keys, restores, a crash, a change of recipients.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use redwind_archive::testing::with_same_checksum;
use redwind_tests::files::below;
use redwind_tests::mark::Mark;
use redwind_tests::objects::{Kind, ObjectServer};
use redwind_tests::redwind::{Agent, Finished, Stage, StoreAddress, restore, run, verify};
use redwind_tests::server::{Cli, Server};
use redwind_tests::servers::{Flavor, skip_without};
use redwind_tests::story::{Following, QUICK, check, only_source, patient_server};
use redwind_tests::workload::Workload;
use redwind_tests::{on_each_flavor, poll};
use serde_json::Value as Json;
use tempfile::TempDir;

/// A key that no log may show.
const CANARY: &str = "canary-of-the-keys-and-values";

/// A person with an identity.
struct Owner {
    folder: TempDir,
    recipient: String,
}

impl Owner {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = keygen(&folder.path().join("identity")).expect(0);
        Self { folder, recipient: made.stdout.trim().to_owned() }
    }

    fn identity(&self) -> PathBuf {
        self.folder.path().join("identity")
    }
}

fn keygen(path: &Path) -> Finished {
    run(None, &["keygen", "-o", path.to_str().unwrap()])
}

/// The archive as somebody with these identities sees it.
fn seen_by(store: &StoreAddress, owners: &[&Owner]) -> StoreAddress {
    let mut store = store.clone();
    let files: Vec<String> = owners.iter().map(|owner| owner.identity().display().to_string()).collect();
    if !files.is_empty() {
        store.env.push(("REDWIND_IDENTITY_FILE".to_owned(), files.join(",")));
    }
    store
}

/// A restore to the newest state that is refused: its message.
fn refused(store: &StoreAddress) -> String {
    refused_to(store, "latest")
}

fn refused_to(store: &StoreAddress, target: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("data");
    let refused = restore(store, target, &["--aof", to.to_str().unwrap()]).expect(2);
    assert!(!to.exists(), "nothing appears at the destination");
    refused.stderr
}

/// kill -9 under load: the agent that goes on holds recipients only. Whoever has the identity restores
/// everything; whoever has none, or another one, is told so.
fn an_encrypted_archive_is_its_owners(flavor: &Flavor) {
    let (owner, stranger) = (Owner::new(), Owner::new());
    let server = patient_server(flavor);
    let (mut cli, mut workload) = (server.cli(), Workload::any(flavor));
    workload.run(&mut cli, 100);
    cli.command(&["SET", CANARY, CANARY]);
    let mut following = Following::start_with(&server, &[QUICK, &["--recipient", &owner.recipient]].concat());
    cli.command(&["APPEND", CANARY, CANARY]);
    let before = following.mark("before the kill", &server);
    let mut workload = following.kill_under_load(&server, workload);
    let after = following.mark("after the kill", &server);
    workload.run(&mut cli, 30);
    following.wait_durable(&server);

    let bare = following.store.clone();
    following.store = seen_by(&bare, &[&owner]);
    let listed = following.list();
    assert_eq!(listed["gaps"], Json::Array(Vec::new()));
    assert_eq!(listed["windows"].as_array().map(Vec::len), Some(1), "{listed}");
    for mark in [&before, &after] {
        following.check(mark);
    }
    following.verify();

    let unopened = verify(&bare).expect(0).stdout;
    assert!(unopened.contains("were not decrypted"), "{unopened}");
    let missing = refused(&bare);
    assert!(missing.contains("--identity-file"), "{missing}");
    let wrong = refused(&seen_by(&bare, &[&stranger]));
    assert!(wrong.contains("wrong identity"), "{wrong}");
    assert!(!following.agent.log().contains(CANARY));

    following.agent.kill9();
    let plain = Agent::start(&server.url(), &bare, QUICK).wait_end(poll::PATIENCE);
    assert_eq!(plain.code(), Some(2), "nothing is written in the clear to an encrypted archive");
}
on_each_flavor!(an_encrypted_archive_is_its_owners: redis_7_0 valkey_9);

/// A key and a value that nothing compresses: where they are in the clear, they can be found.
struct Canary([Vec<u8>; 2]);

impl Canary {
    fn sing(cli: &mut Cli) -> Self {
        let noise = || std::iter::repeat_with(|| fastrand::u8(..)).take(400_000).collect::<Vec<_>>();
        let this = Self([noise(), noise()]);
        let [key, value] = &this.0;
        cli.command(&[b"SET".as_slice(), key, value]);
        this
    }

    /// For key and value, whether a file below the folder shows a piece. Of two, one lies within a block.
    fn found_below(&self, folder: &Path) -> [bool; 2] {
        let files: Vec<Vec<u8>> = below(folder).iter().map(|file| std::fs::read(file).unwrap()).collect();
        let shows = |piece: &[u8]| files.iter().any(|file| file.windows(piece.len()).any(|window| window == piece));
        self.0.each_ref().map(|noise| [133_000, 266_000].into_iter().any(|at| shows(&noise[at..at + 32])))
    }
}

/// Neither in a snapshot nor in the log or the spool is anything of what was written to be found; in a plain
/// archive it is in all three.
fn nothing_lies_in_the_clear(flavor: &Flavor) {
    let owner = Owner::new();
    for (options, plain) in [(&["--recipient", owner.recipient.as_str()][..], false), (&[], true)] {
        let server = patient_server(flavor);
        let mut cli = server.cli();
        let in_snapshot = Canary::sing(&mut cli);
        let mut following = Following::start_with(&server, &[QUICK, options].concat());
        let in_log = Canary::sing(&mut cli);
        following.wait_durable(&server);
        let away = following.take_the_store_away();
        let in_spool = Canary::sing(&mut cli);
        following.agent.wait_offset(Stage::Spooled, cli.offset());
        following.agent.kill9();
        away.give_back();
        let (archive, spool) = (following.archive(), following.agent.spool());
        for (canary, place) in
            [(&in_snapshot, &archive.join("chunk")), (&in_log, &archive.join("log")), (&in_spool, &spool)]
        {
            assert_eq!(canary.found_below(place), [plain; 2], "in {}", place.display());
            if !plain {
                assert_eq!([&archive, &spool].map(|folder| canary.found_below(folder)), [[false; 2]; 2]);
            }
        }
    }
}
on_each_flavor!(nothing_lies_in_the_clear: redis_7_0);

/// Rot is named and not restored, with an identity and without; and so is, with one, what somebody forged who
/// can put into the bucket and has no key, so that each checksum is right.
fn rot_and_forgeries_are_named(flavor: &Flavor) {
    let owner = Owner::new();
    let server = patient_server(flavor);
    let mut cli = server.cli();
    Canary::sing(&mut cli);
    let mut following = Following::start_with(&server, &[QUICK, &["--recipient", &owner.recipient]].concat());
    Canary::sing(&mut cli);
    following.wait_durable(&server);
    assert_eq!(following.agent.stop().code(), Some(0));
    let bare = following.store.clone();
    following.store = seen_by(&bare, &[&owner]);
    for kind in ["log", "chunk"] {
        let objects = below(&following.archive().join(kind));
        let object = objects.iter().max_by_key(|object| object.metadata().unwrap().len()).unwrap();
        let name = object.strip_prefix(following.archive()).unwrap().to_str().unwrap();
        let sound = std::fs::read(object).unwrap();
        // in the middle of what is encrypted
        let middle = sound.len() / 2;
        let mut rotten = sound.clone();
        rotten[middle] ^= 1;
        for (what, bytes, unopened) in [("rotten", rotten, 4), ("forged", with_same_checksum(&sound, middle), 0)] {
            std::fs::write(object, bytes).unwrap();
            let _ = verify(&bare).expect(unopened);
            let found = verify(&following.store).expect(4).stdout;
            let named = found.lines().any(|line| line.starts_with("DAMAGE") && line.contains(name));
            assert!(named, "{what} {name}: {found}");
            let to = tempfile::tempdir().unwrap();
            let data = to.path().join("data");
            let refused = restore(&following.store, "latest", &["--aof", data.to_str().unwrap()]).expect(4);
            assert!(refused.stderr.contains(name), "{what} {name}: {}", refused.stderr);
            assert!(!data.exists(), "nothing appears at the destination");
        }
        std::fs::write(object, sound).unwrap();
    }
    following.verify();
}
on_each_flavor!(rot_and_forgeries_are_named: redis_7_0);

/// An archive whose recipients have changed: the key was set to `before` under the former one and, after an
/// orderly restart of the agent, to `after` under the new one. The server is sent `meanwhile` in between.
fn rotated(server: &Server, meanwhile: &[&[&str]]) -> (Owner, Owner, Following) {
    let (former, new) = (Owner::new(), Owner::new());
    let recipients = former.folder.path().join("recipients");
    std::fs::write(&recipients, format!("# who may restore\n{}\n", former.recipient)).unwrap();
    let mut cli = server.cli();
    let arguments = [QUICK, &["--recipients-file", recipients.to_str().unwrap()]].concat();
    let mut following = Following::start_with(server, &arguments);
    cli.command(&["SET", "key", "before"]);
    following.wait_durable(server);
    assert_eq!(following.agent.stop().code(), Some(0));
    std::fs::write(&recipients, format!("{}\n", new.recipient)).unwrap();
    for command in meanwhile {
        cli.command(command);
    }
    following.agent.start_again();
    following.agent.wait_ready();
    cli.command(&["SET", "key", "after"]);
    following.wait_durable(server);
    assert_eq!(following.agent.stop().code(), Some(0));
    (former, new, following)
}

/// What is written after a change is the new recipient's; what was written before becomes theirs, too,
/// when its owner says so.
fn recipients_can_change(flavor: &Flavor) {
    let server = patient_server(flavor);
    let (former, new, mut following) = rotated(&server, &[]);
    let bare = following.store.clone();
    following.store = seen_by(&bare, &[&former, &new]);
    assert_eq!(following.restored("latest").get("key"), "after");
    following.verify();
    let locked = refused(&seen_by(&bare, &[&new]));
    assert!(locked.contains("key epoch") && locked.contains("redwind rewrap"), "{locked}");

    let identity = former.identity();
    let rewrap = ["rewrap", "--identity-file", identity.to_str().unwrap(), "--recipient", &new.recipient];
    // One of the two epochs is the new recipient's alone, which is said.
    let told = run(Some(&bare), &rewrap).expect(2);
    assert!(told.stdout.contains("1 epochs") && told.stderr.contains("key epoch"), "{told:?}");
    following.store = seen_by(&bare, &[&new]);
    assert_eq!(following.restored("latest").get("key"), "after");
    following.verify();
    let audited = run(Some(&bare), &["list", "--audit"]).expect(0).stdout;
    assert!(audited.contains(&format!("wrapped to {}", former.recipient)), "{audited}");
    assert!(audited.contains(&format!("keys of 1 epochs wrapped to {}", new.recipient)), "{audited}");
}
on_each_flavor!(recipients_can_change: redis_7_0);

/// After a change, what is locked to the new recipient does not keep from them what is theirs.
fn a_new_identity_restores_the_history_that_began_under_it(flavor: &Flavor) {
    let server = patient_server(flavor);
    let (former, new, mut following) = rotated(&server, &[&["DEBUG", "CHANGE-REPL-ID"]]);
    let bare = following.store.clone();
    let windows = following.list()["windows"].take();
    let until = windows[0]["complete_until"].as_str().expect("the first history has a window");
    following.store = seen_by(&bare, &[&new]);
    assert_eq!(following.restored("latest").get("key"), "after");
    let listed = following.list();
    assert_eq!(listed["locked_histories"][0]["history"], windows[0]["history"], "{listed}");
    assert_eq!(listed["windows"].as_array().map(Vec::len), Some(1), "{listed}");
    let locked = refused_to(&following.store, until);
    assert!(locked.contains("is locked") && locked.contains("redwind rewrap"), "{locked}");

    following.store = seen_by(&bare, &[&former]);
    assert_eq!(following.restored(until).get("key"), "before");
    assert!(refused(&following.store).contains("is locked"));
}
on_each_flavor!(a_new_identity_restores_the_history_that_began_under_it: redis_7_0);

/// The same over the wire to a bucket.
fn an_encrypted_archive_in_a_bucket(flavor: &Flavor) {
    let Some(objects) = ObjectServer::start(Kind::Moto, "an_encrypted_archive_in_a_bucket") else { return };
    let (owner, store) = (Owner::new(), objects.store());
    let server = patient_server(flavor);
    let (mut cli, mut workload) = (server.cli(), Workload::any(flavor));
    workload.run(&mut cli, 50);
    let mut agent = Agent::start(&server.url(), &store, &[QUICK, &["--recipient", &owner.recipient]].concat());
    agent.wait_ready();
    poll::until("something can be restored", || agent.offset(Stage::Durable));
    workload.run(&mut cli, 50);
    let mark = Mark::take("in a bucket", &server, |offset| agent.wait_offset(Stage::Received, offset));
    agent.kill9();
    agent.start_again();
    agent.wait_ready();
    workload.run(&mut cli, 20);
    agent.wait_offset(Stage::Durable, cli.offset());
    assert_eq!(agent.stop().code(), Some(0));
    let store = seen_by(&store, &[&owner]);
    assert_eq!(only_source(&store)["gaps"], Json::Array(Vec::new()));
    check(&store, flavor, &mark);
    let _ = verify(&store).expect(0);
}
on_each_flavor!(an_encrypted_archive_in_a_bucket: redis_7_0);

/// A plain archive stays one, and an identity is no leave to read one in an encrypted one's place.
fn a_plain_archive_is_not_taken_for_an_encrypted_one(flavor: &Flavor) {
    let owner = Owner::new();
    let server = patient_server(flavor);
    let mut following = Following::start(&server);
    assert_eq!(following.agent.stop().code(), Some(0));
    let recipient = ["--recipient", &owner.recipient];
    let mixed = Agent::start(&server.url(), &following.store, &recipient).wait_end(poll::PATIENCE);
    assert_eq!(mixed.code(), Some(2));
    let told = refused(&seen_by(&following.store, &[&owner]));
    assert!(told.contains("not encrypted"), "{told}");
}
on_each_flavor!(a_plain_archive_is_not_taken_for_an_encrypted_one: redis_7_0);

#[test]
fn an_identity_is_its_owners_file_and_never_overwritten() {
    let owner = Owner::new();
    let identity = owner.identity();
    assert!(owner.recipient.starts_with("age1"), "{}", owner.recipient);
    assert_eq!(std::fs::metadata(&identity).unwrap().permissions().mode() & 0o777, 0o600);
    let secret = std::fs::read_to_string(&identity).unwrap();
    assert!(secret.contains("AGE-SECRET-KEY-1") && secret.contains(&owner.recipient));
    let again = keygen(&identity).expect(2);
    assert!(again.stderr.contains("never overwritten"), "{}", again.stderr);
    assert_eq!(std::fs::read_to_string(&identity).unwrap(), secret);

    let secret = secret.lines().last().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = StoreAddress::folder(folder.path());
    let mut refused = Agent::start("redis://127.0.0.1:1", &store, &["--recipient", secret]);
    assert_eq!(refused.wait_end(poll::PATIENCE).code(), Some(2));
    let told = refused.log();
    assert!(told.contains("secret") && !told.contains("AGE-SECRET-KEY-1"), "{told}");
}

/// Whoever has lost Redwind has the stock tool: it opens the key object.
fn the_stock_tool_opens_a_key(flavor: &Flavor) {
    if Command::new("age").arg("--version").output().is_err() {
        return skip_without("age", "apt-get install age", "the_stock_tool_opens_a_key");
    }
    let owner = Owner::new();
    let server = patient_server(flavor);
    let following = Following::start_with(&server, &[QUICK, &["--recipient", &owner.recipient]].concat());
    let key = below(&following.archive().join("key")).swap_remove(0);
    let opened = Command::new("age").arg("--decrypt").arg("-i").arg(owner.identity()).arg(key).output().unwrap();
    let text = String::from_utf8(opened.stdout).unwrap();
    assert!(text.starts_with("redwind-key 1 "), "{}", String::from_utf8_lossy(&opened.stderr));
    assert_eq!(text.trim_end().rsplit(' ').next().map(str::len), Some(64));
}
on_each_flavor!(the_stock_tool_opens_a_key: redis_7_0);
