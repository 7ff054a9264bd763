//! The framer's state as a value, and its encoding.

use thiserror::Error;

use super::RecordKind;
use crate::scanner::{ARGC_MAX, BULK_BYTES_MAX, LinePart, Scanner, Step};

/// Everything a [`Framer`](super::Framer) knows at one position of the stream.
///
/// # Encoding
/// 46 bytes, numbers little endian. The container that holds it carries the version. Every state
/// has one encoding only, and [`decode`](Self::decode) accepts nothing else.
///
/// | offset | bytes | meaning |
/// |---|---|---|
/// | 0 | 1 | flags: bit 0 the database is known; bit 1 inside MULTI; bit 2 the database at MULTI was known; bits 3-4 kind of the open transaction so far (0 idle, 1 getack, 2 write); others 0 |
/// | 1 | 4 | database selected here, 0 if unknown |
/// | 5 | 4 | database selected at MULTI, 0 if unknown or outside MULTI |
/// | 9 | 8 | bytes of the open record that lie before this position; 0 at a record boundary |
/// | 17 | 4 | commands that ended so far in the open transaction, MULTI included; 0 outside MULTI |
/// | 21 | 4 | arguments of the open command that have not ended; 0 between commands and in the line `*<argc>` |
/// | 25 | 1 | step: 0 before a header line, 1 after its `*` or `$`, 2 in its digits, 3 after its CR, 4 in a body or the CRLF after it |
/// | 26 | 8 | step 2 and 3: the line's number as far as read; step 4: bytes left of body and CRLF; else 0 |
/// | 34 | 1 | command: 0 name not yet read, 1 write, 2 idle, 3 SELECT, 4 REPLCONF (first argument not yet read), 5 REPLCONF GETACK, 6 MULTI, 7 EXEC, 8 DISCARD |
/// | 35 | 1 | length of the token, at most 10 |
/// | 36 | 10 | the token, padded with 0: the bytes of the name (command 0) or first argument (3, 4) read so far, kept only when the whole of it has at most 10 bytes |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FramerState {
    pub(super) database: Option<u32>,
    /// Inside a transaction: the database that was selected when it began.
    pub(super) transaction: Option<Option<u32>>,
    pub(super) record_bytes: u64,
    /// Of the open transaction; 0 outside of one.
    pub(super) commands: u32,
    /// Of the open transaction; `Idle` outside of one.
    pub(super) kind: RecordKind,
    pub(super) scanner: Scanner,
    pub(super) command: Command,
    pub(super) token: Token,
}

/// A stored framer state is damaged, or is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FramerStateError {
    /// It has another length than [`FramerState::ENCODED_LEN`].
    #[error("a framer state has {wanted} bytes, not {found}", wanted = FramerState::ENCODED_LEN)]
    Length {
        /// Its length in bytes.
        found: usize,
    },
    /// No framer is ever in such a state.
    #[error("framer state with an impossible {field}")]
    Impossible {
        /// The part that contradicts itself or the others.
        field: &'static str,
    },
}

/// What is known of the command that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Its name has not been read to the end.
    Unnamed,
    Write,
    Idle,
    /// Its argument decides.
    Select,
    /// Its first argument decides.
    Replconf,
    Getack,
    Multi,
    Exec,
    Discard,
}

impl Command {
    const ALL: [Self; 9] = [
        Self::Unnamed,
        Self::Write,
        Self::Idle,
        Self::Select,
        Self::Replconf,
        Self::Getack,
        Self::Multi,
        Self::Exec,
        Self::Discard,
    ];

    /// Servers pass names on as the client wrote them, and send some of their own in lower case.
    #[inline(always)]
    pub(super) fn named(name: &[u8]) -> Self {
        let is = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
        match name.len() {
            4 if is(b"PING") => Self::Idle,
            4 if is(b"EXEC") => Self::Exec,
            5 if is(b"MULTI") => Self::Multi,
            6 if is(b"SELECT") => Self::Select,
            7 if is(b"DISCARD") => Self::Discard,
            8 if is(b"REPLCONF") => Self::Replconf,
            _ => Self::Write,
        }
    }

