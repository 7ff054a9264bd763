//! What a running agent says is durable, asked before the archive is looked at.

use std::collections::BTreeMap;

use anyhow::Context as _;
use redwind_archive::documents::Marker;
use redwind_archive::layout::{ManifestName, ObjectName};
use redwind_archive::position::{HistoryId, Offset, Position, Term};
use redwind_archive::store::SourceStore;
use redwind_archive::time::Timestamp;
use redwind_archive::verify::{Promise, Report};
use redwind_proto::v1::{GetStatusRequest, Snapshot, SourceState, SourceStatus};
use ulid::Ulid;

use crate::agent_address::{self, IdentityArgs};
use crate::exit::UsageError;

/// The promises by the name of the source.
#[derive(Default)]
pub(super) struct Promises(BTreeMap<String, Promise>);

impl Promises {
    /// Asks the agent at `address`, which must write one of the archives in `stores`.
    pub(super) async fn ask(address: &str, identity: &IdentityArgs, stores: &[SourceStore]) -> anyhow::Result<Self> {
        let mut agent = identity.connect(address).await?;
        let answer = agent_address::status(&mut agent, GetStatusRequest::default()).await?;
        let mut promises = BTreeMap::new();
        for status in answer.sources {
            let Some(store) = stores.iter().find(|store| store.name().to_string() == status.name) else { continue };
            same_archive(store, &status, address).await?;
            is_writer(&status, address)?;
            let promise = promise(&status).with_context(|| format!("cannot read what the agent at {address} says"))?;
            promises.insert(status.name, promise);
        }
        if promises.is_empty() {
            let names: Vec<String> = stores.iter().map(|store| store.name().to_string()).collect();
            let other =
                format!("agent: the one at {address} does not write any of these archives: {}", names.join(", "));
            return Err(UsageError::new(other).into());
        }
        Ok(Self(promises))
    }

    /// Adds to `report` what the archive does not hold of what was promised of it.
    pub(super) async fn check(&self, store: &SourceStore, report: &mut Report) -> anyhow::Result<()> {
        match self.0.get(&store.name().to_string()) {
            Some(promise) => Ok(promise.check(store, report).await?),
            None => Ok(()),
        }
    }
}

/// Refuses an agent that writes another archive of the same name. Where the archive cannot tell which it
/// is, `verify` says so.
async fn same_archive(store: &SourceStore, status: &SourceStatus, address: &str) -> anyhow::Result<()> {
    let marker: Marker = match store.get_document(&ObjectName::Marker).await {
        Ok(marker) => marker,
        Err(error) if error.is_damage() || error.is_absent() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if marker.archive.to_string() == status.archive {
        return Ok(());
    }
    let other = format!(
        "agent: the one at {address} writes archive {}, and {store} is archive {}: choose the other agent or store",
        status.archive, marker.archive
    );
    Err(UsageError::new(other).into())
}

/// Refuses an agent that has written nothing of the archive yet: what it says would be held by any archive.
fn is_writer(status: &SourceStatus, address: &str) -> Result<(), UsageError> {
    if status.term > 0 {
        return Ok(());
    }
    let (does, ask) = match status.state() {
        SourceState::Standby => ("stands by", "ask the agent that writes"),
        _ => ("has not begun to write", "ask again when it has"),
    };
    let reason = if status.reason.is_empty() { String::new() } else { format!(" ({})", status.reason) };
    Err(UsageError::new(format!("agent: the one at {address} {does}{reason} and promises nothing: {ask}")))
}

fn promise(status: &SourceStatus) -> anyhow::Result<Promise> {
    let durable = match status.durable {
        Some(mark) => Some(Position { history: status.history.parse()?, offset: Offset(mark.offset) }),
        None => None,
    };
    let snapshot = status.last_snapshot.as_ref().map(manifest).transpose()?;
    Ok(Promise { term: Term(status.term), durable, snapshot })
}

fn manifest(snapshot: &Snapshot) -> anyhow::Result<ManifestName> {
    let position = snapshot.position.as_ref().context("the snapshot has no position")?;
    let time = snapshot.taken_at.context("the snapshot has no time")?;
    let time = Timestamp::try_from(jiff::Timestamp::new(time.seconds, time.nanos)?)?;
    let history: HistoryId = position.history.parse()?;
    Ok(ManifestName { history, offset: Offset(position.offset), time, snapshot: Ulid::from_string(&snapshot.id)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use redwind_proto::v1::{Position as PositionMessage, Watermark};

    #[test]
    fn what_an_agent_says_is_read_to_the_microsecond() {
        let history = Ulid(7).to_string();
        let snapshot = Snapshot {
            id: Ulid(9).to_string(),
            position: Some(PositionMessage { history: history.clone(), offset: 40 }),
            taken_at: Some(prost_types::Timestamp { seconds: 1_763_733_787, nanos: 250_001_000 }),
            ..Snapshot::default()
        };
        let status = SourceStatus {
            history: history.clone(),
            term: 3,
            durable: Some(Watermark { offset: 50, reached_at: None }),
            last_snapshot: Some(snapshot),
            ..SourceStatus::default()
        };
        let promise = promise(&status).unwrap();
        assert_eq!((promise.term, promise.durable.unwrap().to_string()), (Term(3), format!("{history}:50")));
        let name = format!("{history}-0000000000000000040-1763733787250001-{}", Ulid(9));
        assert_eq!(promise.snapshot.unwrap().to_string(), name);
        assert!(super::promise(&SourceStatus { history: "nonsense".into(), ..status }).is_err());
    }

    #[test]
    fn an_agent_that_does_not_write_is_no_witness() {
        let reason = "process 7 on db1 writes the archive".to_owned();
        let standby = SourceStatus { state: SourceState::Standby.into(), reason, ..SourceStatus::default() };
        let refused = is_writer(&standby, "db2:7417").unwrap_err().to_string();
        assert!(refused.starts_with("agent: the one at db2:7417 stands by (process 7 on db1 "), "{refused}");
        let starting = SourceStatus { state: SourceState::Connecting.into(), ..SourceStatus::default() };
        assert!(is_writer(&starting, "db2:7417").unwrap_err().to_string().contains("has not begun to write"));
        assert!(is_writer(&SourceStatus { term: 1, ..starting }, "db2:7417").is_ok());
    }
}
