//! The audit log: who did what to the archive, beside the agent's daily work.
//!
//! One document for each thing done, put if absent and never changed, so that whoever may put but not
//! delete can add to the log and take nothing from it. An entry says what its writer knew of itself: it
//! is worth as much as the writer's machine and its right to put. Entries refer to none before them,
//! because many may be written at once; one that somebody deletes is missed by nobody, which a bucket
//! without the right to delete, or with object lock, is there to prevent.

use futures::FutureExt;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::concurrent;
use crate::document::{Document, DocumentError};
use crate::layout::{AuditName, Folder, ObjectName};
use crate::position::{Position, Term};
use crate::store::{SourceStore, StoreError};
use crate::time::{Clock, Timestamp};

/// Longest text of a user or host that is written down.
const NAME_CHARS_MAX: usize = 128;

/// `audit/<name>`: one thing done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// The entry, as in the object's name.
    pub entry: Ulid,
    /// The archive that it belongs to.
    pub archive: Ulid,
    /// When it was written, as in the object's name.
    pub time: Timestamp,
    /// The process that wrote it.
    pub by: Actor,
    /// What was done.
    pub event: AuditEvent,
}

impl Document for AuditEntry {
    const KIND: &'static str = "audit";
    const VERSION: u32 = 1;
}

/// A process, and on whose behalf it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The user's name as the environment has it (`LOGNAME`, else `USER`); empty when it has none.
    pub user: String,
    /// The user's number on the host.
    pub uid: u32,
    /// The machine.
    pub host: String,
    /// The process id there.
    pub pid: u32,
    /// Its release.
    pub redwind: String,
}

