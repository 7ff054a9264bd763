//! What somebody may do to an encrypted archive who can put into its bucket, and has no key of it: every
//! checksum is right, and every name.

use bytes::Bytes;
use serde_json::Value as Json;
use ulid::Ulid;

use super::{Objects, command, kind};
use crate::chunk;
use crate::keys::{Epoch, EpochId, KeyName, Keyring};
use crate::layout::ObjectName;
use crate::segment::{BlockContent, Mark, Segment, SegmentEncoder, SegmentHeader, Trailer, compressor};

/// The polynomial of CRC-32. Whatever it is added to keeps its checksum.
const KEEPS_CHECKSUM: [u8; 5] = [0x41, 0x06, 0x71, 0xdb, 0x01];

/// An archive of which one object is forged.
#[derive(Clone, Debug)]
pub struct Forgery {
    /// How.
    pub what: &'static str,
    /// The object, which may have another name than the one in whose place it lies.
    pub object: String,
    /// All objects.
    pub objects: Objects,
}

/// Every forgery of an object of an encrypted archive, given an archive of the same shape.
///
/// # Panics
/// If the object is damaged: a mistake in the test.
#[must_use]
pub fn forgeries(objects: &Objects, other: &Objects, name: &str) -> Vec<Forgery> {
    let good = objects.get(name);
    let forged = match kind(name) {
        "log" => segments(objects, name, &good),
        "chunk" => chunks(objects, name, &good),
        "history" | "snapshot" => documents(objects, name, &good),
        "key" => keys(objects, other, name, &good),
        _ => Vec::new(),
    };
    let put = |(what, object, bytes): Forged| {
        let copy = objects.copy();
        copy.remove(name);
        copy.put(&object, bytes);
        Forgery { what, object, objects: copy }
    };
    forged.into_iter().map(put).collect()
}

