//! The lexical layer below [`Framer`](crate::Framer) and [`ExpiryRewriter`](crate::ExpiryRewriter):
//! a resumable scanner over arrays of bulk strings, the only thing an online replication link
//! carries.
//!
//! It never looks into bodies, holds no bytes, allocates nothing and may stop and go on at any byte:
//! its whole state is [`Step`] and a count of arguments. Bodies are skipped by arithmetic, header
//! lines are read by a plain digit loop, which beats a vectorised search on lines of two to six
//! bytes. Unlike a server's own parser it checks every line end, so that a link that has lost its
//! place is noticed at the next command instead of being archived.
//!
//! Servers send keep-alive newlines only before and during a full resync (`replicationCron`,
//! states `WAIT_BGSAVE_START` and `WAIT_BGSAVE_END`), never to a replica that is online; they are
//! therefore errors here, like inline commands, empty arrays and null bulk strings.

use thiserror::Error;

/// The greatest number of arguments of a command, its name included: `INT_MAX`, the limit of
/// `processMultibulkBuffer` (Redis 7.0 and later; earlier servers stop at 1,048,576).
pub const ARGC_MAX: u32 = i32::MAX as u32;

/// The greatest length of one argument in bytes (1 TiB). A replication link is exempt from
/// `proto-max-bulk-len` and modules do send bodies above 512 MiB; no server holds one of this size.
pub const BULK_BYTES_MAX: u64 = 1 << 40;

/// The bytes are not a replication stream: the link has lost its place, or the bytes are damaged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("expected {expected} at byte {at} of the input, found \"{found}\"")]
pub struct FrameError {
    /// Index, in the slice given to the failing call, of the byte that does not fit.
    pub at: usize,
    /// What would have been right there.
    pub expected: &'static str,
    /// The bytes that are there instead: at most 24 of them, escaped.
    pub found: String,
}

impl FrameError {
    #[cold]
    pub(crate) fn new(bytes: &[u8], at: usize, expected: &'static str) -> Self {
        const SHOWN: usize = 24;
        let rest = bytes.get(at..).unwrap_or_default();
        let found = rest.get(..SHOWN).unwrap_or(rest).escape_ascii().to_string();
        Self { at, expected, found }
    }
}

/// How much of a header line has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinePart {
    Nothing,
    Marker,
    Digits,
    Return,
}

/// Where the scanner stands inside a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// In a header line: `$<bytes>` when arguments are left, else `*<argc>`. `value` is the number
    /// as far as it has been read.
    Line { part: LinePart, value: u64 },
    /// In an argument's body or in the CRLF that ends it; `left` counts both.
    Body { left: u64 },
}

impl Step {
    pub(crate) const LINE_START: Self = Self::Line { part: LinePart::Nothing, value: 0 };
}

/// What the scanner has just passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// All input is used up.
    Exhausted,
    /// The line that opens a command.
    Command { argc: u32 },
    /// The line that opens an argument.
    Argument { len: u64 },
    /// Some bytes of an argument's body: `bytes[from..to]`.
    Body { from: usize, to: usize },
    /// The CRLF that ends an argument; `last` when it ends the command too.
    ArgumentEnd { last: bool },
}

/// The scanner's state; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scanner {
    pub(crate) step: Step,
    /// Arguments of the open command that have not ended yet; 0 between commands and in `*<argc>`.
    pub(crate) args_left: u32,
}

impl Scanner {
    pub(crate) const START: Self = Self { step: Step::LINE_START, args_left: 0 };

    /// Whether no byte of a command has been seen since the last one ended.
    pub(crate) fn is_between_commands(&self) -> bool {
        *self == Self::START
    }

    /// Moves `pos` over the next event in `bytes`.
    #[inline(always)]
    pub(crate) fn next(&mut self, bytes: &[u8], pos: &mut usize) -> Result<Event, FrameError> {
        match self.step {
            Step::Line { .. } => self.line(bytes, pos),
            Step::Body { left } => self.body(bytes, pos, left),
        }
    }

    /// Moves `pos` over the arguments that are left of the open command. Returns whether it ended;
    /// if not, the input is used up. Must be called inside a command.
    #[inline]
    pub(crate) fn skip_arguments(&mut self, bytes: &[u8], pos: &mut usize) -> Result<bool, FrameError> {
        loop {
            if self.step == Step::LINE_START && self.skip_whole_arguments(bytes, pos) {
                return Ok(true);
            }
            match self.next(bytes, pos)? {
                Event::Exhausted => return Ok(false),
                Event::ArgumentEnd { last: true } => return Ok(true),
                _ => {}
            }
        }
    }

    /// Skips arguments as long as they lie whole in `bytes`; returns whether that ended the command.
    #[inline(always)]
    fn skip_whole_arguments(&mut self, bytes: &[u8], pos: &mut usize) -> bool {
        let mut at = *pos;
        let mut left = self.args_left;
        while left > 0 {
            let Some((len, body)) = whole_line(bytes, at, b'$', BULK_BYTES_MAX) else { break };
            let Some(end) = usize::try_from(len).ok().and_then(|len| body.checked_add(len)) else {
                break;
            };
            if bytes.get(end..).and_then(|rest| rest.first_chunk()) != Some(b"\r\n") {
                break;
            }
            at = end + 2;
            left -= 1;
        }
        *pos = at;
        self.args_left = left;
        left == 0
    }

