//! An archive of a month, of which nothing is kept: names follow from arithmetic, and objects are
//! made when they are read.
//!
//! One segment a second, each holding one command, in pages of a thousand; a snapshot every so many
//! seconds. It can be listed and planned over. It cannot be replayed: a segment names no predecessor,
//! because its checksum would take the making of every segment before it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use super::{Read, Writer, at, command};
use crate::documents::Cause;
use crate::layout::{ObjectName, PageName, Reading, SEGMENTS_PER_PAGE, SegmentName};
use crate::position::{HistoryId, Offset};
use crate::store::{SourceStore, Store};
use crate::time::Timestamp;

/// Most names in the answer to one listing request, on S3, GCS and Azure.
const NAMES_PER_LISTING: usize = 1000;
/// The folder of its source, as [`Store::source`] gives it for `default`.
const SOURCE: &str = "default";

/// The store; see the module. It counts the requests that a bucket would have been sent.
#[derive(Debug)]
pub struct SyntheticArchive {
    segments: u64,
    history: HistoryId,
    /// A writer that has begun the history and written nothing yet.
    writer: Writer,
    /// Everything but the segments.
    documents: InMemory,
    record_bytes: u64,
    segment_bytes: u64,
    requests: AtomicU64,
}

impl SyntheticArchive {
    /// An archive of so many seconds, with a snapshot every `snapshot_every` seconds.
    ///
    /// # Errors
    /// When the documents cannot be kept in memory.
    pub async fn new(seconds: u64, snapshot_every: u64) -> object_store::Result<Arc<Self>> {
        let mut writer = Writer::create(0);
        let history = writer.begin_history(0, at(0.0), Cause::First);
        let record_bytes = record(0).len() as u64;
        for second in (0..seconds).step_by(snapshot_every.max(1) as usize) {
            writer.snapshot_at(Offset(second * record_bytes), arrival(second).before(TICK));
        }
        let documents = InMemory::new();
        for name in writer.objects.names() {
            let bytes = writer.objects.get(&name);
            documents.put(&Path::from(format!("{SOURCE}/{name}")), PutPayload::from(bytes)).await?;
        }
        let mut archive = Self {
            segments: seconds,
            history,
            writer,
            documents,
            record_bytes,
            segment_bytes: 0,
            requests: AtomicU64::new(0),
        };
        archive.segment_bytes = archive.segment(0).len() as u64;
        Ok(Arc::new(archive))
    }

    /// The archive as readers see it.
    #[must_use]
    pub fn source(self: &Arc<Self>) -> SourceStore {
        let client: Arc<dyn ObjectStore> = Arc::<Self>::clone(self);
        Store::over(client, "synthetic://").source(&SOURCE.parse().expect("a source's name"))
    }

    /// Requests so far; a listing counts once per thousand names.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// The instant at which the segment of that second arrived.
    #[must_use]
    pub fn arrival(second: u64) -> Timestamp {
        arrival(second)
    }

    /// The offset before the segment of that second.
    #[must_use]
    pub fn offset(&self, second: u64) -> Offset {
        Offset(second * self.record_bytes)
    }

    fn page(&self, number: u64) -> PageName {
        let first = number * u64::from(SEGMENTS_PER_PAGE);
        PageName {
            term: self.writer.term,
            number: number as u32,
            history: self.history,
            start: self.offset(first),
            time: arrival(first),
            reading: Reading::Live,
        }
    }

    fn name(&self, second: u64) -> SegmentName {
        SegmentName { start: self.offset(second), end: self.offset(second + 1), time: arrival(second) }
    }

    fn segment(&self, second: u64) -> Bytes {
        let mut writer = self.writer.clone();
        if let Some(log) = &mut writer.log {
            log.end = self.offset(second);
        }
        let (_, bytes) = writer.encode(&[Read { time: arrival(second), bytes: record(second) }], arrival(second));
        Bytes::from(bytes)
    }

    fn count(&self, names: usize) {
        self.requests.fetch_add(names.div_ceil(NAMES_PER_LISTING).max(1) as u64, Ordering::Relaxed);
    }

    /// The numbers of the seconds in a page; empty if there is no such page.
    fn seconds(&self, page: &PageName) -> std::ops::Range<u64> {
        let first = u64::from(page.number) * u64::from(SEGMENTS_PER_PAGE);
        let ours = *page == self.page(u64::from(page.number)) && first < self.segments;
        if ours { first..(first + u64::from(SEGMENTS_PER_PAGE)).min(self.segments) } else { 0..0 }
    }

    fn list_page(&self, page: &PageName) -> Vec<ObjectMeta> {
        let meta = |second| ObjectMeta {
            location: path(&ObjectName::Segment(page.clone(), self.name(second))),
            last_modified: Default::default(),
            size: self.segment_bytes,
            e_tag: None,
            version: None,
        };
        self.seconds(page).map(meta).collect()
    }

    fn list_pages(&self) -> Vec<Path> {
        let pages = self.segments.div_ceil(u64::from(SEGMENTS_PER_PAGE));
        (0..pages).map(|page| Path::from(format!("{SOURCE}/log/{}", self.page(page)))).collect()
    }

    /// The segment with that name, if it is one of the archive's.
    fn find(&self, location: &Path) -> Option<Bytes> {
        let name = ObjectName::parse(location.as_ref().strip_prefix(SOURCE)?.strip_prefix('/')?)?;
        let ObjectName::Segment(page, name) = name else { return None };
        let second = name.start.0 / self.record_bytes;
        let ours = self.seconds(&page).contains(&second) && name == self.name(second);
        ours.then(|| self.segment(second))
    }
}

const TICK: std::time::Duration = std::time::Duration::from_millis(500);

fn arrival(second: u64) -> Timestamp {
    at(1.0).after(std::time::Duration::from_secs(second))
}

fn record(second: u64) -> Vec<u8> {
    command(&format!("SET second {second:010}"))
}

fn path(name: &ObjectName) -> Path {
    Path::from(format!("{SOURCE}/{name}"))
}

impl fmt::Display for SyntheticArchive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a synthetic archive of {} segments", self.segments)
    }
}

fn read_only() -> object_store::Error {
    object_store::Error::NotSupported { source: "a synthetic archive is read only".into() }
}

#[async_trait::async_trait]
impl ObjectStore for SyntheticArchive {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.count(1);
        let Some(bytes) = self.find(location) else { return self.documents.get_opts(location, options).await };
        let made = InMemory::new();
        made.put(location, PutPayload::from(bytes)).await?;
        made.get_opts(location, options).await
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        let folder = prefix.map(ToString::to_string).unwrap_or_default();
        let listed = match folder.strip_prefix(SOURCE).and_then(|folder| folder.strip_prefix("/log")) {
            Some("") => {
                ListResult { common_prefixes: self.list_pages(), objects: Vec::new(), extensions: Default::default() }
            }
            Some(_) => {
                let page = prefix.and_then(crate::layout::page_of);
                let objects = page.map_or_else(Vec::new, |page| self.list_page(&page));
                ListResult { common_prefixes: Vec::new(), objects, extensions: Default::default() }
            }
            None => self.documents.list_with_delimiter(prefix).await?,
        };
        self.count(listed.objects.len() + listed.common_prefixes.len());
        Ok(listed)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.documents.list(prefix)
    }

    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> object_store::Result<PutResult> {
        Err(read_only())
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        Err(read_only())
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        stream::once(async { Err(read_only()) }).boxed()
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> object_store::Result<()> {
        Err(read_only())
    }
}
