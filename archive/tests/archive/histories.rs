//! Several terms, and several histories.

use redwind_archive::documents::Cause;
use redwind_archive::plan::{PlanError, Refusal, RestorePlan, Target};
use redwind_archive::position::{HistoryId, Offset};
use redwind_archive::testing::{Writer, at, read};

use crate::{assert_unbroken, offset, planned, planned_in, refusal, started, time};

/// The terms of a plan's segments, in order.
fn terms(plan: &RestorePlan) -> Vec<u64> {
    plan.segments.iter().map(|segment| segment.page.term.0).collect()
}

#[tokio::test]
async fn a_new_term_continues_a_history_and_what_the_old_one_put_late_does_not_count() {
    let (mut zombie, _) = started();
    zombie.segment(&[read(1.0, "SET a 1")]);
    let mut writer = zombie.succeed();
    zombie.segment(&[read(2.0, "SET zombie 1")]);
    zombie.turn_page();
    zombie.segment(&[read(3.0, "SET zombie 2")]);
    writer.segment(&[read(4.0, "SET b 1")]);
    writer.segment(&[read(5.0, "SET b 2")]);

    let plan = planned(&writer.objects, Target::Latest).await.unwrap();
    assert_eq!((plan.cut.offset, terms(&plan)), (writer.end(), vec![1, 2, 2]));
    assert_unbroken(&plan);
    // Nothing of the old writer's is taken for an instant at which only it wrote.
    let plan = planned(&writer.objects, time(3.5)).await.unwrap();
    assert_eq!((plan.cut.time, terms(&plan)), (Some(at(1.0)), vec![1]));
}

#[tokio::test]
async fn empty_segments_of_a_fenced_writer_disturb_nobody() {
    let (mut zombie, _) = started();
    zombie.segment(&[read(1.0, "SET a 1")]);
    let mut writer = zombie.succeed();
    zombie.idle(at(3.0));
    zombie.turn_page();
    zombie.idle(at(60.0));
    writer.segment(&[read(4.0, "SET b 1")]);
    writer.segment(&[read(5.0, "SET b 2")]);
    writer.idle(at(70.0));

    let before = writer.end();
    for (seconds, included) in [(1.5, at(1.0)), (4.0, at(4.0)), (5.0, at(5.0)), (6.0, at(5.0)), (65.0, at(5.0))] {
        let plan = planned(&writer.objects, time(seconds)).await.unwrap();
        assert_eq!(plan.cut.time, Some(included), "at {seconds}");
    }
    assert_eq!(planned(&writer.objects, Target::Latest).await.unwrap().cut.offset, before);
}

/// A history from 100 to its end at 10 s; another, from 5000 on, whose snapshot is of 20 s.
fn two_histories() -> (Writer, HistoryId, HistoryId) {
    let (mut writer, first) = started();
    writer.segment_until(&[read(1.0, "SET a 1")], at(10.0));
    let second = writer.begin_history(5000, at(19.0), Cause::BacklogLost);
    writer.segment(&[read(19.5, "SET b 1")]);
    writer.snapshot(at(20.0));
    writer.segment(&[read(21.0, "SET b 2")]);
    (writer, first, second)
}

#[tokio::test]
async fn a_time_in_a_gap_is_refused_with_the_points_on_both_sides() {
    let (writer, first, second) = two_histories();
    for inside in [10.1, 15.0, 19.9] {
        let result = planned(&writer.objects, time(inside)).await;
        let message = result.as_ref().unwrap_err().to_string();
        assert!(message.contains(&format!("{} (before it, history {first})", at(10.0))), "{message}");
        assert!(message.contains(&format!("{} (after it, history {second})", at(20.0))), "{message}");
        assert_eq!(refusal(result), Refusal::OutsideWindows { time: at(inside) });
    }
    assert_eq!(planned(&writer.objects, time(10.0)).await.unwrap().history.history, first);
    assert_eq!(planned(&writer.objects, time(20.0)).await.unwrap().history.history, second);
    assert_eq!(planned(&writer.objects, Target::Latest).await.unwrap().history.history, second);
}

#[tokio::test]
async fn a_history_that_was_given_up_ends_where_its_successor_says() {
    let (mut zombie, first) = started();
    zombie.segment_until(&[read(1.0, "SET a 1")], at(10.0));
    let end = zombie.end();
    let mut writer = zombie.succeed();
    let second = writer.begin_history(5000, at(19.0), Cause::BacklogLost);
    writer.snapshot(at(20.0));
    zombie.segment(&[read(11.0, "SET void 1")]);
    zombie.turn_page();
    zombie.segment(&[read(12.0, "SET void 2")]);

    let plan = planned_in(&writer.objects, Target::Latest, Some(first)).await.unwrap();
    assert_eq!(plan.cut.offset, end);
    for seconds in [11.0, 11.5, 12.0] {
        let result = planned(&writer.objects, time(seconds)).await;
        assert_eq!(refusal(result), Refusal::OutsideWindows { time: at(seconds) });
    }
    let void = planned(&writer.objects, offset(end.advance(5))).await;
    assert_eq!(refusal(void), Refusal::NoSuchOffset { offset: end.advance(5) });
    assert_eq!(planned(&writer.objects, Target::Latest).await.unwrap().history.history, second);
}

