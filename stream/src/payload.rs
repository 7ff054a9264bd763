//! The framing of a full resync's payload, from after the `+FULLRESYNC` line to its last byte.
//!
//! First come empty lines, a keep-alive about once a second for as long as the server saves
//! (`replicationCron`); they are no part of the stream and count in no offset. Then one of:
//! - `$<bytes>\r\n` and so many bytes; the stream follows at once, perhaps in the same read;
//! - `$EOF:<mark of 40 bytes>\r\n`, bytes, and the mark again (diskless, after `capa eof`). The
//!   server sends nothing more until it is sent `REPLCONF ACK`; an acknowledgement that it meets at
//!   that very moment can put stream bytes right behind the mark, so the mark is searched
//!   for everywhere and not only at the end of each read, as replicas do;
//! - `-<text>\r\n`: the server gave up (`-ERR BGSAVE failed, replication can't continue`).
//!
//! Memory: one line of at most [`LINE_BYTES_MAX`] bytes, and 39 bytes that may begin the mark.

use memchr::memmem;
use thiserror::Error;

/// The longest line accepted before the payload, in bytes.
const LINE_BYTES_MAX: usize = 1024;

/// Length of the end mark in bytes (`CONFIG_RUN_ID_SIZE`).
const MARK_BYTES: usize = 40;

/// How much of a line a message shows, in bytes.
const SHOWN_BYTES_MAX: usize = 200;

/// A payload of more bytes than this is taken for a damaged length.
const PAYLOAD_BYTES_MAX: u64 = 1 << 50;

/// How the server told the payload's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// By its length in bytes: `$<bytes>`, disk-based.
    Length(u64),
    /// By a mark: `$EOF:<mark>`, diskless.
    Mark,
}

/// The payload cannot be had from this connection.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PayloadError {
    /// The server answered with an error instead of a payload.
    #[error("the server refused the full resync: {0}")]
    Refused(String),
    /// The line before the payload is none of those the module describes; escaped, cut to 200 bytes.
    #[error("expected $<bytes> or $EOF:<mark> before the payload, found \"{0}\"")]
    Header(String),
}

/// What one call of [`PayloadDecoder::push`] brought to light.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// Payload that was held back in earlier calls, because it might have begun the end mark. It
    /// comes before `payload`.
    pub held: &'a [u8],
    /// Payload that lies in this call's input.
    pub payload: &'a [u8],
    /// How many bytes of the input were used: all of them until the payload ends. What is left
    /// then belongs to the replication stream.
    pub consumed: usize,
    /// Whether the payload is complete.
    pub finished: bool,
}

#[derive(Clone, Debug)]
enum Stage {
    /// In the line before the payload, or in the empty ones before that.
    Line(Vec<u8>),
    Length {
        left: u64,
    },
    Mark(Box<MarkSearch>),
}

/// Incremental decoder of one payload; see the module.
#[derive(Clone, Debug)]
pub struct PayloadDecoder {
    stage: Stage,
    framing: Option<Framing>,
}

impl Default for PayloadDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl PayloadDecoder {
    /// Starts right after the `+FULLRESYNC` line.
    #[must_use]
    pub fn new() -> Self {
        Self { stage: Stage::Line(Vec::new()), framing: None }
    }

    /// How the payload's end is told; `None` until the line that tells it has been read.
    #[must_use]
    pub fn framing(&self) -> Option<Framing> {
        self.framing
    }

    /// Whether the whole payload has been decoded.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        match &self.stage {
            Stage::Line(_) => false,
            Stage::Length { left } => *left == 0,
            Stage::Mark(search) => search.found,
        }
    }

    /// Decodes `input`, the continuation of what was consumed before. When the payload is complete
    /// already, nothing more is consumed.
    ///
    /// # Errors
    /// There is no payload; the decoder is of no use any more.
    pub fn push<'a>(&'a mut self, input: &'a [u8]) -> Result<Decoded<'a>, PayloadError> {
        let mut start = 0;
        while let Stage::Line(partial) = &mut self.stage {
            let Some(line) = take_line(partial, input, &mut start)? else { break };
            if let Some((framing, stage)) = parse_header(&line)? {
                self.framing = Some(framing);
                self.stage = stage;
            }
        }
        let rest = &input[start..];
        let decoded = match &mut self.stage {
            Stage::Line(_) => Decoded { held: &[], payload: &[], consumed: 0, finished: false },
            Stage::Length { left } => take_length(left, rest),
            Stage::Mark(search) => search.push(rest),
        };
        Ok(Decoded { consumed: start + decoded.consumed, ..decoded })
    }
}

