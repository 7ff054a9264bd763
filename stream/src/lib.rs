//! The replication stream as bytes: boundary scanner, records, RDB framing, relative expiries.
