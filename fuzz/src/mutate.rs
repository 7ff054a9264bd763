//! Changes of an input, of the kinds that parsers get wrong: bits, lengths, numbers, borders.

use fastrand::Rng;

/// Numbers around which lengths go wrong.
const NUMBERS: [u64; 14] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Bytes that mean something to the formats here.
const BYTES: &[u8] = b"*$+-:\r\n\0\xff 09/.{}[]\"=@#,_TZ";

/// Changes the input once; some changes take from `other`.
pub(crate) fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Rng) {
    match random.u8(..11) {
        0 if !input.is_empty() => {
            let bit = random.usize(..input.len() * 8);
            input[bit / 8] ^= 1 << (bit % 8);
        }
        1 if !input.is_empty() => {
            let at = random.usize(..input.len());
            input[at] = BYTES[random.usize(..BYTES.len())];
        }
        2 => {
            let at = random.usize(..=input.len());
            input.insert(at, BYTES[random.usize(..BYTES.len())]);
        }
        3 => drop(input.drain(range(input.len(), random))),
        4 => {
            let copy = input[range(input.len(), random)].to_vec();
            insert(input, &copy, random);
        }
        5 => input.truncate(random.usize(..=input.len())),
        6 => {
            let taken = &other[range(other.len(), random)];
            insert(input, taken, random);
        }
        7 => overwrite_number(input, random),
        8 => replace_digits(input, random),
        9 => {
            let garbage: Vec<u8> = (0..random.usize(1..20)).map(|_| random.u8(..)).collect();
            input.extend(garbage);
        }
        _ => {
            let tail = random.usize(..=other.len());
            input.truncate(random.usize(..=input.len()));
            input.extend_from_slice(&other[tail..]);
        }
    }
}

/// A range that is usually short.
fn range(length: usize, random: &mut Rng) -> std::ops::Range<usize> {
    let from = random.usize(..=length);
    let most = if random.bool() { 16 } else { length };
    let to = random.usize(from..=length.min(from + most));
    from..to
}

fn insert(input: &mut Vec<u8>, bytes: &[u8], random: &mut Rng) {
    let at = random.usize(..=input.len());
    input.splice(at..at, bytes.iter().copied());
}

fn overwrite_number(input: &mut [u8], random: &mut Rng) {
    let bytes = NUMBERS[random.usize(..NUMBERS.len())].to_le_bytes();
    let width = [1, 2, 4, 8][random.usize(..4)];
    let at = random.usize(..=input.len());
    if let Some(place) = input.get_mut(at..at + width) {
        place.copy_from_slice(&bytes[..width]);
    }
}

/// Puts another number in the place of one that is written in digits.
fn replace_digits(input: &mut Vec<u8>, random: &mut Rng) {
    let digits: Vec<usize> = (0..input.len()).filter(|at| input[*at].is_ascii_digit()).collect();
    if digits.is_empty() {
        return;
    }
    let from = digits[random.usize(..digits.len())];
    let to = (from..input.len()).find(|at| !input[*at].is_ascii_digit()).unwrap_or(input.len());
    let number = NUMBERS[random.usize(..NUMBERS.len())];
    let sign = if random.u8(..4) == 0 { "-" } else { "" };
    input.splice(from..to, format!("{sign}{number}").into_bytes());
}
