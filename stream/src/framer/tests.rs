use proptest::prelude::*;
use redis_protocol::resp2::{decode::decode, types::OwnedFrame};

use super::*;
use crate::encode_command;

type Args = Vec<Vec<u8>>;

fn encoded(commands: &[Args]) -> Vec<u8> {
    commands.iter().flat_map(|args| encode_command(&args.iter().map(Vec::as_slice).collect::<Vec<_>>())).collect()
}

/// Records with ends counted from the start of the stream, by any sequence of pieces.
fn frame<'a>(framer: &mut Framer, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Record>, FrameError> {
    let mut base = 0;
    let mut records = Vec::new();
    for piece in pieces {
        framer.push(piece, |record| records.push(Record { end: base + record.end, ..record }))?;
        base += piece.len();
    }
    Ok(records)
}

fn records(text: &str) -> Vec<(usize, RecordKind, u32)> {
    let stream = text.as_bytes();
    let found = frame(&mut Framer::new(None), [stream]).unwrap();
    assert_eq!(found.last().map_or(0, |record| record.end), stream.len(), "all of it is records");
    found.into_iter().map(|record| (record.end, record.kind, record.commands)).collect()
}

fn stream(text: &str) -> Vec<u8> {
    let commands: Vec<Args> = text
        .split(';')
        .map(|command| command.split_whitespace().map(|arg| arg.as_bytes().to_vec()).collect())
        .collect();
    encoded(&commands)
}

fn kinds(text: &str) -> Vec<(RecordKind, u32)> {
    let found = frame(&mut Framer::new(None), [stream(text).as_slice()]).unwrap();
    found.into_iter().map(|record| (record.kind, record.commands)).collect()
}

fn error(text: &[u8]) -> FrameError {
    frame(&mut Framer::new(None), [text]).unwrap_err()
}

#[test]
fn a_command_is_a_record() {
    assert_eq!(
        records("*1\r\n$4\r\nPING\r\n*3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\n\r\n*1\r\n"),
        [(14, RecordKind::Idle, 1), (43, RecordKind::Write, 1)]
    );
}

#[test]
fn names_are_compared_without_case() {
    use RecordKind::{Getack, Idle, Write};
    assert_eq!(
        kinds("ping;rePLconf GetAck *;replconf ack 1;select 3;Replconf;pinG x;PINGS;EVALUATION_OF x"),
        [Idle, Getack, Idle, Idle, Idle, Idle, Write, Write].map(|kind| (kind, 1))
    );
}

#[test]
fn a_transaction_is_one_record_with_the_greatest_kind_inside() {
    assert_eq!(
        kinds("MULTI;PING;SET a 1;SELECT 2;exec;SET b 1;multi;REPLCONF GETACK *;EXEC;MULTI;DISCARD"),
        [(RecordKind::Write, 5), (RecordKind::Write, 1), (RecordKind::Getack, 3), (RecordKind::Idle, 2)]
    );
}

#[test]
fn nested_multi_and_stray_exec_are_taken_as_a_replica_takes_them() {
    assert_eq!(
        kinds("MULTI;MULTI;SET a 1;EXEC;SET b 1;EXEC;DISCARD"),
        [4, 1, 1, 1].map(|commands| (RecordKind::Write, commands))
    );
}

#[test]
fn the_database_follows_select_also_inside_multi() {
    let mut framer = Framer::new(None);
    let mut after = |text: &str| {
        framer.push(&stream(text), |_| {}).unwrap();
        framer.database()
    };
    assert_eq!(after("SET a 1"), None);
    assert_eq!(after("SELECT 7"), Some(7));
    assert_eq!(after("MULTI;SELECT 2147483647"), Some(i32::MAX as u32));
    assert_eq!(after("DISCARD"), Some(7), "a discarded SELECT was never run");
    assert_eq!(after("MULTI;SELECT 2;EXEC"), Some(2));
}

#[test]
fn state_tells_what_lies_before_a_position() {
    let mut framer = Framer::new(Some(4));
    framer.push(&stream("SET a 1;MULTI;DEL b"), |_| {}).unwrap();
    framer.push(b"*2\r\n$3\r\nDE", |_| {}).unwrap();
    let state = framer.state();
    assert!(state.in_transaction() && state.holds_write());
    assert_eq!(state.commands(), 2);
    assert_eq!(state.record_bytes(), stream("MULTI;DEL b").len() as u64 + 10);
    assert_eq!(state.database(), Some(4));
}

