//! Tests of redwind on real servers.
