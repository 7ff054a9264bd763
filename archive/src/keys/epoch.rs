//! One epoch's data key, and the keys that are derived from it.

use std::fmt;

use aws_lc_rs::{constant_time, hkdf, hmac};
use ulid::Ulid;
use zeroize::Zeroizing;

use super::cipher::{Cipher, Encryption, Mac};
use super::error::IdentityError;
use super::identity::Recipients;
use super::wrapping::{self, KeyName};
use crate::chunk::ChunkId;
use crate::position::{HistoryId, Offset};

/// Names an epoch: one run of one agent, which wrote under one data key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpochId(pub Ulid);

impl fmt::Display for EpochId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An epoch with its data key. Neither shown nor copied; wiped when it is dropped.
pub struct Epoch {
    id: EpochId,
    archive: Ulid,
    data: Zeroizing<[u8; 32]>,
    segment_macs: hmac::Key,
    document_macs: hmac::Key,
}

impl Epoch {
    /// A new epoch of an archive, with a random data key.
    ///
    /// # Panics
    /// When the system has no random bytes.
    #[must_use]
    pub fn generate(id: EpochId, archive: Ulid) -> Self {
        let mut data = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(data.as_mut()).expect("the system has random bytes");
        Self::from_data(id, archive, data)
    }

    /// The epoch with that data key.
    #[must_use]
    pub fn from_data(id: EpochId, archive: Ulid, data: Zeroizing<[u8; 32]>) -> Self {
        let mac_key = |what: &[u8]| {
            let key = derive(&data, &[], &[what, &archive.to_bytes()]);
            hmac::Key::new(hmac::HMAC_SHA256, key.as_ref())
        };
        let (segment_macs, document_macs) = (mac_key(b"redwind v1 segment mac"), mac_key(b"redwind v1 document mac"));
        Self { id, archive, segment_macs, document_macs, data }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> EpochId {
        self.id
    }

    /// The archive that it belongs to.
    #[must_use]
    pub fn archive(&self) -> Ulid {
        self.archive
    }

    /// How a new object is encrypted.
    #[must_use]
    pub fn encryption(&self) -> Encryption {
        Encryption::new(self.id)
    }

    /// The data key, wrapped to recipients: an object, and its name.
    ///
    /// # Errors
    /// When it cannot be wrapped.
    pub fn wrap(&self, recipients: &Recipients) -> Result<(KeyName, Vec<u8>), IdentityError> {
        wrapping::wrap(self, recipients)
    }

    /// Whether both have the same data key.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&*self.data, &*other.data).is_ok()
    }

    pub(super) fn data(&self) -> &[u8; 32] {
        &self.data
    }

    /// The key of a segment's blocks.
    pub(crate) fn segment_cipher(&self, encryption: &Encryption, history: HistoryId, start: Offset) -> Cipher {
        let identity: [&[u8]; 4] =
            [b"redwind v1 segment", &self.archive.to_bytes(), &history.0.to_bytes(), &start.0.to_le_bytes()];
        Cipher::new(&derive(&self.data, &encryption.salt, &identity))
    }

    /// The key of a chunk.
    pub(crate) fn chunk_cipher(&self, encryption: &Encryption, id: ChunkId) -> Cipher {
        let identity: [&[u8]; 4] =
            [b"redwind v1 chunk", &id.archive.to_bytes(), &id.snapshot.to_bytes(), &id.number.to_le_bytes()];
        Cipher::new(&derive(&self.data, &encryption.salt, &identity))
    }

    /// Takes in a segment's bytes, as they are written, for its MAC.
    pub(crate) fn begin_segment_mac(&self) -> hmac::Context {
        hmac::Context::with_key(&self.segment_macs)
    }

    /// Whether that is the MAC of a segment's bytes.
    pub(crate) fn is_segment_mac(&self, bytes: &[u8], mac: &Mac) -> bool {
        hmac::verify(&self.segment_macs, bytes, mac).is_ok()
    }

    /// The MAC of a document, given in parts.
    pub(crate) fn document_mac(&self, parts: &[&[u8]]) -> Mac {
        let mut context = hmac::Context::with_key(&self.document_macs);
        parts.iter().for_each(|part| context.update(part));
        finish_mac(context)
    }

    /// Whether that is the MAC of a document.
    pub(crate) fn is_document_mac(&self, parts: &[&[u8]], mac: &Mac) -> bool {
        constant_time::verify_slices_are_equal(&self.document_mac(parts), mac).is_ok()
    }
}

/// The MAC of what a context has taken in.
pub(crate) fn finish_mac(context: hmac::Context) -> Mac {
    context.sign().as_ref().try_into().expect("an HMAC-SHA256 of 32 bytes")
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({})", self.id)
    }
}

/// HKDF-SHA256 (RFC 5869). `info` is given in parts; no two uses have one of the same length.
pub(super) fn derive(data: &[u8; 32], salt: &[u8], info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(data)
        .expand(info, hkdf::HKDF_SHA256)
        .and_then(|derived| derived.fill(key.as_mut()))
        .expect("32 bytes can be derived");
    key
}
