//! Which replication ID the server gave an offset under: whether two logs that meet there agree.
//!
//! Servers promise that the same offset under the same replication ID is the same byte. A log that
//! was continued on a promoted replica, and another that was read from the old primary for a while
//! longer, meet at the same offsets with other bytes; their IDs tell.

use redwind_archive::position::Offset;
use redwind_archive::segment::ReplicationId;

/// The ID under which the byte before `offset` was given: the newest that held from before it on.
/// Of a log that begins at `offset`, its first.
pub(super) fn id_before(ids: &[ReplicationId], offset: Offset) -> Option<&[u8; 40]> {
    let held = ids.iter().rfind(|id| id.since < offset);
    held.or(ids.first()).map(|id| &id.id)
}

/// Whether two logs with these IDs have the same bytes before `offset`, as far as they know.
pub(super) fn agree(ours: &[ReplicationId], theirs: &[ReplicationId], offset: Offset) -> bool {
    match (id_before(ours, offset), id_before(theirs, offset)) {
        (Some(ours), Some(theirs)) => ours == theirs,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[(u8, u64)]) -> Vec<ReplicationId> {
        ids.iter().map(|&(id, since)| ReplicationId { id: [id; 40], since: Offset(since) }).collect()
    }

    #[test]
    fn a_log_continued_on_another_primary_differs_from_the_old_primarys_log() {
        let continued = ids(&[(b'a', 0), (b'b', 100)]);
        let old = ids(&[(b'a', 0)]);
        assert!(agree(&continued, &old, Offset(100)));
        assert!(!agree(&continued, &old, Offset(101)));
        assert!(!agree(&continued, &ids(&[(b'a', 0), (b'c', 100)]), Offset(200)));
    }

    #[test]
    fn a_log_agrees_with_itself_from_its_first_byte_on() {
        let log = ids(&[(b'a', 50), (b'b', 70)]);
        for offset in 50..90 {
            assert!(agree(&log, &log, Offset(offset)));
        }
        assert_eq!(id_before(&log, Offset(50)), Some(&[b'a'; 40]));
    }
}
