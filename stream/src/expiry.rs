//! Redis 6.2's relative expiries, made absolute.
//!
//! From 7.0 on (and in every Valkey) a server replicates points in time. Redis 6.2 and older
//! replicate spans: `SET k v PX 100000` (what `SET … EX`, `SETEX` and `PSETEX` become,
//! `setGenericCommand`), `PEXPIRE` (also for `GETEX`), `EXPIRE`, `RESTORE` and `RESTORE-ASKING`
//! without `ABSTTL` (`MIGRATE` sends these). Replayed later, they would give every key a longer
//! life. This rewriting is the only exception to the rule that bytes are never reinterpreted:
//!
//! | from | to |
//! |---|---|
//! | `SET key value … EX s …`, `… PX ms …` | the same with `PXAT at` in place of the pair |
//! | `SETEX key s value`, `PSETEX key ms value` | `SET key value PXAT at` |
//! | `EXPIRE key s …`, `PEXPIRE key ms …` | `PEXPIREAT key at …` |
//! | `RESTORE key ms payload`, `RESTORE-ASKING …` | the same with `at`, and `ABSTTL` behind |
//! | `RESTORE key ms payload option …`, likewise | the same with 0, and a second command `PEXPIREAT key at` |
//!
//! The last one needs two commands because the options, and `ABSTTL` among them, come after a
//! payload of any size, which is not to be held; `at` is then `ms` itself if `ABSTTL` was there.
//!
//! Everything else comes out byte for byte: points in time (`EXAT`, `PXAT`, `EXPIREAT`,
//! `PEXPIREAT`), and commands that a server would refuse, such as those whose span is no number, is
//! not positive where it has to be, or overflows as seconds. `at` saturates. What cannot be seen
//! from outside stays relative: scripts replicated verbatim (`lua-replicate-commands no`) and
//! modules' own commands.
//!
//! # The time that counts
//! A span runs from the source's clock at the piece that held the *first* byte of the command, or of
//! the transaction it is in. The source has executed all of it before it writes the first byte to
//! its replicas, so no later arrival is nearer to the truth, however long the rest is under way.
//!
//! # Memory
//! Values and payloads pass through. Held are, at most, a command up to its span, that is its key:
//! [`HELD_KEY_BYTES_MAX`].

mod plan;
mod text;

use std::borrow::Cow;

use thiserror::Error;

use crate::scanner::{Event, FrameError, Scanner};
use plan::{Held, Plan};
use text::{Name, Text};

/// The longest key of a command with a relative expiry, in bytes: 512 MiB, the default of
/// `proto-max-bulk-len` and the longest string Redis 6.2 takes from a client.
pub const HELD_KEY_BYTES_MAX: u64 = 512 << 20;

/// The stream cannot be rewritten.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExpiryError {
    /// The bytes are not a replication stream.
    #[error("cannot rewrite relative expiries")]
    Frame(#[from] FrameError),
    /// A key is too long to be held until the span after it is known.
    #[error("cannot rewrite a relative expiry: its key has {bytes} bytes, more than {HELD_KEY_BYTES_MAX}")]
    KeyTooLong {
        /// The key's length.
        bytes: u64,
    },
}

/// The rewriting stage; see the module.
#[derive(Clone, Debug)]
pub struct ExpiryRewriter {
    scanner: Scanner,
    plan: Plan,
    /// Arguments of the open command, its name included.
    argc: u32,
    /// Where its name begins, from the first held byte.
    name_at: usize,
    name: Name,
    /// The argument at hand, as far as it decides something.
    text: Text,
    in_transaction: bool,
    /// The source's clock at the open command or transaction.
    clock_ms: i64,
    holding: bool,
    /// What is held of earlier pieces.
    held: Vec<u8>,
}

/// One piece on its way through.
struct Piece<'a> {
    bytes: &'a [u8],
    pos: usize,
    /// Bytes before this have been written to `out` or dropped.
    from: usize,
    /// Bytes from here on are held, if any are; 0 when holding began in an earlier piece.
    hold: usize,
    out: &'a mut Vec<u8>,
}

impl Piece<'_> {
    fn pass_to(&mut self, to: usize) {
        self.out.extend_from_slice(&self.bytes[self.from..to]);
        self.from = to;
    }
}

impl Default for ExpiryRewriter {
    fn default() -> Self {
        Self::new()
    }
}

