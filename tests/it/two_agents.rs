//! Two agents, one archive: one of them writes, whoever starts, restarts, hangs or dies.

use std::path::Path;
use std::time::{Duration, Instant};

use redwind_tests::ledger::Account;
use redwind_tests::objects::{Kind, ObjectServer};
use redwind_tests::proxy::{Ending, Proxy};
use redwind_tests::redwind::{Agent, Stage, run, verify};
use redwind_tests::server::Server;
use redwind_tests::servers::Flavor;
use redwind_tests::story::{Following, Load, QUICK, assert_whole, check, only_source, patient_server};
use redwind_tests::workload::Workload;
use redwind_tests::{mark::Mark, on_each_flavor, poll};
use serde_json::Value as Json;

/// Within this a newcomer must know.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Why a standby takes over, as the audit log tells it.
const STOPPED: &str = "the agent before has stopped";
const SILENT: &str = "the agent before gives no sign of life";

const STANDBY: &[&str] = &["--flush-interval", "100ms", "--standby"];
const TAKEOVER: &[&str] = &["--flush-interval", "100ms", "--takeover"];

fn terms(archive: &Path) -> usize {
    std::fs::read_dir(archive.join("term")).map_or(0, Iterator::count)
}

/// Ends with status 6 in time, and names the process that writes.
fn assert_refused(newcomer: &mut Agent, holder: &Agent) {
    let started = Instant::now();
    let ended = newcomer.wait_end(ANSWER_MAX);
    let log = newcomer.log();
    assert_eq!(ended.code(), Some(6), "{log}");
    assert!(started.elapsed() <= ANSWER_MAX, "it took {:?}", started.elapsed());
    for part in [&format!("process {} on ", holder.pid()), "--takeover"] {
        assert!(log.contains(part), "{part} is named: {log}");
    }
}

/// The holder lives, busy or idle: a newcomer says so and leaves it alone.
fn a_newcomer_leaves_a_living_holder_alone(flavor: &Flavor) {
    let server = patient_server(flavor);
    let following = Following::start(&server);
    let load = Load::start(&server, Workload::any(flavor));
    let mut newcomer = Agent::start(&server.url(), &following.store, QUICK);
    assert_refused(&mut newcomer, &following.agent);
    assert!(newcomer.log().contains("and lives"), "{}", newcomer.log());
    let _ = load.stop();

    following.wait_durable(&server);
    newcomer.start_again();
    assert_refused(&mut newcomer, &following.agent);
    assert_eq!(terms(&following.archive()), 1);
    server.cli().command(&["SET", "still", "followed"]);
    following.wait_durable(&server);
    following.verify();
}
on_each_flavor!(a_newcomer_leaves_a_living_holder_alone: redis_7_0);

/// Whoever cannot follow the source does not take the archive from one that does, whatever it was told.
fn a_refused_user_fences_nobody(flavor: &Flavor) {
    let server = patient_server(flavor);
    let following = Following::start(&server);
    let mut cli = server.cli();
    cli.command(&["ACL", "SETUSER", "poor", "on", ">secret", "-@all", "+ping", "+replconf", "+info", "+time"]);
    for user in ["nobody:wrong", "poor:secret"] {
        let source = server.url().replace("redis://", &format!("redis://{user}@"));
        let mut second = Agent::start(&source, &following.store, TAKEOVER);
        let ended = second.wait_end(ANSWER_MAX);
        assert_eq!(ended.code(), Some(7), "{user}: {}", second.log());
    }
    assert_eq!(terms(&following.archive()), 1);
    cli.command(&["SET", "still", "followed"]);
    following.wait_durable(&server);
}
on_each_flavor!(a_refused_user_fences_nobody: redis_6_2 redis_7_0 valkey_9);

/// A source that is down is waited for without a claim; an orderly stop leaves the archive to anybody.
fn a_newcomer_waits_for_its_source_and_follows_a_stopped_holder_at_once(flavor: &Flavor) {
    let mut server = patient_server(flavor);
    let mut following = Following::start(&server);
    assert_eq!(following.agent.stop().code(), Some(0));
    server.kill9();
    let mut newcomer = Agent::start(&server.url(), &following.store, QUICK);
    poll::until_true("the newcomer says that the source is down", || {
        newcomer.status().is_some_and(|status| status["sources"][0]["state"] == "down")
    });
    assert_eq!(terms(&following.archive()), 1);
    server.start_again();
    newcomer.wait_ready();
    assert_eq!(terms(&following.archive()), 2);
    following.agent.start_again();
    assert_refused(&mut following.agent, &newcomer);
}
on_each_flavor!(a_newcomer_waits_for_its_source_and_follows_a_stopped_holder_at_once: redis_7_0);

