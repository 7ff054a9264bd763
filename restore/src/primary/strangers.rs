//! Peers that have not said the password yet: few at a time, and the newest before the oldest.
//!
//! A replica that knows the password says it in the second thing that it sends, and is no stranger from then
//! on. So whoever opens many connections and says nothing mostly crowds out himself: to cut off a replica he
//! must open [`STRANGERS_MAX`] more within the two round trips that it takes, each time that it tries.

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
    place: Place,
}

/// One of the places of strangers, until it is dropped: whoever has left it is cut off for nobody any more.
pub(super) struct Place {
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
        Stranger { evicted, place: Place { _gone: gone.drop_guard() } }
    }
}

impl Stranger {
    /// Lets the handshake run to its end, which leaves the place as soon as the peer has said the password. Its
    /// time is limited all the same.
    pub(super) async fn within<T, H: Future<Output = io::Result<T>>>(
        self,
        limit: Duration,
        handshake: impl FnOnce(Place) -> H,
    ) -> io::Result<T> {
        let handshake = handshake(self.place);
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

    /// Leaves its place when `known`, and never asks for replication.
    async fn shake_hands(place: Place, known: bool) -> io::Result<()> {
        let _place = Some(place).filter(|_| !known);
        std::future::pending().await
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_makes_room_for_the_newest() {
        let mut strangers = Strangers::default();
        let oldest = strangers.enter();
        let mut others: Vec<Stranger> = (1..STRANGERS_MAX).map(|_| strangers.enter()).collect();
        others.pop().unwrap().within(LIMIT, |_place| async { Ok(()) }).await.unwrap();
        let newer = strangers.enter();
        assert!(!oldest.evicted.is_cancelled());
        let newest = strangers.enter();
        let began = tokio::time::Instant::now();
        oldest.within(LIMIT, |place| shake_hands(place, false)).await.unwrap_err();
        assert_eq!(began.elapsed(), Duration::ZERO);
        newest.within(LIMIT, |_place| async { Ok(()) }).await.unwrap();
        newer.within(LIMIT, |place| shake_hands(place, false)).await.unwrap_err();
        assert_eq!(began.elapsed(), LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_said_the_password_makes_room_for_nobody() {
        let mut strangers = Strangers::default();
        let replica = strangers.enter();
        let began = tokio::time::Instant::now();
        let handshake = tokio::spawn(replica.within(LIMIT, |place| shake_hands(place, true)));
        tokio::task::yield_now().await;
        let flood: Vec<Stranger> = (0..2 * STRANGERS_MAX).map(|_| strangers.enter()).collect();
        assert!(flood[0].evicted.is_cancelled());
        handshake.await.unwrap().unwrap_err();
        assert_eq!(began.elapsed(), LIMIT);
    }
}
