//! Running several requests at once, within a bound.

use std::future::Future;

use futures::stream::{self, StreamExt, TryStreamExt};

/// Requests of one kind that are under way at once.
const AT_ONCE: usize = 16;

/// The results of all, in their order; ends at the first failure.
///
/// Takes the futures ready-made: a stream that makes them from references could not be awaited in a
/// task that moves between threads ("`Send` is not general enough").
pub(crate) async fn all<F, T, E>(futures: Vec<F>) -> Result<Vec<T>, E>
where
    F: Future<Output = Result<T, E>>,
{
    stream::iter(futures).buffered(AT_ONCE).try_collect().await
}
