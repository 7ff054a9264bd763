//! How commands reach a running agent: its address, TLS, and who they are to it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use redwind_proto::v1::agent_client::AgentClient;
use redwind_proto::v1::{GetStatusRequest, GetStatusResponse};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

use crate::exit::UsageError;
use crate::secret_args;
use crate::tls_args::TlsArgs;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An agent answers from memory.
const STATUS_TIMEOUT: Duration = Duration::from_secs(15);
/// How long nothing may come from an agent before it is asked whether it lives, and how long it may take to
/// say so. A call itself may last for hours.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A client of an agent that says who it is.
pub(crate) type Client = AgentClient<InterceptedService<Channel, Bearer>>;

#[derive(clap::Args)]
pub(crate) struct AgentAddressArgs {
    /// Address of the agent's gRPC interface (its option --grpc): host:port, or with http:// or https://
    ///
    /// Without either, https:// beyond loopback.
    #[arg(long, value_name = "ADDR", default_value = redwind_agent::config::GRPC_DEFAULT)]
    agent: String,

    /// The source, when the agent follows several
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,

    #[command(flatten)]
    identity: IdentityArgs,
}

impl AgentAddressArgs {
    /// A connection to the agent.
    pub(crate) async fn connect(&self) -> anyhow::Result<Client> {
        self.identity.connect(&self.agent).await
    }
}

/// Whom to trust, and who we are, at an agent that asks.
#[derive(clap::Args)]
#[command(next_help_heading = "Agent")]
pub(crate) struct IdentityArgs {
    #[command(flatten)]
    tls: TlsArgs,

    // Only from the environment: `settle_secrets` sees to that.
    #[arg(long, value_name = "TOKEN", hide = true)]
    token: Option<String>,

    /// A file that holds the token for the agent and nothing else (or REDWIND_TOKEN holds the token)
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl IdentityArgs {
    /// A connection to the agent at `address`.
    pub(crate) async fn connect(&self, address: &str) -> anyhow::Result<Client> {
        let place = Place::parse(address)?;
        let bearer = Bearer(self.token()?);
        if bearer.0.is_some() && !place.tls && !place.is_loopback() {
            let problem = format!("agent: a token would be sent unencrypted to {place}; write https://");
            return Err(UsageError::new(problem).into());
        }
        let hint = || format!("cannot reach an agent at {place}; does one run there, with --grpc?");
        let channel = self.channel(&place).await.with_context(hint)?;
        Ok(AgentClient::with_interceptor(channel, bearer))
    }

    async fn channel(&self, place: &Place) -> anyhow::Result<Channel> {
        // The scheme is the connector's affair.
        let endpoint = Endpoint::from_shared(format!("http://{}", place.authority))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        if !place.tls {
            return Ok(endpoint.connect().await?);
        }
        let mut config = self
            .tls
            .options()
            .client_config()
            .map_err(|error| UsageError::new(crate::exit::describe(&error.into())))?;
        Arc::make_mut(&mut config).alpn_protocols = vec![b"h2".to_vec()];
        let connector = tower::service_fn(move |uri: Uri| encrypted(uri, Arc::clone(&config)));
        Ok(endpoint.connect_with_connector(connector).await?)
    }

    fn token(&self) -> Result<Option<MetadataValue<Ascii>>, UsageError> {
        let secret = match (&self.token, &self.token_file) {
            (_, Some(path)) => secret_args::read_file("token-file", path)?,
            (Some(token), None) => token.clone().into(),
            (None, None) => return Ok(None),
        };
        let header = [b"Bearer ", secret.expose()].concat();
        let mut value = MetadataValue::try_from(header)
            .map_err(|_| UsageError::new("token: it holds characters that no token has"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// A TLS connection to the host and port of `uri`.
async fn encrypted(
    uri: Uri,
    config: Arc<ClientConfig>,
) -> io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or_default())).await?;
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| {
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::InvalidMessage(_)) => io::Error::other("it does not speak TLS: write http://"),
            _ => error,
        }
    })?;
    Ok(TokioIo::new(stream))
}

