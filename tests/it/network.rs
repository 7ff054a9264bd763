//! Whatever a network does to the link between agent and server: the stream is taken up where it was
//! left, and what WAIT has confirmed is in the archive.

use std::time::{Duration, Instant};

use fastrand::Rng;
use redwind_tests::figures::Figures;
use redwind_tests::ledger::{Account, Ledger};
use redwind_tests::mark::now;
use redwind_tests::proxy::{Ending, Flow, Proxy};
use redwind_tests::server::{Cli, Server, ServerOptions, number};
use redwind_tests::servers::Flavor;
use redwind_tests::story::{Following, QUICK};
use redwind_tests::workload::noise;
use redwind_tests::{on_each_flavor, poll, seed};

/// How long a server waits for a sign of life of its replica.
const REPL_TIMEOUT: Duration = Duration::from_secs(2);

/// A server that notices soon that a link is dead, and an agent that reaches it over a proxy.
struct Linked {
    server: Server,
    proxy: Proxy,
    following: Following,
    rng: Rng,
}

impl Linked {
    fn start(flavor: &Flavor, story: &str) -> Self {
        let mut this = Self::start_unready(flavor, story);
        this.following.wait_restorable();
        this
    }

    fn start_unready(flavor: &Flavor, story: &str) -> Self {
        let options = ServerOptions::default()
            .config("repl-backlog-size 512mb")
            .config(format!("repl-timeout {}", REPL_TIMEOUT.as_secs()))
            .config("repl-ping-replica-period 1");
        let server = Server::start_with(flavor, options);
        let proxy = Proxy::start(server.addr());
        let following = Following::start_at(flavor, &format!("redis://{}", proxy.addr()), QUICK);
        Self { server, proxy, following, rng: seed::chance(story) }
    }

    /// Everything there is can be restored, in one window without a gap.
    fn assert_whole(&self, account: Account) {
        self.following.assert_whole(&self.server, account, 0);
    }
}

