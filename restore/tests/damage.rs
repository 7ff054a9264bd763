//! Whatever befalls an object, a restore gives what the sound archive gives, or nothing: no damaged byte,
//! and no older state in the place of the one that was asked for. And it works where the damage is not
//! on its way.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what a test prints is shown when it fails")]

use std::collections::BTreeSet;

use bytes::Bytes;
use redwind_archive::catalog::{Catalog, CatalogError};
use redwind_archive::documents::Cause;
use redwind_archive::keys::{Identities, NewIdentity, Recipients};
use redwind_archive::layout::{ObjectName, SEGMENTS_UNDER_WAY_MAX};
use redwind_archive::plan::{Choice, RestorePlan, Target, plan};
use redwind_archive::position::{HistoryId, Offset};
use redwind_archive::testing::{Forgery, Harm, Objects, Writer, at, empty_rdb, forgeries, kind, read};
use redwind_restore::Recording;

/// Two histories, two terms, a blur, a transaction over segments; four snapshots; and signs of life.
fn archive(seed: u32, recipients: &Recipients) -> Objects {
    let mut writer = Writer::create_for(seed, recipients);
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
    // Hints that anybody may overwrite, so that no restore may depend on them.
    for sign in ["sign/holder", "sign/watcher"] {
        writer.objects.put(sign, &b"redwind holder 1 2 00000000\n{}"[..]);
    }
    writer.objects
}

/// What a restore comes to.
struct Restored {
    plan: RestorePlan,
    /// The stream after the snapshot.
    stream: Vec<u8>,
}

