use std::time::Duration;

use proptest::prelude::*;
use redwind_stream::encode_command;
use tokio::time::Instant;

use super::*;

/// A clock for tests: microseconds, by both clocks.
fn at(micros: u64) -> Moment {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    Moment { instant: start + Duration::from_micros(micros), time: Timestamp(micros) }
}

fn collector(start: u64) -> Collector {
    Collector::new(Offset(start), Framer::new(None).state(), at(0), BytesMut::new())
}

fn read(collector: &mut Collector, bytes: &[u8], micros: u64) -> Arrived {
    collector.put(bytes);
    collector.scan(at(micros)).unwrap()
}

fn command(args: &[&str]) -> Vec<u8> {
    let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
    encode_command(&args)
}

#[test]
fn a_batch_ends_with_its_last_whole_record_and_the_rest_is_carried_on() {
    let (set, ping) = (command(&["SET", "a", "1"]), command(&["PING"]));
    let mut collector = collector(100);
    let arrived = read(&mut collector, &[&ping[..], &set, &set[..5]].concat(), 10);
    assert_eq!(arrived, Arrived { getacks: 0, write_since: Some(at(10).instant) });
    let batch = collector.take(Extent::Records, BytesMut::new()).unwrap();
    assert_eq!(batch.bytes, [&ping[..], &set].concat());
    assert_eq!((batch.start, batch.records, batch.writes), (Offset(100), 2, 1));
    assert_eq!((batch.first_write, batch.late_since), (Some(Timestamp(10)), None));
    assert_eq!(batch.marks, [Mark { end: batch.end(), time: Timestamp(10) }]);
    assert_eq!(batch.framer_end.record_bytes(), 0);

    assert!(collector.take(Extent::Records, BytesMut::new()).is_none());
    read(&mut collector, &set[5..], 20);
    let next = collector.take(Extent::Records, BytesMut::new()).unwrap();
    assert_eq!((next.start, &next.bytes[..]), (batch.end(), &set[..]));
    assert_eq!(next.first_write, Some(Timestamp(10)), "its first byte came with the batch before");
    let tail = batch.end().advance(5);
    assert_eq!(next.marks, [Mark { end: tail, time: Timestamp(10) }, Mark { end: next.end(), time: Timestamp(20) }]);
}

#[test]
fn a_record_without_an_end_leaves_only_when_everything_does() {
    let set = command(&["SET", "a", "1"]);
    let mut collector = collector(0);
    read(&mut collector, &set[..15], 10);
    assert!(collector.take(Extent::Records, BytesMut::new()).is_none());
    let batch = collector.take(Extent::Everything, BytesMut::new()).unwrap();
    assert_eq!((batch.records, batch.first_write), (0, Some(Timestamp(10))));
    assert_eq!(batch.framer_end.record_bytes(), 15);
    read(&mut collector, &set[15..], 20);
    let batch = collector.take(Extent::Records, BytesMut::new()).unwrap();
    assert_eq!((batch.records, batch.writes, batch.first_write), (1, 1, Some(Timestamp(10))));
}

#[test]
fn the_state_at_a_cut_before_an_open_transaction_is_the_one_before_it() {
    let mut collector = collector(0);
    let stream =
        [command(&["SELECT", "3"]), command(&["SET", "a", "1"]), command(&["MULTI"]), command(&["SELECT", "5"])];
    read(&mut collector, &stream.concat(), 10);
    let batch = collector.take(Extent::Records, BytesMut::new()).unwrap();
    assert_eq!(batch.framer_end, Framer::new(Some(3)).state());
    read(&mut collector, &[command(&["SET", "b", "1"]), command(&["EXEC"])].concat(), 20);
    let batch = collector.take(Extent::Records, BytesMut::new()).unwrap();
    assert_eq!((batch.framer_end.database(), batch.records, batch.writes), (Some(5), 1, 1));
}

