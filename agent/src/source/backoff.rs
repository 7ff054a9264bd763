//! How long to wait before trying again: longer each time, and never in step with others.

use std::time::Duration;

/// A growing delay with jitter.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// The delay before the next try: between half and all of it is a matter of chance.
    pub(super) fn next(&mut self) -> Duration {
        let delay = self.next.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.next = (self.next * 2).min(self.most);
        delay
    }

    /// The last try succeeded.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_most_and_start_over_after_success() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        for expected in [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            let expected = Duration::from_millis(expected);
            let delay = backoff.next();
            assert!(delay >= expected / 2 && delay <= expected, "{delay:?} for {expected:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(200));
    }
}
