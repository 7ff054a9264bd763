//! Who may use gRPC and HTTP: TLS, the certificates of clients, and tokens.
//!
//! Owns what is known of certificates and tokens, and promises that it is compared without telling
//! anything by its time, never shown, and looked up again while the agent runs: files that are renewed
//! or taken away count within [`RELOAD_INTERVAL`]. Files that cannot be used then leave what they held
//! before in force.
//!
//! - Without tokens and without an authority for clients, whoever gets in is an operator.
//! - With an authority, only a peer whose certificate it vouches for; with tokens, only one that knows
//!   one; with both, both. The token tells the role; a certificate alone is an operator's.

mod rules;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{AccessConfig, Role};
use crate::error::describe;
pub use rules::AccessError;
use rules::{Files, Rules};

/// Time between two looks at the files.
pub(super) const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// The protocol that an interface speaks inside TLS (ALPN).
#[derive(Clone, Copy, Debug)]
pub(super) enum Protocol {
    /// gRPC.
    Http2,
    /// Metrics and health.
    Http1,
}

/// The rules in force.
#[derive(Clone, Debug)]
pub struct Access(watch::Receiver<Arc<Rules>>);

/// Keeps the rules up to date; [`run`](Self::run) it.
pub struct AccessKeeper {
    config: AccessConfig,
    files: Files,
    rules: watch::Sender<Arc<Rules>>,
}

/// Why somebody may not do what it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("a client certificate is required (--tls-cert and --tls-key)")]
    NoCertificate,
    #[error("a token is required: send `authorization: Bearer TOKEN` (--token-file)")]
    NoToken,
    #[error("this token is not known here")]
    UnknownToken,
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Its address.
    pub(super) address: std::net::SocketAddr,
    /// It has shown a certificate that our authority for clients vouches for.
    pub(super) has_certificate: bool,
    /// It has asked for something that it may ask for; until then it is given little time.
    pub(super) is_known: Arc<AtomicBool>,
}

/// Somebody who may use the interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub(super) role: Role,
    pub(super) address: std::net::SocketAddr,
}

impl Access {
    /// Reads the files that `config` names.
    ///
    /// # Errors
    /// [`AccessError`] names the option and the file that cannot be used.
    pub async fn load(config: &AccessConfig) -> Result<(Self, AccessKeeper), AccessError> {
        let files = Files::read(config).await?;
        let rules = Arc::new(Rules::new(config, &files)?);
        let (rules, seen) = watch::channel(rules);
        Ok((Self(seen), AccessKeeper { config: config.clone(), files, rules }))
    }

    /// What a connection must be encrypted by; `None` for none.
    pub(super) fn tls(&self, protocol: Protocol) -> Option<Arc<ServerConfig>> {
        self.0.borrow().tls(protocol)
    }

    /// Who asks, by its certificate and by the value of its header `authorization`.
    pub(super) fn judge(&self, peer: &Peer, authorization: Option<&[u8]>) -> Result<Caller, Refusal> {
        let role = self.0.borrow().role(peer.has_certificate, authorization)?;
        peer.is_known.store(true, Ordering::Relaxed);
        Ok(Caller { role, address: peer.address })
    }
}

impl AccessKeeper {
    /// Looks at the files until `closing` is cancelled.
    pub async fn run(mut self, closing: CancellationToken) {
        let mut problem = String::new();
        loop {
            tokio::select! {
                () = closing.cancelled() => return,
                () = tokio::time::sleep(RELOAD_INTERVAL) => {}
            }
            let outcome = self.look_again().await;
            // Each problem is told once.
            let now = outcome.as_ref().err().map(|error| describe(error)).unwrap_or_default();
            if now != problem && !now.is_empty() {
                tracing::warn!(error = %now, "what was read before of certificates and tokens stays in force");
            }
            problem = now;
        }
    }

    async fn look_again(&mut self) -> Result<(), AccessError> {
        let files = Files::read(&self.config).await?;
        if files == self.files {
            return Ok(());
        }
        let rules = Rules::new(&self.config, &files)?;
        self.files = files;
        self.rules.send_replace(Arc::new(rules));
        tracing::info!("certificates and tokens were read anew");
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
