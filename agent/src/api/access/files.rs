//! Reading the files, and telling whether they have changed.

use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

use super::error::AccessError;

/// Longest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// SHA-256 of what a file holds, or of a token: nothing that is shown or dumped later can give it away.
pub(super) type Digest = [u8; digest::SHA256_OUTPUT_LEN];

pub(super) fn digest_of(bytes: &[u8]) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    digest
}

/// A file that an option names.
#[derive(Clone, Debug)]
pub(super) struct NamedFile {
    pub(super) option: &'static str,
    pub(super) path: PathBuf,
}

impl NamedFile {
    pub(super) fn new(option: &'static str, path: &Path) -> Self {
        Self { option, path: path.to_owned() }
    }

    pub(super) async fn read(&self) -> Result<Vec<u8>, AccessError> {
        use tokio::io::AsyncReadExt as _;
        let mut bytes = Vec::new();
        let read = async {
            let file = tokio::fs::File::open(&self.path).await?;
            file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).await
        };
        match read.await {
            Ok(_) => Ok(bytes),
            Err(source) => Err(AccessError::Read { option: self.option, path: self.path.clone(), source }),
        }
    }

    /// As [`read`](Self::read), but a file that is not there holds nothing: deleting it takes away what it
    /// held, as emptying it does. Where it cannot be told what it holds, that is an error.
    pub(super) async fn read_if_there(&self) -> Result<Vec<u8>, AccessError> {
        match self.read().await {
            Err(AccessError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read,
        }
    }

    /// An error of its content.
    pub(super) fn unusable(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> AccessError {
        AccessError::Unusable { option: self.option, path: self.path.clone(), source: source.into() }
    }
}
