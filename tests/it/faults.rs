//! The harness's sources of faults, each against something real that is known to cope.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use redwind_tests::dataset::Tolerance;
use redwind_tests::fake_primary::{Answer, FakePrimary, Framing, Script};
use redwind_tests::objects::{Kind, ObjectServer};
use redwind_tests::oracle::{capture_live, capture_suspended, wait_level};
use redwind_tests::proxy::{Ending, Flow, Proxy};
use redwind_tests::redwind::http_get;
use redwind_tests::server::{Server, ServerOptions};
use redwind_tests::servers::Flavor;
use redwind_tests::workload::Workload;
use redwind_tests::{on_each_flavor, poll};

/// A real replica behind the proxy comes level again after every kind of fault.
fn a_replica_survives_the_proxy(flavor: &Flavor) {
    let primary = Server::start(flavor);
    let proxy = Proxy::start(primary.addr());
    let replica = Server::start_with(flavor, ServerOptions::replica_of(proxy.addr()));
    replica.wait_synced();
    let (mut cli, mut workload) = (primary.cli(), Workload::any(flavor));
    for (flow, ending) in
        [(Flow::Bytewise, Ending::Close), (Flow::Throttle(200_000), Ending::Reset), (Flow::Free, Ending::Reset)]
    {
        let connections = proxy.accepted();
        proxy.set_flow(flow);
        proxy.cut_after(5_000, ending);
        workload.run(&mut cli, 200);
        poll::until_true("the cut comes", || !proxy.cut_pending());
        proxy.set_flow(Flow::Free);
        poll::until_true("the replica is back", || proxy.accepted() > connections);
        wait_level(&primary, &replica);
    }
    poll::until("the replica is the same", || {
        let (before, after) = (capture_live(&primary), capture_suspended(&replica));
        before.differences(&after, Tolerance::of(flavor)).is_empty().then_some(())
    });
}
on_each_flavor!(a_replica_survives_the_proxy: redis_7_0 valkey_9);

/// What a proxy's client sees is what was asked for.
#[test]
fn the_proxy_stalls_and_resets() {
    let primary = FakePrimary::start(Script::default());
    let proxy = Proxy::start(primary.addr());
    let mut client = TcpStream::connect(proxy.addr()).unwrap();
    let mut answer = [0; 7];
    client.write_all(b"PING\r\n").unwrap();
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+PONG\r\n");

    proxy.set_flow(Flow::Stall);
    client.write_all(b"PING\r\n").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let started = Instant::now();
    let stalled = client.read_exact(&mut answer).unwrap_err();
    assert!(matches!(stalled.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{stalled}");
    assert!(started.elapsed() >= Duration::from_millis(200));

    proxy.set_flow(Flow::Free);
    client.set_read_timeout(Some(poll::PATIENCE)).unwrap();
    client.read_exact(&mut answer).unwrap();
    proxy.end_all(Ending::Reset);
    assert_eq!(client.read(&mut answer).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// A real server replicates from the fake primary, in both framings, and comes back after a cut.
fn a_replica_follows_the_fake_primary(flavor: &Flavor) {
    for framing in [Framing::Length, Framing::Mark] {
        let primary = FakePrimary::start(Script { framing, start: 1000, ..Script::default() });
        let broken_off = Answer::CutRdb(12);
        primary.change(|script| script.answers.push_back(broken_off));
        let replica = Server::start_with(flavor, ServerOptions::replica_of(primary.addr()));
        replica.wait_synced();
        primary.feed_command(&["SELECT", "0"]);
        primary.feed_command(&["SET", "key", "one"]);
        primary.wait_ack(primary.offset());
        primary.cut();
        primary.feed_command(&["APPEND", "key", ",two"]);
        primary.wait_ack(primary.offset());
        let value = replica.cli().command(&["GET", "key"]);
        assert_eq!(redwind_tests::server::text(&value), "one,two");
        assert_eq!(primary.requests().iter().filter(|words| words[0] == "PSYNC").count(), 3);
    }
}
on_each_flavor!(a_replica_follows_the_fake_primary: redis_6_2 redis_7_0 redis_8_6 valkey_9);

#[test]
fn object_stores_start_with_a_bucket() {
    for kind in [Kind::Moto, Kind::S3s, Kind::Azurite] {
        if let Some(server) = ObjectServer::start(kind, "object_stores_start_with_a_bucket") {
            assert!(http_get(server.addr(), "/").is_some(), "{} answers", kind.name());
            assert!(server.store().url.contains("://archive/"));
        }
    }
}
