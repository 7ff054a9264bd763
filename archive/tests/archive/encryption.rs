//! Encrypted archives: who can read them, and that nobody else can change them unseen.

use redwind_archive::catalog::{Catalog, CatalogError, SnapshotSummary};
use redwind_archive::documents::{Cause, Marker};
use redwind_archive::keys::{Epoch, Identities, KeyError, KeyName, NewIdentity, Recipients, rewrap};
use redwind_archive::layout::ObjectName;
use redwind_archive::plan::{PlanError, Target};
use redwind_archive::testing::{Objects, Writer, at, read};
use redwind_archive::verify::{Finding, Report, Severity, verify};
use ulid::Ulid;

use crate::{planned_as, started_for};

/// Two terms, hence two epochs, and two snapshots.
fn archive(recipients: &Recipients) -> Writer {
    let (mut first, _) = started_for(recipients);
    first.segment(&[read(1.0, "SET a canary"), read(2.0, "INCR b")]);
    first.segment(&[read(3.0, "SET c canary")]);
    let mut second = first.succeed();
    second.segment(&[read(4.0, "SET d canary")]);
    second.snapshot(at(4.0));
    second.segment(&[read(5.0, "SET e canary")]);
    second
}

async fn verified(objects: &Objects, identities: &Identities) -> Report {
    verify(&objects.store().await.unwrap(), identities, |_| {}).await.unwrap()
}

fn damaged(report: &Report) -> Vec<&str> {
    let damage = report.findings.iter().filter(|finding| finding.severity == Severity::Damage);
    damage.map(|finding| finding.object.as_str()).collect()
}

async fn opened(objects: &Objects, identities: &Identities) -> Result<Catalog, CatalogError> {
    Catalog::open(&objects.store().await.unwrap(), identities).await
}

#[tokio::test]
async fn one_who_has_an_identity_reads_everything_and_finds_it_sound() {
    let owner = NewIdentity::generate();
    let writer = archive(&owner.recipients());
    let report = verified(&writer.objects, &owner.identities()).await;
    assert_eq!(report.findings, []);
    assert_eq!((report.segments, report.snapshots, report.undecrypted), (4, 2, 0));
    let plan = planned_as(&writer.objects, &owner.identities(), Target::Latest, None).await.unwrap();
    assert_eq!(plan.cut.offset, writer.end());
}

#[tokio::test]
async fn one_who_has_none_verifies_what_is_in_the_clear_and_is_told_so() {
    let owner = NewIdentity::generate();
    let writer = archive(&owner.recipients());
    let report = verified(&writer.objects, &Identities::none()).await;
    assert!(!report.is_damaged(), "{:?}", report.findings);
    assert_eq!((report.segments, report.snapshots, report.undecrypted), (4, 2, 10));
    assert!(report.findings.iter().any(|finding| finding.problem.contains("--identity-file")));
    let refused = planned_as(&writer.objects, &Identities::none(), Target::Latest, None).await.unwrap_err();
    assert!(matches!(refused, PlanError::Key(KeyError::NoIdentity)), "{refused}");
}

#[tokio::test]
async fn a_wrong_identity_is_told_from_damage() {
    let writer = archive(&NewIdentity::generate().recipients());
    let refused = opened(&writer.objects, &NewIdentity::generate().identities()).await.unwrap_err();
    assert!(matches!(refused, CatalogError::Key(KeyError::WrongIdentity { epochs: 2 })), "{refused}");
}

#[tokio::test]
async fn an_identity_for_an_archive_that_is_not_encrypted_is_refused() {
    let writer = archive(&Recipients::default());
    let refused = opened(&writer.objects, &NewIdentity::generate().identities()).await.unwrap_err();
    assert!(matches!(refused, CatalogError::Key(KeyError::NotEncrypted)), "{refused}");
}

