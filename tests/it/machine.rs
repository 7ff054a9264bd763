//! Whatever the agent's own machine does to it: a full disk, no descriptors, a clock that jumps, a stop
//! that lasts.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use redwind_tests::figures::Figures;
use redwind_tests::ledger::Ledger;
use redwind_tests::redwind::Stage;
use redwind_tests::server::{Server, ServerOptions, number};
use redwind_tests::servers::{Flavor, skip_without};
use redwind_tests::story::{Following, QUICK, patient_server};
use redwind_tests::workload::noise;
use redwind_tests::{on_each_flavor, poll, seed};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

/// The spool's folder becomes a disk of 12 MiB of its own, which goes with the agent.
const SMALL_DISK: &str = "for word; do [ \"$last\" = --spool ] && disk=$word; last=$word; done; \
    mkdir -p \"$disk\" && mount -t tmpfs -o size=12m tmpfs \"$disk\" && exec \"$@\"";

/// The disk of the spool is full long before the spool is: the agent leaves the server, keeps what it
/// has, and goes on when there is room.
fn a_full_disk_lets_go_of_the_server(flavor: &Flavor) {
    let story = "a_full_disk_lets_go_of_the_server";
    let own_mounts = ["unshare", "--user", "--map-root-user", "--mount"];
    let able = std::process::Command::new(own_mounts[0])
        .args(&own_mounts[1..])
        .args(["sh", "-c", "mount -t tmpfs tmpfs /mnt"])
        .output();
    if !able.is_ok_and(|output| output.status.success()) {
        return skip_without("mounts in a user namespace", "a kernel and a container that allow unshare(1)", story);
    }
    let unshare = redwind_tests::process::on_path("unshare").unwrap();
    let launcher = [&[unshare.to_str().unwrap()], &own_mounts[1..], &["sh", "-c", SMALL_DISK, "sh"]].concat();
    let server = patient_server(flavor);
    let small = ["--segment-size", "1MiB", "--spool-size", "1GiB"];
    let mut following = Following::start_under(&launcher, flavor, &server.url(), &[QUICK, &small].concat());
    following.wait_restorable();
    let ledger = Ledger::start(&server, seed::chance(story).u64(..));
    ledger.recovered();
    let away = following.take_the_store_away();
    noise(&mut server.cli(), (0..40).map(|n| n % 10));
    poll::until_true("the agent has left", || server.info("replication", "connected_slaves").as_deref() == Some("0"));
    let log = following.agent.log();
    assert!(log.contains("there is no room for the spool"), "{log}");
    away.give_back();
    let recovery = ledger.recovered();
    let mut figures = following.assert_whole(&server, ledger.stop(), 0);
    figures.run(recovery);
    figures.tell("the disk of the spool is full", story, flavor);
}
on_each_flavor!(a_full_disk_lets_go_of_the_server: redis_7_0);

/// Not one file or socket more can be opened for a while.
fn without_descriptors_nothing_is_lost(flavor: &Flavor) {
    let story = "without_descriptors_nothing_is_lost";
    let server = patient_server(flavor);
    let mut following = Following::start(&server);
    let ledger = Ledger::start(&server, seed::chance(story).u64(..));
    ledger.recovered();
    let pid = Pid::from_raw(following.agent.pid().cast_signed());
    let limits = prlimit(pid, Resource::Nofile, Rlimit { current: Some(3), ..getrlimit(Resource::Nofile) }).unwrap();
    // what was under way comes to its end
    std::thread::sleep(Duration::from_secs(1));
    let before = ledger.account();
    std::thread::sleep(Duration::from_secs(3));
    let after = ledger.account();
    assert!(after.written > before.written, "{before:?}, {after:?}");
    assert_eq!(after.confirmed, before.confirmed, "nothing can be stored, nor confirmed");
    assert_eq!(following.agent.exited(), None, "{}", following.agent.log());
    prlimit(pid, Resource::Nofile, limits).unwrap();
    let recovery = ledger.recovered();
    let mut figures = following.assert_whole(&server, ledger.stop(), 0);
    figures.run(recovery);
    figures.tell("no file descriptors for 4 s", story, flavor);
}
on_each_flavor!(without_descriptors_nothing_is_lost: redis_7_0);

/// Stopped until the server has given it up for dead, in the middle of the load.
fn a_stop_longer_than_repl_timeout_leaves_a_blur(flavor: &Flavor) {
    let story = "a_stop_longer_than_repl_timeout_leaves_a_blur";
    let options = ServerOptions::default().config("repl-backlog-size 256mb").config("repl-timeout 2");
    let server = Server::start_with(flavor, options);
    let following = Following::start(&server);
    let ledger = Ledger::start(&server, seed::chance(story).u64(..));
    ledger.recovered();
    following.agent.pause();
    poll::until_true("the server has given it up", || {
        server.info("replication", "connected_slaves").as_deref() == Some("0")
    });
    let inside = redwind_tests::mark::now();
    let held = ledger.account();
    poll::until_true("more is written", || ledger.account().written > held.written + 20);
    following.agent.go_on();
    let recovery = ledger.recovered();
    let _ = following.plan(&inside.to_string()).expect(3);
    let mut figures = following.assert_whole(&server, ledger.stop(), 0);
    figures.run(recovery);
    figures.tell("the agent is stopped (SIGSTOP) for longer than repl-timeout", story, flavor);
}
on_each_flavor!(a_stop_longer_than_repl_timeout_leaves_a_blur: redis_7_0 valkey_9);

