//! Replies: how far one reaches, bounded, and what it says.
//!
//! `redis-protocol` decodes replies recursively, so that nested arrays can exhaust its stack, and
//! from the start at each try, so that a big reply in small reads costs quadratic time. Hence
//! [`ReplyScanner`] goes first: it finds the end of a reply, resuming where it stopped, and refuses
//! what is too long, too deep or too many before anything is decoded.

use bytes::Bytes;
use redis_protocol::resp2::decode::decode_bytes;
use redis_protocol::resp2::types::BytesFrame;

/// Bytes that one reply may have, its framing included. `INFO` and `CONFIG GET *` have some 10 kB.
pub const REPLY_BYTES_MAX: usize = 16 << 20;
/// Elements in all arrays of one reply together: they cost far more memory than wire.
const ELEMENTS_MAX: usize = 1 << 16;
const DEPTH_MAX: usize = 8;
/// Bytes of a line without its CRLF; error texts are the longest.
const LINE_BYTES_MAX: usize = 64 << 10;

/// A server's answer. An error at the top is a [`LinkError`](crate::LinkError) instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A status such as `OK`.
    Simple(Bytes),
    /// An error inside an array.
    Error(Bytes),
    /// A number.
    Integer(i64),
    /// A binary string.
    Bulk(Bytes),
    /// The null string or null array.
    Null,
    /// A list of replies.
    Array(Vec<Reply>),
}

impl Reply {
    /// The bytes of a string, binary or status.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Simple(bytes) | Self::Bulk(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The text of a string that is UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        self.as_bytes().and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// A number, or a string that is one.
    #[must_use]
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            other => other.as_str()?.parse().ok(),
        }
    }

    /// The elements of an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Reply]> {
        match self {
            Self::Array(elements) => Some(elements),
            _ => None,
        }
    }

    /// Decodes exactly one reply, whose end [`ReplyScanner`] has found.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, MalformedReply> {
        match decode_bytes(bytes) {
            Ok(Some((frame, length))) if length == bytes.len() => Ok(frame.into()),
            _ => Err(MalformedReply("a reply that cannot be decoded")),
        }
    }
}

impl From<BytesFrame> for Reply {
    fn from(frame: BytesFrame) -> Self {
        match frame {
            BytesFrame::SimpleString(bytes) => Self::Simple(bytes),
            BytesFrame::Error(text) => Self::Error(text.into_inner()),
            BytesFrame::Integer(number) => Self::Integer(number),
            BytesFrame::BulkString(bytes) => Self::Bulk(bytes),
            BytesFrame::Null => Self::Null,
            BytesFrame::Array(elements) => Self::Array(elements.into_iter().map(Self::from).collect()),
        }
    }
}

/// What is wrong with bytes that should have been a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MalformedReply(pub(crate) &'static str);

/// Finds where a reply ends, over bytes that grow at the end.
#[derive(Debug, Default)]
pub(crate) struct ReplyScanner {
    /// Where the next element's header starts.
    at: usize,
    /// For every array we are in, the elements still to come.
    open: Vec<usize>,
    elements: usize,
}

impl ReplyScanner {
    /// The length of the reply at the start of `bytes`, or `None` when it is not all there.
    ///
    /// Call again with the same bytes and more behind them.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Result<Option<usize>, MalformedReply> {
        loop {
            let Some((header, body)) = line(bytes, self.at)? else {
                return Ok(None);
            };
            let (&kind, rest) = header.split_first().ok_or(MalformedReply("an empty line for a reply"))?;
            match kind {
                b'+' | b'-' => self.at = body,
                b':' => {
                    number(rest)?;
                    self.at = body;
                }
                b'$' => match self.bulk_end(number(rest)?, body, bytes)? {
                    Some(end) => self.at = end,
                    None => return Ok(None),
                },
                b'*' => {
                    self.at = body;
                    if self.enter(number(rest)?)? {
                        continue;
                    }
                }
                _ => return Err(MalformedReply("a reply of unknown type")),
            }
            if self.at > REPLY_BYTES_MAX {
                return Err(MalformedReply("a reply of more than 16 MiB"));
            }
            if self.element_done() {
                return Ok(Some(self.at));
            }
        }
    }

    fn bulk_end(&self, length: i64, body: usize, bytes: &[u8]) -> Result<Option<usize>, MalformedReply> {
        if length == -1 {
            return Ok(Some(body));
        }
        let length = usize::try_from(length).map_err(|_| MalformedReply("a negative length"))?;
        if length > REPLY_BYTES_MAX {
            return Err(MalformedReply("a reply of more than 16 MiB"));
        }
        let end = body + length;
        match bytes.get(end..end + 2) {
            None => Ok(None),
            Some(b"\r\n") => Ok(Some(end + 2)),
            Some(_) => Err(MalformedReply("a string that is not as long as it says")),
        }
    }

    /// Opens an array of `length` elements; false when there is nothing in it to wait for.
    fn enter(&mut self, length: i64) -> Result<bool, MalformedReply> {
        if length == -1 || length == 0 {
            return Ok(false);
        }
        let length = usize::try_from(length).map_err(|_| MalformedReply("a negative length"))?;
        self.elements = self.elements.saturating_add(length);
        if self.elements > ELEMENTS_MAX {
            return Err(MalformedReply("a reply of more than 65536 elements"));
        }
        if self.open.len() == DEPTH_MAX {
            return Err(MalformedReply("a reply nested more than 8 deep"));
        }
        self.open.push(length);
        Ok(true)
    }

    /// Counts an element as complete; true when that completes the whole reply.
    fn element_done(&mut self) -> bool {
        while let Some(left) = self.open.last_mut() {
            *left -= 1;
            if *left > 0 {
                return false;
            }
            self.open.pop();
        }
        true
    }
}

