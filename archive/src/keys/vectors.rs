//! The test vectors in `docs/format.md`: what stands there is what we read.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ulid::Ulid;

use super::epoch::derive;
use super::{Epoch, EpochId, Identities, Keyring};
use crate::chunk::{self, ChunkId};
use crate::document;
use crate::documents::{ChunkEntry, HistoryStart};
use crate::layout::ObjectName;
use crate::position::HistoryId;
use crate::segment::Segment;

const DOCUMENT: &str = include_str!("../../../docs/format.md");

/// The vectors by name: `name = value`, the value going on in lines that are indented.
fn vectors() -> BTreeMap<&'static str, String> {
    let section = DOCUMENT.split_once("### Test vectors").unwrap().1;
    let block = section.split("```").nth(1).unwrap();
    let mut vectors = BTreeMap::new();
    let mut name = "";
    for line in block.lines().filter(|line| !line.is_empty()) {
        let value = match line.split_once(" =") {
            Some((new, value)) => {
                name = new;
                value.trim()
            }
            None => line.trim(),
        };
        *vectors.entry(name).or_insert_with(String::new) += value;
    }
    vectors
}

fn hex(text: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    text.as_bytes().chunks(2).map(byte).collect()
}

fn ulid(text: &str) -> Ulid {
    Ulid::from_string(text).unwrap()
}

fn epoch() -> Epoch {
    let vectors = vectors();
    let mut identities = Identities::none();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &vectors["identity"]).unwrap();
    identities.add_file(file.path()).unwrap();
    let Some(ObjectName::Key(name)) = ObjectName::parse(&vectors["name of the key object"]) else { panic!() };
    name.open(&hex(&vectors["key object"]), ulid(&vectors["archive"]), &identities).unwrap()
}

fn keys() -> Keyring {
    Keyring::holding([Arc::new(epoch())])
}

#[test]
fn the_key_object_holds_the_data_key_from_which_the_others_are_derived() {
    let (vectors, epoch) = (vectors(), epoch());
    assert_eq!(epoch.id(), EpochId(ulid(&vectors["epoch"])));
    assert_eq!(epoch.data().as_slice(), hex(&vectors["data key"]));
    let archive = ulid(&vectors["archive"]).to_bytes();
    for (name, what) in [("segment MAC key", "redwind v1 segment mac"), ("document MAC key", "redwind v1 document mac")]
    {
        let key = derive(epoch.data(), &[], &[what.as_bytes(), &archive]);
        assert_eq!(key.as_slice(), hex(&vectors[name]), "{name}");
    }
    let (history, start) = (ulid(&vectors["history"]).to_bytes(), 1_000_u64.to_le_bytes());
    let salt = [0x5a; 32];
    let key = derive(epoch.data(), &salt, &[b"redwind v1 segment", &archive, &history, &start]);
    assert_eq!(key.as_slice(), hex(&vectors["segment key"]));
}

#[test]
fn the_segment_holds_the_stream() {
    let vectors = vectors();
    let object = Bytes::from(hex(&vectors["segment"]));
    let segment = Segment::decode(&object, &keys()).unwrap();
    let stream: Vec<u8> = segment.blocks.iter().flat_map(|block| block.bytes().unwrap()).collect();
    assert_eq!(stream, hex(&vectors["stream in the segment"]));
    assert_eq!(segment.header.history, HistoryId(ulid(&vectors["history"])));
}

#[test]
fn the_chunk_holds_the_rdb() {
    let vectors = vectors();
    let (object, rdb) = (Bytes::from(hex(&vectors["chunk"])), hex(&vectors["RDB in the chunk"]));
    let (_, crc32) = object.split_last_chunk::<4>().unwrap();
    let entry = ChunkEntry { stored: object.len() as u64, raw: rdb.len() as u64, crc32: u32::from_le_bytes(*crc32) };
    let id = ChunkId { archive: ulid(&vectors["archive"]), snapshot: ulid(&vectors["snapshot"]), number: 0 };
    assert_eq!(chunk::decode(&object, id, &entry, &keys()).unwrap(), rdb);
}

#[test]
fn the_document_is_signed() {
    let vectors = vectors();
    let history = HistoryId(ulid(&vectors["history"]));
    let name = ObjectName::History(history);
    let object = hex(&vectors["document history/<history>"]);
    let start: HistoryStart = document::decode_signed(&object, &name, &keys()).unwrap().document;
    assert_eq!(start.history, history);
}
