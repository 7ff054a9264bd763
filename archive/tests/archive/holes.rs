//! Objects that are not there: damaged archives, expired ones, and writes under way.

use redwind_archive::catalog::Catalog;
use redwind_archive::keys::Identities;
use redwind_archive::layout::{ObjectName, SEGMENTS_UNDER_WAY_MAX};
use redwind_archive::plan::{Choice, PlanError, Refusal, RestorePlan, Target, plan};
use redwind_archive::position::Offset;
use redwind_archive::testing::{Writer, at, command, read};

use crate::{assert_unbroken, offset, planned, position, refusal, started, time};

const RECORD: u64 = 27;

/// A record a second from 1 s on, each in a segment of its own, ten in a page; snapshots at 0 s and,
/// if asked, at the given second.
fn forty_seconds(snapshot: Option<u32>) -> (Writer, Vec<ObjectName>) {
    assert_eq!(command("SET a 1").len() as u64, RECORD);
    let (mut writer, _) = started();
    let mut segments = Vec::new();
    for second in 1..=40 {
        segments.push(writer.segment(&[read(f64::from(second), "SET a 1")]));
        if snapshot == Some(second) {
            writer.snapshot(at(f64::from(second)));
        }
        if second % 10 == 0 {
            writer.turn_page();
        }
    }
    (writer, segments)
}

/// The offset after the record of a second.
fn after(second: u64) -> Offset {
    Offset(100 + RECORD * second)
}

fn hole(result: Result<RestorePlan, PlanError>) -> (Offset, Offset) {
    match result {
        Err(error @ PlanError::Hole { from, to, .. }) => {
            assert!(error.is_damage());
            (from, to)
        }
        other => panic!("no hole: {other:?}"),
    }
}

#[tokio::test]
async fn behind_a_missing_segment_nothing_is_restored_from_before_it() {
    let (writer, segments) = forty_seconds(None);
    writer.objects.remove(&segments[14]);
    let missing = (after(14), after(15));
    for target in [Target::Latest, time(16.0), time(15.5), time(15.0), offset(after(15)), offset(after(14).advance(9))]
    {
        assert_eq!(hole(planned(&writer.objects, target).await), missing, "{target:?}");
    }
    for target in [time(14.0), offset(after(14)), time(3.0)] {
        assert_unbroken(&planned(&writer.objects, target).await.unwrap());
    }
}

#[tokio::test]
async fn a_later_snapshot_is_a_way_round_a_hole() {
    let (writer, segments) = forty_seconds(Some(25));
    writer.objects.remove(&segments[14]);
    for target in [Target::Latest, time(30.0), offset(after(26)), time(25.0)] {
        assert_unbroken(&planned(&writer.objects, target).await.unwrap());
    }
    assert_eq!(hole(planned(&writer.objects, time(24.0)).await), (after(14), after(15)));
}

#[tokio::test]
async fn a_record_whose_segment_is_missing_is_not_taken_for_the_next() {
    let (writer, segments) = forty_seconds(Some(16));
    writer.objects.remove(&segments[14]);
    let history = planned(&writer.objects, Target::Latest).await.unwrap().history.history;
    let record = position(history, after(14));
    assert_eq!(hole(planned(&writer.objects, Target::After(record)).await), (after(14), after(15)));
}

#[tokio::test]
async fn the_first_and_the_last_segment_of_a_page_are_missed_too() {
    for (lost, seconds) in [(19, 20.5), (20, 21.5), (20, 21.0)] {
        let (writer, segments) = forty_seconds(None);
        writer.objects.remove(&segments[lost]);
        let missing = (after(lost as u64), after(lost as u64 + 1));
        assert_eq!(hole(planned(&writer.objects, time(seconds)).await), missing, "segment {lost}");
        assert_eq!(hole(planned(&writer.objects, Target::Latest).await), missing, "segment {lost}");
    }
}

#[tokio::test]
async fn a_missing_page_is_a_hole() {
    let (writer, segments) = forty_seconds(None);
    for segment in &segments[10..20] {
        writer.objects.remove(segment);
    }
    for target in [Target::Latest, time(15.0), time(21.0), offset(after(17)), offset(after(21))] {
        assert_eq!(hole(planned(&writer.objects, target).await), (after(10), after(20)), "{target:?}");
    }
    assert_unbroken(&planned(&writer.objects, time(10.0)).await.unwrap());
}

#[tokio::test]
async fn the_missing_end_of_a_history_that_was_given_up_is_a_hole() {
    let (mut writer, segments) = forty_seconds(None);
    writer.begin_history(5000, at(60.0), redwind_archive::documents::Cause::BacklogLost);
    writer.snapshot(at(60.0));
    writer.objects.remove(&segments[39]);
    for target in [time(40.0), offset(after(40))] {
        assert_eq!(hole(planned(&writer.objects, target).await), (after(39), after(40)), "{target:?}");
    }
}

#[tokio::test]
async fn pages_that_have_expired_are_not_missed() {
    let (writer, segments) = forty_seconds(Some(25));
    for segment in &segments[..20] {
        writer.objects.remove(segment);
    }
    let first: Vec<String> =
        writer.objects.names().into_iter().filter(|name| name.starts_with("snapshot/")).take(1).collect();
    writer.objects.remove(&first[0]);
    for target in [Target::Latest, time(25.0), time(31.5), offset(after(25)), offset(after(33))] {
        assert_unbroken(&planned(&writer.objects, target).await.unwrap());
    }
    assert_eq!(refusal(planned(&writer.objects, time(24.0)).await), Refusal::OutsideWindows { time: at(24.0) });
}

