//! A writer that remembers what it was promised.
//!
//! It makes numbered writes: each sets one bit of a bitmap and advances a counter, in one transaction.
//! A write that is lost leaves a hole in the bitmap; one that is applied twice makes the counter run
//! ahead of it; a transaction that is torn does either. After every few writes `WAIT 1` asks whether
//! they are durable, which with an agent as the only replica means that they can be restored.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastrand::Rng;
use redis::Value;

use crate::poll;
use crate::server::{Cli, Server, number};

/// Where it writes: no other workload does.
const DATABASE: &str = "7";
const BITMAP: &str = "ledger";
const COUNTER: &str = "ledger:count";
/// How long a `WAIT` lasts while nobody acknowledges, in milliseconds.
const WAIT_MILLIS: &str = "300";

/// What was written, and what of it was promised to be durable. Writes are numbered from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Writes that the server has taken.
    pub written: u64,
    /// The first so many of them are durable.
    pub confirmed: u64,
}

/// A ledger that is being written by a thread of its own.
#[derive(Debug)]
pub struct Ledger {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    account: Account,
    /// When the last batch that was confirmed had been begun.
    confirmed_since: Option<Instant>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    /// Begins to write to `server`.
    pub fn start(server: &Server, seed: u64) -> Self {
        Self::go_on(server, seed, Account::default())
    }

    /// Goes on where another ended.
    pub fn go_on(server: &Server, seed: u64, account: Account) -> Self {
        let shared = Arc::new(Shared::default());
        shared.lock().account = account;
        let (writing, socket) = (shared.clone(), server.socket());
        let thread = std::thread::spawn(move || {
            let mut rng = Rng::with_seed(seed);
            while !writing.stop.load(Ordering::Relaxed) {
                if write(&socket, &mut rng, &writing).is_none() {
                    // while the server is away, nothing is written
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// What has been written so far.
    pub fn account(&self) -> Account {
        self.shared.lock().account
    }

    /// How long after `fault` a write that was begun after it was first confirmed. Waits for that.
    ///
    /// # Panics
    /// When none is within `patience`.
    pub fn recovery(&self, fault: Instant, patience: Duration) -> Duration {
        let deadline = Instant::now() + patience;
        let mut state = self.shared.lock();
        loop {
            if state.confirmed_since.is_some_and(|since| since >= fault) {
                return fault.elapsed();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited {patience:?} in vain until writes are durable again");
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// As [`Self::recovery`], within [`poll::PATIENCE`].
    pub fn recovered(&self) -> Duration {
        self.recovery(Instant::now(), poll::PATIENCE)
    }

    /// Ends it.
    ///
    /// # Panics
    /// When the writer has.
    pub fn stop(mut self) -> Account {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("it is stopped once").join().expect("the writer does not panic");
        self.account()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// Writes until it is stopped; none when there is no connection, or it has broken.
fn write(socket: &Path, rng: &mut Rng, shared: &Shared) -> Option<()> {
    let mut cli = Cli::connect(socket).ok()?;
    take_up(&mut cli, shared)?;
    while !shared.stop.load(Ordering::Relaxed) {
        batch(&mut cli, rng, shared)?;
    }
    Some(())
}

/// The answer to the last write may have been lost with the connection: the server knows whether it has it.
fn take_up(cli: &mut Cli, shared: &Shared) -> Option<()> {
    cli.try_command(&["SELECT", DATABASE]).ok()?;
    let counted = counter(&cli.try_command(&["GET", COUNTER]).ok()?);
    let written = &mut shared.lock().account.written;
    assert!((*written..=*written + 1).contains(&counted), "{counted} writes are counted, {written} were made");
    *written = counted;
    Some(())
}

fn counter(reply: &Value) -> u64 {
    match reply {
        Value::Nil => 0,
        counter => u64::try_from(number(counter)).unwrap_or_default(),
    }
}

/// A few writes and one `WAIT`; none when the connection has broken.
fn batch(cli: &mut Cli, rng: &mut Rng, shared: &Shared) -> Option<()> {
    let began = Instant::now();
    for _ in 0..rng.u32(1..=30) {
        let next = shared.lock().account.written.to_string();
        for words in [&["MULTI"][..], &["SETBIT", BITMAP, &next, "1"], &["INCR", COUNTER]] {
            cli.try_command(words).ok()?;
        }
        let done = cli.try_command(&["EXEC"]).ok()?;
        if done == Value::Nil {
            return None;
        }
        shared.lock().account.written += 1;
    }
    let answered = cli.try_command(&["WAIT", "1", WAIT_MILLIS]).ok()?;
    if number(&answered) >= 1 {
        let mut state = shared.lock();
        state.account.confirmed = state.account.written;
        state.confirmed_since = Some(began);
        shared.changed.notify_all();
    }
    Some(())
}

/// How many writes of a ledger a server holds.
///
/// # Panics
/// When there are holes between them, or one was applied twice.
pub fn held(server: &Server) -> u64 {
    let mut cli = server.cli();
    cli.command(&["SELECT", DATABASE]);
    let ask = |cli: &mut Cli, words: &[&str]| u64::try_from(number(&cli.command(words))).unwrap_or_default();
    let count = ask(&mut cli, &["BITCOUNT", BITMAP]);
    let first_hole = match cli.command(&["BITPOS", BITMAP, "0"]) {
        Value::Int(hole) if hole >= 0 => hole.unsigned_abs(),
        _ => count,
    };
    assert_eq!(first_hole, count, "the ledger has a hole at its write {first_hole}, of {count}");
    let advanced = counter(&cli.command(&["GET", COUNTER]));
    assert_eq!(advanced, count, "every write was applied once, and whole");
    count
}

impl Account {
    /// Confirmed writes that `restored` does not hold.
    pub fn lost(&self, restored: &Server) -> u64 {
        let held = held(restored);
        println!("the ledger: {held} writes held, {} confirmed, {} written", self.confirmed, self.written);
        self.confirmed.saturating_sub(held)
    }

    /// Fails unless `restored` holds every confirmed write.
    pub fn assert_held(&self, restored: &Server) {
        let lost = self.lost(restored);
        assert_eq!(lost, 0, "of {self:?}");
    }
}