#[test]
fn errors_name_the_byte() {
    for (text, at, expected) in [
        (&b"\n*1\r\n"[..], 0, "a command ('*')"),
        (b"PING\r\n", 0, "a command ('*')"),
        (b"*1\r\n$4\r\nPING\r\n\n", 14, "a command ('*')"),
        (b"*0\r\n", 1, "at least one argument"),
        (b"*-1\r\n", 1, "a digit"),
        (b"*01\r\n", 1, "at least one argument"),
        (b"*1\n", 2, "a digit or CR"),
        (b"*1\r\r", 3, "LF after CR"),
        (b"*1\r\n*1", 4, "an argument ('$')"),
        (b"*1\r\n$-1\r\n", 5, "a digit"),
        (b"*1\r\n$00\r\n", 6, "no leading zero"),
        (b"*1\r\n$4\r\nPINGxx", 12, "CRLF after an argument"),
        (b"*1\r\n$4\r\nPING\rx", 13, "CRLF after an argument"),
        (b"*2147483648\r\n", 10, "fewer arguments (at most 2^31-1)"),
        (b"*99999999999999999999\r\n", 10, "fewer arguments (at most 2^31-1)"),
        (b"*1\r\n$1099511627777\r\n", 17, "a shorter argument (at most 2^40 bytes)"),
    ] {
        let error = error(text);
        assert_eq!((error.at, error.expected), (at, expected), "{}", text.escape_ascii());
    }
    assert_eq!(
        error(b"*1\r\n$1\r\nab\x00\xff").to_string(),
        "expected CRLF after an argument at byte 9 of the input, found \"b\\x00\\xff\""
    );
}

#[test]
fn a_select_that_selects_nothing_is_an_error() {
    for text in ["SELECT", "SELECT x", "SELECT -1", "SELECT 2147483648", "SELECT 1 2", "SELECT 00000000001"] {
        assert_eq!(error(&stream(text)).expected, NUMBER, "{text}");
    }
}

#[test]
fn the_greatest_sizes_are_taken() {
    let mut framer = Framer::new(None);
    framer.push(b"*2147483647\r\n$1099511627776\r\n", |_| {}).unwrap();
    framer.push(&[0; 4096], |_| {}).unwrap();
    assert_eq!(framer.record_bytes(), 29 + 4096);
    let mut encoded = Vec::new();
    framer.state().encode(&mut encoded);
    assert_eq!(FramerState::decode(&encoded).unwrap(), framer.state());
}

/// Records by decoding whole commands, which is what the framer never does.
fn records_by_oracle(mut stream: &[u8]) -> (Vec<Record>, Option<u32>) {
    let (mut end, mut commands, mut kind) = (0, 0, RecordKind::Idle);
    let (mut database, mut before, mut records) = (None, None, Vec::new());
    while let Some((OwnedFrame::Array(args), used)) = decode(stream).unwrap() {
        stream = &stream[used..];
        end += used;
        let args: Vec<Vec<u8>> = args
            .into_iter()
            .map(|arg| match arg {
                OwnedFrame::BulkString(bytes) => bytes,
                other => panic!("{other:?}"),
            })
            .collect();
        let name = args[0].to_ascii_uppercase();
        let first = args.get(1).map(|arg| arg.to_ascii_uppercase());
        commands += 1;
        let open = before.is_some();
        match name.as_slice() {
            b"MULTI" => before = before.or(Some(database)),
            b"EXEC" if open => before = None,
            b"DISCARD" if open => database = before.take().flatten(),
            b"SELECT" => {
                database = Some(String::from_utf8(first.unwrap()).unwrap().parse().unwrap());
            }
            b"REPLCONF" if first == Some(b"GETACK".to_vec()) => kind = kind.max(RecordKind::Getack),
            b"PING" | b"REPLCONF" => {}
            _ => kind = RecordKind::Write,
        }
        if before.is_none() {
            records.push(Record { end, kind, commands });
            (commands, kind) = (0, RecordKind::Idle);
        }
    }
    (records, database)
}

fn any_case(name: &'static str) -> impl Strategy<Value = Vec<u8>> {
    any::<u16>().prop_map(move |bits| {
        let flip = |(i, byte): (usize, u8)| if bits >> i & 1 == 1 { byte.to_ascii_lowercase() } else { byte };
        name.bytes().enumerate().map(flip).collect()
    })
}

