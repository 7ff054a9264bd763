//! Whose turn it is to write: what a newcomer concludes from signs of life.

use redwind_archive::documents::{HolderSign, HolderState};
use redwind_archive::layout::{ObjectName, Sign};
use tokio::sync::Notify;

use super::*;
use crate::config::Succession;

/// A writer's word of itself, as it lies in the store.
async fn give(rig: &Rig, count: u64, state: HolderState) {
    let sign = HolderSign { term: Term(1), writer: Ulid(1), count, given: rig.clock.now(), state };
    rig.source().give_sign(Sign::Holder, &sign).await.unwrap();
}

/// A source that was away for long: meanwhile the writer has come back.
#[tokio::test(start_paused = true)]
async fn a_turn_that_was_granted_long_ago_is_no_leave_to_claim() {
    let rig = Rig::new();
    rig.start().await.kill().await;
    give(&rig, 1, HolderState::Stopped).await;
    let spool = tempfile::tempdir().unwrap();
    let newcomer = Candidacy::open_with(rig.source(), rig.settings(&spool), Arc::clone(&rig.clock)).await.unwrap();
    let (mut looks, stood_by) = (0, Notify::new());
    let fit = async || {
        looks += 1;
        if looks == 2 {
            give(&rig, 2, HolderState::Writing).await;
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        Ok::<_, JournalError>(())
    };
    let waiting = newcomer.win(Succession::StandBy, fit, |_| stood_by.notify_one());
    tokio::select! {
        won = waiting => panic!("claimed from a writer that lives: {:?}", won.map(drop)),
        () = stood_by.notified() => {}
    }
    assert!(!rig.source().exists(&ObjectName::Term(Term(2))).await.unwrap());
}
