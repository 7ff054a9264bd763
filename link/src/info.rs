//! What a server says about itself: `INFO`, `MODULE LIST`, `TIME`.
//!
//! Fields that are absent (another section was asked for, an older version, a fork) are `None`;
//! a missing field is never taken for zero.

use std::collections::HashMap;
use std::fmt;

use crate::connection::Connection;
use crate::error::{LinkError, sanitised};
use crate::reply::Reply;
use crate::version::Version;

/// Modules that one server may list.
const MODULES_MAX: usize = 1024;

/// Which server software it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerKind {
    /// Redis; with the module `graph` it is FalkorDB.
    Redis,
    /// Valkey.
    Valkey,
    /// Redict.
    Redict,
    /// Something else that names itself.
    Other(String),
}

impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redis => "redis",
            Self::Valkey => "valkey",
            Self::Redict => "redict",
            Self::Other(name) => name,
        })
    }
}

/// A loaded module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, such as `graph`.
    pub name: String,
    /// Its version as the module counts it, such as 41803 for FalkorDB 4.18.3.
    pub version: u64,
}

/// A server's role in replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It follows another server.
    Replica,
}

/// The section `replication` of `INFO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicationInfo {
    /// Primary or replica.
    pub role: Role,
    /// Whether a replica is connected to its primary; `None` on a primary.
    pub master_link_up: Option<bool>,
    /// The primary that a replica follows, as `host:port`.
    pub master: Option<String>,
    /// Replicas attached, ourselves among them.
    pub connected_replicas: u64,
    /// The replication ID now.
    pub master_replid: String,
    /// The one before, up to `second_repl_offset`; `None` if there is none.
    pub master_replid2: Option<String>,
    /// First offset that `master_replid2` does not hold for.
    pub second_repl_offset: Option<u64>,
    /// Bytes of stream produced so far.
    pub master_repl_offset: u64,
    /// Whether a backlog exists, so that a partial resync can be asked for.
    pub backlog_active: bool,
    /// Configured size of the backlog in bytes.
    pub backlog_size: u64,
    /// Offset of the first byte that the backlog still holds, counted from 1.
    pub backlog_first_byte_offset: u64,
    /// Bytes that the backlog holds.
    pub backlog_histlen: u64,
}

/// A server as `INFO` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// The software.
    pub kind: ServerKind,
    /// Its own version, not the Redis version that forks report for compatibility.
    pub version: Version,
    /// Changes with every start of the process.
    pub run_id: Option<String>,
    /// The server is a node of a cluster.
    pub cluster_enabled: bool,
    /// The server runs as Sentinel.
    pub sentinel: bool,
    /// Milliseconds until the server stops waiting for its replicas and exits; `None` unless it is
    /// shutting down (7.0+, section `server`).
    pub shutdown_in_milliseconds: Option<u64>,
    /// The dataset is being read from disk (section `persistence`).
    pub loading: Option<bool>,
    /// A child process writes a snapshot or an append-only file (section `persistence`).
    pub saving: Option<bool>,
    /// Bytes in use (section `memory`).
    pub used_memory: Option<u64>,
    /// Limit on the bytes in use; 0 is none (section `memory`).
    pub maxmemory: Option<u64>,
    /// Keys in all databases; `None` without the section `keyspace`.
    pub keys: Option<u64>,
    /// Modules loaded; `None` without the section `modules`.
    pub modules: Option<Vec<Module>>,
    /// Replication; `None` without its section.
    pub replication: Option<ReplicationInfo>,
}

impl ServerInfo {
    /// Reads the text of `INFO`, or of those of its sections that include `server`.
    ///
    /// # Errors
    /// What is missing or malformed.
    pub fn parse(text: &str) -> Result<Self, InfoError> {
        let fields = Fields::new(text);
        let (kind, version) = fields.identity()?;
        let saving = ["rdb_bgsave_in_progress", "aof_rewrite_in_progress"];
        Ok(Self {
            kind,
            version: version.parse().map_err(|_| InfoError("its version"))?,
            run_id: fields.text("run_id"),
            // `redis_mode` is in the section `server`, `cluster_enabled` in another.
            cluster_enabled: fields.get("cluster_enabled") == Some("1") || fields.mode() == Some("cluster"),
            sentinel: fields.mode() == Some("sentinel"),
            shutdown_in_milliseconds: fields.number("shutdown_in_milliseconds"),
            loading: fields.flag("loading"),
            saving: saving.iter().filter_map(|name| fields.flag(name)).reduce(|a, b| a || b),
            used_memory: fields.number("used_memory"),
            maxmemory: fields.number("maxmemory"),
            keys: fields.has_section("Keyspace").then_some(fields.keys),
            modules: fields.has_section("Modules").then(|| fields.modules.clone()),
            replication: fields.replication()?,
        })
    }

