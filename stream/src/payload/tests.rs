use proptest::prelude::*;

use super::*;

const MARK: &[u8; MARK_BYTES] = b"0123456789abcdefABCDEF0123456789abcdefXY";

fn decode<'a>(
    decoder: &mut PayloadDecoder,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(Vec<u8>, usize, bool), PayloadError> {
    let (mut payload, mut consumed, mut finished) = (Vec::new(), 0, false);
    for piece in pieces {
        let decoded = decoder.push(piece)?;
        payload.extend_from_slice(decoded.held);
        payload.extend_from_slice(decoded.payload);
        consumed += decoded.consumed;
        assert!(decoded.finished || decoded.consumed == piece.len());
        finished = decoded.finished;
        assert_eq!(decoder.is_finished(), finished);
        if finished {
            break;
        }
    }
    Ok((payload, consumed, finished))
}

fn by_mark(payload: &[u8]) -> Vec<u8> {
    [b"\n\n$EOF:", MARK.as_slice(), b"\r\n", payload, MARK].concat()
}

#[test]
fn a_length_leaves_the_stream_alone() {
    let mut decoder = PayloadDecoder::new();
    let decoded = decoder.push(b"\n\r\n\n$5\r\nREDIS*1\r\n").unwrap();
    assert_eq!((decoded.held, decoded.payload), (&b""[..], &b"REDIS"[..]));
    assert!(decoded.finished);
    assert_eq!(decoded.consumed, 13);
    assert_eq!(decoder.framing(), Some(Framing::Length(5)));
    assert_eq!(decoder.push(b"*1\r\n").unwrap().consumed, 0);
}

#[test]
fn an_empty_payload_is_finished_with_its_line() {
    assert_eq!(decode(&mut PayloadDecoder::new(), [&b"$0\r\n*1"[..]]), Ok((vec![], 4, true)));
}

#[test]
fn a_mark_ends_the_payload_and_only_the_whole_mark() {
    let payload = [b"REDIS", &MARK[..39], MARK[..20].as_ref()].concat();
    let mut input = by_mark(&payload);
    let consumed = input.len();
    input.extend_from_slice(b"*1\r\n$4\r\nPING\r\n");
    let mut decoder = PayloadDecoder::new();
    let (found, used, finished) = decode(&mut decoder, [input.as_slice()]).unwrap();
    assert_eq!((found, used, finished), (payload, consumed, true));
    assert_eq!(decoder.framing(), Some(Framing::Mark));
    assert_eq!(decoder.push(b"*1\r\n").unwrap().consumed, 0);
}

#[test]
fn a_refusal_carries_its_text() {
    let refused = decode(&mut PayloadDecoder::new(), [&b"\n-ERR BGSAVE"[..], b" failed\r\n"]);
    let refused = refused.unwrap_err();
    assert_eq!(refused, PayloadError::Refused("ERR BGSAVE failed".into()));
    assert_eq!(refused.to_string(), "the server refused the full resync: ERR BGSAVE failed");
}

#[test]
fn other_lines_are_errors() {
    for line in [
        "$\r\n",
        "$-1\r\n",
        "$+1\r\n",
        "$1125899906842625\r\n",
        "$99999999999999999999999\r\n",
        "$EOF:short\r\n",
        "+OK\r\n",
        "*1\r\n",
    ] {
        let error = decode(&mut PayloadDecoder::new(), [line.as_bytes()]).unwrap_err();
        assert_eq!(error, PayloadError::Header(line.trim_end().into()), "{line}");
    }
    let endless = [b'$'; 4096];
    assert!(decode(&mut PayloadDecoder::new(), endless.chunks(100)).is_err());
}

proptest! {
    #[test]
    fn any_split_gives_the_same_payload(
        body in prop::collection::vec(prop_oneof![4 => any::<u8>().prop_map(|b| vec![b]), 1 => (0..MARK_BYTES).prop_map(|n| MARK[..n].to_vec())], 0..30),
        mark in any::<bool>(),
        after in prop::collection::vec(any::<u8>(), 0..50),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let body = body.concat();
        // A server's mark is random, and does not occur in what it ends.
        prop_assume!(memmem::find(&body, MARK).is_none());
        let mut input = if mark {
            by_mark(&body)
        } else {
            [format!("\n${}\r\n", body.len()).as_bytes(), &body].concat()
        };
        let end = input.len();
        input.extend_from_slice(&after);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
        cuts.extend([0, input.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|cut| &input[cut[0]..cut[1]]);
        let decoded = decode(&mut PayloadDecoder::new(), pieces).unwrap();
        prop_assert_eq!(&decoded, &(body.clone(), end, true));
        let decoded = decode(&mut PayloadDecoder::new(), input.chunks(1)).unwrap();
        prop_assert_eq!(decoded, (body, end, true));
    }

    #[test]
    fn arbitrary_input_does_no_harm(input in prop::collection::vec(any::<u8>(), 0..200), piece in 1usize..50) {
        // Whether it is a payload does not matter here.
        let _ = decode(&mut PayloadDecoder::new(), input.chunks(piece));
    }
}
