//! The options for TLS to whatever a command connects to: a server, or an agent.

use std::path::PathBuf;

use redwind_link::TlsOptions;

#[derive(clap::Args, Clone, Default)]
pub(crate) struct TlsArgs {
    /// PEM file of the authorities to trust at rediss:// or https://, instead of the system's
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,

    /// PEM file of our certificate, for a server or an agent that asks for one
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// PEM file of the private key of --tls-cert
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
}

impl TlsArgs {
    /// The files.
    pub(crate) fn options(&self) -> TlsOptions {
        TlsOptions { ca: self.tls_ca.clone(), cert: self.tls_cert.clone(), key: self.tls_key.clone() }
    }
}
