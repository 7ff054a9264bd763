//! Data keys as they lie in the archive: ordinary age files.

use std::fmt;

use ulid::Ulid;
use zeroize::Zeroizing;

use super::epoch::{Epoch, EpochId};
use super::error::IdentityError;
use super::identity::{Identities, Recipients};

/// Longest key object that is read: more than one for [`RECIPIENTS_MAX`](super::identity::RECIPIENTS_MAX)
/// takes, at a hundred bytes each.
pub(super) const KEY_OBJECT_BYTES_MAX: u64 = 64 << 10;

/// The name of a wrapped data key within `key/`. An epoch has one or more, each to other recipients.
///
/// An age file has no checksum that could be told without an identity, and must have nothing around
/// it for the stock tool to open it: so its checksum stands in its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName {
    /// The epoch.
    pub epoch: EpochId,
    /// CRC-32 of the object.
    pub crc32: u32,
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}", self.epoch, self.crc32)
    }
}

impl KeyName {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (epoch, crc32) = text.split_once('-')?;
        Some(Self {
            epoch: EpochId(Ulid::from_string(epoch).ok()?),
            crc32: u32::from_str_radix(crc32, 16).ok().filter(|_| crc32.len() == 8)?,
        })
    }

    /// Whether those are the object's bytes.
    #[must_use]
    pub fn fits(&self, object: &[u8]) -> bool {
        crc32fast::hash(object) == self.crc32
    }

    /// Opens the object of that name, as a key of this archive.
    ///
    /// # Errors
    /// [`Unopened`] when none of the identities gives the key of its epoch.
    pub fn open(&self, object: &[u8], archive: Ulid, identities: &Identities) -> Result<Epoch, Unopened> {
        if !self.fits(object) {
            return Err(Unopened::Checksum);
        }
        let text = identities.open(object).map_err(|error| match error {
            age::DecryptError::NoMatchingKeys => Unopened::Locked,
            _ => Unopened::Forged,
        })?;
        parse(self.epoch, archive, &text).ok_or(Unopened::Forged)
    }
}

/// Why a wrapped key gives none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unopened {
    /// It is wrapped to others, as far as that shows.
    #[error("wrapped to others")]
    Locked,
    /// It is not what was put.
    #[error("damaged: its checksum is not that in its name")]
    Checksum,
    /// It is not read at all.
    #[error("damaged: it is longer than any key")]
    TooLong,
    /// It is what was put, and no key of that epoch and archive.
    #[error("forged: its checksum is right, but it holds no key of this epoch and archive")]
    Forged,
}

/// Wraps an epoch's data key: its object, and the object's name.
pub(super) fn wrap(epoch: &Epoch, recipients: &Recipients) -> Result<(KeyName, Vec<u8>), IdentityError> {
    let object = recipients.wrap(text_of(epoch).as_bytes())?;
    Ok((KeyName { epoch: epoch.id(), crc32: crc32fast::hash(&object) }, object))
}

/// What an age file holds: one line, that a person may have to read.
fn text_of(epoch: &Epoch) -> Zeroizing<String> {
    let mut text = Zeroizing::new(format!("redwind-key 1 {} {} ", epoch.archive(), epoch.id()));
    for byte in epoch.data() {
        text.push(hex_digit(byte >> 4));
        text.push(hex_digit(byte & 15));
    }
    text.push('\n');
    text
}

fn hex_digit(value: u8) -> char {
    char::from_digit(u32::from(value), 16).expect("four bits")
}

fn parse(id: EpochId, archive: Ulid, text: &[u8]) -> Option<Epoch> {
    let line = std::str::from_utf8(text).ok()?.strip_suffix('\n')?;
    let key = line.strip_prefix(&format!("redwind-key 1 {archive} {id} "))?;
    if key.len() != 64 {
        return None;
    }
    let mut data = Zeroizing::new([0; 32]);
    for (byte, digits) in data.iter_mut().zip(key.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(Epoch::from_data(id, archive, data))
}
