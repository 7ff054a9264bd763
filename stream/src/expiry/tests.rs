use proptest::prelude::*;

use super::*;
use crate::encode_command;

const NOW: i64 = 1_700_000_000_000;

fn encoded(text: &str) -> Vec<u8> {
    text.split(';')
        .filter(|command| !command.is_empty())
        .flat_map(|command| encode_command(&command.split_whitespace().map(str::as_bytes).collect::<Vec<_>>()))
        .collect()
}

fn rewritten(stream: &[u8], piece: usize) -> Vec<u8> {
    let mut rewriter = ExpiryRewriter::new();
    let mut out = Vec::new();
    for piece in stream.chunks(piece) {
        rewriter.push(piece, NOW, &mut out).unwrap();
    }
    out
}

fn assert_rewrites(from: &str, to: &str) {
    let (from, to) = (encoded(from), encoded(to));
    for piece in [from.len(), 1, 2, 3, 7, 16] {
        let out = rewritten(&from, piece);
        assert_eq!(out.escape_ascii().to_string(), to.escape_ascii().to_string(), "in {piece}s");
    }
}

#[test]
fn set_gets_a_deadline_in_place_of_a_span() {
    assert_rewrites("SET k v PX 5", "SET k v PXAT 1700000000005");
    assert_rewrites("set k v nx eX 5 GET", "set k v nx PXAT 1700000005000 GET");
    assert_rewrites("SET EX PX EX 5;SET k v KEEPTTL", "SET EX PX PXAT 1700000005000;SET k v KEEPTTL");
}

#[test]
fn setex_becomes_set() {
    assert_rewrites("SETEX k 5 v;PING", "SET k v PXAT 1700000005000;PING");
    assert_rewrites("psetex k 5 v", "SET k v PXAT 1700000000005");
}

#[test]
fn expire_becomes_pexpireat() {
    assert_rewrites("EXPIRE k 5", "PEXPIREAT k 1700000005000");
    assert_rewrites("pexpire k 5;expire k -5", "PEXPIREAT k 1700000000005;PEXPIREAT k 1699999995000");
    assert_rewrites("EXPIRE k 5 NX", "PEXPIREAT k 1700000005000 NX");
}

#[test]
fn restore_becomes_absolute() {
    assert_rewrites("RESTORE k 5 payload", "RESTORE k 1700000000005 payload ABSTTL");
    assert_rewrites("restore-asking k 5 p", "restore-asking k 1700000000005 p ABSTTL");
    assert_rewrites("RESTORE k 5 p REPLACE;PING", "RESTORE k 0 p REPLACE;PEXPIREAT k 1700000000005;PING");
    assert_rewrites(
        "RESTORE k 1800000000000 ABSTTL replace absttl freq 7",
        "RESTORE k 0 ABSTTL replace absttl freq 7;PEXPIREAT k 1800000000000",
    );
    assert_rewrites(
        "RESTORE k 5 p IDLETIME ABSTTL FREQ 3",
        "RESTORE k 0 p IDLETIME ABSTTL FREQ 3;PEXPIREAT k 1700000000005",
    );
}

#[test]
fn what_is_absolute_or_refused_stays() {
    let stay = "SET k v;SET k v PXAT 5;SET k v EXAT EX PXAT 5;SET k v NX;SET k v EX;SET k v EX x;\
        SET k v PX 0;SET k v EX -1;SET k v EX 9223372036854776;SET k v EX 05;SET k v EX +5;\
        SETEX k x v;SETEX k 0 v;SETEX k 5;SETEX k 5 v v;PSETEX k 9223372036854775808 v;EXPIRE k;\
        EXPIRE k -0;EXPIRE k 9223372036854776;EXPIREAT k 5;PEXPIREAT k 5;RESTORE k 0 p;\
        RESTORE k 0 p REPLACE;RESTORE k -1 p;RESTORE k x p ABSTTL;RESTORE k 5;GETEX k EX 5;SELECT 3;\
        HSET k EX 5;PERSIST k;EXPIRE_OF_A_MODULE_OR_SO k 5";
    assert_rewrites(stay, stay);
}

#[test]
fn deadlines_saturate() {
    let max = i64::MAX;
    assert_rewrites(&format!("SET k v PX {max}"), &format!("SET k v PXAT {max}"));
    assert_rewrites(&format!("PEXPIRE k {max}"), &format!("PEXPIREAT k {max}"));
}

