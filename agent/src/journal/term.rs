//! The tenure: an agent's claim to be the archive's only writer, and the proof that the store
//! honours it. Whose turn it is to claim is found out in `candidacy`.
//!
//! Everything rests on one object that only one writer can create: `term/<n>`. Whoever creates the
//! next one is the writer from then on; the one before finds out when, after a put, it looks whether
//! that object exists. So the store must refuse a put to a name that is taken, which is tried out with
//! every claim.

use std::sync::Arc;

use redwind_archive::catalog::find_marker;
use redwind_archive::document;
use redwind_archive::documents::{Marker, TermClaim};
use redwind_archive::keys::{Epoch, EpochId, Recipients};
use redwind_archive::layout::{ObjectName, SourceName};
use redwind_archive::position::Term;
use redwind_archive::store::{Put, SourceStore, StoreError};
use redwind_archive::time::{Clock, Timestamp};
use ulid::Ulid;

use super::error::JournalError;

const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// Who writes: stands in every segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The archive.
    pub(super) archive: Ulid,
    /// This run of this agent.
    pub(super) writer: Ulid,
    /// The term that it holds.
    pub(super) term: Term,
}

/// The tenure of this agent.
#[derive(Clone, Debug)]
pub(super) struct Tenure {
    store: SourceStore,
    /// Who writes.
    pub(super) identity: Identity,
    /// Under which key; `None` in an archive that is not encrypted, and before
    /// [`begin_epoch`](Self::begin_epoch).
    pub(super) epoch: Option<Arc<Epoch>>,
}

/// A new id, of the time that the agent's clock shows.
pub(super) fn new_id(clock: &Clock) -> Ulid {
    Ulid::from_parts(clock.now().0 / 1000, Ulid::generate().random())
}

/// Reads the archive's marker, or makes the archive. Whether it is encrypted was settled then.
pub(super) async fn open_archive(store: &SourceStore, clock: &Clock, encrypted: bool) -> Result<Marker, JournalError> {
    let marker = match find_marker(store).await? {
        Some(marker) => marker,
        None => make_archive(store, clock, encrypted).await?,
    };
    if marker.source != *store.name() {
        let wanted: SourceName = store.name().clone();
        return Err(JournalError::OtherSource { place: store.to_string(), found: marker.source, wanted });
    }
    match (marker.encrypted, encrypted) {
        (true, false) => Err(JournalError::Encrypted { place: store.to_string() }),
        (false, true) => Err(JournalError::NotEncrypted { place: store.to_string() }),
        _ => Ok(marker),
    }
}

async fn make_archive(store: &SourceStore, clock: &Clock, encrypted: bool) -> Result<Marker, StoreError> {
    let marker = Marker {
        archive: new_id(clock),
        source: store.name().clone(),
        created: clock.now(),
        encrypted,
        redwind: RELEASE.to_owned(),
    };
    match store.put_document(&ObjectName::Marker, &marker).await? {
        Put::Stored => Ok(marker),
        // Another agent has just made it.
        Put::Taken(_) => store.get_document(&ObjectName::Marker).await,
    }
}

/// What came of claiming a term.
#[derive(Debug)]
pub(super) enum Claim {
    /// It is ours.
    Won(Tenure),
    /// Another agent has it.
    Lost(Box<TermClaim>),
}

impl Tenure {
    /// Claims the term after `newest`, and proves that the store would not have given it to a second
    /// writer. `spool` names the claimant's spool.
    pub(super) async fn claim(
        store: SourceStore,
        archive: Ulid,
        spool: Ulid,
        newest: Term,
        clock: &Clock,
    ) -> Result<Claim, JournalError> {
        let claim = TermClaim {
            term: newest.next(),
            writer: new_id(clock),
            host: host(),
            pid: std::process::id(),
            claimed: clock.now(),
            redwind: RELEASE.to_owned(),
            spool: Some(spool),
        };
        match store.put_document(&ObjectName::Term(claim.term), &claim).await? {
            Put::Stored => {
                prove_conditional(&store, &claim).await?;
                let identity = Identity { archive, writer: claim.writer, term: claim.term };
                Ok(Claim::Won(Self { store, identity, epoch: None }))
            }
            Put::Taken(found) => {
                let theirs = document::decode(&found).unwrap_or_else(|_| unreadable(claim.term));
                Ok(Claim::Lost(Box::new(theirs)))
            }
        }
    }

    /// Begins to encrypt to these recipients, if there are any: makes a data key and puts it, wrapped, in
    /// the store before anything is written with it.
    pub(super) async fn begin_epoch(&mut self, recipients: &Recipients) -> Result<(), JournalError> {
        if recipients.is_empty() {
            return Ok(());
        }
        let Identity { archive, writer, .. } = self.identity;
        let epoch = Epoch::generate(EpochId(writer), archive);
        let (name, object) = epoch.wrap(recipients).map_err(JournalError::Key)?;
        let name = ObjectName::Key(name);
        match self.store.put_new(&name, object.into()).await? {
            Put::Stored => self.epoch = Some(Arc::new(epoch)),
            Put::Taken(_) => return Err(JournalError::Conflict { object: self.store.describe(&name) }),
        }
        Ok(())
    }

    /// The claim that ended this tenure, if there is one.
    ///
    /// # Errors
    /// When the store cannot tell.
    pub(super) async fn successor(&self) -> Result<Option<TermClaim>, StoreError> {
        let next = ObjectName::Term(self.identity.term.next());
        if !self.store.exists(&next).await? {
            return Ok(None);
        }
        match self.store.find_document(&next).await {
            // Whoever it is, the tenure has ended.
            Err(error) if error.is_damage() => Ok(Some(unreadable(self.identity.term.next()))),
            found => found,
        }
    }
}

/// What stands for a claim that cannot be read: the term is taken all the same.
pub(super) fn unreadable(term: Term) -> TermClaim {
    TermClaim {
        term,
        writer: Ulid::nil(),
        host: "an unknown host (its claim is damaged or lost)".to_owned(),
        pid: 0,
        claimed: Timestamp::default(),
        redwind: String::new(),
        spool: None,
    }
}

/// This machine, as claims, signs and the status name it.
#[must_use]
pub fn host() -> String {
    hostname::get().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Puts something else under the claim's name, which must be refused and must leave the claim.
async fn prove_conditional(store: &SourceStore, claim: &TermClaim) -> Result<(), JournalError> {
    let name = ObjectName::Term(claim.term);
    let rival = TermClaim { writer: Ulid::nil(), ..claim.clone() };
    let unfit = || JournalError::Unfit { object: store.describe(&name) };
    match store.put_document(&name, &rival).await? {
        Put::Taken(found) if found == document::encode(claim) => Ok(()),
        Put::Taken(_) | Put::Stored => Err(unfit()),
    }
}
