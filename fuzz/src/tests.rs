//! That the fuzzer finds what it is there for, in parsers that are made to fail.

use std::panic::catch_unwind;

use super::*;

/// What the fuzzing of a broken parser ends with. What it keeps is removed again.
fn failure(parser: &'static str, memory: Memory, parse: fn(&[u8]) -> String) -> String {
    let run = move || Fuzz::of(parser).seeds([*b"$12\r\n"]).memory(memory).run(parse);
    let panic = catch_unwind(run).expect_err("the parser is broken");
    std::fs::remove_dir_all(folder(parser)).expect("the input was kept");
    panic.downcast_ref::<String>().expect("a message").clone()
}

#[test]
fn a_panic_behind_a_mutation_is_found_and_kept() {
    let text = failure("broken-panics", Memory::default(), |input| {
        assert!(!input.starts_with(b"$-"), "a negative length");
        String::new()
    });
    assert!(text.contains("broken-panics/broke-") && text.contains("a negative length"), "{text}");
}

#[test]
fn memory_for_a_length_that_is_only_claimed_is_found() {
    let text = failure("broken-allocates", Memory::default(), |input| {
        let digits: Vec<u8> = input.iter().copied().filter(u8::is_ascii_digit).collect();
        let length = std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0_u64);
        let buffer: Vec<u8> = Vec::with_capacity(length.min(1 << 20) as usize);
        format!("{}", buffer.capacity())
    });
    assert!(text.contains("are allowed"), "{text}");
}

#[test]
fn outcomes_that_differ_in_numbers_and_quotes_are_one() {
    assert_eq!(outcome::shape("at 15: found \"$1\\r\" there"), outcome::shape("at 7: found \"x\" there"));
    assert_ne!(outcome::shape("at 15: found"), outcome::shape("at 15: expected"));
}

#[test]
fn pieces_make_up_the_input() {
    let input: Vec<u8> = (0..=255).cycle().take(5_000).collect();
    for length in [0, 1, 2, 100, 5_000] {
        assert_eq!(pieces(&input[..length]).concat(), &input[..length]);
    }
}
