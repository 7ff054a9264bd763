//! A small blocking client of the server's own protocol, for the few questions a bench asks.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// A server that is silent this long has failed the bench.
const PATIENCE: Duration = Duration::from_secs(120);

/// Appends one command in its wire form.
pub fn encode(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "*{}\r\n", arguments.len());
    for argument in arguments {
        let _ = write!(out, "${}\r\n", argument.len());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

/// A connection that sends commands and reads their replies as text.
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Connects to `address`.
    ///
    /// # Errors
    /// When nothing accepts there.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// One command, one reply: the text of a status, integer or bulk; an array's parts by lines.
    ///
    /// # Errors
    /// When the connection fails or the server answers with an error.
    pub fn call(&mut self, arguments: &[&str]) -> Result<String> {
        let replies = self.pipeline(&[arguments])?;
        Ok(replies.into_iter().next().unwrap_or_default())
    }

    /// Several commands sent in one write, so that nothing else of this client's comes between.
    ///
    /// # Errors
    /// As [`Client::call`], for the first that fails.
    pub fn pipeline(&mut self, commands: &[&[&str]]) -> Result<Vec<String>> {
        let mut bytes = Vec::new();
        for command in commands {
            let arguments: Vec<&[u8]> = command.iter().map(|a| a.as_bytes()).collect();
            encode(&mut bytes, &arguments);
        }
        self.reader.get_ref().write_all(&bytes)?;
        commands.iter().map(|c| self.reply().with_context(|| format!("answer to {}", c.join(" ")))).collect()
    }

    /// A section of INFO.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn info(&mut self, section: &str) -> Result<Info> {
        Ok(Info(self.call(&["INFO", section])?))
    }

    fn reply(&mut self) -> Result<String> {
        let line = read_line(&mut self.reader)?;
        let (kind, rest) = line.split_at_checked(1).context("empty reply")?;
        match kind {
            "+" | ":" => Ok(rest.to_owned()),
            "-" => bail!("{rest}"),
            "$" if rest == "-1" => Ok(String::new()),
            "$" => {
                let mut body = vec![0; rest.parse::<usize>()? + 2];
                self.reader.read_exact(&mut body)?;
                body.truncate(body.len() - 2);
                Ok(String::from_utf8_lossy(&body).into_owned())
            }
            "*" => {
                let parts: Result<Vec<String>> = (0..rest.parse::<usize>()?).map(|_| self.reply()).collect();
                Ok(parts?.join("\n"))
            }
            other => bail!("reply of unknown kind '{other}'"),
        }
    }
}

/// One line without its line end.
///
/// # Errors
/// When the connection fails or ends first.
pub fn read_line(reader: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    let n = reader.read_line(&mut line)?;
    ensure!(n > 0, "the connection was closed");
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// One command as a replica sends it: an array of bulk strings. `None` at the end of the connection.
///
/// # Errors
/// When the bytes are no such array, or larger than any command of a replica.
pub fn read_command(reader: &mut impl BufRead) -> Result<Option<Vec<Vec<u8>>>> {
    /// Far above the longest command a replica sends.
    const LARGEST: usize = 64 * 1024;
    // Bare newlines are keep-alives.
    let first = loop {
        match reader.fill_buf()? {
            [] => return Ok(None),
            [b'\n' | b'\r', ..] => reader.consume(1),
            _ => break read_line(reader)?,
        }
    };
    let count: usize = first.strip_prefix('*').context("not an array")?.parse()?;
    ensure!(count <= 64, "a command of {count} arguments");
    let mut arguments = Vec::with_capacity(count);
    for _ in 0..count {
        let length: usize = read_line(reader)?.strip_prefix('$').context("not a bulk string")?.parse()?;
        ensure!(length <= LARGEST, "an argument of {length} bytes");
        let mut argument = vec![0; length + 2];
        reader.read_exact(&mut argument)?;
        argument.truncate(length);
        arguments.push(argument);
    }
    Ok(Some(arguments))
}

/// The text of an INFO section.
pub struct Info(pub String);

impl Info {
    /// The value of a field.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.0.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':')).map(str::trim)
    }

    /// The value of a numeric field.
    ///
    /// # Errors
    /// When the field is missing or no number.
    pub fn number(&self, field: &str) -> Result<u64> {
        let value = self.text(field).with_context(|| format!("INFO has no field {field}"))?;
        value.parse().with_context(|| format!("INFO field {field} is '{value}'"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        let mut out = Vec::new();
        encode(&mut out, &[b"SET", b"k", b"\r\n"]);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\r\n\r\n");
    }

    #[test]
    fn info_fields_match_whole_names() {
        let info = Info("# Memory\r\nused_memory_rss:9\r\nused_memory:7\r\n".to_owned());
        assert_eq!(info.number("used_memory").expect("present"), 7);
        assert!(info.number("used").is_err());
    }
}
