//! The writer's signs of life, given so that others can tell that it lives; see `signs`.
//!
//! A writer that nobody watches asks for little: while there are writes, one look every few seconds
//! whether somebody watches; on an idle source, one soon after somebody has connected to it, else one every
//! ten minutes, and no sign at all, because an idle source's segment is one. While somebody watches, it
//! gives a sign every few seconds, and looks each time whether its tenure has ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::OptionFuture;
use redwind_archive::documents::{HolderSign, HolderState};
use redwind_archive::layout::{ObjectName, Sign};
use redwind_archive::store::StoreError;
use redwind_archive::time::Timestamp;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::signs::{BEAT, BEAT_IDLE, WATCHER_BEAT, WATCHER_SILENCE_MAX};
use super::uploader::Upstream;
use crate::error::describe;

/// Between two looks for a watcher while there are writes.
const LOOK_BUSY: Duration = Duration::from_secs(5);
/// Between two such looks on an idle source.
const LOOK_IDLE: Duration = Duration::from_secs(600);
/// From a newcomer at the source to the look for its sign, which it gives a moment later.
const NEWCOMER_DELAY: Duration = Duration::from_secs(2);
/// Between two looks for newcomers: on some sources somebody connects all the time.
const LOOK_NEWCOMER: Duration = Duration::from_secs(60);
/// A request that takes longer is given up: the next one comes anyway.
const REQUEST_MAX: Duration = Duration::from_secs(6);
/// Likewise while somebody watches.
const WATCHED_REQUEST_MAX: Duration = Duration::from_millis(2500);
const _: () = assert!(WATCHED_REQUEST_MAX.as_millis() < BEAT.as_millis(), "a lost request would cost two beats");
/// How long the last sign may take.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// What the uploader puts, as far as that is a sign of life.
#[derive(Debug)]
pub(super) struct Pulse {
    last_put: Mutex<Instant>,
    writes: AtomicU64,
    /// Since when somebody new has been at the source, unless it has been looked who.
    newcomer: Mutex<Option<Instant>>,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { last_put: Mutex::new(Instant::now()), writes: AtomicU64::new(0), newcomer: Mutex::new(None) }
    }

    /// Somebody has connected to the source.
    pub(super) fn somebody_came(&self) {
        self.came(Instant::now());
    }

    fn came(&self, at: Instant) {
        self.newcomer.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(at);
    }

    /// Takes out who has come, if it is time to look for them.
    fn take_newcomer(&self, is_due: impl FnOnce(Instant) -> bool) -> Option<Instant> {
        self.newcomer.lock().unwrap_or_else(PoisonError::into_inner).take_if(|came| is_due(*came))
    }

    /// A segment has been put; `busy` if somebody has something to do.
    pub(super) fn put(&self, busy: bool) {
        *self.last_put.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.writes.fetch_add(u64::from(busy), Ordering::Relaxed);
    }

    fn last_put(&self) -> Instant {
        *self.last_put.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }
}

/// What the store says to a request, if it says anything in time.
type Answer<T> = Result<Result<T, StoreError>, Elapsed>;

/// A look for watchers.
struct Look {
    /// What had been written when it was made.
    writes: u64,
    /// The newcomer that it is for.
    newcomer: Option<Instant>,
}

/// Gives the signs.
pub(super) struct Heartbeat {
    upstream: Arc<Upstream>,
    watch: Watch,
    last_sign: Option<Instant>,
    /// What the last sign said.
    last_state: HolderState,
    count: u64,
    failing: bool,
}

impl Heartbeat {
    pub(super) fn new(upstream: Arc<Upstream>) -> Self {
        let watch = Watch::new(Instant::now());
        Self { upstream, watch, last_sign: None, last_state: HolderState::Writing, count: 0, failing: false }
    }

    /// Runs until dropped.
    pub(super) async fn run(mut self) {
        let mut ticks = tokio::time::interval(BEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let watched = self.watch.is_watched(Instant::now());
            self.beat(watched).await;
            if !watched && self.watch.is_watched(Instant::now()) {
                // Whoever has come is told at once.
                ticks.reset_immediately();
            }
        }
    }

