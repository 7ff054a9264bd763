//! Small objects that people may have to read at night: one line that guards, then JSON.
//!
//! ```text
//! redwind <kind> <version> <length> <crc32>\n
//! {json}\n
//! ```
//!
//! `length` counts the bytes after the first newline, in decimal. `crc32` is, in eight lower-case hex
//! digits, the CRC-32 (IEEE) of the first line up to and without the space before it, followed by
//! the bytes after the first newline. Unknown fields are ignored on reading, so that a later release may add
//! some; a change that an older reader must not overlook raises the version.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest document that is read: the manifest of a snapshot of several terabytes.
pub const DOCUMENT_BYTES_MAX: u64 = 64 << 20;

/// A document type: its kind and version, as they stand in the first line.
pub trait Document: Serialize + DeserializeOwned {
    /// The word after `redwind`.
    const KIND: &'static str;
    /// The newest version that this release writes and reads.
    const VERSION: u32;
}

/// Why bytes are not the document that they should be.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The first line is not a document's of that kind.
    #[error("not a redwind {expected} document (its first line is damaged or belongs to something else)")]
    Kind {
        /// The kind that was wanted.
        expected: &'static str,
    },
    /// Written by a later release.
    #[error("{kind} document of version {version}, newer than this release reads ({newest}); use a newer redwind")]
    Newer {
        /// The document's kind.
        kind: &'static str,
        /// Its version.
        version: u32,
        /// The newest version that can be read.
        newest: u32,
    },
    /// Truncated, or with bytes added.
    #[error("damaged: {actual} bytes follow the first line, which promises {expected}")]
    Length {
        /// Length in the first line.
        expected: usize,
        /// Length found.
        actual: usize,
    },
    /// The bytes have changed.
    #[error("damaged: its checksum is wrong")]
    Checksum,
    /// A sound document that does not belong where it lies.
    #[error("misplaced: it belongs to {belongs}")]
    Misplaced {
        /// What it says it belongs to.
        belongs: String,
    },
    /// The JSON does not hold what the document must hold.
    #[error("damaged: its JSON cannot be read")]
    Json(#[from] serde_json::Error),
}

/// Encodes a document.
///
/// # Panics
/// If the type cannot be JSON (a map with keys that are not text): a mistake in the type.
pub fn encode<D: Document>(document: &D) -> Bytes {
    let mut json = serde_json::to_vec_pretty(document).expect("a document is plain JSON");
    json.push(b'\n');
    let mut out = first_line(D::KIND, D::VERSION, &json).into_bytes();
    out.push(b'\n');
    out.append(&mut json);
    Bytes::from(out)
}

/// Decodes a document, checking every promise of its first line.
///
/// # Errors
/// [`DocumentError`] says which promise is broken.
pub fn decode<D: Document>(bytes: &[u8]) -> Result<D, DocumentError> {
    let wrong_kind = DocumentError::Kind { expected: D::KIND };
    let Some(newline) = bytes.iter().take(128).position(|byte| *byte == b'\n') else {
        return Err(wrong_kind);
    };
    let (line, body) = (&bytes[..newline], &bytes[newline + 1..]);
    let Some((version, length)) = parse_first_line(line, D::KIND) else {
        return Err(wrong_kind);
    };
    if version > D::VERSION {
        return Err(DocumentError::Newer { kind: D::KIND, version, newest: D::VERSION });
    }
    if body.len() != length {
        return Err(DocumentError::Length { expected: length, actual: body.len() });
    }
    if line != first_line(D::KIND, version, body).as_bytes() {
        return Err(DocumentError::Checksum);
    }
    Ok(serde_json::from_slice(body)?)
}

fn first_line(kind: &str, version: u32, body: &[u8]) -> String {
    let guarded = format!("redwind {kind} {version} {}", body.len());
    let mut crc = crc32fast::Hasher::new();
    crc.update(guarded.as_bytes());
    crc.update(body);
    format!("{guarded} {:08x}", crc.finalize())
}

/// The version and length in a first line of that kind; its checksum is left to be compared.
fn parse_first_line(line: &[u8], kind: &str) -> Option<(u32, usize)> {
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    if words.next()? != "redwind" || words.next()? != kind {
        return None;
    }
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Note {
        text: String,
    }

    impl Document for Note {
        const KIND: &'static str = "note";
        const VERSION: u32 = 1;
    }

    fn note() -> Note {
        Note { text: "kept".to_owned() }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = encode(&note());
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<Note>(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_truncation_is_noticed() {
        let good = encode(&note());
        for length in 0..good.len() {
            assert!(decode::<Note>(&good[..length]).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn a_later_version_asks_for_a_newer_release() {
        let text = String::from_utf8(encode(&note()).to_vec()).unwrap();
        let later = text.replacen("note 1", "note 2", 1);
        assert!(matches!(decode::<Note>(later.as_bytes()), Err(DocumentError::Newer { version: 2, .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = decode::<Note>(&bytes);
        }
    }
}
