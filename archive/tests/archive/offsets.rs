//! Targets that are positions.

use redwind_archive::plan::{PlanError, Refusal, Target};
use redwind_archive::position::{HistoryId, Offset};
use redwind_archive::testing::{Writer, at, command, read};

use crate::{assert_unbroken, offset, planned, position, refusal, started};

/// Three records from 100 on, each of this length, in two segments.
const RECORD: u64 = 27;

fn three_records() -> (Writer, HistoryId) {
    assert_eq!(command("SET a 1").len() as u64, RECORD);
    let (mut writer, history) = started();
    writer.segment(&[read(1.0, "SET a 1"), read(2.0, "SET a 2")]);
    writer.segment(&[read(3.0, "SET a 3")]);
    (writer, history)
}

fn nth(record: u64) -> Offset {
    Offset(100 + record * RECORD)
}

#[tokio::test]
async fn an_offset_is_the_state_after_the_last_record_that_ends_there_or_before() {
    let (writer, history) = three_records();
    for (asked, cut, last) in [
        (nth(0), nth(0), None),
        (nth(0).advance(1), nth(0), None),
        (nth(1).back(1), nth(0), None),
        (nth(1), nth(1), Some(nth(0))),
        (nth(1).advance(1), nth(1), Some(nth(0))),
        (nth(2), nth(2), Some(nth(1))),
        (nth(3).back(1), nth(2), Some(nth(1))),
        (nth(3), nth(3), Some(nth(2))),
    ] {
        let plan = planned(&writer.objects, offset(asked)).await.unwrap();
        assert_eq!(plan.cut.offset, cut, "asked for {asked}");
        assert_eq!(plan.cut.last_record, last.map(|last| position(history, last)), "asked for {asked}");
        assert_unbroken(&plan);
    }
}

#[tokio::test]
async fn an_offset_outside_the_archive_is_refused_with_the_nearest() {
    let (writer, _) = three_records();
    for (outside, nearest) in [(nth(3).advance(1), nth(3)), (Offset(99), nth(0))] {
        let result = planned(&writer.objects, offset(outside)).await;
        let message = result.as_ref().unwrap_err().to_string();
        assert!(message.contains(&format!("offset {nearest}")), "{message}");
        assert_eq!(refusal(result), Refusal::NoSuchOffset { offset: outside });
    }
}

#[tokio::test]
async fn before_and_after_a_record() {
    let (writer, history) = three_records();
    for record in 0..3 {
        let id = position(history, nth(record));
        let before = planned(&writer.objects, Target::Before(id)).await.unwrap();
        assert_eq!(before.cut.offset, nth(record));
        let after = planned(&writer.objects, Target::After(id)).await.unwrap();
        assert_eq!((after.cut.offset, after.cut.last_record), (nth(record + 1), Some(id)));
    }
}

#[tokio::test]
async fn what_is_no_record_is_refused() {
    let (writer, history) = three_records();
    for target in [Target::Before, Target::After] {
        let inside = position(history, nth(1).advance(3));
        let no_record = Refusal::NoSuchRecord { record: inside, boundary: nth(1) };
        assert_eq!(refusal(planned(&writer.objects, target(inside)).await), no_record);
        let end = position(history, nth(3));
        let no_record = Refusal::NoSuchRecord { record: end, boundary: nth(3) };
        assert_eq!(refusal(planned(&writer.objects, target(end)).await), no_record);
    }
    let unknown = HistoryId(ulid::Ulid(7));
    let result = planned(&writer.objects, Target::Before(position(unknown, nth(0)))).await;
    assert!(matches!(result, Err(PlanError::NoSuchHistory(id)) if id == unknown));
}

#[tokio::test]
async fn after_a_record_whose_end_is_not_stored_is_refused_and_before_it_is_not() {
    let (mut writer, history) = three_records();
    let open = redwind_archive::testing::Read { time: at(4.0), bytes: command("SET a 4")[..10].to_vec() };
    writer.segment(&[open]);
    let record = position(history, nth(3));
    assert_eq!(planned(&writer.objects, Target::Before(record)).await.unwrap().cut.offset, nth(3));
    let after = planned(&writer.objects, Target::After(record)).await;
    assert_eq!(refusal(after), Refusal::UnfinishedRecord { record });
}

#[tokio::test]
async fn after_a_record_of_several_segments() {
    let (mut writer, history) = three_records();
    for (index, piece) in command("SET long aaaaaaaaaaaaaaaaaaaaaaaaaa").chunks(9).enumerate() {
        let piece = redwind_archive::testing::Read { time: at(4.0 + index as f64), bytes: piece.to_vec() };
        writer.segment(&[piece]);
        writer.turn_page();
    }
    let record = position(history, nth(3));
    let plan = planned(&writer.objects, Target::After(record)).await.unwrap();
    assert_eq!((plan.cut.offset, plan.cut.last_record), (writer.end(), Some(record)));
    assert_unbroken(&plan);
}

#[tokio::test]
async fn records_before_the_first_snapshot_cannot_be_restored_the_one_that_ends_at_it_can() {
    let mut writer = Writer::create(1);
    let history = writer.begin_history(100, at(0.0), redwind_archive::documents::Cause::First);
    writer.segment(&[read(1.0, "SET a 1"), read(2.0, "SET a 2")]);
    writer.snapshot(at(2.0));
    let early = planned(&writer.objects, Target::Before(position(history, nth(1)))).await;
    assert_eq!(refusal(early), Refusal::BeforeFirstSnapshot { offset: nth(1) });
    let plan = planned(&writer.objects, Target::After(position(history, nth(1)))).await.unwrap();
    assert_eq!((plan.cut.offset, plan.segments.len()), (nth(2), 0));
}
