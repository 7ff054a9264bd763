//! Whatever befalls an object, a restore gives what the sound archive gives, or nothing: no damaged byte,
//! and no older state in the place of the one that was asked for. And it works where the damage is not
//! on its way.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;

use bytes::Bytes;
use redwind_archive::catalog::{Catalog, CatalogError};
use redwind_archive::documents::Cause;
use redwind_archive::keys::Identities;
use redwind_archive::layout::{ObjectName, SEGMENTS_UNDER_WAY_MAX};
use redwind_archive::plan::{Choice, RestorePlan, Target, plan};
use redwind_archive::position::{HistoryId, Offset};
use redwind_archive::testing::{Harm, Objects, Writer, at, empty_rdb, kind, read};
use redwind_restore::Recording;

/// Two histories, two terms, a blur, a transaction over segments; four snapshots.
fn archive(seed: u32) -> Objects {
    let mut writer = Writer::create(seed);
    writer.begin_history(100, at(0.0), Cause::First);
    writer.snapshot(at(0.5));
    for second in 1..6 {
        writer.segment(&[read(f64::from(second), "SET a 1"), read(f64::from(second) + 0.5, "INCR a")]);
    }
    writer.segment(&[read(6.0, "MULTI"), read(6.1, "SET b 1")]);
    writer.segment(&[read(7.0, "EXEC")]);
    writer.snapshot(at(7.0));
    writer.late(at(7.0));
    writer.segment(&[read(30.0, "SET c 1")]);
    let mut writer = writer.succeed();
    writer.segment(&[read(35.0, "SET d 1")]);
    writer.segment(&[read(36.0, "SET d 2")]);
    writer.begin_history(5000, at(50.0), Cause::BacklogLost);
    writer.snapshot(at(50.5));
    for second in 51..64 {
        writer.segment(&[read(f64::from(second), "SET e 1")]);
        if second == 54 {
            writer.snapshot(at(54.0));
        }
    }
    writer.audit(at(64.0));
    writer.objects
}

/// What a restore comes to.
struct Restored {
    plan: RestorePlan,
    /// The stream after the snapshot.
    stream: Vec<u8>,
}

/// Restores in memory. `Err` says why not, which is never the store's failure here.
async fn restored(objects: &Objects, target: Target, choice: Choice) -> Result<Restored, String> {
    let store = objects.store().await.unwrap();
    let catalog = match Catalog::open(&store, &Identities::none()).await {
        Ok(catalog) => catalog,
        Err(CatalogError::Store(error)) if !error.is_damage() => panic!("{error}"),
        Err(error) => return Err(error.to_string()),
    };
    let plan = match plan(&store, &catalog, target, choice).await {
        Ok(plan) => plan,
        Err(error) => {
            assert!(error.is_damage() || error.is_refusal(), "{error:?}");
            return Err(error.to_string());
        }
    };
    let recording = Recording::new(store, plan.clone());
    let (mut rdb, mut stream) = (Vec::new(), Vec::new());
    let mut chunks = recording.rdb();
    let mut pieces = recording.stream();
    let read = async {
        while let Some(piece) = chunks.next().await? {
            rdb.extend_from_slice(&piece.bytes);
        }
        while let Some(piece) = pieces.next().await? {
            stream.extend_from_slice(&piece.piece.bytes);
        }
        Ok::<_, redwind_restore::fetch::FetchError>(())
    };
    match read.await {
        Ok(()) => assert_eq!(rdb, empty_rdb(), "the snapshot is what it was"),
        Err(error) => {
            assert!(error.is_damage(), "{error:?}");
            return Err(error.to_string());
        }
    }
    Ok(Restored { plan, stream })
}

/// The sound stream of a history, from its first snapshot on.
struct Sound {
    history: HistoryId,
    from: Offset,
    stream: Vec<u8>,
}

async fn sound_streams(objects: &Objects) -> Vec<Sound> {
    let store = objects.store().await.unwrap();
    let mut sound = Vec::new();
    for log in Catalog::open(&store, &Identities::none()).await.unwrap().histories {
        let (history, first) = (log.start.history, &log.snapshots[0]);
        let choice = Choice { history: Some(history), snapshot: Some(first.snapshot) };
        let stream = restored(objects, Target::Latest, choice).await.unwrap().stream;
        sound.push(Sound { history, from: first.offset, stream });
    }
    sound
}

/// Fails unless every byte of a restore is what the sound archive has there.
fn assert_true(sound: &[Sound], restored: &Restored, what: &str) {
    let plan = &restored.plan;
    let sound = sound.iter().find(|sound| sound.history == plan.history.history).unwrap();
    let [from, to] = [plan.snapshot.position.offset, plan.cut.offset].map(|at| at.since(sound.from) as usize);
    assert_eq!(restored.stream, &sound.stream[from..to], "{what}: other bytes");
}