#[tokio::test]
async fn the_log_may_have_expired_up_to_the_very_snapshot() {
    let (writer, segments) = forty_seconds(Some(20));
    for segment in &segments[..20] {
        writer.objects.remove(segment);
    }
    for (target, cut) in [(time(20.0), 20), (time(20.5), 20), (offset(after(20)), 20), (time(21.0), 21)] {
        assert_eq!(planned(&writer.objects, target).await.unwrap().cut.offset, after(cut), "{target:?}");
    }
}

#[tokio::test]
async fn what_lies_behind_a_segment_under_way_does_not_count_yet() {
    let (writer, segments) = forty_seconds(None);
    let lost = 40 - SEGMENTS_UNDER_WAY_MAX;
    let (missing, end) = (&segments[lost], after(lost as u64));
    assert!(lost > 30, "the page holds all that is under way");
    writer.objects.remove(missing);
    assert_eq!(planned(&writer.objects, Target::Latest).await.unwrap().cut.offset, end);
    let beyond = refusal(planned(&writer.objects, offset(end.advance(1))).await);
    assert_eq!(beyond, Refusal::NoSuchOffset { offset: end.advance(1) });
    assert_eq!(refusal(planned(&writer.objects, time(40.0)).await), Refusal::OutsideWindows { time: at(40.0) });
    let window = &crate::summary(&writer.objects).await.windows[0];
    assert_eq!((window.to_offset, window.complete_until), (end, at(lost as f64)));
}

#[tokio::test]
async fn a_snapshot_beyond_the_end_of_the_log_can_be_restored_and_nothing_between() {
    let (mut writer, segments) = forty_seconds(None);
    writer.snapshot(at(40.5));
    for segment in &segments[35..] {
        writer.objects.remove(segment);
    }
    for target in [Target::Latest, time(40.5), offset(after(40))] {
        let plan = planned(&writer.objects, target).await.unwrap();
        assert_eq!((plan.cut.offset, plan.segments.len()), (after(40), 0), "{target:?}");
    }
    assert_eq!(planned(&writer.objects, time(35.0)).await.unwrap().cut.offset, after(35));
    for seconds in [35.5, 40.4, 40.6] {
        let outside = Refusal::OutsideWindows { time: at(seconds) };
        assert_eq!(refusal(planned(&writer.objects, time(seconds)).await), outside);
    }
    assert_eq!(hole(planned(&writer.objects, offset(after(37))).await), (after(35), after(37)));
}

#[tokio::test]
async fn a_manifest_in_another_ones_place_is_not_believed() {
    let (writer, _) = forty_seconds(Some(25));
    let names: Vec<String> = writer.objects.names().into_iter().filter(|name| name.starts_with("snapshot/")).collect();
    let [first, second] = names.as_slice() else { panic!("two snapshots") };
    writer.objects.put(second, writer.objects.get(first));
    let error = planned(&writer.objects, Target::Latest).await.unwrap_err();
    assert!(error.is_damage(), "{error}");
}

/// The ways round are told: an older snapshot when the newest is damaged, a later one behind a hole.
#[tokio::test]
async fn what_is_damaged_has_a_way_round() {
    let (writer, segments) = forty_seconds(Some(25));
    let manifests: Vec<String> =
        writer.objects.names().into_iter().filter(|name| name.starts_with("snapshot/")).collect();
    let [older, newer] = manifests.as_slice() else { panic!("{manifests:?}") };
    let id = |manifest: &str| manifest.rsplit('-').next().unwrap().to_owned();
    let sound = planned(&writer.objects, time(30.0)).await.unwrap();
    assert_eq!(sound.beside.older.as_ref().unwrap().snapshot.to_string(), id(older));

    let damaged = writer.objects.copy();
    damaged.put(newer, damaged.get(newer).slice(1..));
    let refused = planned(&damaged, time(30.0)).await.unwrap_err();
    assert!(refused.is_damage() && refused.to_string().contains(&format!("--snapshot {}", id(older))), "{refused}");
    let store = damaged.store().await.unwrap();
    let catalog = Catalog::open(&store, &Identities::none()).await.unwrap();
    let choice = Choice { history: None, snapshot: Some(id(older).parse().unwrap()) };
    let round = plan(&store, &catalog, time(30.0), choice).await.unwrap();
    assert_unbroken(&round);
    assert_eq!((round.snapshot.snapshot.to_string(), round.cut), (id(older), sound.cut));
    let refused = plan(&store, &catalog, time(3.0), Choice { snapshot: Some(sound.snapshot.snapshot), ..choice }).await;
    assert!(matches!(refused, Err(PlanError::NoSuchSnapshot { .. })), "{refused:?}");

    writer.objects.remove(&segments[14]);
    let hole = planned(&writer.objects, time(24.0)).await.unwrap_err();
    assert!(hole.to_string().contains(&format!("targets from {} on", at(25.0))), "{hole}");
}