type Fault = (&'static str, u32, fn(&mut Linked));

/// Each with how often it is made. The pauses are the faults' length.
const FAULTS: [Fault; 6] = [
    ("the link is closed at a random byte", 5, |linked| cut(linked, Ending::Close)),
    ("the link is reset at a random byte", 5, |linked| cut(linked, Ending::Reset)),
    ("connections are refused for 2 s", 1, |linked| {
        linked.proxy.refuse(true);
        linked.proxy.end_all(Ending::Reset);
        std::thread::sleep(Duration::from_secs(2));
        linked.proxy.refuse(false);
    }),
    ("nothing passes for longer than repl-timeout", 1, |linked| {
        linked.proxy.set_flow(Flow::Stall);
        std::thread::sleep(REPL_TIMEOUT + Duration::from_secs(2));
        linked.proxy.set_flow(Flow::Free);
    }),
    ("the link trickles, 20 kB/s for 3 s", 1, |linked| {
        linked.proxy.set_flow(Flow::Throttle(20_000));
        std::thread::sleep(Duration::from_secs(3));
        linked.proxy.set_flow(Flow::Free);
    }),
    ("bytes come one by one for 2 s", 1, |linked| {
        linked.proxy.set_flow(Flow::Bytewise);
        std::thread::sleep(Duration::from_secs(2));
        linked.proxy.set_flow(Flow::Free);
    }),
];

fn cut(linked: &mut Linked, ending: Ending) {
    linked.proxy.cut_after(linked.rng.u64(1..20_000), ending);
    poll::until_true("the link is cut", || !linked.proxy.cut_pending());
}

/// One fault after the other on one link, under load.
fn a_faulty_network_costs_time_and_nothing_else(flavor: &Flavor) {
    let mut linked = Linked::start(flavor, "a_faulty_network_costs_time_and_nothing_else");
    let ledger = Ledger::start(&linked.server, linked.rng.u64(..));
    let mut rows = Vec::new();
    for (fault, runs, strike) in FAULTS {
        println!("{fault}");
        let (mut figures, before) = (Figures::default(), ledger.account().confirmed);
        for _ in 0..runs {
            strike(&mut linked);
            figures.run(ledger.recovered());
        }
        figures.acknowledged = ledger.account().confirmed - before;
        rows.push((fault, figures));
    }
    linked.assert_whole(ledger.stop());
    for (fault, figures) in rows {
        figures.tell(fault, "a_faulty_network_costs_time_and_nothing_else", flavor);
    }
}
on_each_flavor!(a_faulty_network_costs_time_and_nothing_else: redis_7_0 valkey_9);

/// Half-open: the server knows that the link is dead, and the agent is never told.
fn a_link_that_is_dead_without_a_word_is_noticed(flavor: &Flavor) {
    let mut linked = Linked::start(flavor, "a_link_that_is_dead_without_a_word_is_noticed");
    let ledger = Ledger::start(&linked.server, linked.rng.u64(..));
    ledger.recovered();
    linked.proxy.abandon_all();
    let mut figures = Figures::default();
    figures.run(ledger.recovery(Instant::now(), 3 * poll::PATIENCE));
    let account = ledger.stop();
    figures.acknowledged = account.confirmed;
    linked.assert_whole(account);
    figures.tell("the link is half-open", "a_link_that_is_dead_without_a_word_is_noticed", flavor);
}
on_each_flavor!(a_link_that_is_dead_without_a_word_is_noticed: redis_7_0);

/// A reset in the middle of an RDB: nothing of it counts, and another is taken.
fn a_snapshot_that_breaks_off_is_taken_again(flavor: &Flavor) {
    let mut linked = Linked::start_unready(flavor, "a_snapshot_that_breaks_off_is_taken_again");
    linked.following.wait_restorable();
    noise(&mut linked.server.cli(), 0..16);
    let ledger = Ledger::start(&linked.server, linked.rng.u64(..));
    let before = linked.following.list()["snapshots"].as_array().map(Vec::len);
    linked.proxy.set_flow(Flow::Throttle(8 << 20));
    let from = linked.rng.u32(100_000..8_000_000);
    let refused = std::thread::scope(|scope| {
        let asking = scope.spawn(|| linked.following.agent.snapshot());
        poll::until_true("the snapshot is under way", || {
            linked.following.snapshot_received().is_some_and(|bytes| bytes > f64::from(from))
        });
        linked.proxy.end_all(Ending::Reset);
        asking.join().unwrap()
    });
    assert_ne!(refused.code, Some(0), "{}", refused.stdout);
    linked.proxy.set_flow(Flow::Free);
    let mut figures = Figures::default();
    figures.run(ledger.recovered());
    let listed = linked.following.list();
    assert_eq!(listed["snapshots"].as_array().map(Vec::len), before, "nothing of it counts: {listed}");
    let _ = linked.following.agent.snapshot().expect(0);
    let account = ledger.stop();
    figures.acknowledged = account.confirmed;
    linked.assert_whole(account);
    figures.tell("the link is reset inside an RDB", "a_snapshot_that_breaks_off_is_taken_again", flavor);
}
on_each_flavor!(a_snapshot_that_breaks_off_is_taken_again: redis_7_0 valkey_9);

/// How many keys the large transaction sets.
const PARTS: u32 = 200;

/// A reset inside a large transaction, and inside a value of 100 MB: at no position is any of them there in
/// part.
fn a_record_is_whole_although_its_link_broke(flavor: &Flavor) {
    let mut linked = Linked::start(flavor, "a_record_is_whole_although_its_link_broke");
    let mut cli = linked.server.cli();
    let mut figures = [Figures::default(), Figures::default()];
    let mut former = String::new();
    for round in 0..5 {
        let before = cli.offset();
        linked.proxy.cut_after(linked.rng.u64(1..1_000_000), Ending::Reset);
        let mut commands = vec![words(&["MULTI"])];
        let value = format!("{round}:{}", "x".repeat(10_000));
        commands.extend((0..PARTS).map(|n| words(&["SET", &format!("part:{n}"), &value])));
        commands.push(words(&["EXEC"]));
        cli.pipeline(&commands);
        poll::until_true("the link is cut inside the transaction", || !linked.proxy.cut_pending());
        figures[0].run(confirmed(&mut cli));
        let inside = before + linked.rng.u64(500_000..1_500_000);
        let restored = linked.following.restored(&format!("offset:{inside}"));
        for n in 0..PARTS {
            assert_eq!(restored.get(&format!("part:{n}")), former, "part {n} at {inside}");
        }
        former = value;
    }
    let before = cli.offset();
    let mut value = vec![0; 100 << 20];
    linked.rng.fill(&mut value);
    linked.proxy.cut_after(linked.rng.u64(1 << 20..90 << 20), Ending::Reset);
    cli.command(&[b"SET".as_slice(), b"large", &value]);
    drop(value);
    poll::until_true("the link is cut inside the value", || !linked.proxy.cut_pending());
    figures[1].run(confirmed(&mut cli));
    let inside = before + linked.rng.u64(1 << 20..100 << 20);
    let restored = linked.following.restored(&format!("offset:{inside}"));
    assert_eq!(restored.get("large"), "", "it ends after {inside}");
    assert_eq!(restored.get("part:0"), former);
    // one write each
    for figures in &mut figures {
        figures.acknowledged = figures.runs;
    }
    linked.assert_whole(Account::default());
    let story = "a_record_is_whole_although_its_link_broke";
    figures[0].tell("the link is reset inside a transaction of 2 MB", story, flavor);
    figures[1].tell("the link is reset inside a value of 100 MB", story, flavor);
}
on_each_flavor!(a_record_is_whole_although_its_link_broke: redis_7_0);

/// Waits until what `cli` has written is durable, and tells how long that took. Not by offset: the
/// frequent PINGs of these servers move it, and are not worth a flush.
fn confirmed(cli: &mut Cli) -> Duration {
    let cut = Instant::now();
    assert_eq!(number(&cli.command(&["WAIT", "1", "30000"])), 1, "WAIT tells that it is durable");
    cut.elapsed()
}

fn words(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

/// While nothing passes, in either direction, the agent cannot know that nothing is sent: what comes then
/// is late, although its socket was empty all the time.
fn what_a_network_held_back_is_late(flavor: &Flavor) {
    let server = Server::start(flavor);
    let proxy = Proxy::start(server.addr());
    let mut following = Following::start_at(flavor, &format!("redis://{}", proxy.addr()), QUICK);
    following.wait_restorable();
    let mut cli = server.cli();
    cli.command(&["SET", "side", "before"]);
    confirmed(&mut cli);
    proxy.set_flow(Flow::Stall);
    cli.command(&["SET", "side", "held back"]);
    // longer than the agent goes without asking, and than it waits for an answer
    std::thread::sleep(Duration::from_secs(10));
    let inside = now();
    proxy.set_flow(Flow::Free);
    confirmed(&mut cli);
    let _ = following.plan(&inside.to_string()).expect(3);
    assert_eq!(following.restored("latest").get("side"), "held back");
    following.verify();
}
on_each_flavor!(what_a_network_held_back_is_late: redis_7_0);

/// After an absence the server sends what it kept: however slowly that comes, it is late until all of
/// it is there, although the socket is empty again and again.
fn what_trickles_in_after_an_absence_is_late(flavor: &Flavor) {
    let linked = Linked::start(flavor, "what_trickles_in_after_an_absence_is_late");
    let Linked { server, proxy, following, .. } = &linked;
    let mut cli = server.cli();
    proxy.refuse(true);
    proxy.end_all(Ending::Reset);
    let value = "x".repeat(10_000);
    for n in 0..60 {
        cli.command(&["SET", &format!("kept:{n}"), &value]);
    }
    cli.command(&["SET", "last", "written while the link was down"]);
    let written = cli.offset();
    proxy.set_flow(Flow::Throttle(200_000));
    proxy.refuse(false);
    poll::until("some of it has come", || {
        let received = following.agent.offset(redwind_tests::redwind::Stage::Received)?;
        (received + 300_000 > written && received < written).then_some(())
    });
    // the last write was made long ago, and is not there yet
    let inside = now();
    confirmed(&mut cli);
    proxy.set_flow(Flow::Free);
    cli.command(&["SET", "one", "more"]);
    confirmed(&mut cli);
    let refused = following.plan(&inside.to_string()).expect(3);
    assert!(refused.stderr.contains("blur") || refused.stderr.contains("not known"), "{}", refused.stderr);
    linked.assert_whole(Account::default());
}
on_each_flavor!(what_trickles_in_after_an_absence_is_late: redis_7_0 valkey_9);
