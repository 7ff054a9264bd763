//! The head of an RDB: its magic and the auxiliary fields before everything else, read from pieces
//! cut anywhere.

use super::{RdbError, RdbFormat};

/// Length of the magic in bytes.
const MAGIC_BYTES: usize = 9;

/// The opcode before each auxiliary field (`RDB_OPCODE_AUX`).
const OPCODE_AUX: u8 = 250;

/// The longest field (opcode, name, value) that is read, in bytes as encoded and as decoded.
const FIELD_BYTES_MAX: usize = 4096;

/// How many fields are read; servers write about ten.
const FIELDS_MAX: usize = 64;

/// The first version with a checksum (Redis 2.6).
const VERSION_MIN: u32 = 5;

/// What the head says.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) format: RdbFormat,
    pub(super) version: u32,
    pub(super) fields: Fields,
}

/// The auxiliary fields that matter to a backup; see [`super::RdbInfo`].
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) redis_version: Option<String>,
    pub(super) valkey_version: Option<String>,
    pub(super) repl_stream_db: Option<u32>,
    pub(super) repl_id: Option<String>,
    pub(super) repl_offset: Option<u64>,
    pub(super) created_unix_secs: Option<i64>,
    pub(super) used_memory_bytes: Option<u64>,
}

/// Reads the head and ignores what follows it.
#[derive(Debug)]
pub(super) struct HeadReader {
    head: Option<Head>,
    /// Bytes of the magic or the field at hand, as long as they are not all there.
    partial: Vec<u8>,
    /// Offset of `partial` in the RDB.
    at: u64,
    fields_left: usize,
    /// No further byte is looked at.
    done: bool,
}

impl HeadReader {
    pub(super) fn new() -> Self {
        Self { head: None, partial: Vec::new(), at: 0, fields_left: FIELDS_MAX, done: false }
    }

    /// What was found; `None` when not even the magic was there.
    pub(super) fn finish(self) -> Option<Head> {
        self.head
    }

    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), RdbError> {
        while !self.done && !bytes.is_empty() {
            // Room for one whole field, so that what is left of `bytes` is not copied in vain.
            let take = bytes.len().min(FIELD_BYTES_MAX.saturating_sub(self.partial.len()));
            self.partial.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            self.read()?;
            if self.partial.len() >= FIELD_BYTES_MAX {
                self.done = true;
            }
        }
        if self.done {
            self.partial = Vec::new();
        }
        Ok(())
    }

    /// Reads whatever is whole in `partial`.
    fn read(&mut self) -> Result<(), RdbError> {
        let partial = std::mem::take(&mut self.partial);
        let mut rest = partial.as_slice();
        while !self.done {
            let before = rest.len();
            match &mut self.head {
                None => match rest.split_first_chunk::<MAGIC_BYTES>() {
                    Some((magic, after)) => {
                        self.head = Some(parse_magic(magic)?);
                        rest = after;
                    }
                    None => break,
                },
                Some(head) => match rest.split_first() {
                    None => break,
                    Some((&OPCODE_AUX, after)) if self.fields_left > 0 => {
                        let mut field = after;
                        match parse_field(&mut field) {
                            Ok((name, value)) => head.fields.set(&name, value),
                            Err(Incomplete::More) => break,
                            Err(Incomplete::TooLong) => self.done = true,
                            Err(Incomplete::Unknown) => {
                                return Err(RdbError::Field { at: self.at });
                            }
                        }
                        self.fields_left -= 1;
                        rest = field;
                    }
                    Some(_) => self.done = true,
                },
            }
            self.at += (before - rest.len()) as u64;
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }
}

fn parse_magic(magic: &[u8; MAGIC_BYTES]) -> Result<Head, RdbError> {
    let (format, digits) = match magic {
        [b'R', b'E', b'D', b'I', b'S', digits @ ..] => (RdbFormat::Redis, &digits[..]),
        [b'V', b'A', b'L', b'K', b'E', b'Y', digits @ ..] => (RdbFormat::Valkey, &digits[..]),
        _ => (RdbFormat::Redis, &[][..]),
    };
    let digits = str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let version = digits.and_then(|digits| digits.parse().ok()).filter(|&v| v >= VERSION_MIN);
    match version {
        Some(version) => Ok(Head { format, version, fields: Fields::default() }),
        None => Err(RdbError::Magic { found: magic.escape_ascii().to_string() }),
    }
}

impl Fields {
    /// A value that is no number where one belongs is as good as none.
    fn set(&mut self, name: &[u8], value: Vec<u8>) {
        let Ok(value) = String::from_utf8(value) else { return };
        match name {
            b"redis-ver" => self.redis_version = Some(value),
            b"valkey-ver" => self.valkey_version = Some(value),
            b"repl-stream-db" => self.repl_stream_db = value.parse().ok(),
            b"repl-id" => self.repl_id = Some(value),
            b"repl-offset" => self.repl_offset = value.parse().ok(),
            b"ctime" => self.created_unix_secs = value.parse().ok(),
            b"used-mem" => self.used_memory_bytes = value.parse().ok(),
            _ => {}
        }
    }
}

