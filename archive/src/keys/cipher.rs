//! What is done with derived keys: sealing one object's pieces.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::epoch::EpochId;

/// Length of what authenticates a sealed piece, which follows it.
pub const TAG_BYTES: usize = 16;
/// Length of a [`Mac`].
pub const MAC_BYTES: usize = 32;
/// Length of the random bytes that make an object's key its own.
const SALT_BYTES: usize = 32;

/// An HMAC-SHA256.
pub type Mac = [u8; MAC_BYTES];

/// Under which key an object's contents are encrypted; stands in its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encryption {
    /// The epoch whose data key it is.
    pub epoch: EpochId,
    /// Random bytes that make the object's key its own.
    pub salt: [u8; SALT_BYTES],
}

impl Encryption {
    /// Length of its encoding.
    pub(crate) const BYTES: usize = 16 + SALT_BYTES;

    /// For a new object.
    ///
    /// # Panics
    /// When the system has no random bytes.
    pub(super) fn new(epoch: EpochId) -> Self {
        let mut salt = [0; SALT_BYTES];
        aws_lc_rs::rand::fill(&mut salt).expect("the system has random bytes");
        Self { epoch, salt }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.epoch.0.to_bytes());
        out.extend(self.salt);
    }

    pub(crate) fn decode(fields: &mut crate::wire::Fields<'_>) -> Option<Self> {
        Some(Self { epoch: EpochId(fields.ulid()?), salt: fields.array()? })
    }
}

/// One object's key.
pub(crate) struct Cipher(LessSafeKey);

impl Cipher {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("a key of 32 bytes")))
    }

    /// Encrypts a piece in place. `number` is the piece's in the object, used once; `clear` is what is
    /// authenticated with it.
    pub(crate) fn seal(&self, number: u64, clear: &[u8], piece: &mut [u8]) -> [u8; TAG_BYTES] {
        let sealed = self.0.seal_in_place_separate_tag(nonce(number), Aad::from(clear), piece);
        let tag = sealed.expect("a piece is much shorter than the cipher allows");
        tag.as_ref().try_into().expect("a tag of 16 bytes")
    }

    /// Decrypts a piece that its tag follows; `None` when it, or what is authenticated with it, is not
    /// what was sealed.
    pub(crate) fn open(&self, number: u64, clear: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (piece, tag) = sealed.split_last_chunk::<TAG_BYTES>()?;
        let mut out = vec![0; piece.len()];
        self.0.open_separate_gather(nonce(number), Aad::from(clear), piece, tag, &mut out).ok()?;
        Some(out)
    }
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher")
    }
}

/// Each key is one object's, so that counting its pieces never repeats a nonce.
fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}
