//! What the files say: TLS and tokens, checked.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::{constant_time, digest};
use rustls::crypto::aws_lc_rs as provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::{Protocol, Refusal};
use crate::config::{AccessConfig, Role, TokenSource};

/// Longest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// A shorter token could be guessed.
const TOKEN_BYTES_MIN: usize = 16;
const TOKEN_BYTES_MAX: usize = 1024;
const BEARER: &[u8] = b"bearer ";

/// A file of certificates or tokens that cannot be used. Never repeats what it holds.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// It cannot be read.
    #[error("{option}: cannot read {}", path.display())]
    Read {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is no PEM, or not of the kind that it should be.
    #[error("{option}: {} is no PEM file of the right kind", path.display())]
    Pem {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: pem::Error,
    },
    /// Its content cannot be used.
    #[error("{option}: {} cannot be used", path.display())]
    Unusable {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A token that cannot be one.
    #[error(
        "{option}: line {line} is no token: expected {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} printable characters \
         without spaces, such as `openssl rand -hex 32` makes"
    )]
    Token {
        /// The option that gives it.
        option: &'static str,
        /// Which line of it.
        line: usize,
    },
    /// No token where some are to be.
    #[error("{option}: there is no token in it")]
    NoTokens {
        /// The option that gives it.
        option: &'static str,
    },
}

/// The bytes of all files. Equal ones need not be looked into again.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Vec<u8>,
    reader: Vec<u8>,
    operator: Vec<u8>,
}

impl Files {
    pub(super) async fn read(config: &AccessConfig) -> Result<Self, AccessError> {
        Ok(Self {
            cert: read("listen-cert", config.cert.as_deref()).await?,
            key: read("listen-key", config.key.as_deref()).await?,
            client_ca: read("listen-client-ca", config.client_ca.as_deref()).await?,
            reader: tokens("read-token-file", config.reader.as_ref()).await?,
            operator: tokens("operator-token-file", config.operator.as_ref()).await?,
        })
    }
}

async fn tokens(option: &'static str, source: Option<&TokenSource>) -> Result<Vec<u8>, AccessError> {
    match source {
        None => Ok(Vec::new()),
        Some(TokenSource::Given(secret)) => Ok(secret.expose().to_vec()),
        Some(TokenSource::File(path)) => read(option, Some(path)).await,
    }
}

async fn read(option: &'static str, path: Option<&Path>) -> Result<Vec<u8>, AccessError> {
    use tokio::io::AsyncReadExt as _;
    let Some(path) = path else { return Ok(Vec::new()) };
    let mut bytes = Vec::new();
    let read = async { tokio::fs::File::open(path).await?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).await };
    read.await.map_err(|source| AccessError::Read { option, path: path.to_owned(), source })?;
    Ok(bytes)
}

/// Of a token only the digest is kept: nothing that is shown or dumped later can give it away.
type TokenDigest = [u8; digest::SHA256_OUTPUT_LEN];

/// The rules that the files make.
pub(super) struct Rules {
    tls: Option<[Arc<ServerConfig>; 2]>,
    asks_for_certificate: bool,
    tokens: Vec<(TokenDigest, Role)>,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").field("tokens", &self.tokens.len()).finish_non_exhaustive()
    }
}

impl Rules {
    pub(super) fn new(config: &AccessConfig, files: &Files) -> Result<Self, AccessError> {
        let mut tokens = Vec::new();
        for (option, source, text, role) in [
            ("read-token", &config.reader, &files.reader, Role::Reader),
            ("operator-token", &config.operator, &files.operator, Role::Operator),
        ] {
            if source.is_some() {
                tokens.extend(read_tokens(option, text)?.into_iter().map(|digest| (digest, role)));
            }
        }
        let tls = match (&config.cert, &config.key) {
            (Some(cert), Some(key)) => Some(server_configs(config, files, cert, key)?),
            _ => None,
        };
        Ok(Self { tls, asks_for_certificate: config.client_ca.is_some(), tokens })
    }