#[test]
fn getack_is_counted_and_is_no_write() {
    let mut collector = collector(0);
    let arrived = read(&mut collector, &command(&["REPLCONF", "GETACK", "*"]).repeat(3), 10);
    assert_eq!(arrived, Arrived { getacks: 3, write_since: None });
    assert!(collector.has_records() && !collector.has_writes());
}

#[test]
fn what_came_before_broken_bytes_can_still_be_handed_over() {
    let select = command(&["SELECT", "3"]);
    let mut collector = collector(0);
    collector.put(&[&select[..], b"oops"].concat());
    assert!(collector.scan(at(10)).is_err());
    let batch = collector.take(Extent::Records, BytesMut::new()).unwrap();
    assert_eq!(batch.bytes, select);
    assert_eq!(batch.framer_end, Framer::new(Some(3)).state());
}

#[test]
fn bytes_that_were_not_scanned_stay_when_records_leave() {
    let set = command(&["SET", "a", "1"]);
    let mut collector = collector(0);
    read(&mut collector, &set, 10);
    collector.put(&set);
    let batch = collector.take(Extent::Records, BytesMut::new()).unwrap();
    assert_eq!(batch.bytes, set);
    collector.scan(at(20)).unwrap();
    let batch = collector.take(Extent::Records, BytesMut::new()).unwrap();
    assert_eq!((&batch.bytes[..], batch.first_write), (&set[..], Some(Timestamp(20))));
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof!["[a-z]{1,9}", "[a-z]{200,900}"];
    let write = proptest::collection::vec(word, 1..4);
    let one = prop_oneof![
        write.clone().prop_map(|words| {
            let args: Vec<&str> = std::iter::once("SET").chain(words.iter().map(String::as_str)).collect();
            command(&args)
        }),
        (0..9_u8).prop_map(|number| command(&["SELECT", &number.to_string()])),
        Just(command(&["PING"])),
        Just([command(&["MULTI"]), command(&["SELECT", "7"]), command(&["DEL", "x"]), command(&["EXEC"])].concat()),
    ];
    proptest::collection::vec(one, 1..40).prop_map(|commands| commands.concat())
}

proptest! {
    #[test]
    fn batches_are_the_stream_however_it_is_read_and_cut(
        stream in stream(),
        reads in proptest::collection::vec((1..600_usize, 0..3_u8), 1..60),
    ) {
        let mut collector = collector(7);
        let mut whole = Framer::new(None);
        let (mut out, mut records, mut writes, mut pos) = (Vec::new(), 0, 0, 0);
        let mut reads = reads.iter().cycle().enumerate();
        let mut last_time = Timestamp(0);
        while pos < stream.len() {
            let (index, &(count, cut)) = reads.next().unwrap();
            let count = count.min(stream.len() - pos);
            read(&mut collector, &stream[pos..pos + count], index as u64 + 1);
            pos += count;
            let extent = match cut {
                0 => continue,
                1 => Extent::Records,
                _ => Extent::Everything,
            };
            let Some(batch) = collector.take(extent, BytesMut::new()) else { continue };
            prop_assert_eq!(batch.start, Offset(7 + out.len() as u64));
            out.extend_from_slice(&batch.bytes);
            (records, writes) = (records + batch.records, writes + batch.writes);
            whole.push(&batch.bytes, |_| {}).unwrap();
            prop_assert_eq!(&batch.framer_end, &whole.state());
            prop_assert_eq!(batch.marks.last().map(|mark| mark.end), Some(batch.end()));
            for mark in &batch.marks {
                prop_assert!(mark.time >= last_time);
                last_time = mark.time;
            }
        }
        if let Some(batch) = collector.take(Extent::Everything, BytesMut::new()) {
            out.extend_from_slice(&batch.bytes);
            (records, writes) = (records + batch.records, writes + batch.writes);
        }
        prop_assert_eq!(&out, &stream);
        let (mut all, mut all_writes) = (0, 0);
        Framer::new(None).push(&stream, |record| {
            all += 1;
            all_writes += u64::from(record.kind == RecordKind::Write);
        }).unwrap();
        prop_assert_eq!((records, writes), (all, all_writes));
    }
}
