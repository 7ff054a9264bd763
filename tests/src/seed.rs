//! Numbers from the environment, and seeds that are always told.

use std::str::FromStr;

use fastrand::Rng;

/// A number in the environment, or `default`.
///
/// # Panics
/// When it is there and is none.
pub fn number<T: FromStr>(variable: &str, default: T) -> T {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}: not a number: {text}")),
        Err(_) => default,
    }
}

/// Chance whose seed is `REDWIND_TEST_SEED`, or a new one; it is printed, so that a failure can be
/// told again.
pub fn chance(story: &str) -> Rng {
    let seed = number("REDWIND_TEST_SEED", fastrand::u64(..));
    println!("{story}: REDWIND_TEST_SEED={seed}");
    Rng::with_seed(seed)
}