fn command() -> impl Strategy<Value = Args> {
    let argument = prop_oneof![
        Just(Vec::new()),
        Just(b"*1\r\n$4\r\nPING\r\n".to_vec()),
        Just(b"GETACK".to_vec()),
        Just(b"MULTI".to_vec()),
        Just(b"\r\n".to_vec()),
        prop::collection::vec(any::<u8>(), 0..24),
        prop::collection::vec(any::<u8>(), 100..300),
    ];
    let alone = prop_oneof![
        any_case("PING"),
        any_case("MULTI"),
        any_case("EXEC"),
        any_case("EXEC"),
        any_case("DISCARD"),
        any_case("REPLCONF")
    ];
    let select = (any_case("SELECT"), 0..=i32::MAX as u32).prop_map(|(name, n)| vec![name, n.to_string().into_bytes()]);
    let getack =
        (any_case("REPLCONF"), any_case("GETACK")).prop_map(|(name, option)| vec![name, option, b"*".to_vec()]);
    let set = prop::collection::vec(argument.clone(), 2..6).prop_map(|mut args| {
        args.insert(0, b"SET".to_vec());
        args
    });
    let long = prop::collection::vec(argument, 1..60)
        .prop_filter("not a SELECT", |args| !args[0].eq_ignore_ascii_case(b"SELECT"));
    prop_oneof![alone.prop_map(|name| vec![name]), select, getack, set, long]
}

fn streams() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(command(), 0..20).prop_map(|commands| encoded(&commands))
}

proptest! {
    #[test]
    fn whole_streams_give_the_oracles_records(stream in streams()) {
        let mut framer = Framer::new(None);
        let records = frame(&mut framer, [stream.as_slice()]).unwrap();
        let (expected, database) = records_by_oracle(&stream);
        prop_assert_eq!(records, expected);
        prop_assert_eq!(framer.database(), database);
    }

    #[test]
    fn any_split_gives_the_same_records_and_state(
        stream in streams(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        tail in 0usize..40,
    ) {
        let stream = &stream[..stream.len().saturating_sub(tail)];
        let mut whole = Framer::new(Some(1));
        let expected = frame(&mut whole, [stream]).unwrap();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let mut split = Framer::new(Some(1));
        let records = frame(&mut split, cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]])).unwrap();
        prop_assert_eq!(records, expected);
        prop_assert_eq!(split.state(), whole.state());
    }

    #[test]
    fn resumes_from_its_encoded_state_at_every_byte(stream in streams()) {
        let mut whole = Framer::new(None);
        let expected = frame(&mut whole, [stream.as_slice()]).unwrap();
        let mut framer = Framer::new(None);
        let mut records = Vec::new();
        for (at, piece) in stream.chunks(1).enumerate() {
            let mut encoded = Vec::new();
            framer.state().encode(&mut encoded);
            prop_assert_eq!(encoded.len(), FramerState::ENCODED_LEN);
            let state = FramerState::decode(&encoded).unwrap();
            prop_assert_eq!(&state, &framer.state());
            let start = records.last().map_or(0, |record: &Record| record.end);
            prop_assert_eq!(state.record_bytes() as usize, at - start);
            framer = Framer::resume(state);
            framer.push(piece, |record| records.push(Record { end: at + record.end, ..record })).unwrap();
        }
        prop_assert_eq!(records, expected);
        prop_assert_eq!(framer.state(), whole.state());
    }

    #[test]
    fn damaged_streams_fail_alike_however_split(
        stream in streams(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        piece in 1usize..50,
    ) {
        prop_assume!(!stream.is_empty());
        let mut stream = stream;
        let at = at.index(stream.len());
        stream[at] = byte;
        let whole = frame(&mut Framer::new(None), [stream.as_slice()]);
        let split = frame(&mut Framer::new(None), stream.chunks(piece));
        prop_assert_eq!(whole.map_err(|e| e.expected), split.map_err(|e| e.expected));
    }

    #[test]
    fn any_state_and_any_bytes_do_no_harm(
        stream in streams(),
        at in any::<prop::sample::Index>(),
        changes in prop::collection::vec((0..FramerState::ENCODED_LEN, any::<u8>()), 0..3),
        bytes in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut framer = Framer::new(Some(3));
        framer.push(&stream[..at.index(stream.len() + 1)], |_| {}).unwrap();
        let mut encoded = Vec::new();
        framer.state().encode(&mut encoded);
        for (at, byte) in changes {
            encoded[at] = byte;
        }
        if let Ok(state) = FramerState::decode(&encoded) {
            let mut again = Vec::new();
            state.encode(&mut again);
            prop_assert_eq!(&again, &encoded, "one encoding per state");
            for bytes in [&bytes, &stream] {
                // Whether these bytes fit does not matter here.
                let _ = Framer::resume(state.clone()).push(bytes, |_| {});
            }
        }
        prop_assert!(FramerState::decode(&bytes).is_err() || bytes.len() == FramerState::ENCODED_LEN);
    }

    #[test]
    fn arbitrary_states_decode_or_fail(bytes in prop::collection::vec(0u8..12, FramerState::ENCODED_LEN)) {
        if let Ok(state) = FramerState::decode(&bytes) {
            let _ = Framer::resume(state).push(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n", |_| {});
        }
    }
}
