//! Whatever happens to the server that is followed: its restarts, its changes of mind about who it is
//! and who may read it, and what it does to a replica that is in its way.

use std::time::{Duration, Instant};

use fastrand::Rng;
use redwind_tests::figures::Figures;
use redwind_tests::ledger::{Account, Ledger};
use redwind_tests::mark::now;
use redwind_tests::oracle::wait_level;
use redwind_tests::redwind::Stage;
use redwind_tests::server::{Cli, Server, ServerOptions, text};
use redwind_tests::servers::Flavor;
use redwind_tests::story::{Following, QUICK, patient_server};
use redwind_tests::workload::noise;
use redwind_tests::{on_each_flavor, poll, seed};
use serde_json::Value as Json;

fn wait_windows(following: &Following, count: u64) {
    let windows = || following.list()["windows"].as_array().map_or(0, |windows| windows.len() as u64);
    poll::until_true(&format!("there are {count} windows"), || windows() == count);
}

/// The cause of the only gap.
fn only_gap(following: &Following) -> String {
    let listed = following.list();
    let gaps = listed["gaps"].as_array().unwrap();
    assert_eq!(gaps.len(), 1, "{listed}");
    gaps[0]["cause"].as_str().unwrap_or_default().to_owned()
}

/// What comes after a fault: how long until writes are durable again, and what is promised from then on.
struct Aftermath {
    recovery: Duration,
    account: Account,
}

impl Aftermath {
    /// Called when the fault ends, waits for that.
    fn of_a_fault(server: &Server, rng: &mut Rng) -> Self {
        let ended = Instant::now();
        let ledger = Ledger::start(server, rng.u64(..));
        let recovery = ledger.recovery(ended, 2 * poll::PATIENCE);
        Self { recovery, account: ledger.stop() }
    }

    /// Everything is there, and no other gap.
    fn assert_whole(self, following: &Following, server: &Server, gaps: u64) -> Figures {
        let mut figures = following.assert_whole(server, self.account, gaps);
        figures.run(self.recovery);
        figures
    }
}

/// SHUTDOWN SAVE and a start from the dump: not a byte is missing on either side.
fn a_clean_restart_of_the_server_loses_nothing(flavor: &Flavor) {
    let story = "a_clean_restart_of_the_server_loses_nothing";
    let mut server = patient_server(flavor);
    let following = Following::start(&server);
    let ledger = Ledger::start(&server, 1);
    ledger.recovered();
    let began = Instant::now();
    assert_eq!(server.shutdown(true).code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(8), "it waited for us: {:?}", began.elapsed());
    server.start_again();
    let restarted = Instant::now();
    ledger.recovered();
    // From 7.0 on the new one knows the old one's stream, and the history goes on. 6.2 forgets its offset,
    // and what it was given before a replica came is then at offset 0: any replica that is merely there
    // satisfies WAIT, so that it returns before the snapshot is complete.
    let gaps = u64::from(!flavor.is_7_0());
    wait_windows(&following, 1 + gaps);
    let recovery = restarted.elapsed();
    let mut figures = following.assert_whole(&server, ledger.stop(), gaps);
    figures.run(recovery);
    figures.tell("the server restarts in order", story, flavor);
}
on_each_flavor!(a_clean_restart_of_the_server_loses_nothing: redis_6_2 redis_7_0 valkey_9);

/// kill -9, and back with the dump of long ago: what the server has lost, the archive has not.
fn a_server_that_comes_back_older_begins_another_history(flavor: &Flavor) {
    let story = "a_server_that_comes_back_older_begins_another_history";
    let mut server = patient_server(flavor);
    let following = Following::start(&server);
    let mut cli = server.cli();
    cli.command(&["SET", "side", "before the dump"]);
    save(&mut cli);
    let ledger = Ledger::start(&server, 2);
    ledger.recovered();
    let account = ledger.stop();
    cli.command(&["SET", "side", "lost by the server"]);
    let lost_by_the_server = following.mark("before the crash", &server);
    cli.command(&["SET", "side", "the last of all"]);
    following.wait_durable(&server);
    server.kill9();
    server.start_again();
    let aftermath = Aftermath::of_a_fault(&server, &mut seed::chance(story));
    assert_eq!(text(&server.cli().command(&["GET", "side"])), "before the dump");
    wait_windows(&following, 2);
    let cause = only_gap(&following);
    assert!(matches!(cause.as_str(), "offsets_went_back" | "backlog_lost"), "{cause}");
    let at = lost_by_the_server.at.to_string();
    let restored = following.restored(&at);
    assert_eq!(restored.get("side"), "lost by the server");
    account.assert_held(&restored.server);
    assert_eq!(following.restored("latest").get("side"), "before the dump");
    let mut figures = aftermath.assert_whole(&following, &server, 1);
    figures.acknowledged += account.confirmed;
    figures.tell("the server is killed and comes back with older data", story, flavor);
}
on_each_flavor!(a_server_that_comes_back_older_begins_another_history: redis_7_0 valkey_9);

