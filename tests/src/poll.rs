//! Waiting for something to become true, with a deadline and a reason.

use std::time::{Duration, Instant};

/// How long a story waits for something that should happen at once. Generous, because machines that
/// run tests are slow and shared; a story that passes never waits this long.
pub const PATIENCE: Duration = Duration::from_secs(30);

const INTERVAL: Duration = Duration::from_millis(10);

/// Asks again and again until `answer` is `Some`, within [`PATIENCE`].
///
/// # Panics
/// When it is not, naming `what` was waited for.
pub fn until<T>(what: &str, answer: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, answer)
}

/// Asks again and again until `answer` is `Some`, for no longer than `patience`.
///
/// # Panics
/// When it is not, naming `what` was waited for.
pub fn until_within<T>(patience: Duration, what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = answer() {
            return found;
        }
        assert!(started.elapsed() < patience, "waited {patience:?} in vain until {what}");
        std::thread::sleep(INTERVAL);
    }
}

/// Waits until `condition` holds, within [`PATIENCE`].
///
/// # Panics
/// When it never does, naming `what` was waited for.
pub fn until_true(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, || condition().then_some(()));
}
