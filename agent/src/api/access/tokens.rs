//! A file of tokens, each of which makes whoever shows it a reader or an operator.

use aws_lc_rs::constant_time;

use super::error::AccessError;
use super::files::{Digest, NamedFile, digest_of};
use super::rules::Renewal;
use crate::config::{Role, TokenSource};

/// A shorter token could be guessed.
pub(super) const TOKEN_BYTES_MIN: usize = 16;
pub(super) const TOKEN_BYTES_MAX: usize = 1024;

/// The tokens of one role; of each only its digest is kept.
#[derive(Clone)]
pub(super) struct Tokens {
    pub(super) role: Role,
    /// The option that gives them.
    option: &'static str,
    /// Where they are looked up again; `None` where they cannot change.
    file: Option<NamedFile>,
    content: Digest,
    digests: Vec<Digest>,
    /// The first line that is no token.
    unusable_line: Option<usize>,
}

impl Tokens {
    /// Reads them for the first time, when each line must be a token, and one must be there.
    pub(super) async fn load(role: Role, source: &TokenSource) -> Result<Self, AccessError> {
        let [option, file_option] = match role {
            Role::Reader => ["read-token", "read-token-file"],
            Role::Operator => ["operator-token", "operator-token-file"],
        };
        let (file, text) = match source {
            TokenSource::Given(secret) => (None, secret.expose().to_vec()),
            TokenSource::File(path) => {
                let file = NamedFile::new(file_option, path);
                let text = file.read().await?;
                (Some(file), text)
            }
        };
        let tokens = Self { role, option, file, ..Self::parse(role, option, &text) };
        match tokens.problem() {
            Some(problem) => Err(problem),
            None => Ok(tokens),
        }
    }

    /// Looks at the file again. Whatever is not in it any more opens nothing from then on, be the rest as it
    /// may: only a file that cannot be read leaves things as they were.
    pub(super) async fn renew(&mut self, renewal: &mut Renewal) {
        let Some(file) = &self.file else { return };
        match file.read_if_there().await {
            Ok(text) if digest_of(&text) == self.content => {}
            Ok(text) => {
                *self = Self { file: self.file.take(), ..Self::parse(self.role, self.option, &text) };
                renewal.changed = true;
            }
            Err(error) => return renewal.kept(&error),
        }
        if let Some(problem) = self.problem() {
            renewal.opens_nothing(&problem);
        }
    }

    /// Whether the token with this digest is one of them. All are compared, so that the time does not tell
    /// which it was.
    pub(super) fn hold(&self, shown: &Digest) -> bool {
        let equal = |known: &&Digest| constant_time::verify_slices_are_equal(*known, shown).is_ok();
        self.digests.iter().filter(equal).count() > 0
    }

    /// One token a line; empty lines and those that begin with `#` do not count.
    fn parse(role: Role, option: &'static str, text: &[u8]) -> Self {
        let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).enumerate();
        let (mut digests, mut unusable_line) = (Vec::new(), None);
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with(b"#")) {
            let length = (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&line.len());
            if length && line.iter().all(u8::is_ascii_graphic) {
                digests.push(digest_of(line));
            } else {
                unusable_line = unusable_line.or(Some(number + 1));
            }
        }
        Self { role, option, file: None, content: digest_of(text), digests, unusable_line }
    }

    fn problem(&self) -> Option<AccessError> {
        match self.unusable_line {
            Some(line) => Some(AccessError::Token { option: self.option, line }),
            None if self.digests.is_empty() => Some(AccessError::NoTokens { option: self.option }),
            None => None,
        }
    }
}
