//! The restorer: fetches a plan from an archive and turns it into AOF, RDB or a primary.
