//! A command in the one shape that replication links carry: an array of bulk strings.

use std::io::Write;

/// Encodes a command and its arguments, as a client or a primary sends it.
///
/// ```
/// let ack = redwind_stream::encode_command(&[b"REPLCONF", b"ACK", b"17"]);
/// assert_eq!(ack, b"*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$2\r\n17\r\n");
/// ```
#[must_use]
pub fn encode_command(args: &[&[u8]]) -> Vec<u8> {
    let body: usize = args.iter().map(|arg| arg.len() + 16).sum();
    let mut out = Vec::with_capacity(body + 16);
    encode_command_into(args, &mut out);
    out
}

/// Appends what [`encode_command`] returns to `out`.
pub fn encode_command_into(args: &[&[u8]], out: &mut Vec<u8>) {
    push_line(b'*', args.len(), out);
    for arg in args {
        push_bulk(arg, out);
    }
}

/// Appends one bulk string.
pub(crate) fn push_bulk(arg: &[u8], out: &mut Vec<u8>) {
    push_line(b'$', arg.len(), out);
    out.extend_from_slice(arg);
    out.extend_from_slice(b"\r\n");
}

/// Appends `number` as a bulk string.
pub(crate) fn push_number(number: i64, out: &mut Vec<u8>) {
    push_bulk(number.to_string().as_bytes(), out);
}

/// Appends a header line: `*<number>` or `$<number>`.
pub(crate) fn push_line(marker: u8, number: usize, out: &mut Vec<u8>) {
    out.push(marker);
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{number}\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_empty_and_binary_arguments() {
        assert_eq!(encode_command(&[b"SET", b"", b"\r\n\0"]), b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$3\r\n\r\n\0\r\n");
    }
}