/// Made a replica of another server, and a primary again: each dataset is in a history of its own.
fn a_server_that_changes_its_primary_changes_its_history(flavor: &Flavor) {
    let story = "a_server_that_changes_its_primary_changes_its_history";
    let server = patient_server(flavor);
    let other = patient_server(flavor);
    other.cli().command(&["SET", "whose", "the other's"]);
    let following = Following::start(&server);
    let mut cli = server.cli();
    cli.command(&["SET", "whose", "its own"]);
    let own = following.mark("its own data", &server);
    cli.command(&["SET", "more", "of its own"]);
    following.wait_durable(&server);
    let (host, port) = (other.addr().ip().to_string(), other.addr().port().to_string());
    cli.command(&["REPLICAOF", &host, &port]);
    wait_level(&other, &server);
    wait_windows(&following, 2);
    poll::until_true("the other's data is restored", || {
        following.plan("latest").code == Some(0) && following.restored("latest").get("whose") == "the other's"
    });
    cli.command(&["REPLICAOF", "NO", "ONE"]);
    cli.command(&["SET", "whose", "its own again"]);
    let aftermath = Aftermath::of_a_fault(&server, &mut seed::chance(story));
    assert_eq!(following.restored("latest").get("whose"), "its own again");
    assert_eq!(following.restored(&own.at.to_string()).get("whose"), "its own");
    let gaps = following.list()["gaps"].as_array().map_or(0, |gaps| gaps.len() as u64);
    assert!((1..=2).contains(&gaps), "{}", following.list());
    let figures = aftermath.assert_whole(&following, &server, gaps);
    figures.tell("REPLICAOF another server and back", story, flavor);
}
on_each_flavor!(a_server_that_changes_its_primary_changes_its_history: redis_7_0 valkey_9);

/// Under another replication ID, and with the old one forgotten, nothing can be continued.
fn a_new_replication_id_is_another_history(flavor: &Flavor) {
    let story = "a_new_replication_id_is_another_history";
    let server = patient_server(flavor);
    let following = Following::start(&server);
    let mut cli = server.cli();
    cli.command(&["SET", "side", "before"]);
    cli.command(&["DEBUG", "CHANGE-REPL-ID"]);
    cli.command(&["SET", "side", "after"]);
    following.wait_durable(&server);
    assert_eq!(following.list()["gaps"], Json::Array(Vec::new()), "the link goes on");
    kill_replicas(&mut cli);
    let aftermath = Aftermath::of_a_fault(&server, &mut seed::chance(story));
    wait_windows(&following, 2);
    assert_eq!(only_gap(&following), "backlog_lost");
    let figures = aftermath.assert_whole(&following, &server, 1);
    figures.tell("DEBUG CHANGE-REPL-ID", story, flavor);
}
on_each_flavor!(a_new_replication_id_is_another_history: redis_7_0 valkey_9);

/// A dump of now, once the child that served the agent is gone.
fn save(cli: &mut Cli) {
    poll::until_true("the server saves", || cli.try_command(&["SAVE"]).is_ok());
}

fn kill_replicas(cli: &mut Cli) {
    cli.command(&["CLIENT", "KILL", "TYPE", "replica"]);
}

/// A primary that nobody follows for long drops its backlog, and takes another replication ID.
fn a_backlog_that_was_dropped_leaves_a_gap(flavor: &Flavor) {
    let story = "a_backlog_that_was_dropped_leaves_a_gap";
    let server = Server::start_with(flavor, ServerOptions::default().config("repl-backlog-ttl 1"));
    let mut following = Following::start(&server);
    server.cli().command(&["SET", "side", "before"]);
    following.wait_durable(&server);
    following.agent.kill9();
    poll::until_true("the backlog is dropped", || {
        server.info("replication", "repl_backlog_active").as_deref() == Some("0")
    });
    server.cli().command(&["SET", "side", "meanwhile"]);
    following.agent.start_again();
    let aftermath = Aftermath::of_a_fault(&server, &mut seed::chance(story));
    wait_windows(&following, 2);
    assert_eq!(only_gap(&following), "backlog_lost");
    let figures = aftermath.assert_whole(&following, &server, 1);
    figures.tell("the backlog is dropped after repl-backlog-ttl", story, flavor);
}
on_each_flavor!(a_backlog_that_was_dropped_leaves_a_gap: redis_6_2 redis_7_0 valkey_9);

