//! The spool and its way to the store.
