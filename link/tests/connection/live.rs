//! Real servers: those under `REDWIND_TEST_SERVERS` (default `~/.cache/redwind/servers`), else the
//! `redis-server` on `PATH`.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redwind_link::{AuthRefusal, Connection, LinkError, Role, ServerKind, ServerUrl, TlsError, TlsOptions, Version};
use tempfile::TempDir;

use crate::certificates::Certificates;

const LIMIT: Duration = Duration::from_secs(10);

/// A running server in a folder of its own, which dies with this.
struct Server {
    child: Child,
    folder: TempDir,
    port: u16,
}

impl Server {
    fn start(program: &Path, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let child = Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "::1"])
            .args(["--unixsocket", "s", "--save", "", "--dir"])
            .arg(folder.path())
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, folder, port }
    }

    fn unix_url(&self, query: &str) -> String {
        format!("unix://{}{query}", self.folder.path().join("s").display())
    }

    /// Waits until the server takes connections.
    async fn ready(&self) -> Connection {
        let deadline = Instant::now() + LIMIT;
        loop {
            match connect(&self.unix_url("")).await {
                Ok(connection) => return connection,
                Err(error) if error.is_retryable() && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("the server does not start: {error:?}"),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _dead = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn connect(url: &str) -> Result<Connection, LinkError> {
    let url: ServerUrl = url.parse().unwrap();
    Connection::connect(&url, &TlsOptions::default(), LIMIT).await
}

/// The programs of the servers so named that are installed; else whatever is on `PATH`.
fn programs(names: &[&str]) -> Vec<PathBuf> {
    let folder = std::env::var_os("REDWIND_TEST_SERVERS").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/redwind/servers"),
        PathBuf::from,
    );
    let mut found: Vec<PathBuf> = Vec::new();
    for name in names {
        let program = if *name == "falkordb" { "falkordb-server" } else { "redis-server" };
        let path = folder.join(name).join("bin").join(program);
        if path.exists() {
            found.push(path);
        } else {
            println!("SKIPPED: {name} is not installed under {}", folder.display());
        }
    }
    let on_path = Command::new("redis-server").arg("--version").output().is_ok();
    if found.is_empty() && on_path {
        found.push("redis-server".into());
    }
    if found.is_empty() {
        println!("SKIPPED: no server at all; install redis-server or set REDWIND_TEST_SERVERS");
    }
    found
}

#[tokio::test]
async fn real_servers_tell_who_they_are() {
    for program in programs(&["redis-6.2", "redis-7.0", "redis-8.6", "valkey-9", "falkordb"]) {
        let server = Server::start(&program, &[]);
        let mut connection = server.ready().await;
        connection.command(&[b"SET", b"key", b"value"]).await.unwrap();
        let info = connection.info().await.unwrap();
        println!("{}: {} {}", program.display(), info.kind, info.version);
        let path = program.to_string_lossy();
        assert_eq!(info.kind == ServerKind::Valkey, path.contains("valkey"));
        assert!(info.version >= Version::new(6, 2, 0) && !info.cluster_enabled && !info.sentinel);
        assert_eq!(info.has_module("graph"), path.contains("falkordb"));
        assert_eq!(info.modules.as_ref(), Some(&connection.modules().await.unwrap()));
        assert_eq!((info.keys, info.loading, info.saving), (Some(1), Some(false), Some(false)));
        let replication = info.replication.unwrap();
        assert_eq!((replication.role, replication.master_link_up), (Role::Primary, None));
        assert_eq!(connection.info_replication().await.unwrap().master_replid, replication.master_replid);
        assert_eq!(connection.info_server().await.unwrap().shutdown_in_milliseconds, None);
        assert!(connection.time_unix_micros().await.unwrap() > 1_700_000_000_000_000);
    }
}

#[tokio::test]
async fn real_servers_refusals_are_understood() {
    for program in programs(&["redis-6.2", "redis-8.6", "valkey-9"]) {
        let server = Server::start(&program, &[]);
        let mut admin = server.ready().await;
        let tcp = |userinfo: &str| format!("redis://{userinfo}[::1]:{}", server.port);

        let error = connect(&tcp(":canary@")).await.unwrap_err();
        assert!(matches!(error, LinkError::Auth(AuthRefusal::NotConfigured)), "{error}");
        let error = connect(&tcp("nobody:canary@")).await.unwrap_err();
        assert!(matches!(error, LinkError::Auth(AuthRefusal::Wrong)), "{error}");

        admin.command(&[b"ACL", b"SETUSER", b"me", b"on", b">p", b"-@all", b"+info"]).await.unwrap();
        let mut limited = connect(&tcp("me:p@")).await.unwrap();
        limited.info().await.unwrap();
        let error = limited.command(&[b"PSYNC", b"?", b"-1"]).await.unwrap_err();
        assert!(matches!(error, LinkError::NoPermission { .. }), "{error}");
        assert!(error.to_string().contains("+psync +replconf +ping"), "{error}");
        let error = limited.command(&[b"CONFIG", b"GET", b"x"]).await.unwrap_err();
        assert!(error.to_string().contains("+config|get"), "{error}");

        let error = admin.command(&[b"NO-SUCH-THING", b"canary"]).await.unwrap_err();
        assert!(matches!(error, LinkError::UnknownCommand { .. }), "{error}");
        admin.command(&[b"CONFIG", b"SET", b"requirepass", b"secret"]).await.unwrap();
        let error = connect(&tcp("")).await.unwrap_err();
        assert!(matches!(error, LinkError::Auth(AuthRefusal::Required)), "{error}");
        connect(&server.unix_url("?password=secret")).await.unwrap();
    }
}

#[tokio::test]
async fn a_real_server_answers_psync() {
    for program in programs(&["redis-6.2", "redis-8.6", "valkey-9"]) {
        let server = Server::start(&program, &["--repl-diskless-sync-delay", "0"]);
        let mut connection = server.ready().await;
        connection.command(&[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"]).await.unwrap();
        connection.send(&[b"PSYNC", b"?", b"-1"]).await.unwrap();
        let line = connection.read_line(LIMIT).await.unwrap();
        assert!(line.starts_with(b"+FULLRESYNC "), "{line:?}");
        let preamble = connection.read_line(LIMIT).await.unwrap();
        assert!(preamble.starts_with(b"$"), "{preamble:?}");
    }
}

#[tokio::test]
async fn real_servers_speak_tls_with_us() {
    let certificates = Certificates::create();
    let file = |name| certificates.file(name).to_string_lossy().into_owned();
    for program in programs(&["redis-7.0", "redis-8.6", "valkey-9"]) {
        let tls_port = free_port();
        let server = Server::start(
            &program,
            &[
                "--tls-port",
                &tls_port.to_string(),
                "--tls-cert-file",
                &file("server.pem"),
                "--tls-key-file",
                &file("server.key"),
                "--tls-ca-cert-file",
                &file("ca.pem"),
            ],
        );
        server.ready().await;
        let tls = |tls: TlsOptions, port: u16| async move {
            let url: ServerUrl = format!("rediss://localhost:{port}").parse().unwrap();
            Connection::connect(&url, &tls, Duration::from_secs(2)).await
        };
        let mut connection = tls(certificates.client(), tls_port).await.unwrap();
        assert!(connection.is_tls());
        connection.info().await.unwrap();

        let error = tls(certificates.anonymous(), tls_port).await.unwrap_err();
        assert!(error.to_string().contains("--tls-cert"), "{error:?}");
        let error = tls(Certificates::create().client(), tls_port).await.unwrap_err();
        assert!(matches!(error, LinkError::Tls(TlsError::Refused { .. })), "{error:?}");
        let error = tls(certificates.client(), server.port).await.unwrap_err();
        assert!(matches!(error, LinkError::Tls(TlsError::ServerIsPlain { .. })), "{error:?}");
        let error = connect(&format!("redis://127.0.0.1:{tls_port}")).await.unwrap_err();
        assert!(matches!(error, LinkError::Tls(TlsError::ServerIsTls { .. })), "{error:?}");
    }
}
