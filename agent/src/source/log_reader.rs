//! The hot path: reads the log connection and hands what it read to the journal.
//!
//! One reader lives for one link session. It reads into the batch itself, scans in place, stamps
//! every read, and hands batches over when they are full or a flush is due. It waits for the disk
//! only when that is far behind (through the journal's short queue), and never for the store. Its promises:
//! - batches follow each other without a hole, and end between records where they can;
//! - what was read late is marked as such: see [`Attention`];
//! - an unfinished record is kept until it ends; when the link is lost first, it is read again;
//! - when the session ends, for whatever reason, all whole records have been handed over and the
//!   segment has been ended.
//!
//! **Gathering.** After a read that emptied the socket the reader waits two milliseconds before the next
//! one, with nobody watching the socket: small writes gather, which more than halves the CPU time of both
//! sides under unpipelined load.

mod collector;
mod flush_schedule;
mod silence;

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use metrics::Counter;
use redwind_archive::position::{HistoryId, Offset};
use redwind_archive::time::Clock;
use redwind_stream::{FrameError, FramerState};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use self::collector::{Arrived, Collector, Extent, ROOM_MIN};
use self::flush_schedule::FlushSchedule;
use super::attention::{Attention, Moment};
use super::link_state::LinkStateSender;
use super::monitor::MonitorSignals;
use super::socket_probe::SocketProbe;
use crate::journal::{Entry, EntrySender, JournalError, Progress, SpoolUsage};

/// See the module.
const GATHER: Duration = Duration::from_millis(2);
/// Between two looks whether the socket is still empty.
const HEARTBEAT: Duration = Duration::from_millis(100);
/// A server that is shutting down has its last bytes on the way; waiting longer would only delay it.
const LAST_BYTES_WAIT: Duration = Duration::from_secs(2);
/// A disk that takes nothing for so long must not become the server's problem.
const STALL_MAX: Duration = Duration::from_secs(5);

/// Why a link session ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// We were told to stop.
    Stopped,
    /// The server closed the connection.
    Closed,
    /// The connection broke.
    Lost(io::Error),
    /// Nothing has come for too long: see [`silence`].
    Silent,
    /// The spool is full: better no link than one that is not read.
    SpoolFull,
    /// The disk takes nothing: likewise.
    DiskStalled,
    /// The server is shutting down, and everything it had to say has been read.
    ServerExits,
    /// Bytes that are no replication stream.
    Broken(FrameError),
}

/// What a reader works with; the same in every session.
#[derive(Clone, Debug)]
pub(super) struct ReaderContext {
    pub(super) clock: Arc<Clock>,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) spool: watch::Receiver<SpoolUsage>,
    pub(super) link: LinkStateSender,
    /// Somebody of ours waits for what has been read so far to become durable.
    pub(super) flush: Arc<Notify>,
    pub(super) flush_interval: Duration,
    pub(super) getack_interval: Duration,
    pub(super) getacks: Counter,
    pub(super) bytes: Counter,
}

/// Where a session begins.
#[derive(Clone, Debug)]
pub(super) struct SessionStart {
    pub(super) history: HistoryId,
    pub(super) offset: Offset,
    pub(super) framer: FramerState,
    /// When everything before `offset` was known to be all.
    pub(super) seen_empty: Moment,
    /// Where the server's stream ended before the session, if it goes on with a history that an
    /// earlier one followed.
    pub(super) kept_until: Option<Offset>,
}

/// See the module.
pub(super) struct LogReader<'a> {
    context: ReaderContext,
    sender: &'a EntrySender,
    signals: Arc<MonitorSignals>,
    probe: SocketProbe,
    /// Ends the session for everybody when the disk stalls, so that the connection closes.
    session: CancellationToken,
    history: HistoryId,
    collector: Collector,
    attention: Attention,
    schedule: FlushSchedule,
    last_read: Instant,
    /// What the server had kept for us ends here.
    kept_until: Offset,
    /// Batches have been handed over since the segment was last ended.
    unsealed: bool,
    /// Late batches have been handed over since the socket was last empty.
    late_handed: bool,
    /// What the journal was told last of the server's clock.
    clock_offset: Option<i64>,
    /// The server's last byte, and until when to wait for it.
    last_byte: Option<(Offset, Instant)>,
    spool_full: bool,
    stalled: bool,
}

enum Event {
    Stop,
    Read(io::Result<usize>),
    Flush,
    Durable,
    Exits(Option<Offset>),
    Tick,
}

impl<'a> LogReader<'a> {
    pub(super) fn new(
        context: ReaderContext,
        sender: &'a EntrySender,
        signals: Arc<MonitorSignals>,
        probe: SocketProbe,
        session: CancellationToken,
        start: SessionStart,
    ) -> Self {
        let now = Moment::now(&context.clock);
        Self {
            schedule: FlushSchedule::new(context.flush_interval, context.getack_interval, now.instant),
            collector: Collector::new(start.offset, start.framer, now, sender.buffer()),
            attention: Attention::new(start.seen_empty, start.kept_until.is_some()),
            kept_until: start.kept_until.unwrap_or_default(),
            history: start.history,
            last_read: now.instant,
            unsealed: false,
            late_handed: false,
            clock_offset: context.link.clock_offset(),
            last_byte: None,
            spool_full: false,
            stalled: false,
            context,
            sender,
            signals,
            probe,
            session,
        }
    }

