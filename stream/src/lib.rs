//! The replication stream as bytes: boundary scanner, records, RDB framing, relative expiries.
//!
//! What a server sends to a replica is, in this order: the answer to `PSYNC` (read elsewhere), the
//! payload of a full resync ([`PayloadDecoder`], checked in passing by [`RdbCheck`]), and then for
//! ever commands, in which [`Framer`] finds the records. [`ExpiryRewriter`] makes the relative
//! expiries of Redis 6.2 absolute when such a stream is replayed later.
//!
//! Everything here is a state machine fed with slices: no sockets, no files, no clock. Whatever a
//! peer sends, nothing panics and memory stays bounded; each module says by what.

mod command;
mod expiry;
mod framer;
mod payload;
mod rdb;
mod scanner;

pub use command::{encode_command, encode_command_into};
pub use expiry::{ExpiryError, ExpiryRewriter, HELD_KEY_BYTES_MAX};
pub use framer::{Framer, FramerState, FramerStateError, Record, RecordKind};
pub use payload::{Decoded, Framing, PayloadDecoder, PayloadError};
pub use rdb::{RdbCheck, RdbChecksum, RdbError, RdbFormat, RdbInfo};
pub use scanner::{ARGC_MAX, BULK_BYTES_MAX, FrameError};