/// What makes the wall clock of a process wrong, as it is told by a file, and leaves its monotonic one.
fn libfaketime() -> Option<PathBuf> {
    let mut architectures = std::fs::read_dir("/usr/lib").ok()?.flatten();
    architectures.find_map(|folder| {
        let library = folder.path().join("faketime/libfaketime.so.1");
        library.is_file().then_some(library)
    })
}

/// The agent's wall clock is stepped by hours, forth and back: no byte is lost, times never decrease,
/// and what a 6.2 says of expiries is still reckoned by the server's clock.
fn a_clock_that_jumps_by_hours_loses_nothing(flavor: &Flavor) {
    let story = "a_clock_that_jumps_by_hours_loses_nothing";
    let Some(library) = libfaketime() else {
        return skip_without("libfaketime", "apt-get install faketime", story);
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("offset");
    let step = |offset: &str| std::fs::write(&file, offset).unwrap();
    step("+0");
    let env = redwind_tests::process::on_path("env").unwrap();
    let variables = [
        format!("LD_PRELOAD={}", library.display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", file.display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        "DONT_FAKE_MONOTONIC=1".to_owned(),
    ];
    let launcher: Vec<_> = [env.to_str().unwrap()].into_iter().chain(variables.iter().map(String::as_str)).collect();
    let server = patient_server(flavor);
    let mut following = Following::start_under(&launcher, flavor, &server.url(), QUICK);
    following.wait_restorable();
    let ledger = Ledger::start(&server, seed::chance(story).u64(..));
    let mut figures = Figures::default();
    for (n, offset) in ["+3h", "-2h", "+0", "+3h", "+0"].into_iter().enumerate() {
        println!("the agent's clock is {offset}");
        ledger.recovered();
        step(offset);
        figures.run(ledger.recovered());
        // its clock follows forward at once and back at half speed, so that it stays ahead from now on
        poll::until_true("the difference is known", || {
            following.agent.metric("redwind_clock_offset_seconds").is_some_and(|ahead| ahead < -3600.0)
        });
        expires_by_the_servers_clock(&following, &server, n);
    }
    figures.acknowledged = following.assert_whole(&server, ledger.stop(), 0).acknowledged;
    following.agent.kill9();
    following.agent.start_again();
    following.agent.wait_ready();
    figures.tell("the agent's clock is stepped by hours, forth and back", story, flavor);
}
on_each_flavor!(a_clock_that_jumps_by_hours_loses_nothing: redis_6_2 redis_7_0);

/// A key written once the agent knows of the step expires when the server would let it.
fn expires_by_the_servers_clock(following: &Following, server: &Server, n: usize) {
    let (mut cli, key) = (server.cli(), format!("expiring:{n}"));
    // the segment under way was begun before
    cli.command(&["SET", "a", "segment"]);
    following.wait_durable(server);
    cli.command(&["SET", &key, "value", "EX", "1000"]);
    let offset = cli.offset();
    following.agent.wait_offset(Stage::Durable, offset);
    let restored = following.restored(&format!("offset:{offset}"));
    let left = |server: &Server| number(&server.cli().command(&["PTTL", &key]));
    let (theirs, ours) = (left(server), left(&restored.server));
    assert!((theirs - ours).abs() < 20_000, "{key}: {theirs} ms left on the server, {ours} ms when restored");
}

/// A second signal ends at once what a first one lets end in order.
fn a_second_signal_ends_at_once(flavor: &Flavor) {
    let server = patient_server(flavor);
    let mut following = Following::start(&server);
    let away = following.take_the_store_away();
    server.cli().command(&["SET", "kept", "in the spool"]);
    following.agent.wait_offset(Stage::Spooled, server.cli().offset());
    following.agent.terminate();
    poll::until_true("it stops in order", || following.agent.log().contains("a second signal ends at once"));
    assert_eq!(following.agent.exited(), None, "the store takes nothing");
    let second = Instant::now();
    following.agent.terminate();
    let ended = following.agent.wait_end(poll::PATIENCE);
    assert!(second.elapsed() < Duration::from_secs(5), "it took {:?}", second.elapsed());
    assert_eq!(ended.code(), Some(1), "{}", following.agent.log());
    away.give_back();
    following.agent.start_again();
    following.flush(&server);
    assert_eq!(following.restored("latest").get("kept"), "in the spool");
}
on_each_flavor!(a_second_signal_ends_at_once: redis_7_0);