    /// Whether a module of that name is loaded; false also when modules were not asked for.
    #[must_use]
    pub fn has_module(&self, name: &str) -> bool {
        self.modules.iter().flatten().any(|module| module.name == name)
    }
}

/// A reply that does not say what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server does not tell {0}")]
pub struct InfoError(&'static str);

/// The lines of an `INFO`, those that come once by name.
struct Fields<'a> {
    sections: Vec<&'a str>,
    values: HashMap<&'a str, &'a str>,
    modules: Vec<Module>,
    keys: u64,
}

impl<'a> Fields<'a> {
    fn new(text: &'a str) -> Self {
        let mut fields = Self { sections: Vec::new(), values: HashMap::new(), modules: Vec::new(), keys: 0 };
        for line in text.lines() {
            if let Some(section) = line.strip_prefix("# ") {
                fields.sections.push(section.trim());
            } else if let Some((name, value)) = line.split_once(':') {
                fields.add(name, value);
            }
        }
        fields
    }

    fn add(&mut self, name: &'a str, value: &'a str) {
        let is_database =
            name.strip_prefix("db").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        if name == "module" {
            if let Some(module) = module_line(value).filter(|_| self.modules.len() < MODULES_MAX) {
                self.modules.push(module);
            }
        } else if is_database {
            let keys = value.split(',').find_map(|part| part.strip_prefix("keys="));
            self.keys = self.keys.saturating_add(keys.and_then(|n| n.parse().ok()).unwrap_or(0));
        } else {
            self.values.insert(name, value);
        }
    }

    fn has_section(&self, name: &str) -> bool {
        self.sections.iter().any(|section| section.eq_ignore_ascii_case(name))
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.values.get(name).copied()
    }

    fn text(&self, name: &str) -> Option<String> {
        self.get(name).filter(|value| !value.is_empty()).map(|value| sanitised(value.as_bytes()))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(|value| value != "0")
    }

    fn mode(&self) -> Option<&'a str> {
        self.get("redis_mode").or_else(|| self.get("server_mode"))
    }

    /// Forks keep `redis_version` for compatibility and tell their own beside it.
    fn identity(&self) -> Result<(ServerKind, &'a str), InfoError> {
        if let Some(version) = self.get("valkey_version") {
            return Ok((ServerKind::Valkey, version));
        }
        if let Some(version) = self.get("redict_version") {
            return Ok((ServerKind::Redict, version));
        }
        let version = self.get("redis_version").ok_or(InfoError("its version"))?;
        let kind = match self.get("server_name") {
            None => ServerKind::Redis,
            Some(name) if name.eq_ignore_ascii_case("redis") => ServerKind::Redis,
            Some(name) if name.eq_ignore_ascii_case("valkey") => ServerKind::Valkey,
            Some(name) => ServerKind::Other(sanitised(name.as_bytes())),
        };
        Ok((kind, version))
    }

    fn replication(&self) -> Result<Option<ReplicationInfo>, InfoError> {
        let Some(role) = self.get("role") else {
            return Ok(None);
        };
        let role = match role {
            "master" => Role::Primary,
            "slave" => Role::Replica,
            _ => return Err(InfoError("its role")),
        };
        let number = |name| self.number(name).ok_or(InfoError("its replication state"));
        let second = self.get("second_repl_offset").and_then(|offset| offset.parse().ok());
        let replica = role == Role::Replica;
        Ok(Some(ReplicationInfo {
            role,
            master_link_up: replica.then(|| self.get("master_link_status") == Some("up")),
            master: match (self.text("master_host"), self.number("master_port")) {
                (Some(host), Some(port)) if replica => Some(format!("{host}:{port}")),
                _ => None,
            },
            connected_replicas: self.number("connected_slaves").unwrap_or(0),
            master_replid: self.replid("master_replid").ok_or(InfoError("its replication ID"))?,
            master_replid2: second.and_then(|_: u64| self.replid("master_replid2")),
            second_repl_offset: second,
            master_repl_offset: number("master_repl_offset")?,
            backlog_active: self.flag("repl_backlog_active").unwrap_or(false),
            backlog_size: number("repl_backlog_size")?,
            backlog_first_byte_offset: number("repl_backlog_first_byte_offset")?,
            backlog_histlen: number("repl_backlog_histlen")?,
        }))
    }

    /// 40 hexadecimal digits (`CONFIG_RUN_ID_SIZE`).
    fn replid(&self, name: &str) -> Option<String> {
        let id = self.get(name)?;
        (id.len() == 40 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
    }
}

