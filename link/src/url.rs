//! Where a server is and who we are to it, as one URL whose secrets are never shown.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

const PORT_DEFAULT: u16 = 6379;

/// A password. `Debug` shows nothing of it and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

/// A file that is larger holds no password or token.
const SECRET_BYTES_MAX: usize = 64 << 10;

impl Secret {
    /// The secret in a file that holds nothing else; a line end after it does not count. None when
    /// there is none, or too much for one.
    #[must_use]
    pub fn from_file(mut content: Vec<u8>) -> Option<Self> {
        if content.last() == Some(&b'\n') {
            content.pop();
            if content.last() == Some(&b'\r') {
                content.pop();
            }
        }
        (1..=SECRET_BYTES_MAX).contains(&content.len()).then(|| Self::from(content))
    }

    /// The bytes themselves, for the one place that sends them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into_bytes().into())
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The place to connect to, without who we are there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerAddress {
    /// A TCP port.
    Tcp {
        /// A host name, an IPv4 address, or an IPv6 address without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket's path.
    Unix(PathBuf),
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A server's URL:
///
/// - `redis://[[user]:password@]host[:port]`, `rediss://` for TLS (`valkey://` and `valkeys://` mean
///   the same), the port 6379 unless given, IPv6 in brackets;
/// - `unix:///path/to.sock` (or `redis+unix://`), with `?user=` and `&password=`.
///
/// User and password are percent-decoded. A database may be named only if it is 0, since replication
/// covers them all. `Display` and `Debug` never show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl {
    address: ServerAddress,
    tls: bool,
    username: Option<String>,
    password: Option<Secret>,
}

/// What is wrong with a server's URL. Never repeats the URL, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// No scheme, or none that we know.
    #[error("not a server URL: it starts with redis://, rediss:// or unix://")]
    Scheme,
    /// The part between the scheme and the path cannot be read.
    #[error(
        "cannot read the host and port ({0}); in a user name or password, write characters such as \
         # / ? @ % percent-encoded"
    )]
    Authority(url::ParseError),
    /// No host was given.
    #[error("no host: write redis://host:port")]
    NoHost,
    /// A unix URL without an absolute path.
    #[error("no socket path: write unix:///path/to.sock")]
    NoSocketPath,
    /// A database other than 0, or some other path.
    #[error("replication covers all databases: leave the database out, or give 0")]
    Database,
    /// A query or fragment where there is none.
    #[error(
        "unexpected ? or # part; only unix:// URLs take ?user= and &password=, and in a user name or \
         password these characters are written percent-encoded"
    )]
    Query,
    /// A percent-encoded user name, host or path that is not UTF-8.
    #[error("the {0} is not valid UTF-8")]
    NotUtf8(&'static str),
}

impl ServerUrl {
    /// A URL without TLS, user and password.
    #[must_use]
    pub fn new(address: ServerAddress) -> Self {
        Self { address, tls: false, username: None, password: None }
    }

    /// The same server, with this password instead of the one in the URL.
    #[must_use]
    pub fn with_password(mut self, password: Secret) -> Self {
        self.password = Some(password);
        self
    }

    /// The same server, with this ACL user instead of the one in the URL.
    #[must_use]
    pub fn with_username(mut self, username: String) -> Self {
        self.username = Some(username);
        self
    }

    /// Where to connect to.
    #[must_use]
    pub fn address(&self) -> &ServerAddress {
        &self.address
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The ACL user, if one was given.
    #[must_use]
    pub fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// The password, if one was given.
    #[must_use]
    pub fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }
}

impl FromStr for ServerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once(':').ok_or(UrlError::Scheme)?;
        match scheme.to_ascii_lowercase().as_str() {
            "redis" | "valkey" => parse_tcp(text, false),
            "rediss" | "valkeys" => parse_tcp(text, true),
            "unix" | "redis+unix" => parse_unix(rest),
            _ => Err(UrlError::Scheme),
        }
    }
}

fn parse_tcp(text: &str, tls: bool) -> Result<ServerUrl, UrlError> {
    let url = url::Url::parse(text).map_err(|error| match error {
        url::ParseError::EmptyHost => UrlError::NoHost,
        other => UrlError::Authority(other),
    })?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(UrlError::Query);
    }
    if !matches!(url.path(), "" | "/" | "/0") {
        return Err(UrlError::Database);
    }
    let host = match url.host().ok_or(UrlError::NoHost)? {
        url::Host::Domain(name) => decode_text("host", name)?,
        url::Host::Ipv4(ip) => ip.to_string(),
        url::Host::Ipv6(ip) => ip.to_string(),
    };
    if host.is_empty() {
        return Err(UrlError::NoHost);
    }
    Ok(ServerUrl {
        address: ServerAddress::Tcp { host, port: url.port().unwrap_or(PORT_DEFAULT) },
        tls,
        username: username(url.username())?,
        password: url.password().and_then(password),
    })
}

/// `rest` is what follows `unix:`. Read by hand: URL parsers refuse credentials without a host.
fn parse_unix(rest: &str) -> Result<ServerUrl, UrlError> {
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let slash = place.find('/').ok_or(UrlError::NoSocketPath)?;
    let (authority, path) = place.split_at(slash);
    let mut url = ServerUrl::new(ServerAddress::Unix(decode_text("socket path", path)?.into()));
    match authority.strip_suffix('@') {
        Some(userinfo) => {
            let (user, secret) = userinfo.split_once(':').unwrap_or((userinfo, ""));
            url.username = username(user)?;
            url.password = password(secret);
        }
        None if authority.is_empty() => {}
        None => return Err(UrlError::NoSocketPath),
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("user" | "username", value) => url.username = username(value)?,
            ("password" | "pass", value) => url.password = password(value),
            ("db", "" | "0") => {}
            ("db", _) => return Err(UrlError::Database),
            _ => return Err(UrlError::Query),
        }
    }
    Ok(url)
}