impl ExpiryRewriter {
    /// Starts at a record boundary: between commands and outside of a transaction.
    #[must_use]
    pub fn new() -> Self {
        Self {
            scanner: Scanner::START,
            plan: Plan::Name,
            argc: 0,
            name_at: 0,
            name: Name::Other,
            text: Text::EMPTY,
            in_transaction: false,
            clock_ms: 0,
            holding: false,
            held: Vec::new(),
        }
    }

    /// Appends the rewriting of `bytes`, the continuation of what was pushed before, to `out`.
    /// `now_ms` is the source's clock when these bytes arrived, in milliseconds since the Unix
    /// epoch. Where `bytes` end with a command, all of it is in `out`; `out` gains at most a few
    /// dozen bytes per command more than was pushed, and the key again for a `RESTORE`.
    ///
    /// # Errors
    /// The bytes are not a replication stream, or a key cannot be held; the rewriter and what it
    /// appended in this call are of no use any more.
    pub fn push(&mut self, bytes: &[u8], now_ms: i64, out: &mut Vec<u8>) -> Result<(), ExpiryError> {
        let mut piece = Piece { bytes, pos: 0, from: 0, hold: 0, out };
        while piece.pos < bytes.len() {
            if self.scanner.is_between_commands() {
                self.begin(now_ms, &mut piece);
            }
            let ended = match self.plan {
                Plan::Pass | Plan::Append(_) => self.scanner.skip_arguments(bytes, &mut piece.pos)?,
                _ => self.step(&mut piece)?,
            };
            if ended {
                self.end(&mut piece);
            }
        }
        if self.holding {
            piece.pass_to(piece.hold);
            self.held.extend_from_slice(&bytes[piece.from..]);
        } else {
            piece.pass_to(bytes.len());
        }
        Ok(())
    }

    fn begin(&mut self, now_ms: i64, piece: &mut Piece<'_>) {
        if !self.in_transaction {
            self.clock_ms = now_ms;
        }
        self.plan = Plan::Name;
        self.hold(piece);
    }

    /// Takes one event; returns whether it ended the command.
    fn step(&mut self, piece: &mut Piece<'_>) -> Result<bool, ExpiryError> {
        match self.scanner.next(piece.bytes, &mut piece.pos)? {
            Event::Exhausted => {}
            Event::Command { argc } => {
                self.argc = argc;
                self.name_at = self.held_bytes(piece);
            }
            Event::Argument { len } => {
                self.text = Text::EMPTY;
                match self.plan {
                    Plan::Name if len > Text::MAX as u64 => {
                        self.name = Name::Other;
                        self.release(piece);
                        self.plan = Plan::Pass;
                    }
                    Plan::Held(Held { span: None, .. }) if len > HELD_KEY_BYTES_MAX => {
                        return Err(ExpiryError::KeyTooLong { bytes: len });
                    }
                    _ => {}
                }
            }
            Event::Body { from, to } => self.text.extend(&piece.bytes[from..to]),
            Event::ArgumentEnd { last } => {
                let plan = std::mem::replace(&mut self.plan, Plan::Pass);
                self.plan = self.end_argument(plan, last, piece);
                return Ok(last);
            }
        }
        Ok(false)
    }

    /// Begins to hold what follows.
    fn hold(&mut self, piece: &mut Piece<'_>) {
        self.holding = true;
        piece.hold = piece.pos;
    }

    /// Lets what is held pass through.
    fn release(&mut self, piece: &mut Piece<'_>) {
        // Bytes are in `held` only when nothing of this piece has been passed yet.
        piece.out.append(&mut self.held);
        self.holding = false;
    }

    /// How many bytes are held.
    fn held_bytes(&self, piece: &Piece<'_>) -> usize {
        self.held.len() + piece.pos - piece.hold
    }

    /// Takes what is held out of the stream.
    fn take<'a>(&mut self, piece: &mut Piece<'a>) -> Cow<'a, [u8]> {
        piece.pass_to(piece.hold);
        let here = &piece.bytes[piece.hold..piece.pos];
        piece.from = piece.pos;
        self.holding = false;
        if self.held.is_empty() {
            return Cow::Borrowed(here);
        }
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(here);
        Cow::Owned(held)
    }
}

#[cfg(test)]
mod tests;