    /// Whether no further byte of the command can change what it is.
    #[inline(always)]
    pub(super) fn is_known(self) -> bool {
        !matches!(self, Self::Unnamed | Self::Select | Self::Replconf)
    }

    #[inline(always)]
    pub(super) fn kind(self) -> RecordKind {
        match self {
            // EXEC and DISCARD count only where they end no transaction, and then for unknown.
            Self::Write | Self::Exec | Self::Discard => RecordKind::Write,
            Self::Getack => RecordKind::Getack,
            _ => RecordKind::Idle,
        }
    }
}

/// The first bytes of a name or argument that decides what a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    len: u8,
    bytes: [u8; Self::MAX],
}

impl Token {
    /// Enough for `REPLCONF` and for every 32-bit number.
    pub(super) const MAX: usize = 10;
    pub(super) const EMPTY: Self = Self { len: 0, bytes: [0; Self::MAX] };

    #[inline(always)]
    pub(super) fn extend(&mut self, more: &[u8]) {
        let from = usize::from(self.len);
        if let Some(room) = self.bytes.get_mut(from..from + more.len()) {
            room.copy_from_slice(more);
            self.len += more.len() as u8;
        }
    }

    #[inline(always)]
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// A database number as servers write it; they count databases in an `int`.
    pub(super) fn as_database(&self) -> Option<u32> {
        let text = self.as_bytes();
        if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
            return None;
        }
        str::from_utf8(text).ok()?.parse().ok().filter(|&number| number <= i32::MAX as u32)
    }
}

impl FramerState {
    /// Length of the encoding in bytes.
    pub const ENCODED_LEN: usize = 46;

    /// The database selected here, if known.
    #[must_use]
    pub fn database(&self) -> Option<u32> {
        self.database
    }

