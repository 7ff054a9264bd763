//! Signs of life: telling whether the archive's writer lives.
//!
//! Whatever the writer puts is a sign: its claim, its segments, and `sign/holder`, which it overwrites
//! when it has nothing else to put, or when somebody watches. They are hints. A wrong conclusion costs a
//! takeover that was not needed, never data: safety rests on the term alone.
//!
//! Time is measured in two ways, of which neither compares two hosts' clocks: how long the writer had
//! been silent before we looked is the difference of two times of the store, the newest sign's and that
//! of a sign which we give ourselves; how long it has been silent since is our own monotonic time.

use std::time::Duration;

use redwind_archive::documents::{HolderSign, HolderState, TermClaim, WatcherSign};
use redwind_archive::layout::{Folder, ObjectName, PageName, Sign};
use redwind_archive::position::Term;
use redwind_archive::store::{SourceStore, StoreError};
use redwind_archive::time::{Clock, Timestamp};
use tokio::time::Instant;

use super::entry::IDLE_SEAL;
use super::term::{self, new_id};

/// A writer that is not known to be watched is gone after so long a silence.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(90);
/// A watched writer is gone after so long a silence: two signs and more have not come.
pub(super) const WATCHED_SILENCE_MAX: Duration = Duration::from_secs(8);
/// Between two signs of a watched writer.
pub(super) const BEAT: Duration = Duration::from_secs(3);
/// A writer that puts nothing else for so long gives a sign: an idle source's segment comes first.
pub(super) const BEAT_IDLE: Duration = Duration::from_secs(80);
const _: () = assert!(IDLE_SEAL.as_secs() < BEAT_IDLE.as_secs() && BEAT_IDLE.as_secs() < SILENCE_MAX.as_secs());
/// Between two signs of a watcher.
pub(super) const WATCHER_BEAT: Duration = Duration::from_secs(30);
/// A watcher that gives no sign for so long has gone.
pub(super) const WATCHER_SILENCE_MAX: Duration = Duration::from_secs(150);

/// What can be seen of the archive's writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sight {
    /// The newest claim.
    pub(super) claim: TermClaim,
    /// What it says of itself, if it has said anything in its term.
    pub(super) sign: Option<HolderSign>,
    /// When its newest sign of any kind was put, by the store's clock.
    pub(super) newest: Timestamp,
}

impl Sight {
    fn has_stopped(&self) -> bool {
        self.sign.as_ref().is_some_and(|sign| sign.state == HolderState::Stopped)
    }
}

/// Looks for signs, and gives those of a watcher.
pub(super) struct Lookout<'a> {
    store: &'a SourceStore,
    clock: &'a Clock,
    me: WatcherSign,
    /// The newest claim that was read: claims do not change.
    known: Option<TermClaim>,
}

impl<'a> Lookout<'a> {
    pub(super) fn new(store: &'a SourceStore, clock: &'a Clock) -> Self {
        let me = WatcherSign {
            watcher: new_id(clock),
            host: term::host(),
            pid: std::process::id(),
            given: Timestamp::default(),
        };
        Self { store, clock, me, known: None }
    }

    /// The newest claim; `None` when nobody ever wrote.
    pub(super) async fn claim(&mut self) -> Result<Option<TermClaim>, StoreError> {
        Ok(self.newest_claim().await?.map(|newest| newest.claim))
    }

    /// Looks for everything; `None` when nobody ever wrote.
    pub(super) async fn look(&mut self) -> Result<Option<Sight>, StoreError> {
        let Some(Newest { claim, claimed, page }) = self.newest_claim().await? else { return Ok(None) };
        let stored = match page.filter(|page| page.term == claim.term) {
            Some(page) => self.store.put_times(&Folder::Page(page)).await?.into_iter().map(|(_, time)| time).max(),
            None => None,
        };
        let signs = self.store.put_times(&Folder::Signs).await?;
        let given = signs.iter().find(|(name, _)| *name == ObjectName::Sign(Sign::Holder)).map(|(_, time)| *time);
        let sign = if given.is_some() { self.glance(claim.term).await? } else { None };
        let given = given.filter(|_| sign.is_some());
        let newest = [claimed, stored, given].into_iter().flatten().max().unwrap_or_default();
        Ok(Some(Sight { claim, sign, newest }))
    }

