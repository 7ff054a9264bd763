//! Real object stores as child processes: S3 servers and Azure's emulator.

mod users;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use aws_lc_rs::hmac;
use tempfile::TempDir;

use crate::poll;
use crate::process::{Process, command, free_port};
use crate::redwind::StoreAddress;
use crate::servers::{folder, report, skip};

/// An object store that this machine may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// moto: S3 in memory; its conditional puts are atomic, it checks no signatures.
    Moto,
    /// s3s-fs: S3 on files; it checks signatures, its conditional puts are not atomic.
    S3s,
    /// Azurite: Azure blob storage.
    Azurite,
}

impl Kind {
    /// Its name for `get-servers.sh`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Moto => "s3-moto",
            Self::S3s => "s3-s3s",
            Self::Azurite => "azurite",
        }
    }

    fn program(self) -> PathBuf {
        let program = if self == Self::Azurite { "azurite-blob" } else { "s3-serve" };
        folder().join(self.name()).join("bin").join(program)
    }
}

/// The access key that the servers are started with; the secret is [`SECRET_KEY`].
pub const ACCESS_KEY: &str = "AKTEST";
/// The secret that belongs to [`ACCESS_KEY`].
pub const SECRET_KEY: &str = "SKTEST";
/// The bucket or container that is made.
pub const BUCKET: &str = "archive";

/// Azurite's account and key, the same everywhere and documented by it.
const AZURE_ACCOUNT: &str = "devstoreaccount1";
const AZURE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A running object store with an empty bucket, killed when dropped.
#[derive(Debug)]
pub struct ObjectServer {
    kind: Kind,
    addr: SocketAddr,
    process: Process,
    folder: TempDir,
    env: Vec<(String, String)>,
}

impl ObjectServer {
    /// Starts one, or says that `story` is skipped because it is not installed.
    ///
    /// # Panics
    /// When it is installed and does not start.
    pub fn start(kind: Kind, story: &str) -> Option<Self> {
        Self::start_with(kind, story, &[])
    }