    /// Whether a `MULTI` is open.
    #[must_use]
    pub fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// How many bytes of the open record lie before this position: the record began so many bytes
    /// earlier. 0 at a record boundary.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        self.record_bytes
    }

    /// How many commands of the open record have ended, `MULTI` included.
    #[must_use]
    pub fn commands(&self) -> u32 {
        self.commands
    }

    /// Whether the open record is known to hold a write, be it a command that has not ended.
    #[must_use]
    pub fn holds_write(&self) -> bool {
        self.kind == RecordKind::Write || self.command == Command::Write
    }

    /// Appends the encoding, [`ENCODED_LEN`](Self::ENCODED_LEN) bytes, to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let known = u8::from(self.database.is_some());
        let inside = u8::from(self.transaction.is_some()) << 1;
        let known_before = u8::from(self.transaction.flatten().is_some()) << 2;
        out.push(known | inside | known_before | (self.kind as u8) << 3);
        out.extend_from_slice(&self.database.unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&self.transaction.flatten().unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&self.record_bytes.to_le_bytes());
        out.extend_from_slice(&self.commands.to_le_bytes());
        out.extend_from_slice(&self.scanner.args_left.to_le_bytes());
        let (step, value) = match self.scanner.step {
            Step::Line { part, value } => (part as u8, value),
            Step::Body { left } => (BODY, left),
        };
        out.push(step);
        out.extend_from_slice(&value.to_le_bytes());
        out.push(self.command as u8);
        out.push(self.token.len);
        out.extend_from_slice(&self.token.bytes);
    }

    /// Reads back what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// `bytes` has another length or describes a state that no framer can be in.
    pub fn decode(bytes: &[u8]) -> Result<Self, FramerStateError> {
        let bytes: &[u8; Self::ENCODED_LEN] =
            bytes.try_into().map_err(|_| FramerStateError::Length { found: bytes.len() })?;
        let flags = bytes[0];
        let database = number(flags & 1 != 0, u32_at(bytes, 1), "database")?;
        let before = number(flags & 4 != 0, u32_at(bytes, 5), "database at MULTI")?;
        let kind = match flags >> 3 {
            0 => RecordKind::Idle,
            1 => RecordKind::Getack,
            2 => RecordKind::Write,
            _ => return impossible("flags"),
        };
        let step = match (bytes[25], u64_at(bytes, 26)) {
            (0, value) => Step::Line { part: LinePart::Nothing, value },
            (1, value) => Step::Line { part: LinePart::Marker, value },
            (2, value) => Step::Line { part: LinePart::Digits, value },
            (3, value) => Step::Line { part: LinePart::Return, value },
            (BODY, left) => Step::Body { left },
            _ => return impossible("step"),
        };
        let mut token = Token { len: bytes[35], bytes: [0; Token::MAX] };
        token.bytes.copy_from_slice(&bytes[36..46]);
        let command = Command::ALL
            .get(usize::from(bytes[34]))
            .copied()
            .ok_or(FramerStateError::Impossible { field: "command" })?;
        let state = Self {
            database,
            transaction: (flags & 2 != 0).then_some(before),
            record_bytes: u64_at(bytes, 9),
            commands: u32_at(bytes, 17),
            kind,
            scanner: Scanner { step, args_left: u32_at(bytes, 21) },
            command,
            token,
        };
        if before.is_some() && !state.in_transaction() {
            return impossible("flags");
        }
        state.check_transaction()?;
        state.check_scanner()?;
        state.check_token()?;
        Ok(state)
    }

    fn check_transaction(&self) -> Result<(), FramerStateError> {
        let inside = self.in_transaction();
        if inside != (self.commands > 0) || (!inside && self.kind != RecordKind::Idle) {
            return impossible("transaction");
        }
        let boundary = !inside && self.scanner.is_between_commands();
        if boundary != (self.record_bytes == 0) {
            return impossible("length of the open record");
        }
        Ok(())
    }

    fn check_scanner(&self) -> Result<(), FramerStateError> {
        let Scanner { step, args_left } = self.scanner;
        let (least, most) = if args_left == 0 { (1, ARGC_MAX.into()) } else { (0, BULK_BYTES_MAX) };
        let fits = match step {
            Step::Line { part: LinePart::Nothing | LinePart::Marker, value } => value == 0,
            Step::Line { value, .. } => (least..=most).contains(&value),
            Step::Body { left } => args_left > 0 && (1..=BULK_BYTES_MAX + 2).contains(&left),
        };
        if fits && args_left <= ARGC_MAX { Ok(()) } else { impossible("scanner position") }
    }

    fn check_token(&self) -> Result<(), FramerStateError> {
        if self.scanner.args_left == 0 && self.command != Command::Unnamed {
            return impossible("command");
        }
        let len = usize::from(self.token.len);
        let fits = match self.scanner.step {
            Step::Body { left } if !self.command.is_known() => len as u64 + left.saturating_sub(2) <= Token::MAX as u64,
            _ => len == 0,
        };
        let padding = self.token.bytes.get(len..);
        if fits && padding.is_some_and(|padding| padding.iter().all(|&byte| byte == 0)) {
            Ok(())
        } else {
            impossible("token")
        }
    }
}

const BODY: u8 = 4;

fn impossible<T>(field: &'static str) -> Result<T, FramerStateError> {
    Err(FramerStateError::Impossible { field })
}

fn number(known: bool, value: u32, field: &'static str) -> Result<Option<u32>, FramerStateError> {
    match known {
        true => Ok(Some(value)),
        false if value == 0 => Ok(None),
        false => impossible(field),
    }
}

fn u32_at(bytes: &[u8; FramerState::ENCODED_LEN], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8; FramerState::ENCODED_LEN], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}