/// `name=graph,ver=41803,api=1,...`
fn module_line(value: &str) -> Option<Module> {
    let field = |key: &str| value.split(',').find_map(|part| part.strip_prefix(key));
    Some(Module { name: sanitised(field("name=")?.as_bytes()), version: field("ver=")?.parse().ok()? })
}

/// One module of `MODULE LIST`: a flat list of names and values.
fn module_entry(entry: &Reply) -> Option<Module> {
    let fields = entry.as_array()?;
    let value = |key: &str| fields.chunks_exact(2).find(|pair| pair[0].as_str() == Some(key)).map(|pair| &pair[1]);
    Some(Module {
        name: sanitised(value("name")?.as_bytes()?),
        version: u64::try_from(value("ver")?.as_integer()?).ok()?,
    })
}

fn unix_micros(reply: &Reply) -> Option<u64> {
    let [seconds, micros] = reply.as_array()? else {
        return None;
    };
    let seconds = u64::try_from(seconds.as_integer()?).ok()?;
    seconds.checked_mul(1_000_000)?.checked_add(u64::try_from(micros.as_integer()?).ok()?)
}

impl Connection {
    /// `INFO`: everything that it shows by default.
    ///
    /// # Errors
    /// Those of a command; [`LinkError::Protocol`] when it does not tell what every server tells.
    pub async fn info(&mut self) -> Result<ServerInfo, LinkError> {
        let reply = self.command(&[b"INFO"]).await?;
        self.parse_info(&reply)
    }

    /// `INFO server`, which is cheap and tells of a shutdown.
    ///
    /// # Errors
    /// As [`Connection::info`].
    pub async fn info_server(&mut self) -> Result<ServerInfo, LinkError> {
        let reply = self.command(&[b"INFO", b"server"]).await?;
        self.parse_info(&reply)
    }

    /// `INFO replication`, which is cheap and tells the offset.
    ///
    /// # Errors
    /// As [`Connection::info`].
    pub async fn info_replication(&mut self) -> Result<ReplicationInfo, LinkError> {
        let reply = self.command(&[b"INFO", b"replication"]).await?;
        let text = String::from_utf8_lossy(reply.as_bytes().unwrap_or_default());
        match Fields::new(&text).replication() {
            Ok(Some(replication)) => Ok(replication),
            _ => Err(self.protocol("INFO does not tell its replication state")),
        }
    }

    /// `INFO stats`: the connections that the server has accepted since it started
    /// (`total_connections_received`), and `None` if it does not tell.
    ///
    /// # Errors
    /// Those of a command.
    pub async fn connections_accepted(&mut self) -> Result<Option<u64>, LinkError> {
        let reply = self.command(&[b"INFO", b"stats"]).await?;
        let text = String::from_utf8_lossy(reply.as_bytes().unwrap_or_default());
        Ok(Fields::new(&text).number("total_connections_received"))
    }

    fn parse_info(&self, reply: &Reply) -> Result<ServerInfo, LinkError> {
        let text = String::from_utf8_lossy(reply.as_bytes().unwrap_or_default());
        ServerInfo::parse(&text).map_err(|_| self.protocol("INFO without version or replication"))
    }

    /// `MODULE LIST`.
    ///
    /// # Errors
    /// Those of a command: often [`LinkError::NoPermission`], as it needs a right of its own.
    /// `INFO` lists modules too.
    pub async fn modules(&mut self) -> Result<Vec<Module>, LinkError> {
        let reply = self.command(&[b"MODULE", b"LIST"]).await?;
        let entries = reply.as_array().unwrap_or_default();
        Ok(entries.iter().take(MODULES_MAX).filter_map(module_entry).collect())
    }