/// Where an agent is.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    authority: String,
    tls: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.tls { "https://" } else { "http://" }, self.authority)
    }
}

impl Place {
    fn parse(text: &str) -> Result<Self, UsageError> {
        let (scheme, authority) = text.split_once("://").map_or((None, text), |(scheme, rest)| (Some(scheme), rest));
        let authority = authority.trim_end_matches('/').to_owned();
        let bad = || UsageError::new(format!("agent: {text:?} is no address such as 127.0.0.1:7417"));
        let uri: Uri = format!("http://{authority}").parse().map_err(|_| bad())?;
        // A user in it could only be meant for a password, which is not how an agent is asked.
        if uri.port_u16().is_none() || uri.path_and_query().is_some_and(|path| path != "/") || authority.contains('@') {
            return Err(bad());
        }
        let mut place = Self { authority, tls: false };
        place.tls = match scheme {
            Some("https") => true,
            Some("http") => false,
            None => !place.is_loopback(),
            Some(_) => return Err(bad()),
        };
        Ok(place)
    }

    fn is_loopback(&self) -> bool {
        let host = self.authority.rsplit_once(':').map_or("", |(host, _)| host);
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    }
}

/// Adds our token to every request.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// What an agent says of its sources.
pub(crate) async fn status(agent: &mut Client, request: GetStatusRequest) -> anyhow::Result<GetStatusResponse> {
    let answer = tokio::time::timeout(STATUS_TIMEOUT, agent.get_status(request)).await;
    let answer = answer.map_err(|_| silent())?.map_err(|status| refusal(&status))?;
    Ok(answer.into_inner())
}

fn silent() -> anyhow::Error {
    anyhow::anyhow!("the agent does not answer; it may hang, or something between us loses what is sent")
}

/// An agent's refusal in its own words, without the wire's.
pub(crate) fn refusal(status: &Status) -> anyhow::Error {
    // Only what went wrong on this side of the wire has a cause.
    let mut causes = std::iter::successors(std::error::Error::source(status), |cause| cause.source()).peekable();
    if causes.peek().is_some() {
        if causes.any(|cause| cause.downcast_ref().is_some_and(hyper::Error::is_timeout)) {
            return silent();
        }
        let told = status.message();
        return anyhow::anyhow!("the connection with the agent broke ({told}); one with --listen-cert is at https://");
    }
    match status.message() {
        "" => anyhow::anyhow!("the agent answers: {}", status.code()),
        message => anyhow::anyhow!("the agent answers: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_loopback_an_agent_is_asked_by_tls_unless_told() {
        for (text, expected) in [
            ("127.0.0.1:7417", "http://127.0.0.1:7417"),
            ("localhost:7417", "http://localhost:7417"),
            ("[::1]:7417", "http://[::1]:7417"),
            ("10.0.0.7:7417", "https://10.0.0.7:7417"),
            ("agent.internal:7417", "https://agent.internal:7417"),
            ("http://agent.internal:7417/", "http://agent.internal:7417"),
            ("https://127.0.0.1:7417", "https://127.0.0.1:7417"),
        ] {
            assert_eq!(Place::parse(text).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "agent", "ftp://a:1", "a:1/path", "user:canary@a:1", "a:1?x", "a b:1"] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }

    /// An agent that was stopped by a debugger: the system still takes connections for it.
    #[tokio::test(start_paused = true)]
    async fn an_agent_that_hangs_is_not_waited_for() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let nobody = IdentityArgs { tls: TlsArgs::default(), token: None, token_file: None };
        let mut agent = nobody.connect(&address).await.unwrap();
        let told = status(&mut agent, GetStatusRequest::default()).await.unwrap_err().to_string();
        assert!(told.starts_with("the agent does not answer"), "{told}");
        // A call that may last for ever is ended by the connection's end.
        let ended = agent.watch_status(redwind_proto::v1::WatchStatusRequest::default()).await.unwrap_err();
        let told = refusal(&ended).to_string();
        assert!(told.starts_with("the agent does not answer"), "{ended:?}: {told}");
    }
}
