//! The protocol by which one of many agents writes the archive, in a world where every delay, lost
//! request, lost answer, crash and pause follows from a seed, and time passes only when nothing else can.
//! (The journal's threads are real. The clock waits for them, so that a seed repeats its story, but for
//! things at one instant that now and then change places.)
//!
//! The agents are the real ones from [`Candidacy`] on: signs of life, claims, recovery of the spool,
//! uploads, fencing, heartbeats. Simulated are the store and its clock, the source, and time. Whatever
//! happens, after each event:
//! - what was ever reported as stored is in the log that counts, byte for byte, and the log is a prefix
//!   of what the source sent;
//! - nobody reports more than a later writer found;
//! - the chain of checksums holds, and in the end `verify` finds nothing.
//!
//! `REDWIND_SIMULATION_RUNS=1000 REDWIND_SIMULATION_SEED=1 cargo test -p redwind-agent simulation` runs
//! more of it.

mod life;
mod world;

use std::path::PathBuf;

use redwind_archive::layout::Folder;
use redwind_archive::verify::{Severity, verify};
use tokio::sync::mpsc;

use self::life::{Birth, Life, STREAM_BYTES};
use self::world::{Run, Strike, Weather, World};
use super::*;
use crate::config::Succession;

/// Seeded runs unless `REDWIND_SIMULATION_RUNS` says otherwise.
const RUNS: u64 = 60;
/// Events of a seeded run.
const EVENTS: u64 = 30;
/// Agents that a seeded run has at a time.
const AGENTS_MAX: usize = 3;
/// An agent's first requests: its claim, its log's first segments, and its snapshot.
const STEPS_MAX: u64 = 60;
/// Longer than any agent waits for another.
const LONG: Duration = Duration::from_secs(200);

