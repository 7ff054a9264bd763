//! `redwind status`: a running agent's health and lag, over gRPC.

pub(super) mod json;
mod view;

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use redwind_proto::v1::{AgentInfo, GetStatusRequest, SourceStatus, WatchStatusRequest};

use crate::agent_address::{self, AgentAddressArgs, refusal};
use crate::exit::Status;
use crate::quantity::Interval;

const CLEAR_SCREEN: &str = "\x1b[H\x1b[J";

/// Show a running agent's health and how far behind it is
#[derive(clap::Args)]
pub(crate) struct StatusArgs {
    /// Keep showing it as it changes, until interrupted
    #[arg(long)]
    watch: bool,

    /// Least time between two updates of --watch
    #[arg(long, value_name = "DURATION", default_value_t = Interval(Duration::from_secs(1)))]
    interval: Interval,

    /// Print JSON, with --watch one object a line: offsets and sizes in bytes, spans in seconds,
    /// instants as RFC 3339; null is `not known` or `none`, never zero
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    agent: AgentAddressArgs,
}

pub(crate) async fn run(args: StatusArgs) -> anyhow::Result<Status> {
    let mut agent = args.agent.connect().await?;
    let source = args.agent.name.clone();
    if !args.watch {
        let answer = agent_address::status(&mut agent, GetStatusRequest { source }).await?;
        return args.show(&answer.agent.unwrap_or_default(), &answer.sources);
    }
    let min_interval = prost_types::Duration::try_from(args.interval.0).ok();
    let request = WatchStatusRequest { source, min_interval };
    let mut updates = agent.watch_status(request).await.map_err(|status| refusal(&status))?.into_inner();
    while let Some(update) = updates.message().await.map_err(|status| refusal(&status))? {
        args.show(&update.agent.unwrap_or_default(), &update.sources)?;
    }
    Ok(Status::Done)
}

impl StatusArgs {
    fn show(&self, agent: &AgentInfo, sources: &[SourceStatus]) -> anyhow::Result<Status> {
        let mut out = std::io::stdout().lock();
        if self.json {
            let document = json::document(agent, sources);
            let text = if self.watch { document.to_string() } else { serde_json::to_string_pretty(&document)? };
            writeln!(out, "{text}")?;
        } else {
            let clear = if self.watch && out.is_terminal() { CLEAR_SCREEN } else { "" };
            writeln!(out, "{clear}{}", view::text(agent, sources, jiff::Timestamp::now())?)?;
        }
        out.flush()?;
        Ok(Status::Done)
    }
}
