//! Every kind of output, made from what a real server sent, held against what that server held.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod capture;
mod damage;

use std::net::SocketAddr;
use std::path::Path;

use capture::{Archive, Capture};
use redwind_archive::catalog::Catalog;
use redwind_archive::keys::Identities;
use redwind_archive::plan::{Target, plan};
use redwind_archive::position::Offset;
use redwind_link::TlsOptions;
use redwind_restore::aof::{self, AofDestination};
use redwind_restore::engine::EngineChoice;
use redwind_restore::into::{IntoOptions, IntoTarget};
use redwind_restore::primary::{self, Primary};
use redwind_restore::rdb::{self, RdbDestination};
use redwind_restore::{Progress, Recording, RestoreError};
use redwind_tests::dataset::Tolerance;
use redwind_tests::mark::Mark;
use redwind_tests::on_each_flavor;
use redwind_tests::oracle::{capture_live, capture_suspended};
use redwind_tests::poll;
use redwind_tests::server::{Server, ServerOptions};
use redwind_tests::servers::Flavor;
use redwind_tests::workload::Workload;
use tokio_util::sync::CancellationToken;

/// More than are let in at once without a password.
const SILENT_PEERS: usize = 150;

/// A workload with a mark amid it, and the archive of both.
struct Story {
    flavor: Flavor,
    archive: Archive,
    mark: Mark,
}

impl Story {
    fn tell(flavor: &Flavor) -> Self {
        let server = Server::start(flavor);
        let mut workload = Workload::any(flavor);
        let mut cli = server.cli();
        workload.run(&mut cli, 50);
        // Every story but that of an unknown database begins in another than 0.
        cli.command(&["SELECT", "3"]);
        cli.command(&["SET", "last", "before the snapshot"]);
        let capture = Capture::attach(&server);
        workload.prelude(&mut cli);
        workload.run(&mut cli, 100);
        let mark = Mark::take("amid the workload", &server, |offset| capture.wait_for(offset));
        workload.run(&mut cli, 100);
        capture.wait_for(cli.offset());
        Self { flavor: flavor.clone(), archive: capture.archive(), mark }
    }

    async fn recording(&self) -> Recording {
        recording(&self.archive, Target::Offset { history: None, offset: Offset(self.mark.offset) }).await
    }

    fn check(&self, restored: &Server) {
        let tolerance = Tolerance::of(&self.flavor);
        self.mark.dataset.assert_same(&capture_suspended(restored), tolerance);
    }
}

async fn recording(archive: &Archive, target: Target) -> Recording {
    let catalog = Catalog::open(&archive.store, &Identities::none()).await.unwrap();
    let plan = plan(&archive.store, &catalog, target, redwind_archive::plan::Choice::default()).await.unwrap();
    Recording::new(archive.store.clone(), plan)
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

fn an_aof_holds_what_the_source_held(flavor: &Flavor) {
    let story = Story::tell(flavor);
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("data");
    block_on(async {
        let to = AofDestination::check(&folder, false).unwrap();
        aof::write(&story.recording().await, to, &Progress::default()).await.unwrap();
    });
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1, "nothing is left beside it");
    let server = Server::start_with(flavor, ServerOptions::restored_aof(&folder));
    story.check(&server);
}

fn an_rdb_made_by_an_engine_holds_what_the_source_held(flavor: &Flavor) {
    let story = Story::tell(flavor);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dump.rdb");
    block_on(async {
        let recording = story.recording().await;
        let to = RdbDestination::prepare(&file, false, &recording, &engine(flavor)).await.unwrap();
        assert_eq!(rdb::write(&recording, to, &Progress::default()).await.unwrap(), 0);
    });
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    let server = Server::start_with(flavor, ServerOptions::restored_rdb(folder.path()));
    story.check(&server);
}

fn engine(flavor: &Flavor) -> EngineChoice {
    let module = flavor.graph_module.as_ref();
    let load = |module: &std::path::PathBuf| {
        vec!["--loadmodule".into(), module.clone().into(), "CMD_INFO".into(), "no".into()]
    };
    EngineChoice { program: Some(flavor.program.clone()), args: module.map(load).unwrap_or_default() }
}

fn whoever_knows_the_password_may_replicate(flavor: &Flavor) {
    let story = Story::tell(flavor);
    let replica = Server::start(flavor);
    block_on(async {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let primary = Primary::bind(loopback, story.recording().await, Progress::default()).await.unwrap();
        let (address, standing) = (primary.address(), primary.standing());
        let password = primary.password().clone();
        let serving = tokio::spawn(primary.run());
        // Many that say nothing do not keep out the one that knows.
        let mut silent = Vec::new();
        for _ in 0..SILENT_PEERS {
            silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
        }
        let stranger = replica.addr();
        let tried = tokio::task::spawn_blocking(move || {
            replica.cli().command(&["REPLICAOF", "127.0.0.1", &address.port().to_string()]);
            poll::until_true("the wrong password is refused", || replica.log().contains("NOAUTH"));
            assert_eq!(replica.info("replication", "master_link_status").as_deref(), Some("down"), "{stranger}");
            replica.cli().command(&["CONFIG", "SET", "masterauth", password.expose()]);
            replica
        });
        let replica = tried.await.unwrap();
        primary::until_applied(standing, address).await.unwrap();
        drop(silent);
        // Before it is released, so that nothing has expired yet.
        tokio::task::spawn_blocking(move || story.check(&replica)).await.unwrap();
        serving.abort();
    });
}

