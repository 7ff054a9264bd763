//! The progress bar of a restore.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use redwind_restore::{Progress, Recording};

const REDRAW: Duration = Duration::from_millis(100);
const STYLE: &str = "{prefix:>9} [{bar:30}] {bytes:>11} of {total_bytes:<11} {bytes_per_sec:>13} {eta:>4} left";

/// Does `work` and shows on a terminal how far it has come.
pub(super) async fn while_shown<T>(progress: &Progress, recording: &Recording, work: impl Future<Output = T>) -> T {
    let style = ProgressStyle::with_template(STYLE).expect("the template is constant");
    let total = recording.rdb_bytes() + recording.stream_bytes();
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_style(style);
    let mut tick = tokio::time::interval(REDRAW);
    let mut work = pin!(work);
    let outcome = loop {
        tokio::select! {
            outcome = &mut work => break outcome,
            _ = tick.tick() => {
                bar.set_prefix(stage(progress, recording));
                bar.set_position(total.min(progress.rdb_bytes() + progress.stream_bytes()));
            }
        }
    };
    bar.finish_and_clear();
    outcome
}

fn stage(progress: &Progress, recording: &Recording) -> &'static str {
    match (progress.rdb_bytes(), progress.stream_bytes()) {
        (0, 0) => "waiting",
        _ if progress.is_all(recording) => "finishing",
        (rdb, _) if rdb < recording.rdb_bytes() => "snapshot",
        _ => "stream",
    }
}
