//! Stories told on real servers, one module each.

mod faults;
mod harness;
