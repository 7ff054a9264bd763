//! Which servers this machine has, and telling a story on each of them.
//!
//! A server is found in the folder that `tests/servers/get-servers.sh` fills
//! (`REDWIND_TEST_SERVERS`, by default `~/.cache/redwind/servers`), or on PATH. One that is not
//! there is skipped, never silently: a line goes to standard error past the test runner's capture,
//! and to the file `REDWIND_TEST_REPORT`, of which `tests/run.sh` makes its closing table.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::process::on_path;

/// The servers that stories are told on.
pub const NAMES: [&str; 10] = [
    "redis-6.2",
    "redis-7.0",
    "redis-7.2",
    "redis-7.4",
    "redis-8.0",
    "redis-8.6",
    "valkey-8.0",
    "valkey-8.1",
    "valkey-9",
    "falkordb",
];

/// Who made a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "names of products")]
pub enum Vendor {
    Redis,
    Valkey,
}

/// Major, minor and patch number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u16, pub u16, pub u16);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// One server of a kind and version, and what it can do.
#[derive(Clone, Debug)]
pub struct Flavor {
    /// A name of [`NAMES`].
    pub name: String,
    /// Who made it.
    pub vendor: Vendor,
    /// What `--version` says.
    pub version: Version,
    /// The server's executable.
    pub program: PathBuf,
    /// FalkorDB's module, which makes a plain server one.
    pub graph_module: Option<PathBuf>,
}

impl Flavor {
    /// Finds the server called `name` on this machine.
    pub fn find(name: &str) -> Option<&'static Self> {
        static FOUND: OnceLock<Vec<Flavor>> = OnceLock::new();
        let found = FOUND.get_or_init(|| NAMES.iter().filter_map(|name| discover(name)).collect());
        found.iter().find(|flavor| flavor.name == name)
    }

    fn at_least(&self, redis: Version, valkey: Version) -> bool {
        match self.vendor {
            Vendor::Redis => self.version >= redis,
            Vendor::Valkey => self.version >= valkey,
        }
    }

    /// Functions, PEXPIRETIME, absolute expiries in the stream, multi-part AOF: all came with 7.0.
    pub fn is_7_0(&self) -> bool {
        self.at_least(Version(7, 0, 0), Version(7, 2, 0))
    }

    /// Fields of a hash may expire (Redis 7.4, Valkey 9.0).
    pub fn expires_hash_fields(&self) -> bool {
        self.at_least(Version(7, 4, 0), Version(9, 0, 0))
    }

    /// It holds graphs.
    pub fn has_graphs(&self) -> bool {
        self.graph_module.is_some()
    }
}

impl fmt::Display for Flavor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.version)
    }
}

/// The folder that holds the installed servers.
pub fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("REDWIND_TEST_SERVERS") {
        return PathBuf::from(folder);
    }
    let home = std::env::var_os("HOME").unwrap_or_default();
    Path::new(&home).join(".cache/redwind/servers")
}

fn discover(name: &str) -> Option<Flavor> {
    let root = folder().join(name);
    let program = root.join("bin/redis-server");
    // the installer's last act
    if root.join(".version").is_file() {
        let (vendor, version) = ask_version(&program)?;
        let module = root.join("modules/falkordb.so");
        return Some(Flavor {
            name: name.to_owned(),
            vendor,
            version,
            program,
            graph_module: module.is_file().then_some(module),
        });
    }
    ["redis-server", "valkey-server"].iter().find_map(|program| {
        let program = on_path(program)?;
        let (vendor, version) = ask_version(&program)?;
        (line_name(vendor, version) == name).then(|| Flavor {
            name: name.to_owned(),
            vendor,
            version,
            program,
            graph_module: None,
        })
    })
}

