//! Memory that is used again.
//!
//! A restore decompresses as fast as memory takes it, and the first touch of memory that is fresh from
//! the system costs nearly as much as the decompressing itself. So buffers, those of objects as they are
//! stored and those of what they hold, come back when the last of their bytes is dropped.
//!
//! Objects are decoded into them one at a time: that is several times faster than any server takes the
//! result in, so that a second thread would make no restore shorter. It would take the core from the
//! writer, and share one's caches where cores are only threads.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::FetchError;

/// Buffers kept for the next objects: two as they are stored and two decoded. In between they count towards
/// nobody's budget.
const IDLE_MAX: usize = 4;

/// The buffers of one reader.
#[derive(Clone, Debug)]
pub(super) struct Buffers {
    idle: Arc<Mutex<Vec<Vec<u8>>>>,
    decoding: Arc<Semaphore>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { idle: Arc::default(), decoding: Arc::new(Semaphore::new(1)) }
    }
}

impl Buffers {
    /// Does the work of decoding an object on a thread for such, when the one before is done.
    pub(super) async fn decode<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, FetchError> {
        let turn = Arc::clone(&self.decoding).acquire_owned().await;
        let work = move || {
            let _turn = turn;
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(FetchError::Task)
    }

    /// An empty buffer for so many bytes, and for not many more, so that what a piece keeps alive is
    /// about what it has been counted with.
    pub(super) fn take(&self, bytes: usize) -> Vec<u8> {
        let fits = |buffer: &Vec<u8>| (bytes..=bytes.saturating_mul(2)).contains(&buffer.capacity());
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let found = idle.iter().rposition(fits).map(|at| idle.remove(at));
        drop(idle);
        found.unwrap_or_else(|| Vec::with_capacity(bytes))
    }

    /// The buffer's bytes; it comes back with the last of them.
    pub(super) fn lend(&self, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { buffer, buffers: self.clone() })
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(buffer);
        // The oldest is of a size that nobody has asked for since.
        let surplus = if idle.len() > IDLE_MAX { Some(idle.remove(0)) } else { None };
        drop(idle);
        drop(surplus);
    }
}

struct Lent {
    buffer: Vec<u8>,
    buffers: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.buffers.give_back(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(buffers: &Buffers, bytes: usize) -> Bytes {
        let mut buffer = buffers.take(bytes);
        buffer.resize(bytes, 7);
        buffers.lend(buffer)
    }

    #[test]
    fn a_buffer_comes_back_with_the_last_of_its_bytes() {
        let buffers = Buffers::default();
        let bytes = filled(&buffers, 1000);
        let place = bytes.as_ptr();
        let slice = bytes.slice(10..20);
        drop(bytes);
        assert!(buffers.idle.lock().unwrap().is_empty());
        assert_eq!(&slice[..], &[7; 10]);
        drop(slice);
        assert_eq!(filled(&buffers, 900).as_ptr(), place);
    }

    #[test]
    fn a_small_object_does_not_take_a_large_buffer() {
        let buffers = Buffers::default();
        drop(filled(&buffers, 1000));
        assert!(buffers.take(400).capacity() < 1000);
        assert_eq!(buffers.idle.lock().unwrap().len(), 1);
    }

    #[test]
    fn few_buffers_are_kept() {
        let buffers = Buffers::default();
        let lent: Vec<Bytes> = (0..10).map(|_| filled(&buffers, 1000)).collect();
        drop(lent);
        assert_eq!(buffers.idle.lock().unwrap().len(), IDLE_MAX);
    }
}