    /// `TIME`: the server's wall clock in microseconds since the Unix epoch.
    ///
    /// # Errors
    /// Those of a command.
    pub async fn time_unix_micros(&mut self) -> Result<u64, LinkError> {
        let reply = self.command(&[b"TIME"]).await?;
        unix_micros(&reply).ok_or_else(|| self.protocol("TIME without a time"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "2b0b3b1f0d3f4f8f9f8f1f0d3f4f8f9f8f1f0d3f";
    const NO_ID: &str = "0000000000000000000000000000000000000000";

    fn replication(role: &str, second: i64) -> String {
        format!(
            "# Replication\r\nrole:{role}\r\nconnected_slaves:2\r\nmaster_host:h\r\n\
             master_port:1\r\nmaster_link_status:up\r\nmaster_replid:{ID}\r\n\
             master_replid2:{NO_ID}\r\nmaster_repl_offset:700\r\nsecond_repl_offset:{second}\r\n\
             repl_backlog_active:1\r\nrepl_backlog_size:1048576\r\n\
             repl_backlog_first_byte_offset:1\r\nrepl_backlog_histlen:700\r\n"
        )
    }

    #[test]
    fn forks_are_known_by_their_own_version() {
        for (text, kind, version) in [
            ("redis_version:8.6.3", ServerKind::Redis, Version::new(8, 6, 3)),
            (
                "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2",
                ServerKind::Valkey,
                Version::new(9, 1, 2),
            ),
            ("redis_version:7.2.4\r\nredict_version:7.3.6", ServerKind::Redict, Version::new(7, 3, 6)),
            ("redis_version:7.0.0\r\nserver_name:x\x1by", ServerKind::Other("x\\u{1b}y".into()), Version::new(7, 0, 0)),
        ] {
            let info = ServerInfo::parse(text).unwrap();
            assert_eq!((info.kind, info.version), (kind, version));
        }
        assert!(ServerInfo::parse("redis_version:x").is_err());
        assert!(ServerInfo::parse("").is_err());
    }

    #[test]
    fn sections_that_were_not_asked_for_are_unknown() {
        let info = ServerInfo::parse(
            "# Server\r\nredis_version:7.0.15\r\nredis_mode:cluster\r\nrun_id:abc\r\n\
             shutdown_in_milliseconds:9000\r\n",
        )
        .unwrap();
        assert!(info.cluster_enabled);
        assert_eq!(info.shutdown_in_milliseconds, Some(9000));
        assert_eq!(info.run_id.as_deref(), Some("abc"));
        assert_eq!((info.keys, info.modules, info.loading, info.saving), (None, None, None, None));
        assert_eq!(info.replication, None);
    }

    #[test]
    fn keys_and_modules_are_gathered() {
        let info = ServerInfo::parse(
            "redis_version:8.6.2\r\n# Modules\r\n\
             module:name=vectorset,ver=1,api=1,filters=0,usedby=[],using=[],options=[a|b]\r\n\
             module:name=graph,ver=41803,api=1,filters=0,usedby=[],using=[],options=[]\r\n\
             # Keyspace\r\ndb0:keys=3,expires=0,avg_ttl=0\r\ndb15:keys=4,expires=0,avg_ttl=0\r\n",
        )
        .unwrap();
        assert_eq!(info.keys, Some(7));
        assert!(info.has_module("graph") && !info.has_module("search"));
        assert_eq!(info.modules.unwrap()[1].version, 41803);
    }

    #[test]
    fn replication_is_read_for_both_roles() {
        let read = |text: &str| Fields::new(text).replication().unwrap().unwrap();
        let primary = read(&replication("master", -1));
        assert_eq!((primary.role, primary.master_link_up, primary.master), (Role::Primary, None, None));
        assert_eq!((primary.master_replid2, primary.second_repl_offset), (None, None));
        assert_eq!((primary.master_repl_offset, primary.backlog_active), (700, true));
        let replica = read(&replication("slave", 51));
        assert_eq!((replica.role, replica.master_link_up), (Role::Replica, Some(true)));
        assert_eq!(replica.master.as_deref(), Some("h:1"));
        assert_eq!(replica.second_repl_offset, Some(51));
        let broken = replication("master", -1).replace(ID, "short");
        assert!(Fields::new(&broken).replication().is_err());
    }

    #[test]
    fn module_list_and_time_are_read() {
        let bulk = |text: &'static str| Reply::Bulk(text.into());
        let entry = Reply::Array(vec![bulk("name"), bulk("graph"), bulk("ver"), Reply::Integer(4)]);
        assert_eq!(module_entry(&entry), Some(Module { name: "graph".into(), version: 4 }));
        assert_eq!(module_entry(&Reply::Array(vec![bulk("name")])), None);
        let time = Reply::Array(vec![bulk("1763733787"), bulk("250001")]);
        assert_eq!(unix_micros(&time), Some(1_763_733_787_250_001));
        assert_eq!(unix_micros(&Reply::Array(vec![bulk("-1"), bulk("0")])), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "((role|redis_version|db1|module|# [A-Z]):?[ -~]{0,20}\r\n|.){0,20}") {
            let _outcome = ServerInfo::parse(&text);
        }
    }
}
