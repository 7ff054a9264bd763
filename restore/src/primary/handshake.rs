//! What a replica says before it replicates (`syncWithMaster`): PING, AUTH, REPLCONF, PSYNC.

use std::io;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::command::{CommandReader, Said};
use super::secret::Password;
use super::strangers::Place;

/// Wrong passwords that one connection may try.
const GUESSES_MAX: u32 = 3;

/// Answers a peer until it has said the password, by which it leaves its `place` among strangers, and asked
/// for replication. The answer to `PSYNC` itself is left to the feed.
pub(super) async fn shake_hands(
    password: &Password,
    stream: TcpStream,
    place: Place,
) -> io::Result<(CommandReader<OwnedReadHalf>, OwnedWriteHalf)> {
    // Without it the last bytes and GETACK wait for acknowledgements of those before.
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.into_split();
    let mut reader = CommandReader::new(reader);
    let mut stranger = Some(place);
    let mut wrong = 0;
    loop {
        let command = match reader.next().await? {
            Some(Said::Command(command)) => command,
            Some(Said::Alive) => continue,
            None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")),
        };
        let answer: &[u8] = match request(&command) {
            Request::Auth(said) if password.is(said) => {
                stranger = None;
                b"+OK\r\n"
            }
            Request::Auth(_) => {
                wrong += 1;
                b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
            }
            // Replicas take this answer to PING for a good one, and go on with AUTH.
            _ if stranger.is_some() => b"-NOAUTH Authentication required.\r\n",
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

#[cfg(test)]
mod tests {
    use super::super::strangers::Strangers;
    use super::*;
    use redwind_stream::encode_command;
    use std::time::Duration;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    /// What a peer is answered that says `commands` and no more, and whether it became a replica.
    async fn answers(password: &Password, commands: &[&[&[u8]]]) -> (String, bool) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        for command in commands {
            peer.write_all(&encode_command(command)).await.unwrap();
        }
        peer.shutdown().await.unwrap();
        let stranger = Strangers::default().enter();
        let outcome = stranger.within(Duration::from_secs(60), |place| shake_hands(password, stream, place)).await;
        let is_replica = outcome.is_ok();
        drop(outcome);
        let mut said = String::new();
        peer.read_to_string(&mut said).await.unwrap();
        (said, is_replica)
    }

    #[tokio::test]
    async fn a_stranger_is_told_nothing_whatever_it_asks() {
        let password = Password::generate().unwrap();
        let asked: [&[&[u8]]; 8] = [
            &[b"PING"],
            &[b"INFO"],
            &[b"CONFIG", b"GET", b"masterauth"],
            &[b"REPLCONF", b"capa", b"eof"],
            &[b"SYNC"],
            &[b"PSYNC", b"?", b"-1"],
            &[b"HELLO", b"3"],
            &[b"AUTH", b"default", b""],
        ];
        for command in asked {
            let (said, is_replica) = answers(&password, &[command]).await;
            assert!(!is_replica && (said.starts_with("-NOAUTH") || said.starts_with("-WRONGPASS")), "{said}");
        }
    }

    #[tokio::test]
    async fn a_password_is_guessed_at_three_times() {
        let password = Password::generate().unwrap();
        let guess: &[&[u8]] = &[b"AUTH", b"0123456789012345678901234567890123456789"];
        let right: &[&[u8]] = &[b"AUTH", password.expose().as_bytes()];
        let psync: &[&[u8]] = &[b"PSYNC", b"?", b"-1"];
        let (said, is_replica) = answers(&password, &[guess, guess, right, psync]).await;
        assert!(is_replica && said.ends_with("+OK\r\n"), "{said}");
        let (said, is_replica) = answers(&password, &[guess, guess, guess]).await;
        assert!(!is_replica && said.matches("-WRONGPASS").count() == 3, "{said}");
    }
}
