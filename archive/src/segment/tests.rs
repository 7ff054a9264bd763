//! What goes in comes out, and nothing that was changed passes: of plain and of encrypted segments.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use redwind_stream::{Framer, FramerState};
use ulid::Ulid;
use zeroize::Zeroizing;
use zstd::bulk::Compressor;

use super::*;
use crate::keys::{Encryption, Epoch, EpochId, Keyring, MAC_BYTES};
use crate::layout::SegmentName;
use crate::position::{HistoryId, Offset, Term};
use crate::time::Timestamp;

const ARCHIVE: Ulid = Ulid(1);
const SALT: [u8; 32] = [8; 32];

fn epoch(id: u128) -> Arc<Epoch> {
    Arc::new(Epoch::from_data(EpochId(Ulid(id)), ARCHIVE, Zeroizing::new([id as u8; 32])))
}

/// Plain, and encrypted.
fn modes() -> [Option<Arc<Epoch>>; 2] {
    [None, Some(epoch(6))]
}

fn keys(epoch: Option<&Arc<Epoch>>) -> Keyring {
    epoch.map_or(Keyring::Plain, |epoch| Keyring::holding([Arc::clone(epoch)]))
}

fn header(start: u64, epoch: Option<&Epoch>) -> SegmentHeader {
    let mac = epoch.map(|_| [9; MAC_BYTES]);
    SegmentHeader {
        archive: ARCHIVE,
        writer: Ulid(2),
        history: HistoryId(Ulid(3)),
        term: Term(4),
        start: Offset(start),
        predecessor: Some(Fingerprint { crc32: 0x1234_5678, mac }),
        opened: Timestamp(1_000),
        late_since: None,
        clock_offset: Some(-250),
        replication_ids: vec![ReplicationId { id: [b'a'; 40], since: Offset(start) }],
        framer: Framer::new(Some(3)).state(),
        snapshot: Some(Ulid(5)),
        encryption: epoch.map(|epoch| Encryption { epoch: epoch.id(), salt: SALT }),
    }
}

/// Some state in the middle of a record.
fn framer_end() -> FramerState {
    let mut framer = Framer::new(Some(7));
    framer.push(b"*3\r\n$3\r\nSET\r\n$100\r\nabc", |_| {}).unwrap();
    framer.state()
}

fn encode(start: u64, blocks: &[Vec<u8>], epoch: Option<&Epoch>) -> (Bytes, SegmentName, Trailer) {
    let mut out = Vec::new();
    let mut compressor = Compressor::new(1).unwrap();
    let mut encoder = SegmentEncoder::begin(header(start, epoch), epoch, &mut out);
    let mut time = 5_000_000;
    for bytes in blocks {
        let half = encoder.end().advance(bytes.len() as u64 / 2);
        let end = encoder.end().advance(bytes.len() as u64);
        let marks = [Mark { end: half, time: Timestamp(time) }, Mark { end, time: Timestamp(time + 7) }];
        time += 1_000;
        let content = BlockContent { bytes, marks: &marks, records: 2, writes: 1, framer_end: &framer_end() };
        encoder.block(&mut compressor, &content, &mut out).unwrap();
    }
    let (name, trailer) = encoder.finish(Timestamp(time), &mut out);
    (Bytes::from(out), name, trailer)
}

fn stream(segment: &Segment) -> Vec<u8> {
    segment.blocks.iter().flat_map(|block| block.bytes().unwrap()).collect()
}