#[tokio::test]
async fn nothing_of_the_data_is_in_any_object() {
    let writer = archive(&NewIdentity::generate().recipients());
    for name in writer.objects.names() {
        let object = writer.objects.get(&name);
        assert!(!object.windows(6).any(|window| window == b"canary"), "{name}");
    }
}

#[tokio::test]
async fn what_steers_a_restore_is_believed_only_if_it_is_signed() {
    let owner = NewIdentity::generate();
    let writer = archive(&owner.recipients());
    let plain = archive(&Recipients::default());
    for name in plain.objects.names().iter().filter(|name| name.starts_with("history/")) {
        let copy = writer.objects.copy();
        copy.put(name, plain.objects.get(name));
        let report = verified(&copy, &owner.identities()).await;
        assert_eq!(damaged(&report), [name.as_str()], "{:?}", report.findings);
    }
}

#[tokio::test]
async fn an_archive_that_is_said_to_be_plain_is_not_read_as_such() {
    let owner = NewIdentity::generate();
    let writer = archive(&owner.recipients());
    let store = writer.objects.store().await.unwrap();
    let marker: Marker = store.get_document(&ObjectName::Marker).await.unwrap();
    writer.objects.put_document(&ObjectName::Marker, &Marker { encrypted: false, ..marker });
    let refused = opened(&writer.objects, &owner.identities()).await.unwrap_err();
    assert!(matches!(refused, CatalogError::Key(KeyError::NotEncrypted)), "{refused}");
    assert!(verified(&writer.objects, &Identities::none()).await.is_damaged());
}

#[tokio::test]
async fn a_lost_or_damaged_key_is_named() {
    let owner = NewIdentity::generate();
    let writer = archive(&owner.recipients());
    let key = writer.objects.names().into_iter().find(|name| name.starts_with("key/")).unwrap();
    let epoch = key.rsplit_once('-').unwrap().0.to_owned();
    for identities in [Identities::none(), owner.identities()] {
        let copy = writer.objects.copy();
        copy.remove(&key);
        assert_eq!(damaged(&verified(&copy, &identities).await), [epoch.as_str()]);

        let copy = writer.objects.copy();
        let mut bytes = copy.get(&key).to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        copy.put(&key, bytes);
        assert_eq!(damaged(&verified(&copy, &identities).await), [key.as_str(), epoch.as_str()]);
    }
    writer.objects.remove(&key);
    let refused = planned_as(&writer.objects, &owner.identities(), Target::Time(at(1.5)), None).await;
    let missing = |error: &PlanError| error.is_damage();
    assert!(refused.as_ref().is_err_and(missing), "{refused:?}");
}

#[tokio::test]
async fn a_further_recipient_reads_what_was_encrypted_before() {
    let (owner, auditor) = (NewIdentity::generate(), NewIdentity::generate());
    let writer = archive(&owner.recipients());
    let store = writer.objects.store().await.unwrap();
    let keys = Catalog::open(&store, &owner.identities()).await.unwrap().keys;
    rewrap(&store, &keys, &auditor.recipients()).await.unwrap();
    for identity in [&owner, &auditor] {
        let report = verify(&store, &identity.identities(), |_| {}).await.unwrap();
        assert_eq!((report.findings.len(), report.undecrypted), (0, 0));
    }
}

#[tokio::test]
async fn after_a_change_of_recipients_each_epoch_is_its_own_recipients() {
    let (before, after) = (NewIdentity::generate(), NewIdentity::generate());
    let (mut writer, _) = started_for(&before.recipients());
    writer.segment(&[read(1.0, "SET a 1")]);
    let mut writer = writer.succeed_for(&after.recipients());
    writer.segment(&[read(2.0, "SET b 1")]);
    writer.snapshot(at(2.0));
    let report = verified(&writer.objects, &after.identities()).await;
    assert!(!report.is_damaged(), "{:?}", report.findings);
    assert_eq!(report.undecrypted, 4, "a segment and three chunks of the epoch before");
    let mut both = before.identities();
    both.extend(after.identities());
    assert_eq!(verified(&writer.objects, &both).await.undecrypted, 0);
}

