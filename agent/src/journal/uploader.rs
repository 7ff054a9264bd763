//! The uploader: puts what the spool holds in the store, and tells how far that has come.
//!
//! Puts run in parallel, within bounds of number and memory, but count in the order of the log: a
//! segment is *stored* when everything before it is, and when, after its put had returned, the next
//! term did not exist. So whatever is reported is either seen by a successor, who lists the log
//! after claiming that term, or was never reported. One look at the term covers every put that had
//! returned before it.
//!
//! A page, and a history, is begun only when everything before it counts, and nothing overtakes an
//! empty segment. So only the last page of a term can have holes, and each shows in the offsets.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt, OptionFuture};
use futures::stream::FuturesOrdered;
use redwind_archive::document;
use redwind_archive::documents::{HistoryStart, TermClaim};
use redwind_archive::keys::Keyring;
use redwind_archive::layout::{ObjectName, PageName, SEGMENTS_UNDER_WAY_MAX};
use redwind_archive::store::{Put, SourceStore};
use redwind_archive::time::Clock;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::JournalEnd;
use super::error::JournalError;
use super::heartbeat::Pulse;
use super::pages::Pages;
use super::pending::{Pending, PendingSegment};
use super::persistence::Persistence;
use super::progress::Board;
use super::spool::{Spool, Spooled, is_no_room};
use super::spool_writer::NO_ROOM_PAUSE;
use super::term::Tenure;

const PUTS_MAX: usize = 4;
const _: () = assert!(PUTS_MAX <= SEGMENTS_UNDER_WAY_MAX, "readers would take a hole for damage");
/// Most bytes of objects in memory. One object may go beyond it when it goes alone.
const PUT_BYTES_MAX: u64 = 8 << 20;
/// An idle source's segments that may wait for something urgent before they are checked on their own.
const UNCHECKED_MAX: usize = 10;

/// What the parts of the journal that talk to the store share.
#[derive(Debug)]
pub(super) struct Upstream {
    /// The archive's store.
    pub(super) store: SourceStore,
    /// Our claim to it.
    pub(super) tenure: Tenure,
    /// The spool's folder.
    pub(super) spool: Arc<Spool>,
    /// Where progress is noted.
    pub(super) board: Arc<Board>,
    /// The clock.
    pub(super) clock: Arc<Clock>,
    /// How requests are repeated.
    pub(super) persistence: Persistence,
    /// Asks the uploader to look at the term now, because somebody has found the next one, or because
    /// nothing else would make it look for long.
    pub(super) suspicion: Notify,
    /// What has been put, as a sign of life.
    pub(super) pulse: Pulse,
}

impl Upstream {
    /// The claim that ended our tenure, if there is one. Asks until the store answers.
    pub(super) async fn successor(&self) -> Option<TermClaim> {
        self.persistence.until_answered(|| self.tenure.successor()).await
    }

    /// Why a name that is ours alone is taken.
    pub(super) async fn conflict(&self, name: &ObjectName) -> JournalError {
        match self.successor().await {
            Some(claim) => JournalError::Fenced(Box::new(claim)),
            None => JournalError::Conflict { object: self.store.describe(name) },
        }
    }
}

/// The task that stores; see the module.
pub(super) struct Uploader {
    upstream: Arc<Upstream>,
    incoming: mpsc::UnboundedReceiver<Pending>,
    /// No more comes in.
    ended: bool,
    waiting: VecDeque<Pending>,
    flight: FuturesOrdered<BoxFuture<'static, Result<Pending, JournalError>>>,
    flight_bytes: u64,
    /// Whether something is in flight that nothing may overtake.
    exclusive: bool,
    /// Put, and not yet known to have been put in our tenure.
    unchecked: VecDeque<Pending>,
    /// A look at the term, and how many of `unchecked` it covers.
    check: Option<(usize, BoxFuture<'static, Option<TermClaim>>)>,
    pages: Pages,
    stored_seq: watch::Sender<u64>,
}

enum Step {
    Landed(Result<Pending, JournalError>),
    Checked(Option<TermClaim>),
    Incoming(Option<Pending>),
    Suspicion,
    Deadline,
}

impl Uploader {
    /// `recovered` goes first; `stored_seq` is told how far the log's files have been stored.
    pub(super) fn new(
        upstream: Arc<Upstream>,
        recovered: Vec<Pending>,
        incoming: mpsc::UnboundedReceiver<Pending>,
        stored_seq: watch::Sender<u64>,
    ) -> Self {
        let pages = Pages::new(upstream.tenure.identity.term);
        Self {
            upstream,
            incoming,
            ended: false,
            waiting: recovered.into(),
            flight: FuturesOrdered::new(),
            flight_bytes: 0,
            exclusive: false,
            unchecked: VecDeque::new(),
            check: None,
            pages,
            stored_seq,
        }
    }