/// Completes `partial` with bytes of `input` from `*pos` on; returns the line without its end, or
/// `None` when the input ends before it.
fn take_line(partial: &mut Vec<u8>, input: &[u8], pos: &mut usize) -> Result<Option<Vec<u8>>, PayloadError> {
    let rest = &input[*pos..];
    let end = memchr::memchr(b'\n', rest);
    let more = &rest[..end.unwrap_or(rest.len())];
    if partial.len() + more.len() > LINE_BYTES_MAX {
        partial.extend_from_slice(&more[..more.len().min(SHOWN_BYTES_MAX)]);
        return Err(PayloadError::Header(shown(partial)));
    }
    partial.extend_from_slice(more);
    *pos += more.len() + usize::from(end.is_some());
    if end.is_none() {
        return Ok(None);
    }
    let mut line = std::mem::take(partial);
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Some(line))
}

/// What a line says of the payload; `None` for a keep-alive.
fn parse_header(line: &[u8]) -> Result<Option<(Framing, Stage)>, PayloadError> {
    let malformed = || PayloadError::Header(shown(line));
    match line {
        [] => Ok(None),
        [b'-', text @ ..] => Err(PayloadError::Refused(shown(text))),
        [b'$', b'E', b'O', b'F', b':', mark @ ..] if mark.len() == MARK_BYTES => {
            Ok(Some((Framing::Mark, Stage::Mark(Box::new(MarkSearch::new(mark))))))
        }
        [b'$', digits @ ..] if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
            let length = str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            let left = length.filter(|&left| left <= PAYLOAD_BYTES_MAX).ok_or_else(malformed)?;
            Ok(Some((Framing::Length(left), Stage::Length { left })))
        }
        _ => Err(malformed()),
    }
}

/// Outside text for a message: escaped and bounded.
fn shown(text: &[u8]) -> String {
    text[..text.len().min(SHOWN_BYTES_MAX)].escape_ascii().to_string()
}

fn take_length<'a>(left: &mut u64, input: &'a [u8]) -> Decoded<'a> {
    let take = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
    *left -= take as u64;
    Decoded { held: &[], payload: &input[..take], consumed: take, finished: *left == 0 }
}

/// The search for the end mark, across calls.
#[derive(Clone, Debug)]
struct MarkSearch {
    finder: memmem::Finder<'static>,
    /// The last bytes of the payload so far, fewer than a mark has.
    tail: Vec<u8>,
    /// What has been released of the tail in this call.
    released: Vec<u8>,
    found: bool,
}

impl MarkSearch {
    fn new(mark: &[u8]) -> Self {
        let finder = memmem::Finder::new(mark).into_owned();
        Self { finder, tail: Vec::new(), released: Vec::new(), found: false }
    }

    fn push<'a>(&'a mut self, input: &'a [u8]) -> Decoded<'a> {
        self.released.clear();
        if self.found {
            return Decoded { held: &[], payload: &[], consumed: 0, finished: true };
        }
        let held = self.tail.len();
        let near = input.len().min(MARK_BYTES - 1);
        self.tail.extend_from_slice(&input[..near]);
        if let Some(at) = self.finder.find(&self.tail) {
            self.found = true;
            self.released.extend_from_slice(&self.tail[..at.min(held)]);
            let payload = &input[..at.saturating_sub(held)];
            let consumed = at + MARK_BYTES - held;
            return Decoded { held: &self.released, payload, consumed, finished: true };
        }
        if let Some(at) = self.finder.find(input) {
            self.found = true;
            self.released.extend_from_slice(&self.tail[..held]);
            let (payload, consumed) = (&input[..at], at + MARK_BYTES);
            return Decoded { held: &self.released, payload, consumed, finished: true };
        }
        let keep = (MARK_BYTES - 1).min(held + input.len());
        let payload = &input[..input.len().saturating_sub(keep)];
        if input.len() >= keep {
            self.released.extend_from_slice(&self.tail[..held]);
            self.tail.clear();
            self.tail.extend_from_slice(&input[payload.len()..]);
        } else {
            // All of the input is in the tail now.
            self.released.extend(self.tail.drain(..held + input.len() - keep));
        }
        Decoded { held: &self.released, payload, consumed: input.len(), finished: false }
    }
}

#[cfg(test)]
mod tests;
