//! What a running agent shows of itself, and can be asked for: gRPC, metrics, health.
//!
//! Everything here only reads what the source and the journal publish ([`SourceView`]); it never
//! waits for the server or the store, so that it answers also while both are down. Two requests reach
//! into the data's path, both as messages: a flush now, and a snapshot now. Who may read and ask is
//! [`Access`]'s to say.

mod access;
mod door;
pub mod grpc;
pub mod http;
mod metrics;
mod publisher;
mod status;

pub use access::{Access, AccessError};
pub use metrics::{Metrics, MetricsError};
pub use publisher::{Publisher, StatusFeed};
pub(crate) use status::instant;
pub use status::{SourceView, Watches};
