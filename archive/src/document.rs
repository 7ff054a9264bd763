//! Small objects that people may have to read at night: one line that guards, then JSON.
//!
//! ```text
//! redwind <kind> <version> <length> <crc32>\n
//! {json}\n
//! ```
//!
//! In an encrypted archive, the documents that steer a restore are *signed*: before the checksum stand
//! the writer's key epoch and a MAC of the object's name and everything else in it.
//!
//! ```text
//! redwind <kind> <version> <length> <epoch> <mac> <crc32>\n
//! ```
//!
//! `length` counts the bytes after the first newline, in decimal. `crc32` is, in eight lower-case hex
//! digits, the CRC-32 (IEEE) of the first line up to and without the space before it, followed by
//! the bytes after the first newline. Unknown fields are ignored on reading, so that a later release may add
//! some; a change that an older reader must not overlook raises the version.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::keys::{Epoch, EpochId, KeyError, Keyring, MAC_BYTES, Mac};
use crate::layout::ObjectName;

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
    /// Its checksum is right, but it was not written by one who has the key.
    #[error("forged: it is not what was signed, though its checksum is right")]
    Forged,
    /// Not signed although the archive is encrypted and such a document is then, or the reverse.
    #[error("misplaced: {}", if *.signed { "signed, and here it would not be" } else { "not signed, and the archive is encrypted" })]
    Mode {
        /// Whether the document is signed.
        signed: bool,
    },
    /// Whether it is authentic cannot be told.
    #[error(transparent)]
    Key(#[from] KeyError),
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

impl DocumentError {
    /// Whether the document is damaged, rather than the reader without its key.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        if let Self::Key(error) = self { error.is_damage() } else { true }
    }
}

/// Encodes a document that is not signed.
///
/// # Panics
/// If the type cannot be JSON (a map with keys that are not text): a mistake in the type.
pub fn encode<D: Document>(document: &D) -> Bytes {
    assemble(&Promise::of(document), &json(document))
}

/// Encodes a document that steers a restore; in an encrypted archive, `epoch` is the writer's.
///
/// # Panics
/// As [`encode`].
pub fn encode_signed<D: Document>(document: &D, name: &ObjectName, epoch: Option<&Epoch>) -> Bytes {
    let body = json(document);
    let mut promise = Promise::of(document);
    promise.signature = epoch.map(|epoch| {
        let line = promise.signed_line(body.len(), epoch.id());
        Signature { epoch: epoch.id(), mac: epoch.document_mac(&signed_parts(&name.to_string(), &line, &body)) }
    });
    assemble(&promise, &body)
}

fn json(document: &impl Document) -> Vec<u8> {
    let mut json = serde_json::to_vec_pretty(document).expect("a document is plain JSON");
    json.push(b'\n');
    json
}

fn assemble(promise: &Promise, body: &[u8]) -> Bytes {
    Bytes::from([promise.line(body).as_bytes(), b"\n", body].concat())
}

/// Decodes a document that is not signed in any archive, checking every promise of its first line.
///
/// # Errors
/// [`DocumentError`] says which promise is broken.
pub fn decode<D: Document>(bytes: &[u8]) -> Result<D, DocumentError> {
    let (promise, body) = check::<D>(bytes)?;
    if promise.signature.is_some() {
        return Err(DocumentError::Mode { signed: true });
    }
    Ok(serde_json::from_slice(body)?)
}

/// A document that steers a restore, and who vouches for it.
#[derive(Clone, Debug)]
pub struct Signed<D> {
    /// The document.
    pub document: D,
    /// The epoch under which it is signed; `None` in an archive that is not encrypted.
    pub signer: Option<EpochId>,
}

/// Decodes a document that steers a restore, checking its signature too; with a keyring that leaves
/// closed what it cannot open, only that it has one.
///
/// # Errors
/// [`DocumentError`] says which promise is broken.
pub fn decode_signed<D: Document>(bytes: &[u8], name: &ObjectName, keys: &Keyring) -> Result<Signed<D>, DocumentError> {
    let (promise, body) = check::<D>(bytes)?;
    if promise.signature.is_some() != keys.is_encrypted() {
        return Err(DocumentError::Mode { signed: promise.signature.is_some() });
    }
    if let Some(Signature { epoch, mac }) = &promise.signature {
        let (name, line) = (name.to_string(), promise.signed_line(body.len(), *epoch));
        let (signers, parts) = (keys.data_keys(*epoch)?, signed_parts(&name, &line, body));
        if !signers.is_empty() && !signers.iter().any(|key| key.is_document_mac(&parts, mac)) {
            return Err(DocumentError::Forged);
        }
    }
    let signer = promise.signature.map(|signature| signature.epoch);
    Ok(Signed { document: serde_json::from_slice(body)?, signer })
}

