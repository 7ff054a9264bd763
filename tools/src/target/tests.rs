use super::*;

const HISTORY: &str = "01K9ZJ3V5X0000000000000000";

fn now_in(zone: &str) -> Zoned {
    "2026-11-20T15:00:00Z".parse::<jiff::Timestamp>().unwrap().in_tz(zone).unwrap()
}

fn parse_in(zone: &str, text: &str) -> Result<String, TargetError> {
    parse(text, &now_in(zone)).map(|target| match target {
        Target::Time(time) => time.to_string(),
        other => panic!("{text} became {other:?}"),
    })
}

fn refused(text: &str) -> String {
    parse(text, &now_in("Europe/Berlin")).unwrap_err().to_string()
}

#[test]
fn every_way_to_write_a_time_is_read() {
    for (text, expected) in [
        ("2026-11-20T14:03:07.250Z", "2026-11-20T14:03:07.250000Z"),
        ("2026-11-20t14:03:07z", "2026-11-20T14:03:07.000000Z"),
        ("2026-11-20T14:03:07.1234567Z", "2026-11-20T14:03:07.123456Z"),
        ("2026-11-20T15:03:07+01:00", "2026-11-20T14:03:07.000000Z"),
        ("2026-11-20 14:03:07Z", "2026-11-20T14:03:07.000000Z"),
        ("2026-11-20 14:03:07[Europe/Berlin]", "2026-11-20T13:03:07.000000Z"),
        ("2026-11-20T09:03:07[America/New_York]", "2026-11-20T14:03:07.000000Z"),
        ("2026-11-20T14:03:07 Europe/Berlin", "2026-11-20T13:03:07.000000Z"),
        ("2026-11-20 14:03:07.5 Europe/Berlin", "2026-11-20T13:03:07.500000Z"),
        ("2026-11-20 14:03 UTC", "2026-11-20T14:03:00.000000Z"),
        ("2026-11-20T15:03:07+01:00[Europe/Berlin]", "2026-11-20T14:03:07.000000Z"),
        ("2026-11-20T14:03:07Z[Europe/Berlin]", "2026-11-20T14:03:07.000000Z"),
        ("2026-11-20 14:03:07", "2026-11-20T13:03:07.000000Z"),
        ("2026-11-20T14:03", "2026-11-20T13:03:00.000000Z"),
        ("15m ago", "2026-11-20T14:45:00.000000Z"),
        ("1h 30m ago", "2026-11-20T13:30:00.000000Z"),
        ("2 days ago", "2026-11-18T15:00:00.000000Z"),
        ("1700000000", "2023-11-14T22:13:20.000000Z"),
        ("1700000000.25", "2023-11-14T22:13:20.250000Z"),
        ("1700000000250", "2023-11-14T22:13:20.250000Z"),
        ("1700000000250.5", "2023-11-14T22:13:20.250500Z"),
        ("1700000000.123456789", "2023-11-14T22:13:20.123456Z"),
        ("0", "1970-01-01T00:00:00.000000Z"),
    ] {
        assert_eq!(parse_in("Europe/Berlin", text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn positions_are_read() {
    let now = now_in("UTC");
    let history: HistoryId = HISTORY.parse().unwrap();
    let position = Position { history, offset: Offset(17) };
    assert_eq!(parse("latest", &now), Ok(Target::Latest));
    assert_eq!(parse("offset:17", &now), Ok(Target::Offset { history: None, offset: Offset(17) }));
    let narrowed = Target::Offset { history: Some(history), offset: Offset(17) };
    assert_eq!(parse(&format!("offset:{HISTORY}:17"), &now), Ok(narrowed));
    assert_eq!(parse(&format!("before:{HISTORY}:17"), &now), Ok(Target::Before(position)));
    assert_eq!(parse(&format!(" after:{HISTORY}:17 "), &now), Ok(Target::After(position)));
    for bad in ["offset:", "offset:x", "offset:-1", "offset:x:1", "before:17", "after:", "before:latest"] {
        let error = parse(bad, &now).unwrap_err().to_string();
        assert!(error.contains(HISTORY), "{bad}: {error}");
    }
}

#[test]
fn a_local_time_of_its_own_zone_is_meant() {
    assert_eq!(parse_in("Asia/Tokyo", "2026-11-20 09:00:00").unwrap(), "2026-11-20T00:00:00.000000Z");
    assert_eq!(parse_in("UTC", "2026-11-20 09:00:00").unwrap(), "2026-11-20T09:00:00.000000Z");
}

#[test]
fn a_double_or_skipped_local_time_is_refused_with_both_readings() {
    let twice = refused("2026-10-25 02:30:00");
    assert!(twice.contains("2026-10-25T02:30:00+02:00 or 2026-10-25T02:30:00+01:00"), "{twice}");
    let twice = refused("2026-10-25 02:30:00[Europe/Berlin]");
    assert!(twice.contains("twice in Europe/Berlin"), "{twice}");
    let skipped = refused("2026-03-29T02:30:00 Europe/Berlin");
    assert!(skipped.contains("2026-03-29T01:30:00+01:00 and 2026-03-29T03:30:00+02:00"), "{skipped}");
    for reading in ["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00", "2026-03-29T03:30:00+02:00"] {
        assert!(parse_in("Europe/Berlin", reading).is_ok(), "{reading}");
    }
}

#[test]
fn the_future_is_refused() {
    for text in ["2026-11-20T15:00:00.000001Z", "2027-01-01 00:00:00", "1900000000", "1900000000000"] {
        let error = refused(text);
        assert!(error.contains("is in the future") && error.contains("latest"), "{text}: {error}");
    }
}

#[test]
fn what_is_no_target_is_refused_with_examples() {
    for text in [
        "",
        "yesterday",
        "15m",
        "in 15m",
        "-15m ago ago",
        "14:03",
        "2026-11",
        "1.2.3",
        "1.",
        "999999999999999",
        "Latest",
    ] {
        let error = refused(text);
        assert!(error.contains("15m ago") || error.contains("future"), "{text}: {error}");
    }
    assert!(refused("2026-11-20").contains("T00:00:00"));
    assert!(refused("2026-11-20 14:00[Europe/Nowhere]").contains("no time zone"));
    assert!(refused("2026-11-20 14:00 Nowhere").contains("no time zone"));
    assert!(refused("2026-11-20T14:00:00+05:00[Europe/Berlin]").contains("did not have then"));
    assert!(refused("1969-01-01T00:00:00Z").contains("1970"));
}

#[test]
fn whatever_is_asked_for_is_read_or_refused() {
    let seeds = [
        "2026-11-20T14:03:07.250Z",
        "2026-11-20 14:03:07 Europe/Berlin",
        "2026-11-20T14:03:07+01:00[Europe/Berlin]",
        "15m ago",
        "1763640187250",
        "latest",
        "offset:01K9ZJ3V5X0000000000000000:342",
        "before:01K9ZJ3V5X0000000000000000:342",
        "after:01K9ZJ3V5X0000000000000000:342",
    ];
    let now = now_in("Europe/Berlin");
    let memory = redwind_fuzz::Memory { bytes: 1 << 20, per_byte: 256 };
    redwind_fuzz::Fuzz::of("target").seeds(seeds).memory(memory).run(move |input| {
        match parse(&String::from_utf8_lossy(input), &now) {
            Ok(target) => format!("{:?}", std::mem::discriminant(&target)),
            Err(error) => format!("{:?}", std::mem::discriminant(&error)),
        }
    });
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
        let _ = parse(&text, &now_in("Europe/Berlin"));
    }
}
