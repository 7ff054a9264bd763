//! What `verify` finds: everything that is done to an archive, and nothing in a sound one.

use bytes::Bytes;
use redwind_archive::documents::Cause;
use redwind_archive::layout::SEGMENTS_UNDER_WAY_MAX;
use redwind_archive::testing::{Objects, Read, Writer, at, command, read};
use redwind_archive::verify::{Report, Severity, verify};

/// Segments in the newest page: more than can be under way.
const LAST_PAGE: usize = 12;

/// An archive with everything in it: two terms and a fenced writer's remains, two histories, a blur,
/// a transaction over several segments, empty segments, three snapshots.
fn archive(seed: u32) -> Objects {
    let mut zombie = Writer::create(seed);
    zombie.begin_history(100, at(0.0), Cause::First);
    zombie.snapshot(at(0.5));
    zombie.segment(&[read(1.0, "SET a 1"), read(1.5, "SELECT 3"), read(2.0, "INCR a")]);
    zombie.segment(&[read(3.0, "MULTI"), read(3.1, "SET b 1")]);
    zombie.idle(at(4.0));
    zombie.segment(&[read(5.0, "EXEC"), read(5.5, "PING")]);
    zombie.late(at(5.5));
    zombie.segment(&[read(30.0, "SET c 1"), read(30.5, "SET c 2"), read(31.0, "SET c 3")]);
    zombie.turn_page();
    zombie.segment(&[Read { time: at(32.0), bytes: command("SET long value")[..20].to_vec() }]);
    let mut writer = zombie.succeed();
    zombie.idle(at(33.0));
    zombie.segment(&[Read { time: at(34.0), bytes: command("SET long value")[20..].to_vec() }]);
    writer.segment(&[Read { time: at(35.0), bytes: command("SET long value")[20..].to_vec() }]);
    writer.snapshot(at(35.0));
    writer.segment(&[read(36.0, "SET d 1")]);
    writer.begin_history(5000, at(50.0), Cause::BacklogLost);
    writer.segment(&[read(51.0, "SET e 1")]);
    writer.snapshot(at(52.0));
    writer.turn_page();
    for second in 0..LAST_PAGE {
        writer.segment(&[read(60.0 + second as f64, "SET f 1")]);
    }
    writer.objects
}

async fn verified(objects: &Objects) -> Report {
    let store = objects.store().await.unwrap();
    verify(&store, |_| {}).await.unwrap()
}

fn damaged(report: &Report) -> Vec<&str> {
    let damage = report.findings.iter().filter(|finding| finding.severity == Severity::Damage);
    damage.map(|finding| finding.object.as_str()).collect()
}