/// What a document's MAC is taken of.
fn signed_parts<'a>(name: &'a str, line: &'a str, body: &'a [u8]) -> [&'a [u8]; 5] {
    [name.as_bytes(), b"\n", line.as_bytes(), b"\n", body]
}

/// Checks the form and the checksum; gives the first line's promise and the body.
fn check<D: Document>(bytes: &[u8]) -> Result<(Promise, &[u8]), DocumentError> {
    let wrong_kind = DocumentError::Kind { expected: D::KIND };
    let Some(newline) = bytes.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') else {
        return Err(wrong_kind);
    };
    let (line, body) = (&bytes[..newline], &bytes[newline + 1..]);
    let Some((promise, length)) = std::str::from_utf8(line).ok().and_then(|line| Promise::parse(line, D::KIND)) else {
        return Err(wrong_kind);
    };
    if promise.version > D::VERSION {
        return Err(DocumentError::Newer { kind: D::KIND, version: promise.version, newest: D::VERSION });
    }
    if body.len() != length {
        return Err(DocumentError::Length { expected: length, actual: body.len() });
    }
    if line != promise.line(body).as_bytes() {
        return Err(DocumentError::Checksum);
    }
    Ok((promise, body))
}

/// Longer than any first line.
const LINE_BYTES_MAX: usize = 256;

/// What a first line says, but for what can be told from the body.
struct Promise {
    kind: &'static str,
    version: u32,
    signature: Option<Signature>,
}

struct Signature {
    epoch: EpochId,
    mac: Mac,
}

impl Promise {
    fn of<D: Document>(_: &D) -> Self {
        Self { kind: D::KIND, version: D::VERSION, signature: None }
    }

    /// The first line of that body; its checksum is left to be compared.
    fn line(&self, body: &[u8]) -> String {
        let guarded = match &self.signature {
            None => self.unsigned_line(body.len()),
            Some(Signature { epoch, mac }) => format!("{} {}", self.signed_line(body.len(), *epoch), hex(mac)),
        };
        let mut crc = crc32fast::Hasher::new();
        crc.update(guarded.as_bytes());
        crc.update(body);
        format!("{guarded} {:08x}", crc.finalize())
    }

    fn unsigned_line(&self, length: usize) -> String {
        format!("redwind {} {} {length}", self.kind, self.version)
    }

    /// The part of the first line that is signed.
    fn signed_line(&self, length: usize, epoch: EpochId) -> String {
        format!("{} {epoch}", self.unsigned_line(length))
    }

    /// Reads a first line of that kind; also tells the length of the body.
    fn parse(line: &str, kind: &'static str) -> Option<(Self, usize)> {
        let words: Vec<&str> = line.split(' ').collect();
        let (version, length, signature) = match words.as_slice() {
            ["redwind", found, version, length, _] if *found == kind => (version, length, None),
            ["redwind", found, version, length, epoch, mac, _] if *found == kind => {
                let epoch = EpochId(ulid::Ulid::from_string(epoch).ok()?);
                (version, length, Some(Signature { epoch, mac: unhex(mac)? }))
            }
            _ => return None,
        };
        Some((Self { kind, version: version.parse().ok()?, signature }, length.parse().ok()?))
    }
}

fn hex(mac: &Mac) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Mac> {
    let mut mac = [0; MAC_BYTES];
    if text.len() != 2 * MAC_BYTES {
        return None;
    }
    for (byte, digits) in mac.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(mac)
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
    fn a_signature_that_nobody_checks_is_refused() {
        let epoch = Epoch::generate(EpochId(ulid::Ulid::from(2)), ulid::Ulid::from(1));
        let signed = encode_signed(&note(), &ObjectName::Marker, Some(&epoch));
        assert!(matches!(decode::<Note>(&signed), Err(DocumentError::Mode { signed: true })));
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
