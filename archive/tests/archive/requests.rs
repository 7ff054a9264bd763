//! What opening an archive and planning in it costs a bucket.

use redwind_archive::catalog::Catalog;
use redwind_archive::keys::Identities;
use redwind_archive::plan::{Choice, Target, plan};
use redwind_archive::testing::synthetic::SyntheticArchive;

const DAY: u64 = 86_400;

#[tokio::test]
async fn a_plan_in_a_month_of_seconds_takes_a_hundred_requests() {
    let archive = SyntheticArchive::new(30 * DAY, DAY).await.unwrap();
    let store = archive.source();
    // The worst case lies just before a snapshot: a whole day of the log is named.
    let second = 17 * DAY - 2;
    let time = SyntheticArchive::arrival(second);
    for target in [
        Target::Time(time),
        Target::Time(time.after(std::time::Duration::from_millis(900))),
        Target::Offset { history: None, offset: archive.offset(second) },
        Target::Offset { history: None, offset: archive.offset(second).advance(5) },
        Target::Latest,
    ] {
        let before = archive.requests();
        let catalog = Catalog::open(&store, &Identities::none()).await.unwrap();
        let plan = plan(&store, &catalog, target, Choice::default()).await.unwrap();
        let requests = archive.requests() - before;
        assert!(plan.segments.len() > 86_000, "{} segments", plan.segments.len());
        assert!(requests <= 100, "{requests} requests for {target:?}");
        println!("{requests} requests for {target:?}");
    }
}

#[tokio::test]
async fn a_summary_of_a_month_takes_a_read_per_snapshot_and_some_listings() {
    let archive = SyntheticArchive::new(30 * DAY, DAY).await.unwrap();
    let store = archive.source();
    let summary = Catalog::open(&store, &Identities::none()).await.unwrap().summary(&store).await.unwrap();
    assert_eq!((summary.windows.len(), summary.snapshots.len()), (1, 30));
    assert!(summary.pages_not_looked_into > 2_000);
    assert!(archive.requests() <= 77, "{} requests", archive.requests());
}
