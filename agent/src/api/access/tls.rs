//! TLS as the files say: our certificate, and the authorities that vouch for those of clients.
//!
//! The two are read apart, so that an authority that is withdrawn counts no more while a renewed
//! certificate does not fit its key.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};

use super::Protocol;
use super::error::AccessError;
use super::files::{Digest, NamedFile, digest_of};
use super::rules::Renewal;

/// What connections are encrypted by.
#[derive(Clone)]
pub(super) struct Tls {
    identity: Identity,
    authorities: Option<Authorities>,
    /// For HTTP/2 and HTTP/1, which differ in what they say they speak.
    configs: [Arc<ServerConfig>; 2],
}

/// Our certificate and its key.
#[derive(Clone)]
struct Identity {
    cert: NamedFile,
    key: NamedFile,
    content: [Digest; 2],
    certified: Arc<CertifiedKey>,
}

/// Those whose word on a client's certificate counts.
#[derive(Clone)]
pub(super) struct Authorities {
    file: NamedFile,
    content: Digest,
    /// `None` when there is none left: nobody's certificate counts.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// The certificate that a client has shown, with its chain.
#[derive(Clone, Debug)]
pub(in super::super) struct ClientCertificate {
    chain: Arc<[CertificateDer<'static>]>,
    /// The file of the authorities that vouched for it.
    accepted_by: Digest,
}

/// What one connection is encrypted by.
#[derive(Debug)]
pub(in super::super) struct Encryption {
    pub(in super::super) config: Arc<ServerConfig>,
    authorities: Option<Digest>,
}

impl Encryption {
    /// What a client has shown in a handshake by this, which has checked it.
    pub(in super::super) fn certificate(&self, chain: Option<&[CertificateDer<'static>]>) -> Option<ClientCertificate> {
        let chain = chain.filter(|chain| !chain.is_empty())?.into();
        Some(ClientCertificate { chain, accepted_by: self.authorities? })
    }
}

impl Tls {
    pub(super) async fn load(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Self, AccessError> {
        let identity = Identity::load(cert, key).await?;
        let authorities = match client_ca {
            Some(path) => Some(Authorities::load(path).await?),
            None => None,
        };
        let configs = server_configs(&identity, authorities.as_ref())?;
        Ok(Self { identity, authorities, configs })
    }

    /// Looks at the files again.
    pub(super) async fn renew(&mut self, renewal: &mut Renewal) {
        let mut changed = self.identity.renew(renewal).await;
        if let Some(authorities) = &mut self.authorities {
            changed |= authorities.renew(renewal).await;
        }
        if !changed {
            return;
        }
        match server_configs(&self.identity, self.authorities.as_ref()) {
            Ok(configs) => self.configs = configs,
            Err(error) => renewal.kept(&error),
        }
        renewal.changed = true;
    }

    pub(super) fn encryption(&self, protocol: Protocol) -> Encryption {
        let [http2, http1] = &self.configs;
        let config = match protocol {
            Protocol::Http2 => http2,
            Protocol::Http1 => http1,
        };
        let authorities = self.authorities.as_ref().map(|authorities| authorities.content);
        Encryption { config: Arc::clone(config), authorities }
    }

    /// Whether whoever has shown this may come in as far as certificates are concerned.
    pub(super) fn admits(&self, certificate: Option<&ClientCertificate>) -> bool {
        let Some(authorities) = &self.authorities else { return true };
        certificate.is_some_and(|certificate| authorities.vouch_for(certificate))
    }
}

impl Identity {
    async fn load(cert: &Path, key: &Path) -> Result<Self, AccessError> {
        let (cert, key) = (NamedFile::new("listen-cert", cert), NamedFile::new("listen-key", key));
        let pem = [cert.read().await?, key.read().await?];
        let certified = Self::parse(&cert, &key, &pem)?;
        Ok(Self { cert, key, content: pem.map(|pem| digest_of(&pem)), certified })
    }

