//! The keys of encrypted archives: who has them, and what is derived from them.
//!
//! ```text
//! identity (age) ──opens──► key/<epoch>-… ──holds──► data key ──HKDF──► one key per object, MAC keys
//! ```
//!
//! Each run of an agent writes under an *epoch* of its own: a random data key, put into the archive
//! wrapped to every recipient before anything is encrypted with it. So an agent needs recipients
//! only, which are public, and can read nothing that an earlier run has written. A reader needs an
//! identity, and unlocks a [`Keyring`] with it, which every function that reads takes.
//!
//! Three things are promised. What the stream and the snapshots hold is encrypted (AES-256-GCM, with
//! a key of its own for each object). What says where it belongs is authenticated: a segment as a
//! whole, a chunk's header, the documents that steer a restore. And what can be done without a key
//! still can: checksums, lengths, chain and parser states are in the clear.

mod cipher;
mod epoch;
mod error;
mod identity;
mod keyring;
mod rewrap;
#[cfg(test)]
mod vectors;
mod wrapping;

pub(crate) use cipher::Cipher;
pub use cipher::{Encryption, MAC_BYTES, Mac, TAG_BYTES};
pub(crate) use epoch::finish_mac;
pub use epoch::{Epoch, EpochId};
pub use error::{IdentityError, KeyError};
pub use identity::{Identities, NewIdentity, Recipients};
pub use keyring::{Keyring, Slot, UnlockError};
pub(crate) use keyring::{WrappedKey, read_keys};
pub use rewrap::{RewrapError, rewrap};
pub use wrapping::{KeyName, Unopened};
