//! An authority, and the certificates that it vouches for.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

/// PEM files `ca.pem`, `server.pem`, `server.key`, `client.pem` and `client.key` in a folder.
#[derive(Debug)]
pub struct Certificates(TempDir);

impl Certificates {
    /// A new authority, which vouches for this machine's loopback addresses and for one client.
    ///
    /// # Panics
    /// When files cannot be written.
    pub fn create() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let write = |name: &str, pem: String| std::fs::write(folder.path().join(name), pem).expect("it is writable");
        let key = || KeyPair::generate().expect("there is randomness");
        let mut authority = CertificateParams::default();
        // OpenSSL takes a certificate for self-signed when its subject is its issuer's
        authority.distinguished_name.push(DnType::CommonName, "authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, key()).expect("the parameters make sense");
        write("ca.pem", authority.pem());
        for (name, subjects) in [("server", vec!["localhost", "127.0.0.1", "::1"]), ("client", vec!["client"])] {
            let subjects: Vec<String> = subjects.into_iter().map(str::to_owned).collect();
            let own = key();
            let certificate = CertificateParams::new(subjects).and_then(|params| params.signed_by(&own, &authority));
            write(&format!("{name}.pem"), certificate.expect("the names make sense").pem());
            write(&format!("{name}.key"), own.serialize_pem());
        }
        Self(folder)
    }

    /// One of the files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// One of the files, as an argument.
    pub fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }
}
