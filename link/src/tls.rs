//! TLS to a server: whose certificates we trust, and which one we show.
//!
//! The crypto provider is passed explicitly, so that nothing depends on a process-wide default.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;

use crate::url::ServerAddress;

/// The files that `--tls-ca`, `--tls-cert` and `--tls-key` name, all PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// Certificates of the authorities to trust, instead of the system's.
    pub ca: Option<PathBuf>,
    /// Our certificate with its chain, for servers that ask for one (`tls-auth-clients`).
    pub cert: Option<PathBuf>,
    /// The private key of `cert`.
    pub key: Option<PathBuf>,
}

/// Why there is no encrypted connection. None of these goes away by waiting.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file cannot be read.
    #[error("cannot read {flag} {}", path.display())]
    File {
        /// The option that names the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: pem::Error,
    },
    /// A PEM file holds nothing of what it should.
    #[error("{flag} {}: no certificate in it", path.display())]
    Empty {
        /// The option that names the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A file's content cannot be used.
    #[error("{flag} {} cannot be used", path.display())]
    Unusable {
        /// The option that names the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: rustls::Error,
    },
    /// One of `--tls-cert` and `--tls-key` without the other.
    #[error("--tls-cert and --tls-key go together: give both or none")]
    HalfIdentity,
    /// TLS options beside a URL that is not encrypted.
    #[error("TLS options are given but the URL is not encrypted: write rediss:// for {address}")]
    NotEncrypted {
        /// The server.
        address: ServerAddress,
    },
    /// TLS itself cannot be set up.
    #[error("cannot set up TLS")]
    Setup(#[source] rustls::Error),
    /// The system's certificate authorities cannot be used.
    #[error("cannot use the system's certificate authorities; name one by --tls-ca")]
    SystemRoots(#[source] rustls::Error),
    /// The host cannot be a certificate's subject.
    #[error("{address} is not a name that a certificate could hold")]
    ServerName {
        /// The server.
        address: ServerAddress,
    },
    /// The server, or we, refused the other's certificate or parameters.
    #[error("no TLS connection with {address}{}", certificate_hint(source))]
    Refused {
        /// The server.
        address: ServerAddress,
        /// Which side refused what.
        #[source]
        source: rustls::Error,
    },
    /// We spoke TLS to a port that does not.
    #[error("{address} does not speak TLS: use its TLS port (tls-port), or write redis://")]
    ServerIsPlain {
        /// The server.
        address: ServerAddress,
    },
    /// We spoke plain to a port that speaks TLS.
    #[error("{address} speaks TLS: write rediss:// instead of redis://")]
    ServerIsTls {
        /// The server.
        address: ServerAddress,
    },
}

fn certificate_hint(error: &rustls::Error) -> &'static str {
    use rustls::{AlertDescription, CertificateError, Error};
    match error {
        Error::AlertReceived(AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure) => {
            ": it may want a certificate of ours (--tls-cert and --tls-key)"
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => ": name its certificate authority by --tls-ca",
        _ => "",
    }
}

impl TlsOptions {
    /// Whether no option is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Reads the files and makes a client's configuration. Blocks on the file system.
    ///
    /// # Errors
    /// When a file cannot be read or used; names it and its option.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match &self.ca {
            Some(ca) => ca_verifier(ca, &provider)?,
            None => Arc::new(Verifier::new(Arc::clone(&provider)).map_err(TlsError::SystemRoots)?),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match (&self.cert, &self.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let chain = certificates("--tls-cert", cert)?;
                let private_key =
                    PrivateKeyDer::from_pem_file(key).map_err(|source| file_error("--tls-key", key, source))?;
                builder.with_client_auth_cert(chain, private_key).map_err(|source| TlsError::Unusable {
                    flag: "--tls-key",
                    path: key.clone(),
                    source,
                })?
            }
            _ => return Err(TlsError::HalfIdentity),
        };
        Ok(Arc::new(config))
    }
}

fn ca_verifier(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let unusable = |source| TlsError::Unusable { flag: "--tls-ca", path: path.to_owned(), source };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("--tls-ca", path)? {
        roots.add(certificate).map_err(unusable)?;
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| unusable(rustls::Error::General(error.to_string())))
}

fn certificates(flag: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| file_error(flag, path, source))?;
    if certificates.is_empty() {
        return Err(TlsError::Empty { flag, path: path.to_owned() });
    }
    Ok(certificates)
}

fn file_error(flag: &'static str, path: &Path, source: pem::Error) -> TlsError {
    TlsError::File { flag, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(error: &TlsError) -> String {
        let source = std::error::Error::source(error).map(ToString::to_string);
        format!("{error}: {}", source.unwrap_or_default())
    }

    #[test]
    fn a_bad_file_is_named_with_its_option() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.pem");
        let options = TlsOptions { ca: Some(path.clone()), ..TlsOptions::default() };
        let missing = shown(&options.client_config().unwrap_err());
        assert!(missing.contains("--tls-ca") && missing.contains("some.pem"), "{missing}");

        std::fs::write(&path, "nothing").unwrap();
        let empty = shown(&options.client_config().unwrap_err());
        assert!(empty.contains("--tls-ca") && empty.contains("no certificate"), "{empty}");

        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n").unwrap();
        let garbage = shown(&options.client_config().unwrap_err());
        assert!(garbage.contains("--tls-ca") && garbage.contains("some.pem"), "{garbage}");
    }

    #[test]
    fn a_certificate_without_its_key_is_refused() {
        let options = TlsOptions { cert: Some("c.pem".into()), ..TlsOptions::default() };
        let error = options.client_config().unwrap_err();
        // The system may have no certificate authorities, which is found first.
        assert!(matches!(error, TlsError::HalfIdentity | TlsError::SystemRoots(_)), "{error}");
    }
}
