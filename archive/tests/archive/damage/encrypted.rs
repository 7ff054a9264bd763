//! The same for an encrypted archive: whoever has no identity finds what rots, and whoever has one finds
//! what is forged, too.

use redwind_archive::keys::NewIdentity;
use redwind_archive::testing::{Forgery, forgeries};

use super::*;

/// With an identity fewer places are tried: opening the keys takes longer than all the rest.
const STEP: usize = 23;

/// An encrypted archive with everything in it, and who can open it.
pub(super) struct Sample {
    pub(super) objects: Objects,
    owner: NewIdentity,
}

impl Sample {
    pub(super) fn new() -> Self {
        let owner = NewIdentity::generate();
        Self { objects: written_by(Writer::create_for(1, &owner.recipients())), owner }
    }

    fn readers(&self) -> [Identities; 2] {
        [Identities::none(), self.owner.identities()]
    }
}

async fn every_change_is_named_by_each_reader(group: &[&str]) {
    let sample = Sample::new();
    let [without, with] = sample.readers();
    every_nth_change_is_named(&sample.objects, &without, group, 3).await;
    every_nth_change_is_named(&sample.objects, &with, group, STEP).await;
}

#[tokio::test]
async fn every_change_of_a_marker_or_history_is_found_and_named() {
    every_change_is_named_by_each_reader(GROUPS[0]).await;
    every_change_is_named_by_each_reader(GROUPS[1]).await;
}

#[tokio::test]
async fn every_change_of_a_manifest_is_found_and_named() {
    every_change_is_named_by_each_reader(GROUPS[2]).await;
}

#[tokio::test]
async fn every_change_of_any_other_object_is_found_and_named() {
    every_change_is_named_by_each_reader(GROUPS[3]).await;
}

#[test]
fn no_object_with_a_flipped_bit_is_decoded() {
    assert_no_flipped_bit_is_decoded(&Sample::new().objects);
}

#[tokio::test]
async fn in_a_sound_archive_only_what_was_not_opened_is_told() {
    let sample = Sample::new();
    let [without, with] = sample.readers();
    let report = verified_by(&sample.objects, &with).await;
    assert_eq!(report.findings, []);
    assert_eq!((report.undecrypted, report.unauthenticated), (0, 0));
    let report = verified_by(&sample.objects, &without).await;
    assert_eq!((damaged(&report).len(), report.findings.len()), (0, 1));
    assert_eq!(report.unauthenticated, 5, "two histories and three manifests");
}

/// A missing key is told by its epoch, everything else as in an archive that is not encrypted.
#[tokio::test]
async fn a_missing_object_is_missed_with_and_without_an_identity() {
    let sample = Sample::new();
    let names = sample.objects.names();
    let newest: Vec<&String> = names.iter().filter(|name| kind(name) == "log").rev().take(LAST_PAGE).collect();
    for (name, identities) in names.iter().flat_map(|name| sample.readers().map(|identities| (name, identities))) {
        let copy = sample.objects.copy();
        Harm::Deleted.strike(&copy, name);
        let report = verified_by(&copy, &identities).await;
        let unknowable = newest.iter().position(|last| *last == name).is_some_and(|at| at < SEGMENTS_UNDER_WAY_MAX);
        let unmissed = unknowable || is_unknown(name) || kind(name) == "audit";
        assert_eq!(report.is_damaged(), !unmissed, "{name}: {:?}", report.findings);
        if kind(name) == "key" {
            assert_eq!(damaged(&report), [name.rsplit_once('-').unwrap().0]);
        }
    }
}

#[tokio::test]
async fn an_object_in_a_siblings_place_is_found_and_named() {
    let sample = Sample::new();
    let names = sample.objects.names();
    for (index, name) in names.iter().enumerate() {
        let sibling = names[index + 1..].iter().find(|sibling| kind(sibling) == kind(name));
        for (sibling, identities) in sample.readers().iter().filter_map(|reader| Some((sibling?, reader))) {
            let copy = sample.objects.copy();
            copy.put(name, sample.objects.get(sibling));
            copy.put(sibling, sample.objects.get(name));
            let report = verified_by(&copy, identities).await;
            for place in [name, sibling] {
                assert!(is_told(&report, place), "{name} and {sibling}: {:?}", report.findings);
            }
        }
    }
}

/// As for an archive that is not encrypted; the keys of both runs are there.
#[tokio::test]
async fn an_older_version_of_an_object_is_found() {
    let sample = Sample::new();
    let older = written_by(Writer::create_again_for(1, &sample.owner.recipients()));
    let mut objects = older.names();
    objects.retain(|name| kind(name) == "key");
    objects.iter().for_each(|key| sample.objects.put(key, older.get(key)));
    for name in older.names().iter().filter(|name| ["log", "chunk"].contains(&kind(name)) && !is_void(name)) {
        let copy = sample.objects.copy();
        copy.put(name, older.get(name));
        for identities in sample.readers() {
            let report = verified_by(&copy, &identities).await;
            assert!(report.is_damaged(), "{name}: {:?}", report.findings);
        }
    }
}

#[tokio::test]
async fn whatever_is_forged_is_found_by_one_who_has_an_identity() {
    let sample = Sample::new();
    let other = written_by(Writer::create_for(2, &sample.owner.recipients()));
    let (mut tally, mut unseen) = (BTreeMap::<(String, &str), u32>::new(), BTreeSet::new());
    for name in sample.objects.names().iter().filter(|name| !is_unknown(name)) {
        for Forgery { what, object, objects } in forgeries(&sample.objects, &other, name) {
            let [without, with] = sample.readers();
            let report = verified_by(&objects, &with).await;
            let named =
                report.findings.iter().any(|finding| finding.object == object || finding.problem.contains(&object));
            assert!(named && report.is_damaged(), "{what}: {object} in the place of {name}: {:?}", report.findings);
            *tally.entry((kind(name).to_owned(), what)).or_default() += 1;
            if !verified_by(&objects, &without).await.is_damaged() {
                unseen.insert((kind(name).to_owned(), what));
            }
        }
    }
    tally.iter().for_each(|((kind, what), forged)| println!("| {kind} | {what} | {forged} |"));
    println!("without an identity some of these are not seen: {unseen:?}");
    assert!(tally.len() >= 15, "{tally:?}");
}

/// What nobody can tell from a change of recipients is not called sound either.
#[tokio::test]
async fn what_cannot_be_opened_is_counted() {
    let sample = Sample::new();
    let stranger = written_by(Writer::create_for(1, &NewIdentity::generate().recipients()));
    let key = |objects: &Objects| objects.names().into_iter().find(|name| kind(name) == "key").unwrap();
    sample.objects.remove(key(&sample.objects));
    sample.objects.put(key(&stranger), stranger.get(&key(&stranger)));
    let report = verified_by(&sample.objects, &sample.owner.identities()).await;
    assert_eq!(report.undecrypted, 8 + 3, "the first writer's segments, two of them empty, and chunks");
    assert_eq!(report.unauthenticated, 2, "its history and its manifest");
    assert!(report.findings.iter().any(|finding| finding.problem.contains("not decrypted")));
}

/// Signs of life are hints: nothing is said of them, whatever they hold.
#[tokio::test]
async fn damaged_signs_of_life_are_nobodys_damage() {
    for objects in [archive(1), Sample::new().objects] {
        let before = verified(&objects).await.findings;
        for sign in ["sign/holder", "sign/watcher"] {
            objects.put(sign, &b"redwind holder 1 2 00000000\n{}"[..]);
        }
        assert_eq!(verified(&objects).await.findings, before);
    }
}
