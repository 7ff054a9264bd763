//! How commands reach a running agent.

use std::time::Duration;

use anyhow::Context as _;
use redwind_proto::v1::agent_client::AgentClient;
use tonic::transport::{Channel, Endpoint};

use crate::exit::UsageError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub(crate) struct AgentAddressArgs {
    /// Address of the agent's gRPC interface (its option --grpc)
    #[arg(long, value_name = "ADDR", default_value = redwind_agent::config::GRPC_DEFAULT)]
    agent: String,

    /// The source, when the agent follows several
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
}

impl AgentAddressArgs {
    /// A connection to the agent.
    pub(crate) async fn connect(&self) -> anyhow::Result<AgentClient<Channel>> {
        let uri = if self.agent.contains("://") { self.agent.clone() } else { format!("http://{}", self.agent) };
        let endpoint = Endpoint::from_shared(uri)
            .map_err(|_| UsageError::new(format!("agent: {:?} is no address such as 127.0.0.1:7417", self.agent)))?;
        let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).connect().await;
        let hint = || format!("cannot reach an agent on {}; does one run there, with --grpc?", self.agent);
        Ok(AgentClient::new(channel.with_context(hint)?))
    }
}

/// An agent's refusal in its own words, without the wire's.
pub(crate) fn refusal(status: &tonic::Status) -> anyhow::Error {
    match status.message() {
        "" => anyhow::anyhow!("the agent answers: {}", status.code()),
        message => anyhow::anyhow!("the agent answers: {message}"),
    }
}
