use proptest::prelude::*;

use super::*;

/// RDBs as real servers sent them to a replica, at a small offset and with database 3 selected.
const FIXTURES: [(&str, &[u8]); 8] = [
    ("redis-6.2", include_bytes!("../../tests/fixtures/redis-6.2.rdb")),
    ("redis-6.2-scripts", include_bytes!("../../tests/fixtures/redis-6.2-scripts.rdb")),
    ("redis-7.0", include_bytes!("../../tests/fixtures/redis-7.0.rdb")),
    ("redis-7.0-empty", include_bytes!("../../tests/fixtures/redis-7.0-empty.rdb")),
    ("redis-7.0-no-checksum", include_bytes!("../../tests/fixtures/redis-7.0-no-checksum.rdb")),
    ("redis-8.6", include_bytes!("../../tests/fixtures/redis-8.6.rdb")),
    ("valkey-8.1", include_bytes!("../../tests/fixtures/valkey-8.1.rdb")),
    ("valkey-9", include_bytes!("../../tests/fixtures/valkey-9.rdb")),
];

fn fixture(name: &str) -> &'static [u8] {
    FIXTURES.iter().find(|fixture| fixture.0 == name).unwrap().1
}

fn check<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<RdbInfo, RdbError> {
    let mut check = RdbCheck::new();
    for piece in pieces {
        check.push(piece)?;
    }
    check.finish()
}

#[test]
fn servers_rdbs_are_verified_and_tell_their_origin() {
    for (name, format, version, redis, valkey) in [
        ("redis-6.2", RdbFormat::Redis, 9, Some("6.2.14"), None),
        ("redis-6.2-scripts", RdbFormat::Redis, 9, Some("6.2.14"), None),
        ("redis-7.0", RdbFormat::Redis, 10, Some("7.0.15"), None),
        ("redis-7.0-empty", RdbFormat::Redis, 10, Some("7.0.15"), None),
        ("redis-8.6", RdbFormat::Redis, 13, Some("8.6.3"), None),
        ("valkey-8.1", RdbFormat::Redis, 11, None, Some("8.1.1")),
        ("valkey-9", RdbFormat::Valkey, 80, None, Some("9.1.2")),
    ] {
        let bytes = fixture(name);
        let info = check([bytes]).unwrap();
        let trailer = bytes.last_chunk().copied().map(u64::from_le_bytes).unwrap();
        assert_eq!((info.format, info.version), (format, version), "{name}");
        assert_eq!(info.redis_version.as_deref(), redis, "{name}");
        assert_eq!(info.valkey_version.as_deref(), valkey, "{name}");
        assert_eq!(info.checksum, RdbChecksum::Verified(trailer), "{name}");
        assert_eq!(info.bytes, bytes.len() as u64, "{name}");
        assert!(info.repl_id.is_some_and(|id| id.len() == 40), "{name}");
        assert!(info.repl_offset.is_some_and(|offset| offset > 50), "{name}");
        assert!(info.repl_stream_db.is_some(), "{name}");
        assert!(info.created_unix_secs.is_some_and(|at| at > 1_700_000_000), "{name}");
        assert!(info.used_memory_bytes.is_some_and(|bytes| bytes > 100_000), "{name}");
    }
}

#[test]
fn a_disabled_checksum_is_told() {
    let info = check([fixture("redis-7.0-no-checksum")]).unwrap();
    assert_eq!(info.checksum, RdbChecksum::Disabled);
}

#[test]
fn compressed_and_numeric_fields_are_decoded() {
    let mut bytes = b"REDIS0012\xfa\x07repl-id\xc3\x05\x28\x00a\xe0\x1e\x00".to_vec();
    bytes.extend_from_slice(b"\xfa\x0brepl-offset\xc2\x00\x00\x01\x00");
    bytes.extend_from_slice(b"\xfa\x0erepl-stream-db\xc0\xff");
    bytes.extend_from_slice(b"\xfa\x05ctime\xc1\x00\x01\xff\0\0\0\0\0\0\0\0");
    let info = check(bytes.chunks(1)).unwrap();
    assert_eq!(info.repl_offset, Some(65536));
    assert_eq!(info.repl_stream_db, None, "-1 selects nothing");
    assert_eq!(info.created_unix_secs, Some(256));
    assert_eq!(info.repl_id, Some("a".repeat(40)));
}

#[test]
fn long_fields_end_the_head_without_error() {
    for length in [4000u32, 5000, 1 << 30] {
        let mut bytes = b"REDIS0009\xfa\x09redis-ver\x011\xfa\x03lua\x80".to_vec();
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.resize(bytes.len() + 6000, b' ');
        bytes.extend_from_slice(b"\xff\0\0\0\0\0\0\0\0");
        assert_eq!(check(bytes.chunks(100)).unwrap().redis_version.as_deref(), Some("1"));
    }
    let mut many = b"REDIS0009".to_vec();
    many.extend((0..1000).flat_map(|_| *b"\xfa\x01a\x01b"));
    many.extend_from_slice(b"\xff\0\0\0\0\0\0\0\0");
    assert!(check(many.chunks(7)).is_ok());
}

#[test]
fn what_is_no_rdb_is_refused_by_its_magic() {
    for magic in ["REDIS0004", "REDIS00-9", "VALKEY08x", "-ERR abcd", "LZ4\0\0\0\0\0\0"] {
        let error = check([magic.as_bytes()]).unwrap_err();
        assert_eq!(error, RdbError::Magic { found: magic.escape_default().to_string().replace("\\u{0}", "\\x00") });
    }
    assert_eq!(check([&b"REDIS"[..]]), Err(RdbError::Truncated { bytes: 5 }));
    assert_eq!(check([&b"REDIS0009\xfa\xc4"[..]]), Err(RdbError::Field { at: 9 }));
}

#[test]
fn every_truncation_is_noticed() {
    for (name, bytes) in FIXTURES {
        for end in 0..bytes.len() {
            assert!(check([&bytes[..end]]).is_err(), "{name} cut at {end}");
        }
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = fixture("valkey-9");
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(check([damaged.as_slice()]).is_err(), "bit {bit}");
    }
}

proptest! {
    #[test]
    fn any_split_gives_the_same_answer(
        fixture in prop::sample::select(FIXTURES.to_vec()),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let bytes = fixture.1;
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let split = check(cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]));
        prop_assert_eq!(&split, &check([bytes]));
        prop_assert_eq!(split, check(bytes.chunks(1)));
    }

    #[test]
    fn arbitrary_heads_do_no_harm(
        mut head in prop::collection::vec(any::<u8>(), 0..300),
        piece in 1usize..50,
    ) {
        head.splice(0..0, *b"REDIS0011\xfa");
        // Whether it is an RDB does not matter here.
        let whole = check([head.as_slice()]);
        prop_assert_eq!(check(head.chunks(piece)), whole);
    }
}
