//! What an archive has lost of what its agent had promised: what `verify` alone cannot see.

use redwind_archive::layout::ManifestName;
use redwind_archive::position::Term;
use redwind_archive::testing::{Objects, at, read};
use redwind_archive::verify::{Finding, Promise, Severity, verify};

use super::{position, started};

/// What is found with the promise beyond what is found without.
async fn broken(objects: &Objects, promise: &Promise) -> Vec<Finding> {
    let store = objects.store().await.unwrap();
    let mut report = verify(&store, &redwind_archive::keys::Identities::none(), |_| {}).await.unwrap();
    assert!(!report.is_damaged(), "verify alone sees it: {:?}", report.findings);
    let before = report.findings.len();
    promise.check(&store, &mut report).await.unwrap();
    report.findings.split_off(before)
}

#[tokio::test]
async fn the_loss_of_the_newest_objects_is_seen() {
    let (mut writer, history) = started();
    let mut segments = vec![writer.segment(&[read(1.0, "SET a 1")])];
    let taken = writer.snapshot(at(1.5));
    writer.turn_page();
    segments.extend([writer.segment(&[read(2.0, "SET a 2")]), writer.segment(&[read(3.0, "SET a 3")])]);
    let promise =
        Promise { term: Term(1), durable: Some(position(history, writer.end())), snapshot: Some(taken.name()) };
    assert_eq!(broken(&writer.objects, &promise).await, []);

    // More than was promised may be there.
    let later = writer.objects.copy();
    writer.segment(&[read(4.0, "SET a 4")]);
    assert_eq!(broken(&writer.objects, &promise).await, []);

    let objects = later;
    while let Some(newest) = segments.pop() {
        objects.remove(newest);
        let found = broken(&objects, &promise).await;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].severity, found[0].object.as_str()), (Severity::Damage, &*format!("history/{history}")));
    }
    objects.remove(format!("snapshot/{}", taken.name()));
    assert_eq!(broken(&objects, &promise).await.len(), 2);
}

#[tokio::test]
async fn a_history_a_snapshot_and_a_term_that_the_agent_knows_are_missed() {
    let (mut writer, history) = started();
    writer.segment(&[read(1.0, "SET a 1")]);
    let unknown = ManifestName { history, offset: writer.end(), time: at(2.0), snapshot: ulid::Ulid(9) };
    let elsewhere = redwind_archive::position::HistoryId(ulid::Ulid(8));
    let promise =
        Promise { term: Term(2), durable: Some(position(elsewhere, writer.end())), snapshot: Some(unknown.clone()) };
    let found = broken(&writer.objects, &promise).await;
    let named: Vec<&str> = found.iter().map(|finding| finding.object.as_str()).collect();
    assert_eq!(named, ["term/0000000002", &*format!("snapshot/{unknown}"), &*format!("history/{elsewhere}")]);
}

#[tokio::test]
async fn an_agent_that_has_nothing_durable_promises_nothing() {
    let (mut writer, _) = started();
    writer.segment(&[read(1.0, "SET a 1")]);
    let found = broken(&writer.objects, &Promise { term: Term(1), durable: None, snapshot: None }).await;
    assert!(found.len() == 1 && found[0].severity == Severity::Note, "{found:?}");
}