/// How, and the name and bytes of what takes the object's place.
type Forged = (&'static str, String, Vec<u8>);

/// Other objects of the kind, and what lies in them.
fn siblings<'a>(objects: &'a Objects, name: &'a str) -> impl Iterator<Item = Bytes> + 'a {
    let siblings = objects.names().into_iter().filter(move |other| kind(other) == kind(name) && other != name);
    siblings.map(|sibling| objects.get(&sibling))
}

/// Other bytes with the same CRC-32: five of them, from `at` on, are changed.
#[must_use]
pub fn with_same_checksum(good: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = good.to_vec();
    bytes[at..].iter_mut().zip(KEEPS_CHECKSUM).for_each(|(byte, change)| *byte ^= change);
    bytes
}

fn segments(objects: &Objects, name: &str, good: &Bytes) -> Vec<Forged> {
    let Some(ObjectName::Segment(page, _)) = ObjectName::parse(name) else { panic!("{name} is no segment's name") };
    let decode = |bytes: &Bytes| Segment::decode(bytes, &Keyring::Closed).expect("a sound segment");
    let segment = decode(good);
    let mut forged = Vec::new();
    let mut add = |what, segment: &Segment, content: Option<&[u8]>| {
        let (segment, bytes) = encode(segment, content);
        if bytes != *good {
            forged.push((what, ObjectName::Segment(page.clone(), segment).to_string(), bytes));
        }
    };
    let with = |change: &dyn Fn(&mut Segment)| {
        let mut segment = segment.clone();
        change(&mut segment);
        segment
    };
    let later = segment.trailer.read_until.after(std::time::Duration::from_secs(1));
    add("vouches for longer", &with(&|segment| segment.trailer.read_until = later), None);
    add("in another place of the chain", &with(&|segment| segment.header.predecessor = None), None);
    add("written anew", &segment, Some(&command("SET a forged")));
    if !segment.blocks.is_empty() {
        add("cut short", &with(&|segment| drop(segment.blocks.pop())), None);
        let exchanged = siblings(objects, name).map(|bytes| decode(&bytes).blocks).find(|blocks| !blocks.is_empty());
        add("another's blocks", &with(&|segment| segment.blocks = exchanged.clone().unwrap_or_default()), None);
        // The last byte of the payload lies before its tag, which lies before the trailer.
        let at = good.len() - Trailer::bytes(true) - 16;
        forged.push(("another text with the same checksum", name.to_owned(), with_same_checksum(good, at)));
    }
    if segment.blocks.len() > 1 {
        let mut add = |what, segment: &Segment| {
            let (segment, bytes) = encode(segment, None);
            forged.push((what, ObjectName::Segment(page.clone(), segment).to_string(), bytes));
        };
        add("blocks in another order", &with(&|segment| segment.blocks.reverse()));
    }
    forged
}

/// Puts a segment together under a key that bears the right name; with the content, its only block.
fn encode(segment: &Segment, content: Option<&[u8]>) -> (crate::layout::SegmentName, Vec<u8>) {
    let sealer = segment.trailer.seal.map_or(EpochId(Ulid::nil()), |seal| seal.epoch);
    let epoch = Epoch::generate(sealer, segment.header.archive);
    let header = SegmentHeader { encryption: Some(epoch.encryption()), ..segment.header.clone() };
    let mut out = Vec::new();
    let Some(bytes) = content else {
        let mut encoder = SegmentEncoder::begin(segment.header.clone(), Some(&epoch), &mut out);
        for block in &segment.blocks {
            let mut block = block.clone();
            block.start = encoder.end();
            encoder.copy_block(&block, &mut out);
        }
        return finish(encoder, segment, out);
    };
    let mut encoder = SegmentEncoder::begin(header, Some(&epoch), &mut out);
    let marks = [Mark { end: encoder.end().advance(bytes.len() as u64), time: segment.name().time }];
    let content = BlockContent { bytes, marks: &marks, records: 1, writes: 1, framer_end: segment.framer_end() };
    encoder.block(&mut compressor(1).expect("zstd has memory"), &content, &mut out).expect("zstd works");
    finish(encoder, segment, out)
}

fn finish(encoder: SegmentEncoder, segment: &Segment, mut out: Vec<u8>) -> (crate::layout::SegmentName, Vec<u8>) {
    let (name, _) = encoder.finish(segment.trailer.read_until, &mut out);
    (name, out)
}

fn chunks(objects: &Objects, name: &str, good: &Bytes) -> Vec<Forged> {
    let head = chunk::HEAD_BYTES;
    let mut exchanged = good[..head].to_vec();
    exchanged.extend(siblings(objects, name).next().expect("a snapshot has several chunks").slice(head..));
    let end = exchanged.len() - 4;
    let checksum = crc32fast::hash(&exchanged[..end]).to_le_bytes();
    exchanged.splice(end.., checksum);
    vec![
        ("another's payload", name.to_owned(), exchanged),
        // In the salt, and in what is encrypted; the manifest's checksum fits, too.
        ("another salt with the same checksum", name.to_owned(), with_same_checksum(good, head + 16)),
        ("another text with the same checksum", name.to_owned(), with_same_checksum(good, good.len() - 32)),
    ]
}

fn documents(objects: &Objects, name: &str, good: &Bytes) -> Vec<Forged> {
    let edited = |field: &str, value: Json| document(good, None, |json| json[field] = value.clone());
    let mut forged = vec![
        ("not signed", document(good, Some(Vec::new()), |_| {})),
        ("signed under an epoch that is not there", {
            let [_, mac] = signature(good);
            document(good, Some(vec![Ulid::from_parts(7, 7).to_string(), mac]), |_| {})
        }),
    ];
    if kind(name) == "history" {
        forged.push(("another cause", edited("cause", "spool_full".into())));
        forged.push(("another start", edited("start", 99.into())));
    } else {
        forged.push(("another database", edited("stream_database", 5.into())));
        let chunks =
            document(good, None, |json| json["chunks"].as_array_mut().into_iter().for_each(|all| all.reverse()));
        forged.push(("chunks in another order", chunks));
    }
    if let Some(sibling) = siblings(objects, name).next() {
        forged.push(("under another's signature", document(good, Some(signature(&sibling).to_vec()), |_| {})));
    }
    forged.into_iter().map(|(what, bytes)| (what, name.to_owned(), bytes)).collect()
}

fn first_line(document: &[u8]) -> (Vec<String>, &[u8]) {
    let newline = document.iter().position(|byte| *byte == b'\n').expect("a document has a first line");
    let line = String::from_utf8_lossy(&document[..newline]);
    (line.split(' ').map(str::to_owned).collect(), &document[newline + 1..])
}

/// The epoch and the MAC of a signed document.
fn signature(document: &[u8]) -> [String; 2] {
    let (words, _) = first_line(document);
    [words[4].clone(), words[5].clone()]
}

/// A document with other JSON, and perhaps another signature.
fn document(good: &[u8], signature: Option<Vec<String>>, edit: impl FnOnce(&mut Json)) -> Vec<u8> {
    let (words, body) = first_line(good);
    let mut json: Json = serde_json::from_slice(body).expect("a sound document");
    let before = json.clone();
    edit(&mut json);
    let body = if json == before { body.to_vec() } else { format!("{json:#}\n").into_bytes() };
    let signature = signature.unwrap_or_else(|| words[4..6].to_vec());
    let line = [&words[..3], &[body.len().to_string()], &signature].concat().join(" ");
    let checksum = crc32fast::hash(&[line.as_bytes(), &body].concat());
    [format!("{line} {checksum:08x}\n").as_bytes(), &body].concat()
}

fn keys(objects: &Objects, other: &Objects, name: &str, good: &Bytes) -> Vec<Forged> {
    let Some(ObjectName::Key(KeyName { epoch, .. })) = ObjectName::parse(name) else {
        panic!("{name} is no key's name")
    };
    let renamed = |bytes: &Bytes| {
        let name = KeyName { epoch, crc32: crc32fast::hash(bytes) };
        (ObjectName::Key(name).to_string(), bytes.to_vec())
    };
    let mut forged =
        vec![("another text with the same checksum", (name.to_owned(), with_same_checksum(good, good.len() - 8)))];
    forged.extend(siblings(objects, name).next().map(|sibling| ("another epoch's", renamed(&sibling))));
    forged.extend(siblings(other, name).next().map(|foreign| ("another archive's", renamed(&foreign))));
    forged.into_iter().map(|(what, (name, bytes))| (what, name, bytes)).collect()
}
