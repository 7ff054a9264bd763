//! What goes in comes out, and nothing that was changed passes.

use bytes::Bytes;
use proptest::prelude::*;
use redwind_stream::Framer;
use ulid::Ulid;
use zstd::bulk::Compressor;

use super::*;
use crate::layout::SegmentName;
use crate::position::{HistoryId, Offset, Term};
use crate::time::Timestamp;

fn header(start: u64) -> SegmentHeader {
    SegmentHeader {
        archive: Ulid(1),
        writer: Ulid(2),
        history: HistoryId(Ulid(3)),
        term: Term(4),
        start: Offset(start),
        predecessor: Some(0x1234_5678),
        opened: Timestamp(1_000),
        late_since: None,
        clock_offset: Some(-250),
        replication_ids: vec![ReplicationId { id: [b'a'; 40], since: Offset(start) }],
        framer: Framer::new(Some(3)).state(),
        snapshot: Some(Ulid(5)),
    }
}

fn encode(start: u64, blocks: &[Vec<u8>]) -> (Bytes, SegmentName, Trailer) {
    let mut out = Vec::new();
    let mut compressor = Compressor::new(1).unwrap();
    let mut encoder = SegmentEncoder::begin(header(start), &mut out);
    let mut time = 5_000_000;
    for bytes in blocks {
        let half = encoder.end().advance(bytes.len() as u64 / 2);
        let end = encoder.end().advance(bytes.len() as u64);
        let marks = [Mark { end: half, time: Timestamp(time) }, Mark { end, time: Timestamp(time + 7) }];
        time += 1_000;
        encoder.block(&mut compressor, bytes, &marks, 1, 1, &mut out).unwrap();
    }
    let (name, trailer) = encoder.finish(Timestamp(time), &mut out);
    (Bytes::from(out), name, trailer)
}

fn stream(segment: &Segment) -> Vec<u8> {
    segment.blocks.iter().flat_map(|block| block.bytes().unwrap()).collect()
}

proptest! {
    #[test]
    fn a_segment_gives_its_bytes_and_marks_back(
        start in 0..u64::from(u32::MAX),
        blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..2_000), 0..5),
    ) {
        let (object, name, trailer) = encode(start, &blocks);
        let segment = Segment::decode(&object).unwrap();
        segment.check_name(&name).unwrap();
        prop_assert_eq!(&segment.header, &header(start));
        prop_assert_eq!(segment.trailer, trailer);
        prop_assert_eq!(stream(&segment), blocks.concat());
        for block in &segment.blocks {
            prop_assert_eq!(block.marks().unwrap().last().unwrap().end, block.end());
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
        let _ = Segment::decode(&Bytes::from(bytes.clone()));
        let _ = recover(&Bytes::from(bytes));
    }

    #[test]
    fn a_segment_cut_anywhere_is_recovered_up_to_a_whole_block(cut in 0.0..1.0_f64) {
        let blocks = [vec![b'x'; 700], (0..=255).collect(), vec![b'y'; 90]];
        let (object, ..) = encode(100, &blocks);
        let object = object.slice(..(object.len() as f64 * cut) as usize);
        let Ok(recovered) = recover(&object) else { return Ok(()) };
        let bytes: Vec<u8> = recovered.blocks.iter().flat_map(|block| block.bytes().unwrap()).collect();
        prop_assert!(recovered.trailer.is_none());
        prop_assert_eq!(recovered.end, Offset(100 + bytes.len() as u64));
        prop_assert!(blocks.concat().starts_with(&bytes));
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let (object, ..) = encode(9, &[vec![b'a'; 300], (0..200).collect()]);
    for bit in 0..object.len() * 8 {
        let mut bad = object.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Segment::decode(&Bytes::from(bad)).is_err(), "bit {bit}");
    }
}

#[test]
fn every_truncation_and_any_garbage_at_the_end_is_noticed() {
    let (object, ..) = encode(9, &[vec![b'a'; 300]]);
    for length in 0..object.len() {
        assert!(Segment::decode(&object.slice(..length)).is_err(), "cut to {length}");
    }
    assert!(Segment::decode(&Bytes::from([&object[..], &[0]].concat())).is_err());
}

#[test]
fn an_empty_segment_vouches_for_time_alone() {
    let (object, name, trailer) = encode(77, &[]);
    assert_eq!((name.start, name.end, name.time), (Offset(77), Offset(77), trailer.read_until));
    assert_eq!(Segment::decode(&object).unwrap().blocks.len(), 0);
}

#[test]
fn copied_blocks_make_the_segment_that_they_came_from() {
    let (object, name, trailer) = encode(100, &[vec![b'x'; 700], (0..=255).collect()]);
    let original = Segment::decode(&object).unwrap();
    let mut out = Vec::new();
    let mut encoder = SegmentEncoder::begin(original.header.clone(), &mut out);
    for block in &original.blocks {
        encoder.copy_block(block, &mut out).unwrap();
    }
    encoder.count(trailer.records, trailer.writes);
    assert_eq!(encoder.finish(trailer.read_until, &mut out), (name, trailer));
    assert_eq!(out, object);
}
