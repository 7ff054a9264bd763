//! Commands as replicas send them: arrays of bulk strings, bounded, from a peer that is not trusted
//! before it has said the password.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Most bytes of one command; the longest a replica sends are `AUTH` and `REPLCONF`.
const COMMAND_BYTES_MAX: usize = 16 << 10;
const ARGUMENTS_MAX: usize = 64;

/// Reads commands off a connection.
pub(super) struct CommandReader<R> {
    from: R,
    buffer: BytesMut,
}

/// What a replica says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A command and its arguments; at least one.
    Command(Vec<Bytes>),
    /// An empty line: it is busy loading, and alive (`replicationSendNewlineToMaster`).
    Alive,
}

impl<R: AsyncRead + Unpin> CommandReader<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, buffer: BytesMut::with_capacity(1024) }
    }

    /// What comes next; `None` when the replica closes the connection. Cancel safe.
    pub(super) async fn next(&mut self) -> io::Result<Option<Said>> {
        loop {
            if let Some(said) = take(&mut self.buffer)? {
                return Ok(Some(said));
            }
            if self.buffer.len() >= COMMAND_BYTES_MAX {
                return Err(broken("a command of more than 16 KiB"));
            }
            self.buffer.reserve(1024);
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

fn broken(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

/// Takes what is whole off the front of `buffer`.
fn take(buffer: &mut BytesMut) -> io::Result<Option<Said>> {
    let blank = buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    if blank > 0 {
        buffer.advance(blank);
        return Ok(Some(Said::Alive));
    }
    let mut rest: &[u8] = buffer;
    let Some(count) = header(&mut rest, b'*')? else { return Ok(None) };
    if !(1..=ARGUMENTS_MAX).contains(&count) {
        return Err(broken("a command of no or too many arguments"));
    }
    let mut arguments = Vec::with_capacity(count);
    for _ in 0..count {
        let Some(length) = header(&mut rest, b'$')? else { return Ok(None) };
        let Some((argument, after)) = rest.split_at_checked(length) else { return Ok(None) };
        let Some((end, after)) = after.split_first_chunk::<2>() else { return Ok(None) };
        if end != b"\r\n" {
            return Err(broken("an argument that does not end with its length"));
        }
        arguments.push(Bytes::copy_from_slice(argument));
        rest = after;
    }
    let used = buffer.len() - rest.len();
    buffer.advance(used);
    Ok(Some(Said::Command(arguments)))
}

/// Takes a line such as `*3` off the front; `None` when it is not all there.
fn header(rest: &mut &[u8], marker: u8) -> io::Result<Option<usize>> {
    let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
        let begins_well = rest.first().is_none_or(|&first| first == marker);
        return if begins_well { Ok(None) } else { Err(broken("something else than a command")) };
    };
    let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
    let digits = line.strip_prefix(&[marker]).and_then(|digits| std::str::from_utf8(digits).ok());
    let number: usize =
        digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| broken("something else than a command"))?;
    if number > COMMAND_BYTES_MAX {
        return Err(broken("a command of more than 16 KiB"));
    }
    *rest = &rest[end + 1..];
    Ok(Some(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use redwind_stream::encode_command;

    fn read_all(mut bytes: &[u8]) -> io::Result<Vec<Said>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut reader = CommandReader::new(&mut bytes);
            let mut said = Vec::new();
            while let Some(next) = reader.next().await? {
                said.push(next);
            }
            Ok(said)
        })
    }

    #[test]
    fn commands_and_signs_of_life_are_told_apart() {
        let bytes = [b"\n".as_slice(), &encode_command(&[b"REPLCONF", b"ACK", b"17"]), b"\n"].concat();
        let command = Said::Command(vec!["REPLCONF".into(), "ACK".into(), "17".into()]);
        assert_eq!(read_all(&bytes).unwrap(), [Said::Alive, command, Said::Alive]);
    }

    #[test]
    fn what_is_no_command_or_too_long_is_refused() {
        for bad in
            ["PING\r\n", "*0\r\n", "*1\r\n$99999\r\n", "*1\r\n$-1\r\n", "*65\r\n", "*1\r\n$1\r\nabc", "GET / HTTP"]
        {
            assert!(read_all(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(read_all(&[b"*1\r\n".as_slice(), &[b'$'; 20_000]].concat()).is_err());
    }

    /// The commands in what a connection brings, until they end or are none.
    fn commands(pieces: &[&[u8]]) -> (Vec<Said>, Option<String>) {
        let (mut buffer, mut commands) = (BytesMut::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                match take(&mut buffer) {
                    Ok(Some(Said::Alive)) => {}
                    Ok(Some(command)) => commands.push(command),
                    Ok(None) => break,
                    Err(error) => return (commands, Some(error.to_string())),
                }
            }
        }
        (commands, None)
    }

    #[test]
    fn replicas_are_read_in_whatever_pieces_they_speak() {
        let handshake = [
            encode_command(&[b"AUTH", b"default", b"password"]),
            encode_command(&[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"]),
            encode_command(&[b"PSYNC", b"?", b"-1"]),
            b"\n\n".to_vec(),
            encode_command(&[b"REPLCONF", b"ACK", b"17"]),
        ];
        redwind_fuzz::Fuzz::of("replica-command").seeds([handshake.concat()]).run(|input| {
            let whole = commands(&[input]);
            assert_eq!(commands(&redwind_fuzz::pieces(input)), whole, "the pieces do not matter");
            format!("{} {}", "x".repeat(whole.0.len().min(5)), whole.1.unwrap_or_default())
        });
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = read_all(&bytes);
        }
    }
}
