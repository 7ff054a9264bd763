//! Entering a restore into the archive's audit log.

use redwind_archive::audit::{self, AuditEntry, AuditEvent, Destination};
use redwind_archive::plan::RestorePlan;
use redwind_archive::position::Position;
use redwind_archive::store::SourceStore;
use ulid::Ulid;

/// What every entry of this restore says.
pub(super) struct AuditLog {
    store: SourceStore,
    archive: Ulid,
    target: String,
    position: Position,
}

impl AuditLog {
    /// The log of the archive that `plan` restores from.
    pub(super) fn new(store: SourceStore, plan: &RestorePlan, target: &str) -> Self {
        let position = Position { history: plan.history.history, offset: plan.cut.offset };
        Self { store, archive: plan.snapshot.archive, target: target.to_owned(), position }
    }

    /// Writes down that the restore begins, before anything of it reaches its destination.
    ///
    /// Goes on without: whoever may only read must be able to restore, and could as well read the
    /// objects with any other program. What must not be missed is what the store's own access log says.
    pub(super) async fn enter(&self, destination: Destination, place: String) {
        let (target, position) = (self.target.clone(), self.position);
        let event = AuditEvent::Restore { target, position, destination, place };
        if let Err(error) = audit::put(&self.store, &AuditEntry::now(self.archive, event)).await {
            let error = crate::exit::describe(&error.into());
            tracing::warn!("this restore is not in the archive's audit log: {error}");
        }
    }
}
