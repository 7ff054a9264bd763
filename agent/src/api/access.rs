//! Who may use gRPC and HTTP: TLS, the certificates of clients, and tokens.
//!
//! Owns what is known of certificates and tokens, and promises that it is compared without telling
//! anything by its time, never shown, and looked up again while the agent runs: what a file holds counts
//! within [`RELOAD_INTERVAL`], on connections made before too, and what it does not hold any more opens
//! nothing, whatever is wrong with the rest of it or with other files. A file that was emptied or deleted
//! opens to nobody. One that cannot be read or understood leaves what it held before in force.
//!
//! - Without tokens and without an authority for clients, whoever gets in is an operator.
//! - With an authority, only a peer whose certificate it vouches for; with tokens, only one that knows
//!   one; with both, both. The token tells the role; a certificate alone is an operator's.

mod error;
mod files;
mod rules;
mod tls;
mod tokens;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{AccessConfig, Role};
pub use error::AccessError;
use rules::Rules;
pub(super) use tls::{ClientCertificate, Encryption};

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
    rules: Rules,
    in_force: watch::Sender<Arc<Rules>>,
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
    /// The certificate that it has shown, which our authorities for clients vouched for when it connected.
    pub(super) certificate: Option<ClientCertificate>,
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
        let rules = Rules::load(config).await?;
        let (in_force, seen) = watch::channel(Arc::new(rules.clone()));
        Ok((Self(seen), AccessKeeper { rules, in_force }))
    }

    /// What a connection must be encrypted by; `None` for none.
    pub(super) fn encryption(&self, protocol: Protocol) -> Option<Encryption> {
        self.0.borrow().encryption(protocol)
    }

    /// Who asks, by its certificate and by the value of its header `authorization`.
    pub(super) fn judge(&self, peer: &Peer, authorization: Option<&[u8]>) -> Result<Caller, Refusal> {
        let role = self.0.borrow().role(peer.certificate.as_ref(), authorization)?;
        peer.is_known.store(true, Ordering::Relaxed);
        Ok(Caller { role, address: peer.address })
    }
}

impl AccessKeeper {
    /// Looks at the files until `closing` is cancelled.
    pub async fn run(mut self, closing: CancellationToken) {
        let mut told = Vec::new();
        loop {
            tokio::select! {
                () = closing.cancelled() => return,
                () = tokio::time::sleep(RELOAD_INTERVAL) => {}
            }
            let problems = self.look_again().await;
            for problem in problems.iter().filter(|problem| !told.contains(*problem)) {
                tracing::warn!("{problem}");
            }
            told = problems;
        }
    }

    /// Puts in force what the files say now. Tells what is wrong with them.
    pub(super) async fn look_again(&mut self) -> Vec<String> {
        let renewal = self.rules.renew().await;
        if renewal.changed {
            self.in_force.send_replace(Arc::new(self.rules.clone()));
            tracing::info!("certificates and tokens were read anew");
        }
        renewal.problems
    }
}

#[cfg(test)]
pub(crate) mod tests;
