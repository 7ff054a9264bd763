use redwind_archive::position::{HistoryId, Position};
use redwind_archive::segment::ReplicationId;
use redwind_archive::time::Timestamp;
use redwind_stream::Framer;
use ulid::Ulid;

use super::*;

const ID: [u8; 40] = [b'a'; 40];

fn point(offset: u64) -> ResumePoint {
    ResumePoint {
        position: Position { history: HistoryId(Ulid::from_parts(1, 1)), offset: Offset(offset) },
        framer: Framer::new(None).state(),
        replication_ids: vec![ReplicationId { id: ID, since: Offset(1) }],
        read_until: Timestamp(5),
        has_snapshot: true,
        damaged: false,
    }
}

/// A server at offset 1000 whose backlog begins with byte 501.
fn server() -> ReplicationInfo {
    ReplicationInfo {
        role: Role::Primary,
        master_link_up: None,
        master: None,
        connected_replicas: 0,
        master_replid: "A".repeat(40),
        master_replid2: None,
        second_repl_offset: None,
        master_repl_offset: 1000,
        backlog_active: true,
        backlog_size: 500,
        backlog_first_byte_offset: 501,
        backlog_histlen: 500,
    }
}

#[test]
fn a_partial_resync_is_expected_exactly_when_the_backlog_holds_the_next_byte() {
    for (offset, expected) in [
        (499, Outlook::Hopeless),
        (500, Outlook::Good),
        (999, Outlook::Good),
        (1000, Outlook::Good),
        (1001, Outlook::Hopeless),
    ] {
        assert_eq!(outlook(&point(offset), &server()), expected, "{offset}");
    }
    let freed = ReplicationInfo { backlog_active: false, ..server() };
    assert_eq!(outlook(&point(1000), &freed), Outlook::Hopeless);
}

#[test]
fn a_promoted_replica_continues_the_former_id_up_to_where_it_took_over() {
    let promoted = ReplicationInfo {
        master_replid: "b".repeat(40),
        master_replid2: Some("a".repeat(40)),
        second_repl_offset: Some(801),
        ..server()
    };
    assert_eq!(outlook(&point(800), &promoted), Outlook::Good);
    assert_eq!(outlook(&point(801), &promoted), Outlook::Hopeless);
    let stranger = ReplicationInfo { master_replid: "b".repeat(40), ..server() };
    assert_eq!(outlook(&point(800), &stranger), Outlook::Hopeless);
}

#[test]
fn a_replica_that_is_behind_is_given_time() {
    let replica = ReplicationInfo { role: Role::Replica, ..server() };
    assert_eq!(outlook(&point(1010), &replica), Outlook::Behind { bytes: 10 });
    let wish = |patient| Wish { resume: Some(point(1010)), because: None, patient };
    let now = Moment { instant: tokio::time::Instant::now(), time: Timestamp(9) };
    let refused = plan_continuation(&wish(true), &replica, now);
    assert!(matches!(refused, Err(AttachError::Behind { bytes: 10 })));
    assert!(plan_continuation(&wish(false), &replica, now).unwrap().is_none());
}

#[test]
fn a_continuation_asks_for_the_next_byte_and_knows_when_it_last_read() {
    let wish = Wish { resume: Some(point(700)), because: None, patient: true };
    let now = Moment { instant: tokio::time::Instant::now(), time: Timestamp(9) };
    let plan = plan_continuation(&wish, &server(), now).unwrap().unwrap();
    assert_eq!(plan.request, PsyncRequest::After { replication_id: ID, offset: Offset(700) });
    assert_eq!((plan.course, plan.seen_empty.time), (Course::Continue, Timestamp(5)));
}

#[test]
fn the_cause_of_a_gap_is_told_by_where_the_server_stands() {
    let wish = |because, resume| Wish { resume, because, patient: true };
    assert_eq!(cause(&wish(None, None), Offset(9)), Cause::First);
    assert_eq!(cause(&wish(None, Some(point(700))), Offset(699)), Cause::OffsetsWentBack);
    assert_eq!(cause(&wish(None, Some(point(700))), Offset(700)), Cause::BacklogLost);
    let damaged = ResumePoint { damaged: true, ..point(700) };
    assert_eq!(cause(&wish(None, Some(damaged)), Offset(700)), Cause::LogDamaged);
    assert_eq!(cause(&wish(Some(Cause::SpoolFull), Some(point(700))), Offset(1)), Cause::SpoolFull);
}
