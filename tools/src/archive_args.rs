//! The options that say which archive is meant.

use redwind_archive::layout::SourceName;
use redwind_archive::store::{SourceStore, Store, StoreUrl};

use crate::exit::UsageError;

/// The name of an archive whose writer chose none.
pub(crate) const NAME_DEFAULT: &str = "default";

#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Archive")]
pub(crate) struct ArchiveArgs {
    /// The root of the archives: file:///path, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix
    ///
    /// Credentials come from each cloud's usual environment variables and files;
    /// AWS_ENDPOINT_URL names any other S3-compatible server.
    #[arg(long, value_name = "URL")]
    store: Option<String>,

    /// The source's name, which is its archive's folder in the store
    ///
    /// An agent uses `default` unless told otherwise; a command that reads uses the only archive
    /// that there is.
    #[arg(long, value_name = "NAME")]
    name: Option<SourceName>,
}

impl ArchiveArgs {
    /// Whether a store was named at all.
    pub(crate) fn is_given(&self) -> bool {
        self.store.is_some()
    }

    /// The store's URL, for a command that reads a settings file.
    pub(crate) fn store_url(&self) -> Result<StoreUrl, UsageError> {
        self.parsed("no store: give --store URL, REDWIND_STORE, or `store` in the settings file")
    }

    fn parsed(&self, missing: &str) -> Result<StoreUrl, UsageError> {
        let text = self.store.as_deref().ok_or_else(|| UsageError::new(missing))?;
        text.parse().map_err(|error| UsageError::new(format!("store: {error}")))
    }

    /// The name for one who writes, with its default.
    pub(crate) fn name_to_write(&self) -> SourceName {
        let default = || NAME_DEFAULT.parse().expect("the default is a name");
        self.name.clone().unwrap_or_else(default)
    }

    /// Opens the archive for one who reads one.
    pub(crate) async fn open(&self) -> anyhow::Result<SourceStore> {
        let mut stores = self.open_all().await?;
        if stores.len() == 1 {
            return Ok(stores.remove(0));
        }
        let names: Vec<String> = stores.iter().map(|store| store.name().to_string()).collect();
        let several = format!("the store holds several archives; choose one with --name: {}", names.join(", "));
        Err(UsageError::new(several).into())
    }

    /// Opens the archive that was named, or every one that there is.
    pub(crate) async fn open_all(&self) -> anyhow::Result<Vec<SourceStore>> {
        let store = Store::open(&self.parsed("no store: give --store URL, or REDWIND_STORE")?)?;
        if let Some(name) = &self.name {
            return Ok(vec![store.source(name)]);
        }
        let sources = store.sources().await?;
        if sources.is_empty() {
            anyhow::bail!("there is no archive in {store}: no agent has written there yet, or --store is wrong");
        }
        Ok(sources.iter().map(|name| store.source(name)).collect())
    }
}
