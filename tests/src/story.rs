//! What most stories begin with, a server that an agent follows into an archive; and what they end
//! with, a restore that is held against what the server had held.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use serde_json::Value as Json;
use tempfile::TempDir;

use crate::dataset::{Dataset, Tolerance};
use crate::figures::Figures;
use crate::ledger::Account;
use crate::mark::Mark;
use crate::oracle::capture_suspended;
use crate::poll;
use crate::redwind::{Agent, Finished, Stage, StoreAddress, list, restore, verify};
use crate::server::{Cli, Server, ServerOptions};
use crate::servers::Flavor;
use crate::workload::Workload;

/// Short, so that no story waits for a flush that is not its subject.
pub const QUICK: &[&str] = &["--flush-interval", "100ms"];

/// A server whose backlog outlasts whatever a story does while nobody follows it.
pub fn patient_server(flavor: &Flavor) -> Server {
    Server::start_with(flavor, ServerOptions::default().config("repl-backlog-size 256mb"))
}

/// A server that holds something of every kind and whose stream does not go on in database 0, with what
/// makes it go on.
pub fn server_in_database_3(flavor: &Flavor) -> (Server, Cli, Workload) {
    let server = patient_server(flavor);
    let (mut cli, mut workload) = (server.cli(), Workload::any(flavor));
    workload.prelude(&mut cli);
    cli.command(&["SELECT", "3"]);
    cli.command(&["SET", "last", "before the agent"]);
    (server, cli, workload)
}

/// An agent, and its archive in a folder.
#[derive(Debug)]
pub struct Following {
    /// It follows a server.
    pub agent: Agent,
    /// Into this.
    pub store: StoreAddress,
    flavor: Flavor,
    folder: TempDir,
}

impl Following {
    /// Starts an agent on `server` and waits until everything it holds can be restored.
    pub fn start(server: &Server) -> Self {
        Self::start_with(server, QUICK)
    }

    /// As [`Self::start`], with arguments for the agent.
    pub fn start_with(server: &Server, more: &[&str]) -> Self {
        let mut this = Self::start_unready(server, more);
        this.wait_restorable();
        this
    }

    /// As [`Self::start_with`], and does not wait for anything.
    ///
    /// # Panics
    /// When the agent cannot be executed.
    pub fn start_unready(server: &Server, more: &[&str]) -> Self {
        Self::start_at(server.flavor(), &server.url(), more)
    }

    /// As [`Self::start_unready`], on a server at another URL than its own.
    ///
    /// # Panics
    /// When the agent cannot be executed.
    pub fn start_at(flavor: &Flavor, source: &str, more: &[&str]) -> Self {
        Self::start_under(&[], flavor, source, more)
    }

    /// As [`Self::start_at`], the agent executed by another program.
    ///
    /// # Panics
    /// When it cannot be executed.
    pub fn start_under(launcher: &[&str], flavor: &Flavor, source: &str, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let archive = folder.path().join("archive");
        std::fs::create_dir(&archive).expect("the folder is new");
        let store = StoreAddress::folder(&archive);
        let agent = Agent::start_under(launcher, source, &store, more);
        Self { agent, store, flavor: flavor.clone(), folder }
    }

    /// Waits until the agent archives and its history's first snapshot is complete.
    ///
    /// # Panics
    /// When it does not come to it within [`poll::PATIENCE`].
    pub fn wait_restorable(&mut self) {
        self.agent.wait_ready();
        poll::until("something can be restored", || self.agent.offset(Stage::Durable));
    }

    /// Bytes received of the snapshot under way, if one is.
    pub fn snapshot_received(&self) -> Option<f64> {
        self.agent.metric("redwind_snapshot_received_bytes")
    }

    /// Makes every request to the store fail until it is given back.
    ///
    /// # Panics
    /// When the folder cannot be moved.
    pub fn take_the_store_away(&self) -> StoreAway {
        let archive = self.archive();
        let away = archive.with_file_name("away");
        std::fs::rename(&archive, &away).expect("it is there");
        // no folder can be made in its place
        std::fs::write(&archive, b"in the way").expect("nothing is there");
        StoreAway { archive, away }
    }

    /// The source's folder in the archive.
    pub fn archive(&self) -> PathBuf {
        self.folder.path().join("archive/default")
    }

    /// A mark on the source, or on the primary that it replicates from.
    pub fn mark(&self, label: &str, primary: &Server) -> Mark {
        Mark::take(label, primary, |offset| self.agent.wait_offset(Stage::Received, offset))
    }