    /// Stores until there is nothing more to come, or until `deadline` is cancelled.
    pub(super) async fn run(mut self, deadline: CancellationToken) -> Result<JournalEnd, JournalError> {
        loop {
            self.launch();
            self.check_if_due();
            if self.ended && self.is_done() {
                return Ok(JournalEnd { complete: true, ..JournalEnd::default() });
            }
            match self.step(&deadline).await {
                Step::Landed(landed) => self.land(landed?),
                Step::Checked(successor) => self.release(successor).await?,
                Step::Incoming(Some(pending)) => self.waiting.push_back(pending),
                Step::Incoming(None) => self.ended = true,
                Step::Suspicion => self.begin_check(),
                Step::Deadline => return Ok(self.left()),
            }
        }
    }

    async fn step(&mut self, deadline: &CancellationToken) -> Step {
        let check = OptionFuture::from(self.check.as_mut().map(|(_, check)| check));
        tokio::select! {
            biased;
            () = deadline.cancelled() => Step::Deadline,
            Some(successor) = check => Step::Checked(successor),
            Some(landed) = self.flight.next() => Step::Landed(landed),
            pending = self.incoming.recv(), if !self.ended => Step::Incoming(pending),
            () = self.upstream.suspicion.notified() => Step::Suspicion,
        }
    }

    fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.flight.is_empty() && self.unchecked.is_empty()
    }

    fn left(&self) -> JournalEnd {
        let waiting = self.waiting.iter().map(|pending| pending.file().bytes).sum::<u64>();
        let unchecked = self.unchecked.iter().map(|pending| pending.file().bytes).sum::<u64>();
        JournalEnd {
            complete: false,
            left_segments: (self.waiting.len() + self.flight.len() + self.unchecked.len()) as u64,
            left_bytes: waiting + self.flight_bytes + unchecked,
        }
    }

    /// Begins as many puts as may run.
    fn launch(&mut self) {
        while let Some(next) = self.waiting.front() {
            let bytes = next.file().bytes;
            let alone = self.flight.is_empty() && self.unchecked.is_empty();
            let room =
                self.flight.len() < PUTS_MAX && (self.flight.is_empty() || self.flight_bytes + bytes <= PUT_BYTES_MAX);
            let in_turn = match next {
                Pending::History { .. } => alone,
                Pending::Segment(segment) => alone || self.pages.continues(segment),
            };
            if !room || !in_turn || self.exclusive {
                return;
            }
            self.exclusive = is_exclusive(next);
            let upstream = Arc::clone(&self.upstream);
            let put = match self.waiting.pop_front() {
                Some(Pending::Segment(segment)) => put_segment(upstream, self.pages.assign(&segment), segment).boxed(),
                Some(Pending::History { file, start }) => put_history(upstream, file, start).boxed(),
                None => return,
            };
            self.flight_bytes += bytes;
            self.flight.push_back(put);
        }
    }

    fn land(&mut self, landed: Pending) {
        self.flight_bytes -= landed.file().bytes;
        if is_exclusive(&landed) {
            self.exclusive = false;
        }
        self.unchecked.push_back(landed);
    }

    fn check_if_due(&mut self) {
        let urgent = |pending: &Pending| match pending {
            Pending::History { .. } => true,
            Pending::Segment(segment) => segment.urgent,
        };
        // Whatever waits for its turn waits for what is not checked.
        let held_up = self.flight.is_empty() && (self.ended || !self.waiting.is_empty());
        let due = held_up || self.unchecked.len() >= UNCHECKED_MAX || self.unchecked.iter().any(urgent);
        if due && !self.unchecked.is_empty() {
            self.begin_check();
        }
    }