/// Why a field cannot be read.
enum Incomplete {
    /// It does not end in these bytes.
    More,
    /// It is longer than what is read.
    TooLong,
    /// Not an encoding that any server writes.
    Unknown,
}

fn parse_field(bytes: &mut &[u8]) -> Result<(Vec<u8>, Vec<u8>), Incomplete> {
    let name = parse_string(bytes)?;
    Ok((name, parse_string(bytes)?))
}

/// The two high bits of a length's first byte, and what a string with both set is
/// (`rdbLoadLenByRef`, `rdbGenericLoadStringObject`).
fn parse_string(bytes: &mut &[u8]) -> Result<Vec<u8>, Incomplete> {
    let &first = bytes.first().ok_or(Incomplete::More)?;
    if first >> 6 != 3 {
        let length = parse_length(bytes)?;
        return take(bytes, length).map(<[u8]>::to_vec);
    }
    take(bytes, 1)?;
    match first & 0x3F {
        0 => take_array(bytes).map(|number| text(i8::from_le_bytes(number))),
        1 => take_array(bytes).map(|number| text(i16::from_le_bytes(number))),
        2 => take_array(bytes).map(|number| text(i32::from_le_bytes(number))),
        3 => {
            let compressed = parse_length(bytes)?;
            let length = parse_length(bytes)?;
            if length > FIELD_BYTES_MAX {
                return Err(Incomplete::TooLong);
            }
            decompress(take(bytes, compressed)?, length).ok_or(Incomplete::Unknown)
        }
        _ => Err(Incomplete::Unknown),
    }
}

fn text(number: impl ToString) -> Vec<u8> {
    number.to_string().into_bytes()
}

fn parse_length(bytes: &mut &[u8]) -> Result<usize, Incomplete> {
    let [first] = take_array(bytes)?;
    let length = match (first >> 6, first) {
        (0, _) => u64::from(first),
        (1, _) => {
            let [second] = take_array(bytes)?;
            u64::from(first & 0x3F) << 8 | u64::from(second)
        }
        (_, 0x80) => u64::from(u32::from_be_bytes(take_array(bytes)?)),
        (_, 0x81) => u64::from_be_bytes(take_array(bytes)?),
        _ => return Err(Incomplete::Unknown),
    };
    usize::try_from(length).map_err(|_| Incomplete::TooLong)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], Incomplete> {
    if length > FIELD_BYTES_MAX {
        return Err(Incomplete::TooLong);
    }
    let (taken, rest) = bytes.split_at_checked(length).ok_or(Incomplete::More)?;
    *bytes = rest;
    Ok(taken)
}

fn take_array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Incomplete> {
    let (taken, rest) = bytes.split_first_chunk().ok_or(Incomplete::More)?;
    *bytes = rest;
    Ok(*taken)
}

/// LZF as servers use it (`lzf_decompress`): runs of literals, and references to what was written.
fn decompress(mut input: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut out: Vec<u8> = Vec::with_capacity(length);
    while let Some((&control, rest)) = input.split_first() {
        input = rest;
        let control = usize::from(control);
        if control < 32 {
            let (literals, rest) = input.split_at_checked(control + 1)?;
            out.extend_from_slice(literals);
            input = rest;
        } else {
            let mut count = control >> 5;
            if count == 7 {
                let (&more, rest) = input.split_first()?;
                count += usize::from(more);
                input = rest;
            }
            let (&low, rest) = input.split_first()?;
            input = rest;
            let distance = ((control & 31) << 8 | usize::from(low)) + 1;
            let from = out.len().checked_sub(distance)?;
            for at in from..from + count + 2 {
                out.push(*out.get(at)?);
            }
        }
        if out.len() > length {
            return None;
        }
    }
    (out.len() == length).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decompresses_literals_and_overlapping_references() {
        assert_eq!(decompress(b"\x00a\xe0\x1f\x00", 41), Some(vec![b'a'; 41]));
        assert_eq!(decompress(b"\x03abcd\x20\x03", 7), Some(b"abcdabc".to_vec()));
    }

    #[test]
    fn damaged_compression_is_refused() {
        for damaged in [&b"\x20\x00"[..], b"\x03abc", b"\xe0", b"\x00a\x20", b"\x00a\x20\x05"] {
            assert_eq!(decompress(damaged, 3), None, "{}", damaged.escape_ascii());
        }
        assert_eq!(decompress(b"\x03abcd", 3), None);
        assert_eq!(decompress(b"\x00a", 3), None);
    }
}
