//! Another server takes over: with everything, and without the last of it.

use std::time::Instant;

use redwind_tests::figures::Figures;
use redwind_tests::ledger::Ledger;
use redwind_tests::oracle::wait_level;
use redwind_tests::proxy::{Ending, Flow, Proxy};
use redwind_tests::redwind::{Stage, restore};
use redwind_tests::server::{Server, ServerOptions};
use redwind_tests::servers::Flavor;
use redwind_tests::story::{Following, QUICK, patient_server};
use redwind_tests::{on_each_flavor, poll, seed};

/// Two servers, the second a replica of the first, and an agent at an address that moves.
struct Pair {
    primary: Server,
    replica: Server,
    /// Between the two.
    between: Proxy,
    address: Proxy,
    following: Following,
}

impl Pair {
    fn start(flavor: &Flavor) -> Self {
        let primary = patient_server(flavor);
        let between = Proxy::start(primary.addr());
        let options = ServerOptions::replica_of(between.addr()).config("repl-backlog-size 256mb");
        let replica = Server::start_with(flavor, options);
        wait_level(&primary, &replica);
        let address = Proxy::start(primary.addr());
        let mut following = Following::start_at(flavor, &format!("redis://{}", address.addr()), QUICK);
        following.wait_restorable();
        Self { primary, replica, between, address, following }
    }

    /// The address leads to the replica, which is the primary from now on.
    fn promote(&mut self) {
        self.primary.kill9();
        self.between.abandon_all();
        self.replica.cli().command(&["REPLICAOF", "NO", "ONE"]);
        self.address.redirect(self.replica.addr());
        self.address.end_all(Ending::Reset);
    }
}

/// The replica had everything: the history goes on under another replication ID.
fn a_promotion_without_loss_continues_the_history(flavor: &Flavor) {
    let story = "a_promotion_without_loss_continues_the_history";
    let mut pair = Pair::start(flavor);
    let mut cli = pair.primary.cli();
    cli.command(&["SET", "side", "the old primary's"]);
    let before = pair.following.mark("before the promotion", &pair.primary);
    cli.command(&["SET", "side", "the old primary's last"]);
    wait_level(&pair.primary, &pair.replica);
    pair.following.wait_durable(&pair.primary);
    pair.promote();
    let promoted = Instant::now();
    let ledger = Ledger::start(&pair.replica, seed::chance(story).u64(..));
    let mut figures = Figures::default();
    ledger.recovered();
    figures.run(promoted.elapsed());
    let account = ledger.stop();
    let after = pair.following.mark("after the promotion", &pair.replica);
    figures.acknowledged = pair.following.assert_whole(&pair.replica, account, 0).acknowledged;
    pair.following.check(&before);
    pair.following.check(&after);
    figures.tell("a replica that has everything is promoted", story, flavor);
}
on_each_flavor!(a_promotion_without_loss_continues_the_history: redis_6_2 redis_7_0 valkey_9);

/// The replica lacked what the old primary had sent us last: both branches are restorable, and nobody
/// is left to guess which is meant.
fn a_promotion_with_loss_forks_the_history(flavor: &Flavor) {
    let story = "a_promotion_with_loss_forks_the_history";
    let mut pair = Pair::start(flavor);
    let mut cli = pair.primary.cli();
    cli.command(&["SET", "branch", "common"]);
    wait_level(&pair.primary, &pair.replica);
    pair.between.set_flow(Flow::Stall);
    let ledger = Ledger::start(&pair.primary, seed::chance(story).u64(..));
    ledger.recovered();
    let account = ledger.stop();
    cli.command(&["SET", "branch", "only the old primary's"]);
    let old = pair.following.mark("what only the old primary had", &pair.primary);
    cli.command(&["SET", "branch", "the old primary's last"]);
    pair.following.wait_durable(&pair.primary);
    let fork = cli.offset();
    pair.promote();
    let promoted = Instant::now();
    poll::until_true("the living branch can be restored", || {
        pair.following.list()["windows"].as_array().is_some_and(|windows| windows.len() == 2)
    });
    pair.following.wait_restorable();
    let mut figures = Figures::default();
    figures.run(promoted.elapsed());
    // as far as the old branch had come, and farther
    let mut cli = pair.replica.cli();
    while cli.offset() < fork + 1000 {
        cli.command(&["SET", "branch", "the living one"]);
    }
    pair.following.wait_durable(&pair.replica);
    assert!(pair.following.agent.offset(Stage::Durable).unwrap() > fork);

    let listed = pair.following.list();
    let gaps = listed["gaps"].as_array().unwrap();
    assert_eq!(gaps.len(), 1, "{listed}");
    assert_eq!(pair.following.restored("latest").get("branch"), "the living one");
    // a time before the fork is the old branch's alone
    let restored = pair.following.restored(&old.at.to_string());
    assert_eq!(restored.get("branch"), "only the old primary's");
    account.assert_held(&restored.server);

    // an offset that both have asks which
    let histories: Vec<_> =
        listed["windows"].as_array().unwrap().iter().map(|window| window["history"].as_str().unwrap()).collect();
    let overlap = format!("offset:{fork}");
    let asked = pair.following.plan(&overlap).expect(3);
    for history in &histories {
        assert!(asked.stderr.contains(history) && asked.stderr.contains("--history"), "{}", asked.stderr);
    }
    let of = |history: &str| restore(&pair.following.store, &overlap, &["--history", history, "--dry-run"]).expect(0);
    for history in &histories {
        assert!(of(history).stdout.contains(history));
    }
    pair.following.verify();
    figures.acknowledged = account.confirmed;
    figures.gaps = 1;
    figures.tell("a replica that lacks the last writes is promoted", story, flavor);
}
on_each_flavor!(a_promotion_with_loss_forks_the_history: redis_7_0 valkey_9);
