//! What can be wrong with a file of certificates or tokens.

use std::path::PathBuf;

use rustls::pki_types::pem;

use super::tokens::{TOKEN_BYTES_MAX, TOKEN_BYTES_MIN};

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
