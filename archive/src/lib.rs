//! The archive: its format, its object store, what is in it, and how to plan a restore.