/// SHUTDOWN while nothing can be stored: nothing is acknowledged that is not durable, the server does
/// not wait, and the spool has all of it.
fn a_shutdown_while_we_are_behind_waits_for_nobody(flavor: &Flavor) {
    let story = "a_shutdown_while_we_are_behind_waits_for_nobody";
    let mut server = patient_server(flavor);
    let following = Following::start(&server);
    let ledger = Ledger::start(&server, 3);
    ledger.recovered();
    let away = following.take_the_store_away();
    let before = ledger.account();
    poll::until_true("more is written", || ledger.account().written > before.written + 200);
    let account = ledger.stop();
    server.cli().command(&["SET", "last", "words"]);
    let began = Instant::now();
    server.shutdown(false);
    assert!(began.elapsed() < Duration::from_secs(8), "it waited for us: {:?}", began.elapsed());
    away.give_back();
    let back = Instant::now();
    poll::until_true("everything is stored", || following.restored("latest").get("last") == "words");
    let mut figures = Figures { acknowledged: account.confirmed, ..Figures::default() };
    figures.run(back.elapsed());
    let restored = following.restored("latest");
    assert_eq!(redwind_tests::ledger::held(&restored.server), account.written, "confirmed or not, it had come");
    following.verify();
    figures.tell("SHUTDOWN while the store is away", story, flavor);
}
on_each_flavor!(a_shutdown_while_we_are_behind_waits_for_nobody: redis_7_0 valkey_9);

/// An agent that is stopped while much is written is thrown out by the server, and comes back.
fn a_full_output_buffer_costs_a_blur(flavor: &Flavor) {
    let story = "a_full_output_buffer_costs_a_blur";
    let options = ServerOptions::default()
        .config("repl-backlog-size 64mb")
        .config("client-output-buffer-limit replica 80mb 8mb 1");
    let server = Server::start_with(flavor, options);
    let following = Following::start(&server);
    following.agent.pause();
    let mut cli = server.cli();
    let attached = || server.info("replication", "connected_slaves").as_deref() != Some("0");
    let mut written = 0;
    while attached() && written < 60 {
        noise(&mut cli, [written % 8]);
        written += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!attached(), "the server throws out a replica that does not read");
    assert!(server.log().contains("output buffer limits"), "{}", server.log());
    let inside = now();
    following.agent.go_on();
    let aftermath = Aftermath::of_a_fault(&server, &mut seed::chance(story));
    let _ = following.plan(&inside.to_string()).expect(3);
    let figures = aftermath.assert_whole(&following, &server, 0);
    figures.tell("the server's output buffer limit is reached", story, flavor);
}
on_each_flavor!(a_full_output_buffer_costs_a_blur: redis_7_0);

/// The child that writes a snapshot is killed: no snapshot, another is taken, the log never stops.
fn a_snapshot_whose_child_is_killed_is_taken_again(flavor: &Flavor) {
    let story = "a_snapshot_whose_child_is_killed_is_taken_again";
    let server = Server::start_with(flavor, ServerOptions::default().config("rdb-key-save-delay 2000"));
    let mut cli = server.cli();
    for n in 0..1000 {
        cli.command(&["SET", &format!("key:{n}"), "value"]);
    }
    let following = Following::start_unready(&server, QUICK);
    for _ in 0..2 {
        let child = poll::until("a snapshot is under way", || {
            following.snapshot_received()?;
            child_of(server.pid()?)
        });
        let pid = rustix::process::Pid::from_raw(child).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        poll::until_true("the child is gone", || child_of(server.pid().unwrap()) != Some(child));
        let _ = following.plan("latest").expect(3);
    }
    cli.command(&["CONFIG", "SET", "rdb-key-save-delay", "0"]);
    let aftermath = Aftermath::of_a_fault(&server, &mut seed::chance(story));
    let mut figures = aftermath.assert_whole(&following, &server, 0);
    figures.runs = 2;
    figures.tell("the child that writes the snapshot is killed", story, flavor);
}
on_each_flavor!(a_snapshot_whose_child_is_killed_is_taken_again: redis_7_0 valkey_9);

