//! Identities, which open keys, and recipients, to which they are wrapped: those of age.
//!
//! Only age's own X25519 kind: it needs no plugin, no agent and no passphrase at three in the
//! morning, and the stock `age` tool knows it.

use std::fmt;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::str::FromStr;

use age::secrecy::ExposeSecret as _;
use age::x25519;
use zeroize::Zeroizing;

use super::error::IdentityError;

/// More than anybody's identities or recipients take.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// More than these would make a wrapped key longer than one that is read.
pub(super) const RECIPIENTS_MAX: usize = 500;

/// Those to whom data keys are wrapped. Public.
#[derive(Clone, Debug, Default)]
pub struct Recipients(Vec<x25519::Recipient>);

impl Recipients {
    /// Adds one.
    ///
    /// # Errors
    /// When it is none, or there are too many.
    pub fn add(&mut self, text: &str) -> Result<(), IdentityError> {
        let recipient = parse(text).ok_or_else(|| match text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
            true => IdentityError::Secret,
            false => IdentityError::Recipient(text.chars().take(80).collect()),
        })?;
        self.push(recipient)
    }

    fn push(&mut self, recipient: x25519::Recipient) -> Result<(), IdentityError> {
        if self.0.len() == RECIPIENTS_MAX {
            return Err(IdentityError::TooManyRecipients);
        }
        self.0.push(recipient);
        Ok(())
    }

    /// Adds those in a file: one on a line, with empty lines and `#` comments between, as `age -R`
    /// takes it.
    ///
    /// # Errors
    /// When it cannot be read, a line is no recipient, it holds none (nothing would be encrypted then), or
    /// there are too many.
    pub fn add_file(&mut self, path: &Path) -> Result<(), IdentityError> {
        let before = self.0.len();
        for (line, text) in lines(&read(path)?) {
            let not_one = || IdentityError::NotARecipient { path: path.to_owned(), line };
            self.push(parse(text).ok_or_else(not_one)?)?;
        }
        if self.0.len() == before { Err(IdentityError::NoRecipient(path.to_owned())) } else { Ok(()) }
    }

    /// Each as text.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }

    /// Whether there are none: the archive is not encrypted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn wrap(&self, text: &[u8]) -> Result<Vec<u8>, IdentityError> {
        let recipients = self.0.iter().map(|recipient| recipient as &dyn age::Recipient);
        let wrap = || -> std::io::Result<Vec<u8>> {
            let encryptor = age::Encryptor::with_recipients(recipients).map_err(std::io::Error::other)?;
            let mut out = Vec::new();
            let mut writer = encryptor.wrap_output(&mut out)?;
            writer.write_all(text)?;
            writer.finish()?;
            Ok(out)
        };
        wrap().map_err(IdentityError::Wrap)
    }
}

fn parse(text: &str) -> Option<x25519::Recipient> {
    x25519::Recipient::from_str(text.trim()).ok()
}

/// Those who can open data keys. Secret.
#[derive(Clone, Default)]
pub struct Identities(Vec<x25519::Identity>);

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities({})", self.0.len())
    }
}

impl Identities {
    /// None: whoever has none reads what is in the clear.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds those in a file of age's.
    ///
    /// # Errors
    /// When it cannot be read, a line is no identity, or it holds none.
    pub fn add_file(&mut self, path: &Path) -> Result<(), IdentityError> {
        let text = read(path)?;
        let before = self.0.len();
        for (line, text) in lines(&text) {
            let not_one = |_| IdentityError::NotAnIdentity { path: path.to_owned(), line };
            self.0.push(x25519::Identity::from_str(text).map_err(not_one)?);
        }
        if self.0.len() == before { Err(IdentityError::NoIdentity(path.to_owned())) } else { Ok(()) }
    }

    /// Adds those of another.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Opens what was wrapped to one of them.
    pub(super) fn open(&self, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, age::DecryptError> {
        let identities = self.0.iter().map(|identity| identity as &dyn age::Identity);
        let mut reader = age::Decryptor::new(wrapped)?.decrypt(identities)?.take(1 << 10);
        let mut text = Zeroizing::new(Vec::with_capacity(1 << 10));
        reader.read_to_end(&mut text)?;
        Ok(text)
    }
}

fn read(path: &Path) -> Result<Zeroizing<String>, IdentityError> {
    let failed = |source| IdentityError::File { verb: "read", path: path.to_owned(), source };
    let mut text = Zeroizing::new(String::new());
    let file = File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// The lines that say something, counted from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// An identity that has just been made.
pub struct NewIdentity(x25519::Identity);

impl NewIdentity {
    /// Makes one.
    #[must_use]
    pub fn generate() -> Self {
        Self(x25519::Identity::generate())
    }

    /// The recipient whose identity it is. Public.
    #[must_use]
    pub fn recipient(&self) -> String {
        self.0.to_public().to_string()
    }

    /// It alone, as one who opens.
    #[must_use]
    pub fn identities(&self) -> Identities {
        Identities(vec![self.0.clone()])
    }

    /// It alone, as one to whom is encrypted.
    #[must_use]
    pub fn recipients(&self) -> Recipients {
        Recipients(vec![self.0.to_public()])
    }

    /// The text of an identity file, as `age-keygen` writes it. Secret.
    #[must_use]
    pub fn file(&self) -> Zeroizing<String> {
        let secret = self.0.to_string();
        Zeroizing::new(format!("# public key: {}\n{}\n", self.recipient(), secret.expose_secret()))
    }
}

impl fmt::Debug for NewIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewIdentity({})", self.recipient())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::wrapping::KEY_OBJECT_BYTES_MAX;
    use crate::keys::{Epoch, EpochId};

    #[test]
    fn a_key_wrapped_to_as_many_as_there_may_be_is_read() {
        let archive = ulid::Ulid::from(1);
        let (owner, mut recipients) = (NewIdentity::generate(), Recipients::default());
        for _ in 0..RECIPIENTS_MAX {
            recipients.add(&owner.recipient()).unwrap();
        }
        assert!(matches!(recipients.add(&owner.recipient()), Err(IdentityError::TooManyRecipients)));
        let (_, object) = Epoch::generate(EpochId(archive), archive).wrap(&recipients).unwrap();
        assert!(object.len() as u64 <= KEY_OBJECT_BYTES_MAX, "{} bytes", object.len());
    }

    #[test]
    fn a_file_that_names_nobody_is_refused() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"# nobody yet\n\n").unwrap();
        let refused = Recipients::default().add_file(file.path()).unwrap_err();
        assert!(refused.to_string().contains("holds no age recipient"), "{refused}");
        let refused = Identities::none().add_file(file.path()).unwrap_err();
        assert!(refused.to_string().contains("holds no age identity"), "{refused}");
    }
}