    #[inline(always)]
    fn line(&mut self, bytes: &[u8], pos: &mut usize) -> Result<Event, FrameError> {
        let (marker, max) = if self.args_left == 0 { (b'*', u64::from(ARGC_MAX)) } else { (b'$', BULK_BYTES_MAX) };
        let value = match (self.step == Step::LINE_START).then(|| whole_line(bytes, *pos, marker, max)).flatten() {
            Some((value, next)) => {
                *pos = next;
                value
            }
            None => match self.line_by_byte(bytes, pos, marker, max)? {
                Some(value) => value,
                None => return Ok(Event::Exhausted),
            },
        };
        if marker == b'*' {
            // Bounded by ARGC_MAX, hence exact.
            self.args_left = value as u32;
            self.step = Step::LINE_START;
            Ok(Event::Command { argc: self.args_left })
        } else {
            self.step = Step::Body { left: value + 2 };
            Ok(Event::Argument { len: value })
        }
    }

    /// Reads a header line that is cut by the edge of the input, or is wrong.
    #[cold]
    fn line_by_byte(&mut self, bytes: &[u8], pos: &mut usize, marker: u8, max: u64) -> Result<Option<u64>, FrameError> {
        let Step::Line { mut part, mut value } = self.step else { return Ok(None) };
        while let Some(&byte) = bytes.get(*pos) {
            let expected = match (part, byte) {
                (LinePart::Nothing, _) if byte == marker => {
                    part = LinePart::Marker;
                    None
                }
                (LinePart::Nothing, _) if marker == b'*' => Some("a command ('*')"),
                (LinePart::Nothing, _) => Some("an argument ('$')"),
                (LinePart::Marker, b'0') if marker == b'*' => Some("at least one argument"),
                (LinePart::Marker, b'0'..=b'9') => {
                    part = LinePart::Digits;
                    value = u64::from(byte - b'0');
                    None
                }
                (LinePart::Marker, _) => Some("a digit"),
                (LinePart::Digits, b'0'..=b'9') if value == 0 => Some("no leading zero"),
                (LinePart::Digits, b'0'..=b'9') => {
                    // `value` is at most `max`, so this stays far below 2^64.
                    value = value * 10 + u64::from(byte - b'0');
                    match (value > max, marker) {
                        (false, _) => None,
                        (true, b'*') => Some("fewer arguments (at most 2^31-1)"),
                        (true, _) => Some("a shorter argument (at most 2^40 bytes)"),
                    }
                }
                (LinePart::Digits, b'\r') => {
                    part = LinePart::Return;
                    None
                }
                (LinePart::Digits, _) => Some("a digit or CR"),
                (LinePart::Return, b'\n') => {
                    *pos += 1;
                    return Ok(Some(value));
                }
                (LinePart::Return, _) => Some("LF after CR"),
            };
            if let Some(expected) = expected {
                return Err(FrameError::new(bytes, *pos, expected));
            }
            *pos += 1;
            self.step = Step::Line { part, value };
        }
        Ok(None)
    }

    #[inline(always)]
    fn body(&mut self, bytes: &[u8], pos: &mut usize, left: u64) -> Result<Event, FrameError> {
        let from = *pos;
        let there = bytes.len() - from;
        if left > 2 && there > 0 {
            let take = usize::try_from(left - 2).map_or(there, |body| body.min(there));
            *pos = from + take;
            self.step = Step::Body { left: left - take as u64 };
            return Ok(Event::Body { from, to: *pos });
        }
        self.body_end(bytes, pos, left)
    }

    #[inline(always)]
    fn body_end(&mut self, bytes: &[u8], pos: &mut usize, left: u64) -> Result<Event, FrameError> {
        let mut left = left;
        while left > 0 {
            let Some(&byte) = bytes.get(*pos) else {
                self.step = Step::Body { left };
                return Ok(Event::Exhausted);
            };
            let wanted = if left == 2 { b'\r' } else { b'\n' };
            if byte != wanted {
                return Err(FrameError::new(bytes, *pos, "CRLF after an argument"));
            }
            *pos += 1;
            left -= 1;
        }
        self.step = Step::LINE_START;
        self.args_left -= 1;
        Ok(Event::ArgumentEnd { last: self.args_left == 0 })
    }
}

/// The number in a header line that lies whole at `pos`, and the index after it. `None` when it is
/// cut or anything is wrong with it: reading it by byte then finds out which.
#[inline(always)]
fn whole_line(bytes: &[u8], pos: usize, marker: u8, max: u64) -> Option<(u64, usize)> {
    /// Digits of `BULK_BYTES_MAX`.
    const DIGITS_MAX: usize = 13;
    let line = bytes.get(pos..)?;
    let (&first, digits) = line.split_first()?;
    if first != marker {
        return None;
    }
    let mut value = 0u64;
    let mut count = 0;
    let end = loop {
        let &byte = digits.get(count)?;
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break byte;
        }
        if count == DIGITS_MAX {
            return None;
        }
        value = value * 10 + u64::from(digit);
        count += 1;
    };
    let leading_zero = digits.first() == Some(&b'0') && (count > 1 || marker == b'*');
    if end != b'\r' || count == 0 || leading_zero || value > max || digits.get(count + 1) != Some(&b'\n') {
        return None;
    }
    Some((value, pos + count + 3))
}
