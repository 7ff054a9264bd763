//! The writer's signs of life, on a store whose answers come late or not at all.

use redwind_archive::documents::{HolderSign, HolderState, WatcherSign};
use redwind_archive::layout::{ObjectName, Sign};
use tokio::time::{Instant, sleep};

use super::faulty::Fault;
use super::*;
use crate::journal::IDLE_SEAL;

const SECOND: Duration = Duration::from_secs(1);

async fn watch(rig: &Rig) {
    let given = rig.clock.now();
    let sign = WatcherSign { watcher: Ulid(9), host: "other".to_owned(), pid: 1, given };
    rig.source().give_sign(Sign::Watcher, &sign).await.unwrap();
}

async fn sign(rig: &Rig) -> Option<HolderSign> {
    rig.source().find_document(&ObjectName::Sign(Sign::Holder)).await.unwrap()
}

/// Looks every second until `wanted` holds of the sign; tells how long that took.
async fn until(rig: &Rig, what: &str, wanted: impl Fn(Option<&HolderSign>) -> bool) -> Duration {
    let start = Instant::now();
    while !wanted(sign(rig).await.as_ref()) {
        assert!(start.elapsed() < 600 * SECOND, "waited in vain: {what}");
        sleep(SECOND).await;
    }
    start.elapsed()
}

fn is_watched(sign: Option<&HolderSign>) -> bool {
    sign.is_some_and(|sign| sign.state == HolderState::Watched)
}

#[tokio::test(start_paused = true)]
async fn an_idle_source_costs_at_most_one_request_a_minute() {
    let rig = Rig::new();
    let agent = unwatched(&rig).await;
    let (told, before) = (rig.clock.now(), rig.store.requests());
    for seal in 1..=48 {
        sleep(IDLE_SEAL).await;
        let segments = rig.store.puts("/log/").len();
        agent.sender.send(Entry::Seal { read_until: told.after(seal * IDLE_SEAL) }).await.unwrap();
        let stored = async {
            while rig.store.puts("/log/").len() == segments {
                tokio::task::yield_now().await;
            }
        };
        without_time(stored).await;
    }
    let requests = rig.store.requests() - before;
    assert!((48..=60).contains(&requests), "{requests} in an hour");
    agent.kill().await;
}

/// An agent that has written, and has seen that nobody watches.
async fn unwatched(rig: &Rig) -> Agent {
    let agent = rig.start().await;
    agent.begin(1).await;
    agent.feed(&stream(60, 1_000), 1_000, 1_000).await;
    without_time(agent.all_stored()).await;
    sleep(10 * SECOND).await;
    agent
}

#[tokio::test(start_paused = true)]
async fn looks_without_an_answer_do_not_hold_up_the_signs_of_a_watched_writer() {
    let rig = Rig::new();
    let agent = unwatched(&rig).await;
    watch(&rig).await;
    agent.journal.somebody_came();
    until(&rig, "armed", is_watched).await;
    rig.store.hang_heads();
    let mut last = sign(&rig).await;
    for _ in 0..12 {
        let gap = until(&rig, "the next sign", |sign| sign != last.as_ref()).await;
        assert!(gap < 8 * SECOND, "a watcher would take it for gone: {gap:?}");
        last = sign(&rig).await;
        assert!(is_watched(last.as_ref()));
    }
    rig.store.answer();
    agent.kill().await;
}

#[tokio::test(start_paused = true)]
async fn a_sign_that_failed_is_given_again_before_the_writer_is_taken_for_gone() {
    let rig = Rig::new();
    let agent = unwatched(&rig).await;
    rig.store.plan([Fault::Fail]);
    let silent = until(&rig, "a sign", |sign| sign.is_some()).await;
    assert!(silent + 10 * SECOND < 90 * SECOND, "{silent:?}");
    agent.kill().await;
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_whom_the_store_did_not_show_is_looked_for_again() {
    let rig = Rig::new();
    let agent = unwatched(&rig).await;
    watch(&rig).await;
    rig.store.hang_heads();
    agent.journal.somebody_came();
    sleep(20 * SECOND).await;
    rig.store.answer();
    let armed = until(&rig, "armed", is_watched).await;
    assert!(armed < 20 * SECOND, "{armed:?}");
    agent.kill().await;
}
