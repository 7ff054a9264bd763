//! The stream from a snapshot to the cut: its segments in order, each checked by itself and against
//! the one before, the relative expiries of old servers made absolute.

use std::collections::VecDeque;

use bytes::Bytes;
use redwind_archive::chain::Chain;
use redwind_archive::documents::Marker;
use redwind_archive::keys::Keyring;
use redwind_archive::layout::ObjectName;
use redwind_archive::plan::{RestorePlan, SegmentRef};
use redwind_archive::position::Offset;
use redwind_archive::read::{self, ReadError};
use redwind_archive::segment::{Mark, Segment, SegmentHeader, Trailer};
use redwind_archive::store::{Advice, SourceStore};
use redwind_stream::ExpiryRewriter;

use super::buffers::Buffers;
use super::{Ahead, FetchError, MEMORY_BYTES, Memory, Piece, patiently};

/// Bytes of the stream, in order.
#[derive(Clone, Debug)]
pub struct StreamPiece {
    /// The bytes.
    pub piece: Piece,
    /// Whether a record is known to begin with them. Not every piece that begins between records
    /// says so.
    pub begins_record: bool,
}

/// The stream from a snapshot's offset to a plan's cut.
pub struct StreamReader {
    segments: Ahead<Decoded>,
    store: SourceStore,
    /// Offset before the next byte to give out.
    at: Offset,
    cut: Offset,
    chain: Chain,
    /// The segment taken last.
    before: Option<String>,
    rewriter: Option<ExpiryRewriter>,
    ready: VecDeque<StreamPiece>,
    /// The clock offset that the last segment recorded.
    clock_offset: Option<i64>,
}

/// A segment, checked by itself and decompressed.
struct Decoded {
    object: String,
    header: SegmentHeader,
    trailer: Trailer,
    blocks: Vec<DecodedBlock>,
}

struct DecodedBlock {
    start: Offset,
    piece: Piece,
    /// Empty when the plan needs no arrival times.
    marks: Vec<Mark>,
}

impl StreamReader {
    /// Begins to read. `rewrite` makes relative expiries absolute on the source's clock, which
    /// streams of servers before 7.0 need.
    #[must_use]
    pub fn start(store: &SourceStore, plan: &RestorePlan, rewrite: bool) -> Self {
        let jobs = plan.segments.clone().into_iter().map(|segment| {
            let raw = segment.name.end.since(segment.name.start);
            (segment.stored.saturating_add(raw), segment)
        });
        let archive = Archive { store: store.clone(), marker: plan.marker.clone(), keys: plan.keys.clone() };
        let buffers = Buffers::default();
        let segments = Ahead::start(jobs, move |segment, memory| {
            decode(archive.clone(), buffers.clone(), segment, rewrite, memory)
        });
        Self {
            segments,
            store: store.clone(),
            at: plan.snapshot.position.offset,
            cut: plan.cut.offset,
            chain: Chain::new(),
            before: None,
            rewriter: rewrite.then(ExpiryRewriter::new),
            ready: VecDeque::new(),
            clock_offset: None,
        }
    }

