//! Peers that have not said the password yet: few at a time, and the newest before the oldest.
//!
//! A replica that knows the password says it at once. So whoever opens many connections and says nothing
//! crowds out himself: by the time the replica is the oldest, it is no stranger any more.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

/// Strangers at a time.
const STRANGERS_MAX: usize = 64;

/// The strangers, oldest first.
#[derive(Default)]
pub(super) struct Strangers(VecDeque<Known>);

/// What is known of one of them.
struct Known {
    evicted: CancellationToken,
    /// Cancelled when it is none any more.
    gone: CancellationToken,
}

/// A stranger's leave to stay.
pub(super) struct Stranger {
    evicted: CancellationToken,
    _gone: DropGuard,
}

impl Strangers {
    /// Lets one more in, for the oldest if there are too many.
    pub(super) fn enter(&mut self) -> Stranger {
        self.0.retain(|known| !known.gone.is_cancelled());
        if self.0.len() == STRANGERS_MAX
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.evicted.cancel();
        }
        let (evicted, gone) = (CancellationToken::new(), CancellationToken::new());
        self.0.push_back(Known { evicted: evicted.clone(), gone: gone.clone() });
        Stranger { evicted, _gone: gone.drop_guard() }
    }
}

impl Stranger {
    /// Lets `handshake` run to its end, after which it is no stranger any more.
    pub(super) async fn within<T>(
        self,
        limit: Duration,
        handshake: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        let late = |problem| Err(io::Error::new(io::ErrorKind::TimedOut, problem));
        tokio::select! {
            biased;
            outcome = tokio::time::timeout(limit, handshake) => {
                outcome.unwrap_or_else(|_| late("it did not ask for replication in time"))
            }
            () = self.evicted.cancelled() => late("it did not say the password before many others came"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn the_oldest_makes_room_for_the_newest() {
        let mut strangers = Strangers::default();
        let oldest = strangers.enter();
        let mut others: Vec<Stranger> = (1..STRANGERS_MAX).map(|_| strangers.enter()).collect();
        // One that said the password leaves its place.
        others.pop().unwrap().within(LIMIT, async { Ok(()) }).await.unwrap();
        let newer = strangers.enter();
        assert!(!oldest.evicted.is_cancelled());
        let newest = strangers.enter();
        let began = tokio::time::Instant::now();
        oldest.within(LIMIT, std::future::pending::<io::Result<()>>()).await.unwrap_err();
        assert_eq!(began.elapsed(), Duration::ZERO);
        newest.within(LIMIT, async { Ok(()) }).await.unwrap();
        newer.within(LIMIT, std::future::pending::<io::Result<()>>()).await.unwrap_err();
        assert_eq!(began.elapsed(), LIMIT);
    }
}
