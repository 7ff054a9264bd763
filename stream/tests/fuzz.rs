//! Every parser of the replication stream, fuzzed; see `redwind_fuzz`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use redwind_fuzz::{Fuzz, Memory, pieces};
use redwind_stream::{
    ExpiryRewriter, Framer, FramerState, PayloadDecoder, PayloadError, RdbCheck, RdbError, RdbInfo, Record,
    encode_command,
};

fn commands(commands: &[&[&str]]) -> Vec<u8> {
    commands
        .iter()
        .flat_map(|words| encode_command(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>()))
        .collect()
}

fn streams() -> Vec<Vec<u8>> {
    vec![
        commands(&[&["SELECT", "3"], &["SET", "key", "value"], &["PING"], &["REPLCONF", "GETACK", "*"]]),
        commands(&[&["MULTI"], &["INCR", "n"], &["SELECT", "0"], &["EXEC"], &["MULTI"], &["DISCARD"], &["EXEC"]]),
        commands(&[&["SET", "a", "1", "EX", "100"], &["EXPIRE", "a", "-7"], &["PSETEX", "a", "5000", "v"]]),
        commands(&[
            &["RESTORE", "k", "100", "payload", "REPLACE"],
            &["GETEX", "k", "PX", "9"],
            &["SETEX", "b", "9", "v"],
        ]),
        commands(&[&["MULTI"], &["SET", "a", "1", "PX", "1"], &["PEXPIRE", "a", "9223372036854775807"], &["EXEC"]]),
    ]
}

/// The records in a stream, where they end, and the state at its end, or what was expected where it is no
/// stream any more.
fn frame(mut framer: Framer, pieces: &[&[u8]]) -> (Vec<Record>, Result<FramerState, &'static str>) {
    let (mut records, mut before) = (Vec::new(), 0);
    for piece in pieces {
        let pushed = framer.push(piece, |record| records.push(Record { end: before + record.end, ..record }));
        if let Err(error) = pushed {
            return (records, Err(error.expected));
        }
        before += piece.len();
    }
    (records, Ok(framer.state()))
}

#[test]
fn framer() {
    Fuzz::of("framer").seeds(streams()).run(|input| {
        let whole = frame(Framer::new(Some(0)), &[input]);
        assert_eq!(frame(Framer::new(Some(0)), &pieces(input)), whole, "the pieces do not matter");
        let half = input.len() / 2;
        if let (_, Ok(state)) = frame(Framer::new(Some(0)), &[&input[..half]]) {
            let (_, resumed) = frame(Framer::resume(round_trip(&state)), &[&input[half..]]);
            assert_eq!(resumed, whole.1, "a state is all that is needed to go on");
        }
        format!("{:?}", whole.1.map(|state| (whole.0.len().min(9), state.in_transaction())))
    });
}

/// The state as it comes back from a segment's header.
fn round_trip(state: &FramerState) -> FramerState {
    let mut encoded = Vec::new();
    state.encode(&mut encoded);
    let decoded = FramerState::decode(&encoded).unwrap();
    assert_eq!(decoded, *state);
    decoded
}

#[test]
fn framer_state() {
    let states = streams().into_iter().flat_map(|stream| {
        (0..stream.len()).step_by(5).map(move |length| {
            let mut encoded = Vec::new();
            frame(Framer::new(None), &[&stream[..length]]).1.unwrap().encode(&mut encoded);
            encoded
        })
    });
    let states: Vec<_> = states.collect();
    Fuzz::of("framer-state").seeds(states).run(|input| match FramerState::decode(input) {
        Ok(state) => {
            let mut encoded = Vec::new();
            state.encode(&mut encoded);
            assert_eq!(encoded, input, "one state has one form");
            let stream = commands(&[&["SET", "a", "1"], &["EXEC"], &["SELECT", "4"]]);
            let (records, end) = frame(Framer::resume(state), &[&stream]);
            format!("{} {:?}", records.len(), end.map(|state| state.in_transaction()))
        }
        Err(error) => error.to_string(),
    });
}

/// The payload of a full resync, how much of the input was used, and whether it has ended.
fn payload(pieces: &[&[u8]]) -> Result<(Vec<u8>, usize, bool), PayloadError> {
    let mut decoder = PayloadDecoder::new();
    let (mut payload, mut consumed, mut finished) = (Vec::new(), 0, false);
    for piece in pieces {
        let decoded = decoder.push(piece)?;
        payload.extend_from_slice(decoded.held);
        payload.extend_from_slice(decoded.payload);
        consumed += decoded.consumed;
        finished = decoded.finished;
        if finished {
            break;
        }
    }
    // What may begin the end mark is held back, how much depends on the pieces.
    Ok((payload, consumed, finished))
}