fn username(encoded: &str) -> Result<Option<String>, UrlError> {
    let name = decode_text("user name", encoded)?;
    Ok((!name.is_empty()).then_some(name))
}

fn password(encoded: &str) -> Option<Secret> {
    (!encoded.is_empty()).then(|| Secret::from(percent_decode_str(encoded).collect::<Vec<u8>>()))
}

fn decode_text(what: &'static str, encoded: &str) -> Result<String, UrlError> {
    let decoded = percent_decode_str(encoded).decode_utf8().map_err(|_| UrlError::NotUtf8(what))?;
    Ok(decoded.into_owned())
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A user without a password may be a password written without its colon: hidden as well.
        let userinfo = match (&self.username, &self.password) {
            (None, None) => String::new(),
            (Some(user), Some(_)) => format!("{}:***@", user.escape_default()),
            (Some(_), None) | (None, Some(_)) => "***@".to_owned(),
        };
        match &self.address {
            ServerAddress::Unix(path) => write!(f, "unix://{userinfo}{}", path.display()),
            address => {
                let scheme = if self.tls { "rediss" } else { "redis" };
                write!(f, "{scheme}://{userinfo}{address}")
            }
        }
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ServerUrl {
        text.parse().unwrap()
    }

    fn secret(url: &ServerUrl) -> &[u8] {
        url.password().unwrap().expose()
    }

    #[test]
    fn a_line_end_after_a_password_in_a_file_does_not_count() {
        for text in ["pass", "pass\n", "pass\r\n"] {
            assert_eq!(Secret::from_file(text.into()).unwrap().expose(), b"pass");
        }
        assert_eq!(Secret::from_file("pa ss\n\n".into()).unwrap().expose(), b"pa ss\n");
        assert!(Secret::from_file("\n".into()).is_none());
        assert!(Secret::from_file(vec![b'x'; SECRET_BYTES_MAX + 1]).is_none());
    }

    #[test]
    fn hosts_ports_and_schemes_are_read() {
        for (text, address, tls) in [
            ("redis://db", "db:6379", false),
            ("redis://db/", "db:6379", false),
            ("redis://db:7000/0", "db:7000", false),
            ("rediss://10.0.0.1:1", "10.0.0.1:1", true),
            ("valkeys://db", "db:6379", true),
            ("REDIS://[::1]:6380", "[::1]:6380", false),
            ("unix:///run/redis.sock", "unix:/run/redis.sock", false),
            ("redis+unix:///run/a%20b.sock", "unix:/run/a b.sock", false),
            ("unix:/run/redis.sock", "unix:/run/redis.sock", false),
        ] {
            let url = parse(text);
            assert_eq!(url.address().to_string(), address, "{text}");
            assert_eq!(url.is_tls(), tls, "{text}");
        }
        let ServerAddress::Tcp { host, .. } = parse("redis://[::1]").address().clone() else {
            panic!("not TCP");
        };
        assert_eq!(host, "::1");
    }

    #[test]
    fn credentials_are_percent_decoded() {
        let url = parse("redis://me%40work:p%23%2F%3A%ff@db");
        assert_eq!(url.username(), Some("me@work"));
        assert_eq!(secret(&url), b"p#/:\xff");
        let url = parse("redis://:only@db");
        assert_eq!((url.username(), secret(&url)), (None, &b"only"[..]));
        let url = parse("unix:///s?user=me&password=a%26b&db=0");
        assert_eq!((url.username(), secret(&url)), (Some("me"), &b"a&b"[..]));
        let url = parse("unix://me:pw@/s");
        assert_eq!((url.username(), secret(&url)), (Some("me"), &b"pw"[..]));
        let url = parse("redis://db").with_username("u".into()).with_password("p".to_owned().into());
        assert_eq!((url.username(), secret(&url)), (Some("u"), &b"p"[..]));
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        for text in [
            "redis://user:canary@db",
            "redis://:canary@db",
            "redis://canary@db",
            "unix:///s?password=canary",
            "unix://u:canary@/s",
        ] {
            let url = parse(text);
            for shown in [format!("{url}"), format!("{url:?}"), format!("{:?}", url.password())] {
                assert!(!shown.contains("canary"), "{shown}");
            }
        }
        assert_eq!(parse("redis://user:canary@db").to_string(), "redis://user:***@db:6379");
        for text in [
            "canary",
            "http://:canary@db",
            "redis://:can#canary@db",
            "redis://:canary/x@db",
            "redis://:canary@db:99999",
            "redis://:canary@",
            "redis://:canary@[::1",
            "redis://:canary@db/canary",
            "redis://db?password=canary",
            "unix://canary",
            "unix:///s?canary=canary",
            "redis://%ffcanary:x@db",
        ] {
            let error = text.parse::<ServerUrl>().unwrap_err();
            assert!(!format!("{error} {error:?}").contains("canary"), "{text}: {error}");
        }
    }

    #[test]
    fn a_database_other_than_0_is_refused() {
        for text in ["redis://db/1", "redis://db/0/1", "redis://db/x", "unix:///s?db=1"] {
            assert_eq!(text.parse::<ServerUrl>(), Err(UrlError::Database), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}", prefix in "(redis|rediss|unix)?(://)?") {
            let _outcome = format!("{prefix}{text}").parse::<ServerUrl>().map(|url| url.to_string());
        }
    }
}
