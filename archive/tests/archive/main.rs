//! Archives as writers leave them, and what readers make of them: plans, summaries, verification.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what a test prints is shown when it fails")]

mod damage;
mod decoder;
mod encryption;
mod histories;
mod holes;
mod listing;
mod offsets;
mod promise;
mod requests;
mod times;

use redwind_archive::catalog::{Catalog, Summary};
use redwind_archive::documents::Cause;
use redwind_archive::keys::{Identities, Recipients};
use redwind_archive::plan::{Choice, PlanError, Refusal, RestorePlan, Target, plan};
use redwind_archive::position::{HistoryId, Offset, Position};
use redwind_archive::testing::{Objects, Writer, at};

/// A writer at the beginning of its first history, at offset 100, with a snapshot there.
fn started() -> (Writer, HistoryId) {
    started_for(&Recipients::default())
}

/// The same, encrypted to these recipients.
fn started_for(recipients: &Recipients) -> (Writer, HistoryId) {
    let mut writer = Writer::create_for(1, recipients);
    let history = writer.begin_history(100, at(0.0), Cause::First);
    writer.snapshot(at(0.0));
    (writer, history)
}

async fn planned(objects: &Objects, target: Target) -> Result<RestorePlan, PlanError> {
    planned_in(objects, target, None).await
}

async fn planned_in(objects: &Objects, target: Target, history: Option<HistoryId>) -> Result<RestorePlan, PlanError> {
    planned_as(objects, &Identities::none(), target, history).await
}

async fn planned_as(
    objects: &Objects,
    identities: &Identities,
    target: Target,
    history: Option<HistoryId>,
) -> Result<RestorePlan, PlanError> {
    let store = objects.store().await.unwrap();
    let catalog = Catalog::open(&store, identities).await.unwrap();
    plan(&store, &catalog, target, Choice { history, snapshot: None }).await
}

async fn summary(objects: &Objects) -> Summary {
    let store = objects.store().await.unwrap();
    Catalog::open(&store, &Identities::none()).await.unwrap().summary(&store).await.unwrap()
}

fn time(seconds: f64) -> Target {
    Target::Time(at(seconds))
}

fn offset(offset: Offset) -> Target {
    Target::Offset { history: None, offset }
}

fn position(history: HistoryId, offset: Offset) -> Position {
    Position { history, offset }
}

fn refusal(result: Result<RestorePlan, PlanError>) -> Refusal {
    match result {
        Err(PlanError::Refused { why, .. }) => why,
        other => panic!("not refused: {other:?}"),
    }
}

/// Asserts that a plan's segments hold every byte from its snapshot to its cut.
fn assert_unbroken(plan: &RestorePlan) {
    let mut reached = plan.snapshot.position.offset;
    for segment in &plan.segments {
        assert!(segment.name.start <= reached, "{} leaves bytes out", segment.name);
        reached = reached.max(segment.name.end);
    }
    assert!(reached >= plan.cut.offset, "the segments end at {reached}, before the cut at {}", plan.cut.offset);
}

/// Whoever restores and lists does so in tasks that move between threads.
#[tokio::test]
async fn plans_and_summaries_can_be_made_in_a_task() {
    let store = started().0.objects.store().await.unwrap();
    let task = tokio::spawn(async move {
        let catalog = Catalog::open(&store, &Identities::none()).await.unwrap();
        plan(&store, &catalog, Target::Latest, Choice::default()).await.unwrap();
        redwind_archive::verify::verify(&store, &Identities::none(), |_| {}).await.unwrap();
        catalog.summary(&store).await.unwrap().windows.len()
    });
    assert_eq!(task.await.unwrap(), 1);
}
