//! What a summary tells.

use redwind_archive::documents::Cause;
use redwind_archive::position::Offset;
use redwind_archive::testing::{at, read};

use crate::{started, summary};

#[tokio::test]
async fn a_window_reaches_from_the_first_snapshot_to_the_last_moment_known() {
    let (mut writer, history) = started();
    writer.segment(&[read(1.0, "SET a 1")]);
    writer.snapshot(at(1.5));
    writer.idle(at(61.0));
    let summary = summary(&writer.objects).await;
    let [window] = summary.windows.as_slice() else { panic!("{summary:?}") };
    assert_eq!((window.history, window.from_offset, window.to_offset), (history, Offset(100), writer.end()));
    assert_eq!((window.from, window.complete_until), (at(0.0), at(61.0)));
    assert_eq!(summary.snapshots.len(), 2);
    assert!(summary.snapshots.iter().all(|snapshot| snapshot.rdb_bytes.is_some()));
    assert!(summary.blurs.is_empty() && summary.gaps.is_empty());
}

#[tokio::test]
async fn a_blur_is_told_with_its_edges() {
    let (mut writer, history) = started();
    writer.segment_until(&[read(1.0, "SET a 1")], at(10.0));
    let from = writer.end();
    writer.late(at(10.0));
    writer.segment_until(&[read(40.0, "SET a 2")], at(50.0));
    writer.turn_page();
    writer.segment_until(&[read(51.0, "SET a 3")], at(52.0));
    let to = writer.end();
    writer.live();
    writer.segment(&[read(60.0, "SET a 4")]);
    let summary = summary(&writer.objects).await;
    let [blur] = summary.blurs.as_slice() else { panic!("{summary:?}") };
    assert_eq!((blur.history, blur.from_offset, blur.to_offset), (history, from, to));
    assert_eq!((blur.from, blur.to), (at(10.0), at(52.0)));
    assert_eq!(summary.windows.len(), 1);
}

#[tokio::test]
async fn a_gap_is_told_with_its_cause() {
    let (mut writer, first) = started();
    writer.segment_until(&[read(1.0, "SET a 1")], at(10.0));
    let second = writer.begin_history(5000, at(19.0), Cause::SpoolFull);
    let mut writer = writer.succeed();
    writer.segment(&[read(19.5, "SET b 1")]);
    writer.snapshot(at(20.0));
    writer.segment(&[read(21.0, "SET b 2")]);
    let summary = summary(&writer.objects).await;
    assert_eq!(summary.windows.len(), 2);
    let [gap] = summary.gaps.as_slice() else { panic!("{summary:?}") };
    assert_eq!((gap.ended, gap.began, gap.cause), (first, second, Some(Cause::SpoolFull)));
    assert_eq!((gap.from, gap.to), (Some(at(10.0)), Some(at(20.0))));
    assert_eq!(gap.because, Cause::SpoolFull.describe());
}

#[tokio::test]
async fn pages_that_are_missing_end_a_window() {
    // In the middle of a term, and at its end.
    for lost in [1, 2] {
        let (mut writer, _) = started();
        let mut pages = Vec::new();
        for second in 1..=3 {
            pages.push(writer.segment(&[read(f64::from(second), "SET a 1")]));
            writer.turn_page();
        }
        let mut writer = writer.succeed();
        writer.segment(&[read(4.0, "SET a 4")]);
        writer.snapshot(at(4.5));
        writer.objects.remove(&pages[lost]);
        let summary = summary(&writer.objects).await;
        let [before, after] = summary.windows.as_slice() else { panic!("page {lost}: {summary:?}") };
        assert_eq!((before.complete_until, after.from), (at(lost as f64), at(4.5)));
        let [gap] = summary.gaps.as_slice() else { panic!("{summary:?}") };
        assert_eq!((gap.cause, gap.from, gap.to), (None, Some(at(lost as f64)), Some(at(4.5))));
    }
}

#[tokio::test]
async fn damage_at_the_end_does_not_hide_the_rest() {
    let (mut writer, _) = started();
    writer.segment(&[read(1.0, "SET a 1")]);
    let last = writer.segment_until(&[read(2.0, "SET a 2")], at(9.0));
    writer.objects.put(&last, "");
    let summary = summary(&writer.objects).await;
    assert_eq!(summary.windows[0].complete_until, at(2.0));
}

#[tokio::test]
async fn a_segment_that_is_missing_inside_a_page_ends_a_window() {
    for later_snapshot in [false, true] {
        let (mut writer, history) = started();
        let mut segments = Vec::new();
        for second in 1..=30 {
            segments.push(writer.segment(&[read(f64::from(second), "SET a 1")]));
            if later_snapshot && second == 20 {
                writer.snapshot(at(20.0));
            }
        }
        writer.objects.remove(&segments[9]);
        let hole = Offset(100 + 9 * 27);
        let summary = summary(&writer.objects).await;
        let first = &summary.windows[0];
        assert_eq!((first.to_offset, first.complete_until), (hole, at(9.0)), "{summary:?}");
        assert_eq!(summary.windows.len(), if later_snapshot { 2 } else { 1 }, "{summary:?}");
        let [gap] = summary.gaps.as_slice() else { panic!("{summary:?}") };
        assert_eq!((gap.ended, gap.from, gap.to), (history, Some(at(9.0)), later_snapshot.then_some(at(20.0))));
    }
}

#[tokio::test]
async fn a_lost_history_is_listed() {
    let (mut writer, first) = started();
    writer.segment(&[read(1.0, "SET a 1")]);
    writer.objects.remove(format!("history/{first}"));
    let summary = summary(&writer.objects).await;
    assert_eq!((summary.lost_histories, summary.windows), (vec![first], vec![]));
}
