//! What may befall an object in a bucket.

use bytes::Bytes;

use super::Objects;

/// One way in which an object may be damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Harm {
    /// This bit is another.
    FlippedBit(usize),
    /// Only so many bytes are left.
    CutTo(usize),
    /// Every byte is 0.
    Zeroes,
    /// These bytes follow.
    Garbage(Bytes),
    /// It is not there.
    Deleted,
    /// Something else lies in its place.
    Replaced {
        /// What kind of thing: `sibling`, `other archive`, `older version`.
        by: &'static str,
        /// Its bytes.
        bytes: Bytes,
    },
}

impl Harm {
    /// What it is called in a table.
    #[must_use]
    pub fn describe(&self) -> &'static str {
        match self {
            Self::FlippedBit(_) => "bit flipped",
            Self::CutTo(0) => "zero bytes long",
            Self::CutTo(_) => "truncated",
            Self::Zeroes => "all zeroes",
            Self::Garbage(_) => "garbage appended",
            Self::Deleted => "deleted",
            Self::Replaced { by, .. } => by,
        }
    }

    /// Damages an object.
    ///
    /// # Panics
    /// If there is no such object, bit or length: a mistake in the test.
    pub fn strike(&self, objects: &Objects, name: &str) {
        let good = objects.get(name);
        let bad: Bytes = match self {
            Self::FlippedBit(bit) => {
                let mut bytes = good.to_vec();
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes.into()
            }
            Self::CutTo(length) => good.slice(..*length),
            Self::Zeroes => vec![0; good.len()].into(),
            Self::Garbage(garbage) => [&good[..], garbage].concat().into(),
            Self::Deleted => return drop(objects.remove(name)),
            Self::Replaced { bytes, .. } => bytes.clone(),
        };
        objects.put(name, bad);
    }
}

/// The kind of an object: the first part of its name.
#[must_use]
pub fn kind(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}
