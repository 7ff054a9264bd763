//! What a server holds, described so that two of them can be compared.
//!
//! Nothing here reads an RDB file or an archive, and nothing of redwind's own is used: the values are
//! compared by the digests that the servers themselves compute (`DEBUG DIGEST-VALUE`, equal across
//! processes, versions and encodings, where `DUMP` is not). A digest leaves out when a key or a field
//! expires, a stream's groups and a module's values; those are told apart here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::graph::Graph;
use crate::servers::{Flavor, Vendor, Version};

/// A binary name or value, shown with what is not ASCII escaped.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(pub Vec<u8>);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.get(..80) {
            Some(start) if self.0.len() > 100 => {
                write!(f, "{}... ({} bytes)", start.escape_ascii(), self.0.len())
            }
            _ => write!(f, "{}", self.0.escape_ascii()),
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // each byte as the character of that number: readable for ASCII, and nothing is lost
        serializer.serialize_str(&self.0.iter().map(|&byte| char::from(byte)).collect::<String>())
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = text.chars().map(|c| u8::try_from(u32::from(c)));
        bytes.collect::<Result<_, _>>().map(Name).map_err(serde::de::Error::custom)
    }
}

/// Everything a server holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dataset {
    /// `DEBUG DIGEST`: of all keys and values of all databases, and of which keys expire at all.
    pub digest: String,
    /// By number, those that are not empty.
    pub databases: BTreeMap<u32, Database>,
    /// Function libraries by name.
    pub libraries: BTreeMap<Name, Library>,
}

/// One database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// How many keys the server counts, those included that it no longer shows.
    pub size: u64,
    /// What is under each key.
    pub keys: BTreeMap<Name, Entry>,
}

/// What is under one key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// `string`, `list`, ... as TYPE says it.
    pub kind: String,
    /// `DEBUG DIGEST-VALUE`.
    pub digest: String,
    /// When it expires, in milliseconds since the epoch.
    pub expires_at: Option<u64>,
    /// The fields of a hash.
    pub fields: BTreeMap<Name, Field>,
    /// What the digest leaves out of a stream.
    pub stream: Option<Stream>,
    /// What the digest leaves out of a graph, which is all of it.
    pub graph: Option<Graph>,
}

/// A field of a hash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Its value.
    pub value: Name,
    /// When it expires, in milliseconds since the epoch.
    pub expires_at: Option<u64>,
}

/// A stream but for its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// The newest id ever given.
    pub last_id: Name,
    /// Entries ever added (7.0 and later).
    pub added: Option<u64>,
    /// The greatest id ever deleted (7.0 and later).
    pub max_deleted_id: Option<Name>,
    /// Consumer groups by name.
    pub groups: BTreeMap<Name, Group>,
}

/// A consumer group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The last id delivered.
    pub last_id: Name,
    /// How many entries it has read, when known (7.0 and later).
    pub entries_read: Option<u64>,
    /// Consumers by name, and what each has not acknowledged.
    pub consumers: BTreeMap<Name, Vec<Pending>>,
}

/// An entry delivered and not yet acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pending {
    /// The entry.
    pub id: Name,
    /// When it was delivered last, in milliseconds since the epoch.
    pub delivered_at: u64,
    /// How often it was delivered.
    pub deliveries: u64,
}

/// A function library.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Library {
    /// Its source text.
    pub code: Name,
}

/// How much two datasets may differ and still count as the same: what the servers themselves do not
/// carry over to a replica, or do not show.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Between the times at which a key expires. Zero but for a server that replicates relative
    /// expiries (Redis 6.2), where each receiver counts from its own clock.
    pub expiry: Duration,
    /// Do not compare the digests of hashes, nor that of everything, but hashes field by field:
    /// Valkey 9 leaves fields whose time has run out out of its digests, although it still has them.
    pub digests_hide_fields: bool,
    /// Do not compare how many entries a group has read: Redis 7.0 and 7.2 replicate XREADGROUP
    /// without it, so that it is unknown to every replica.
    pub reads_unknown: bool,
}

impl Tolerance {
    /// None at all.
    pub const EXACT: Self = Self { expiry: Duration::ZERO, digests_hide_fields: false, reads_unknown: false };

    /// What is fair for this server.
    pub fn of(flavor: &Flavor) -> Self {
        let relative = !flavor.is_7_0();
        let redis = flavor.vendor == Vendor::Redis;
        Self {
            expiry: Duration::from_millis(if relative { 1000 } else { 0 }),
            digests_hide_fields: !redis && flavor.expires_hash_fields(),
            reads_unknown: redis && flavor.version < Version(7, 4, 0),
        }
    }

    fn allows(self, expected: Option<u64>, actual: Option<u64>) -> bool {
        match (expected, actual) {
            (Some(expected), Some(actual)) => u128::from(expected.abs_diff(actual)) <= self.expiry.as_millis(),
            (expected, actual) => expected == actual,
        }
    }

    fn compares_digest(self, kind: &str) -> bool {
        !(self.digests_hide_fields && kind == "hash")
    }
}