/// Restores in memory. `Err` says why not, which is never the store's failure here.
async fn restored(
    objects: &Objects,
    identities: &Identities,
    target: Target,
    choice: Choice,
) -> Result<Restored, String> {
    let store = objects.store().await.unwrap();
    let catalog = match Catalog::open(&store, identities).await {
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

async fn sound_streams(objects: &Objects, identities: &Identities) -> Vec<Sound> {
    let store = objects.store().await.unwrap();
    let mut sound = Vec::new();
    for log in Catalog::open(&store, identities).await.unwrap().histories {
        let (history, first) = (log.start.history, &log.snapshots[0]);
        let choice = Choice { history: Some(history), snapshot: Some(first.snapshot) };
        let stream = restored(objects, identities, Target::Latest, choice).await.unwrap().stream;
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

/// Two archives of one shape, and who can open them.
struct Sample {
    objects: Objects,
    other: Objects,
    identities: Identities,
}

impl Sample {
    fn new(recipients: &Recipients, identities: Identities) -> Self {
        Self { objects: archive(1, recipients), other: archive(2, recipients), identities }
    }

    fn plain() -> Self {
        Self::new(&Recipients::default(), Identities::none())
    }

    fn encrypted() -> Self {
        let owner = NewIdentity::generate();
        Self::new(&owner.recipients(), owner.identities())
    }

    async fn restored(&self, objects: &Objects, target: Target) -> Result<Restored, String> {
        restored(objects, &self.identities, target, Choice::default()).await
    }

    /// The segments of which nobody can tell that they have arrived, should they be gone.
    fn newest(&self) -> BTreeSet<String> {
        let mut segments = self.objects.names();
        segments.retain(|name| kind(name) == "log");
        segments.into_iter().rev().take(SEGMENTS_UNDER_WAY_MAX).collect()
    }

    /// What the sound archive gives, and the names of what that needs.
    async fn whole(&self, target: Target) -> (Result<Restored, String>, BTreeSet<String>) {
        let mut names = self.objects.names();
        let whole = self.restored(&self.objects, target).await;
        let always = |name: &String| ["archive", "history", "key"].contains(&kind(name));
        let mut way: BTreeSet<String> = names.iter().filter(|name| always(name)).cloned().collect();
        names.retain(|name| kind(name) == "log");
        way.extend(whole.as_ref().map(|whole| way_of(&whole.plan, &names)).unwrap_or_default());
        (whole, way)
    }
}

/// Every nth harm to the sample's objects, and restores to the targets: so many gave the truth, and so many
/// were refused.
async fn truths_and_refusals(sample: &Sample, sound: &[Sound], targets: &[Target], step: usize) -> (u32, u32) {
    let Sample { objects, other, .. } = sample;
    let (names, newest) = (objects.names(), sample.newest());
    let (mut given, mut refused) = (0, 0);
    for target in targets {
        let (whole, way) = sample.whole(*target).await;
        for (index, name) in names.iter().enumerate() {
            for harm in harms(objects, other, name, index).into_iter().skip(index % step).step_by(step) {
                let what = format!("{target:?} with {name}: {harm:?}");
                let copy = objects.copy();
                harm.strike(&copy, name);
                let after = sample.restored(&copy, *target).await;
                let at_the_end = newest.contains(name) && harm == Harm::Deleted;
                match (&whole, after) {
                    (Ok(whole), Ok(after)) => {
                        assert_true(sound, &after, &what);
                        assert!(at_the_end || is_same(whole, &after), "{what}: an older state was restored");
                        given += 1;
                    }
                    (Ok(_), Err(why)) => {
                        assert!(way.contains(name), "{what}: refused without need: {why}");
                        refused += 1;
                    }
                    (Err(why), Ok(_)) => panic!("{what}: restored, although nothing can be: {why}"),
                    (Err(_), Err(_)) => {}
                }
            }
        }
    }
    println!("{given} restores gave the truth, {refused} were refused");
    (given, refused)
}

/// Whether both end at the same place.
fn is_same(whole: &Restored, after: &Restored) -> bool {
    (whole.plan.cut.offset, whole.plan.history.history) == (after.plan.cut.offset, after.plan.history.history)
}

#[tokio::test]
async fn a_restore_gives_the_truth_or_nothing() {
    let sample = Sample::plain();
    let sound = sound_streams(&sample.objects, &sample.identities).await;
    let (given, refused) = truths_and_refusals(&sample, &sound, &targets(&sound), 1).await;
    assert!(given > 1_000 && refused > 100, "{given} given, {refused} refused");
}

/// Some of the targets and harms: opening the keys takes longer than all the rest.
#[tokio::test]
async fn a_restore_of_an_encrypted_archive_gives_the_truth_or_nothing() {
    let sample = Sample::encrypted();
    let sound = sound_streams(&sample.objects, &sample.identities).await;
    let targets: Vec<Target> = targets(&sound).into_iter().step_by(3).collect();
    let (given, refused) = truths_and_refusals(&sample, &sound, &targets, 3).await;
    assert!(given > 100 && refused > 50, "{given} given, {refused} refused");
}

/// Whoever can put into the bucket and has no key cannot make a restore give anything else.
#[tokio::test]
async fn a_restore_of_a_forged_archive_gives_the_truth_or_nothing() {
    let sample = Sample::encrypted();
    let sound = sound_streams(&sample.objects, &sample.identities).await;
    let (newest, mut given, mut refused) = (sample.newest(), 0, 0);
    for target in [Target::Latest, Target::Time(at(3.2)), Target::Time(at(53.5))] {
        let (whole, _) = sample.whole(target).await;
        let whole = whole.unwrap();
        for name in sample.objects.names() {
            for Forgery { what, object, objects } in forgeries(&sample.objects, &sample.other, &name) {
                match sample.restored(&objects, target).await {
                    Ok(after) => {
                        assert_true(&sound, &after, what);
                        // Under another name it leaves its own place empty, as if it had not arrived yet.
                        let at_the_end = object != name && newest.contains(&name);
                        assert!(at_the_end || is_same(&whole, &after), "{what}: {object}: another state was restored");
                        given += 1;
                    }
                    Err(_) => refused += 1,
                }
            }
        }
    }
    println!("{given} restores gave the truth, {refused} were refused");
    assert!(given > 50 && refused > 50, "{given} given, {refused} refused");
}