/// Only whoever has its key could tell whether it was the archive's writer who vouched for the time.
#[tokio::test]
async fn an_empty_segment_under_a_strangers_key_is_not_called_sound() {
    let owner = NewIdentity::generate();
    let writer = archive(&owner.recipients());
    let mut stranger = writer.succeed_for(&NewIdentity::generate().recipients());
    stranger.idle(at(1000.0));
    let report = verified(&writer.objects, &owner.identities()).await;
    assert_eq!(report.undecrypted, 1, "{:?}", report.findings);
    let Some(Finding { problem, .. }) = report.findings.first() else { panic!("nothing is said") };
    let epoch = keys(&writer.objects).iter().map(|key| key_name(key).epoch).max().unwrap();
    assert!(problem.contains(&format!("that opens key epoch {epoch}:")), "{problem}");
}

/// Another key of an epoch that there is, put by one who knows the recipient; it is listed before the
/// genuine one, or behind it.
fn put_false_key(objects: &Objects, genuine: KeyName, archive: Ulid, owner: &NewIdentity, first: bool) -> String {
    let fits = |name: &KeyName| (*name < genuine) == first;
    let made = || Epoch::generate(genuine.epoch, archive).wrap(&owner.recipients()).unwrap();
    let (name, object) = std::iter::repeat_with(made).find(|(name, _)| fits(name)).unwrap();
    let name = ObjectName::Key(name);
    objects.put(&name, object);
    name.to_string()
}

fn keys(objects: &Objects) -> Vec<String> {
    objects.names().into_iter().filter(|name| name.starts_with("key/")).collect()
}

fn key_name(text: &str) -> KeyName {
    match ObjectName::parse(text) {
        Some(ObjectName::Key(name)) => name,
        other => panic!("{other:?} is no key"),
    }
}

#[tokio::test]
async fn a_second_key_of_an_epoch_hides_nothing_and_is_named() {
    let (owner, auditor) = (NewIdentity::generate(), NewIdentity::generate());
    for first in [true, false] {
        let writer = archive(&owner.recipients());
        let mut expected = Vec::new();
        for genuine in keys(&writer.objects) {
            let put = put_false_key(&writer.objects, key_name(&genuine), writer.archive, &owner, first);
            expected.extend([genuine, put]);
        }
        expected.sort();
        let report = verified(&writer.objects, &owner.identities()).await;
        assert_eq!(damaged(&report), expected, "{:?}", report.findings);
        assert_eq!((report.segments, report.snapshots, report.undecrypted), (4, 2, 0));
        let plan = planned_as(&writer.objects, &owner.identities(), Target::Latest, None).await.unwrap();
        assert_eq!(plan.cut.offset, writer.end());

        let store = writer.objects.store().await.unwrap();
        let keys = Catalog::open(&store, &owner.identities()).await.unwrap().keys;
        assert_eq!(keys.epochs().0.len(), 2);
        rewrap(&store, &keys, &auditor.recipients()).await.unwrap();
        let report = verify(&store, &auditor.identities(), |_| {}).await.unwrap();
        assert!(damaged(&report).iter().all(|name| name.starts_with("key/")), "{:?}", report.findings);
        assert_eq!((report.segments, report.snapshots, report.undecrypted), (4, 2, 0));
    }
}

#[tokio::test]
async fn a_key_object_longer_than_any_is_damaged_and_does_not_matter() {
    let owner = NewIdentity::generate();
    let writer = archive(&owner.recipients());
    let genuine = keys(&writer.objects).remove(0);
    let object = vec![b'a'; 65 << 10];
    let long = ObjectName::Key(KeyName { crc32: crc32fast::hash(&object), ..key_name(&genuine) }).to_string();
    writer.objects.put(&long, object);
    for identities in [Identities::none(), owner.identities()] {
        let report = verified(&writer.objects, &identities).await;
        assert_eq!(damaged(&report), [long.as_str()], "{:?}", report.findings);
    }
    planned_as(&writer.objects, &owner.identities(), Target::Latest, None).await.unwrap();
}

