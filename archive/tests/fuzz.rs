//! Every parser of what lies in a bucket, fuzzed; see `redwind_fuzz`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use bytes::Bytes;
use redwind_archive::audit::AuditEntry;
use redwind_archive::chunk;
use redwind_archive::document::{self, Document, DocumentError};
use redwind_archive::documents::{Cause, ChunkEntry, HistoryStart, Manifest, Marker, TermClaim};
use redwind_archive::keys::{KeyName, Keyring, NewIdentity, Recipients, TAG_BYTES, Unopened};
use redwind_archive::layout::{ObjectName, SourceName};
use redwind_archive::position::{HistoryId, Position};
use redwind_archive::segment::{BLOCK_BYTES_MAX, Segment, SegmentEncoder, SegmentError, Trailer, recover};
use redwind_archive::store::StoreUrl;
use redwind_archive::testing::{Objects, Writer, at, read};
use redwind_archive::time::Timestamp;
use redwind_fuzz::{Fuzz, Memory, put_crc32};

/// A small archive with every kind of object.
fn archive() -> Objects {
    archive_for(&Recipients::default())
}

fn archive_for(recipients: &Recipients) -> Objects {
    let mut writer = Writer::create_for(1, recipients);
    writer.begin_history(100, at(0.0), Cause::First);
    writer.segment(&[read(1.0, "SET a 1"), read(1.5, "MULTI"), read(2.0, "INCR a")]);
    writer.snapshot(at(2.0));
    writer.segment(&[read(2.5, "EXEC"), read(3.0, "PING"), read(3.5, &format!("SET long {}", "x".repeat(300)))]);
    writer.idle(at(4.0));
    writer.late(at(5.5));
    writer.segment(&[read(30.0, "SET c 1")]);
    let mut writer = writer.succeed();
    writer.begin_history(5000, at(50.0), Cause::BacklogLost);
    writer.segment(&[read(51.0, "SET e 1")]);
    writer.snapshot(at(52.0));
    writer.audit(at(60.0));
    writer.objects
}

/// The objects of a kind: those whose names begin so, of a plain archive and of an encrypted one.
fn objects(kind: &str) -> Vec<Vec<u8>> {
    [plain_objects(kind), objects_of(&archive_for(&NewIdentity::generate().recipients()), kind)].concat()
}

fn plain_objects(kind: &str) -> Vec<Vec<u8>> {
    objects_of(&archive(), kind)
}

fn objects_of(archive: &Objects, kind: &str) -> Vec<Vec<u8>> {
    archive.names().iter().filter(|name| name.starts_with(kind)).map(|name| archive.get(name).to_vec()).collect()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize)
}

/// Makes a segment's checksums right, as far as it has the form of one.
fn repair_segment(object: &mut [u8]) {
    let Some(&[low, high]) = object.get(8..10) else { return };
    let header = usize::from(u16::from_le_bytes([low, high]));
    if header < 4 {
        return;
    }
    put_crc32(object, 0..header - 4, header - 4, crc32fast::hash);
    let tag = if object.get(10) == Some(&1) { TAG_BYTES } else { 0 };
    let mut block = header;
    while object.get(block..block + 4) == Some(b"BLK1") {
        let (Some(payload), Some(marks)) = (u32_at(object, block + 8), u32_at(object, block + 12)) else { break };
        let Some(&state) = object.get(block + 17) else { break };
        let end = block + 48 + usize::from(state) + payload + marks + tag;
        let checksum = |block: &[u8]| {
            let mut crc = crc32fast::Hasher::new();
            crc.update(&block[..44]);
            crc.update(&block[48..]);
            crc.finalize()
        };
        put_crc32(object, block..end, block + 44, checksum);
        block = end;
    }
    if let Some(last) = object.len().checked_sub(4) {
        put_crc32(object, 0..last, last, crc32fast::hash);
    }
}

/// Encodes a plain segment anew from what was decoded.
fn encode(segment: &Segment) -> Vec<u8> {
    let mut object = Vec::new();
    let mut encoder = SegmentEncoder::begin(segment.header.clone(), None, &mut object);
    segment.blocks.iter().for_each(|block| encoder.copy_block(block, &mut object));
    let _ = encoder.finish(segment.trailer.read_until, &mut object);
    object
}

