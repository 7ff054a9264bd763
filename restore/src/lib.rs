//! The restorer: turns a plan into an append-only file, an RDB file, or a running server's dataset.
//!
//! ```text
//! RestorePlan -> Recording -> fetch (RDB, stream: checked, ahead of the consumer)
//!                  -> aof      files that a server starts from; needs no engine
//!                  -> primary  servers that replicate from us: rdb (a throw-away engine that saves),
//!                              into (a server that is released at the cut), serve (whoever comes)
//! ```
//!
//! Nothing appears at a file destination before it is whole, nothing damaged is handed on as a whole,
//! and no server is touched before it has been found fit.

pub mod aof;
pub mod engine;
mod error;
pub mod fetch;
pub mod fitness;
pub mod into;
mod place;
pub mod primary;
mod progress;
pub mod rdb;
mod recording;
mod replica;

pub use error::RestoreError;
pub use place::PlaceError;
pub use progress::Progress;
pub use recording::Recording;
