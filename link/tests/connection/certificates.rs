//! A certificate authority for one test, with a certificate for a server and one for a client.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use redwind_link::TlsOptions;
use tempfile::TempDir;

/// PEM files `ca.pem`, `server.pem`, `server.key`, `client.pem` and `client.key` in a folder.
pub(crate) struct Certificates(TempDir);

impl Certificates {
    pub(crate) fn create() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        // OpenSSL takes a certificate for self-signed when its subject is its issuer's.
        authority.distinguished_name.push(DnType::CommonName, "authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        for (name, subjects) in [("server", vec!["localhost", "127.0.0.1", "::1"]), ("client", vec!["client"])] {
            let key = KeyPair::generate().unwrap();
            let subjects: Vec<String> = subjects.into_iter().map(str::to_owned).collect();
            let certificate = CertificateParams::new(subjects).unwrap().signed_by(&key, &authority).unwrap();
            std::fs::write(folder.path().join(format!("{name}.pem")), certificate.pem()).unwrap();
            std::fs::write(folder.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Self(folder)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A client that trusts this authority and shows no certificate.
    pub(crate) fn anonymous(&self) -> TlsOptions {
        TlsOptions { ca: Some(self.file("ca.pem")), ..TlsOptions::default() }
    }

    /// A client that shows its certificate, too.
    pub(crate) fn client(&self) -> TlsOptions {
        TlsOptions { cert: Some(self.file("client.pem")), key: Some(self.file("client.key")), ..self.anonymous() }
    }
}
