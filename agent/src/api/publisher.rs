//! Publishes the state of a source whenever it changes, to whoever watches.

use std::sync::Arc;
use std::time::Duration;

use redwind_proto::v1::SourceStatus;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::status::{SourceView, Watches};

/// Least time between two looks: the watermarks move far more often under load.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Most time between two looks: lags grow, and bytes are received, without anybody telling.
const INTERVAL_MAX: Duration = Duration::from_secs(1);

/// The newest published state.
pub type StatusFeed = watch::Receiver<Arc<SourceStatus>>;

/// Looks at a source again and again.
#[derive(Debug)]
pub struct Publisher {
    view: Arc<SourceView>,
    feed: watch::Sender<Arc<SourceStatus>>,
}

impl Publisher {
    /// Publishes what `view` shows, once [run](Self::run).
    #[must_use]
    pub fn new(view: Arc<SourceView>) -> Self {
        let feed = watch::Sender::new(Arc::new(view.status()));
        Self { view, feed }
    }

    /// The published state, from now on.
    #[must_use]
    pub fn feed(&self) -> StatusFeed {
        self.feed.subscribe()
    }

    /// Publishes until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let mut parts = self.view.changing_watches();
        let mut watches = parts.borrow_and_update().clone();
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(INTERVAL_MIN) => {}
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = changed(&mut watches) => {}
                // The view, which has the other end, lives as long as this.
                _ = parts.changed() => watches = parts.borrow_and_update().clone(),
                () = tokio::time::sleep(INTERVAL_MAX - INTERVAL_MIN) => {}
            }
            let status = self.view.status();
            self.feed.send_if_modified(|published| {
                let news = **published != status;
                if news {
                    *published = Arc::new(status);
                }
                news
            });
        }
    }
}

/// Waits until any part publishes; for ever once one of them is gone.
async fn changed(watches: &mut Watches) {
    let changed = tokio::select! {
        changed = watches.link.changed() => changed,
        changed = watches.progress.changed() => changed,
        changed = watches.spool.changed() => changed,
        changed = watches.snapshots.changed() => changed,
    };
    if changed.is_err() {
        std::future::pending::<()>().await;
    }
}
