//! The rules that all files together make, and what has become of them since they were read.

use super::error::AccessError;
use super::files::digest_of;
use super::tls::{ClientCertificate, Encryption, Tls};
use super::tokens::Tokens;
use super::{Protocol, Refusal};
use crate::config::{AccessConfig, Role};
use crate::error::describe;

const BEARER: &[u8] = b"bearer ";

/// The rules in force.
#[derive(Clone)]
pub(super) struct Rules {
    tls: Option<Tls>,
    /// By role, where there are to be any. A file without tokens stays here, and opens nothing.
    tokens: Vec<Tokens>,
}

/// What another look at the files has brought.
#[derive(Default)]
pub(super) struct Renewal {
    /// The rules are others.
    pub(super) changed: bool,
    /// What is wrong with files, and what follows.
    pub(super) problems: Vec<String>,
}

impl Renewal {
    /// A file cannot be used; nobody knows what it was to say.
    pub(super) fn kept(&mut self, error: &AccessError) {
        self.problems.push(format!("{}; what was read before stays in force", describe(error)));
    }

    /// A file, or a line of it, can be read, and holds nothing that could open anything.
    pub(super) fn opens_nothing(&mut self, error: &AccessError) {
        self.problems.push(format!("{}; it opens nothing", describe(error)));
    }
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").finish_non_exhaustive()
    }
}

impl Rules {
    pub(super) async fn load(config: &AccessConfig) -> Result<Self, AccessError> {
        let mut tokens = Vec::new();
        for (role, source) in [(Role::Reader, &config.reader), (Role::Operator, &config.operator)] {
            if let Some(source) = source {
                tokens.push(Tokens::load(role, source).await?);
            }
        }
        let tls = match (&config.cert, &config.key) {
            (Some(cert), Some(key)) => Some(Tls::load(cert, key, config.client_ca.as_deref()).await?),
            _ => None,
        };
        Ok(Self { tls, tokens })
    }

    /// Looks at the files again, each by itself: one that cannot be used keeps no other from counting.
    pub(super) async fn renew(&mut self) -> Renewal {
        let mut renewal = Renewal::default();
        if let Some(tls) = &mut self.tls {
            tls.renew(&mut renewal).await;
        }
        for tokens in &mut self.tokens {
            tokens.renew(&mut renewal).await;
        }
        renewal
    }

    pub(super) fn encryption(&self, protocol: Protocol) -> Option<Encryption> {
        self.tls.as_ref().map(|tls| tls.encryption(protocol))
    }

    /// The role of whoever has shown this.
    pub(super) fn role(
        &self,
        certificate: Option<&ClientCertificate>,
        authorization: Option<&[u8]>,
    ) -> Result<Role, Refusal> {
        if self.tls.as_ref().is_some_and(|tls| !tls.admits(certificate)) {
            return Err(Refusal::NoCertificate);
        }
        if self.tokens.is_empty() {
            return Ok(Role::Operator);
        }
        let shown = digest_of(authorization.and_then(bearer).ok_or(Refusal::NoToken)?);
        let matching: Vec<Role> =
            self.tokens.iter().filter(|tokens| tokens.hold(&shown)).map(|tokens| tokens.role).collect();
        matching.into_iter().max().ok_or(Refusal::UnknownToken)
    }
}

fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked(BEARER.len())?;
    scheme.eq_ignore_ascii_case(BEARER).then_some(token)
}
