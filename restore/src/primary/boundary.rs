//! Where between records a PING may be put into the stream.
//!
//! To know it at every byte would take scanning all of the stream. It is needed only when the archive
//! is slower than the replica by seconds, so what has passed is kept back to the last boundary that
//! a segment told, and scanned when somebody asks.

use bytes::Bytes;
use redwind_stream::Framer;

/// Bytes kept before they are scanned after all.
const KEPT_BYTES_MAX: usize = 8 << 20;

/// Follows a stream that begins between records.
pub(super) struct Boundary {
    /// Where the scan stands, before `kept`; `None` when the stream cannot be scanned.
    framer: Option<Framer>,
    kept: Vec<Bytes>,
    kept_bytes: usize,
}

impl Default for Boundary {
    fn default() -> Self {
        Self { framer: Some(Framer::new(None)), kept: Vec::new(), kept_bytes: 0 }
    }
}

impl Boundary {
    /// Takes note of bytes that were sent, and whether a record is known to begin with them.
    pub(super) fn passed(&mut self, bytes: &Bytes, begins_record: bool) {
        if begins_record {
            *self = Self::default();
        }
        self.kept.push(bytes.clone());
        self.kept_bytes += bytes.len();
        if self.kept_bytes > KEPT_BYTES_MAX {
            self.scan();
        }
    }

    /// Whether the stream stands between records now.
    pub(super) fn is_between_records(&mut self) -> bool {
        self.scan();
        self.framer.as_ref().is_some_and(|framer| framer.record_bytes() == 0)
    }

    fn scan(&mut self) {
        for bytes in self.kept.drain(..) {
            let sound = self.framer.as_mut().is_some_and(|framer| framer.push(&bytes, |_| ()).is_ok());
            if !sound {
                self.framer = None;
            }
        }
        self.kept_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redwind_stream::encode_command;

    #[test]
    fn a_boundary_is_known_after_whole_records_only() {
        let command = Bytes::from(encode_command(&[b"SET", b"key", b"value"]));
        let multi = Bytes::from(encode_command(&[b"MULTI"]));
        let mut boundary = Boundary::default();
        assert!(boundary.is_between_records());
        boundary.passed(&command.slice(..9), true);
        assert!(!boundary.is_between_records());
        boundary.passed(&command.slice(9..), false);
        assert!(boundary.is_between_records());
        boundary.passed(&multi, false);
        assert!(!boundary.is_between_records());
        boundary.passed(&command, true);
        assert!(boundary.is_between_records());
    }

    #[test]
    fn little_is_kept_however_long_a_record_is() {
        let mut boundary = Boundary::default();
        boundary.passed(&Bytes::from_static(b"*2\r\n$3\r\nGET\r\n$104857600\r\n"), true);
        for _ in 0..100 {
            boundary.passed(&Bytes::from(vec![b'x'; 1 << 20]), false);
            assert!(boundary.kept_bytes <= KEPT_BYTES_MAX);
        }
        boundary.passed(&Bytes::from_static(b"\r\n"), false);
        assert!(boundary.is_between_records());
    }
}