    /// The next bytes; `None` at the cut.
    ///
    /// # Errors
    /// When a segment is missing, damaged, or not the continuation of the one before, or the store
    /// fails.
    pub async fn next(&mut self) -> Result<Option<StreamPiece>, FetchError> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            if self.at >= self.cut {
                return Ok(None);
            }
            match self.segments.next().await.transpose()? {
                Some(segment) => self.take(segment).await?,
                None => return Err(FetchError::Short { end: self.at.0, cut: self.cut.0 }),
            }
        }
    }

    /// The source's clock minus the agent's in microseconds, as the last segment given out recorded
    /// it.
    #[must_use]
    pub fn clock_offset(&self) -> Option<i64> {
        self.clock_offset
    }

    async fn take(&mut self, segment: Decoded) -> Result<(), FetchError> {
        self.check_link(&segment)?;
        self.clock_offset = segment.header.clock_offset.or(self.clock_offset);
        let mut begins_record = segment.header.framer.record_bytes() == 0;
        for mut block in segment.blocks {
            let end = block.start.advance(block.piece.bytes.len() as u64);
            if end <= self.at || block.start >= self.cut {
                continue;
            }
            // A snapshot stands between records.
            begins_record |= self.at > block.start || self.before.is_none();
            let from = self.at.since(block.start) as usize;
            let to = self.cut.min(end).since(block.start) as usize;
            let bytes = block.piece.bytes.slice(from..to);
            self.at = block.start.advance(to as u64);
            block.piece.bytes = match self.rewriter.take() {
                None => bytes,
                Some(rewriter) => {
                    let first = block.start.advance(from as u64);
                    let clock_offset = self.clock_offset.unwrap_or_default();
                    let (rewriter, bytes) = rewrite(rewriter, bytes, first, block.marks, clock_offset)
                        .await?
                        .map_err(|source| FetchError::Stream { object: segment.object.clone(), source })?;
                    self.rewriter = Some(rewriter);
                    bytes
                }
            };
            self.ready.push_back(StreamPiece { piece: block.piece, begins_record });
            begins_record = false;
        }
        self.before = Some(segment.object);
        Ok(())
    }

    fn check_link(&mut self, segment: &Decoded) -> Result<(), FetchError> {
        let start = segment.header.start;
        if self.before.is_none() && start > self.at {
            let object = segment.object.clone();
            return Err(FetchError::AfterSnapshot { object, start: start.0, snapshot: self.at.0 });
        }
        let before = || self.before.clone().unwrap_or_else(|| self.store.to_string());
        self.chain.push(&segment.header, &segment.trailer).map_err(|source| FetchError::Chain {
            object: segment.object.clone(),
            before: before(),
            source,
        })
    }
}

/// What segments are read from.
#[derive(Clone)]
struct Archive {
    store: SourceStore,
    marker: Marker,
    keys: Keyring,
}

async fn decode(
    archive: Archive,
    buffers: Buffers,
    segment: SegmentRef,
    with_marks: bool,
    memory: Memory,
) -> Result<Decoded, FetchError> {
    let SegmentRef { page, name, .. } = segment;
    let Archive { store, marker, keys } = archive;
    let may_retry = |error: &ReadError| matches!(error, ReadError::Store(error) if error.advice() == Advice::Retry);
    let fetched = patiently(|| read::fetch(&store, &page, &name, |bytes| buffers.take(bytes)), may_retry);
    let bytes = buffers.lend(fetched.await?);
    let lender = buffers.clone();
    let decoding = buffers.decode(move || {
        let object = store.describe(&ObjectName::Segment(page.clone(), name));
        let segment = read::decode(&store, &marker, &keys, &page, &name, &bytes)?;
        decompress(segment, &lender, object, with_marks, &memory)
    });
    decoding.await?
}

fn decompress(
    segment: Segment,
    buffers: &Buffers,
    object: String,
    with_marks: bool,
    memory: &Memory,
) -> Result<Decoded, FetchError> {
    let damaged = |source| ReadError::Damaged { object: object.clone(), source };
    let length = segment.trailer.end.since(segment.header.start) as usize;
    let mut bytes = buffers.take(length.min(MEMORY_BYTES));
    segment.append_bytes(&mut bytes).map_err(damaged)?;
    let mut rest = buffers.lend(bytes);
    let mut blocks = Vec::with_capacity(segment.blocks.len());
    for block in &segment.blocks {
        let marks = if with_marks { block.marks().map_err(damaged)? } else { Vec::new() };
        let piece = Piece::new(rest.split_to(block.raw_bytes as usize), memory.clone());
        blocks.push(DecodedBlock { start: block.start, piece, marks });
    }
    Ok(Decoded { object, header: segment.header, trailer: segment.trailer, blocks })
}

type Rewritten = Result<(ExpiryRewriter, Bytes), redwind_stream::ExpiryError>;

/// Rewrites one block's bytes, which begin at `start`, each by its arrival on the source's clock.
async fn rewrite(
    mut rewriter: ExpiryRewriter,
    bytes: Bytes,
    start: Offset,
    marks: Vec<Mark>,
    clock_offset: i64,
) -> Result<Rewritten, FetchError> {
    let rewriting = move || {
        let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 8);
        let mut at = 0;
        for mark in marks {
            let to = (mark.end.since(start) as usize).min(bytes.len());
            if to > at {
                let micros = i64::try_from(mark.time.0).unwrap_or(i64::MAX).saturating_add(clock_offset);
                rewriter.push(&bytes[at..to], micros / 1000, &mut out)?;
                at = to;
            }
        }
        Ok((rewriter, Bytes::from(out)))
    };
    tokio::task::spawn_blocking(rewriting).await.map_err(FetchError::Task)
}
