//! The random texts of a primary: its password and its replication ID.

use std::fmt;

use aws_lc_rs::{constant_time, rand};

use super::PrimaryError;

/// What a replica must say to be served: 40 hexadecimal digits, made anew for every restore.
///
/// `Debug` shows nothing of it.
#[derive(Clone)]
pub struct Password(String);

impl Password {
    pub(super) fn generate() -> Result<Self, PrimaryError> {
        random_hex().map(Self)
    }

    /// The text, for whoever sets or prints it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `said` is it, in a time that tells nothing of where they differ.
    pub(super) fn is(&self, said: &[u8]) -> bool {
        constant_time::verify_slices_are_equal(self.0.as_bytes(), said).is_ok()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// 40 random hexadecimal digits: the form of a replication ID (`CONFIG_RUN_ID_SIZE`).
pub(super) fn random_hex() -> Result<String, PrimaryError> {
    let mut bytes = [0; 20];
    rand::fill(&mut bytes).map_err(|_| PrimaryError::Random)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
