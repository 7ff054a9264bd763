//! The store: whether it keeps the one promise that an archive's safety rests on, that of two puts of
//! one name exactly one succeeds, and the plainer ones.

use std::time::{Duration, Instant};

use bytes::Bytes;
use redwind_archive::catalog::find_marker;
use redwind_archive::documents::{HolderSign, HolderState};
use redwind_archive::layout::{Folder, ObjectName, Sign, SourceName, TRIAL_PREFIX};
use redwind_archive::position::Term;
use redwind_archive::store::{Put, SourceStore, Store, StoreUrl};
use redwind_archive::time::Timestamp;
use ulid::Ulid;

use super::finding::{Finding, Level, Subject};

/// Puts that race for one name, and how often.
const RACERS: u32 = 16;
const RACES: u64 = 3;
/// Slower than this and a flush a second cannot be kept up.
const PUT_SLOW: Duration = Duration::from_secs(1);
const UNFIT: &str = "use a store with conditional writes: S3, GCS, Azure, a recent MinIO, Ceph or R2, or a local disk";

fn finding(check: &'static str, level: Level, message: impl Into<String>) -> Finding {
    Finding::new(Subject::Store, check, level, message)
}

/// Tries the store in a folder of its own, which is empty again afterwards.
pub(super) async fn check(url: &StoreUrl, name: &SourceName) -> Vec<Finding> {
    let store = match Store::create(url) {
        Ok(store) => store,
        Err(error) => return vec![failure("open", error)],
    };
    let folder = format!("{TRIAL_PREFIX}{}", Ulid::generate());
    let trial = store.source(&folder.parse().expect("a ULID behind letters is a name"));
    let mut findings = match first_put(&trial).await {
        Ok(finding) => vec![finding],
        Err(failure) => return vec![failure],
    };
    findings.extend(puts_and_listing(&trial).await);
    findings.push(signs(&trial).await);
    findings.push(delete(&trial).await);
    if let Some(root) = url.folder() {
        // A folder of files outlives the files in it.
        let _ = std::fs::remove_dir(root.join(&folder).join("term"));
        let _ = std::fs::remove_dir(root.join(&folder).join("sign"));
        let _ = std::fs::remove_dir(root.join(&folder));
    }
    findings.extend(archive(&store.source(name)).await);
    findings
}

fn object(number: u64) -> ObjectName {
    ObjectName::Term(Term(number))
}

fn failure(check: &'static str, error: impl Into<anyhow::Error>) -> Finding {
    finding(check, Level::Failure, crate::exit::describe(&error.into()))
}

const FIRST: Bytes = Bytes::from_static(b"redwind check: the first of two puts of this name");

async fn first_put(trial: &SourceStore) -> Result<Finding, Finding> {
    let began = Instant::now();
    trial.put_new(&object(1), FIRST).await.map_err(|error| failure("put", error))?;
    let took = began.elapsed();
    let message = format!("a small object took {:.0} ms", took.as_secs_f64() * 1000.0);
    Ok(if took > PUT_SLOW {
        let message = format!("{message}: what is written becomes durable that much later");
        finding("put", Level::Warning, message).with_fix("use a bucket in a region near to the agent")
    } else {
        finding("put", Level::Ok, message)
    })
}

/// Each step needs the one before it: the first that fails is the last.
async fn puts_and_listing(trial: &SourceStore) -> Vec<Finding> {
    let mut findings = Vec::new();
    let outcome = async {
        findings.push(second_put(trial).await?);
        findings.push(races(trial).await?);
        findings.push(list(trial).await?);
        Ok(())
    };
    if let Err(failure) = outcome.await {
        findings.push(failure);
    }
    findings
}

async fn second_put(trial: &SourceStore) -> Result<Finding, Finding> {
    const CHECK: &str = "put-if-absent";
    let second = Bytes::from_static(b"redwind check: the second of two puts of this name");
    let put = trial.put_new(&object(1), second).await.map_err(|error| failure(CHECK, error))?;
    let found = trial.get(&object(1)).await.map_err(|error| failure(CHECK, error))?;
    if put == Put::Taken(FIRST) && found == FIRST {
        return Ok(finding(CHECK, Level::Ok, "the second put of a name is refused, and what was first stays"));
    }
    let message = "the second put of a name succeeded and replaced what was there: two agents could destroy each \
                   other's work";
    Err(finding(CHECK, Level::Failure, message).with_fix(UNFIT))
}

/// Several at once put one name: one must win, each other be told, and the winner's object stay.
async fn races(trial: &SourceStore) -> Result<Finding, Finding> {
    const CHECK: &str = "put-if-absent race";
    for race in 0..RACES {
        let name = object(2 + race);
        let mut racers = tokio::task::JoinSet::new();
        for racer in 0..RACERS {
            let (trial, name) = (trial.clone(), name.clone());
            racers.spawn(async move {
                let bytes = Bytes::from(format!("redwind check: race {race}, racer {racer:02}"));
                (bytes.clone(), trial.put_new(&name, bytes).await)
            });
        }
        let mut winners = Vec::new();
        for (bytes, put) in racers.join_all().await {
            if put.map_err(|error| failure(CHECK, error))? == Put::Stored {
                winners.push(bytes);
            }
        }
        let found = trial.get(&name).await.map_err(|error| failure(CHECK, error))?;
        if winners != [found] {
            let message = format!(
                "of {RACERS} puts of one name at the same time {} were told that they succeeded: two agents could \
                 destroy each other's work",
                winners.len()
            );
            return Err(finding(CHECK, Level::Failure, message).with_fix(UNFIT));
        }
    }
    Ok(finding(
        CHECK,
        Level::Ok,
        format!("of {RACERS} puts of one name at the same time exactly one succeeds, {RACES} times"),
    ))
}

