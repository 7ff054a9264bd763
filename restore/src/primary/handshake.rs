//! What a replica says before it replicates (`syncWithMaster`): PING, AUTH, REPLCONF, PSYNC.

use std::io;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::command::{CommandReader, Said};
use super::secret::Password;

/// Wrong passwords that one connection may try.
const GUESSES_MAX: u32 = 3;

/// Answers a peer until it has said the password and asked for replication. The answer to `PSYNC`
/// itself is left to the feed.
pub(super) async fn shake_hands(
    password: &Password,
    stream: TcpStream,
) -> io::Result<(CommandReader<OwnedReadHalf>, OwnedWriteHalf)> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = CommandReader::new(reader);
    let mut known = false;
    let mut wrong = 0;
    loop {
        let command = match reader.next().await? {
            Some(Said::Command(command)) => command,
            Some(Said::Alive) => continue,
            None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")),
        };
        let answer: &[u8] = match request(&command) {
            Request::Auth(said) if password.is(said) => {
                known = true;
                b"+OK\r\n"
            }
            Request::Auth(_) => {
                wrong += 1;
                b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
            }
            // Replicas take this answer to PING for a good one, and go on with AUTH.
            _ if !known => b"-NOAUTH Authentication required.\r\n",
            Request::Psync => return Ok((reader, writer)),
            Request::Ping => b"+PONG\r\n",
            // Capabilities, ports, versions: none changes what is sent.
            Request::Replconf => b"+OK\r\n",
            Request::Other => b"-ERR unknown command; this is a restore, which serves replicas only\r\n",
        };
        writer.write_all(answer).await?;
        if wrong == GUESSES_MAX {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it does not know the password"));
        }
    }
}

enum Request<'a> {
    Ping,
    Auth(&'a [u8]),
    Replconf,
    Psync,
    Other,
}

fn request(command: &[Bytes]) -> Request<'_> {
    let is = |name: &str| command[0].eq_ignore_ascii_case(name.as_bytes());
    match command {
        [_, password] | [_, _, password] if is("AUTH") => Request::Auth(password),
        [_, ..] if is("PING") => Request::Ping,
        [_, ..] if is("REPLCONF") => Request::Replconf,
        [_, _, _] if is("PSYNC") => Request::Psync,
        _ => Request::Other,
    }
}