/// The line that starts at `at`, without its CRLF, and where the next one starts.
fn line(bytes: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, MalformedReply> {
    let rest = &bytes[at..];
    let window = &rest[..rest.len().min(LINE_BYTES_MAX + 2)];
    match window.windows(2).position(|pair| pair == b"\r\n") {
        Some(length) => Ok(Some((&window[..length], at + length + 2))),
        None if window.len() == LINE_BYTES_MAX + 2 => Err(MalformedReply("a line of more than 64 KiB")),
        None => Ok(None),
    }
}

fn number(digits: &[u8]) -> Result<i64, MalformedReply> {
    std::str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(MalformedReply("a length or number that is none"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(wire: &[u8]) -> Result<Option<Reply>, MalformedReply> {
        match ReplyScanner::default().scan(wire)? {
            Some(length) => Reply::decode(&Bytes::copy_from_slice(&wire[..length])).map(Some),
            None => Ok(None),
        }
    }

    #[test]
    fn every_type_is_read() {
        let wire = b"*6\r\n+OK\r\n-ERR no\r\n:-7\r\n$4\r\na\r\nb\r\n$-1\r\n*2\r\n*0\r\n*-1\r\n+next";
        let expected = Reply::Array(vec![
            Reply::Simple("OK".into()),
            Reply::Error("ERR no".into()),
            Reply::Integer(-7),
            Reply::Bulk("a\r\nb".into()),
            Reply::Null,
            Reply::Array(vec![Reply::Array(vec![]), Reply::Null]),
        ]);
        assert_eq!(read(wire), Ok(Some(expected)));
    }

    #[test]
    fn what_is_too_big_is_refused_before_it_is_read() {
        for wire in [
            "$17000000\r\n".to_owned(),
            "*70000\r\n".to_owned(),
            "*1\r\n".repeat(100_000),
            "*3\r\n*30000\r\n".to_owned() + &":1\r\n".repeat(30_000) + "*40000\r\n",
            format!("+{}", "x".repeat(70_000)),
            "*9223372036854775807\r\n".to_owned(),
        ] {
            assert!(read(wire.as_bytes()).is_err(), "{:.20}", wire);
        }
    }

    #[test]
    fn malformed_replies_are_refused() {
        for wire in ["HTTP/1.1 400\r\n", "$3\r\nabcdef\r\n", "$-2\r\n", "*x\r\n", ":\r\n", "\r\n"] {
            assert!(read(wire.as_bytes()).is_err(), "{wire:?}");
        }
    }

    fn reply() -> impl Strategy<Value = Vec<u8>> {
        let bulk = proptest::collection::vec(any::<u8>(), 0..40)
            .prop_map(|body| [format!("${}\r\n", body.len()).as_bytes(), &body, b"\r\n"].concat());
        let leaf = prop_oneof![
            bulk,
            any::<i64>().prop_map(|n| format!(":{n}\r\n").into_bytes()),
            "[+-][a-zA-Z ]{0,20}".prop_map(|text| format!("{text}\r\n").into_bytes()),
            Just(b"$-1\r\n".to_vec()),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            proptest::collection::vec(inner, 0..5)
                .prop_map(|elements| [format!("*{}\r\n", elements.len()).into_bytes(), elements.concat()].concat())
        })
    }

    proptest! {
        #[test]
        fn a_reply_ends_where_it_ends_however_it_arrives(wire in reply(), step in 1usize..20) {
            let mut scanner = ReplyScanner::default();
            let mut seen = step.min(wire.len());
            while seen < wire.len() {
                prop_assert_eq!(scanner.scan(&wire[..seen]), Ok(None));
                seen = (seen + step).min(wire.len());
            }
            prop_assert_eq!(scanner.scan(&wire), Ok(Some(wire.len())));
            prop_assert!(Reply::decode(&Bytes::from(wire)).is_ok());
        }

        #[test]
        fn any_bytes_are_read_or_refused(wire in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _outcome = read(&wire);
        }
    }
}
