//! Stories told on real servers, one module each.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]
#![expect(clippy::print_stdout, reason = "what a test prints is shown when it fails")]

mod access;
mod connecting;
mod damage;
mod encryption;
mod failover;
mod faults;
mod harness;
mod machine;
mod manners;
mod network;
mod outages;
mod recovering;
mod restoring;
mod server_faults;
mod soak;
mod soundness;
mod stores;
mod two_agents;