/// A world with its agents.
struct Simulation {
    world: World,
    struck: mpsc::UnboundedReceiver<Run>,
    lives: Vec<Life>,
    /// Spools that nobody works in.
    spools: Vec<PathBuf>,
    folder: TempDir,
    born: Run,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let (world, struck) = World::new(seed);
        // A disk that forgets is quick, and nothing here cuts its power.
        let shared = std::path::Path::new("/dev/shm");
        let folder = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() };
        Self { world, struck, lives: Vec::new(), spools: Vec::new(), folder: folder.unwrap(), born: 0 }
    }

    /// Starts an agent, on a spool that was left behind or on one of its own.
    fn start(&mut self, succession: Succession, spool: Option<PathBuf>) -> Run {
        let run = self.born;
        self.born += 1;
        let fresh = spool.is_none();
        let spool = spool.unwrap_or_else(|| self.folder.path().join(run.to_string()));
        self.lives.push(Life::begin(&self.world, Birth { run, succession, spool, fresh }));
        run
    }

    async fn kill(&mut self, index: usize) -> PathBuf {
        let life = self.lives.swap_remove(index);
        let (run, spool) = (life.run, life.spool().to_owned());
        life.kill().await;
        self.world.thaw(run);
        spool
    }

    fn index(&self, run: Run) -> Option<usize> {
        self.lives.iter().position(|life| life.run == run)
    }

    /// Lets time pass; kills whoever is struck meanwhile.
    async fn pass(&mut self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        loop {
            tokio::select! {
                biased;
                struck = self.struck.recv() => {
                    if let Some(index) = struck.and_then(|run| self.index(run)) {
                        let spool = self.kill(index).await;
                        self.spools.push(spool);
                    }
                }
                () = tokio::time::sleep_until(end) => break,
            }
        }
        self.bury().await;
    }

    /// Takes note of those that have ended by themselves.
    async fn bury(&mut self) {
        for index in (0..self.lives.len()).rev() {
            if self.lives[index].task.is_finished() {
                let spool = self.kill(index).await;
                self.spools.push(spool);
            }
        }
    }

    /// Everything that must hold at any time.
    async fn check(&self, when: &str) {
        let seed = self.world.seed;
        let violations = self.world.violations();
        assert!(violations.is_empty(), "seed {seed}, {when}: {violations:?}");
        let stream = stream(seed, STREAM_BYTES);
        for (history, reported) in self.world.reported() {
            let stored = stored_in(&self.world.truth(), &Identities::none(), history).await;
            assert!(stream.starts_with(&stored), "seed {seed}, {when}: {history} is not what was sent");
            let reported = reported.since(START) as usize;
            assert!(stored.len() >= reported, "seed {seed}, {when}: {reported} reported, {} there", stored.len());
        }
    }

    /// When all is over, one agent writes to the end of the stream, and the archive is whole.
    async fn finish(mut self) {
        self.world.set_weather(Weather::Calm);
        while !self.lives.is_empty() {
            self.kill(0).await;
        }
        self.start(Succession::TakeOver, None);
        let end = START.advance(stream(self.world.seed, STREAM_BYTES).len() as u64);
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.world.reported().into_values().max() < Some(end) {
            assert!(std::time::Instant::now() < deadline, "seed {}: not all is stored", self.world.seed);
            self.pass(LONG).await;
        }
        self.check("at the end").await;
        let ended = self.lives.swap_remove(0).stop().await.unwrap();
        assert_eq!(ended, COMPLETE);
        let report = verify(&self.world.truth(), &Identities::none(), |_| ()).await.unwrap();
        let damage: Vec<_> = report.findings.iter().filter(|found| found.severity == Severity::Damage).collect();
        assert!(damage.is_empty(), "seed {}: {damage:?}", self.world.seed);
        assert!(report.snapshots > 0, "something can be restored");
    }

    /// Something happens.
    async fn event(&mut self, number: u64) -> String {
        let chance = self.world.chance((number, "what"));
        let pick = |count: usize| self.world.chance((number, "which")) as usize % count;
        let succession = match self.world.chance((number, "how")) % 4 {
            0 => Succession::Yield,
            1 => Succession::TakeOver,
            _ => Succession::StandBy,
        };
        match chance % 12 {
            0..=2 if self.lives.len() < AGENTS_MAX => format!("start of {}", self.start(succession, None)),
            3 | 4 if !self.spools.is_empty() && self.lives.len() < AGENTS_MAX => {
                let spool = self.spools.swap_remove(pick(self.spools.len()));
                format!("restart as {}", self.start(succession, Some(spool)))
            }
            5 if !self.lives.is_empty() => {
                let index = pick(self.lives.len());
                let spool = self.kill(index).await;
                self.spools.push(spool);
                "kill".to_owned()
            }
            6 | 7 if !self.lives.is_empty() => {
                let run = self.lives[pick(self.lives.len())].run;
                let strike = if chance & 0x100 == 0 { Strike::Before } else { Strike::After };
                let step = self.world.steps(run) + self.world.chance((number, "step")) % 12;
                self.world.aim(run, step, strike);
                format!("crash of {run} {strike:?} its request {step}")
            }
            8 if !self.lives.is_empty() => {
                let run = self.lives[pick(self.lives.len())].run;
                self.world.freeze(run);
                self.pass(Duration::from_millis(self.world.chance((number, "long")) % 120_000)).await;
                self.world.thaw(run);
                format!("pause of {run}")
            }
            9 if !self.lives.is_empty() => {
                let index = pick(self.lives.len());
                let life = self.lives.swap_remove(index);
                let spool = life.spool().to_owned();
                drop(life.stop().await);
                self.spools.push(spool);
                "stop".to_owned()
            }
            other => {
                let weather = [Weather::Calm, Weather::Fair, Weather::Fair, Weather::Foul][other as usize % 4];
                self.world.set_weather(weather);
                format!("{weather:?} weather")
            }
        }
    }
}

