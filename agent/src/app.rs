//! One agent process: build, run, stop.
