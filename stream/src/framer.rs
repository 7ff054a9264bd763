//! Finds the records of a replication stream in the bytes as they are read.
//!
//! A record is the atomic unit of the stream: one command, or everything from `MULTI` to its
//! `EXEC` (or `DISCARD`). Restores cut between records only. The framer says where records end and
//! which database is selected, at the cost of a scan of the header lines: nothing is copied, nothing
//! is allocated, a body of any size is skipped by arithmetic. Its state at any byte is a small value
//! ([`FramerState`]) that goes into segment headers and the spool, so that a half-received command,
//! an open transaction and the selected database survive segment borders, reconnects and restarts.
//!
//! Where a stream is odd but well-formed, the framer does what a replica does:
//! - `MULTI` inside a transaction changes nothing, `EXEC` or `DISCARD` outside of one is a record of
//!   its own: replicas answer both with an error and go on (`multiCommand`, `execCommand`). Servers
//!   before 7.0 are known to send such pairs when a module or an eviction writes inside `EXEC`.
//! - `SELECT` inside a transaction that is discarded is undone, for it was only queued.
//!
//! A `SELECT` without a number, on the other hand, is an error: every later write would be
//! attributed to an unknown database.

mod state;

use crate::scanner::{Event, FrameError, Scanner};
use state::{Command, Token};
pub use state::{FramerState, FramerStateError};

/// What a record means to a backup. Ordered: a transaction has the greatest kind of its commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordKind {
    /// Changes no data: `PING`, `SELECT`, `REPLCONF` other than `GETACK`, an empty transaction.
    Idle,
    /// `REPLCONF GETACK`: somebody waits for an acknowledgement of everything before it.
    Getack,
    /// Everything else, unknown commands and `PUBLISH` included.
    Write,
}

/// A record that ended in the bytes given to [`Framer::push`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Index just past the record's last byte, in the bytes of this call. It starts where the one
    /// before ended, which may lie in an earlier call.
    pub end: usize,
    /// What it means to a backup.
    pub kind: RecordKind,
    /// How many commands it consists of, `MULTI` and `EXEC` included; at least 1.
    pub commands: u32,
}

/// The resumable boundary scanner; see the module.
#[derive(Clone, Debug)]
pub struct Framer {
    state: FramerState,
}

impl Framer {
    /// Starts at a record boundary. `database` is the one selected there, if known: a replica's
    /// stream is continued without a `SELECT`, and the RDB's `repl-stream-db` then tells it.
    #[must_use]
    pub fn new(database: Option<u32>) -> Self {
        Self { state: FramerState::between_records(database) }
    }

    /// Goes on where `state` was taken, which may be at any byte.
    #[must_use]
    pub fn resume(state: FramerState) -> Self {
        Self { state }
    }

    /// The state at the current position.
    #[must_use]
    pub fn state(&self) -> FramerState {
        self.state.clone()
    }

    /// The database selected at the current position; `None` until a `SELECT` has been seen, unless
    /// it was given. Inside a transaction: the one its next command will act on.
    #[must_use]
    pub fn database(&self) -> Option<u32> {
        self.state.database
    }

    /// How many bytes of a record that has not ended lie before the current position.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        self.state.record_bytes
    }

    /// Scans all of `bytes`, the continuation of what was pushed before, and calls `on_record` for
    /// each record that ends in them, in order.
    ///
    /// # Errors
    /// The bytes are not a replication stream. The records reported before the error stand; the
    /// framer itself is of no use any more.
    pub fn push(&mut self, bytes: &[u8], mut on_record: impl FnMut(Record)) -> Result<(), FrameError> {
        let state = &mut self.state;
        let mut pos = 0;
        let mut record_start = None;
        loop {
            if state.command.is_known() {
                if !state.scanner.skip_arguments(bytes, &mut pos)? {
                    break;
                }
            } else if !state.classify(bytes, &mut pos)? {
                if pos == bytes.len() {
                    break;
                }
                continue;
            }
            if let Some((kind, commands)) = state.end_command() {
                on_record(Record { end: pos, kind, commands });
                record_start = Some(pos);
            }
        }
        let open = bytes.len() - record_start.unwrap_or(0);
        let before = if record_start.is_some() { 0 } else { state.record_bytes };
        state.record_bytes = before.saturating_add(open as u64);
        Ok(())
    }
}

impl FramerState {
    /// Reads on in a command whose meaning is not known yet. Returns true when the command ended;
    /// false when its meaning is known now, or the input is used up.
    #[inline(always)]
    fn classify(&mut self, bytes: &[u8], pos: &mut usize) -> Result<bool, FrameError> {
        loop {
            let at = *pos;
            match self.scanner.next(bytes, pos)? {
                Event::Exhausted => return Ok(false),
                Event::Command { .. } => {}
                Event::Argument { len } if len > Token::MAX as u64 => {
                    self.command = match self.command {
                        Command::Select => return Err(FrameError::new(bytes, at, NUMBER)),
                        Command::Replconf => Command::Idle,
                        _ => Command::Write,
                    };
                    return Ok(false);
                }
                Event::Argument { .. } => {}
                Event::Body { from, to } => self.token.extend(&bytes[from..to]),
                Event::ArgumentEnd { last } => {
                    self.end_token(last).ok_or_else(|| FrameError::new(bytes, at, NUMBER))?;
                    self.token = Token::EMPTY;
                    if last || self.command.is_known() {
                        return Ok(last);
                    }
                }
            }
        }
    }

    /// Takes the token that has just ended for what it is. `None` for a `SELECT` that selects
    /// nothing.
    #[inline(always)]
    fn end_token(&mut self, last: bool) -> Option<()> {
        let token = self.token.as_bytes();
        self.command = match self.command {
            Command::Select => {
                if !last {
                    return None;
                }
                self.database = Some(self.token.as_database()?);
                Command::Idle
            }
            Command::Replconf if token.eq_ignore_ascii_case(b"GETACK") => Command::Getack,
            Command::Replconf => Command::Idle,
            _ => match Command::named(token) {
                Command::Select if last => return None,
                named => named,
            },
        };
        Some(())
    }

    /// Ends the command; returns kind and commands of the record that ends with it.
    #[inline(always)]
    fn end_command(&mut self) -> Option<(RecordKind, u32)> {
        let command = std::mem::replace(&mut self.command, Command::Unnamed);
        let kind = command.kind();
        if self.transaction.is_none() && command != Command::Multi {
            return Some((kind, 1));
        }
        self.commands = self.commands.saturating_add(1);
        match command {
            Command::Multi if self.transaction.is_none() => {
                self.transaction = Some(self.database);
                return None;
            }
            Command::Exec => {}
            Command::Discard => self.database = self.transaction.flatten(),
            _ => {
                self.kind = self.kind.max(kind);
                return None;
            }
        }
        self.transaction = None;
        let ended = (self.kind, self.commands);
        self.kind = RecordKind::Idle;
        self.commands = 0;
        Some(ended)
    }

    fn between_records(database: Option<u32>) -> Self {
        Self {
            database,
            transaction: None,
            record_bytes: 0,
            commands: 0,
            kind: RecordKind::Idle,
            scanner: Scanner::START,
            command: Command::Unnamed,
            token: Token::EMPTY,
        }
    }
}

const NUMBER: &str = "SELECT with the number of a database";

#[cfg(test)]
mod tests;