    /// Reads until the session ends, `early` first, which had come with an earlier answer.
    ///
    /// # Errors
    /// The journal has ended.
    pub(super) async fn follow(
        mut self,
        mut stream: impl AsyncRead + Unpin,
        early: BytesMut,
        stop: &CancellationToken,
    ) -> Result<Ended, JournalError> {
        let ended = match self.take_early(&early).await? {
            Some(ended) => ended,
            None => self.read(&mut stream, stop).await?,
        };
        self.finish(&ended).await?;
        Ok(ended)
    }

    async fn take_early(&mut self, early: &[u8]) -> Result<Option<Ended>, JournalError> {
        for piece in early.chunks(ROOM_MIN) {
            self.make_room().await?;
            self.collector.put(piece);
            if let Some(ended) = self.took(piece.len()).await? {
                return Ok(Some(ended));
            }
        }
        Ok(None)
    }

    async fn read(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        stop: &CancellationToken,
    ) -> Result<Ended, JournalError> {
        let signals = Arc::clone(&self.signals);
        let flush = Arc::clone(&self.context.flush);
        let mut exits = signals.shutdown.subscribe();
        exits.mark_changed();
        let mut stopped = pin!(stop.cancelled());
        let mut tick = pin!(sleep_until(Instant::now()));
        loop {
            self.make_room().await?;
            tick.as_mut().reset(self.schedule.due_at().min(Instant::now() + HEARTBEAT));
            let mut room = self.collector.room();
            let asked = room.limit();
            let event = tokio::select! {
                biased;
                () = &mut stopped => Event::Stop,
                read = stream.read_buf(&mut room) => Event::Read(read),
                () = flush.notified() => Event::Flush,
                Ok(()) = exits.changed() => Event::Exits(*exits.borrow_and_update()),
                Ok(()) = self.context.progress.changed(), if self.schedule.awaits_durable() => Event::Durable,
                () = &mut tick => Event::Tick,
            };
            let short = matches!(event, Event::Read(Ok(count)) if count < asked);
            if let Some(ended) = self.handle(event).await? {
                return Ok(ended);
            }
            if short && self.look().await? {
                sleep(GATHER).await;
            }
        }
    }

    async fn handle(&mut self, event: Event) -> Result<Option<Ended>, JournalError> {
        match event {
            Event::Stop => return Ok(Some(Ended::Stopped)),
            Event::Read(Ok(0)) => return Ok(Some(Ended::Closed)),
            Event::Read(Err(error)) => return Ok(Some(Ended::Lost(error))),
            Event::Read(Ok(count)) => {
                if let Some(ended) = self.took(count).await? {
                    return Ok(Some(ended));
                }
            }
            Event::Flush if self.unsealed || self.collector.has_records() => self.schedule.ask(),
            Event::Flush | Event::Durable => {}
            Event::Exits(end) => self.last_byte = end.map(|end| (end, Instant::now() + LAST_BYTES_WAIT)),
            Event::Tick => {
                self.look().await?;
            }
        }
        self.flush_if_due().await?;
        Ok(self.ended())
    }

    /// Takes in what has just been read.
    async fn took(&mut self, count: usize) -> Result<Option<Ended>, JournalError> {
        let now = Moment::now(&self.context.clock);
        self.last_read = now.instant;
        self.context.bytes.increment(count as u64);
        self.enter_lateness(now).await?;
        let arrived = match self.collector.scan(now) {
            Ok(arrived) => arrived,
            Err(error) => return Ok(Some(Ended::Broken(error))),
        };
        self.note(arrived);
        self.sender.received().raise(self.collector.end(), now.time);
        self.sender.received().set_unsent_write(self.collector.first_write());
        Ok(None)
    }

    fn note(&mut self, arrived: Arrived) {
        if let Some(since) = arrived.write_since {
            self.schedule.wrote(since);
        }
        if arrived.getacks > 0 {
            self.context.getacks.increment(arrived.getacks);
            self.signals.getack.notify_one();
            // Until there is a snapshot nothing is acknowledged, so that a flush would not help.
            if self.settled().1 {
                self.schedule.ask();
            }
        }
    }

    /// How far the stream is safe, and whether that can be acknowledged.
    fn settled(&self) -> (Offset, bool) {
        let progress = self.context.progress.borrow();
        match (progress.history == Some(self.history), progress.durable) {
            (false, _) => (Offset(0), false),
            (true, Some(durable)) => (durable, true),
            (true, None) => (progress.stored, false),
        }
    }

