//! Where an archive lies: the store's URL, and the client that it stands for.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ClientConfigKey, ObjectStore, RetryConfig};
use url::Url;

/// Longest time that one request may take; a segment or chunk has at most about 8 MiB.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the client itself retries a request before the caller hears of it.
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);
const RETRIES_MAX: usize = 3;

/// The root of one or more archives, such as `s3://bucket/prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreUrl {
    text: String,
    location: Location,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Location {
    File(PathBuf),
    Bucket { cloud: Cloud, bucket: String, prefix: Path },
    Memory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cloud {
    S3,
    Google,
    Azure,
}

/// A text that names no store.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not a store: {problem}")]
pub struct StoreUrlError {
    text: String,
    problem: &'static str,
}

const FORMS: &str = "expected file:///path, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix";

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let problem = |problem| StoreUrlError { text: redacted(text), problem };
        if text.contains(char::is_control) {
            // The parser leaves some of them out, and messages would show them.
            return Err(problem("it holds control characters"));
        }
        let url = Url::parse(text).map_err(|_| problem(FORMS))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(problem("credentials do not belong in it; each cloud's usual environment variables are read"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(problem(
                "it takes no '?' and no '#'; settings come from each cloud's usual environment variables",
            ));
        }
        let location = match url.scheme() {
            "file" => {
                let path =
                    url.to_file_path().map_err(|()| problem("a file store needs an absolute path: file:///path"))?;
                Location::File(path)
            }
            "memory" => Location::Memory,
            "s3" | "s3a" => bucket(Cloud::S3, &url).map_err(problem)?,
            "gs" => bucket(Cloud::Google, &url).map_err(problem)?,
            "az" | "azure" => bucket(Cloud::Azure, &url).map_err(problem)?,
            _ => return Err(problem(FORMS)),
        };
        let trimmed = text.trim_end_matches('/');
        // The root folder is written with slashes only.
        let text = if trimmed.ends_with(':') { text } else { trimmed };
        Ok(Self { text: text.to_owned(), location })
    }
}

/// What may be repeated of a text that was no proper URL and so may hold a password anywhere.
fn redacted(text: &str) -> String {
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://***@{place}"),
        _ => text.chars().take(200).collect(),
    }
}

fn bucket(cloud: Cloud, url: &Url) -> Result<Location, &'static str> {
    let bucket = url.host_str().filter(|host| !host.is_empty()).ok_or("it names no bucket")?;
    if url.port().is_some() {
        return Err("a bucket has no port; name another server in AWS_ENDPOINT_URL");
    }
    let prefix = Path::from_url_path(url.path()).map_err(|_| "its prefix has empty or relative parts")?;
    Ok(Location::Bucket { cloud, bucket: bucket.to_owned(), prefix })
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl StoreUrl {
    /// The folder, when the store is one.
    #[must_use]
    pub fn folder(&self) -> Option<&std::path::Path> {
        match &self.location {
            Location::File(path) => Some(path),
            Location::Bucket { .. } | Location::Memory => None,
        }
    }

    /// A client for the store, and the path of the root in it. Makes no request. `create` makes a
    /// file store's folder when it is absent.
    pub(super) fn client(&self, create: bool) -> object_store::Result<(Arc<dyn ObjectStore>, Path)> {
        Ok(match &self.location {
            Location::Memory => (Arc::new(InMemory::new()), Path::default()),
            Location::File(path) => {
                if create {
                    std::fs::create_dir_all(path)
                        .map_err(|source| object_store::Error::Generic { store: "file", source: Box::new(source) })?;
                }
                (Arc::new(LocalFileSystem::new_with_prefix(path)?.with_fsync(true)), Path::default())
            }
            Location::Bucket { cloud, bucket, prefix } => (cloud.client(bucket)?, prefix.clone()),
        })
    }
}

impl Cloud {
    fn client(self, bucket: &str) -> object_store::Result<Arc<dyn ObjectStore>> {
        // Set one by one, so that what the environment says of proxies and such still holds.
        let (timeout, limit) = (ClientConfigKey::Timeout, format!("{} s", REQUEST_TIMEOUT.as_secs()));
        let retry = RetryConfig { max_retries: RETRIES_MAX, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
        Ok(match self {
            Self::S3 => {
                let builder = AmazonS3Builder::from_env().with_config(AmazonS3ConfigKey::Client(timeout), limit);
                let plain = plain_http(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]);
                let builder = if plain { builder.with_allow_http(true) } else { builder };
                Arc::new(builder.with_bucket_name(bucket).with_retry(retry).build()?)
            }
            Self::Google => {
                let builder =
                    GoogleCloudStorageBuilder::from_env().with_config(GoogleConfigKey::Client(timeout), limit);
                Arc::new(builder.with_bucket_name(bucket).with_retry(retry).build()?)
            }
            Self::Azure => {
                let builder = MicrosoftAzureBuilder::from_env().with_config(AzureConfigKey::Client(timeout), limit);
                let plain = plain_http(&["AZURE_ENDPOINT", "AZURE_STORAGE_ENDPOINT"]);
                let builder = if plain { builder.with_allow_http(true) } else { builder };
                Arc::new(builder.with_container_name(bucket).with_retry(retry).build()?)
            }
        })
    }
}

/// Whether one of these variables names an endpoint without TLS, which is consent enough.
fn plain_http(variables: &[&str]) -> bool {
    variables.iter().any(|name| std::env::var(name).is_ok_and(|url| url.starts_with("http://")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_store_is_understood() {
        for good in ["file:///var/lib/redwind", "s3://bucket", "s3://bucket/a/b/", "gs://b/p", "az://c/p", "memory://"]
        {
            assert!(good.parse::<StoreUrl>().is_ok(), "{good}");
        }
        assert_eq!("s3://bucket/a/".parse::<StoreUrl>().unwrap().to_string(), "s3://bucket/a");
    }

    #[test]
    fn a_refusal_says_what_is_expected_and_repeats_no_password() {
        for bad in ["redis://x", "bucket", "file://relative", "s3://", "s3://b:9/p", "s3://b/p?x=y", "s3://b/a//b"] {
            assert!(bad.parse::<StoreUrl>().is_err(), "{bad}");
        }
        let error = "s3://key:canary@bucket".parse::<StoreUrl>().unwrap_err().to_string();
        assert!(!error.contains("canary"), "{error}");
    }
}
