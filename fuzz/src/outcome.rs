//! Telling outcomes and inputs apart.

/// An outcome without its numbers and what is quoted, so that an error at offset 5 that shows `\0` and one at
/// offset 7 that shows `x` are the same; cut to its beginning.
pub(crate) fn shape(outcome: &str) -> String {
    let unquoted = outcome.split('"').step_by(2).flat_map(str::chars);
    unquoted.filter(|char| !char.is_ascii_digit()).take(160).collect()
}

/// FNV-1a: names an input, and seeds what has to be random and the same for it.
pub(crate) fn hash(input: &[u8]) -> u64 {
    input.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