/// The kind of an object: the first part of its name.
fn kind(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

/// Replaces one object in a copy of the archive and asserts that it is named.
async fn assert_named(objects: &Objects, name: &str, what: &str, bytes: Bytes) {
    let copy = objects.copy();
    copy.put(name, bytes);
    let report = verified(&copy).await;
    assert_told(&report, name, what);
}

/// Of what no longer counts a note tells, of everything else damage.
fn assert_told(report: &Report, name: &str, what: &str) {
    let severity = if is_void(name) { Severity::Note } else { Severity::Damage };
    let told = report.findings.iter().any(|finding| finding.object == name && finding.severity == severity);
    assert!(told, "{what}: {name} is not named in {:?}", report.findings);
}

/// Whether it is the segment that the fenced writer put after its successor had gone on.
fn is_void(name: &str) -> bool {
    arrived(name, 34.0)
}

/// Whether the fenced writer put it, and nobody knows: what is void, and an empty segment before.
fn is_unknown(name: &str) -> bool {
    is_void(name) || arrived(name, 33.0)
}

fn arrived(name: &str, seconds: f64) -> bool {
    name.ends_with(&format!("-{:016}", at(seconds).0))
}

#[tokio::test]
async fn in_a_sound_archive_nothing_is_found() {
    let objects = archive(1);
    let report = verified(&objects).await;
    assert_eq!(report.findings, []);
    assert_eq!(report.snapshots, 3);
    assert_eq!(report.objects as usize, objects.names().len());
}

#[tokio::test]
async fn every_change_of_an_object_is_found_and_named() {
    let seed = std::env::var("REDWIND_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("REDWIND_TEST_SEED={seed}");
    let mut random = seed;
    let mut below = move |bound: usize| {
        // Knuth's MMIX: good enough to choose places.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % bound
    };
    let objects = archive(1);
    for name in objects.names() {
        let good = objects.get(&name);
        for _ in 0..8 {
            let bit = below(good.len() * 8);
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_named(&objects, &name, &format!("bit {bit} flipped"), bad.into()).await;
        }
        for length in [0, 1, good.len() - 1, below(good.len()), below(good.len()), below(good.len())] {
            assert_named(&objects, &name, &format!("cut to {length}"), good.slice(..length)).await;
        }
        assert_named(&objects, &name, "zeroes", vec![0; good.len()].into()).await;
        for garbage in [&b"\n"[..], b"\0\0\0\0", &good] {
            let longer = [&good[..], garbage].concat();
            assert_named(&objects, &name, "garbage at the end", longer.into()).await;
        }
    }
}

#[tokio::test]
async fn an_object_in_a_siblings_place_is_found_and_named() {
    let objects = archive(1);
    let names = objects.names();
    for (index, name) in names.iter().enumerate() {
        let siblings =
            names.iter().enumerate().filter(|(other, sibling)| *other != index && kind(sibling) == kind(name));
        for (_, sibling) in siblings {
            let copy = objects.copy();
            copy.put(name, objects.get(sibling));
            copy.put(sibling, objects.get(name));
            let report = verified(&copy).await;
            assert_told(&report, name, sibling);
            assert_told(&report, sibling, name);
        }
    }
}

#[tokio::test]
async fn an_object_of_another_archive_is_found_and_named() {
    let (objects, other) = (archive(1), archive(2));
    let (names, others) = (objects.names(), other.names());
    assert_eq!(names.len(), others.len());
    for (name, of_other) in names.iter().zip(&others) {
        assert_eq!(kind(name), kind(of_other));
        assert_named(&objects, name, "of another archive", other.get(of_other)).await;
    }
}

#[tokio::test]
async fn a_missing_object_is_found_where_it_is_missed() {
    let objects = archive(1);
    let names = objects.names();
    let newest: Vec<&String> = names.iter().filter(|name| kind(name) == "log").rev().take(LAST_PAGE).collect();
    for name in &names {
        let copy = objects.copy();
        copy.remove(name);
        let report = verified(&copy).await;
        let behind = newest.iter().position(|last| *last == name);
        let unknowable = behind.is_some_and(|behind| behind < SEGMENTS_UNDER_WAY_MAX);
        assert_eq!(report.is_damaged(), !unknowable && !is_unknown(name), "{name}: {:?}", report.findings);
        if report.is_damaged() {
            assert!(names_neighbour(&damaged(&report), name), "{name}: {:?}", report.findings);
        } else if behind.is_some_and(|behind| behind > 0 && unknowable) {
            assert!(!report.findings.is_empty(), "{name} leaves a note");
        }
    }
}

/// Whether a finding names the missing object, or one of its kind or history that refers to it.
fn names_neighbour(found: &[&str], missing: &str) -> bool {
    found.iter().all(|name| kind(name) == kind(missing) || (kind(missing) == "log" && kind(name) == "history"))
}

#[tokio::test]
async fn a_whole_page_and_a_whole_history_are_missed() {
    let objects = archive(1);
    let pages: std::collections::BTreeSet<String> = objects
        .names()
        .iter()
        .filter(|name| kind(name) == "log")
        .map(|name| name.rsplit_once('/').unwrap().0.to_owned())
        .collect();
    let newest = pages.last().unwrap().clone();
    for page in pages {
        let copy = objects.copy();
        copy.remove_all(&page);
        let report = verified(&copy).await;
        assert_eq!(report.is_damaged(), page != newest, "{page}: {:?}", report.findings);
    }
}

#[tokio::test]
async fn what_has_expired_is_noted_and_no_damage() {
    let objects = archive(1);
    let old = objects.names().into_iter().filter(|name| name.contains("-live/") && kind(name) == "log").take(4);
    for name in old {
        objects.remove(name);
        let oldest_snapshot = objects.names().into_iter().find(|name| kind(name) == "snapshot").unwrap();
        if objects.names().iter().filter(|name| kind(name) == "snapshot").count() == 3 {
            let snapshot = oldest_snapshot.rsplit_once('-').unwrap().1.to_owned();
            objects.remove(&oldest_snapshot);
            assert!(verified(&objects).await.is_damaged(), "chunks do not outlive their manifest");
            objects.remove_all(&format!("chunk/{snapshot}"));
        }
        let report = verified(&objects).await;
        assert!(!report.is_damaged(), "{:?}", report.findings);
        assert!(!report.findings.is_empty());
    }
}
