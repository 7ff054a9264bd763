//! redwind: the command line.
fn main() {}
