//! The decoder in Python that was written from `docs/format.md` alone, held against our own reading.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use redwind_archive::catalog::Catalog;
use redwind_archive::keys::{Epoch, EpochId, Identities, NewIdentity, Recipients};
use redwind_archive::plan::{RestorePlan, Target};
use redwind_archive::position::Offset;
use redwind_archive::read;
use redwind_archive::testing::{Objects, Writer, at, empty_rdb, read as arrival};

use crate::{planned_as, started, started_for};

/// The Python that runs the decoder: `REDWIND_TEST_PYTHON`, else `python3`. `None` when it cannot,
/// said as `tests/run.sh` wants to hear it.
fn python(story: &str) -> Option<PathBuf> {
    let python = std::env::var_os("REDWIND_TEST_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from);
    let works = Command::new(&python)
        .args(["-c", "import zstandard, cryptography"])
        .output()
        .is_ok_and(|run| run.status.success());
    if works {
        return Some(python);
    }
    let line = "skipped python3: needs packages: python3 -m pip install zstandard cryptography";
    // Past the capture of the test runner, which shows nothing of a test that passes.
    writeln!(std::io::stderr(), "{story}: {line}").ok();
    if let Some(path) = std::env::var_os("REDWIND_TEST_REPORT") {
        let mut report = std::fs::File::options().create(true).append(true).open(path).unwrap();
        writeln!(report, "{line}\t{story}").unwrap();
    }
    None
}

/// The decoder, and as whom it reads.
struct Decoder {
    python: PathBuf,
    identity: Option<(NewIdentity, tempfile::NamedTempFile)>,
}

impl Decoder {
    fn new(story: &str) -> Option<Self> {
        Some(Self { python: python(story)?, identity: None })
    }

    fn with_identity(story: &str) -> Option<Self> {
        let (identity, mut file) = (NewIdentity::generate(), tempfile::NamedTempFile::new().unwrap());
        file.write_all(identity.file().as_bytes()).unwrap();
        Some(Self { identity: Some((identity, file)), ..Self::new(story)? })
    }

    fn identities(&self) -> Identities {
        self.identity.as_ref().map(|(identity, _)| identity.identities()).unwrap_or_default()
    }

    fn recipients(&self) -> Recipients {
        self.identity.as_ref().map(|(identity, _)| identity.recipients()).unwrap_or_default()
    }
}

fn decode(python: &Path, arguments: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/decoder/decode.py");
    Command::new(python).arg(script).args(arguments).output().unwrap()
}

/// Decodes an archive on disk to a target in a history, next to our own plan; both must come to the
/// same base and the same bytes, or both refuse.
async fn compare(decoder: &Decoder, objects: &Objects, target: Target, name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (archive, output) = (folder.path().join("archive"), folder.path().join("output"));
    objects.write(&archive).unwrap();
    let mut arguments = vec![archive.to_str().unwrap().to_owned(), output.to_str().unwrap().to_owned()];
    match target {
        Target::Time(time) => arguments.extend(["--time".to_owned(), time.to_string()]),
        Target::Offset { offset, .. } => arguments.extend(["--offset".to_owned(), offset.to_string()]),
        _ => {}
    }
    if let Some((_, file)) = &decoder.identity {
        arguments.extend(["--identity".to_owned(), file.path().to_str().unwrap().to_owned()]);
    }
    let run = decode(&decoder.python, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    let plan = match planned_as(objects, &decoder.identities(), target, None).await {
        Ok(plan) => plan,
        Err(error) => {
            let expected = if error.is_damage() { 4 } else { 3 };
            assert_eq!(run.status.code(), Some(expected), "{name}: we say {error}; it says {said}");
            assert!(!output.exists());
            return;
        }
    };
    assert!(run.status.success(), "{name}: {said}");
    let listed = String::from_utf8_lossy(&run.stdout).into_owned();
    let restored = format!("restored {}:{} ", plan.history.history, plan.cut.offset);
    assert!(listed.contains(&restored), "{name}: not {restored:?} in {listed}");
    let aof = output.join("appendonlydir");
    assert_eq!(std::fs::read(aof.join("appendonly.aof.1.base.rdb")).unwrap(), empty_rdb());
    assert_eq!(std::fs::read(aof.join("appendonly.aof.1.incr.aof")).unwrap(), incr(objects, &plan).await, "{name}");
    let manifest = std::fs::read_to_string(aof.join("appendonly.aof.manifest")).unwrap();
    assert_eq!(manifest.lines().count(), 2);
}

/// The stream from the snapshot to the cut, as our own reader gives it.
async fn incr(objects: &Objects, plan: &RestorePlan) -> Vec<u8> {
    let store = objects.store().await.unwrap();
    let mut out = b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n".to_vec();
    for segment in &plan.segments {
        let decoded = read::read(&store, &plan.marker, &plan.keys, &segment.page, &segment.name).await.unwrap();
        for block in &decoded.blocks {
            let bytes = block.bytes().unwrap();
            let from = plan.snapshot.position.offset.since(block.start).min(bytes.len() as u64) as usize;
            let to = plan.cut.offset.since(block.start).min(bytes.len() as u64) as usize;
            out.extend(&bytes[from.min(to)..to]);
        }
    }
    out
}

/// Every boundary and instant that may make a difference, and those beside them.
async fn compare_everywhere(decoder: &Decoder, objects: &Objects, seconds: &[f64], ends: &[Offset]) {
    compare(decoder, objects, Target::Latest, "latest").await;
    for second in seconds {
        compare(decoder, objects, Target::Time(at(*second)), &format!("at {second}")).await;
    }
    for end in ends {
        for offset in [end.back(1), *end, end.advance(1)] {
            let target = Target::Offset { history: None, offset };
            compare(decoder, objects, target, &format!("offset {offset}")).await;
        }
    }
}

/// A transaction, a blur, a fenced writer's remains, and a second snapshot.
fn continued() -> (Writer, Vec<Offset>) {
    continued_for(&Recipients::default())
}

fn continued_for(recipients: &Recipients) -> (Writer, Vec<Offset>) {
    let (mut zombie, _) = started_for(recipients);
    let mut ends = vec![zombie.end()];
    zombie.segment(&[arrival(1.0, "SET a 1"), arrival(2.0, "MULTI"), arrival(2.5, "INCR a")]);
    zombie.segment(&[arrival(3.0, "EXEC")]);
    ends.push(zombie.end());
    zombie.idle(at(4.0));
    zombie.late(at(4.0));
    zombie.segment(&[arrival(20.0, "SET b 1"), arrival(20.5, "SET b 2")]);
    zombie.live();
    zombie.segment(&[arrival(21.0, "SET c 1")]);
    ends.push(zombie.end());
    let mut writer = zombie.succeed();
    zombie.idle(at(22.0));
    zombie.segment(&[arrival(23.0, "SET zombie 1")]);
    writer.segment(&[arrival(24.0, "SET d 1")]);
    writer.snapshot(at(24.0));
    // Long enough to be compressed.
    writer.segment_until(&[arrival(25.0, &format!("SET d {}", "x".repeat(500)))], at(30.0));
    ends.push(writer.end());
    (writer, ends)
}

#[tokio::test]
async fn a_decoder_written_from_the_document_restores_the_same() {
    let Some(decoder) = Decoder::new("a_decoder_written_from_the_document_restores_the_same") else { return };
    let (writer, ends) = continued();
    let seconds =
        [-1.0, 0.0, 1.0, 2.7, 3.0, 4.0, 10.0, 20.4, 20.5, 20.9, 21.0, 22.5, 23.5, 24.0, 24.5, 25.0, 30.0, 31.0];
    compare_everywhere(&decoder, &writer.objects, &seconds, &ends).await;
}

#[tokio::test]
async fn the_decoder_opens_an_encrypted_archive() {
    let Some(decoder) = Decoder::with_identity("the_decoder_opens_an_encrypted_archive") else { return };
    let (writer, ends) = continued_for(&decoder.recipients());
    compare_everywhere(&decoder, &writer.objects, &[2.7, 10.0, 22.5, 25.0], &ends).await;

    let folder = tempfile::tempdir().unwrap();
    let (archive, output) = (folder.path().join("archive"), folder.path().join("output"));
    writer.objects.write(&archive).unwrap();
    let (archive, output) = (archive.to_str().unwrap(), output.to_str().unwrap());
    assert_eq!(decode(&decoder.python, &[archive]).status.code(), Some(0), "it can be listed without an identity");
    assert_eq!(decode(&decoder.python, &[archive, output]).status.code(), Some(3), "and not restored");
}

/// The decoder run on these objects, with its identity: its exit status, and all that it says.
fn run(decoder: &Decoder, objects: &Objects, more: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let (archive, output) = (folder.path().join("archive"), folder.path().join("output"));
    objects.write(&archive).unwrap();
    let (_, identity) = decoder.identity.as_ref().unwrap();
    let paths = [archive.as_path(), &output, Path::new("--identity"), identity.path()];
    let arguments: Vec<&str> = paths.iter().map(|path| path.to_str().unwrap()).chain(more.iter().copied()).collect();
    let run = decode(&decoder.python, &arguments);
    assert_eq!(output.exists(), run.status.success());
    (run.status.code(), String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned())
}

#[tokio::test]
async fn the_decoder_with_an_identity_reads_no_plain_archive() {
    let Some(decoder) = Decoder::with_identity("the_decoder_with_an_identity_reads_no_plain_archive") else { return };
    let (status, said) = run(&decoder, &continued().0.objects, &[]);
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("not encrypted"), "{said}");
}

#[tokio::test]
async fn the_decoder_passes_over_keys_that_are_none() {
    let Some(decoder) = Decoder::with_identity("the_decoder_passes_over_keys_that_are_none") else { return };
    let (writer, _) = continued_for(&decoder.recipients());
    let objects = &writer.objects;
    let key = objects.names().into_iter().find(|name| name.starts_with("key/")).unwrap();
    let genuine = objects.get(&key);
    let epoch = key.rsplit_once('-').unwrap().0;
    let put = |object: &[u8]| objects.put(format!("{epoch}-{:08x}", crc32fast::hash(object)), object.to_vec());
    objects.put(format!("{epoch}-00000000"), &b"not what its name says"[..]);
    put(b"no age file");
    put(&[b'a'; 70 << 10]);
    put(&genuine[..genuine.len() - 1]);
    let header = genuine.windows(4).position(|window| window == b"\n---").unwrap();
    put(&[&genuine[..header], &b"\n--- \n"[..]].concat());
    // Other data keys of the epoch, before and behind the genuine one.
    let id = EpochId(epoch.strip_prefix("key/").unwrap().parse().unwrap());
    for _ in 0..4 {
        put(&Epoch::generate(id, writer.archive).wrap(&decoder.recipients()).unwrap().1);
    }
    compare(&decoder, objects, Target::Latest, "latest").await;
    objects.remove(&key);
    let (status, said) = run(&decoder, objects, &[]);
    assert_eq!(status, Some(4), "{said}");
}

#[tokio::test]
async fn the_decoder_restores_what_is_not_locked() {
    let Some(decoder) = Decoder::with_identity("the_decoder_restores_what_is_not_locked") else { return };
    let (before, _) = continued_for(&NewIdentity::generate().recipients());
    let mut writer = before.succeed_for(&decoder.recipients());
    let history = writer.begin_history(5000, at(50.0), redwind_archive::documents::Cause::BacklogLost);
    writer.snapshot(at(50.0));
    writer.segment(&[arrival(51.0, "SET e 1")]);
    let (status, said) = run(&decoder, &writer.objects, &[]);
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("locked"), "{said}");
    let (status, said) = run(&decoder, &writer.objects, &["--history", &history.to_string()]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains(&format!("restored {history}:{} ", writer.end())), "{said}");
}

