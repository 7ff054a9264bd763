//! Stories told on real servers, one module each.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod access;
mod connecting;
mod faults;
mod harness;
mod manners;
mod recovering;
mod restoring;
mod soak;
mod soundness;
mod stores;
mod two_agents;
