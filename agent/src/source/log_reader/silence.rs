//! When a link is dead although nobody has closed it.

use std::time::Duration;

use redwind_archive::position::Offset;
use tokio::time::Instant;

/// A primary pings its replicas every ten seconds unless told otherwise; without a byte for so long,
/// and without the control connection telling that nothing is missing, the link is dead.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Without a byte for so long, while the control connection tells that the server has sent more, the
/// link is dead too.
const OWED_MAX: Duration = Duration::from_secs(10);

/// Whether the link is dead: the log was read up to `end`, last at `last_read`, and the server was last
/// `seen` to have come so far, at that moment.
pub(super) fn is_dead(now: Instant, last_read: Instant, end: Offset, seen: Option<(Offset, Instant)>) -> bool {
    match seen {
        Some((theirs, at)) if theirs > end => at >= last_read + OWED_MAX || now >= last_read + SILENCE_MAX,
        Some((_, at)) => now >= last_read.max(at) + SILENCE_MAX,
        None => now >= last_read + SILENCE_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_means_death_unless_the_server_has_nothing_to_say() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let end = Offset(10);
        assert!(!is_dead(at(59), start, end, None));
        assert!(is_dead(at(60), start, end, None));
        assert!(!is_dead(at(100), start, end, Some((Offset(10), at(50)))));
        assert!(is_dead(at(110), start, end, Some((Offset(10), at(50)))));
    }

    #[test]
    fn bytes_that_the_server_has_sent_are_waited_for_a_few_seconds() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        // seen ahead soon after the last read: they may be on their way
        assert!(!is_dead(at(9), start, Offset(10), Some((Offset(11), at(5)))));
        assert!(is_dead(at(11), start, Offset(10), Some((Offset(11), at(10)))));
    }
}