    /// Gives a sign, and looks for watchers, if they are due. Neither waits for the other, and of a watched
    /// writer neither outlasts the beat, so that one lost request does not look like its end.
    async fn beat(&mut self, watched: bool) {
        let now = Instant::now();
        let (sign, look) = (self.due_sign(watched, now), self.due_look(now));
        let request_max = if watched { WATCHED_REQUEST_MAX } else { REQUEST_MAX };
        let (upstream, count, name) = (Arc::clone(&self.upstream), self.count, ObjectName::Sign(Sign::Watcher));
        let giving = sign.map(|state| timeout(request_max, give(&upstream, count, state)));
        let looking = look.as_ref().map(|_| timeout(request_max, upstream.store.put_time(&name)));
        let (given, looked) = tokio::join!(OptionFuture::from(giving), OptionFuture::from(looking));
        if let Some((state, given)) = sign.zip(given) {
            self.gave(state, now, given);
        }
        if let Some((look, looked)) = look.zip(looked) {
            self.looked(&look, looked);
        }
    }

    /// The sign that is to be given now, if one is.
    fn due_sign(&mut self, watched: bool, now: Instant) -> Option<HolderState> {
        let state = if watched { HolderState::Watched } else { HolderState::Writing };
        let last = self.last_sign.max(Some(self.upstream.pulse.last_put()));
        let recent = last.is_some_and(|last| now.duration_since(last) < BEAT_IDLE);
        // Whoever has been promised signs within seconds is told when that ends.
        if !watched && state == self.last_state && recent {
            return None;
        }
        self.count += 1;
        Some(state)
    }

    fn gave(&mut self, state: HolderState, at: Instant, given: Answer<()>) {
        if self.answer(given).is_some() {
            (self.last_state, self.last_sign) = (state, Some(at));
        }
        // Whoever watches may have taken over, and so may anybody while there is nothing to store.
        self.upstream.suspicion.notify_one();
    }

    fn due_look(&self, now: Instant) -> Option<Look> {
        let pulse = &self.upstream.pulse;
        let writes = pulse.writes();
        let newcomer = pulse.take_newcomer(|came| self.watch.is_due_for_newcomer(came, now));
        (newcomer.is_some() || self.watch.is_due(writes, now)).then_some(Look { writes, newcomer })
    }

    fn looked(&mut self, look: &Look, looked: Answer<Option<Timestamp>>) {
        let Some(sign) = self.answer(looked) else {
            if let Some(came) = look.newcomer {
                self.upstream.pulse.came(came);
            }
            return;
        };
        let now = Instant::now();
        self.watch.saw(sign, look.writes, now);
        if look.newcomer.is_some() {
            self.watch.newcomer_look = Some(now);
            // It may have been told to take over.
            self.upstream.suspicion.notify_one();
        }
    }

    /// What a request was answered; tells once when signs begin to fail.
    fn answer<T>(&mut self, answer: Answer<T>) -> Option<T> {
        let failing = match answer {
            Ok(Ok(answer)) => {
                self.failing = false;
                return Some(answer);
            }
            Ok(Err(error)) => describe(&error),
            Err(_) => "the store does not answer in time".to_owned(),
        };
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(error = %failing, "cannot give signs of life: other agents may take this one for gone");
        }
        None
    }
}

/// Says that the writer has stopped, with nothing left to store, so that nobody has to wait.
pub(super) async fn farewell(upstream: &Upstream) {
    // It is but a hint: without it, others wait until the silence is long enough.
    if let Ok(Err(error)) = timeout(FAREWELL_MAX, give(upstream, u64::MAX, HolderState::Stopped)).await {
        tracing::debug!(error = %describe(&error), "cannot say that this agent has stopped");
    }
}

async fn give(upstream: &Upstream, count: u64, state: HolderState) -> Result<(), StoreError> {
    let identity = upstream.tenure.identity;
    let given = upstream.clock.now();
    let sign = HolderSign { term: identity.term, writer: identity.writer, count, given, state };
    upstream.store.give_sign(Sign::Holder, &sign).await
}

/// Whether somebody watches, by when the watchers' sign was last put.
#[derive(Debug)]
struct Watch {
    /// When the sign was put that was seen last, by the store's clock, if there was one; `None` before the first
    /// look.
    seen: Option<Option<Timestamp>>,
    last_look: Option<Instant>,
    /// The last look for a newcomer that the store answered.
    newcomer_look: Option<Instant>,
    /// Writes at the last look.
    writes: u64,
    /// When the sign was last seen to change.
    changed: Option<Instant>,
    /// The first look found a sign, of which it is not known whether somebody still gives it.
    doubtful_since: Option<Instant>,
    began: Instant,
}

