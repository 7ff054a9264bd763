//! Asking the store until it answers.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redwind_archive::layout::SourceName;
use redwind_archive::store::StoreError;
use redwind_archive::time::{Clock, Timestamp};

use super::progress::Board;
use crate::error::describe;

const BACKOFF_MIN: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 100 });
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Repeats requests to the store, for ever, with growing pauses: also those that it refuses, because
/// a permission may come back, and the spool has room meanwhile. Says once when the store begins to fail,
/// and once when it answers again.
#[derive(Debug)]
pub(super) struct Persistence {
    board: Arc<Board>,
    clock: Arc<Clock>,
    source: SourceName,
    failing_since: Mutex<Option<Timestamp>>,
}

impl Persistence {
    pub(super) fn new(board: Arc<Board>, clock: Arc<Clock>, source: SourceName) -> Self {
        Self { board, clock, source, failing_since: Mutex::new(None) }
    }

    /// Makes a request until it succeeds. Drop the future to give up.
    pub(super) async fn until_answered<T, F>(&self, mut request: impl FnMut() -> F) -> T
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut pause = BACKOFF_MIN;
        loop {
            match request().await {
                Ok(answer) => {
                    self.answered();
                    return answer;
                }
                Err(error) => self.failed(&error),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }

    fn failed(&self, error: &StoreError) {
        metrics::counter!("redwind_store_retries_total", "source" => self.source.to_string()).increment(1);
        let text = describe(error);
        let mut failing_since = self.failing_since.lock().unwrap_or_else(PoisonError::into_inner);
        if failing_since.is_none() {
            tracing::warn!(source = %self.source, error = %text, "the store fails; the spool takes what comes meanwhile");
        }
        let since = *failing_since.get_or_insert_with(|| self.clock.now());
        self.board.store_failing(since, text.into());
    }

    fn answered(&self) {
        let mut failing_since = self.failing_since.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = failing_since.take() {
            tracing::info!(source = %self.source, after = ?self.clock.now().since(since), "the store answers again");
            self.board.store_answers();
        }
    }
}
