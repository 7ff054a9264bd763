//! What `verify` finds: everything that is done to an archive, and nothing in a sound one.
//!
//! A matrix of every kind of object and every kind of harm. Objects that do not hide one another are
//! harmed at once, each in its own way, so that every byte and every length of each can be tried.

mod encrypted;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use redwind_archive::audit::AuditEntry;
use redwind_archive::chunk;
use redwind_archive::document::{self, Document};
use redwind_archive::documents::{Cause, HistoryStart, Manifest, Marker, TermClaim};
use redwind_archive::keys::{Identities, Keyring};
use redwind_archive::layout::{ObjectName, SEGMENTS_UNDER_WAY_MAX};
use redwind_archive::segment::Segment;
use redwind_archive::store::OBJECT_BYTES_MAX;
use redwind_archive::testing::{Harm, Objects, Read, Writer, at, command, kind, read};
use redwind_archive::verify::{Report, Severity, verify};

/// Segments in the newest page: more than can be under way.
const LAST_PAGE: usize = 12;

/// An archive with everything in it: two terms and a fenced writer's remains, two histories, a blur,
/// a transaction over several segments, empty segments, three snapshots, an entry in the audit log.
fn archive(seed: u32) -> Objects {
    written_by(Writer::create(seed))
}

fn written_by(mut zombie: Writer) -> Objects {
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
    writer.audit(at(53.0));
    writer.turn_page();
    for second in 0..LAST_PAGE {
        writer.segment(&[read(60.0 + second as f64, "SET f 1")]);
    }
    writer.objects
}

async fn verified(objects: &Objects) -> Report {
    verified_by(objects, &Identities::none()).await
}

async fn verified_by(objects: &Objects, identities: &Identities) -> Report {
    verify(&objects.store().await.unwrap(), identities, |_| {}).await.unwrap()
}

fn damaged(report: &Report) -> Vec<&str> {
    let damage = report.findings.iter().filter(|finding| finding.severity == Severity::Damage);
    damage.map(|finding| finding.object.as_str()).collect()
}