#[test]
fn full_resync_payload() {
    let mark = "0123456789abcdefABCDEF0123456789abcdefXY";
    let seeds = [
        b"\n\n$5\r\nREDIS*1\r\n".to_vec(),
        b"-NOMASTERLINK Can't SYNC while not connected\r\n".to_vec(),
        format!("\n$EOF:{mark}\r\nREDIS0011{}{mark}*1\r\n$4\r\nPING\r\n", &mark[..20]).into_bytes(),
    ];
    Fuzz::of("payload").seeds(seeds).run(|input| {
        let whole = payload(&[input]);
        let divided = payload(&pieces(input));
        assert_eq!(divided, whole, "the pieces do not matter");
        match whole {
            Ok((payload, _, finished)) => format!("{} {finished}", payload.is_empty()),
            Err(PayloadError::Refused(_)) => "refused".to_owned(),
            Err(PayloadError::Header(_)) => "no header".to_owned(),
        }
    });
}

fn check_rdb(pieces: &[&[u8]]) -> Result<RdbInfo, RdbError> {
    let mut check = RdbCheck::new();
    for piece in pieces {
        check.push(piece)?;
    }
    check.finish()
}

/// An RDB with auxiliary fields, `keys` and no checksum.
fn rdb(version: &str, body: &[u8]) -> Vec<u8> {
    let auxiliary = b"\xfa\x09redis-ver\x067.0.15\xfa\x0arepl-id\x281234\xfa\x0erepl-stream-db\xc0\x03\xfe\x00";
    [version.as_bytes(), auxiliary, body, b"\xff", &[0; 8]].concat()
}

#[test]
fn rdb_framing() {
    let seeds = [
        rdb("REDIS0010", b""),
        rdb("REDIS0011", b"\xfb\x01\x00\x00\x01k\x01v"),
        rdb("VALKEY080", b"\xf8\x01"),
        b"REDIS0009\xfa\x08aof-base\xc0\x01\xfa\x05ctime\xc2\x00\x00\x00\x60\xff\0\0\0\0\0\0\0\0".to_vec(),
        b"REDIS0007\xfa\x81\x00\x00\x00\x00\x00\x00\x00\x01a\x80\x00\x00\x00\x01b\xff".to_vec(),
    ];
    // Without a checksum, as a server writes that was told so.
    let repair = |input: &mut Vec<u8>| {
        if let Some(checksum) = input.last_chunk_mut::<8>() {
            *checksum = [0; 8];
        }
    };
    Fuzz::of("rdb").seeds(seeds).repaired_by(repair).run(|input| {
        let whole = check_rdb(&[input]);
        assert_eq!(format!("{:?}", check_rdb(&pieces(input))), format!("{whole:?}"), "the pieces do not matter");
        format!("{whole:?}")
    });
}

fn rewrite(pieces: &[&[u8]]) -> Result<Vec<u8>, String> {
    let mut rewriter = ExpiryRewriter::new();
    let mut out = Vec::new();
    for piece in pieces {
        rewriter.push(piece, 1_750_000_000_000, &mut out).map_err(|error| format!("{error:?}"))?;
    }
    Ok(out)
}

/// The names of commands that end in a stream, as a framer sees them.
fn count(stream: &[u8]) -> usize {
    frame(Framer::new(Some(0)), &[stream]).0.iter().map(|record| record.commands as usize).sum()
}

#[test]
fn expiry_rewriting() {
    let memory = Memory { bytes: 64 << 10, per_byte: 128 };
    Fuzz::of("expiry").seeds(streams()).memory(memory).run(|input| {
        let whole = rewrite(&[input]);
        match (&whole, rewrite(&pieces(input))) {
            (Ok(out), Ok(divided)) => assert_eq!(divided, *out, "the pieces do not matter"),
            (Err(_), Err(_)) => {}
            (whole, divided) => panic!("{whole:?} as a whole, {divided:?} in pieces"),
        }
        match whole {
            Ok(out) => {
                assert!(count(&out) >= count(input), "no command is lost");
                let made =
                    |word: &str| out.windows(word.len()).filter(|at| at.eq_ignore_ascii_case(word.as_bytes())).count();
                let expiries = made("PXAT") + made("PEXPIREAT") + made("ABSTTL");
                format!("{} {}", out == input, "x".repeat(expiries.min(5)))
            }
            Err(error) => error,
        }
    });
}