impl Dataset {
    /// How many keys there are in all.
    pub fn len(&self) -> usize {
        self.databases.values().map(|database| database.keys.len()).sum()
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is under `key` in database `number`.
    pub fn entry(&self, number: u32, key: &str) -> Option<&Entry> {
        self.databases.get(&number)?.keys.get(&Name(key.into()))
    }

    /// What is left without the keys that expire, or of which fields do, here or in `other`; and
    /// without the digest of all.
    #[must_use]
    pub fn lasting(&self, other: &Self) -> Self {
        let lasts =
            |entry: &Entry| entry.expires_at.is_none() && entry.fields.values().all(|field| field.expires_at.is_none());
        let mut lasting = Self { digest: String::new(), ..self.clone() };
        for (number, database) in &mut lasting.databases {
            let others = other.databases.get(number);
            let lasts_there = |name: &Name| others.and_then(|there| there.keys.get(name)).is_none_or(lasts);
            database.keys.retain(|name, entry| lasts(entry) && lasts_there(name));
            database.size = database.keys.len() as u64;
        }
        lasting
    }

    /// Every difference, one to a line; empty when `actual` is the same within `tolerance`.
    pub fn differences(&self, actual: &Self, tolerance: Tolerance) -> Vec<String> {
        let mut found = Vec::new();
        if self.digest != actual.digest && !tolerance.digests_hide_fields {
            found.push(format!("digest: {} became {}", self.digest, actual.digest));
        }
        let empty = Database::default();
        let numbers: BTreeSet<_> = self.databases.keys().chain(actual.databases.keys()).collect();
        for number in numbers {
            let expected = self.databases.get(number).unwrap_or(&empty);
            let actual = actual.databases.get(number).unwrap_or(&empty);
            compare_databases(*number, expected, actual, tolerance, &mut found);
        }
        compare(&mut found, "library", &self.libraries, &actual.libraries);
        found
    }

    /// Fails with the differences when `actual` is not the same within `tolerance`.
    ///
    /// # Panics
    /// Then.
    pub fn assert_same(&self, actual: &Self, tolerance: Tolerance) {
        let found = self.differences(actual, tolerance);
        let shown = found.iter().take(40).cloned().collect::<Vec<_>>().join("\n  ");
        assert!(found.is_empty(), "{} differences:\n  {shown}", found.len());
    }
}

fn compare_databases(
    number: u32,
    expected: &Database,
    actual: &Database,
    tolerance: Tolerance,
    found: &mut Vec<String>,
) {
    if expected.size != actual.size {
        found.push(format!("db{number}: {} keys became {}", expected.size, actual.size));
    }
    let keys: BTreeSet<_> = expected.keys.keys().chain(actual.keys.keys()).collect();
    for key in keys {
        let place = format!("db{number} {key}");
        match (expected.keys.get(key), actual.keys.get(key)) {
            (Some(expected), Some(actual)) => {
                compare_entries(&place, expected, actual, tolerance, found);
            }
            (Some(expected), None) => found.push(format!("{place}: lost ({})", expected.kind)),
            (_, actual) => {
                let kind = actual.map_or("", |entry| &entry.kind);
                found.push(format!("{place}: should not be there ({kind})"));
            }
        }
    }
}

fn compare_entries(place: &str, expected: &Entry, actual: &Entry, tolerance: Tolerance, found: &mut Vec<String>) {
    if expected.kind != actual.kind {
        found.push(format!("{place}: a {} became a {}", expected.kind, actual.kind));
    } else if expected.digest != actual.digest && tolerance.compares_digest(&expected.kind) {
        found.push(format!("{place}: another value ({})", expected.kind));
    }
    if !tolerance.allows(expected.expires_at, actual.expires_at) {
        let (before, after) = (expected.expires_at, actual.expires_at);
        found.push(format!("{place}: expires at {before:?}, became {after:?}"));
    }
    compare(found, &format!("{place}: field"), &expected.fields, &actual.fields);
    match (&expected.stream, &actual.stream) {
        (Some(expected), Some(actual)) => {
            compare_streams(place, expected, actual, tolerance, found);
        }
        (expected, actual) if expected != actual => found.push(format!("{place}: stream or not")),
        _ => {}
    }
    match (&expected.graph, &actual.graph) {
        (Some(expected), Some(actual)) => expected.compare(place, actual, found),
        (expected, actual) if expected != actual => found.push(format!("{place}: graph or not")),
        _ => {}
    }
}

fn compare_streams(place: &str, expected: &Stream, actual: &Stream, tolerance: Tolerance, found: &mut Vec<String>) {
    let ids = |stream: &Stream| (stream.last_id.clone(), stream.added, stream.max_deleted_id.clone());
    if ids(expected) != ids(actual) {
        let (before, after) = (ids(expected), ids(actual));
        found.push(format!("{place}: last id, added, deleted {before:?} became {after:?}"));
    }
    let groups = |stream: &Stream| {
        let mut groups = stream.groups.clone();
        for group in groups.values_mut() {
            group.entries_read = group.entries_read.filter(|_| !tolerance.reads_unknown);
        }
        groups
    };
    compare(found, &format!("{place}: group"), &groups(expected), &groups(actual));
}

/// Compares two maps entry by entry.
fn compare<V: PartialEq + fmt::Debug>(
    found: &mut Vec<String>,
    what: &str,
    expected: &BTreeMap<Name, V>,
    actual: &BTreeMap<Name, V>,
) {
    let names: BTreeSet<_> = expected.keys().chain(actual.keys()).collect();
    for name in names {
        let (before, after) = (expected.get(name), actual.get(name));
        if before != after {
            found.push(format!("{what} {name}: {before:?} became {after:?}"));
        }
    }
}