    pub(super) fn tls(&self, protocol: Protocol) -> Option<Arc<ServerConfig>> {
        let [http2, http1] = self.tls.as_ref()?;
        Some(Arc::clone(match protocol {
            Protocol::Http2 => http2,
            Protocol::Http1 => http1,
        }))
    }

    /// The role of whoever has shown this.
    pub(super) fn role(&self, has_certificate: bool, authorization: Option<&[u8]>) -> Result<Role, Refusal> {
        if self.asks_for_certificate && !has_certificate {
            return Err(Refusal::NoCertificate);
        }
        if self.tokens.is_empty() {
            return Ok(Role::Operator);
        }
        let token = authorization.and_then(bearer).ok_or(Refusal::NoToken)?;
        let shown = digest_of(token);
        // All are compared, so that the time does not tell which it was.
        let matching = |(known, role): &(TokenDigest, Role)| {
            constant_time::verify_slices_are_equal(known, &shown).is_ok().then_some(*role)
        };
        self.tokens.iter().filter_map(matching).max().ok_or(Refusal::UnknownToken)
    }
}

fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked(BEARER.len())?;
    scheme.eq_ignore_ascii_case(BEARER).then_some(token)
}

fn digest_of(token: &[u8]) -> TokenDigest {
    let mut bytes = TokenDigest::default();
    bytes.copy_from_slice(digest::digest(&digest::SHA256, token).as_ref());
    bytes
}

/// One token a line; empty lines and those that begin with `#` do not count.
fn read_tokens(option: &'static str, text: &[u8]) -> Result<Vec<TokenDigest>, AccessError> {
    let mut tokens = Vec::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let token = line.trim_ascii();
        if token.is_empty() || token.starts_with(b"#") {
            continue;
        }
        let length = (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len());
        if !length || !token.iter().all(u8::is_ascii_graphic) {
            return Err(AccessError::Token { option, line: number + 1 });
        }
        tokens.push(digest_of(token));
    }
    if tokens.is_empty() { Err(AccessError::NoTokens { option }) } else { Ok(tokens) }
}

/// For HTTP/2 and HTTP/1, which differ in what they say they speak.
fn server_configs(
    config: &AccessConfig,
    files: &Files,
    cert: &Path,
    key: &Path,
) -> Result<[Arc<ServerConfig>; 2], AccessError> {
    let unusable = |option: &'static str, path: &Path, source: Box<dyn std::error::Error + Send + Sync>| {
        AccessError::Unusable { option, path: path.to_owned(), source }
    };
    let provider = Arc::new(provider::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("listen-cert", cert, error.into()))?;
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let option = "listen-client-ca";
            let mut roots = RootCertStore::empty();
            for authority in certificates(option, path, &files.client_ca)? {
                roots.add(authority).map_err(|error| unusable(option, path, error.into()))?;
            }
            // Whoever shows none still gets as far as the health checks; everything else asks for it.
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| unusable(option, path, error.into()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = certificates("listen-cert", cert, &files.cert)?;
    let private_key = PrivateKeyDer::from_pem_slice(&files.key).map_err(|source| AccessError::Pem {
        option: "listen-key",
        path: key.to_owned(),
        source,
    })?;
    let http2 =
        builder.with_single_cert(chain, private_key).map_err(|error| unusable("listen-key", key, error.into()))?;
    let mut http1 = http2.clone();
    let mut http2 = http2;
    http2.alpn_protocols = vec![b"h2".to_vec()];
    http1.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok([Arc::new(http2), Arc::new(http1)])
}

fn certificates(option: &'static str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let refused = |source| AccessError::Pem { option, path: path.to_owned(), source };
    match certificates.map_err(refused)? {
        none if none.is_empty() => Err(refused(pem::Error::NoItemsFound)),
        certificates => Ok(certificates),
    }
}
