//! The short arguments that decide what is done with a command.

/// The first bytes of an argument; nothing when it is longer than anything that matters here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text {
    len: usize,
    bytes: [u8; Self::MAX],
}

/// What a span is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Milliseconds,
}

/// The commands that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Other,
    Multi,
    Exec,
    Discard,
    Set,
    /// `SETEX`, `PSETEX`.
    SetEx(Unit),
    /// `EXPIRE`, `PEXPIRE`.
    Expire(Unit),
    /// `RESTORE`, `RESTORE-ASKING`.
    Restore,
}

/// The options of `SET`, by what follows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SetOption {
    /// `EX`, `PX`: a span.
    Relative(Unit),
    /// `EXAT`, `PXAT`: a point in time.
    Absolute,
    /// Nothing.
    Other,
}

impl Text {
    /// Enough for every name above and every 64-bit number.
    pub(super) const MAX: usize = 20;
    pub(super) const EMPTY: Self = Self { len: 0, bytes: [0; Self::MAX] };

    pub(super) fn extend(&mut self, more: &[u8]) {
        let end = self.len.saturating_add(more.len());
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(more);
        }
        self.len = end;
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Whether it is `word`, in whatever case.
    pub(super) fn is(&self, word: &[u8]) -> bool {
        self.as_bytes().eq_ignore_ascii_case(word)
    }

    /// A number as servers accept it (`string2ll`): no sign but a minus, no leading zero.
    fn as_number(&self) -> Option<i64> {
        let text = self.as_bytes();
        let digits = text.strip_prefix(b"-").unwrap_or(text);
        let plain = match digits {
            [b'0'] => digits.len() == text.len(),
            [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
            _ => false,
        };
        if plain { str::from_utf8(text).ok()?.parse().ok() } else { None }
    }

    /// A span in milliseconds.
    pub(super) fn as_span_ms(&self, unit: Unit) -> Option<i64> {
        let number = self.as_number()?;
        match unit {
            Unit::Seconds => number.checked_mul(1000),
            Unit::Milliseconds => Some(number),
        }
    }

    /// A span in milliseconds, where servers refuse others (or, in `RESTORE`, take 0 for no expiry).
    pub(super) fn as_positive_span_ms(&self, unit: Unit) -> Option<i64> {
        self.as_span_ms(unit).filter(|&span_ms| span_ms > 0)
    }
}

impl Name {
    pub(super) fn parse(text: &Text) -> Self {
        match text.len {
            3 if text.is(b"SET") => Self::Set,
            4 if text.is(b"EXEC") => Self::Exec,
            5 if text.is(b"MULTI") => Self::Multi,
            5 if text.is(b"SETEX") => Self::SetEx(Unit::Seconds),
            6 if text.is(b"PSETEX") => Self::SetEx(Unit::Milliseconds),
            6 if text.is(b"EXPIRE") => Self::Expire(Unit::Seconds),
            7 if text.is(b"PEXPIRE") => Self::Expire(Unit::Milliseconds),
            7 if text.is(b"RESTORE") => Self::Restore,
            7 if text.is(b"DISCARD") => Self::Discard,
            14 if text.is(b"RESTORE-ASKING") => Self::Restore,
            _ => Self::Other,
        }
    }
}

impl SetOption {
    pub(super) fn parse(text: &Text) -> Self {
        if text.is(b"EX") {
            Self::Relative(Unit::Seconds)
        } else if text.is(b"PX") {
            Self::Relative(Unit::Milliseconds)
        } else if text.is(b"EXAT") || text.is(b"PXAT") {
            Self::Absolute
        } else {
            Self::Other
        }
    }
}
