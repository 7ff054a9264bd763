//! The commands, one module each: its arguments and its `run`.

pub(crate) mod agent;
pub(crate) mod check;
pub(crate) mod keygen;
pub(crate) mod list;
pub(crate) mod restore;
pub(crate) mod rewrap;
pub(crate) mod snapshot;
pub(crate) mod status;
pub(crate) mod verify;
