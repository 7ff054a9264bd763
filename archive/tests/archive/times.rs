//! Targets that are instants.

use redwind_archive::plan::{Refusal, Target};
use redwind_archive::position::Offset;
use redwind_archive::testing::{Read, Writer, at, command, read};

use crate::{assert_unbroken, planned, position, refusal, started, time};

#[tokio::test]
async fn a_time_includes_what_arrived_at_that_very_moment() {
    let (mut writer, history) = started();
    writer.segment(&[read(1.0, "SET a 1"), read(2.0, "SET a 2")]);
    let second = writer.end().back(command("SET a 2").len() as u64);
    writer.segment(&[read(3.0, "SET a 3")]);

    let exact = planned(&writer.objects, time(2.0)).await.unwrap();
    assert_eq!(exact.cut.last_record, Some(position(history, second)));
    assert_eq!(exact.cut.time, Some(at(2.0)));
    let between = planned(&writer.objects, time(2.9)).await.unwrap();
    assert_eq!(between.cut, exact.cut);
    let before = planned(&writer.objects, time(1.999_999)).await.unwrap();
    assert_eq!(before.cut.offset, second);
    assert_unbroken(&exact);
}

#[tokio::test]
async fn a_time_inside_a_transaction_is_cut_before_it() {
    let (mut writer, history) = started();
    writer.segment(&[read(1.0, "SET a 1")]);
    let boundary = writer.end();
    let reads = [read(2.0, "MULTI"), read(3.0, "SET b 1"), read(4.0, "SET b 2"), read(5.0, "EXEC")];
    writer.segment(&reads);
    writer.idle(at(6.0));

    let inside = planned(&writer.objects, time(4.5)).await.unwrap();
    assert_eq!((inside.cut.offset, inside.cut.time), (boundary, Some(at(1.0))));
    assert_eq!(inside.cut.last_record, Some(position(history, Offset(100))));
    let whole = planned(&writer.objects, time(5.0)).await.unwrap();
    assert_eq!(whole.cut.last_record, Some(position(history, boundary)));
}

#[tokio::test]
async fn a_time_inside_a_record_of_several_segments_is_cut_before_it() {
    let (mut writer, history) = started();
    writer.segment(&[read(1.0, "SET a 1")]);
    let boundary = writer.end();
    let long = command(&format!("SET long {}", "x".repeat(900)));
    for (index, piece) in long.chunks(300).enumerate() {
        writer.segment(&[Read { time: at(2.0 + index as f64), bytes: piece.to_vec() }]);
        writer.turn_page();
    }
    writer.idle(at(9.0));

    for inside in [2.0, 3.5, 4.9] {
        let plan = planned(&writer.objects, time(inside)).await.unwrap();
        assert_eq!(plan.cut.offset, boundary, "at {inside}");
        assert_eq!(plan.cut.last_record, Some(position(history, Offset(100))));
    }
    let whole = planned(&writer.objects, time(5.0)).await.unwrap();
    assert_eq!((whole.cut.offset, whole.cut.last_record), (writer.end(), Some(position(history, boundary))));
    assert_unbroken(&whole);
}

#[tokio::test]
async fn quiet_time_is_vouched_for_and_no_time_beyond_it() {
    let (mut writer, _) = started();
    writer.segment(&[read(1.0, "SET a 1")]);
    writer.idle(at(60.0));
    assert_eq!(planned(&writer.objects, time(60.0)).await.unwrap().cut.offset, writer.end());
    let beyond = planned(&writer.objects, time(60.1)).await;
    let message = beyond.as_ref().unwrap_err().to_string();
    assert!(message.contains(&at(60.0).to_string()), "{message}");
    assert_eq!(refusal(beyond), Refusal::OutsideWindows { time: at(60.1) });
}

#[tokio::test]
async fn a_time_before_the_first_snapshot_is_refused_and_names_it() {
    let mut writer = Writer::create(1);
    writer.begin_history(100, at(0.0), redwind_archive::documents::Cause::First);
    writer.segment(&[read(1.0, "SET a 1")]);
    writer.snapshot(at(2.0));
    let early = planned(&writer.objects, time(1.5)).await;
    let message = early.as_ref().unwrap_err().to_string();
    assert!(message.contains(&format!("{} (after it", at(2.0))), "{message}");
    assert_eq!(refusal(early), Refusal::OutsideWindows { time: at(1.5) });
    assert!(planned(&writer.objects, time(2.0)).await.unwrap().segments.is_empty());
}

#[tokio::test]
async fn latest_is_the_last_whole_record() {
    let (mut writer, _) = started();
    writer.segment(&[read(1.0, "SET a 1")]);
    let whole = writer.end();
    writer.segment(&[Read { time: at(2.0), bytes: command("SET a 2")[..9].to_vec() }]);
    writer.idle(at(3.0));
    let plan = planned(&writer.objects, Target::Latest).await.unwrap();
    assert_eq!((plan.cut.offset, plan.cut.time), (whole, Some(at(1.0))));
}

#[tokio::test]
async fn latest_of_an_archive_that_saw_no_write_is_its_snapshot() {
    let (writer, _) = started();
    let plan = planned(&writer.objects, Target::Latest).await.unwrap();
    assert_eq!((plan.cut.offset, plan.cut.last_record), (Offset(100), None));
    assert!(plan.segments.is_empty());
}