/// What a server of this vendor and version is called in [`NAMES`].
fn line_name(vendor: Vendor, version: Version) -> String {
    match (vendor, version) {
        (Vendor::Redis, Version(major, minor, _)) => format!("redis-{major}.{minor}"),
        (Vendor::Valkey, Version(9, ..)) => "valkey-9".to_owned(),
        (Vendor::Valkey, Version(major, minor, _)) => format!("valkey-{major}.{minor}"),
    }
}

fn ask_version(program: &Path) -> Option<(Vendor, Version)> {
    let output = Command::new(program).arg("--version").output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// Reads `Redis server v=7.0.15 sha=...`; Valkey says `Valkey server v=`.
fn parse_version(line: &str) -> Option<(Vendor, Version)> {
    let vendor = if line.starts_with("Valkey") { Vendor::Valkey } else { Vendor::Redis };
    let number = line.split_once("v=")?.1.split_whitespace().next()?;
    let mut parts = number.split('.').map(|part| part.parse().ok());
    Some((vendor, Version(parts.next()??, parts.next()??, parts.next()??)))
}

/// Tells `story` on the server whose name is spelt as an identifier (`redis_6_2`), or says why not.
/// Called by [`on_each_flavor!`](crate::on_each_flavor).
pub fn tell(identifier: &str, story: &str, told: fn(&Flavor)) {
    let name = identifier.replacen('_', "-", 1).replace('_', ".");
    assert!(NAMES.contains(&name.as_str()), "no server is called {name}");
    let chosen = std::env::var("REDWIND_TEST_FLAVORS").ok();
    if chosen.is_some_and(|chosen| !chosen.split(',').any(|one| one == name)) {
        report(&format!("skipped {name}: not in REDWIND_TEST_FLAVORS"), story);
        return;
    }
    match Flavor::find(&name) {
        Some(flavor) => {
            report(&format!("used {name} {}", flavor.version), story);
            told(flavor);
        }
        None => skip(&name, story),
    }
}

/// Says that `story` is skipped because the server `name` is not on this machine.
pub fn skip(name: &str, story: &str) {
    skip_without(name, &format!("tests/servers/get-servers.sh {name}"), story);
}

/// Says that `story` is skipped because `name` is not on this machine, and what gets it.
pub fn skip_without(name: &str, remedy: &str, story: &str) {
    let line = format!("skipped {name}: not installed; get it with {remedy}");
    // past the capture of the test runner, which shows nothing of a test that passes
    writeln!(std::io::stderr(), "{story}: {line}").ok();
    report(&line, story);
}

/// A line for the closing table of `tests/run.sh`.
pub(crate) fn report(line: &str, story: &str) {
    let Some(path) = std::env::var_os("REDWIND_TEST_REPORT") else { return };
    let file = std::fs::File::options().create(true).append(true).open(path);
    if let Ok(mut file) = file {
        file.write_all(format!("{line}\t{story}\n").as_bytes()).ok();
    }
}

/// Makes a test of each `fn(&Flavor)` for each server named: `on_each_flavor!(story: redis_7_0
/// valkey_9);`, or for every server there is: `on_each_flavor!(story: every);`.
#[macro_export]
macro_rules! on_each_flavor {
    ($story:ident: every) => {
        $crate::on_each_flavor!($story: redis_6_2 redis_7_0 redis_7_2 redis_7_4 redis_8_0 redis_8_6
            valkey_8_0 valkey_8_1 valkey_9 falkordb);
    };
    ($story:ident: $($flavor:ident)+) => {
        mod $story {
            $(#[test]
            fn $flavor() {
                $crate::servers::tell(stringify!($flavor), stringify!($story), super::$story);
            })+
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_lines_of_both_vendors_are_read() {
        let redis = parse_version("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc bits=64");
        assert_eq!(redis, Some((Vendor::Redis, Version(7, 0, 15))));
        let valkey = parse_version("Valkey server v=9.1.2 sha=00000000:0");
        assert_eq!(valkey, Some((Vendor::Valkey, Version(9, 1, 2))));
        assert_eq!(line_name(Vendor::Valkey, Version(9, 1, 2)), "valkey-9");
    }
}