async fn list(trial: &SourceStore) -> Result<Finding, Finding> {
    const CHECK: &str = "list";
    let mut listed: Vec<ObjectName> = trial
        .list(&Folder::Terms)
        .await
        .map_err(|error| failure(CHECK, error))?
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    listed.sort_by_key(ToString::to_string);
    let put: Vec<ObjectName> = (1..2 + RACES).map(object).collect();
    if listed == put {
        return Ok(finding(CHECK, Level::Ok, "a listing shows what was just put"));
    }
    let message = format!(
        "{} objects were put and {} are listed right after: the store is not consistent",
        put.len(),
        listed.len()
    );
    Err(finding(CHECK, Level::Failure, message).with_fix(UNFIT))
}

/// The one kind of object that is overwritten, so that agents can tell whether another one lives.
async fn signs(trial: &SourceStore) -> Finding {
    const CHECK: &str = "signs of life";
    let sign = |count| {
        let (term, writer, given) = (Term(1), Ulid::nil(), Timestamp::default());
        HolderSign { term, writer, count, given, state: HolderState::Stopped }
    };
    let given = async {
        trial.give_sign(Sign::Holder, &sign(1)).await?;
        trial.give_sign(Sign::Holder, &sign(2)).await?;
        trial.get_document::<HolderSign>(&ObjectName::Sign(Sign::Holder)).await
    };
    let problem = match given.await {
        Ok(found) if found == sign(2) => {
            return finding(CHECK, Level::Ok, "an agent can show others that it lives");
        }
        Ok(_) => "the older one is read after it was replaced".to_owned(),
        Err(error) => crate::exit::describe(&anyhow::Error::from(error)),
    };
    let message = format!("{problem}: a second agent cannot tell whether the first lives, and cannot stand by for it");
    finding(CHECK, Level::Warning, message).with_fix("allow objects below <root>/<source>/sign/ to be overwritten")
}

/// An agent deletes nothing, so that a store which forbids it is fit, and safer.
async fn delete(trial: &SourceStore) -> Finding {
    const CHECK: &str = "delete";
    for object in (1..2 + RACES).map(object).chain([ObjectName::Sign(Sign::Holder)]) {
        if let Err(error) = trial.delete(&object).await {
            let error = anyhow::Error::from(error);
            let message = format!(
                "{}: an agent needs no right to delete, but this check's objects stay behind in {trial}",
                crate::exit::describe(&error)
            );
            return finding(CHECK, Level::Warning, message)
                .with_fix(format!("delete {trial}/ with credentials that may"));
        }
    }
    match trial.list(&Folder::Terms).await {
        Ok(left) if left.is_empty() => finding(CHECK, Level::Ok, "what was put is deleted again"),
        Ok(left) => {
            finding(CHECK, Level::Warning, format!("{} deleted objects are still listed in {trial}", left.len()))
        }
        Err(error) => failure(CHECK, error),
    }
}

/// What the agent will find under its name.
async fn archive(store: &SourceStore) -> Option<Finding> {
    const CHECK: &str = "archive";
    Some(match find_marker(store).await {
        Ok(None) => finding(CHECK, Level::Ok, format!("there is none in {store} yet: an agent will make it")),
        Ok(Some(marker)) if marker.source == *store.name() => {
            finding(CHECK, Level::Ok, format!("an agent will continue that in {store}, made at {}", marker.created))
        }
        Ok(Some(marker)) => {
            let message = format!("{store} holds the archive of source {}: it was copied or renamed", marker.source);
            finding(CHECK, Level::Failure, message).with_fix(format!("--name {}, or another --store", marker.source))
        }
        Err(error) => failure(CHECK, error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_local_folder_is_fit_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let url: StoreUrl = format!("file://{}", dir.path().display()).parse().unwrap();
        let findings = check(&url, &"default".parse().unwrap()).await;
        assert!(findings.iter().all(|found| found.level == Level::Ok), "{findings:?}");
        let checks: Vec<&str> = findings.iter().map(|found| found.check).collect();
        assert_eq!(
            checks,
            ["put", "put-if-absent", "put-if-absent race", "list", "signs of life", "delete", "archive"]
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// An agent would refuse to start there.
    #[tokio::test]
    async fn an_archive_whose_own_document_is_lost_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let url: StoreUrl = format!("file://{}", dir.path().display()).parse().unwrap();
        let name: SourceName = "default".parse().unwrap();
        let store = Store::create(&url).unwrap().source(&name);
        store.put_new(&object(1), FIRST).await.unwrap();
        let findings = check(&url, &name).await;
        let told = findings.last().unwrap();
        assert_eq!((told.check, told.level), ("archive", Level::Failure), "{told:?}");
        assert!(told.message.contains("is missing although agents have written here"), "{told:?}");
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_written_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let url: StoreUrl = format!("file://{}/below", file.display()).parse().unwrap();
        let findings = check(&url, &"default".parse().unwrap()).await;
        assert_eq!(findings.len(), 1);
        assert_eq!((findings[0].check, findings[0].level), ("open", Level::Failure));
    }
}