#[tokio::test]
async fn the_newest_snapshot_at_or_before_the_cut_is_built_on() {
    let (mut writer, _) = started();
    let mut snapshots = Vec::new();
    for second in 1..=3 {
        writer.segment(&[read(f64::from(second), "SET a 1")]);
        snapshots.push(writer.snapshot(at(f64::from(second) + 0.5)).snapshot);
    }
    writer.idle(at(9.0));
    let base = async |target| planned(&writer.objects, target).await.unwrap().snapshot.snapshot;
    assert_eq!(base(time(2.7)).await, snapshots[1]);
    // It stands at the cut although its transfer was still under way then.
    assert_eq!(base(time(2.2)).await, snapshots[1]);
    assert_eq!(base(Target::Latest).await, snapshots[2]);
}

/// Live until 10, then nothing is read until 50, and live again from 51 on.
fn interrupted() -> (Writer, Offset, Offset) {
    let (mut writer, _) = started();
    writer.segment_until(&[read(1.0, "SET a 1")], at(10.0));
    let from = writer.end();
    writer.late(at(10.0));
    writer.segment(&[read(40.0, "SET b 1"), read(40.0, "SET b 2")]);
    writer.segment_until(&[read(45.0, "SET b 3")], at(50.0));
    let to = writer.end();
    (writer, from, to)
}

#[tokio::test]
async fn a_time_inside_a_blur_is_refused_with_both_edges() {
    let (mut writer, ..) = interrupted();
    writer.live();
    writer.segment(&[read(51.0, "SET c 1")]);
    for inside in [10.000_001, 39.0, 42.0, 49.999_999] {
        let result = planned(&writer.objects, time(inside)).await;
        let message = result.as_ref().unwrap_err().to_string();
        for edge in [at(10.0), at(50.0)] {
            assert!(message.contains(&edge.to_string()), "{message}");
        }
        assert_eq!(refusal(result), Refusal::InBlur { time: at(inside), from: at(10.0), to: at(50.0) });
    }
}

#[tokio::test]
async fn the_edges_of_a_blur_and_every_record_in_it_can_be_restored() {
    let (mut writer, from, to) = interrupted();
    writer.live();
    writer.segment(&[read(51.0, "SET c 1")]);
    assert_eq!(planned(&writer.objects, time(10.0)).await.unwrap().cut.offset, from);
    assert_eq!(planned(&writer.objects, time(50.0)).await.unwrap().cut.offset, to);
    assert_eq!(planned(&writer.objects, time(50.5)).await.unwrap().cut.offset, to);
    let record = command("SET b 1").len() as u64;
    for inside in [from.advance(record), from.advance(2 * record), to] {
        let plan = planned(&writer.objects, crate::offset(inside)).await.unwrap();
        assert_eq!(plan.cut.offset, inside);
        assert_unbroken(&plan);
    }
}

#[tokio::test]
async fn a_blur_may_be_the_newest_thing_there_is() {
    let (writer, from, to) = interrupted();
    let inside = refusal(planned(&writer.objects, time(30.0)).await);
    assert_eq!(inside, Refusal::InBlur { time: at(30.0), from: at(10.0), to: at(50.0) });
    assert_eq!(planned(&writer.objects, time(10.0)).await.unwrap().cut.offset, from);
    assert_eq!(planned(&writer.objects, time(50.0)).await.unwrap().cut.offset, to);
    assert_eq!(planned(&writer.objects, Target::Latest).await.unwrap().cut.offset, to);
}

#[tokio::test]
async fn a_blur_goes_on_over_pages_and_terms() {
    let (writer, ..) = interrupted();
    let mut writer = writer.succeed();
    writer.late(at(10.0));
    writer.segment(&[read(60.0, "SET b 4")]);
    writer.turn_page();
    writer.segment(&[read(61.0, "SET b 5")]);
    writer.live();
    writer.segment(&[read(70.0, "SET c 1")]);
    for inside in [50.0, 60.5] {
        let inside_blur = Refusal::InBlur { time: at(inside), from: at(10.0), to: at(61.0) };
        assert_eq!(refusal(planned(&writer.objects, time(inside)).await), inside_blur);
    }
    assert!(planned(&writer.objects, time(61.0)).await.is_ok());
}

/// The edge of a blur stands in its page's name, which anybody could change, and in its segments.
#[tokio::test]
async fn a_blur_is_not_believed_to_begin_where_its_page_alone_says() {
    let (writer, ..) = interrupted();
    for (forged, inside) in [(5.0, 7.0), (44.0, 46.0)] {
        let copy = writer.objects.copy();
        for name in copy.names().iter().filter(|name| name.contains("-late/")) {
            let renamed = name.replacen(&format!("{:016}-late", at(10.0).0), &format!("{:016}-late", at(forged).0), 1);
            copy.put(renamed, copy.get(name));
            copy.remove(name);
        }
        let refused = planned(&copy, time(inside)).await.unwrap_err();
        assert!(refused.is_damage() && refused.to_string().contains("misplaced"), "{refused}");
    }
}
