//! What can go wrong on a connection, sorted by what the caller must do about it.

use std::io;
use std::time::Duration;

use crate::tls::TlsError;
use crate::url::ServerAddress;

/// Characters of a server's text that go into an error.
const TEXT_CHARS_MAX: usize = 300;

/// Why a connection could not be made, or a command was not done.
///
/// [`is_retryable`](Self::is_retryable) tells whether waiting may help; if not, the server refuses
/// us, or we it, until somebody changes something (exit status 7).
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No connection: refused, unreachable, unknown host, no such socket.
    #[error("cannot connect to {address}")]
    Connect {
        /// The server.
        address: ServerAddress,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// No encrypted connection.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server does not take us for the user that we say we are.
    #[error("{0}")]
    Auth(AuthRefusal),
    /// `NOPERM`: the ACL user may not do this.
    #[error(
        "the server refuses {command} to this user ({text}); allow it with: \
         ACL SETUSER <user> {}",
        acl_rule(command)
    )]
    NoPermission {
        /// The command, such as `CONFIG GET`.
        command: String,
        /// The server's text.
        text: String,
    },
    /// `LOADING`: the server reads its dataset from disk.
    #[error("the server is still loading its dataset")]
    Loading,
    /// `MASTERDOWN` or `NOMASTERLINK`: the server is a replica that has lost its primary.
    #[error("the server is a replica without a link to its primary")]
    MasterDown,
    /// `BUSY`, `TRYAGAIN`, or no connection free: the server cannot do it just now.
    #[error("the server cannot do {command} now: {text}")]
    Busy {
        /// The command.
        command: String,
        /// The server's text.
        text: String,
    },
    /// The server does not know the command, or has it renamed or disabled.
    #[error("the server has no {command}{}", unknown_hint(command))]
    UnknownCommand {
        /// The command.
        command: String,
    },
    /// Any other error that the server answered.
    #[error("the server answers {command} with: {text}")]
    Reply {
        /// The command.
        command: String,
        /// The server's text.
        text: String,
    },
    /// Whatever listens there, it is no Redis-like server.
    #[error("{address} does not speak the Redis protocol: {problem}")]
    NotRedis {
        /// The peer.
        address: ServerAddress,
        /// What it did.
        problem: &'static str,
    },
    /// Bytes that are no reply, from a server that had given good ones.
    #[error("{address} breaks the protocol: {problem}")]
    Protocol {
        /// The server.
        address: ServerAddress,
        /// What it did.
        problem: &'static str,
    },
    /// No answer in time.
    #[error("{address}: no answer to {waiting_for} within {} s", after.as_secs_f64())]
    Timeout {
        /// The server.
        address: ServerAddress,
        /// What we waited for.
        waiting_for: String,
        /// How long.
        after: Duration,
    },
    /// The connection broke.
    #[error("lost the connection to {address}")]
    Lost {
        /// The server.
        address: ServerAddress,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The server closed the connection, or an earlier command was abandoned before its reply.
    #[error("the connection to {address} is closed")]
    Closed {
        /// The server.
        address: ServerAddress,
    },
}

/// Why the server does not take us for the user that we say we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthRefusal {
    /// `NOAUTH`: a password is needed and none was given.
    #[error(
        "the server requires a password and none was given; put it into the URL or give it by \
         file or environment"
    )]
    Required,
    /// `WRONGPASS`: no such user, disabled, or another password.
    #[error("the server refuses the user name or password")]
    Wrong,
    /// A password was given and the server has none.
    #[error("a password is given but the server has none configured; leave it out")]
    NotConfigured,
    /// `DENIED`: protected mode takes local connections only.
    #[error(
        "the server is in protected mode and refuses remote connections; give it a password, or \
         `protected-mode no`"
    )]
    ProtectedMode,
}