#[tokio::test]
async fn the_decoder_knows_histories_and_what_they_end() {
    let Some(decoder) = Decoder::new("the_decoder_knows_histories_and_what_they_end") else { return };
    let (mut zombie, _) = started();
    zombie.segment_until(&[arrival(1.0, "SET a 1")], at(10.0));
    let mut writer = zombie.succeed();
    writer.begin_history(5000, at(19.0), redwind_archive::documents::Cause::BacklogLost);
    writer.segment(&[arrival(19.5, "SET b 1")]);
    writer.snapshot(at(20.0));
    writer.segment(&[arrival(21.0, "SET b 2")]);
    zombie.segment(&[arrival(11.0, "SET void 1")]);
    let ends = [Offset(127), writer.end()];
    compare_everywhere(&decoder, &writer.objects, &[5.0, 10.0, 11.0, 15.0, 20.0, 21.0], &ends).await;
}

#[tokio::test]
async fn the_decoder_writes_nothing_from_a_damaged_archive() {
    let Some(python) = python("the_decoder_writes_nothing_from_a_damaged_archive") else { return };
    let (writer, _) = continued();
    for name in writer.objects.names() {
        if name.starts_with("term/") {
            continue; // needed by writers only
        }
        let copy = writer.objects.copy();
        let mut bytes = copy.get(&name).to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        copy.put(&name, bytes);
        let folder = tempfile::tempdir().unwrap();
        let (archive, output) = (folder.path().join("archive"), folder.path().join("output"));
        copy.write(&archive).unwrap();
        let run = decode(&python, &[archive.to_str().unwrap(), output.to_str().unwrap(), "--offset", "127"]);
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        let names_it = said.contains(&name);
        let untouched = run.status.success();
        assert!(names_it || untouched, "{name}: {said}");
        if names_it {
            assert_eq!(run.status.code(), Some(4), "{said}");
            assert!(!output.exists() && !folder.path().join("output.partial").exists());
        }
    }
}

#[tokio::test]
async fn the_decoder_lists_the_windows_that_we_list() {
    let Some(python) = python("the_decoder_lists_the_windows_that_we_list") else { return };
    let (writer, _) = continued();
    let store = writer.objects.store().await.unwrap();
    let summary = Catalog::open(&store, &Identities::none()).await.unwrap().summary(&store).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    writer.objects.write(folder.path()).unwrap();
    let run = decode(&python, &[folder.path().to_str().unwrap()]);
    let mut expected = String::new();
    for window in &summary.windows {
        let (from, to) = (window.from_offset, window.to_offset);
        expected += &format!("window {} {from}..{to} {}..{}\n", window.history, window.from, window.complete_until);
        for snapshot in &summary.snapshots {
            expected += &format!("  snapshot {} {}\n", snapshot.offset, snapshot.time);
        }
        for blur in &summary.blurs {
            expected += &format!("  blur {}..{}\n", blur.from, blur.to);
        }
    }
    assert_eq!(String::from_utf8_lossy(&run.stdout), expected);
}