    fn begin_check(&mut self) {
        if self.check.is_none() {
            let upstream = Arc::clone(&self.upstream);
            let check = async move { upstream.successor().await }.boxed();
            self.check = Some((self.unchecked.len(), check));
        }
    }

    /// Takes what a look at the term covers for stored, in order, and out of the spool.
    async fn release(&mut self, successor: Option<TermClaim>) -> Result<(), JournalError> {
        let covered = self.check.take().map_or(0, |(covered, _)| covered);
        if let Some(claim) = successor {
            return Err(JournalError::Fenced(Box::new(claim)));
        }
        let now = self.upstream.clock.now();
        let mut files = Vec::with_capacity(covered);
        for pending in self.unchecked.drain(..covered) {
            if let Pending::Segment(segment) = &pending {
                self.upstream.board.stored(segment.end(), segment.read_until, now);
            }
            files.push(*pending.file());
        }
        self.remove(files).await
    }

    async fn remove(&mut self, files: Vec<Spooled>) -> Result<(), JournalError> {
        let Some(last) = files.last().map(|file| file.seq) else { return Ok(()) };
        let spool = Arc::clone(&self.upstream.spool);
        let remove = move || files.iter().try_for_each(|file| spool.remove(file));
        blocking(remove).await?;
        self.stored_seq.send_replace(last);
        Ok(())
    }
}

/// Whether nothing may overtake it: that it is missing would not show in the offsets.
fn is_exclusive(pending: &Pending) -> bool {
    pending.segment().is_none_or(|segment| segment.name.start == segment.name.end)
}

/// Runs file work on a thread for such.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is being shut down; so is whoever waits here.
            Err(_) => std::future::pending().await,
        },
    }
}

async fn put_segment(
    upstream: Arc<Upstream>,
    page: PageName,
    segment: PendingSegment,
) -> Result<Pending, JournalError> {
    let name = ObjectName::Segment(page, segment.name);
    let object = load(&upstream, &segment).await?;
    let put = upstream.persistence.until_answered(|| upstream.store.put_new(&name, object.clone())).await;
    if put != Put::Stored {
        return Err(upstream.conflict(&name).await);
    }
    upstream.pulse.put(segment.urgent);
    let source = upstream.store.name().to_string();
    metrics::counter!("redwind_segments_stored_total", "source" => source.clone()).increment(1);
    metrics::counter!("redwind_segment_bytes_stored_total", "source" => source).increment(object.len() as u64);
    Ok(Pending::Segment(segment))
}

/// Reads a segment from the spool; waits where no file can be opened.
async fn load(upstream: &Upstream, segment: &PendingSegment) -> Result<Bytes, JournalError> {
    loop {
        let (spool, segment, tenure) = (Arc::clone(&upstream.spool), segment.clone(), upstream.tenure.clone());
        match blocking(move || segment.load(&spool, &tenure)).await {
            Err(JournalError::Spool { source, .. }) if is_no_room(&source) => tokio::time::sleep(NO_ROOM_PAUSE).await,
            loaded => return loaded,
        }
    }
}

async fn put_history(
    upstream: Arc<Upstream>,
    file: Spooled,
    start: Box<HistoryStart>,
) -> Result<Pending, JournalError> {
    // A document cannot be taken back, so that one which a successor would have to ignore is better not
    // put at all.
    if let Some(claim) = upstream.successor().await {
        return Err(JournalError::Fenced(Box::new(claim)));
    }
    let name = ObjectName::History(start.history);
    let epoch = upstream.tenure.epoch.as_deref();
    match upstream.persistence.until_answered(|| upstream.store.put_signed(&name, start.as_ref(), epoch)).await {
        Put::Stored => Ok(Pending::History { file, start }),
        // Put by our last run, under its term, which ended before it knew.
        Put::Taken(found) if is_same_history(&found, &name, &start, epoch.is_some()) => {
            Ok(Pending::History { file, start })
        }
        Put::Taken(_) => Err(upstream.conflict(&name).await),
    }
}

/// The signature in an encrypted archive is another run's, which we cannot check.
fn is_same_history(found: &[u8], name: &ObjectName, start: &HistoryStart, encrypted: bool) -> bool {
    document::decode_signed::<HistoryStart>(found, name, &Keyring::closed(encrypted))
        .is_ok_and(|found| HistoryStart { term: start.term, ..found.document } == *start)
}