/// Of what no longer counts a note tells, of everything else damage.
fn is_told(report: &Report, name: &str) -> bool {
    let severity = if is_void(name) { Severity::Note } else { Severity::Damage };
    report.findings.iter().any(|finding| finding.object == name && finding.severity == severity)
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

/// How often each kind of object was harmed in each way, and how often that was told.
#[derive(Default)]
struct Tally(BTreeMap<(String, &'static str), (u32, u32)>);

impl Tally {
    fn count(&mut self, name: &str, harm: &Harm, told: bool) {
        let (harmed, found) = self.0.entry((kind(name).to_owned(), harm.describe())).or_default();
        *harmed += 1;
        *found += u32::from(told);
    }
}

impl Drop for Tally {
    /// For whoever wants the figures: shown with `--nocapture`.
    fn drop(&mut self) {
        for ((kind, harm), (harmed, found)) in &self.0 {
            println!("| {kind} | {harm} | {harmed} | {found} |");
        }
    }
}

/// Objects of which the damage of one does not keep another from being read.
const GROUPS: [&[&str]; 4] = [&["archive"], &["history"], &["snapshot"], &["term", "log", "chunk", "audit", "key"]];

fn of_group(objects: &Objects, group: &[&str]) -> Vec<String> {
    objects.names().into_iter().filter(|name| group.contains(&kind(name))).collect()
}

/// Harms all objects of a group at once, in a copy, and asserts that each is named.
async fn assert_told(
    objects: &Objects,
    identities: &Identities,
    names: &[String],
    tally: &mut Tally,
    harm: impl Fn(&str, &Bytes) -> Option<Harm>,
) {
    let copy = objects.copy();
    let mut harmed = Vec::new();
    for name in names {
        if let Some(harm) = harm(name, &objects.get(name)) {
            harm.strike(&copy, name);
            harmed.push((name, harm));
        }
    }
    let report = verified_by(&copy, identities).await;
    for (name, harm) in harmed {
        let told = is_told(&report, name);
        tally.count(name, &harm, told);
        assert!(told, "{harm:?}: {name} is not named in {:?}", report.findings);
    }
}

/// A number that follows from others and looks like chance.
fn scattered(seed: u64, number: usize) -> usize {
    // Knuth's MMIX: good enough to choose places.
    let random = (seed ^ number as u64).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (random >> 33) as usize
}

fn seed() -> u64 {
    let seed = std::env::var("REDWIND_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("REDWIND_TEST_SEED={seed}");
    seed
}

/// Every byte of every object with a bit flipped, every length, zeroes, garbage.
async fn every_change_is_named(group: &[&str]) {
    every_nth_change_is_named(&archive(1), &Identities::none(), group, 1).await;
}

/// The same for every nth byte and length.
async fn every_nth_change_is_named(objects: &Objects, identities: &Identities, group: &[&str], step: usize) {
    let (seed, mut tally) = (seed(), Tally::default());
    let names = of_group(objects, group);
    let longest = names.iter().map(|name| objects.get(name).len()).max().unwrap();
    for at in (scattered(seed, 0) % step..longest).step_by(step) {
        let bit = at * 8 + scattered(seed, at) % 8;
        let flip = |_: &str, good: &Bytes| (at < good.len()).then_some(Harm::FlippedBit(bit));
        assert_told(objects, identities, &names, &mut tally, flip).await;
        let cut = |_: &str, good: &Bytes| (at < good.len()).then_some(Harm::CutTo(at));
        assert_told(objects, identities, &names, &mut tally, cut).await;
    }
    assert_told(objects, identities, &names, &mut tally, |_, _| Some(Harm::Zeroes)).await;
    for garbage in [&b"\n"[..], b"\0\0\0\0", b"END1"] {
        let garbage = Bytes::from_static(garbage);
        assert_told(objects, identities, &names, &mut tally, |_, _| Some(Harm::Garbage(garbage.clone()))).await;
    }
    assert_told(objects, identities, &names, &mut tally, |_, good| Some(Harm::Garbage(good.clone()))).await;
}

#[tokio::test]
async fn every_change_of_the_marker_is_found_and_named() {
    every_change_is_named(GROUPS[0]).await;
}

#[tokio::test]
async fn every_change_of_a_history_is_found_and_named() {
    every_change_is_named(GROUPS[1]).await;
}

#[tokio::test]
async fn every_change_of_a_manifest_is_found_and_named() {
    every_change_is_named(GROUPS[2]).await;
}

#[tokio::test]
async fn every_change_of_any_other_object_is_found_and_named() {
    every_change_is_named(GROUPS[3]).await;
}

#[test]
fn every_kind_of_object_is_in_a_group() {
    let kinds: BTreeSet<String> =
        encrypted::Sample::new().objects.names().iter().map(|name| kind(name).to_owned()).collect();
    let grouped: BTreeSet<String> = GROUPS.concat().into_iter().map(str::to_owned).collect();
    assert_eq!(kinds, grouped);
}

/// Whether the object can be decoded, whatever it says.
fn is_decoded(name: &str, bytes: &Bytes) -> bool {
    fn is<D: Document>(bytes: &[u8]) -> bool {
        document::decode::<D>(bytes).is_ok()
    }
    fn is_signed<D: Document>(bytes: &[u8]) -> bool {
        let decode = |keys| document::decode_signed::<D>(bytes, &ObjectName::Marker, &keys).is_ok();
        decode(Keyring::Plain) || decode(Keyring::Closed)
    }
    match kind(name) {
        "archive" => is::<Marker>(bytes),
        "term" => is::<TermClaim>(bytes),
        "history" => is_signed::<HistoryStart>(bytes),
        "snapshot" => is_signed::<Manifest>(bytes),
        "audit" => is::<AuditEntry>(bytes),
        "chunk" => chunk::check(bytes).is_ok(),
        "log" => Segment::decode(bytes, &Keyring::closed(bytes.get(10) == Some(&1))).is_ok(),
        "key" => matches!(ObjectName::parse(name), Some(ObjectName::Key(key)) if key.fits(bytes)),
        other => panic!("no decoder for {other}"),
    }
}

#[test]
fn no_object_with_a_flipped_bit_is_decoded() {
    assert_no_flipped_bit_is_decoded(&archive(1));
}

fn assert_no_flipped_bit_is_decoded(objects: &Objects) {
    for name in objects.names() {
        let good = objects.get(&name);
        assert!(is_decoded(&name, &good), "{name}");
        let mut bad = good.to_vec();
        for bit in 0..good.len() * 8 {
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_decoded(&name, &Bytes::copy_from_slice(&bad)), "{name}: bit {bit}");
            bad[bit / 8] ^= 1 << (bit % 8);
        }
    }
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
async fn an_object_in_a_siblings_place_is_found_and_named() {
    let (objects, mut tally) = (archive(1), Tally::default());
    let names = objects.names();
    for (index, name) in names.iter().enumerate() {
        for sibling in names[index + 1..].iter().filter(|sibling| kind(sibling) == kind(name)) {
            let copy = objects.copy();
            copy.put(name, objects.get(sibling));
            copy.put(sibling, objects.get(name));
            let report = verified(&copy).await;
            for (place, found) in [(name, sibling), (sibling, name)] {
                let swapped = Harm::Replaced { by: "swapped with a sibling", bytes: Bytes::new() };
                tally.count(place, &swapped, is_told(&report, place));
                assert!(is_told(&report, place), "{found} in the place of {place}: {:?}", report.findings);
            }
        }
    }
}

#[tokio::test]
async fn an_object_of_another_archive_is_found_and_named() {
    let (objects, other, mut tally) = (archive(1), archive(2), Tally::default());
    let (names, others) = (objects.names(), other.names());
    assert_eq!(names.len(), others.len());
    for (name, of_other) in names.iter().zip(&others) {
        assert_eq!(kind(name), kind(of_other));
        let foreign =
            |_: &str, _: &Bytes| Some(Harm::Replaced { by: "of another archive", bytes: other.get(of_other) });
        assert_told(&objects, &Identities::none(), std::slice::from_ref(name), &mut tally, foreign).await;
    }
}

/// An object of the same name and archive, sound in itself, that another run of the agent put: what an
/// older version of the bucket may give back.
#[tokio::test]
async fn an_older_version_of_an_object_is_found() {
    let (objects, older, mut tally) = (archive(1), written_by(Writer::create_again(1)), Tally::default());
    assert_eq!(objects.names(), older.names());
    let differing: Vec<String> =
        objects.names().into_iter().filter(|name| objects.get(name) != older.get(name)).collect();
    let kinds: BTreeSet<&str> = differing.iter().map(|name| kind(name)).collect();
    assert_eq!(kinds, BTreeSet::from(["chunk", "log", "snapshot", "term"]));
    for name in differing {
        let harm = Harm::Replaced { by: "an older version", bytes: older.get(&name) };
        let copy = objects.copy();
        harm.strike(&copy, &name);
        let report = verified(&copy).await;
        let told =
            |finding: &redwind_archive::verify::Finding| finding.object == name || finding.problem.contains(&name);
        let told = report.findings.iter().any(told);
        // A chunk and its manifest disagree; which of them is wrong nobody can tell.
        let told = told || (kind(&name) == "snapshot" && damaged(&report).iter().all(|found| kind(found) == "chunk"));
        tally.count(&name, &harm, told && (report.is_damaged() || is_void(&name)));
        assert!(told && (report.is_damaged() || is_void(&name)), "{name}: {:?}", report.findings);
    }
}

#[tokio::test]
async fn a_missing_object_is_found_where_it_is_missed() {
    let (objects, mut tally) = (archive(1), Tally::default());
    let names = objects.names();
    let newest: Vec<&String> = names.iter().filter(|name| kind(name) == "log").rev().take(LAST_PAGE).collect();
    for name in &names {
        let copy = objects.copy();
        Harm::Deleted.strike(&copy, name);
        let report = verified(&copy).await;
        let behind = newest.iter().position(|last| *last == name);
        let unknowable = behind.is_some_and(|behind| behind < SEGMENTS_UNDER_WAY_MAX);
        let unmissed = unknowable || is_unknown(name) || kind(name) == "audit";
        assert_eq!(report.is_damaged(), !unmissed, "{name}: {:?}", report.findings);
        if report.is_damaged() {
            assert!(names_neighbour(&damaged(&report), name), "{name}: {:?}", report.findings);
        } else if behind.is_some_and(|behind| behind > 0 && unknowable) {
            assert!(!report.findings.is_empty(), "{name} leaves a note");
        }
        if !unmissed {
            tally.count(name, &Harm::Deleted, report.is_damaged());
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
    let pages: BTreeSet<String> = objects
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

/// What somebody else has put in an object's place costs no memory, however long it is.
#[tokio::test]
async fn an_object_longer_than_any_is_named_and_not_read() {
    let objects = archive(1);
    let names: Vec<String> = ["log", "chunk"].map(|of| of_group(&objects, &[of]).swap_remove(0)).into();
    let long = Bytes::from(vec![0; OBJECT_BYTES_MAX as usize + 1]);
    for name in &names {
        objects.put(name, long.clone());
    }
    let report = verified(&objects).await;
    for name in &names {
        let found = report.findings.iter().find(|finding| finding.object == *name).map(|found| &found.problem);
        assert!(found.is_some_and(|problem| problem.contains("longer than any")), "{:?}", report.findings);
    }
}
