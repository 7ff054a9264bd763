use redwind_archive::position::Position;
use redwind_archive::time::Timestamp;
use redwind_stream::{Framer, encode_command};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::advance;
use ulid::Ulid;

use super::*;
use crate::journal::{Batch, ResumePoint};

const START: Offset = Offset(1000);

fn history() -> HistoryId {
    HistoryId(Ulid::from_parts(1, 1))
}

/// One session of a reader, with a server and a journal that the test plays.
struct Rig {
    server: DuplexStream,
    entries: mpsc::Receiver<Entry>,
    sender: &'static EntrySender,
    progress: watch::Sender<Progress>,
    spool: watch::Sender<SpoolUsage>,
    signals: Arc<MonitorSignals>,
    session: CancellationToken,
    stop: CancellationToken,
    reader: JoinHandle<Result<Ended, JournalError>>,
}

impl Rig {
    fn new() -> Self {
        Self::resumed(START, Framer::new(None).state(), Duration::ZERO)
    }

    /// A session that goes on at `offset`, after so long an absence.
    fn resumed(offset: Offset, framer: FramerState, absence: Duration) -> Self {
        let clock = Arc::new(Clock::new());
        let point = ResumePoint {
            position: Position { history: history(), offset },
            framer: framer.clone(),
            replication_ids: Vec::new(),
            read_until: Timestamp(0),
            has_snapshot: true,
            damaged: false,
        };
        let (sender, entries) = EntrySender::for_tests(Some(point));
        let sender: &'static EntrySender = Box::leak(Box::new(sender));
        sender.received().reset(offset);
        let durable = Progress { history: Some(history()), durable: Some(offset), ..Progress::default() };
        let progress = watch::Sender::new(durable);
        let spool = watch::Sender::new(SpoolUsage::default());
        let context = ReaderContext {
            clock: Arc::clone(&clock),
            progress: progress.subscribe(),
            spool: spool.subscribe(),
            link: LinkStateSender::new(clock.now()),
            flush: Arc::new(Notify::new()),
            flush_interval: Duration::from_secs(1),
            getack_interval: Duration::from_millis(100),
            getacks: Counter::noop(),
            bytes: Counter::noop(),
        };
        let now = Moment::now(&clock);
        let seen_empty = Moment { time: now.time.before(absence), ..now };
        let start = SessionStart { history: history(), offset, framer, seen_empty, kept_until: None };
        let (signals, session, stop) = (MonitorSignals::new(), CancellationToken::new(), CancellationToken::new());
        let (server, stream) = duplex(1 << 20);
        let probe = SocketProbe::none();
        let reader = LogReader::new(context, sender, Arc::clone(&signals), probe, session.clone(), start);
        let stopping = stop.clone();
        let reader = tokio::spawn(async move { reader.follow(stream, BytesMut::new(), &stopping).await });
        Self { server, entries, sender, progress, spool, signals, session, stop, reader }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.server.write_all(bytes).await.unwrap();
    }

    async fn next(&mut self) -> Entry {
        self.entries.recv().await.unwrap()
    }

    async fn batch(&mut self) -> Batch {
        match self.next().await {
            Entry::Append(batch) => batch,
            other => panic!("a batch was expected, not {other:?}"),
        }
    }

    async fn seal(&mut self) {
        let entry = self.next().await;
        assert!(matches!(entry, Entry::Seal { .. }), "{entry:?}");
    }

    fn assert_nothing_handed_over(&mut self) {
        let entry = self.entries.try_recv();
        assert!(entry.is_err(), "{entry:?}");
    }

    /// Lets the session end, and takes what it still hands over.
    async fn end(mut self) -> (Ended, Vec<Batch>) {
        let ended = tokio::time::timeout(Duration::from_secs(300), &mut self.reader).await;
        let ended = ended.expect("the session ends").unwrap().unwrap();
        let mut batches = Vec::new();
        while let Ok(entry) = self.entries.try_recv() {
            if let Entry::Append(batch) = entry {
                batches.push(batch);
            }
        }
        (ended, batches)
    }
}

fn command(args: &[&str]) -> Vec<u8> {
    let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
    encode_command(&args)
}

fn set(length: usize) -> Vec<u8> {
    command(&["SET", "key", &"v".repeat(length)])
}

fn getack() -> Vec<u8> {
    command(&["REPLCONF", "GETACK", "*"])
}

