//! Running several requests at once, within a bound.

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt, TryStreamExt};

/// Requests of one kind that are under way at once.
const AT_ONCE: usize = 16;

/// The results of all, in their order; ends at the first failure.
///
/// Takes the futures ready-made and boxed: whoever awaits a stream that makes them from references
/// cannot be a task that moves between threads ("`Send` is not general enough").
pub(crate) async fn all<T, E>(futures: Vec<BoxFuture<'_, Result<T, E>>>) -> Result<Vec<T>, E> {
    stream::iter(futures).buffered(AT_ONCE).try_collect().await
}
