//! Tests of redwind on real servers: the harness.
//!
//! The harness starts real servers ([`server`]), drives a workload on them ([`workload`]), describes
//! what they hold without any of redwind's own code ([`oracle`]), and stands where faults come from:
//! a network between two peers ([`proxy`]), a primary that misbehaves ([`fake_primary`]), an object
//! store that does ([`faulty_store`]). The stories told with it are the modules of `tests/it`; most of
//! them begin and end in [`story`].
//!
//! Everything but the object store is blocking: a story reads from top to bottom, and none of it
//! shares a runtime with the code under test.

#![expect(clippy::print_stdout, reason = "what a test prints is shown when it fails")]

pub mod certificates;
pub mod credentials;
pub mod dataset;
pub mod fake_primary;
pub mod faulty_store;
pub mod figures;
pub mod files;
pub mod graph;
pub mod http_faults;
pub mod ledger;
pub mod mark;
pub mod objects;
pub mod oracle;
pub mod poll;
pub mod process;
pub mod proxy;
pub mod redwind;
pub mod rewrite;
pub mod seed;
pub mod server;
pub mod servers;
pub mod serving;
pub mod story;
pub mod workload;
