//! The check of an RDB that passes by: that it is one, whole and undamaged, and what it says of its
//! origin.
//!
//! Nothing but the magic and the auxiliary fields at the head is parsed: the rest differs between
//! vendors and versions (opcode 243 and value type 22 mean different things to Redis and Valkey),
//! and framing and checksum do not need it. The trailer is the CRC-64 of Jones over everything
//! before it, little endian; eight zero bytes say that the server did not compute one
//! (`rdbSaveRio`; `rdbchecksum no`, and replicas that asked for none).
//!
//! Memory: the head's field at hand, at most 4 KiB. A longer field ends the reading of the head
//! without being an error: servers before 7.0 append their Lua scripts as fields named `lua`.

mod head;

use crc_fast::{CrcAlgorithm, Digest};
use thiserror::Error;

use head::{Head, HeadReader};

/// Length of the CRC-64 at the end, in bytes.
const TRAILER_BYTES: usize = 8;

/// The opcode right before the trailer (`RDB_OPCODE_EOF`).
const OPCODE_EOF: u8 = 0xFF;

/// Whose format an RDB has, by its magic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RdbFormat {
    /// `REDIS00nn`: Redis, and Valkey before 9.
    Redis,
    /// `VALKEYnnn`: Valkey 9 and later.
    Valkey,
}

/// What the trailer of a whole RDB told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RdbChecksum {
    /// The CRC-64 in the trailer is that of the bytes.
    Verified(u64),
    /// The server wrote none; only length and end were checked.
    Disabled,
}

/// What is known of a whole RDB. A field is `None` when the server did not write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RdbInfo {
    /// Whose format it has.
    pub format: RdbFormat,
    /// The format's version, from the magic: 9 for Redis 6.2, 80 for Valkey 9.
    pub version: u32,
    /// Its length in bytes, magic and trailer included.
    pub bytes: u64,
    /// What its trailer told.
    pub checksum: RdbChecksum,
    /// Version of the Redis server that wrote it (`redis-ver`), or of a Valkey before 8.0.
    pub redis_version: Option<String>,
    /// Version of the Valkey server that wrote it (`valkey-ver`, from 8.0 on).
    pub valkey_version: Option<String>,
    /// The database that the replication stream has selected at `repl_offset` (`repl-stream-db`).
    pub repl_stream_db: Option<u32>,
    /// The replication ID of the stream (`repl-id`).
    pub repl_id: Option<String>,
    /// The offset in the replication stream whose state it holds (`repl-offset`).
    pub repl_offset: Option<u64>,
    /// When the server began to write it, in seconds since the Unix epoch (`ctime`).
    pub created_unix_secs: Option<i64>,
    /// The server's memory in use at that time, in bytes (`used-mem`).
    pub used_memory_bytes: Option<u64>,
}

/// The bytes are no RDB, or not a whole and undamaged one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RdbError {
    /// The first nine bytes are not the magic of an RDB of version 5 or later.
    #[error("not an RDB: it begins with \"{found}\"")]
    Magic {
        /// What they are, escaped.
        found: String,
    },
    /// An auxiliary field in the head is not encoded as any known server does.
    #[error("damaged RDB: the auxiliary field at byte {at} has an unknown encoding")]
    Field {
        /// Offset of the field in the RDB.
        at: u64,
    },
    /// It is too short, or does not end as an RDB does.
    #[error("damaged RDB: no end mark after {bytes} bytes")]
    Truncated {
        /// Its length.
        bytes: u64,
    },
    /// The trailer disagrees with the bytes.
    #[error("damaged RDB: CRC-64 is {computed:016x}, the trailer says {stored:016x}")]
    Checksum {
        /// CRC-64 of the bytes before the trailer.
        computed: u64,
        /// The CRC-64 in the trailer.
        stored: u64,
    },
}

/// The streaming check; see the module.
///
/// Fed with pieces of 4 KiB and more it runs at tens of GB/s.
#[derive(Debug)]
pub struct RdbCheck {
    head: HeadReader,
    digest: Digest,
    bytes: u64,
    /// The last bytes so far, held back because they may be the trailer.
    tail: Vec<u8>,
    /// The last byte that went into the digest.
    last: Option<u8>,
}

impl Default for RdbCheck {
    fn default() -> Self {
        Self::new()
    }
}

impl RdbCheck {
    /// Starts at an RDB's first byte.
    #[must_use]
    pub fn new() -> Self {
        Self {
            head: HeadReader::new(),
            digest: Digest::new(CrcAlgorithm::Crc64Redis),
            bytes: 0,
            tail: Vec::with_capacity(2 * TRAILER_BYTES),
            last: None,
        }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// They do not begin as an RDB does.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), RdbError> {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        self.head.push(bytes)?;
        if bytes.len() < TRAILER_BYTES {
            self.tail.extend_from_slice(bytes);
            let settled = self.tail.len().saturating_sub(TRAILER_BYTES);
            self.digest.update(&self.tail[..settled]);
            self.last = self.tail[..settled].last().copied().or(self.last);
            self.tail.drain(..settled);
        } else {
            let (settled, tail) = bytes.split_at(bytes.len() - TRAILER_BYTES);
            self.digest.update(&self.tail);
            self.digest.update(settled);
            self.last = settled.last().or(self.tail.last()).copied().or(self.last);
            self.tail.clear();
            self.tail.extend_from_slice(tail);
        }
        Ok(())
    }

    /// Judges the whole after its last byte.
    ///
    /// # Errors
    /// It is not whole, or damaged.
    pub fn finish(self) -> Result<RdbInfo, RdbError> {
        let truncated = RdbError::Truncated { bytes: self.bytes };
        let Some(Head { format, version, fields }) = self.head.finish() else {
            return Err(truncated);
        };
        let Ok(trailer) = <[u8; TRAILER_BYTES]>::try_from(self.tail.as_slice()) else {
            return Err(truncated);
        };
        if self.last != Some(OPCODE_EOF) {
            return Err(truncated);
        }
        let checksum = match (u64::from_le_bytes(trailer), self.digest.finalize()) {
            (0, _) => RdbChecksum::Disabled,
            (stored, computed) if stored == computed => RdbChecksum::Verified(stored),
            (stored, computed) => return Err(RdbError::Checksum { computed, stored }),
        };
        Ok(RdbInfo {
            format,
            version,
            bytes: self.bytes,
            checksum,
            redis_version: fields.redis_version,
            valkey_version: fields.valkey_version,
            repl_stream_db: fields.repl_stream_db,
            repl_id: fields.repl_id,
            repl_offset: fields.repl_offset,
            created_unix_secs: fields.created_unix_secs,
            used_memory_bytes: fields.used_memory_bytes,
        })
    }
}

#[cfg(test)]
mod tests;