impl LinkError {
    /// The error that a server's error text, without its `-`, means as the answer to `args`.
    ///
    /// Its text is made harmless by [`sanitised`], and secrets among `args` do not appear in it,
    /// though servers repeat arguments ("unknown command ..., with args beginning with").
    #[must_use]
    pub fn from_server(args: &[&[u8]], text: &[u8]) -> Self {
        let command = command_name(args);
        let (code, rest) = text.split_at(text.iter().position(|&b| b == b' ').unwrap_or(text.len()));
        let message = rest.to_ascii_lowercase();
        let says = |part: &str| message.windows(part.len()).any(|w| w == part.as_bytes());
        match code {
            b"NOAUTH" => Self::Auth(AuthRefusal::Required),
            b"WRONGPASS" => Self::Auth(AuthRefusal::Wrong),
            b"DENIED" => Self::Auth(AuthRefusal::ProtectedMode),
            b"LOADING" => Self::Loading,
            b"MASTERDOWN" | b"NOMASTERLINK" => Self::MasterDown,
            b"NOPERM" => Self::NoPermission { text: masked(args, text), command },
            b"BUSY" | b"TRYAGAIN" => Self::Busy { text: masked(args, text), command },
            _ if says("unknown command") || says("command is not available") => Self::UnknownCommand { command },
            _ if says("max number of clients") => Self::Busy { text: masked(args, text), command },
            // Before Redis 6: "invalid password", "Client sent AUTH, but no password is set".
            _ if says("invalid password") => Self::Auth(AuthRefusal::Wrong),
            _ if says("without any password configured") || says("no password is set") => {
                Self::Auth(AuthRefusal::NotConfigured)
            }
            _ => Self::Reply { text: masked(args, text), command },
        }
    }

    /// Whether the same may succeed later without anybody's doing.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { source, .. } => source.kind() != io::ErrorKind::PermissionDenied,
            Self::Loading
            | Self::MasterDown
            | Self::Busy { .. }
            | Self::Reply { .. }
            | Self::Protocol { .. }
            | Self::Timeout { .. }
            | Self::Lost { .. }
            | Self::Closed { .. } => true,
            Self::Tls(_)
            | Self::Auth(_)
            | Self::NoPermission { .. }
            | Self::UnknownCommand { .. }
            | Self::NotRedis { .. } => false,
        }
    }

    /// Whether this is an answer to a command, after which the connection can be used on.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        matches!(
            self,
            Self::Auth(_)
                | Self::NoPermission { .. }
                | Self::Loading
                | Self::MasterDown
                | Self::Busy { .. }
                | Self::UnknownCommand { .. }
                | Self::Reply { .. }
        )
    }
}

fn unknown_hint(command: &str) -> &'static str {
    match command {
        "PSYNC" => {
            ": it is renamed or disabled (many managed services do that), so that it cannot be \
             followed; attach to a server of your own that replicates it"
        }
        _ => ": it is renamed, disabled or too new",
    }
}

/// What to add to an ACL user so that it may run `command`; a follower's whole need for PSYNC.
fn acl_rule(command: &str) -> String {
    match command {
        "PSYNC" | "REPLCONF" => "+psync +replconf +ping".to_owned(),
        other => format!("+{}", other.to_ascii_lowercase().replace(' ', "|")),
    }
}

/// The command of `args` as people write it, with the subcommand of a container command.
pub(crate) fn command_name(args: &[&[u8]]) -> String {
    let word = |arg: Option<&&[u8]>| sanitised(arg.copied().unwrap_or_default()).to_ascii_uppercase();
    let name = word(args.first());
    match name.as_str() {
        "CONFIG" | "CLIENT" | "ACL" | "MODULE" | "DEBUG" | "SCRIPT" | "FUNCTION" | "CLUSTER" => {
            format!("{name} {}", word(args.get(1))).trim_end().to_owned()
        }
        _ => name,
    }
}

/// `text` sanitised, with the arguments that may be secret blotted out. A login's answer is cut down
/// to its code: a server may repeat a part of the password.
fn masked(args: &[&[u8]], text: &[u8]) -> String {
    let mut shown = String::from_utf8_lossy(text).into_owned();
    match command_name(args).as_str() {
        "AUTH" => shown.truncate(shown.find(' ').unwrap_or(shown.len())),
        "CONFIG SET" => {
            for secret in args.iter().skip(3).filter(|secret| !secret.is_empty()) {
                shown = shown.replace(&*String::from_utf8_lossy(secret), "***");
            }
        }
        _ => {}
    }
    sanitised(shown.as_bytes())
}

