//! Whether a server can hold what is restored: the same vendor, no older version, every module.

use redwind_archive::documents::Server;
use redwind_link::{ServerInfo, Version};

use crate::recording::Recording;

/// What a server must be to load a recording.
#[derive(Clone, Debug)]
pub struct Needs {
    /// The vendor: formats of different vendors give the same bytes different meanings.
    pub vendor: String,
    /// The oldest version; `None` when the source did not tell its own.
    pub version_min: Option<Version>,
    /// Modules, with the oldest version of each.
    pub modules: Vec<(String, u64)>,
}

/// Why a server cannot hold what is restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Another vendor.
    #[error("it is {found} and the archive is of {needed}")]
    Vendor {
        /// What it is.
        found: String,
        /// What it should be.
        needed: String,
    },
    /// An older version.
    #[error("its version is {found}, older than the source's {needed}")]
    Version {
        /// Its version.
        found: Version,
        /// The oldest that will do.
        needed: Version,
    },
    /// A module is not loaded.
    #[error("the source had the module {name} (version {version}) and it has not; load that module")]
    Module {
        /// The module.
        name: String,
        /// The source's version of it.
        version: u64,
    },
    /// A module is older.
    #[error("its module {name} has version {found}, older than the source's {needed}")]
    ModuleVersion {
        /// The module.
        name: String,
        /// Its version.
        found: u64,
        /// The oldest that will do.
        needed: u64,
    },
}

impl Needs {
    /// What `recording` needs.
    #[must_use]
    pub fn of(recording: &Recording) -> Self {
        let Server { vendor, modules, .. } = recording.server();
        let modules = modules.iter().map(|module| (module.name.clone(), module.version)).collect();
        Self { vendor: vendor.clone(), version_min: recording.version_min(), modules }
    }

    /// Checks a server.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub fn check(&self, server: &ServerInfo) -> Result<(), Unfit> {
        let vendor = server.kind.to_string();
        if vendor != self.vendor {
            return Err(Unfit::Vendor { found: vendor, needed: self.vendor.clone() });
        }
        if let Some(needed) = self.version_min.filter(|needed| server.version < *needed) {
            return Err(Unfit::Version { found: server.version, needed });
        }
        for (name, needed) in &self.modules {
            let loaded = server.modules.iter().flatten().find(|module| module.name == *name);
            let Some(loaded) = loaded else {
                return Err(Unfit::Module { name: name.clone(), version: *needed });
            };
            if loaded.version < *needed {
                return Err(Unfit::ModuleVersion { name: name.clone(), found: loaded.version, needed: *needed });
            }
        }
        Ok(())
    }

    /// The server in words, for what to install.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = self.vendor.clone();
        if let Some(version) = self.version_min {
            text.push_str(&format!(" {version} or newer"));
        }
        for (at, (name, _)) in self.modules.iter().enumerate() {
            text.push_str(if at == 0 { " with the module " } else { " and " });
            text.push_str(name);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(text: &str) -> ServerInfo {
        ServerInfo::parse(text).unwrap()
    }

    #[test]
    fn the_first_thing_that_does_not_fit_is_named() {
        let needs = Needs {
            vendor: "redis".to_owned(),
            version_min: Some(Version::new(7, 0, 15)),
            modules: vec![("graph".to_owned(), 5)],
        };
        let graph =
            |version: u32| format!("redis_version:8.0.0\r\n# Modules\r\nmodule:name=graph,ver={version},api=1\r\n");
        assert_eq!(needs.check(&info(&graph(5))), Ok(()));
        for (text, words) in [
            ("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.0.0".to_owned(), "archive is of redis"),
            ("redis_version:7.0.2".to_owned(), "older than the source's 7.0.15"),
            ("redis_version:7.0.15".to_owned(), "load that module"),
            (graph(4), "its module graph has version 4"),
        ] {
            let unfit = needs.check(&info(&text)).unwrap_err().to_string();
            assert!(unfit.contains(words), "{unfit}");
        }
        assert_eq!(needs.describe(), "redis 7.0.15 or newer with the module graph");
    }
}