fn simulate(scenario: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(scenario);
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn whatever_agents_stores_and_machines_do_nothing_reported_is_lost() {
    let first = variable("REDWIND_SIMULATION_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    let runs = variable("REDWIND_SIMULATION_RUNS").unwrap_or(RUNS);
    for seed in first..first + runs {
        println!("REDWIND_SIMULATION_SEED={seed}");
        simulate(async {
            let mut simulation = Simulation::new(seed);
            simulation.start(Succession::Yield, None);
            for number in 0..EVENTS {
                let millis = simulation.world.chance((number, "pass")) % 20_000;
                simulation.pass(Duration::from_millis(millis)).await;
                let event = simulation.event(number).await;
                println!("{:?}: {event}", simulation.world.now());
                simulation.check(&format!("after event {number}, {event}")).await;
            }
            simulation.finish().await;
        });
    }
}

/// What becomes of an agent that is struck.
#[derive(Clone, Copy, Debug)]
enum Blow {
    /// It dies, and is started again on its spool.
    Restart,
    /// It dies with its machine; another takes over.
    Loss,
    /// It hangs until another has taken over, and then goes on.
    Hang,
}

/// Strikes the first agent at its `step`-th request. Tells whether it came to that.
async fn blow(step: u64, strike: Strike, blow: Blow) -> bool {
    let mut simulation = Simulation::new(7);
    simulation.world.aim(0, step, strike);
    let run = simulation.start(Succession::Yield, None);
    let struck = tokio::select! {
        biased;
        struck = simulation.struck.recv() => struck.is_some(),
        () = tokio::time::sleep(20 * LONG) => false,
    };
    if !struck {
        return false;
    }
    match blow {
        Blow::Restart => {
            let spool = simulation.kill(0).await;
            simulation.start(Succession::Yield, Some(spool));
        }
        Blow::Loss => {
            let _lost = simulation.kill(0).await;
            simulation.start(Succession::TakeOver, None);
        }
        Blow::Hang => {
            simulation.start(Succession::TakeOver, None);
            simulation.pass(Duration::from_secs(5)).await;
            simulation.world.thaw(run);
        }
    }
    simulation.pass(Duration::from_secs(30)).await;
    simulation.check(&format!("{blow:?} {strike:?} request {step}")).await;
    simulation.finish().await;
    true
}

#[test]
fn an_agent_may_die_or_hang_at_every_request() {
    for kind in [Blow::Restart, Blow::Loss, Blow::Hang] {
        for strike in [Strike::Before, Strike::After] {
            let mut step = 0;
            let more = |step| {
                let mut struck = false;
                simulate(async { struck = blow(step, strike, kind).await });
                struck
            };
            while step < STEPS_MAX && more(step) {
                step += 1;
            }
            assert_eq!(step, STEPS_MAX, "{kind:?} {strike:?}: so many requests were made");
        }
    }
}

#[test]
fn a_standby_takes_over_within_seconds_of_the_writers_end() {
    simulate(async {
        let mut simulation = Simulation::new(11);
        simulation.start(Succession::Yield, None);
        simulation.pass(Duration::from_secs(5)).await;
        let standby = simulation.start(Succession::StandBy, None);
        simulation.pass(Duration::from_secs(40)).await;
        let term = |store: SourceStore| async move { store.list(&Folder::Terms).await.unwrap().len() };
        assert_eq!(term(simulation.world.truth()).await, 1);
        let spool = simulation.kill(0).await;
        simulation.pass(Duration::from_secs(11)).await;
        assert_eq!(term(simulation.world.truth()).await, 2, "the standby writes");
        // the first one's restart finds the other alive
        simulation.start(Succession::Yield, Some(spool));
        simulation.pass(Duration::from_secs(30)).await;
        assert_eq!(term(simulation.world.truth()).await, 2);
        assert_eq!(simulation.lives.iter().map(|life| life.run).collect::<Vec<_>>(), [standby]);
        simulation.finish().await;
    });
}