#[tokio::test]
async fn a_history_that_a_fenced_writer_begins_ends_nothing() {
    let (mut zombie, first) = started();
    zombie.segment(&[read(1.0, "SET a 1")]);
    let mut writer = zombie.succeed();
    writer.segment(&[read(4.0, "SET b 1")]);
    zombie.begin_history(9000, at(5.0), Cause::BacklogLost);
    zombie.segment(&[read(5.0, "SET zombie 1")]);
    zombie.snapshot(at(5.5));
    writer.segment(&[read(6.0, "SET b 2")]);

    let plan = planned(&writer.objects, Target::Latest).await.unwrap();
    assert_eq!((plan.history.history, plan.cut.offset), (first, writer.end()));
    assert_unbroken(&plan);
}

#[tokio::test]
async fn a_point_that_two_histories_have_asks_which() {
    let (mut writer, first) = started();
    writer.segment_until(&[read(1.0, "SET a 1")], at(30.0));
    let second = writer.begin_history(110, at(19.0), Cause::OffsetsWentBack);
    writer.snapshot(at(20.0));
    writer.segment(&[read(25.0, "SET b 1")]);
    writer.idle(at(40.0));

    for target in [time(26.0), offset(Offset(120))] {
        let result = planned(&writer.objects, target).await;
        let message = result.as_ref().unwrap_err().to_string();
        assert!(message.contains("--history"), "{message}");
        let Err(PlanError::Ambiguous(mut histories)) = result else { panic!("{result:?}") };
        histories.sort();
        assert_eq!(histories, [first, second]);
        for history in [first, second] {
            let plan = planned_in(&writer.objects, target, Some(history)).await.unwrap();
            assert_eq!(plan.history.history, history);
        }
    }
    assert_eq!(planned(&writer.objects, time(35.0)).await.unwrap().history.history, second);
    assert_eq!(planned(&writer.objects, Target::Latest).await.unwrap().history.history, second);
}

#[tokio::test]
async fn without_a_snapshot_nothing_can_be_restored() {
    let mut writer = Writer::create(1);
    assert!(matches!(planned(&writer.objects, Target::Latest).await, Err(PlanError::NothingToRestore)));
    writer.begin_history(100, at(0.0), Cause::First);
    writer.segment(&[read(1.0, "SET a 1")]);
    assert!(matches!(planned(&writer.objects, Target::Latest).await, Err(PlanError::NothingToRestore)));
    assert_eq!(refusal(planned(&writer.objects, time(1.0)).await), Refusal::OutsideWindows { time: at(1.0) });
}

#[tokio::test]
async fn where_a_lost_history_may_be_meant_no_other_is_restored_in_its_place() {
    let (writer, first, second) = two_histories();
    let lost = |result: Result<RestorePlan, PlanError>| match result {
        Err(error @ PlanError::LostHistory { history, .. }) => {
            assert!(error.is_damage());
            history
        }
        other => panic!("not refused: {other:?}"),
    };
    writer.objects.remove(format!("history/{second}"));
    for target in [Target::Latest, time(20.0), time(25.0), offset(writer.end())] {
        assert_eq!(lost(planned(&writer.objects, target).await), second, "{target:?}");
        assert_eq!(lost(planned_in(&writer.objects, target, Some(second)).await), second, "{target:?}");
    }
    for target in [time(5.0), offset(Offset(101))] {
        assert_eq!(planned(&writer.objects, target).await.unwrap().history.history, first, "{target:?}");
    }
    assert_eq!(planned_in(&writer.objects, Target::Latest, Some(first)).await.unwrap().history.history, first);
}

#[tokio::test]
async fn a_history_that_its_successor_ended_is_not_missed_behind_its_end() {
    let (writer, first, second) = two_histories();
    writer.objects.put(format!("history/{first}"), bytes::Bytes::from_static(b"redwind history 1 0 00000000\n"));
    for target in [Target::Latest, time(20.0), offset(writer.end())] {
        assert_eq!(planned(&writer.objects, target).await.unwrap().history.history, second, "{target:?}");
    }
    for target in [time(5.0), offset(Offset(101))] {
        let refused = planned(&writer.objects, target).await;
        assert!(matches!(refused, Err(PlanError::LostHistory { history, .. }) if history == first), "{refused:?}");
    }
}