fn a_running_server_is_given_the_state_and_released(flavor: &Flavor) {
    let source = Server::start(flavor);
    let capture = Capture::attach(&source);
    let mut cli = source.cli();
    cli.command(&["SELECT", "2"]);
    for n in 0..1000 {
        cli.command(&["HSET", &format!("hash:{}", n % 10), &n.to_string(), "value"]);
    }
    let mark = Mark::take("the target", &source, |offset| capture.wait_for(offset));
    cli.command(&["FLUSHALL"]);
    capture.wait_for(cli.offset());
    let archive = capture.archive();

    let target = Server::start(flavor);
    target.cli().command(&["SET", "in the way", "1"]);
    target.cli().command(&["CONFIG", "SET", "masterauth", "as it was"]);
    let options =
        |force| IntoOptions { target: target.url().parse().unwrap(), tls: TlsOptions::default(), listen: None, force };
    block_on(async {
        let recording = recording(&archive, Target::Offset { history: None, offset: Offset(mark.offset) }).await;
        let refused = IntoTarget::check(options(false), &recording).await.unwrap_err();
        assert!(refused.to_string().contains("holds 1 keys"), "{refused}");
        let ready = IntoTarget::check(options(true), &recording).await.unwrap();
        ready.restore(&recording, &Progress::default(), CancellationToken::new()).await.unwrap();
    });
    assert_eq!(target.info("replication", "role").as_deref(), Some("master"));
    assert_eq!(target.cli().config_get("masterauth").as_deref(), Some("as it was"));
    mark.dataset.assert_same(&capture_live(&target), Tolerance::of(flavor));
}

fn an_interrupted_restore_leaves_a_read_only_replica(flavor: &Flavor) {
    let source = Server::start(flavor);
    let capture = Capture::attach(&source);
    source.cli().command(&["SET", "key", "value"]);
    capture.wait_for(source.cli().offset());
    let archive = capture.archive();
    let target = Server::start(flavor);
    target.cli().command(&["CONFIG", "SET", "masterauth", "as it was"]);
    let options =
        IntoOptions { target: target.url().parse().unwrap(), tls: TlsOptions::default(), listen: None, force: false };
    let error = block_on(async {
        let recording = recording(&archive, Target::Latest).await;
        let ready = IntoTarget::check(options, &recording).await.unwrap();
        damage::remove_first_segment(&archive).await;
        ready.restore(&recording, &Progress::default(), CancellationToken::new()).await.unwrap_err()
    });
    assert!(error.is_damage(), "{error:?}");
    assert!(error.to_string().contains("left a read-only replica"), "{error}");
    assert_eq!(target.info("replication", "role").as_deref(), Some("slave"));
    assert_eq!(target.cli().config_get("masterauth").as_deref(), Some("as it was"));
    assert!(target.cli().try_command(&["SET", "a", "b"]).is_err());
}

fn a_snapshot_is_given_back_as_it_was_without_an_engine(flavor: &Flavor) {
    let source = Server::start(flavor);
    source.cli().command(&["SET", "key", "value"]);
    let archive = Capture::attach(&source).archive();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dump.rdb");
    block_on(async {
        let recording = recording(&archive, Target::Latest).await;
        let no_engine = EngineChoice { program: Some(Path::new("/nonexistent").to_owned()), args: Vec::new() };
        let to = RdbDestination::prepare(&file, false, &recording, &no_engine).await.unwrap();
        rdb::write(&recording, to, &Progress::default()).await.unwrap();
        let again = RdbDestination::prepare(&file, false, &recording, &no_engine).await.unwrap_err();
        assert!(matches!(again, RestoreError::Place(_)), "{again}");
    });
    let server = Server::start_with(flavor, ServerOptions::restored_rdb(folder.path()));
    assert_eq!(capture_suspended(&server).len(), 1);
}

on_each_flavor!(an_aof_holds_what_the_source_held: every);
on_each_flavor!(an_rdb_made_by_an_engine_holds_what_the_source_held: every);
on_each_flavor!(whoever_knows_the_password_may_replicate: redis_6_2 redis_7_0 redis_8_6 valkey_9);
on_each_flavor!(a_running_server_is_given_the_state_and_released: redis_6_2 redis_7_0 redis_8_6 valkey_9);
on_each_flavor!(an_interrupted_restore_leaves_a_read_only_replica: redis_6_2 redis_7_0 valkey_9);
on_each_flavor!(a_snapshot_is_given_back_as_it_was_without_an_engine: redis_7_0 valkey_9);
