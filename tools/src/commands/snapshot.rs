//! `redwind snapshot`: asks a running agent for a snapshot now, over gRPC.

use std::io::Write as _;

use anyhow::Context as _;
use redwind_proto::v1::take_snapshot_response::State;
use redwind_proto::v1::{Snapshot, SnapshotProgress, TakeSnapshotRequest};

use super::status::json;
use crate::agent_address::{AgentAddressArgs, refusal};
use crate::exit::Status;
use crate::screen::{bytes, spinner};

/// Ask a running agent for a snapshot now
///
/// Waits until it is complete. It costs the server a fork, and an agent with tokens wants an operator's.
#[derive(clap::Args)]
pub(crate) struct SnapshotArgs {
    /// Print the complete snapshot as JSON, as `redwind status --json` shows it
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    agent: AgentAddressArgs,
}

pub(crate) async fn run(args: SnapshotArgs) -> anyhow::Result<Status> {
    let mut agent = args.agent.connect().await?;
    let request = TakeSnapshotRequest { source: args.agent.name.clone().unwrap_or_default() };
    let mut answers = agent.take_snapshot(request).await.map_err(|status| refusal(&status))?.into_inner();
    let line = spinner("snapshot");
    while let Some(answer) = answers.message().await.map_err(|status| refusal(&status))? {
        match answer.state {
            Some(State::Progress(progress)) => line.set_message(describe(&progress)),
            Some(State::Snapshot(snapshot)) => {
                line.finish_and_clear();
                return args.show(&snapshot);
            }
            None => {}
        }
    }
    anyhow::bail!("the agent ended its answer without a snapshot; it may have been stopped")
}

fn describe(progress: &SnapshotProgress) -> String {
    let total = progress.total_bytes.map_or_else(String::new, |total| format!(" of {}", bytes(total)));
    format!("{}{total} received, {} stored", bytes(progress.received_bytes), bytes(progress.stored_bytes))
}

impl SnapshotArgs {
    fn show(&self, snapshot: &Snapshot) -> anyhow::Result<Status> {
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&json::snapshot(snapshot))?)?;
        } else {
            let position = snapshot.position.as_ref().context("the agent told no position")?;
            writeln!(
                out,
                "snapshot {} at offset {} of history {}: {} of RDB, {} stored",
                snapshot.id,
                position.offset,
                position.history,
                bytes(snapshot.rdb_bytes),
                bytes(snapshot.stored_bytes)
            )?;
        }
        Ok(Status::Done)
    }
}