    /// If the socket is empty, the server has no more for us than was read, and the network brings what is
    /// sent, then everything that came before has been read, and what comes next will not be late.
    async fn look(&mut self) -> Result<bool, JournalError> {
        let empty = self.probe.is_empty();
        if empty && self.collector.end() >= self.owed_until() && !self.signals.is_in_doubt(Instant::now()) {
            self.attention.empty(Moment::now(&self.context.clock));
            self.leave_lateness().await?;
        }
        Ok(empty)
    }

    /// How far the server's stream is known to reach. On a slow link the socket is empty again and
    /// again before all of that has come.
    fn owed_until(&self) -> Offset {
        let seen = self.signals.seen.borrow().map(|(end, _)| end);
        self.kept_until.max(seen.unwrap_or_default())
    }

    /// What has just been read may be late, while what was here before it is not.
    async fn enter_lateness(&mut self, now: Moment) -> Result<(), JournalError> {
        let late_since = self.attention.read(now);
        if late_since == self.collector.late_since() {
            return Ok(());
        }
        self.hand_over(Extent::Records).await?;
        self.collector.set_late_since(late_since);
        self.late_handed = false;
        let offset = self.collector.start();
        self.context.link.update(|state| state.late_since = late_since.map(|since| (since, offset)));
        Ok(())
    }

    /// What is here was late, what comes next is not. Where no write came late, nothing did.
    async fn leave_lateness(&mut self) -> Result<(), JournalError> {
        if self.collector.late_since().is_none() {
            return Ok(());
        }
        let was_late = self.late_handed || self.collector.has_writes();
        if was_late {
            self.flush().await?;
        }
        self.collector.set_late_since(None);
        self.late_handed = false;
        self.context.link.update(|state| state.late_since = None);
        if was_late {
            // An empty live segment bounds the blur, even if nothing comes for long.
            self.send(Entry::Seal { read_until: self.attention.read_until() }).await?;
        }
        Ok(())
    }

    async fn make_room(&mut self) -> Result<(), JournalError> {
        if self.collector.is_full() {
            self.hand_over(Extent::Records).await?;
        }
        if self.collector.is_full() {
            self.hand_over(Extent::Everything).await?;
        }
        Ok(())
    }

    async fn flush_if_due(&mut self) -> Result<(), JournalError> {
        if self.schedule.awaits_durable() {
            let (settled, _) = self.settled();
            self.schedule.durable(settled);
        }
        if self.schedule.due_at() <= Instant::now() { self.flush().await } else { Ok(()) }
    }

    /// Ends the segment after the last whole record.
    async fn flush(&mut self) -> Result<(), JournalError> {
        self.hand_over(Extent::Records).await?;
        self.send(Entry::Seal { read_until: self.attention.read_until() }).await?;
        self.unsealed = false;
        self.schedule.sealed(self.collector.start(), Instant::now());
        self.tell_clock().await
    }

    /// Tells the journal when the clocks have moved apart, so that the next segment says so.
    async fn tell_clock(&mut self) -> Result<(), JournalError> {
        let offset = self.context.link.clock_offset();
        if std::mem::replace(&mut self.clock_offset, offset) == offset {
            return Ok(());
        }
        self.send(Entry::ClockOffset(offset)).await
    }

    async fn hand_over(&mut self, extent: Extent) -> Result<(), JournalError> {
        if extent == Extent::Records && !self.collector.has_records() {
            return Ok(());
        }
        let Some(batch) = self.collector.take(extent, self.sender.buffer()) else { return Ok(()) };
        self.unsealed = true;
        self.late_handed |= batch.late_since.is_some();
        self.send(Entry::Append(batch)).await?;
        self.sender.received().set_unsent_write(self.collector.first_write());
        self.spool_full |= self.context.spool.borrow().full;
        Ok(())
    }

    /// Hands an entry over. When the disk holds that up for too long, the session is ended for the
    /// server's sake, while we go on waiting: an entry once begun must arrive.
    async fn send(&mut self, entry: Entry) -> Result<(), JournalError> {
        let mut sending = pin!(self.sender.send(entry));
        match timeout(STALL_MAX, &mut sending).await {
            Ok(outcome) => outcome,
            Err(_) => {
                self.stalled = true;
                self.session.cancel();
                sending.await
            }
        }
    }

    /// Whether there is a reason to end the session by now.
    fn ended(&self) -> Option<Ended> {
        let now = Instant::now();
        if self.stalled {
            return Some(Ended::DiskStalled);
        }
        if self.spool_full {
            return Some(Ended::SpoolFull);
        }
        if self.last_byte.is_some_and(|(end, deadline)| self.collector.end() >= end || now >= deadline) {
            return Some(Ended::ServerExits);
        }
        let seen = *self.signals.seen.borrow();
        silence::is_dead(now, self.last_read, self.collector.end(), seen).then_some(Ended::Silent)
    }

    /// Hands over the last whole records, and tells until when nothing was missed.
    async fn finish(&mut self, ended: &Ended) -> Result<(), JournalError> {
        if matches!(ended, Ended::Stopped | Ended::SpoolFull) {
            self.look().await?;
        }
        self.context.link.update(|state| state.late_since = None);
        self.flush().await
    }
}

#[cfg(test)]
mod tests;