/// The holder's own next run needs no source to bring what its spool holds to the store.
fn the_holders_restart_stores_its_spool_without_a_source(flavor: &Flavor) {
    let mut server = patient_server(flavor);
    let mut following = Following::start(&server);
    server.cli().command(&["SET", "key", "stored"]);
    following.wait_durable(&server);
    let away = following.take_the_store_away();
    server.cli().command(&["SET", "key", "spooled"]);
    let offset = server.cli().offset();
    following.agent.wait_offset(Stage::Spooled, offset);
    assert_eq!(following.agent.stop().code(), Some(0));
    server.kill9();
    away.give_back();
    following.agent.start_again();
    following.agent.wait_offset(Stage::Durable, offset);
    assert_eq!(following.restored("latest").get("key"), "spooled");
    following.verify();
}
on_each_flavor!(the_holders_restart_stores_its_spool_without_a_source: redis_7_0);

/// Supervisors that start whatever ends do not make two agents take the archive from each other in turns.
fn agents_that_are_always_restarted_do_not_take_turns(flavor: &Flavor) {
    let server = patient_server(flavor);
    let mut following = Following::start(&server);
    let load = Load::start(&server, Workload::any(flavor));
    let mut second = Agent::start(&server.url(), &following.store, QUICK);
    assert_refused(&mut second, &following.agent);
    second.start_again();
    assert_refused(&mut second, &following.agent);
    assert_eq!(terms(&following.archive()), 1);

    // somebody decides for a third, and the supervisors go on
    let mut third = Agent::start(&server.url(), &following.store, TAKEOVER);
    let fenced = following.agent.wait_end(poll::PATIENCE);
    assert_eq!(fenced.code(), Some(6), "{}", following.agent.log());
    third.wait_ready();
    for agent in [&mut following.agent, &mut second] {
        agent.start_again();
        assert_refused(agent, &third);
    }
    assert_eq!(terms(&following.archive()), 2);
    let _ = load.stop();
    third.wait_offset(Stage::Durable, server.cli().offset());
    following.verify();
}
on_each_flavor!(agents_that_are_always_restarted_do_not_take_turns: redis_7_0);

/// A second agent that waits until the first is gone.
struct Pair {
    following: Following,
    standby: Agent,
    before: Mark,
}

impl Pair {
    /// Armed, with a mark behind; the first was started with these arguments.
    fn armed(server: &Server, first: &[&str], workload: &mut Workload) -> Self {
        let following = Following::start_with(server, first);
        let standby = Agent::start(&server.url(), &following.store, STANDBY);
        wait_armed(server, &standby, workload);
        let verified = run(Some(&following.store), &["verify", "--agent", &standby.grpc().to_string()]).expect(2);
        assert!(verified.stderr.contains("stands by") && verified.stderr.contains("process"), "{}", verified.stderr);
        let before = following.mark("the first agent's", server);
        workload.run(&mut server.cli(), 20);
        following.wait_durable(server);
        Self { following, standby, before }
    }

    /// The standby has taken over for this reason, and nothing is missing.
    fn assert_taken_over(&mut self, server: &Server, workload: &mut Workload, reason: &str) {
        poll::until_true("the standby claims the archive", || terms(&self.following.archive()) == 2);
        self.standby.wait_ready();
        workload.run(&mut server.cli(), 50);
        assert_whole(&self.standby, &self.following.store, server, Account::default(), 0);
        let audit = run(Some(&self.following.store), &["list", "--audit"]).expect(0).stdout;
        let told = format!("took the archive over from process {} ", self.following.agent.pid());
        assert!(audit.lines().any(|line| line.contains(&told) && line.contains(reason)), "{reason}: {audit}");
        self.following.check_offset(&self.before);
    }
}

/// Waits until `standby` would notice the end of the writer within seconds, while there are writes.
fn wait_armed(server: &Server, standby: &Agent, workload: &mut Workload) {
    let mut cli = server.cli();
    poll::until("the standby is armed", || {
        workload.run(&mut cli, 5);
        let status = standby.status()?;
        let source = &status["sources"][0];
        (source["standby_armed"] == true).then(|| assert_eq!(source["state"], "standby"))
    });
    let (code, body) = standby.page("/readyz").unwrap();
    assert!(code == 503 && body.contains("standing by"), "{code} {body}");
    assert_eq!(standby.metric("redwind_standby_armed"), Some(1.0));
}

fn a_standby_follows_a_killed_agent(flavor: &Flavor) {
    let server = patient_server(flavor);
    let mut workload = Workload::any(flavor);
    let mut pair = Pair::armed(&server, QUICK, &mut workload);
    let load = Load::start(&server, workload);
    pair.following.agent.kill9();
    let mut workload = load.stop();
    pair.assert_taken_over(&server, &mut workload, SILENT);
}
on_each_flavor!(a_standby_follows_a_killed_agent: redis_7_0 valkey_9);

