//! The agent: follows one source over PSYNC and writes its archive.
//!
//! The modules in the order of the data's path: [`config`] says what is followed and where it goes;
//! [`source`] talks to the server and reads its stream; [`journal`] takes what was read to the spool
//! and on to the store. Positions flow back only through watches, which acknowledgements and the
//! [`api`] read. [`app`] wires all of it, starts it and stops it in order.

// In the order of the data's path, which blank lines keep from being sorted.
pub mod config;

pub mod source;

pub mod journal;

pub mod api;

pub mod app;
mod audit;
pub mod error;
