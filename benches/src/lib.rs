//! Redwind measured beside its peers, in the same run on the same load.
//!
//! A figure alone says more about the machine than about the program, so every scenario runs the
//! peer, the floor and the agent in interleaved rounds and reports ratios. CPU seconds come from
//! `/proc` and cover whole process trees; wall time is reported but only compared within a round.
//!
//! - [`load`] and [`feed`] make a deterministic load and push it through a socket;
//! - [`server`], [`fake_primary`] and [`bucket`] are what the consumers talk to;
//! - [`consumer`], [`drain`] and [`agent`] are what is measured;
//! - [`process`], [`usage`] and [`sample`] measure;
//! - [`scenario`] puts them together and [`report`] prints the result.
//!
//! Linux only: the accounting reads `/proc`.

pub mod agent;
pub mod bucket;
pub mod consumer;
pub mod drain;
pub mod fake_primary;
pub mod feed;
pub mod lab;
pub mod load;
pub mod process;
pub mod report;
pub mod resp;
pub mod sample;
pub mod scenario;
pub mod server;
pub mod size;
pub mod usage;
