//! Whatever a store does short of losing what it has taken: the spool takes it, nothing is written
//! twice or lost, and what the spool cannot take is a gap that is told.

use std::time::{Duration, Instant};

use fastrand::Rng;
use redwind_tests::credentials::CredentialService;
use redwind_tests::figures::Figures;
use redwind_tests::http_faults::{Fault, HttpFaults, Rule};
use redwind_tests::ledger::{Account, Ledger};
use redwind_tests::objects::{Kind, ObjectServer};
use redwind_tests::process::{Process, command};
use redwind_tests::redwind::{Agent, StoreAddress, binary, run};
use redwind_tests::server::{Server, ServerOptions};
use redwind_tests::servers::Flavor;
use redwind_tests::story::{Following, Load, QUICK, assert_whole, patient_server};
use redwind_tests::workload::{Workload, noise};
use redwind_tests::{on_each_flavor, poll, seed};
use rustix::process::Signal;

/// An agent that stores through a proxy of faults, and a reader that does not.
struct Stored {
    server: Server,
    faults: HttpFaults,
    agent: Agent,
    direct: StoreAddress,
    rng: Rng,
    objects: ObjectServer,
}

impl Stored {
    fn start(flavor: &Flavor, story: &str) -> Option<Self> {
        Self::start_with(flavor, story, |_, store| store)
    }

    /// `through` changes how the agent reaches the store.
    fn start_with(
        flavor: &Flavor,
        story: &str,
        through: impl FnOnce(&HttpFaults, StoreAddress) -> StoreAddress,
    ) -> Option<Self> {
        let objects = ObjectServer::start(Kind::Moto, story)?;
        let mut rng = seed::chance(story);
        let faults = HttpFaults::start(objects.addr(), rng.fork());
        let server = patient_server(flavor);
        let store = through(&faults, objects.store_at(faults.addr()));
        let mut agent = Agent::start(&server.url(), &store, QUICK);
        agent.wait_ready();
        Some(Self { server, faults, agent, direct: objects.store(), rng, objects })
    }

    /// Everything there is can be restored, in one window without a gap.
    fn assert_whole(&self, account: Account) {
        assert_whole(&self.agent, &self.direct, &self.server, account, 0);
    }
}

/// How long each fault lasts.
const FAULT: Duration = Duration::from_secs(3);

/// What goes wrong, and what of.
fn misbehaviours() -> Vec<(&'static str, Vec<Rule>)> {
    vec![
        ("every second request fails (500)", vec![Rule::any(50, Fault::Refused(500, "InternalError"))]),
        ("stored, then answered 503", vec![Rule::on("PUT", 70, Fault::DoneBut(503, "ServiceUnavailable"))]),
        (
            "stored, then answered 500, and failing",
            vec![
                Rule::on("PUT", 50, Fault::DoneBut(500, "InternalError")),
                Rule::any(40, Fault::Refused(500, "InternalError")),
            ],
        ),
        ("conflicts (409)", vec![Rule::on("PUT", 70, Fault::Refused(409, "ConditionalRequestConflict"))]),
        ("throttled (503 SlowDown)", vec![Rule::any(80, Fault::Refused(503, "SlowDown"))]),
        ("slow, 700 ms a request", vec![Rule::any(100, Fault::Late(700))]),
        ("every second connection is dropped", vec![Rule::any(50, Fault::Dropped)]),
        // only a put whose outcome is not known is followed by a read
        (
            "stored, then answered 503, and what is read to settle it breaks off",
            vec![
                Rule::on("PUT", 70, Fault::DoneBut(503, "ServiceUnavailable")),
                Rule::on("GET", 70, Fault::Torn).containing("/log/"),
            ],
        ),
        ("the bucket is gone (404)", vec![Rule::any(100, Fault::Refused(404, "NoSuchBucket"))]),
        ("the permission is lost (403)", vec![Rule::any(100, Fault::Refused(403, "AccessDenied"))]),
        ("the permission to put is lost", vec![Rule::on("PUT", 100, Fault::Refused(403, "AccessDenied"))]),
    ]
}

