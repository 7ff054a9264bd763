//! What is measured, one module per scenario; each returns a [`crate::report::Section`].

pub mod framing;
pub mod ingest;
pub mod latency;
pub mod memory;
pub mod paired;
pub mod planning;
pub mod restore;
pub mod small_writes;
pub mod snapshot;
pub mod sustained;
