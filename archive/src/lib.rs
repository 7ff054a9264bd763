//! The archive: its format, its object store, what is in it, and how to plan a restore.
//!
//! Both the writer (the agent) and the readers (restore, list, verify) use this crate, so that each
//! promise of the format is made and checked in one place. It knows no sockets and no gRPC.
//!
//! From the inside out: [`position`] and [`time`] say where and when; [`document`], [`documents`],
//! [`segment`] and [`chunk`] are the objects; [`keys`] opens what is encrypted in them; [`layout`] names
//! them; [`store`] keeps them; [`catalog`] knows what there is; [`plan`] finds the way to a target;
//! [`audit`] keeps who restored what.

pub mod audit;
pub mod catalog;
pub mod chain;
pub mod chunk;
mod concurrent;
pub mod document;
pub mod documents;
pub mod keys;
pub mod layout;
pub mod plan;
pub mod position;
pub mod read;
pub mod segment;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod time;
pub mod verify;
mod wire;