    /// Kills the agent while `workload` goes on, when some of it has come, and starts it again.
    pub fn kill_under_load(&mut self, server: &Server, workload: Workload) -> Workload {
        let load = Load::start(server, workload);
        let received = self.agent.offset(Stage::Received).unwrap_or_default();
        self.agent.wait_offset(Stage::Received, received + 20_000);
        self.agent.kill9();
        self.agent.start_again();
        self.agent.wait_ready();
        load.stop()
    }

    /// As [`flush`].
    pub fn flush(&self, primary: &Server) {
        flush(&self.agent, primary);
    }

    /// As [`assert_whole`], of its archive.
    pub fn assert_whole(&self, primary: &Server, account: Account, gaps: u64) -> Figures {
        assert_whole(&self.agent, &self.store, primary, account, gaps)
    }

    /// Waits until everything that `server` has sent can be restored. To be called right after a write:
    /// else a PING may have come, which waits for the next write or a minute to be stored ([`flush`]).
    pub fn wait_durable(&self, server: &Server) {
        self.agent.wait_offset(Stage::Durable, server.cli().offset());
    }

    /// `redwind list`, the only source's.
    pub fn list(&self) -> Json {
        only_source(&self.store)
    }

    /// Restores both by offset and by time, and holds the outcomes against the mark.
    pub fn check(&self, mark: &Mark) {
        check(&self.store, &self.flavor, mark);
    }

    /// Restores by offset, and holds the outcome against the mark.
    pub fn check_offset(&self, mark: &Mark) {
        println!("restoring {} by its offset {}", mark.label, mark.offset);
        let restored = restored_aof(&self.store, &self.flavor, &format!("offset:{}", mark.offset));
        assert_restored(mark, &restored.server);
    }

    /// As [`Self::check_offset`], in the newest of several histories that may have the offset.
    ///
    /// # Panics
    /// When there is no window.
    pub fn check_newest(&self, mark: &Mark) {
        let to = newest(&self.list(), mark.offset);
        println!("restoring {} to {to}", mark.label);
        assert_restored(mark, &self.restored(&to).server);
    }

    /// Restores to any target.
    pub fn restored(&self, to: &str) -> Restored {
        restored_aof(&self.store, &self.flavor, to)
    }

    /// `restore --to TARGET --dry-run`.
    pub fn plan(&self, to: &str) -> Finished {
        restore(&self.store, to, &["--dry-run"])
    }

    /// Fails unless every object is sound.
    pub fn verify(&self) {
        let _ = verify(&self.store).expect(0);
    }
}

/// An archive that has been moved away.
#[derive(Debug)]
pub struct StoreAway {
    archive: PathBuf,
    away: PathBuf,
}

impl StoreAway {
    /// Moves it back.
    ///
    /// # Panics
    /// When it cannot be moved.
    pub fn give_back(self) {
        std::fs::remove_file(&self.archive).expect("it is in the way");
        std::fs::rename(&self.away, &self.archive).expect("it was there");
    }
}

/// Makes one more write to `primary`, and waits until it and everything before it can be restored.
pub fn flush(agent: &Agent, primary: &Server) {
    const WRITE: [&str; 3] = ["SET", "one", "more"];
    const BYTES: u64 = b"*3\r\n$3\r\nSET\r\n$3\r\none\r\n$4\r\nmore\r\n".len() as u64;
    let mut cli = primary.cli();
    let before = cli.offset();
    cli.command(&WRITE);
    // not the offset after it, which the next PING may have moved
    agent.wait_offset(Stage::Durable, before + BYTES);
}

/// Fails unless the archive has no more than these gaps, one window for each side of them, nothing but
/// sound objects, and in the newest window all that the quiet `primary` holds and the account confirms.
pub fn assert_whole(agent: &Agent, store: &StoreAddress, primary: &Server, account: Account, gaps: u64) -> Figures {
    let mark = Mark::take("the end", primary, |offset| agent.wait_offset(Stage::Received, offset));
    flush(agent, primary);
    let listed = only_source(store);
    let [listed_gaps, windows] = ["gaps", "windows"].map(|key| listed[key].as_array().map_or(0, Vec::len) as u64);
    assert_eq!((listed_gaps, windows), (gaps, gaps + 1), "{listed}");
    let to = newest(&listed, mark.offset);
    println!("restoring {} to {to}", mark.label);
    let restored = restored_aof(store, primary.flavor(), &to);
    assert_restored(&mark, &restored.server);
    account.assert_held(&restored.server);
    let _ = verify(store).expect(0);
    Figures { acknowledged: account.confirmed, gaps, ..Figures::default() }
}