    /// Looks only at what the writer of `term` says of itself. A sign that cannot be read is none.
    pub(super) async fn glance(&self, term: Term) -> Result<Option<HolderSign>, StoreError> {
        match self.store.find_document::<HolderSign>(&ObjectName::Sign(Sign::Holder)).await {
            Ok(sign) => Ok(sign.filter(|sign| sign.term == term)),
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Says that somebody watches. Tells the time by the store's clock.
    pub(super) async fn announce(&mut self) -> Result<Timestamp, StoreError> {
        self.me.given = self.clock.now();
        self.store.give_sign(Sign::Watcher, &self.me).await?;
        Ok(self.store.put_time(&ObjectName::Sign(Sign::Watcher)).await?.unwrap_or_default())
    }

    async fn newest_claim(&mut self) -> Result<Option<Newest>, StoreError> {
        let (listed, pages) = futures::try_join!(self.store.put_times(&Folder::Terms), self.store.pages())?;
        let term = |(name, time)| match name {
            ObjectName::Term(term) => Some((term, Some(time))),
            _ => None,
        };
        let page = pages.into_iter().next_back();
        // A term that was written in was claimed, also if its claim has been lost since.
        let written = page.as_ref().map(|page| (page.term, None));
        let Some((term, claimed)) = listed.into_iter().filter_map(term).chain(written).max() else { return Ok(None) };
        let claim = match self.known.take().filter(|known| known.term == term) {
            Some(known) => known,
            None => match self.store.get_document(&ObjectName::Term(term)).await {
                Err(error) if error.is_damage() || error.is_absent() => term::unreadable(term),
                read => read?,
            },
        };
        self.known = Some(claim.clone());
        Ok(Some(Newest { claim, claimed, page }))
    }
}

/// The newest term that was ever claimed, as far as there are signs of it.
struct Newest {
    claim: TermClaim,
    /// When the claim was put, by the store's clock; `None` if it has been lost.
    claimed: Option<Timestamp>,
    /// The newest page, if there is one.
    page: Option<PageName>,
}

/// For how long the writer has been silent.
#[derive(Debug)]
pub(super) struct Vigil {
    sight: Sight,
    /// Silence before `since`.
    before: Duration,
    since: Instant,
    /// The writer was seen to give signs because it is watched.
    armed: bool,
}

impl Vigil {
    /// Begins with what is seen at `now`, which the store's clock calls `store_now`.
    pub(super) fn begin(sight: Sight, store_now: Timestamp, now: Instant) -> Self {
        let before = store_now.since(sight.newest);
        Self { sight, before, since: now, armed: false }
    }

    /// The writer whose signs are watched.
    pub(super) fn holder(&self) -> &TermClaim {
        &self.sight.claim
    }

    /// Takes what is seen at `now`. Tells whether it is another sign than before.
    pub(super) fn see(&mut self, sight: Sight, now: Instant) -> bool {
        if sight.claim != self.sight.claim {
            *self = Self { sight, before: Duration::ZERO, since: now, armed: false };
            return true;
        }
        let sign = sight.sign.clone();
        let stored = sight.newest > self.sight.newest;
        self.sight.newest = sight.newest.max(self.sight.newest);
        self.hear(sign, now) | self.note(stored, now)
    }

    /// Takes what the writer says of itself at `now`. Tells whether it is news.
    pub(super) fn hear(&mut self, sign: Option<HolderSign>, now: Instant) -> bool {
        let news = sign.is_some() && sign != self.sight.sign;
        if news {
            self.armed = sign.as_ref().is_some_and(|sign| sign.state == HolderState::Watched);
            self.sight.sign = sign;
        }
        self.note(news, now)
    }

    fn note(&mut self, news: bool, now: Instant) -> bool {
        if news {
            (self.before, self.since) = (Duration::ZERO, now);
        }
        news
    }

    /// The store could not be asked: signs may have been given meanwhile, or not have got through.
    pub(super) fn blinded(&mut self, now: Instant) {
        self.note(true, now);
    }

    /// Time since the last sign.
    pub(super) fn silent(&self, now: Instant) -> Duration {
        self.before + now.duration_since(self.since)
    }

    /// Whether the writer gives signs within seconds, so that its end shows soon.
    pub(super) fn is_armed(&self) -> bool {
        self.armed
    }

    /// Whether the writer says that it has stopped.
    pub(super) fn has_stopped(&self) -> bool {
        self.sight.has_stopped()
    }

    /// Whether the writer is to be taken for gone.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let most = if self.armed { WATCHED_SILENCE_MAX } else { SILENCE_MAX };
        self.sight.has_stopped() || self.silent(now) >= most
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ulid::Ulid;

    const SECOND: Duration = Duration::from_secs(1);

    fn sight(term: u64, newest: u64) -> Sight {
        let claim = TermClaim { writer: Ulid(term.into()), ..term::unreadable(Term(term)) };
        Sight { claim, sign: None, newest: Timestamp(newest * 1_000_000) }
    }

    fn sign(count: u64, state: HolderState) -> Option<HolderSign> {
        Some(HolderSign { term: Term(1), writer: Ulid(1), count, given: Timestamp(count), state })
    }

    #[test]
    fn silence_counts_from_before_the_first_look() {
        let start = Instant::now();
        let vigil = Vigil::begin(sight(1, 100), Timestamp(150_000_000), start);
        assert_eq!(vigil.silent(start), 50 * SECOND);
        assert!(!vigil.is_over(start + 39 * SECOND));
        assert!(vigil.is_over(start + 40 * SECOND));
    }

    #[test]
    fn whatever_the_writer_puts_is_a_sign() {
        let start = Instant::now();
        let mut vigil = Vigil::begin(sight(1, 100), Timestamp(180_000_000), start);
        assert!(!vigil.see(sight(1, 100), start + SECOND));
        assert!(vigil.see(sight(1, 181), start + 2 * SECOND));
        assert!(vigil.hear(sign(1, HolderState::Writing), start + 3 * SECOND));
        assert!(!vigil.hear(sign(1, HolderState::Writing), start + 4 * SECOND));
        assert!(!vigil.hear(None, start + 4 * SECOND));
        assert!(!vigil.is_over(start + 92 * SECOND));
        assert!(vigil.is_over(start + 93 * SECOND));
    }

    #[test]
    fn one_that_is_watched_is_missed_soon_but_not_while_the_store_is_out_of_reach() {
        let start = Instant::now();
        let mut vigil = Vigil::begin(sight(1, 100), Timestamp(100_000_000), start);
        vigil.hear(sign(1, HolderState::Watched), start);
        assert!(vigil.is_armed() && !vigil.is_over(start + 7 * SECOND));
        vigil.blinded(start + 7 * SECOND);
        assert!(!vigil.is_over(start + 14 * SECOND));
        assert!(vigil.is_over(start + 15 * SECOND));
        assert!(vigil.see(sight(2, 100), start + 15 * SECOND));
        assert!(!vigil.is_armed() && !vigil.is_over(start + 16 * SECOND));
    }

    #[test]
    fn one_that_says_that_it_stopped_is_gone_at_once() {
        let start = Instant::now();
        let mut vigil = Vigil::begin(sight(1, 100), Timestamp(100_000_000), start);
        vigil.hear(sign(5, HolderState::Stopped), start);
        assert!(vigil.is_over(start));
    }
}