/// Makes every checksum of a segment right again, as one who forges it would.
fn with_checksums(object: &[u8]) -> Bytes {
    let mut object = object.to_vec();
    let put = |object: &mut Vec<u8>, at: usize, crc: u32| object[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    let u32_at = |object: &[u8], at: usize| u32::from_le_bytes(object[at..at + 4].try_into().unwrap()) as usize;
    let header_bytes = usize::from(u16::from_le_bytes([object[8], object[9]]));
    let tag = if object[10] == 1 { 16 } else { 0 };
    if header_bytes + Trailer::bytes(tag > 0) > object.len() {
        return Bytes::from(object);
    }
    let crc = crc32fast::hash(&object[..header_bytes - 4]);
    put(&mut object, header_bytes - 4, crc);
    let mut at = header_bytes;
    while object.get(at..at + 48).is_some_and(|head| head.starts_with(b"BLK1")) {
        let body = usize::from(object[at + 17]) + u32_at(&object, at + 8) + u32_at(&object, at + 12) + tag;
        let Some(rest) = object.get(at + 48..at + 48 + body) else { break };
        let crc = crc32fast::hash(&[&object[at..at + 44], rest].concat());
        put(&mut object, at + 44, crc);
        at += 48 + body;
    }
    let end = object.len() - 4;
    let crc = crc32fast::hash(&object[..end]);
    put(&mut object, end, crc);
    Bytes::from(object)
}

proptest! {
    #[test]
    fn a_segment_gives_its_bytes_and_marks_back(
        start in 0..u64::from(u32::MAX),
        blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..2_000), 0..5),
    ) {
        for epoch in modes() {
            let (object, name, trailer) = encode(start, &blocks, epoch.as_deref());
            let segment = Segment::decode(&object, &keys(epoch.as_ref())).unwrap();
            segment.check_name(&name).unwrap();
            prop_assert_eq!(&segment.header, &header(start, epoch.as_deref()));
            prop_assert_eq!(segment.trailer, trailer);
            prop_assert_eq!(stream(&segment), blocks.concat());
            for block in &segment.blocks {
                prop_assert_eq!(block.marks().unwrap().last().unwrap().end, block.end());
                prop_assert_eq!(&block.framer_end, &framer_end());
            }
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
        let _ = Segment::decode(&Bytes::from(bytes.clone()), &Keyring::Plain);
        let _ = recover(&Bytes::from(bytes));
    }

    #[test]
    fn a_segment_cut_anywhere_is_recovered_up_to_a_whole_block(cut in 0.0..1.0_f64) {
        let blocks = [vec![b'x'; 700], (0..=255).collect(), vec![b'y'; 90]];
        for epoch in modes() {
            let (object, ..) = encode(100, &blocks, epoch.as_deref());
            let object = object.slice(..(object.len() as f64 * cut) as usize);
            let Ok(recovered) = recover(&object) else { return Ok(()) };
            let whole: u64 = recovered.blocks.iter().map(|block| u64::from(block.raw_bytes)).sum();
            prop_assert!(recovered.trailer.is_none());
            prop_assert_eq!(recovered.end, Offset(100 + whole));
            prop_assert_eq!(recovered.blocks.iter().any(Block::is_sealed), epoch.is_some() && whole > 0);
            if epoch.is_none() {
                let bytes: Vec<u8> = recovered.blocks.iter().flat_map(|block| block.bytes().unwrap()).collect();
                prop_assert!(blocks.concat().starts_with(&bytes));
            }
        }
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    for epoch in modes() {
        let (object, ..) = encode(9, &[vec![b'a'; 300], (0..200).collect()], epoch.as_deref());
        for bit in 0..object.len() * 8 {
            let mut bad = object.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            let closed = Keyring::closed(epoch.is_some());
            assert!(Segment::decode(&Bytes::from(bad), &closed).is_err(), "bit {bit}, without a key");
        }
    }
}

#[test]
fn every_forged_bit_of_an_encrypted_segment_is_noticed_though_checksums_are_made_right() {
    let writer = epoch(6);
    let (object, ..) = encode(9, &[vec![b'a'; 300], (0..200).collect()], Some(&writer));
    let keys = keys(Some(&writer));
    assert_eq!(with_checksums(&object), object);
    let checksum = object.len() - 4;
    for bit in 0..checksum * 8 {
        let mut forged = object.to_vec();
        forged[bit / 8] ^= 1 << (bit % 8);
        let forged = with_checksums(&forged);
        // A checksum that was flipped itself has been made right again.
        assert!(forged == object || Segment::decode(&forged, &keys).is_err(), "bit {bit}");
    }
}

#[test]
fn every_truncation_and_any_garbage_at_the_end_is_noticed() {
    for epoch in modes() {
        let (object, ..) = encode(9, &[vec![b'a'; 300]], epoch.as_deref());
        let closed = Keyring::closed(epoch.is_some());
        for length in 0..object.len() {
            assert!(Segment::decode(&object.slice(..length), &closed).is_err(), "cut to {length}");
        }
        assert!(Segment::decode(&Bytes::from([&object[..], &[0]].concat()), &closed).is_err());
    }
}

#[test]
fn an_encrypted_segment_shows_nothing_of_its_stream() {
    let writer = epoch(6);
    let incompressible: Vec<u8> = b"canary-".iter().copied().chain(0..=255).collect();
    let (object, ..) = encode(9, &[incompressible], Some(&writer));
    assert!(!object.windows(6).any(|window| window == b"canary"));
    let sealed = Segment::decode(&object, &Keyring::Closed).unwrap();
    assert!(sealed.is_sealed());
    assert_eq!(sealed.blocks[0].bytes(), Err(SegmentError::Sealed));
    assert_eq!(sealed.framer_end(), &framer_end());
}

#[test]
fn an_encrypted_segment_takes_the_key_of_its_own_epoch() {
    let (object, ..) = encode(9, &[vec![b'a'; 300]], Some(&epoch(6)));
    let missing = SegmentError::Key(crate::keys::KeyError::Missing(EpochId(Ulid(6))));
    assert_eq!(Segment::decode(&object, &keys(Some(&epoch(7)))).unwrap_err(), missing);
    let other_data = Arc::new(Epoch::from_data(EpochId(Ulid(6)), ARCHIVE, Zeroizing::new([1; 32])));
    assert_eq!(Segment::decode(&object, &keys(Some(&other_data))).unwrap_err(), SegmentError::Forged);
}

#[test]
fn plain_and_encrypted_segments_are_not_taken_for_each_other() {
    let writer = epoch(6);
    let (plain, ..) = encode(9, &[vec![b'a'; 300]], None);
    let (encrypted, ..) = encode(9, &[vec![b'a'; 300]], Some(&writer));
    let refused = |object, keys| Segment::decode(object, &keys).unwrap_err();
    assert_eq!(refused(&plain, keys(Some(&writer))), SegmentError::Mode { encrypted: false });
    assert_eq!(refused(&plain, Keyring::Closed), SegmentError::Mode { encrypted: false });
    assert_eq!(refused(&encrypted, Keyring::Plain), SegmentError::Mode { encrypted: true });
}

#[test]
fn an_empty_segment_vouches_for_time_alone() {
    for epoch in modes() {
        let (object, name, trailer) = encode(77, &[], epoch.as_deref());
        assert_eq!((name.start, name.end, name.time), (Offset(77), Offset(77), trailer.read_until));
        assert_eq!(Segment::decode(&object, &keys(epoch.as_ref())).unwrap().blocks.len(), 0);
    }
}

#[test]
fn copied_blocks_make_the_segment_that_they_came_from() {
    for epoch in modes() {
        let (object, name, trailer) = encode(100, &[vec![b'x'; 700], (0..=255).collect()], epoch.as_deref());
        let original = Segment::decode(&object, &Keyring::closed(epoch.is_some())).unwrap();
        let mut out = Vec::new();
        let mut encoder = SegmentEncoder::begin(original.header.clone(), epoch.as_deref(), &mut out);
        original.blocks.iter().for_each(|block| encoder.copy_block(block, &mut out));
        assert_eq!(encoder.finish(trailer.read_until, &mut out), (name, trailer));
        assert_eq!(out, object);
    }
}

#[test]
fn a_dead_writers_blocks_are_sealed_by_one_who_cannot_read_them() {
    let (dead, heir) = (epoch(6), epoch(7));
    let blocks = [vec![b'x'; 700], (0..=255).collect()];
    let (object, ..) = encode(100, &blocks, Some(&dead));
    let found = recover(&object.slice(..object.len() - 20)).unwrap();
    let header = SegmentHeader { writer: Ulid(20), term: Term(5), predecessor: None, ..found.header.clone() };
    let mut out = Vec::new();
    let mut encoder = SegmentEncoder::begin(header, Some(&heir), &mut out);
    found.blocks.iter().for_each(|block| encoder.copy_block(block, &mut out));
    let (name, trailer) = encoder.finish(found.last_arrival().unwrap(), &mut out);
    let both = Keyring::holding([dead, heir]);
    let segment = Segment::decode(&Bytes::from(out), &both).unwrap();
    segment.check_name(&name).unwrap();
    assert_eq!(stream(&segment), blocks.concat());
    assert_eq!((trailer.records, trailer.writes), (4, 2));
    assert_eq!(trailer.seal.map(|seal| seal.epoch), Some(EpochId(Ulid(7))));
}