impl Watch {
    fn new(now: Instant) -> Self {
        Self {
            seen: None,
            last_look: None,
            newcomer_look: None,
            writes: 0,
            changed: None,
            doubtful_since: None,
            began: now,
        }
    }

    fn is_due_for_newcomer(&self, came: Instant, now: Instant) -> bool {
        now.duration_since(came) >= NEWCOMER_DELAY
            && self.newcomer_look.is_none_or(|look| now.duration_since(look) >= LOOK_NEWCOMER)
    }

    fn is_due(&self, writes: u64, now: Instant) -> bool {
        let since = now.duration_since(self.last_look.unwrap_or(self.began));
        let doubt = self.doubtful_since.is_some() && since > WATCHER_BEAT;
        let busy = writes > self.writes && since >= LOOK_BUSY;
        let renewal = self.is_watched(now) && since >= WATCHER_BEAT;
        self.last_look.is_none() || doubt || busy || renewal || since >= LOOK_IDLE
    }

    fn saw(&mut self, sign: Option<Timestamp>, writes: u64, now: Instant) {
        match self.seen {
            None => self.doubtful_since = sign.map(|_| now),
            Some(before) if before != sign && sign.is_some() => {
                (self.changed, self.doubtful_since) = (Some(now), None);
            }
            Some(_) => self.doubtful_since = self.doubtful_since.filter(|&since| now - since < 2 * WATCHER_BEAT),
        }
        (self.seen, self.last_look, self.writes) = (Some(sign), Some(now), writes);
    }

    fn is_watched(&self, now: Instant) -> bool {
        self.changed.is_some_and(|changed| now.duration_since(changed) < WATCHER_SILENCE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_idle_source_is_looked_at_seldom_and_a_busy_one_soon() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        assert!(watch.is_due(0, start));
        watch.saw(None, 0, start);
        assert!(!watch.is_due(0, start + 599 * SECOND));
        assert!(watch.is_due(0, start + 600 * SECOND));
        assert!(!watch.is_due(1, start + 4 * SECOND));
        assert!(watch.is_due(1, start + 5 * SECOND));
    }

    #[test]
    fn a_newcomer_is_looked_for_soon_but_crowds_once_a_minute() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        assert!(!watch.is_due_for_newcomer(start, start + SECOND));
        assert!(watch.is_due_for_newcomer(start, start + 2 * SECOND));
        watch.newcomer_look = Some(start + 2 * SECOND);
        assert!(!watch.is_due_for_newcomer(start + 3 * SECOND, start + 61 * SECOND));
        assert!(watch.is_due_for_newcomer(start + 3 * SECOND, start + 62 * SECOND));
    }

    #[test]
    fn a_sign_that_changes_is_a_watcher_until_it_stays_the_same() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        watch.saw(None, 0, start);
        let arrived = start + 5 * SECOND;
        watch.saw(Some(Timestamp(1)), 1, arrived);
        assert!(watch.is_watched(arrived));
        assert!(watch.is_due(1, arrived + WATCHER_BEAT));
        watch.saw(Some(Timestamp(1)), 1, arrived + WATCHER_BEAT);
        assert!(watch.is_watched(arrived + 149 * SECOND));
        assert!(!watch.is_watched(arrived + 150 * SECOND));
    }

    #[test]
    fn a_sign_that_was_left_behind_is_looked_at_again_and_then_believed_to_be_old() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        watch.saw(Some(Timestamp(1)), 0, start);
        assert!(!watch.is_watched(start));
        assert!(watch.is_due(0, start + 31 * SECOND));
        watch.saw(Some(Timestamp(1)), 0, start + 31 * SECOND);
        watch.saw(Some(Timestamp(1)), 0, start + 62 * SECOND);
        assert!(!watch.is_due(0, start + 300 * SECOND));
        watch.saw(Some(Timestamp(2)), 0, start + 300 * SECOND);
        assert!(watch.is_watched(start + 300 * SECOND));
    }
}