impl Actor {
    /// This process.
    #[must_use]
    pub fn this_process() -> Self {
        let bounded = |text: String| text.chars().take(NAME_CHARS_MAX).collect();
        let user = ["LOGNAME", "USER"].into_iter().find_map(|name| std::env::var(name).ok());
        Self {
            user: user.map(bounded).unwrap_or_default(),
            uid: rustix::process::geteuid().as_raw(),
            host: hostname::get().map(|name| bounded(name.to_string_lossy().into_owned())).unwrap_or_default(),
            pid: std::process::id(),
            redwind: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum AuditEvent {
    /// A restore was begun; whether it came to its end is not told.
    Restore {
        /// The target as it was written.
        target: String,
        /// What it came to.
        position: Position,
        /// What kind of destination.
        destination: Destination,
        /// Where: a path, or an address without user and password.
        place: String,
    },
    /// A running agent was asked for a snapshot.
    Snapshot {
        /// The address that it was asked from.
        peer: String,
        /// As what: `operator`.
        role: String,
    },
    /// An agent became the writer of an archive that another one had written.
    Takeover {
        /// The new writer's term.
        term: Term,
        /// The term of the writer before.
        former_term: Term,
        /// The machine on which that ran.
        former_host: String,
        /// Its process id there.
        former_pid: u32,
        /// Why it is the writer no longer.
        reason: String,
    },
    /// An agent began to encrypt under a data key of its own.
    NewKey {
        /// The key's epoch.
        epoch: Ulid,
        /// To whom it is wrapped.
        recipients: Vec<String>,
    },
    /// The keys of the archive are to be wrapped to further recipients: the entry comes first.
    Rewrap {
        /// Those recipients.
        recipients: Vec<String>,
        /// How many epochs' keys.
        epochs: u64,
    },
    /// Something that a later release writes down.
    #[serde(other)]
    Unknown,
}

/// What a restore makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// A data folder with an append-only file.
    Aof,
    /// An RDB file.
    Rdb,
    /// A running server's dataset.
    Into,
    /// Whatever replica knows the password.
    Serve,
}

/// An entry as it was found.
#[derive(Clone, Debug, Serialize)]
pub struct Recorded {
    /// Its name, which tells when.
    pub name: AuditName,
    /// What it says; `None` when it is damaged.
    pub entry: Option<AuditEntry>,
}

impl AuditEntry {
    /// An entry that says that this process does something, now.
    #[must_use]
    pub fn now(archive: Ulid, event: AuditEvent) -> Self {
        let time = Clock::new().now();
        let entry = Ulid::from_parts(time.0 / 1000, Ulid::generate().random());
        Self { entry, archive, time, by: Actor::this_process(), event }
    }
}

/// Puts an entry; again, if need be.
///
/// # Errors
/// When it is not known to stand in the store.
pub async fn put(store: &SourceStore, entry: &AuditEntry) -> Result<(), StoreError> {
    let name = AuditName { time: entry.time, entry: entry.entry };
    // No other entry has the name: it holds 80 random bits.
    store.put_document(&ObjectName::Audit(name), entry).await.map(drop)
}

/// The whole log, oldest first.
///
/// # Errors
/// When the store cannot be read. Damaged entries are no error: see [`Recorded`].
pub async fn read_all(store: &SourceStore, archive: Ulid) -> Result<Vec<Recorded>, StoreError> {
    let listed = store.list(&Folder::Audit).await?.into_iter();
    let mut names: Vec<AuditName> = listed
        .filter_map(|(name, _)| match name {
            ObjectName::Audit(name) => Some(name),
            _ => None,
        })
        .collect();
    names.sort();
    let reads = names.into_iter().map(|name| {
        let found = async move {
            match read_entry(store, archive, name).await {
                Ok(entry) => Ok(Recorded { name, entry: Some(entry) }),
                Err(error) if error.is_damage() => Ok(Recorded { name, entry: None }),
                Err(error) => Err(error),
            }
        };
        found.boxed()
    });
    concurrent::all(reads.collect()).await
}

/// One entry, checked to be what its name says, of this archive.
pub(crate) async fn read_entry(store: &SourceStore, archive: Ulid, name: AuditName) -> Result<AuditEntry, StoreError> {
    let object = ObjectName::Audit(name);
    let entry: AuditEntry = store.get_document(&object).await?;
    if (entry.archive, entry.time, entry.entry) == (archive, name.time, name.entry) {
        return Ok(entry);
    }
    let belongs = format!("entry {} of archive {}", entry.entry, entry.archive);
    Err(store.damaged(&object, DocumentError::Misplaced { belongs }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document;
    use crate::position::{HistoryId, Offset};
    use crate::store::Store;
    use bytes::Bytes;
    use object_store::memory::InMemory;
    use std::sync::Arc;

    const ARCHIVE: Ulid = Ulid(5);

    fn store() -> SourceStore {
        Store::over(Arc::new(InMemory::new()), "memory://").source(&"default".parse().unwrap())
    }

    fn restore(target: &str) -> AuditEvent {
        AuditEvent::Restore {
            target: target.to_owned(),
            position: Position { history: HistoryId(Ulid(1)), offset: Offset(7) },
            destination: Destination::Aof,
            place: "/restored".to_owned(),
        }
    }

    #[tokio::test]
    async fn what_was_recorded_is_read_in_its_order() {
        let store = store();
        for target in ["latest", "offset:7"] {
            put(&store, &AuditEntry::now(ARCHIVE, restore(target))).await.unwrap();
        }
        let log = read_all(&store, ARCHIVE).await.unwrap();
        let events: Vec<_> = log.iter().map(|recorded| recorded.entry.clone().unwrap().event).collect();
        assert_eq!(events, [restore("latest"), restore("offset:7")]);
        assert_eq!(log[0].entry.as_ref().unwrap().by, Actor::this_process());
    }

    #[tokio::test]
    async fn an_entry_of_another_archive_or_under_another_name_is_damage() {
        let store = store();
        put(&store, &AuditEntry::now(Ulid(6), restore("latest"))).await.unwrap();
        assert!(read_all(&store, ARCHIVE).await.unwrap()[0].entry.is_none());
        let sound = read_all(&store, Ulid(6)).await.unwrap().remove(0);
        let elsewhere = AuditName { entry: Ulid(9), ..sound.name };
        store.put_document(&ObjectName::Audit(elsewhere), &sound.entry.unwrap()).await.unwrap();
        assert!(read_entry(&store, Ulid(6), elsewhere).await.unwrap_err().is_damage());
    }

    #[tokio::test]
    async fn what_a_later_release_wrote_is_shown_as_unknown() {
        let store = store();
        put(&store, &AuditEntry::now(ARCHIVE, restore("latest"))).await.unwrap();
        let known = read_all(&store, ARCHIVE).await.unwrap().remove(0).entry.unwrap();
        let mut later = serde_json::to_value(&known).unwrap();
        later["event"] = serde_json::json!({ "what": "prune", "objects": 7 });
        let later: AuditEntry = serde_json::from_value(later).unwrap();
        assert_eq!(later.event, AuditEvent::Unknown);
        let bytes: Bytes = document::encode(&later);
        assert_eq!(document::decode::<AuditEntry>(&bytes).unwrap(), later);
    }
}
