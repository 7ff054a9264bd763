//! A month at a segment a second: what opening its catalog and planning a restore take.
//!
//! The archive is synthetic and in memory, so the times are those of the reader alone; the requests
//! are what a bucket would have been sent, a listing counting once per thousand names.

use std::time::Instant;

use anyhow::Result;
use redwind_archive::catalog::Catalog;
use redwind_archive::keys::Identities;
use redwind_archive::plan::{self, Target};
use redwind_archive::testing::synthetic::SyntheticArchive;

use crate::lab::Lab;
use crate::report::{Limit, Section, progress, spread};

const DAY: u64 = 86_400;
const DAYS: u64 = 30;

/// Runs the scenario. Its size is that of a month, whatever `--size` says.
///
/// # Errors
/// When the archive cannot be opened or planned over.
pub fn run(lab: &Lab) -> Result<Section> {
    progress("opening a month and planning a restore of its middle");
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let (mut requests, mut seconds) = (Vec::new(), Vec::new());
    let mut segments = 0;
    for _ in 0..lab.options().rounds {
        let archive = runtime.block_on(SyntheticArchive::new(DAYS * DAY, DAY))?;
        let store = archive.source();
        // The worst case lies just before a snapshot: a whole day of the log is named.
        let target = Target::Time(SyntheticArchive::arrival(DAYS / 2 * DAY - 2));
        let (started, before) = (Instant::now(), archive.requests());
        let plan = runtime.block_on(async {
            let catalog = Catalog::open(&store, &Identities::none()).await?;
            anyhow::Ok(plan::plan(&store, &catalog, target, plan::Choice::default()).await?)
        })?;
        seconds.push(started.elapsed().as_secs_f64());
        requests.push((archive.requests() - before) as f64);
        segments = plan.segments.len();
    }
    let title = format!("planning: {DAYS} days, a segment a second, a snapshot a day");
    let mut section = Section::new(title, &["step", "s", "store requests", "segments in the plan"]);
    section.row(vec![
        "open the catalog and plan".to_owned(),
        spread(&seconds),
        spread(&requests),
        segments.to_string(),
    ]);
    section.bound("store requests", requests, Limit::AtMost(100.0));
    section.bound("seconds without the store's own", seconds, Limit::AtMost(2.0));
    Ok(section)
}