/// Lets `duration` pass in small steps, so that every timer fires in its time.
async fn pass(duration: Duration) {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        advance(Duration::from_millis(1)).await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_is_flushed_a_second_after_it_came() {
    let mut rig = Rig::new();
    rig.send(&set(10)).await;
    pass(Duration::from_millis(600)).await;
    rig.send(&set(20)).await;
    pass(Duration::from_millis(350)).await;
    rig.assert_nothing_handed_over();
    let batch = rig.batch().await;
    assert_eq!((batch.start, batch.writes, batch.late_since), (START, 2, None));
    rig.seal().await;
    assert_eq!(rig.sender.received().offset(), batch.end());
}

#[tokio::test(start_paused = true)]
async fn pings_alone_are_flushed_once_a_minute() {
    let mut rig = Rig::new();
    for _ in 0..5 {
        rig.send(&command(&["PING"])).await;
        pass(Duration::from_secs(10)).await;
    }
    rig.assert_nothing_handed_over();
    pass(Duration::from_secs(11)).await;
    assert_eq!(rig.batch().await.records, 5);
    rig.seal().await;
    rig.assert_nothing_handed_over();
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_cut_by_a_flush_goes_with_the_next_one() {
    let mut rig = Rig::new();
    let (first, second) = (set(10), set(5000));
    rig.send(&[&first[..], &second[..700]].concat()).await;
    let batch = rig.batch().await;
    assert_eq!(batch.bytes, first);
    rig.seal().await;
    pass(Duration::from_secs(5)).await;
    rig.assert_nothing_handed_over();
    rig.send(&second[700..]).await;
    let batch = rig.batch().await;
    assert_eq!((&batch.bytes[..], batch.start), (&second[..], START.advance(first.len() as u64)));
    rig.seal().await;
}

#[tokio::test(start_paused = true)]
async fn a_record_of_any_size_leaves_in_full_batches_and_is_sealed_when_it_ends() {
    let mut rig = Rig::new();
    let huge = set(3 << 20);
    let mut received = Vec::new();
    let (but_end, end) = huge.split_at(huge.len() - 1);
    for piece in but_end.chunks(100_000) {
        rig.send(piece).await;
        pass(Duration::from_millis(50)).await;
        while let Ok(entry) = rig.entries.try_recv() {
            let Entry::Append(batch) = entry else { panic!("sealed within a record") };
            assert!(batch.bytes.len() <= 512 << 10);
            received.extend_from_slice(&batch.bytes);
        }
    }
    assert!(received.len() > 2 << 20);
    rig.send(end).await;
    let last = rig.batch().await;
    assert_eq!((last.records, last.writes), (1, 1));
    received.extend_from_slice(&last.bytes);
    assert_eq!(received, huge);
    rig.seal().await;
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_getacks_is_one_flush_until_that_is_durable() {
    let mut rig = Rig::new();
    let wait = [set(10), getack()].concat();
    let mut end = START;
    for _ in 0..200 {
        rig.send(&wait).await;
        end = end.advance(wait.len() as u64);
        pass(Duration::from_millis(3)).await;
    }
    let first = rig.batch().await;
    assert!(first.end() < end);
    rig.seal().await;
    rig.assert_nothing_handed_over();

    let before = Instant::now();
    rig.progress.send_modify(|progress| progress.durable = Some(first.end()));
    let second = rig.batch().await;
    assert_eq!(second.end(), end);
    rig.seal().await;
    assert!(before.elapsed() < Duration::from_millis(100), "{:?}", before.elapsed());
    // Too soon after the last one, although that is durable already.
    rig.progress.send_modify(|progress| progress.durable = Some(second.end()));
    let before = Instant::now();
    rig.send(&wait).await;
    rig.batch().await;
    assert!(before.elapsed() >= Duration::from_millis(90), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn getack_is_no_reason_to_flush_before_the_first_snapshot() {
    let mut rig = Rig::new();
    rig.progress.send_modify(|progress| progress.durable = None);
    rig.send(&[set(10), getack()].concat()).await;
    pass(Duration::from_millis(900)).await;
    rig.assert_nothing_handed_over();
    rig.batch().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_written_while_we_were_away_is_late_until_the_socket_is_empty() {
    let mut rig = Rig::resumed(START, Framer::new(None).state(), Duration::from_secs(30));
    rig.send(&set(10)).await;
    let late = rig.batch().await;
    assert!(late.late_since.is_some());
    // The first ends the blur's segment, the second tells that it is over.
    rig.seal().await;
    rig.seal().await;
    rig.send(&set(20)).await;
    let live = rig.batch().await;
    assert_eq!((live.start, live.late_since), (late.end(), None));
}

#[tokio::test(start_paused = true)]
async fn a_short_absence_or_one_without_writes_is_no_blur() {
    let mut rig = Rig::resumed(START, Framer::new(None).state(), Duration::from_millis(400));
    rig.send(&set(10)).await;
    assert_eq!(rig.batch().await.late_since, None);

    let mut rig = Rig::resumed(START, Framer::new(None).state(), Duration::from_secs(30));
    rig.send(&command(&["PING"])).await;
    pass(Duration::from_millis(10)).await;
    rig.send(&set(10)).await;
    let batch = rig.batch().await;
    assert_eq!((batch.records, batch.late_since), (2, None));
}

#[tokio::test(start_paused = true)]
async fn what_comes_after_the_network_was_in_doubt_is_late() {
    let mut rig = Rig::new();
    let asking = tokio::spawn({
        let signals = Arc::clone(&rig.signals);
        async move { signals.ask(std::future::pending::<Result<(), _>>()).await }
    });
    pass(Duration::from_secs(4)).await;
    rig.send(&set(10)).await;
    pass(Duration::from_secs(2)).await;
    assert!(rig.batch().await.late_since.is_some(), "it may have been sent seconds ago");
    asking.abort();
}

#[tokio::test(start_paused = true)]
async fn what_waited_while_the_disk_held_us_up_is_late() {
    let mut rig = Rig::new();
    pass(Duration::from_millis(200)).await;
    while rig.entries.len() < 8 {
        rig.sender.send(Entry::Seal { read_until: Timestamp(1) }).await.unwrap();
    }
    rig.send(&set(700 << 10)).await;
    pass(Duration::from_millis(800)).await;
    rig.send(&[set(10), set(20)].concat()).await;
    for _ in 0..8 {
        rig.seal().await;
    }
    assert_eq!(rig.batch().await.late_since, None);
    let late = rig.batch().await;
    assert!(late.late_since.is_some());
    assert_eq!(late.records, 3);
    rig.seal().await;
    rig.seal().await;
    rig.send(&set(10)).await;
    assert_eq!(rig.batch().await.late_since, None);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_stands_still_costs_the_link_but_no_byte() {
    let mut rig = Rig::new();
    for _ in 0..8 {
        rig.sender.send(Entry::Seal { read_until: Timestamp(1) }).await.unwrap();
    }
    rig.send(&set(10)).await;
    pass(Duration::from_secs(7)).await;
    assert!(rig.session.is_cancelled());
    for _ in 0..8 {
        rig.seal().await;
    }
    assert_eq!(rig.batch().await.bytes, set(10));
    let (ended, _) = rig.end().await;
    assert!(matches!(ended, Ended::DiskStalled), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_full_spool_ends_the_session_after_what_has_been_read() {
    let mut rig = Rig::new();
    rig.send(&set(10)).await;
    pass(Duration::from_millis(10)).await;
    rig.spool.send_modify(|usage| usage.full = true);
    let (ended, batches) = rig.end().await;
    assert!(matches!(ended, Ended::SpoolFull), "{ended:?}");
    assert_eq!(batches.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_exits_is_read_to_its_last_byte() {
    let mut rig = Rig::new();
    let last = [set(10), getack()].concat();
    let end = START.advance(last.len() as u64);
    rig.signals.shutdown.send_replace(Some(end));
    pass(Duration::from_millis(500)).await;
    assert!(!rig.reader.is_finished());
    rig.send(&last).await;
    let (ended, batches) = rig.end().await;
    assert!(matches!(ended, Ended::ServerExits), "{ended:?}");
    assert_eq!(batches.last().unwrap().end(), end);
}

#[tokio::test(start_paused = true)]
async fn silence_ends_the_session_unless_nothing_is_known_to_be_missing() {
    let rig = Rig::new();
    let before = Instant::now();
    let (ended, _) = rig.end().await;
    assert!(matches!(ended, Ended::Silent), "{ended:?}");
    assert!(before.elapsed() >= silence::SILENCE_MAX);

    let rig = Rig::new();
    for _ in 0..30 {
        rig.signals.seen.send_replace(Some((START, Instant::now())));
        pass(Duration::from_secs(5)).await;
    }
    assert!(!rig.reader.is_finished());
    rig.stop.cancel();
    assert!(matches!(rig.end().await.0, Ended::Stopped));
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_stream_end_the_session_after_the_records_before_them() {
    let mut rig = Rig::new();
    rig.send(&[&set(10)[..], b"+OK\r\n"].concat()).await;
    let (ended, batches) = rig.end().await;
    assert!(matches!(ended, Ended::Broken(_)), "{ended:?}");
    assert_eq!(batches.iter().map(|batch| batch.bytes.len()).sum::<usize>(), set(10).len());
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_cut_anywhere_leaves_the_same_stream() {
    let stream = [
        command(&["SELECT", "2"]),
        set(10),
        command(&["MULTI"]),
        command(&["SELECT", "3"]),
        set(5),
        command(&["EXEC"]),
        command(&["PING"]),
        getack(),
        set(30),
    ]
    .concat();
    for cut in 0..=stream.len() {
        let mut out = Vec::new();
        let (mut offset, mut framer) = (START, Framer::new(None).state());
        while out.len() < stream.len() {
            let mut rig = Rig::resumed(offset, framer.clone(), Duration::ZERO);
            let until = if out.is_empty() && cut > 0 { cut.max(1) } else { stream.len() };
            rig.send(&stream[out.len()..until]).await;
            let server = std::mem::replace(&mut rig.server, duplex(1).0);
            drop(server);
            let (ended, batches) = rig.end().await;
            assert!(matches!(ended, Ended::Closed), "{ended:?}");
            for batch in &batches {
                assert_eq!(batch.start, offset);
                out.extend_from_slice(&batch.bytes);
                (offset, framer) = (batch.end(), batch.framer_end.clone());
            }
            if out.is_empty() {
                // Nothing whole came: the next session gets it all.
                let mut rig = Rig::resumed(offset, framer.clone(), Duration::ZERO);
                rig.send(&stream).await;
                let server = std::mem::replace(&mut rig.server, duplex(1).0);
                drop(server);
                let batch = rig.end().await.1.remove(0);
                out.extend_from_slice(&batch.bytes);
            }
        }
        assert_eq!(out, stream, "cut at {cut}");
    }
}