/// An offset in the newest of several histories that may have it, as a target.
fn newest(listed: &Json, offset: u64) -> String {
    let newest = listed["windows"].as_array().and_then(|windows| windows.last()).expect("there is a window");
    let history = newest["history"].as_str().expect("a window belongs to a history");
    format!("offset:{history}:{offset}")
}

/// What an archive's only source can be restored to.
pub fn only_source(store: &StoreAddress) -> Json {
    list(store)["sources"][0].take()
}

/// Restores both by offset and by time, and holds the outcomes against the mark.
pub fn check(store: &StoreAddress, flavor: &Flavor, mark: &Mark) {
    let time = mark.at.to_string();
    for to in [format!("offset:{}", mark.offset), time.clone()] {
        println!("restoring {} to {to}", mark.label);
        if to == time && in_a_blur(store, &time) {
            // the machine was too busy for the agent to read in time, and it says so
            let _ = restore(store, &to, &["--dry-run"]).expect(3);
            continue;
        }
        let restored = restored_aof(store, flavor, &to);
        assert_restored(mark, &restored.server);
    }
}

/// Fails with the differences between the mark and a server whose expiry is suspended.
pub fn assert_restored(mark: &Mark, server: &Server) {
    let flavor = server.flavor();
    mark.dataset.assert_same(&capture_suspended(server), Tolerance::of(flavor));
}

fn in_a_blur(store: &StoreAddress, time: &str) -> bool {
    let source = only_source(store);
    let blurs = source["blurs"].as_array().expect("list shows blurs").clone();
    let edge = |blur: &Json, name: &str| blur[name].as_str().unwrap_or_default().to_owned();
    // all instants are written alike, with six decimals
    blurs.iter().any(|blur| edge(blur, "from").as_str() < time && time < edge(blur, "to").as_str())
}

/// A server on restored files, whose expiry is suspended.
#[derive(Debug)]
pub struct Restored {
    /// The server.
    pub server: Server,
    _folder: TempDir,
}

impl Restored {
    /// The string under `key` in database 0.
    pub fn get(&self, key: &str) -> String {
        crate::server::text(&self.server.cli().command(&["GET", key]))
    }
}

/// Restores to an append-only file, and starts a server on it.
///
/// # Panics
/// When it is refused, or leaves anything beside the folder.
pub fn restored_aof(store: &StoreAddress, flavor: &Flavor, to: &str) -> Restored {
    let parent = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = parent.path().join("data");
    let _ = restore(store, to, &["--aof", path(&folder)]).expect(0);
    let beside = std::fs::read_dir(parent.path()).expect("the folder is there").count();
    assert_eq!(beside, 1, "nothing is left beside the folder");
    Restored { server: Server::start_with(flavor, ServerOptions::restored_aof(&folder)), _folder: parent }
}

/// Restores to an RDB file, made by the flavor's own program, and starts a server on it.
///
/// # Panics
/// When it is refused.
pub fn restored_rdb(store: &StoreAddress, flavor: &Flavor, to: &str) -> Restored {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("dump.rdb");
    let mut more = vec!["--rdb", path(&file), "--engine", path(&flavor.program)];
    if let Some(module) = &flavor.graph_module {
        for word in ["--loadmodule", path(module), "CMD_INFO", "no"] {
            more.extend(["--engine-arg", word]);
        }
    }
    let _ = restore(store, to, &more).expect(0);
    Restored { server: Server::start_with(flavor, ServerOptions::restored_rdb(folder.path())), _folder: folder }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

/// A workload that goes on in a thread until it is stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Workload>,
}

impl Load {
    /// Goes on with `workload` on `server`.
    pub fn start(server: &Server, mut workload: Workload) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let mut cli = server.cli();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                workload.step(&mut cli);
            }
            workload
        });
        Self { stop, thread }
    }

    /// Stops it and gives the workload back.
    ///
    /// # Panics
    /// When it has panicked.
    pub fn stop(self) -> Workload {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the workload is well-formed")
    }
}

/// Both datasets without what expires, for servers that cannot be kept from dropping it.
pub fn assert_lasting_same(expected: &Dataset, actual: &Dataset, flavor: &Flavor) {
    expected.lasting(actual).assert_same(&actual.lasting(expected), Tolerance::of(flavor));
}
