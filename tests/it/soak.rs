//! The soak: an agent is killed again and again, at random moments, while its server is written to.
//!
//! `REDWIND_SOAK_KILLS` says how often (24 unless told), `REDWIND_TEST_SEED` repeats a run's choices.

use std::time::{Duration, Instant};

use fastrand::Rng;
use redwind_tests::figures::Figures;
use redwind_tests::ledger::{Account, Ledger};
use redwind_tests::redwind::run;
use redwind_tests::server::Server;
use redwind_tests::servers::Flavor;
use redwind_tests::story::{Following, Load, QUICK, patient_server};
use redwind_tests::workload::Workload;
use redwind_tests::{on_each_flavor, seed};

/// Between two comparisons of everything.
const KILLS_PER_COMPARISON: u64 = 12;

/// Everything that is written while agents die.
struct Writers {
    ledger: Ledger,
    load: Load,
}

impl Writers {
    fn start(server: &Server, rng: &mut Rng, account: Account, workload: Workload) -> Self {
        Self { ledger: Ledger::go_on(server, rng.u64(..), account), load: Load::start(server, workload) }
    }

    fn stop(self) -> (Account, Workload) {
        (self.ledger.stop(), self.load.stop())
    }
}

/// Whenever it is killed, and whether its machine is lost with it: what WAIT confirmed is restored, the
/// history goes on without a gap, and now and then everything is compared.
fn killed_agents_lose_nothing(flavor: &Flavor) {
    let kills = seed::number("REDWIND_SOAK_KILLS", 24_u64);
    let mut rng = seed::chance("soak");
    let server = patient_server(flavor);
    let mut following = Following::start_with(&server, &[QUICK, &["--snapshot-interval", "10s"]].concat());
    let workload = Workload::new(rng.u64(..), flavor);
    let mut writers = Writers::start(&server, &mut rng, Account::default(), workload);
    let mut figures = Figures::default();
    let mut machines = 0;
    for kill in 1..=kills {
        let fate = Fate::draw(&mut rng);
        println!("kill {kill}: {fate:?}");
        fate.strike(&mut following);
        let lost_machine = rng.u8(0..4) == 0;
        if lost_machine {
            machines += 1;
            lose_the_machine(&following, writers.ledger.account());
        }
        let started = Instant::now();
        // a machine that is lost is known to be: nobody has to wait for its signs of life
        following.agent.start_again_with(if lost_machine { &["--takeover"] } else { &[] });
        following.agent.wait_ready();
        writers.ledger.recovered();
        figures.run(started.elapsed());
        if kill % KILLS_PER_COMPARISON == 0 {
            let (account, workload) = writers.stop();
            following.assert_whole(&server, account, 0);
            writers = Writers::start(&server, &mut rng, account, workload);
        }
    }
    let (account, _) = writers.stop();
    figures.acknowledged = following.assert_whole(&server, account, 0).acknowledged;
    assert_eq!(following.agent.stop().code(), Some(0), "{}", following.agent.log());
    following.verify();
    println!("{account:?} in {kills} kills, {machines} of them with the spool");
    let fault = "the agent is killed (kill -9) at random moments, every fourth time its spool is lost";
    figures.tell(fault, "killed_agents_lose_nothing", flavor);
}
on_each_flavor!(killed_agents_lose_nothing: redis_7_0);

/// When an agent is killed.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// Once at work, and again so long after it was started, ready or not.
    WhileStarting(Duration),
    /// So long after it was ready.
    AtWork(Duration),
    /// So long after it was asked for a snapshot.
    WithSnapshot(Duration),
}

impl Fate {
    fn draw(rng: &mut Rng) -> Self {
        match rng.u8(0..10) {
            0..3 => Self::WhileStarting(Duration::from_millis(rng.u64(0..700))),
            3..5 => Self::WithSnapshot(Duration::from_millis(rng.u64(0..300))),
            _ => Self::AtWork(Duration::from_millis(rng.u64(0..1200))),
        }
    }

    /// The pauses are the fault: they choose the moment, and nothing waits for them.
    fn strike(self, following: &mut Following) {
        let agent = &mut following.agent;
        match self {
            Self::WhileStarting(after) => {
                agent.kill9();
                agent.start_again();
                std::thread::sleep(after);
            }
            Self::AtWork(after) => {
                agent.wait_ready();
                std::thread::sleep(after);
            }
            Self::WithSnapshot(after) => {
                agent.wait_ready();
                let grpc = format!("http://{}", agent.grpc());
                // its answer dies with the agent
                let asking = std::thread::spawn(move || run(None, &["snapshot", "--agent", &grpc]).code);
                std::thread::sleep(after);
                agent.kill9();
                asking.join().unwrap();
            }
        }
        agent.kill9();
    }
}

/// The spool is gone: what was confirmed must be in the store.
fn lose_the_machine(following: &Following, account: Account) {
    match std::fs::remove_dir_all(following.agent.spool()) {
        Ok(()) => {}
        // killed before it had made one
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}"),
    }
    account.assert_held(&following.restored("latest").server);
}