/// Reads all that a segment holds.
fn read_all(segment: &Segment) -> Result<usize, SegmentError> {
    let mut bytes = 0;
    for block in &segment.blocks {
        bytes += block.bytes()?.len() + block.marks()?.len();
    }
    Ok(bytes)
}

#[test]
fn segment() {
    // A block gives as much as it says that it holds, which is bounded; decompressed one at a time.
    let memory = Memory { bytes: 2 * BLOCK_BYTES_MAX as u64, per_byte: 64 };
    Fuzz::of("segment").seeds(objects("log/")).repaired_by(|object| repair_segment(object)).memory(memory).run(
        |input| {
            let object = Bytes::copy_from_slice(input);
            let recovered = recover(&object);
            let decoded = Segment::decode(&object, &Keyring::closed(input.get(10) == Some(&1)));
            if let Ok(segment) = &decoded {
                segment.check_name(&segment.name()).unwrap();
                // What an encoder would not have written is verify's to find.
                let last = recovered.as_ref().unwrap().last_arrival().unwrap_or_default();
                if last <= segment.trailer.read_until && segment.header.encryption.is_none() {
                    assert_eq!(encode(segment), input, "one segment has one form");
                }
            }
            let recovered = recovered.map(|recovered| (recovered.blocks.len(), recovered.trailer.is_some()));
            format!("{recovered:?} {:?}", decoded.map(|segment| read_all(&segment)))
        },
    );
}

#[test]
fn chunk() {
    let repair = |object: &mut Vec<u8>| {
        if let Some(last) = object.len().checked_sub(4) {
            put_crc32(object, 0..last, last, crc32fast::hash);
        }
    };
    let memory = Memory { bytes: chunk::CHUNK_RAW_BYTES_MAX + (64 << 10), per_byte: 64 };
    Fuzz::of("chunk").seeds(objects("chunk/")).repaired_by(repair).memory(memory).run(|input| {
        let decoded = chunk::check(input).and_then(|id| {
            let raw = u64::from_le_bytes(input[48..56].try_into().unwrap());
            let crc32 = u32::from_le_bytes(input[input.len() - 4..].try_into().unwrap());
            let entry = ChunkEntry { stored: input.len() as u64, raw, crc32 };
            let keys = Keyring::closed(chunk::encryption(input).is_some());
            chunk::decode(&Bytes::copy_from_slice(input), id, &entry, &keys)
        });
        format!("{:?}", decoded.map(|rdb| rdb.len()))
    });
}

/// A key object, under a name with the right checksum: what opens is what was wrapped.
#[test]
fn key() {
    let owner = NewIdentity::generate();
    let sound = archive_for(&owner.recipients());
    let names = sound.names().into_iter().filter_map(|name| match ObjectName::parse(&name) {
        Some(ObjectName::Key(key)) => Some((key, sound.get(&name))),
        _ => None,
    });
    let (keys, objects): (Vec<KeyName>, Vec<Bytes>) = names.unzip();
    let (epoch, archive) = (keys[0].epoch, Writer::create(1).archive);
    let (identities, seeds) = (owner.identities(), objects.clone());
    // The cipher's buffer of an age file is 64 KiB.
    let memory = Memory { bytes: 512 << 10, per_byte: 64 };
    Fuzz::of("key").seeds(seeds).memory(memory).run(move |input| {
        let name = KeyName { epoch, crc32: crc32fast::hash(input) };
        match name.open(input, archive, &identities) {
            Ok(opened) => {
                assert_eq!((opened.id(), input), (epoch, &objects[0][..]), "one key has one form");
                "open".to_owned()
            }
            Err(Unopened::Locked) => "locked".to_owned(),
            Err(Unopened::Forged) => "forged".to_owned(),
            Err(other) => panic!("{other} under a name that fits"),
        }
    });
}

/// Makes a document's first line right: its length and checksum.
fn repair_document(object: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(object).into_owned();
    let Some((line, body)) = text.split_once('\n') else { return };
    let words: Vec<&str> = line.split(' ').collect();
    let mut guarded = format!("{} {}", words[..words.len().min(3)].join(" "), body.len());
    if let [_, _, _, _, epoch, mac, _] = words[..] {
        guarded += &format!(" {epoch} {mac}");
    }
    let crc32 = crc32fast::hash(format!("{guarded}{body}").as_bytes());
    *object = format!("{guarded} {crc32:08x}\n{body}").into_bytes();
}