/// One fault after the other, under load: what is confirmed is stored, all the same.
fn a_store_that_misbehaves_loses_nothing(flavor: &Flavor) {
    let story = "a_store_that_misbehaves_loses_nothing";
    let Some(mut stored) = Stored::start(flavor, story) else { return };
    let ledger = Ledger::start(&stored.server, stored.rng.u64(..));
    let load = Load::start(&stored.server, Workload::new(stored.rng.u64(..), flavor));
    let mut rows = Vec::new();
    for (fault, rules) in misbehaviours() {
        println!("{fault}");
        let (mut figures, before) = (Figures::default(), ledger.account().confirmed);
        stored.faults.set(rules);
        std::thread::sleep(FAULT);
        stored.faults.wait_struck();
        println!("struck: {:?}", stored.faults.struck());
        stored.faults.clear();
        figures.run(ledger.recovery(Instant::now(), 2 * poll::PATIENCE));
        figures.acknowledged = ledger.account().confirmed - before;
        rows.push((fault, figures));
    }
    load.stop();
    stored.assert_whole(ledger.stop());
    assert_eq!(stored.agent.stop().code(), Some(0));
    for (fault, figures) in rows {
        figures.tell(&format!("the store: {fault}"), story, flavor);
    }
}
on_each_flavor!(a_store_that_misbehaves_loses_nothing: redis_7_0);

/// A listing that breaks off is never taken for a shorter log.
fn torn_listings_are_not_believed(flavor: &Flavor) {
    let story = "torn_listings_are_not_believed";
    let Some(mut stored) = Stored::start(flavor, story) else { return };
    let ledger = Ledger::start(&stored.server, stored.rng.u64(..));
    let mut figures = Figures::default();
    for _ in 0..4 {
        ledger.recovered();
        stored.agent.kill9();
        let torn = |percent| vec![Rule::on("GET", percent, Fault::Torn).containing("list-type")];
        stored.faults.set(torn(100));
        let started = Instant::now();
        stored.agent.start_again();
        stored.faults.wait_struck();
        // of a dozen listings in a start all have to come
        stored.faults.set(torn(15));
        poll::until("an agent has started", || {
            if let Some(status) = stored.agent.exited() {
                // unreachable: a supervisor starts the next one
                assert_eq!(status.code(), Some(5), "{}", stored.agent.log());
                stored.agent.start_again();
            }
            stored.agent.page("/readyz").filter(|(status, _)| *status == 200)
        });
        stored.faults.clear();
        ledger.recovered();
        figures.run(started.elapsed());
    }
    let account = ledger.stop();
    figures.acknowledged = account.confirmed;
    stored.assert_whole(account);
    figures.tell("the store: listings break off while the agent starts", story, flavor);
}
on_each_flavor!(torn_listings_are_not_believed: redis_7_0);

/// The store neither takes nor refuses anything for long, under load. `REDWIND_OUTAGE_SECONDS` says how
/// long.
fn a_long_outage_is_spooled(flavor: &Flavor) {
    let story = "a_long_outage_is_spooled";
    let outage = Duration::from_secs(seed::number("REDWIND_OUTAGE_SECONDS", 30));
    let Some(mut stored) = Stored::start(flavor, story) else { return };
    let ledger = Ledger::start(&stored.server, stored.rng.u64(..));
    let (mut cli, mut workload) = (stored.server.cli(), Workload::new(stored.rng.u64(..), flavor));
    ledger.recovered();
    let began = Instant::now();
    while began.elapsed() < outage {
        let fault = match stored.rng.u8(0..3) {
            0 => Fault::Unanswered,
            1 => Fault::Refused(503, "ServiceUnavailable"),
            _ => Fault::Dropped,
        };
        stored.faults.set(vec![Rule::any(100, fault)]);
        let (until, pause) = (Instant::now() + (outage / 6).min(Duration::from_secs(30)), Duration::from_millis(100));
        // some megabytes a second: less than fills the spool in ten minutes
        while Instant::now() < until {
            workload.run(&mut cli, 20);
            std::thread::sleep(pause);
        }
    }
    let confirmed = ledger.account().confirmed;
    assert_eq!(stored.agent.metric("redwind_store_failing"), Some(1.0), "the outage shows");
    assert!(stored.agent.metric("redwind_spool_used_bytes") > Some(0.0), "the spool has taken it");
    stored.faults.clear();
    let mut figures = Figures::default();
    figures.run(ledger.recovery(Instant::now(), 4 * poll::PATIENCE));
    let account = ledger.stop();
    assert!(account.confirmed > confirmed, "{confirmed} of {account:?}");
    figures.acknowledged = account.confirmed;
    let peak = peak_kib(stored.agent.pid());
    println!("the agent's peak memory: {peak} KiB");
    // the bound is the release build's; this one is built for debugging
    assert!(peak < 128 << 10, "{peak} KiB");
    stored.assert_whole(account);
    let seconds = outage.as_secs();
    figures.tell(&format!("the store: errors and no answers for {seconds} s under load"), story, flavor);
}
on_each_flavor!(a_long_outage_is_spooled: redis_7_0);

fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|peak| peak.trim().strip_suffix(" kB")).unwrap().parse().unwrap()
}

/// Credentials that last seconds are renewed in time. Where they end sooner than was said, or none are to be
/// had, the agent waits for the next.
fn credentials_that_expire_are_renewed(flavor: &Flavor) {
    let story = "credentials_that_expire_are_renewed";
    let folder = tempfile::tempdir().unwrap();
    let service = CredentialService::start(LIFETIME);
    let through = |faults: &HttpFaults, store: StoreAddress| {
        faults.guard(service.guard());
        service.for_store(&store, folder.path())
    };
    let Some(mut stored) = Stored::start_with(flavor, story, through) else { return };
    let ledger = Ledger::start(&stored.server, stored.rng.u64(..));
    // long enough for the first ones to end
    std::thread::sleep(2 * LIFETIME);
    let mut in_time = Figures::default();
    in_time.run(ledger.recovered());
    assert!(service.issued() > 2, "{}", service.issued());
    assert_eq!(service.refused(), 0, "each was renewed before it ended");
    in_time.acknowledged = ledger.account().confirmed;

    let mut late = Figures::default();
    service.promise(RENEWAL + 2 * LIFETIME);
    poll::until_true("credentials end too soon", || service.refused() > 0);
    // the fault ends with the next ones
    let issued = service.issued();
    poll::until_true("others are asked for", || service.issued() > issued);
    service.promise(LIFETIME);
    late.run(ledger.recovery(Instant::now(), 2 * poll::PATIENCE));
    service.silence(true);
    poll::until_true("the store fails", || stored.agent.metric("redwind_store_failing") == Some(1.0));
    std::thread::sleep(FAULT);
    service.silence(false);
    late.run(ledger.recovered());
    let account = ledger.stop();
    late.acknowledged = account.confirmed - in_time.acknowledged;
    stored.assert_whole(account);
    in_time.tell("the store's credentials expire, and are renewed in time", story, flavor);
    late.tell("the store's credentials expire, and are renewed late", story, flavor);
}
on_each_flavor!(credentials_that_expire_are_renewed: redis_7_0);

/// How long credentials last.
const LIFETIME: Duration = Duration::from_secs(2);
/// So long before their end others are asked for (`object_store`).
const RENEWAL: Duration = Duration::from_secs(300);

/// More comes than spool and backlog hold: told while it lasts, and afterwards for ever.
fn a_full_spool_is_told_and_leaves_a_gap(flavor: &Flavor) {
    let story = "a_full_spool_is_told_and_leaves_a_gap";
    let server = Server::start_with(flavor, ServerOptions::default().config("repl-backlog-size 1mb"));
    let small = ["--segment-size", "1MiB", "--spool-size", "16MiB"];
    let mut following = Following::start_with(&server, &[QUICK, &small].concat());
    let ledger = Ledger::start(&server, seed::chance(story).u64(..));
    ledger.recovered();
    let before = ledger.stop();
    let away = following.take_the_store_away();
    let mut cli = server.cli();
    noise(&mut cli, (0..40).map(|n| n % 10));
    poll::until_true("the agent tells that the spool is full", || {
        let metrics = following.agent.metrics();
        let is = |part: &str| metrics.iter().any(|(name, value)| name.contains(part) && *value == 1.0);
        is("state=\"spool_full\"") && following.agent.log().contains("the spool is full")
    });
    assert_eq!(following.agent.page("/readyz").map(|(status, _)| status), Some(503));
    // beyond what the server keeps
    noise(&mut cli, 0..4);
    let ended = Instant::now();
    away.give_back();
    poll::until_true("another history can be restored", || {
        following.list()["windows"].as_array().is_some_and(|windows| windows.len() == 2)
    });
    following.wait_restorable();
    let ledger = Ledger::go_on(&server, 1, before);
    let mut figures = Figures::default();
    ledger.recovered();
    figures.run(ended.elapsed());
    let account = ledger.stop();
    figures.acknowledged = account.confirmed;
    let listed = following.list();
    let gaps = listed["gaps"].as_array().unwrap();
    assert_eq!(gaps.len(), 1, "{listed}");
    assert_eq!(gaps[0]["cause"], "spool_full", "{listed}");
    figures.gaps = 1;
    figures.lost = account.lost(&following.restored("latest").server);
    assert_eq!(figures.lost, 0);
    before.assert_held(&following.restored(gaps[0]["from"].as_str().unwrap()).server);
    following.verify();
    figures.tell("the spool and the backlog are full", story, flavor);
}
on_each_flavor!(a_full_spool_is_told_and_leaves_a_gap: redis_7_0 valkey_9);