/// Nobody writes: the writer sees that somebody has come to the source.
fn a_standby_is_armed_beside_an_idle_source_too(flavor: &Flavor) {
    let server = patient_server(flavor);
    let mut following = Following::start(&server);
    server.cli().command(&["SET", "key", "the last write"]);
    following.wait_durable(&server);
    let mut standby = Agent::start(&server.url(), &following.store, STANDBY);
    poll::until("the standby is armed", || {
        let status = standby.status()?;
        (status["sources"][0]["standby_armed"] == true).then_some(())
    });
    following.agent.kill9();
    poll::until_true("the standby claims the archive", || terms(&following.archive()) == 2);
    standby.wait_ready();
    server.cli().command(&["SET", "key", "the standby's"]);
    standby.wait_offset(Stage::Durable, server.cli().offset());
    assert_eq!(following.list()["gaps"], Json::Array(Vec::new()));
    assert_eq!(following.restored("latest").get("key"), "the standby's");
}
on_each_flavor!(a_standby_is_armed_beside_an_idle_source_too: redis_6_2 redis_7_0 valkey_9);

fn a_standby_follows_an_agent_that_hangs(flavor: &Flavor) {
    let server = patient_server(flavor);
    let mut workload = Workload::any(flavor);
    let mut pair = Pair::armed(&server, QUICK, &mut workload);
    pair.following.agent.pause();
    workload.run(&mut server.cli(), 50);
    pair.assert_taken_over(&server, &mut workload, SILENT);
    // it wakes up, and has nothing more to say
    pair.following.agent.go_on();
    let fenced = pair.following.agent.wait_end(poll::PATIENCE);
    assert_eq!(fenced.code(), Some(6), "{}", pair.following.agent.log());
    assert!(pair.following.agent.log().contains("fenced"), "{}", pair.following.agent.log());
    pair.following.verify();
}
on_each_flavor!(a_standby_follows_an_agent_that_hangs: redis_7_0);

/// An orderly stop hands over without the wait for signs of life, in a pair that was started alike; and the
/// first, started again, stands by in its turn.
fn a_standby_follows_an_agent_that_stops(flavor: &Flavor) {
    let server = patient_server(flavor);
    let mut workload = Workload::any(flavor);
    let mut pair = Pair::armed(&server, STANDBY, &mut workload);
    assert_eq!(pair.following.agent.stop().code(), Some(0));
    pair.assert_taken_over(&server, &mut workload, STOPPED);
    pair.following.agent.start_again();
    wait_armed(&server, &pair.following.agent, &mut workload);
    assert_eq!(terms(&pair.following.archive()), 2);
}
on_each_flavor!(a_standby_follows_an_agent_that_stops: redis_7_0);

/// Over the wire: many start at once, and one writes; that is cut off from the bucket, and the standby
/// writes.
fn s3_has_one_writer(flavor: &Flavor) {
    let Some(objects) = ObjectServer::start(Kind::Moto, "s3_has_one_writer") else { return };
    let proxy = Proxy::start(objects.addr());
    let (cut_off, direct) = (objects.store_at(proxy.addr()), objects.store());
    let server = patient_server(flavor);
    let mut workload = Workload::any(flavor);
    workload.run(&mut server.cli(), 50);
    let mut racers: Vec<Agent> = (0..4).map(|_| Agent::start(&server.url(), &cut_off, QUICK)).collect();
    let mut ended = Vec::new();
    poll::until_within(2 * ANSWER_MAX, "all but one have ended", || {
        workload.run(&mut server.cli(), 5);
        for racer in (0..racers.len()).rev() {
            if let Some(status) = racers[racer].exited() {
                assert_eq!(status.code(), Some(6), "{}", racers[racer].log());
                ended.push(racers.swap_remove(racer));
            }
        }
        (racers.len() == 1).then_some(())
    });
    let mut holder = racers.swap_remove(0);
    holder.wait_ready();
    for loser in &ended {
        assert!(loser.log().contains(&format!("process {} on ", holder.pid())), "{}", loser.log());
    }

    let mut standby = Agent::start(&server.url(), &direct, STANDBY);
    wait_armed(&server, &standby, &mut workload);
    let before = Mark::take("before", &server, |offset| holder.wait_offset(Stage::Received, offset));
    workload.run(&mut server.cli(), 20);
    holder.wait_offset(Stage::Durable, server.cli().offset());
    proxy.refuse(true);
    proxy.end_all(Ending::Reset);
    poll::until_true("the standby writes", || standby.log().contains("took the archive over"));
    standby.wait_ready();
    workload.run(&mut server.cli(), 50);
    standby.wait_offset(Stage::Durable, server.cli().offset());
    proxy.refuse(false);
    assert_eq!(holder.wait_end(poll::PATIENCE).code(), Some(6), "{}", holder.log());
    assert_eq!(only_source(&direct)["gaps"], Json::Array(Vec::new()));
    check(&direct, flavor, &before);
    assert_eq!(standby.stop().code(), Some(0));
    let _ = verify(&direct).expect(0);
}
on_each_flavor!(s3_has_one_writer: redis_7_0);

#[test]
fn waiting_and_not_waiting_exclude_each_other() {
    let both =
        run(None, &["agent", "--source", "redis://localhost", "--store", "memory://", "--standby", "--takeover"]);
    assert!(both.expect(2).stderr.contains("--takeover and --standby"));
}