#[test]
fn the_clock_is_that_of_the_first_byte_of_command_or_transaction() {
    let mut rewriter = ExpiryRewriter::new();
    let mut out = Vec::new();
    let mut clock = 0;
    let commands = ["SET a 1 PX 1", "MULTI", "SET b 1 PX 1", "EXPIRE b 1", "EXEC", "PEXPIRE c 1"];
    for command in commands {
        for piece in encoded(command).chunks(16) {
            clock += 1000;
            rewriter.push(piece, clock, &mut out).unwrap();
        }
    }
    // The commands take 3, 1, 3, 2, 1 and 2 pieces of 16 bytes.
    let expected = encoded("SET a 1 PXAT 1001;MULTI;SET b 1 PXAT 4001;PEXPIREAT b 5000;EXEC;PEXPIREAT c 11001");
    assert_eq!(out.escape_ascii().to_string(), expected.escape_ascii().to_string());
}

#[test]
fn values_pass_through_without_being_held() {
    for head in [
        "*5\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000000\r\n",
        "*4\r\n$5\r\nSETEX\r\n$1\r\nk\r\n$1\r\n5\r\n$1000000000\r\n",
        "*5\r\n$7\r\nRESTORE\r\n$1\r\nk\r\n$1\r\n5\r\n$1000000000\r\n",
    ] {
        let mut rewriter = ExpiryRewriter::new();
        let mut out = Vec::new();
        rewriter.push(head.as_bytes(), NOW, &mut out).unwrap();
        out.clear();
        rewriter.push(&[b'v'; 1000], NOW, &mut out).unwrap();
        assert_eq!(out.len(), 1000);
        assert!(rewriter.held.is_empty());
    }
}

#[test]
fn endless_keys_and_foreign_bytes_are_refused() {
    let mut out = Vec::new();
    let key = b"*4\r\n$5\r\nSETEX\r\n$536870913\r\n";
    assert_eq!(
        ExpiryRewriter::new().push(key, NOW, &mut out),
        Err(ExpiryError::KeyTooLong { bytes: HELD_KEY_BYTES_MAX + 1 })
    );
    let error = ExpiryRewriter::new().push(b"+OK\r\n", NOW, &mut out).unwrap_err();
    assert!(matches!(error, ExpiryError::Frame(_)));
}

fn argument() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::sample::select(vec![
            "EX",
            "px",
            "EXAT",
            "PXAT",
            "NX",
            "GET",
            "KEEPTTL",
            "5",
            "0",
            "-1",
            "x",
            "ABSTTL",
            "REPLACE",
            "FREQ",
            "IDLETIME",
            "",
            "\r\n",
            "*1\r\n$4\r\nEXEC\r\n",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..40),
    ]
}

fn command() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::sample::select(vec![
        "SET",
        "set",
        "SETEX",
        "PSETEX",
        "EXPIRE",
        "pexpire",
        "RESTORE",
        "RESTORE-ASKING",
        "MULTI",
        "EXEC",
        "DISCARD",
        "HSET",
        "PEXPIREAT",
        "A-LONG-NAME-OF-SOME-MODULE",
    ]);
    (name, prop::collection::vec(argument(), 0..7)).prop_map(|(name, args)| {
        let args: Vec<&[u8]> = std::iter::once(name.as_bytes()).chain(args.iter().map(Vec::as_slice)).collect();
        encode_command(&args)
    })
}

proptest! {
    #[test]
    fn any_split_gives_the_same_bytes_and_a_second_pass_changes_nothing(
        commands in prop::collection::vec(command(), 0..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let stream = commands.concat();
        let expected: Vec<u8> =
            commands.iter().flat_map(|command| rewritten(command, command.len())).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let mut rewriter = ExpiryRewriter::new();
        let mut out = Vec::new();
        for cut in cuts.windows(2) {
            rewriter.push(&stream[cut[0]..cut[1]], NOW, &mut out).unwrap();
        }
        prop_assert_eq!(&out, &expected);
        prop_assert_eq!(&rewritten(&stream, 1), &expected);
        let no_absolute_restore = !expected.windows(6).any(|w| w.eq_ignore_ascii_case(b"ABSTTL"));
        if no_absolute_restore && !expected.is_empty() {
            prop_assert_eq!(rewritten(&expected, expected.len()), expected, "all is absolute now");
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(
        commands in prop::collection::vec(command(), 0..4),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        piece in 1usize..30,
    ) {
        let mut stream = commands.concat();
        if !stream.is_empty() {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        let (mut rewriter, mut out) = (ExpiryRewriter::new(), Vec::new());
        // Whether the damage shows does not matter here.
        let _ = stream.chunks(piece).try_for_each(|piece| rewriter.push(piece, NOW, &mut out));
    }
}