/// Names of what a restore to the plan reads, and of the segments that touch it, where a cut may be looked
/// for.
fn way_of(plan: &RestorePlan, segments: &[String]) -> BTreeSet<String> {
    let snapshot = plan.snapshot.snapshot;
    let chunks = (0..plan.snapshot.chunks.len() as u32).map(|number| ObjectName::Chunk(snapshot, number).to_string());
    let mut way: BTreeSet<String> = chunks.collect();
    way.insert(ObjectName::Manifest(plan.snapshot.name()).to_string());
    let touches = |name: &&String| match ObjectName::parse(name) {
        Some(ObjectName::Segment(page, segment)) => {
            page.history == plan.history.history
                && segment.end >= plan.snapshot.position.offset
                && segment.start <= plan.cut.offset
        }
        _ => false,
    };
    way.extend(segments.iter().filter(touches).cloned());
    way
}

/// What may befall an object, given its siblings and an archive of the same shape.
fn harms(objects: &Objects, other: &Objects, name: &str, index: usize) -> Vec<Harm> {
    let good = objects.get(name);
    let bits = (0..4).map(|nth| Harm::FlippedBit((index * 7919 + nth * 104_729) % (good.len() * 8)));
    let cuts = [0, good.len() / 3, good.len() - 1].map(Harm::CutTo);
    let mut harms: Vec<Harm> = bits.chain(cuts).collect();
    harms.extend([Harm::Zeroes, Harm::Garbage(Bytes::from_static(b"\0\n")), Harm::Deleted]);
    let siblings = objects.names().into_iter().filter(|sibling| kind(sibling) == kind(name) && sibling != name);
    harms.extend(siblings.take(1).map(|sibling| Harm::Replaced { by: "a sibling", bytes: objects.get(&sibling) }));
    let of_other = other.names().into_iter().nth(index).map(|of_other| other.get(&of_other));
    harms.extend(of_other.map(|bytes| Harm::Replaced { by: "of another archive", bytes }));
    harms
}

fn targets(sound: &[Sound]) -> Vec<Target> {
    let mut targets = vec![Target::Latest, Target::Time(at(3.2)), Target::Time(at(20.0)), Target::Time(at(53.5))];
    for sound in sound {
        for part in [0, 1, 2, 3] {
            let offset = sound.from.advance(sound.stream.len() as u64 * part / 3);
            targets.push(Target::Offset { history: None, offset });
        }
    }
    targets
}

#[tokio::test]
async fn a_restore_gives_the_truth_or_nothing() {
    let (objects, other) = (archive(1), archive(2));
    let sound = sound_streams(&objects).await;
    let names = objects.names();
    let segments: Vec<String> = names.iter().filter(|name| kind(name) == "log").cloned().collect();
    let newest: BTreeSet<&String> = segments.iter().rev().take(SEGMENTS_UNDER_WAY_MAX).collect();
    let (mut given, mut refused) = (0, 0);
    for target in targets(&sound) {
        let whole = restored(&objects, target, Choice::default()).await;
        let way = whole.as_ref().map(|whole| way_of(&whole.plan, &segments)).unwrap_or_default();
        for (index, name) in names.iter().enumerate() {
            for harm in harms(&objects, &other, name, index) {
                let what = format!("{target:?} with {name}: {harm:?}");
                let copy = objects.copy();
                harm.strike(&copy, name);
                let after = restored(&copy, target, Choice::default()).await;
                let at_the_end = newest.contains(name) && harm == Harm::Deleted;
                match (&whole, after) {
                    (Ok(whole), Ok(after)) => {
                        assert_true(&sound, &after, &what);
                        let same = after.plan.cut.offset == whole.plan.cut.offset
                            && after.plan.history.history == whole.plan.history.history;
                        assert!(same || at_the_end, "{what}: an older state was restored");
                        given += 1;
                    }
                    (Ok(_), Err(why)) => {
                        let needed = way.contains(name) || ["archive", "history"].contains(&kind(name));
                        assert!(needed, "{what}: refused without need: {why}");
                        refused += 1;
                    }
                    (Err(why), Ok(_)) => panic!("{what}: restored, although nothing can be: {why}"),
                    (Err(_), Err(_)) => {}
                }
            }
        }
    }
    println!("{given} restores gave the truth, {refused} were refused");
    assert!(given > 1_000 && refused > 100, "{given} given, {refused} refused");
}
