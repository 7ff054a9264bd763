//! Benches of redwind beside its peers.