/// A peer's bytes as text that is safe to print: control characters and those that turn the
/// writing direction are escaped, and what is too long is cut off.
#[must_use]
pub fn sanitised(bytes: &[u8]) -> String {
    // A character has at most four bytes, so that this much holds all that will be shown.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * TEXT_CHARS_MAX + 4)]);
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == TEXT_CHARS_MAX {
            shown.push('…');
            break;
        }
        let turns = matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if character.is_control() || turns {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(args: &[&str], text: &str) -> LinkError {
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        LinkError::from_server(&args, text.as_bytes())
    }

    // The texts are those of Redis 6.2.14, 8.6.3 and Valkey 9.1.2, but for those marked.
    #[test]
    fn servers_texts_are_understood() {
        let auth = ["AUTH", "canary"];
        let psync = ["PSYNC", "?", "-1"];
        for (args, text, expected) in [
            (&auth[..], "WRONGPASS invalid username-password pair or user is disabled.", "Auth(Wrong)"),
            (&auth, "ERR invalid password", "Auth(Wrong)"), // Redis 5
            (
                &auth,
                "ERR AUTH <password> called without any password configured for the default user. \
                 Are you sure your configuration is correct?",
                "Auth(NotConfigured)",
            ),
            (&["PING"], "NOAUTH Authentication required.", "Auth(Required)"),
            (&["PING"], "DENIED Redis is running in protected mode because", "Auth(ProtectedMode)"),
            (&psync, "NOPERM User lim has no permissions to run the 'psync' command", "NoPermission"),
            (&psync, "NOMASTERLINK Can't SYNC while not connected with my master", "MasterDown"),
            (&psync, "MASTERDOWN Link with MASTER is down and", "MasterDown"),
            (&psync, "LOADING Redis is loading the dataset in memory", "Loading"),
            (&psync, "BUSY Redis is busy running a script.", "Busy"),
            (&["PING"], "ERR max number of clients reached", "Busy"),
            (&psync, "ERR unknown command 'PSYNC', with args beginning with: '?' '-1' ", "UnknownCommand"),
            (&psync, "ERR unknown command `psync`, with args beginning with: `?`, `-1`, ", "UnknownCommand"),
            (&psync, "ERR Command is not available: 'PSYNC'", "UnknownCommand"), // a managed service
            (&["REPLCONF", "x", "y"], "ERR Unrecognized REPLCONF option: x", "Reply"),
        ] {
            let error = error(args, text);
            assert!(format!("{error:?}").starts_with(expected), "{text}: {error:?}");
            assert!(error.is_answer());
        }
    }

    #[test]
    fn a_refusal_says_what_to_type() {
        let noperm = "NOPERM User r has no permissions to run the 'config|get' command";
        let shown = error(&["config", "get", "x"], noperm).to_string();
        assert!(shown.contains("refuses CONFIG GET") && shown.contains("+config|get"), "{shown}");
        let shown = error(&["PSYNC", "?", "-1"], "NOPERM").to_string();
        assert!(shown.contains("+psync +replconf +ping"), "{shown}");
    }

    #[test]
    fn secrets_that_a_server_repeats_are_not_shown() {
        let long = "canary".repeat(TEXT_CHARS_MAX);
        for (args, text) in [
            (&["AUTH", "me", "canary"][..], "ERR unknown command 'AUTH', with args beginning with: 'canary'"),
            (&["AUTH", "canary-bird"], "ERR wrong thing 'canary...'"),
            (&["CONFIG", "SET", "masterauth", &long], &format!("ERR Invalid argument '{long}'")),
            (&["CONFIG", "SET", "masterauth", "canary"], "ERR Invalid argument 'canary' for CONFIG SET 'masterauth'"),
        ] {
            let error = error(args, text);
            assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
        }
    }

    #[test]
    fn a_servers_text_is_harmless_and_short() {
        assert_eq!(sanitised(b"a\x1b[31mb\r\n\xff"), "a\\u{1b}[31mb\\r\\n\u{fffd}");
        assert_eq!(sanitised("a\u{202e}b".as_bytes()), "a\\u{202e}b");
        assert_eq!(sanitised("é".repeat(100_000).as_bytes()).chars().count(), TEXT_CHARS_MAX + 1);
    }
}
