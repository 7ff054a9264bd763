//! The agent: follows one source over PSYNC and writes its archive.