#[tokio::test]
async fn keys_alone_are_an_archive_that_has_lost_its_marker() {
    let writer = archive(&NewIdentity::generate().recipients());
    for name in writer.objects.names().iter().filter(|name| !name.starts_with("key/")) {
        writer.objects.remove(name);
    }
    assert_eq!(damaged(&verified(&writer.objects, &Identities::none()).await), ["archive"]);
}

/// A history under one identity, then one under another, which has a snapshot.
fn rotated(before: &NewIdentity, after: &NewIdentity) -> Writer {
    let (mut writer, _) = started_for(&before.recipients());
    writer.segment(&[read(1.0, "SET a 1")]);
    let mut writer = writer.succeed_for(&after.recipients());
    writer.begin_history(5000, at(50.0), Cause::BacklogLost);
    writer.snapshot(at(50.0));
    writer.segment(&[read(51.0, "SET b 1")]);
    writer
}

fn assert_locked(refused: &PlanError) {
    let chain = std::iter::successors(Some(refused as &dyn std::error::Error), |error| error.source());
    let told = chain.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    assert!(!refused.is_damage() && !refused.is_refusal(), "{told}");
    assert!(told.contains("locked") && told.contains("key epoch") && told.contains("redwind rewrap"), "{told}");
}

#[tokio::test]
async fn after_a_rotation_either_identity_restores_what_is_its_own() {
    let (before, after) = (NewIdentity::generate(), NewIdentity::generate());
    let writer = rotated(&before, &after);
    for target in [Target::Latest, Target::Time(at(50.5))] {
        let plan = planned_as(&writer.objects, &after.identities(), target, None).await.unwrap();
        assert!(plan.snapshot.time == at(50.0));
    }
    for (identity, target) in [(&after, at(0.5)), (&before, at(50.5))] {
        let refused = planned_as(&writer.objects, &identity.identities(), Target::Time(target), None).await;
        assert_locked(&refused.unwrap_err());
    }
    let store = writer.objects.store().await.unwrap();
    let summary = opened(&writer.objects, &after.identities()).await.unwrap().summary(&store).await.unwrap();
    assert_eq!((summary.windows.len(), summary.lost_histories.len(), summary.locked_histories.len()), (1, 0, 1));
}

#[tokio::test]
async fn a_locked_snapshot_is_passed_over_where_another_will_do() {
    let (owner, stranger) = (NewIdentity::generate(), NewIdentity::generate());
    let (writer, _) = started_for(&owner.recipients());
    let mut writer = writer.succeed_for(&stranger.recipients());
    writer.segment(&[read(1.0, "SET a 1")]);
    writer.snapshot(at(2.0));
    let mut writer = writer.succeed_for(&owner.recipients());
    writer.snapshot(at(4.0));
    let (objects, identities) = (&writer.objects.clone(), owner.identities());
    assert_eq!(planned_as(objects, &identities, Target::Latest, None).await.unwrap().snapshot.time, at(4.0));
    writer.segment(&[read(5.0, "SET b 1")]);
    assert_eq!(planned_as(objects, &identities, Target::Latest, None).await.unwrap().cut.offset, writer.end());
    assert_eq!(planned_as(objects, &identities, Target::Time(at(0.0)), None).await.unwrap().snapshot.time, at(0.0));
    assert_locked(&planned_as(objects, &identities, Target::Time(at(2.0)), None).await.unwrap_err());
    let store = objects.store().await.unwrap();
    let summary = opened(objects, &identities).await.unwrap().summary(&store).await.unwrap();
    let readable = |snapshot: &SnapshotSummary| snapshot.rdb_bytes.is_some();
    assert_eq!(summary.snapshots.iter().map(readable).collect::<Vec<_>>(), [true, false, true]);
}
