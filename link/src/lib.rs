//! A client connection to a Redis-like server: URL, TLS, authentication, replies.
//!
//! Owns everything between "where is the server" and "bytes of its replication stream": the agent's
//! control, log and snapshot connections, `redwind check`, and `restore --into` are made of it.
//! It promises that secrets are never shown, that whatever the server sends is bounded in memory and
//! harmless in an error text, and that every refusal is a [`LinkError`] which tells whether waiting
//! helps.

mod connection;
mod error;
#[cfg(test)]
mod fuzz;
mod info;
mod on_demand;
mod probe;
mod reply;
mod tls;
mod transport;
mod url;
mod version;

pub use connection::Connection;
pub use error::{AuthRefusal, LinkError, sanitised};
pub use info::{InfoError, Module, ReplicationInfo, Role, ServerInfo, ServerKind};
pub use on_demand::{OnDemandReader, OnDemandWriter};
pub use probe::psync_allowed;
pub use reply::{REPLY_BYTES_MAX, Reply};
pub use tls::{TlsError, TlsOptions};
pub use transport::{ReadHalf, Transport, WriteHalf};
pub use url::{Secret, ServerAddress, ServerUrl, UrlError};
pub use version::{ParseVersionError, Version};