/// A document, signed or not.
fn decode_document<D: Document>(input: &[u8]) -> Result<D, DocumentError> {
    match document::decode(input) {
        Err(DocumentError::Mode { .. }) => {
            document::decode_signed(input, &ObjectName::Marker, &Keyring::Closed).map(|signed| signed.document)
        }
        plain => plain,
    }
}

fn fuzz_document<D: Document + PartialEq + std::fmt::Debug + 'static>(kind: &'static str, folder: &str) {
    let memory = Memory { bytes: 256 << 10, per_byte: 128 };
    Fuzz::of(kind).seeds(objects(folder)).repaired_by(repair_document).memory(memory).run(
        |input| match decode_document::<D>(input) {
            Ok(decoded) => {
                let again = document::decode::<D>(&document::encode(&decoded)).unwrap();
                assert_eq!(again, decoded, "what was read is written and read again");
                "decoded".to_owned()
            }
            Err(DocumentError::Json(error)) => format!("{:?}", error.classify()),
            Err(error) => format!("{:?}", std::mem::discriminant(&error)),
        },
    );
}

#[test]
fn marker() {
    fuzz_document::<Marker>("document-archive", "archive");
}

#[test]
fn term() {
    fuzz_document::<TermClaim>("document-term", "term/");
}

#[test]
fn history() {
    fuzz_document::<HistoryStart>("document-history", "history/");
}

#[test]
fn manifest() {
    fuzz_document::<Manifest>("document-snapshot", "snapshot/");
}

#[test]
fn audit() {
    fuzz_document::<AuditEntry>("document-audit", "audit/");
}

#[test]
fn trailer() {
    let trailer = |object: &Vec<u8>| object[object.len() - Trailer::bytes(object[10] == 1)..].to_vec();
    let trailers: Vec<_> = objects("log/").iter().map(trailer).collect();
    Fuzz::of("trailer").seeds(trailers).run(|input| {
        let decoded = [false, true].map(|encrypted| Trailer::decode(input, encrypted).map(|trailer| trailer.blocks));
        format!("{decoded:?}")
    });
}

#[test]
fn names() {
    let names = archive_for(&NewIdentity::generate().recipients()).names();
    Fuzz::of("names").seeds(names).run(|input| {
        let text = String::from_utf8_lossy(input);
        let name = ObjectName::parse(&text);
        if let Some(name) = &name {
            assert_eq!(name.to_string(), text, "one object has one name");
        }
        let kind = name.map(|name| name.to_string().split('/').next().map(str::to_owned));
        format!("{kind:?} {} {}", text.parse::<SourceName>().is_ok(), text.parse::<HistoryId>().is_ok())
    });
}

#[test]
fn positions_and_times() {
    let seeds = ["01JXT21Q00000G000004000001:342", "\"2026-11-20T14:03:07.250000Z\"", "9999999999999999"];
    Fuzz::of("positions").seeds(seeds).run(|input| {
        let text = String::from_utf8_lossy(input);
        let position = text.parse::<Position>();
        if let Ok(position) = position {
            assert_eq!(position.to_string().parse::<Position>().ok(), Some(position));
        }
        let time = serde_json::from_slice::<Timestamp>(input);
        if let Ok(time) = time {
            let written = serde_json::to_string(&time).unwrap();
            assert_eq!(serde_json::from_str::<Timestamp>(&written).unwrap(), time);
        }
        format!("{} {}", position.is_ok(), time.is_ok())
    });
}

#[test]
fn store_urls() {
    let seeds = ["file:///var/lib/redwind", "s3://bucket/prefix/deep", "gs://bucket", "az://container/x", "s3:///x"];
    let memory = Memory { bytes: 256 << 10, per_byte: 128 };
    Fuzz::of("store-urls").seeds(seeds).memory(memory).run(|input| {
        let text = String::from_utf8_lossy(input);
        match text.parse::<StoreUrl>() {
            Ok(url) => {
                let again: StoreUrl = url.to_string().parse().unwrap();
                assert_eq!(again.to_string(), url.to_string());
                format!("{}", url.folder().is_some())
            }
            Err(error) => error.to_string().rsplit(": ").next().unwrap_or_default().to_owned(),
        }
    });
}
