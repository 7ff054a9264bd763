//! Taking in an object's bytes.

use std::fs::File;
use std::io::Read;

use futures::TryStreamExt;
use object_store::{Error, GetResult, GetResultPayload, Result};

/// All bytes of what was found, in a buffer that `take` gives for so many.
///
/// The buffer is the reader's because a fresh one costs more than reading into it: the system clears the
/// pages of memory that is new.
pub(super) async fn read(found: GetResult, take: impl FnOnce(usize) -> Vec<u8>) -> Result<Vec<u8>> {
    let length = found.meta.size as usize;
    let mut body = take(length);
    match found.payload {
        GetResultPayload::File(file, path) => {
            let reading = move || read_file(file, length, body);
            let read = tokio::task::spawn_blocking(reading).await.map_err(|source| Error::JoinError { source })?;
            read.map_err(|error| generic(format!("cannot read {}: {error}", path.display())))
        }
        GetResultPayload::Stream(mut pieces) => {
            while let Some(piece) = pieces.try_next().await? {
                if piece.len() > length - body.len() {
                    return Err(generic(format!("more than the {length} bytes that were announced")));
                }
                body.extend_from_slice(&piece);
            }
            if body.len() < length {
                return Err(generic(format!("only {} of the {length} bytes that were announced", body.len())));
            }
            Ok(body)
        }
    }
}

fn read_file(mut file: File, length: usize, mut body: Vec<u8>) -> std::io::Result<Vec<u8>> {
    body.resize(length, 0);
    file.read_exact(&mut body)?;
    Ok(body)
}

fn generic(problem: String) -> Error {
    Error::Generic { store: "body", source: problem.into() }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::StreamExt;
    use object_store::{ObjectMeta, path::Path};

    use super::*;

    /// An answer that announces so many bytes and brings these.
    fn answer(announced: u64, pieces: &'static [&'static [u8]]) -> GetResult {
        let pieces = futures::stream::iter(pieces.iter().map(|piece| Ok(Bytes::from_static(piece))));
        GetResult {
            payload: GetResultPayload::Stream(pieces.boxed()),
            meta: ObjectMeta {
                location: Path::from("object"),
                last_modified: Default::default(),
                size: announced,
                e_tag: None,
                version: None,
            },
            range: 0..announced,
            attributes: Default::default(),
            extensions: Default::default(),
        }
    }

    #[tokio::test]
    async fn takes_what_was_announced_into_the_readers_buffer() {
        let buffer = Vec::with_capacity(100);
        let place = buffer.as_ptr();
        let body = read(answer(5, &[b"ab", b"cde"]), |_| buffer).await.unwrap();
        assert_eq!((body.as_slice(), body.as_ptr()), (b"abcde".as_slice(), place));
    }

    #[tokio::test]
    async fn refuses_more_or_less_than_was_announced() {
        assert!(read(answer(4, &[b"ab", b"cde"]), Vec::with_capacity).await.is_err());
        assert!(read(answer(6, &[b"ab", b"cde"]), Vec::with_capacity).await.is_err());
    }
}