    fn start_with(kind: Kind, story: &str, env: &[(&str, &str)]) -> Option<Self> {
        if !kind.program().is_file() {
            skip(kind.name(), story);
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let env: Vec<_> = env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let process = spawn(kind, addr, &folder, &env);
        let mut server = Self { kind, addr, process, folder, env };
        server.wait_listening();
        server.make_bucket();
        report(&format!("used {}", kind.name()), story);
        Some(server)
    }

    fn wait_listening(&mut self) {
        poll::until("the object store listens", || {
            let ended = self.process.exited();
            assert!(ended.is_none(), "{} ended with {ended:?}", self.kind.name());
            TcpStream::connect(self.addr).ok()
        });
    }

    fn make_bucket(&self) {
        match self.kind {
            Kind::Azurite => make_container(self.addr),
            // a path-style PUT is all it takes where no signature is checked
            Kind::Moto => put(self.addr, &format!("/{BUCKET}"), ""),
            Kind::S3s => {
                // the client that comes with moto signs
                let make = super::servers::folder().join("s3-moto/bin/s3-mkbucket");
                let endpoint = format!("http://{}", self.addr);
                let status = Command::new(make).args([endpoint.as_str(), BUCKET]).status();
                assert!(status.is_ok_and(|status| status.success()), "s3-s3s needs s3-moto's client");
            }
        }
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How redwind reaches it, directly.
    pub fn store(&self) -> StoreAddress {
        self.store_at(self.addr)
    }

    /// How redwind reaches it through another address, such as a [`Proxy`](crate::proxy::Proxy)'s.
    pub fn store_at(&self, addr: SocketAddr) -> StoreAddress {
        let variables: &[(&str, String)] = match self.kind {
            Kind::Azurite => &[
                ("AZURE_STORAGE_ACCOUNT_NAME", AZURE_ACCOUNT.to_owned()),
                ("AZURE_STORAGE_ACCOUNT_KEY", AZURE_KEY.to_owned()),
                ("AZURE_ENDPOINT", format!("http://{addr}/{AZURE_ACCOUNT}")),
                ("AZURE_ALLOW_HTTP", "true".to_owned()),
            ],
            Kind::Moto | Kind::S3s => &[
                ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
                ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
                ("AWS_REGION", "us-east-1".to_owned()),
                ("AWS_ENDPOINT_URL", format!("http://{addr}")),
                ("AWS_ALLOW_HTTP", "true".to_owned()),
            ],
        };
        let scheme = if self.kind == Kind::Azurite { "az" } else { "s3" };
        StoreAddress {
            url: format!("{scheme}://{BUCKET}/redwind"),
            env: variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        }
    }

    /// SIGKILL: connections are refused until [`Self::start_again`]. What moto held is lost.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Starts it again on the same port and files.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_again(&mut self) {
        self.process = spawn(self.kind, self.addr, &self.folder, &self.env);
        self.wait_listening();
    }
}

fn spawn(kind: Kind, addr: SocketAddr, folder: &TempDir, env: &[(String, String)]) -> Process {
    let mut server = command(kind.program());
    server.envs(env.iter().cloned());
    let (port, data) = (addr.port().to_string(), folder.path().join("data"));
    match kind {
        Kind::Azurite => {
            server.args(["--blobHost", "127.0.0.1", "--blobPort", &port, "--location"]).arg(data);
        }
        Kind::Moto | Kind::S3s => {
            server.arg(port).arg(data);
            server.envs([("S3_ACCESS_KEY", ACCESS_KEY), ("S3_SECRET_KEY", SECRET_KEY)]);
        }
    }
    Process::spawn(kind.name(), server, &folder.path().join("log")).expect("an installed server can be executed")
}

/// Makes the container in Azurite: Shared Key authorization as Azure's documentation
/// "Authorize with Shared Key" has it.
fn make_container(addr: SocketAddr) {
    let date = "Mon, 01 Jan 2024 00:00:00 GMT";
    let version = "2021-08-06";
    let canonical = format!("x-ms-date:{date}\nx-ms-version:{version}\n");
    let resource = format!("/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{BUCKET}\nrestype:container");
    let signed = format!("PUT{}{canonical}{resource}", "\n".repeat(12));
    let key = hmac::Key::new(hmac::HMAC_SHA256, &base64_decode(AZURE_KEY));
    let signature = base64_encode(hmac::sign(&key, signed.as_bytes()).as_ref());
    let headers = format!(
        "x-ms-date: {date}\r\nx-ms-version: {version}\r\n\
         Authorization: SharedKey {AZURE_ACCOUNT}:{signature}\r\n"
    );
    put(addr, &format!("/{AZURE_ACCOUNT}/{BUCKET}?restype=container"), &headers);
}

fn put(addr: SocketAddr, path: &str, headers: &str) {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    let request =
        format!("PUT {path} HTTP/1.1\r\nHost: {addr}\r\nContent-Length: 0\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let status = answer.split_whitespace().nth(1);
    assert!(matches!(status, Some("200" | "201")), "PUT {path}: {answer}");
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64_encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, &byte| group << 8 | u32::from(byte));
        let group = group << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = (group >> (18 - 6 * place)) as usize & 63;
            text.push(if place > chunk.len() { '=' } else { char::from(BASE64[digit]) });
        }
    }
    text
}

fn base64_decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut group, mut bits) = (0_u32, 0);
    for digit in text.bytes().filter_map(|c| BASE64.iter().position(|&b| b == c)) {
        group = group << 6 | u32::try_from(digit).expect("a digit is below 64");
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((group >> bits & 0xff) as u8);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_goes_both_ways() {
        for text in ["", "TQ==", "TWE=", "TWFu", AZURE_KEY] {
            assert_eq!(base64_encode(&base64_decode(text)), text);
        }
    }
}