fn child_of(pid: u32) -> Option<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// A server that is loading for long answers nothing else; the agent waits for it.
fn a_server_that_is_loading_is_waited_for(flavor: &Flavor) {
    let story = "a_server_that_is_loading_is_waited_for";
    let options =
        ServerOptions::default().config("key-load-delay 2000").config("loading-process-events-interval-bytes 1024");
    let mut server = Server::start_with(flavor, options);
    let mut cli = server.cli();
    for n in 0..1500 {
        cli.command(&["SET", &format!("key:{n}"), "value"]);
    }
    let following = Following::start(&server);
    save(&mut cli);
    server.kill9();
    // returns when it has loaded
    server.start_again();
    let aftermath = Aftermath::of_a_fault(&server, &mut seed::chance(story));
    let log = following.agent.log();
    assert!(log.contains("loading"), "{log}");
    let figures = aftermath.assert_whole(&following, &server, 0);
    figures.tell("the server is loading", story, flavor);
}
on_each_flavor!(a_server_that_is_loading_is_waited_for: redis_7_0);

/// The agent's right is taken away, its password is changed in its file and on the server: it says so
/// while it lasts, and goes on without a gap, and without being started again.
fn a_lost_right_and_a_new_password_are_survived(flavor: &Flavor) {
    let story = "a_lost_right_and_a_new_password_are_survived";
    let options = ServerOptions::default()
        .config("repl-backlog-size 64mb")
        .config("user redwind on >one -@all +psync +replconf +ping +info +config|get +module|list +time");
    let server = Server::start_with(flavor, options);
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "one").unwrap();
    let as_user = ["--source-user", "redwind", "--source-password-file", password.to_str().unwrap()];
    let following = Following::start_with(&server, &[QUICK, &as_user].concat());
    let mut cli = server.cli();
    let refused = |words: &str| following.agent.log().contains(words);
    let mut figures = Figures::default();

    cli.command(&["ACL", "SETUSER", "redwind", "-psync"]);
    kill_replicas(&mut cli);
    poll::until_true("it tells that it is refused", || refused("refuses PSYNC to this user"));
    assert_eq!(following.agent.page("/readyz").map(|(status, _)| status), Some(503));
    cli.command(&["SET", "written", "while it was refused"]);
    cli.command(&["ACL", "SETUSER", "redwind", "+psync"]);
    let given_back = Instant::now();
    following.agent.wait_offset(Stage::Durable, cli.offset());
    figures.run(given_back.elapsed());

    cli.command(&["ACL", "SETUSER", "redwind", "resetpass", ">two"]);
    cli.command(&["CLIENT", "KILL", "USER", "redwind"]);
    poll::until_true("it tells that it is refused", || refused("refuses the user name or password"));
    std::fs::write(&password, "two").unwrap();
    let rotated = Instant::now();
    cli.command(&["SET", "written", "while the password was another"]);
    following.agent.wait_offset(Stage::Durable, cli.offset());
    figures.run(rotated.elapsed());

    let aftermath = Aftermath::of_a_fault(&server, &mut seed::chance(story));
    figures.acknowledged = aftermath.assert_whole(&following, &server, 0).acknowledged;
    figures.tell("the ACL is revoked, the password rotated", story, flavor);
}
on_each_flavor!(a_lost_right_and_a_new_password_are_survived: redis_7_0);

/// A snapshot that is asked for while the server saves for itself waits for its turn.
fn a_snapshot_waits_for_a_save_under_way(flavor: &Flavor) {
    let server = Server::start_with(flavor, ServerOptions::default().config("rdb-key-save-delay 2000"));
    let mut cli = server.cli();
    for n in 0..1000 {
        cli.command(&["SET", &format!("key:{n}"), "value"]);
    }
    let following = Following::start(&server);
    poll::until_true("the server begins a save", || cli.try_command(&["BGSAVE"]).is_ok());
    let saving = child_of(server.pid().unwrap());
    assert!(saving.is_some(), "it saves");
    let _ = following.agent.snapshot().expect(0);
    assert_eq!(cli.info("persistence", "rdb_last_bgsave_status").as_deref(), Some("ok"));
    following.assert_whole(&server, Account::default(), 0);
}
on_each_flavor!(a_snapshot_waits_for_a_save_under_way: redis_7_0 valkey_9);
