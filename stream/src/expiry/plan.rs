//! What is done with each argument of a command, and when.

use super::text::{Name, SetOption, Text, Unit};
use super::{ExpiryRewriter, Piece};
use crate::command::{push_bulk, push_line, push_number};

/// What is being done with the open command.
#[derive(Clone, Debug)]
pub(super) enum Plan {
    /// Hold it: its name is not known yet.
    Name,
    /// Pass the rest of it through.
    Pass,
    /// Pass it through, but hold each option after key and value.
    Set(SetArgument),
    /// Hold it up to the span, which comes after the key.
    Held(Held),
    /// Pass the rest through, then append these arguments.
    Append(Vec<u8>),
    /// Pass the rest through, then append `PEXPIREAT`.
    Restore(Restore),
}

/// The argument of a `SET` that is being read.
#[derive(Clone, Copy, Debug)]
pub(super) enum SetArgument {
    Key,
    Value,
    Option,
    /// After `EX` or `PX`, which is held.
    Span(Unit),
    /// After `EXAT` or `PXAT`.
    Deadline,
}

/// A command that is held up to its span. Offsets count from the first held byte.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) name: Name,
    /// Where the key begins.
    pub(super) key: usize,
    /// Where the span begins; `None` while in the key.
    pub(super) span: Option<usize>,
}

/// A `RESTORE` with options, past its span.
#[derive(Clone, Debug)]
pub(super) struct Restore {
    /// The key as an encoded argument.
    key: Vec<u8>,
    span_ms: i64,
    absolute: bool,
    argument: RestoreArgument,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum RestoreArgument {
    Payload,
    Option,
    /// After `IDLETIME` or `FREQ`.
    Number,
}

impl ExpiryRewriter {
    /// Decides, at the end of an argument, what happens to it and to the next.
    pub(super) fn end_argument(&mut self, plan: Plan, last: bool, piece: &mut Piece<'_>) -> Plan {
        match plan {
            Plan::Name => self.end_name(piece),
            Plan::Set(argument) => Plan::Set(self.end_set_argument(argument, last, piece)),
            Plan::Held(held @ Held { span: None, .. }) => {
                Plan::Held(Held { span: Some(self.held_bytes(piece)), ..held })
            }
            Plan::Held(Held { name, key, span: Some(span) }) => {
                self.end_span(name, key, span, piece).unwrap_or_else(|| {
                    self.release(piece);
                    Plan::Pass
                })
            }
            Plan::Restore(restore) => Plan::Restore(restore.end_argument(&self.text)),
            Plan::Pass | Plan::Append(_) => plan,
        }
    }

    fn end_name(&mut self, piece: &mut Piece<'_>) -> Plan {
        self.name = Name::parse(&self.text);
        let span_follows = match self.name {
            Name::SetEx(_) => self.argc == 4,
            Name::Expire(_) => self.argc >= 3,
            Name::Restore => self.argc >= 4,
            _ => false,
        };
        if span_follows {
            return Plan::Held(Held { name: self.name, key: self.held_bytes(piece), span: None });
        }
        self.release(piece);
        if self.name == Name::Set && self.argc >= 5 { Plan::Set(SetArgument::Key) } else { Plan::Pass }
    }

    fn end_set_argument(&mut self, argument: SetArgument, last: bool, piece: &mut Piece<'_>) -> SetArgument {
        match argument {
            SetArgument::Key => return SetArgument::Value,
            SetArgument::Value | SetArgument::Deadline => {}
            SetArgument::Option => match SetOption::parse(&self.text) {
                SetOption::Relative(unit) if !last => return SetArgument::Span(unit),
                SetOption::Absolute => {
                    self.release(piece);
                    return SetArgument::Deadline;
                }
                _ => self.release(piece),
            },
            SetArgument::Span(unit) => match self.text.as_positive_span_ms(unit) {
                Some(span_ms) => {
                    self.take(piece);
                    push_deadline(self.clock_ms.saturating_add(span_ms), piece.out);
                }
                None => self.release(piece),
            },
        }
        self.hold(piece);
        SetArgument::Option
    }

    /// Rewrites the held command at the end of its span; `None` when it is to stay as it is.
    fn end_span(&mut self, name: Name, key: usize, span: usize, piece: &mut Piece<'_>) -> Option<Plan> {
        let span_ms = match name {
            Name::Expire(unit) => self.text.as_span_ms(unit)?,
            Name::SetEx(unit) => self.text.as_positive_span_ms(unit)?,
            _ => self.text.as_positive_span_ms(Unit::Milliseconds)?,
        };
        let at_ms = self.clock_ms.saturating_add(span_ms);
        let held = self.take(piece);
        let (name_arg, key_arg) = (&held[self.name_at..key], &held[key..span]);
        let out = &mut *piece.out;
        Some(match name {
            Name::Expire(_) => {
                out.extend_from_slice(&held[..self.name_at]);
                push_bulk(b"PEXPIREAT", out);
                out.extend_from_slice(key_arg);
                push_number(at_ms, out);
                Plan::Pass
            }
            Name::SetEx(_) => {
                push_line(b'*', 5, out);
                push_bulk(b"SET", out);
                out.extend_from_slice(key_arg);
                let mut deadline = Vec::new();
                push_deadline(at_ms, &mut deadline);
                Plan::Append(deadline)
            }
            _ if self.argc == 4 => {
                push_line(b'*', 5, out);
                out.extend_from_slice(name_arg);
                out.extend_from_slice(key_arg);
                push_number(at_ms, out);
                let mut absolute = Vec::new();
                push_bulk(b"ABSTTL", &mut absolute);
                Plan::Append(absolute)
            }
            _ => {
                out.extend_from_slice(&held[..span]);
                push_number(0, out);
                let argument = RestoreArgument::Payload;
                Plan::Restore(Restore { key: key_arg.to_vec(), span_ms, absolute: false, argument })
            }
        })
    }

    /// Completes a command after its last byte.
    pub(super) fn end(&mut self, piece: &mut Piece<'_>) {
        if self.holding {
            self.release(piece);
        }
        match std::mem::replace(&mut self.plan, Plan::Name) {
            Plan::Append(arguments) => {
                piece.pass_to(piece.pos);
                piece.out.extend_from_slice(&arguments);
            }
            Plan::Restore(Restore { key, span_ms, absolute, .. }) => {
                piece.pass_to(piece.pos);
                let clock_ms = if absolute { 0 } else { self.clock_ms };
                push_line(b'*', 3, piece.out);
                push_bulk(b"PEXPIREAT", piece.out);
                piece.out.extend_from_slice(&key);
                push_number(clock_ms.saturating_add(span_ms), piece.out);
            }
            _ => {}
        }
        match self.name {
            Name::Multi => self.in_transaction = true,
            Name::Exec | Name::Discard => self.in_transaction = false,
            _ => {}
        }
    }
}

impl Restore {
    fn end_argument(self, text: &Text) -> Self {
        let argument = match self.argument {
            RestoreArgument::Option if text.is(b"IDLETIME") || text.is(b"FREQ") => RestoreArgument::Number,
            RestoreArgument::Option if text.is(b"ABSTTL") => {
                return Self { absolute: true, ..self };
            }
            _ => RestoreArgument::Option,
        };
        Self { argument, ..self }
    }
}

/// The two arguments that give a `SET` its expiry.
fn push_deadline(at_ms: i64, out: &mut Vec<u8>) {
    push_bulk(b"PXAT", out);
    push_number(at_ms, out);
}
