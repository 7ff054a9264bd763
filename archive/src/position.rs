//! Where something stands in a replication stream: a history, and an offset in it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// Number of bytes of the replication stream before a point: a boundary between two bytes.
///
/// Equals the server's `master_repl_offset` once the byte before the boundary has been produced
/// (`feedReplicationBacklog` in `replication.c`; PING and GETACK bytes count too). The next byte is
/// asked for with `PSYNC <replid> <offset + 1>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub u64);

impl Offset {
    /// The offset `bytes` further on. Saturates: no stream is 2^64 bytes long.
    #[must_use]
    pub fn advance(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }

    /// The offset `bytes` further back, not below zero.
    #[must_use]
    pub fn back(self, bytes: u64) -> Self {
        Self(self.0.saturating_sub(bytes))
    }

    /// Bytes from `earlier` to `self`; zero when `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a history: a stretch of stream with continuous offsets.
///
/// Sorts by the time at which the history was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HistoryId(pub Ulid);

impl fmt::Display for HistoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for HistoryId {
    type Err = ulid::DecodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ulid::from_string(text).map(Self)
    }
}

/// A point in the archive: a history and an offset in it.
///
/// Written `<history>:<offset>`; with the offset at which a record starts, that is the record's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The history that the offset belongs to.
    pub history: HistoryId,
    /// The boundary in that history's stream.
    pub offset: Offset,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.history, self.offset)
    }
}

/// What is wrong with the text of a position.
#[derive(Debug, thiserror::Error)]
#[error("not a position: expected <history>:<offset>, such as 01K9ZJ3V5X0000000000000000:4711")]
pub struct ParsePositionError;

impl FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (history, offset) = text.split_once(':').ok_or(ParsePositionError)?;
        Ok(Self {
            history: history.parse().map_err(|_| ParsePositionError)?,
            offset: Offset(offset.parse().map_err(|_| ParsePositionError)?),
        })
    }
}

/// The number of an agent's tenure as the archive's only writer. The first term is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Term(pub u64);

impl Term {
    /// The term that fences this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_survives_its_text() {
        let position = Position { history: HistoryId(Ulid::from_parts(1, 2)), offset: Offset(77) };
        assert_eq!(position.to_string().parse::<Position>().unwrap(), position);
        assert!("x:1".parse::<Position>().is_err());
        assert!("77".parse::<Position>().is_err());
    }
}
