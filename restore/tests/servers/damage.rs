//! Archives that have lost something or hold something else: named, and never restored from.

use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use redwind_archive::plan::Target;
use redwind_restore::aof::{self, AofDestination};
use redwind_restore::{Progress, RestoreError};
use redwind_tests::on_each_flavor;
use redwind_tests::server::Server;
use redwind_tests::servers::Flavor;

use crate::capture::{Archive, Capture};
use crate::{block_on, recording};

/// The objects whose names hold `part`, sorted.
async fn named(archive: &Archive, part: &str) -> Vec<Path> {
    let listed = futures::TryStreamExt::try_collect::<Vec<_>>(archive.objects.list(None)).await.unwrap();
    let names = listed.into_iter().map(|meta| meta.location);
    let mut names: Vec<Path> = names.filter(|name| name.to_string().contains(part)).collect();
    names.sort();
    names
}

pub(crate) async fn remove_first_segment(archive: &Archive) {
    archive.objects.delete(&named(archive, "/log/").await[0]).await.unwrap();
}

async fn read(archive: &Archive, name: &Path) -> Vec<u8> {
    archive.objects.get(name).await.unwrap().bytes().await.unwrap().to_vec()
}

async fn write(archive: &Archive, name: &Path, bytes: Vec<u8>) {
    archive.objects.put(name, Bytes::from(bytes).into()).await.unwrap();
}

fn damage_is_named_and_nothing_appears(flavor: &Flavor) {
    let source = Server::start(flavor);
    let mut cli = source.cli();
    // Random, so that nothing gets smaller by compression.
    let value = |seed: u64| {
        let mut rng = fastrand::Rng::with_seed(seed);
        (0..50_000).map(|_| rng.u8(..)).collect::<Vec<u8>>()
    };
    for n in 0..60 {
        cli.command(&[b"SET".to_vec(), format!("before:{n}").into_bytes(), value(n)]);
    }
    let capture = Capture::attach(&source);
    for n in 0..60 {
        cli.command(&[b"SET".to_vec(), format!("after:{n}").into_bytes(), value(n)]);
        if n % 10 == 0 {
            capture.wait_for(cli.offset());
        }
    }
    capture.wait_for(cli.offset());

    for part in ["/log/", "/chunk/"] {
        for harm in ["flip", "cut", "remove", "swap"] {
            let archive = capture.archive();
            let folder = tempfile::tempdir().unwrap();
            let (error, harmed) = block_on(async {
                let recording = recording(&archive, Target::Latest).await;
                let names = named(&archive, part).await;
                assert!(names.len() > 2, "{names:?}");
                let (victim, other) = (&names[1], &names[0]);
                let mut bytes = read(&archive, victim).await;
                match harm {
                    "flip" => {
                        let middle = bytes.len() / 2;
                        bytes[middle] ^= 4;
                        write(&archive, victim, bytes).await;
                    }
                    "cut" => write(&archive, victim, bytes[..bytes.len() - 9].to_vec()).await,
                    "remove" => archive.objects.delete(victim).await.unwrap(),
                    _ => write(&archive, victim, read(&archive, other).await).await,
                }
                let to = AofDestination::check(&folder.path().join("data"), false).unwrap();
                let progress = Progress::default();
                let writing = aof::write(&recording, to, &progress);
                let outcome = tokio::time::timeout(Duration::from_secs(60), writing).await.unwrap();
                (outcome.unwrap_err(), victim.clone())
            });
            assert!(error.is_damage(), "{part} {harm}: {error:?}");
            assert!(error.to_string().contains(&harmed.to_string()), "{part} {harm}: {error}");
            assert!(matches!(error, RestoreError::Fetch(_)));
            let left = std::fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(left, 0, "{part} {harm}: nothing appears");
        }
    }
}

on_each_flavor!(damage_is_named_and_nothing_appears: redis_7_0);
