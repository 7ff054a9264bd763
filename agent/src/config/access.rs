//! Who may use the interfaces: certificates, tokens, and what must be asked for beyond loopback.

use std::net::SocketAddr;
use std::path::PathBuf;

use redwind_link::Secret;

use super::{ConfigError, refuse};

/// What somebody who uses the interfaces may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// See the state and the metrics, and wait for writes to be durable.
    Reader,
    /// Also ask for snapshots, which cost the server a fork.
    Operator,
}

impl Role {
    /// The role in a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Operator => "operator",
        }
    }
}

/// Where tokens come from.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// The environment or the settings file.
    Given(Secret),
    /// A file with a token in each line, looked at again while the agent runs.
    File(PathBuf),
}

/// How whoever uses gRPC and HTTP shows who it is.
#[derive(Clone, Debug, Default)]
pub struct AccessConfig {
    /// PEM file of the interfaces' certificate with its chain. With it they speak TLS only.
    pub cert: Option<PathBuf>,
    /// PEM file of its private key.
    pub key: Option<PathBuf>,
    /// PEM file of the authorities one of which must vouch for the peer's certificate.
    pub client_ca: Option<PathBuf>,
    /// The tokens of readers.
    pub reader: Option<TokenSource>,
    /// The tokens of operators.
    pub operator: Option<TokenSource>,
    /// Allows addresses beyond loopback without TLS, or without tokens and certificates of clients.
    pub open: bool,
}

impl AccessConfig {
    /// Whether a token must be shown.
    #[must_use]
    pub fn asks_for_token(&self) -> bool {
        self.reader.is_some() || self.operator.is_some()
    }

    /// Checks the settings against each other, and against the addresses that are served.
    pub(super) fn validate(&self, served: [(&'static str, Option<SocketAddr>); 2]) -> Result<(), ConfigError> {
        let needs = |option, what: &str| Err(refuse(option, format!("is of no use without {what}")));
        match (&self.cert, &self.key) {
            (Some(_), None) => return needs("listen-cert", "its private key: add --listen-key"),
            (None, Some(_)) => return needs("listen-key", "its certificate: add --listen-cert"),
            (None, None) if self.client_ca.is_some() => {
                return needs("listen-client-ca", "TLS: add --listen-cert and --listen-key");
            }
            _ => {}
        }
        for (option, address) in served {
            let Some(address) = address.filter(|address| !address.ip().is_loopback()) else { continue };
            if let Some(missing) = self.missing().filter(|_| !self.open) {
                let problem = format!(
                    "{address} is no loopback address: {missing}, or --listen-open if everyone who can reach it may \
                     use and overhear it"
                );
                return Err(refuse(option, problem));
            }
        }
        Ok(())
    }

    /// What an address beyond loopback needs.
    fn missing(&self) -> Option<&'static str> {
        let asks = self.asks_for_token() || self.client_ca.is_some();
        match (self.cert.is_some(), asks) {
            (true, true) => None,
            (true, false) => Some("add --read-token-file, --operator-token-file or --listen-client-ca"),
            (false, true) => Some("add --listen-cert and --listen-key"),
            (false, false) => Some(
                "add --listen-cert and --listen-key, and --read-token-file, --operator-token-file or --listen-client-ca",
            ),
        }
    }
}
