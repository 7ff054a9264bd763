//! Archives in object stores, over the wire.

use redwind_tests::objects::{Kind, ObjectServer};
use redwind_tests::proxy::{Ending, Proxy};
use redwind_tests::redwind::{Agent, Stage, StoreAddress, run, verify};
use redwind_tests::servers::Flavor;
use redwind_tests::story::{QUICK, check, flush, only_source, patient_server};
use redwind_tests::workload::Workload;
use redwind_tests::{mark::Mark, on_each_flavor, poll};
use serde_json::Value as Json;

/// Agent, list, restore and verify; an outage under load; credentials that are no good.
fn tell(flavor: &Flavor, kind: Kind, story: &str) {
    let Some(objects) = ObjectServer::start(kind, story) else { return };
    let proxy = Proxy::start(objects.addr());
    let (store, direct) = (objects.store_at(proxy.addr()), objects.store());
    let server = patient_server(flavor);
    let (mut cli, mut workload) = (server.cli(), Workload::any(flavor));
    workload.run(&mut cli, 100);
    let mut agent = Agent::start(&server.url(), &store, QUICK);
    agent.wait_ready();
    poll::until("something can be restored", || agent.offset(Stage::Durable));
    let take =
        |label: &str, agent: &Agent| Mark::take(label, &server, |offset| agent.wait_offset(Stage::Received, offset));
    workload.run(&mut cli, 50);
    let before = take("before the outage", &agent);
    flush(&agent, &server);

    proxy.refuse(true);
    proxy.end_all(Ending::Reset);
    workload.run(&mut cli, 100);
    let during = take("during the outage", &agent);
    assert!(agent.offset(Stage::Durable).unwrap() < cli.offset(), "nothing is durable without a store");
    poll::until_true("the outage shows", || agent.metric("redwind_store_failing") == Some(1.0));
    proxy.refuse(false);
    workload.run(&mut cli, 20);
    agent.wait_offset(Stage::Durable, cli.offset());

    assert_eq!(only_source(&direct)["gaps"], Json::Array(Vec::new()));
    for mark in [&before, &during] {
        check(&direct, flavor, mark);
    }
    assert_eq!(agent.stop().code(), Some(0));
    let _ = verify(&direct).expect(0);
}

fn s3_archive(flavor: &Flavor) {
    tell(flavor, Kind::Moto, "s3_archive");
}
on_each_flavor!(s3_archive: redis_7_0 valkey_9);

fn s3_archive_on_files(flavor: &Flavor) {
    tell(flavor, Kind::S3s, "s3_archive_on_files");
}
on_each_flavor!(s3_archive_on_files: redis_7_0);

fn azure_archive(flavor: &Flavor) {
    tell(flavor, Kind::Azurite, "azure_archive");
}
on_each_flavor!(azure_archive: redis_7_0);

/// A store that refuses, and one that does not answer: status 5, and at once.
#[test]
fn a_store_that_refuses_has_a_status_of_its_own() {
    let story = "a_store_that_refuses_has_a_status_of_its_own";
    // moto checks no signatures
    for kind in [Kind::S3s, Kind::Azurite] {
        let Some(objects) = ObjectServer::start(kind, story) else { continue };
        let mut store = objects.store();
        for (name, value) in &mut store.env {
            if name.ends_with("SECRET_ACCESS_KEY") || name.ends_with("ACCOUNT_KEY") {
                *value = "bm90IHRoZSBrZXk=".to_owned();
            }
        }
        let refused = run(Some(&store), &["list"]).expect(5);
        assert!(refused.stderr.lines().count() < 5, "{}", refused.stderr);
    }
    if let Some(objects) = ObjectServer::start(Kind::Moto, story) {
        let mut store = objects.store();
        store.url = "s3://no-such-bucket/redwind".to_owned();
        let _ = run(Some(&store), &["list"]).expect(5);
    }
    let nowhere = StoreAddress::folder(std::path::Path::new("/nonexistent/at/all"));
    let _ = run(Some(&nowhere), &["list"]).expect(5);
}