/// An agent that is started while its bucket is gone, or its right to it: status 5, and it says so.
fn a_start_without_a_store_has_a_status(flavor: &Flavor) {
    let story = "a_start_without_a_store_has_a_status";
    let Some(mut stored) = Stored::start(flavor, story) else { return };
    for (status, code) in [(404, "NoSuchBucket"), (403, "AccessDenied")] {
        stored.agent.kill9();
        stored.faults.set(vec![Rule::any(100, Fault::Refused(status, code))]);
        stored.agent.start_again();
        let ended = stored.agent.wait_end(poll::PATIENCE);
        assert_eq!(ended.code(), Some(5), "{code}: {}", stored.agent.log());
        assert!(stored.agent.log().contains(code), "{}", stored.agent.log());
        stored.faults.clear();
        stored.agent.start_again();
        stored.agent.wait_ready();
    }
    let _ = run(Some(&stored.direct), &["list"]).expect(0);
}
on_each_flavor!(a_start_without_a_store_has_a_status: redis_7_0);

/// A restore that is stopped before it has begun, while it waits for the store, ends at once and leaves its
/// destination alone.
fn a_restore_ends_when_it_is_told_to_while_the_store_hangs(flavor: &Flavor) {
    let story = "a_restore_ends_when_it_is_told_to_while_the_store_hangs";
    let Some(stored) = Stored::start(flavor, story) else { return };
    stored.faults.set(vec![Rule::on("PUT", 100, Fault::Unanswered).containing("/audit/")]);
    let through = stored.objects.store_at(stored.faults.addr());
    let folder = tempfile::tempdir().unwrap();
    let (aof, log) = (folder.path().join("aof"), folder.path().join("log"));
    let target = Server::start(flavor);
    for (signal, destination) in [
        (Signal::INT, ["--into", &target.url()]),
        (Signal::TERM, ["--into", &target.url()]),
        (Signal::INT, ["--aof", aof.to_str().unwrap()]),
        (Signal::INT, ["--serve", "127.0.0.1"]),
    ] {
        let asked = || stored.faults.struck().get(&Fault::Unanswered).copied().unwrap_or_default();
        let before = asked();
        let mut redwind = command(binary());
        redwind.args(["restore", "--to", "latest", "--store", &through.url]).args(destination);
        redwind.envs(through.env.iter().cloned());
        let mut restore = Process::spawn("redwind restore", redwind, &log).unwrap();
        poll::until_true("the restore enters itself into the audit log", || asked() > before);
        restore.signal(signal);
        // an unanswered request is given up after a minute
        let ended = restore.wait(Duration::from_secs(20));
        assert_eq!(ended.code(), Some(1), "{destination:?}: {}", restore.log());
        assert!(restore.log().ends_with("error: interrupted\n"), "{destination:?}: {}", restore.log());
    }
    assert_eq!(target.cli().info("replication", "role").as_deref(), Some("master"));
    assert!(!aof.exists(), "something is at the destination");
}
on_each_flavor!(a_restore_ends_when_it_is_told_to_while_the_store_hangs: redis_7_0);