    /// Whether another one is used from now on.
    async fn renew(&mut self, renewal: &mut Renewal) -> bool {
        let renewed = async {
            let pem = [self.cert.read().await?, self.key.read().await?];
            let content = [digest_of(&pem[0]), digest_of(&pem[1])];
            if content == self.content {
                return Ok(None);
            }
            Self::parse(&self.cert, &self.key, &pem).map(|certified| Some((content, certified)))
        };
        match renewed.await {
            Ok(Some(renewed)) => (self.content, self.certified) = renewed,
            Ok(None) => return false,
            Err(error) => {
                renewal.kept(&error);
                return false;
            }
        }
        true
    }

    fn parse(cert: &NamedFile, key: &NamedFile, [chain, pem]: &[Vec<u8>; 2]) -> Result<Arc<CertifiedKey>, AccessError> {
        let chain = certificates(cert, chain)?;
        if chain.is_empty() {
            return Err(no_pem(cert, pem::Error::NoItemsFound));
        }
        let private_key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| no_pem(key, error))?;
        let certified = CertifiedKey::from_der(chain, private_key, &provider::default_provider());
        certified.map(Arc::new).map_err(|error| key.unusable(error))
    }
}

impl Authorities {
    async fn load(path: &Path) -> Result<Self, AccessError> {
        let file = NamedFile::new("listen-client-ca", path);
        let pem = file.read().await?;
        let verifier = Self::parse(&file, &pem)?;
        if verifier.is_none() {
            return Err(no_pem(&file, pem::Error::NoItemsFound));
        }
        Ok(Self { content: digest_of(&pem), file, verifier })
    }

    /// Whether others count from now on. None does when the file was emptied or deleted.
    async fn renew(&mut self, renewal: &mut Renewal) -> bool {
        let renewed = async {
            let pem = self.file.read_if_there().await?;
            let content = digest_of(&pem);
            if content == self.content {
                return Ok(None);
            }
            Self::parse(&self.file, &pem).map(|verifier| Some((content, verifier)))
        };
        let changed = match renewed.await {
            Ok(Some(renewed)) => {
                (self.content, self.verifier) = renewed;
                true
            }
            Ok(None) => false,
            Err(error) => {
                renewal.kept(&error);
                false
            }
        };
        if self.verifier.is_none() {
            renewal.opens_nothing(&no_pem(&self.file, pem::Error::NoItemsFound));
        }
        changed
    }

    fn parse(file: &NamedFile, pem: &[u8]) -> Result<Option<Arc<dyn ClientCertVerifier>>, AccessError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(file, pem)? {
            roots.add(authority).map_err(|error| file.unusable(error))?;
        }
        if roots.is_empty() {
            return Ok(None);
        }
        // Whoever shows none still gets as far as the health checks; everything else asks for it.
        let provider = Arc::new(provider::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated().build();
        Ok(Some(verifier.map_err(|error| file.unusable(error))?))
    }

    /// A connection may be older than the file as it is now; then its certificate is looked at again.
    fn vouch_for(&self, certificate: &ClientCertificate) -> bool {
        if certificate.accepted_by == self.content {
            return true;
        }
        let Some((verifier, (own, above))) = self.verifier.as_ref().zip(certificate.chain.split_first()) else {
            return false;
        };
        verifier.verify_client_cert(own, above, UnixTime::now()).is_ok()
    }
}

fn server_configs(
    identity: &Identity,
    authorities: Option<&Authorities>,
) -> Result<[Arc<ServerConfig>; 2], AccessError> {
    let provider: Arc<CryptoProvider> = Arc::new(provider::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| identity.cert.unusable(error))?;
    let builder = match authorities.and_then(|authorities| authorities.verifier.as_ref()) {
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        None => builder.with_no_client_auth(),
    };
    let resolver = SingleCertAndKey::from(Arc::clone(&identity.certified));
    let config = builder.with_cert_resolver(Arc::new(resolver));
    Ok([&b"h2"[..], b"http/1.1"].map(|protocol| {
        let mut config = config.clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    }))
}

fn certificates(file: &NamedFile, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    certificates.map_err(|error| no_pem(file, error))
}

fn no_pem(file: &NamedFile, source: pem::Error) -> AccessError {
    AccessError::Pem { option: file.option, path: file.path.clone(), source }
}
