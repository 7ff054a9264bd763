//! Everything that talks to the server.
