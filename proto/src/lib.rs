//! `redwind.v1`: the agent's gRPC interface.
//!
//! Owns `redwind/v1/agent.proto`, whose comments are the interface's documentation, and the code
//! generated from it, which is checked in so that a build needs neither protoc nor a generator. A
//! test generates it again and fails when the two differ.

/// Messages, client and server of `redwind.v1`.
#[allow(missing_docs, unreachable_pub, rustdoc::all, clippy::all, clippy::pedantic)]
pub mod v1 {
    include!("generated/redwind.v1.rs");
}

/// The compiled descriptors of `redwind.v1` with its imports and comments, for the reflection service.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/redwind.v1.bin");
