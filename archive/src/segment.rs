//! Segments: immutable objects that hold a byte range of one history.
//!
//! ```text
//! header | block | block | … | trailer
//! ```
//!
//! A segment is written front to back and is its own journal: what stands in the agent's spool while
//! it grows is, byte for byte, what is stored once the trailer has been added. Each part carries its
//! checksum, so the valid prefix of a segment whose writer died can be told and sealed
//! ([`recover`]). `docs/format.md` draws every byte.

mod block;
mod decoder;
mod encoder;
mod header;
mod trailer;

pub use block::{BLOCK_BYTES_MAX, Block, BlockContent, Mark};
pub use decoder::{Recovered, Segment, SegmentError, recover};
pub use encoder::{SegmentEncoder, compressor};
pub use header::{ReplicationId, SegmentHeader};
pub use trailer::{Fingerprint, Seal, Trailer};

#[cfg(test)]
mod tests;
