//! Fuzzing of parsers on the stable toolchain, over a corpus that is kept.
//!
//! A [`Fuzz`] feeds a parser with the files of `tests/corpus/<parser>/` and with seeds made by the
//! test, and then with mutations of both. Without the coverage that a nightly compiler would tell, it
//! goes by outcomes: an input whose outcome (the parser's result as text, its numbers left out) was not
//! seen before is mutated further. Checksums would stop every mutation at the door, so half of them are
//! repaired first by what the test gives.
//!
//! For every input it asserts that the parser
//! - does not panic,
//! - ends, and soon,
//! - has never more memory at once than the input's length allows, whatever lengths the input claims.
//!
//! What else holds (any division into pieces gives the same, what was decoded is encoded the same way)
//! the parser under test asserts itself, by panicking.
//!
//! An input that breaks this is written into the corpus and replayed from then on. With
//! `REDWIND_FUZZ_SECONDS` the mutations go on for so long per parser instead of a fixed number of
//! rounds, and short inputs with new outcomes are kept in the corpus too.

mod mutate;
mod outcome;

use std::collections::BTreeSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Mutations in an ordinary run of the tests.
const ROUNDS: u32 = 1_500;
/// How long one input may take, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest input that mutations grow to.
const INPUT_BYTES_MAX: usize = 64 << 10;
/// Longest input that is kept for its outcome.
const KEPT_BYTES_MAX: usize = 2 << 10;
/// Files in the corpus of a parser, beyond which none is added for its outcome.
const KEPT_MAX: usize = 48;
/// Inputs that are mutated; the oldest of those that were found make room.
const POPULATION_MAX: usize = 2_000;

/// How much memory a parser may have at once, for an input of some length.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Whatever the input.
    pub bytes: u64,
    /// For each byte of it.
    pub per_byte: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self { bytes: 64 << 10, per_byte: 64 }
    }
}

/// The fuzzing of one parser; see the crate.
pub struct Fuzz {
    parser: &'static str,
    seeds: Vec<Vec<u8>>,
    repair: fn(&mut Vec<u8>),
    memory: Memory,
}

impl Fuzz {
    /// Fuzzes the parser whose corpus lies in the folder of that name.
    #[must_use]
    pub fn of(parser: &'static str) -> Self {
        Self { parser, seeds: Vec::new(), repair: |_| {}, memory: Memory::default() }
    }

    /// Adds inputs that the test makes.
    #[must_use]
    pub fn seeds(mut self, seeds: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        self.seeds.extend(seeds.into_iter().map(Into::into));
        self
    }

    /// Makes mutations pass what would stop all of them, such as a checksum.
    #[must_use]
    pub fn repaired_by(mut self, repair: fn(&mut Vec<u8>)) -> Self {
        self.repair = repair;
        self
    }

    /// Allows more memory than [`Memory::default`].
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// Runs the parser, which tells its outcome as text.
    ///
    /// # Panics
    /// When an input breaks a promise; the message names the file that it was written to.
    pub fn run(self, parse: impl Fn(&[u8]) -> String + Send + 'static) {
        let current = Arc::new(Mutex::new(Current::default()));
        let (parser, shown) = (self.parser, Arc::clone(&current));
        let worker = thread::spawn(move || Run::new(self, parse, current).all());
        while !worker.is_finished() {
            thread::sleep(Duration::from_millis(20));
            let current = shown.lock().unwrap_or_else(PoisonError::into_inner);
            if current.since.is_some_and(|since| since.elapsed() > PATIENCE) {
                fail(parser, &current.input, "takes longer than a minute");
            }
        }
        if let Err(panic) = worker.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// The input at hand.
#[derive(Default)]
struct Current {
    input: Vec<u8>,
    since: Option<Instant>,
}

struct Run<P> {
    fuzz: Fuzz,
    parse: P,
    current: Arc<Mutex<Current>>,
    population: Vec<Vec<u8>>,
    /// How many of them are from the corpus and the test, and stay.
    given: usize,
    outcomes: BTreeSet<String>,
    random: fastrand::Rng,
}

impl<P: Fn(&[u8]) -> String> Run<P> {
    fn new(fuzz: Fuzz, parse: P, current: Arc<Mutex<Current>>) -> Self {
        let population: Vec<Vec<u8>> = corpus(fuzz.parser).into_iter().chain(fuzz.seeds.iter().cloned()).collect();
        assert!(!population.is_empty(), "there is no corpus for {}", fuzz.parser);
        let seed = std::env::var("REDWIND_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
        #[expect(clippy::print_stdout, reason = "tells a failed test's seed")]
        {
            println!("{}: REDWIND_TEST_SEED={seed}", fuzz.parser);
        }
        let random = fastrand::Rng::with_seed(seed);
        let given = population.len();
        Self { fuzz, parse, current, population, given, outcomes: BTreeSet::new(), random }
    }

    fn all(mut self) {
        for index in 0..self.given {
            let input = self.population[index].clone();
            self.check(&input);
        }
        let seconds = std::env::var("REDWIND_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
        match seconds.map(Duration::from_secs) {
            Some(lasting) => {
                let (began, mut kept) = (Instant::now(), corpus(self.fuzz.parser).len());
                while began.elapsed() < lasting {
                    let found = self.round().filter(|found| found.len() <= KEPT_BYTES_MAX && kept < KEPT_MAX);
                    if let Some(found) = found {
                        keep(self.fuzz.parser, "outcome", &found);
                        kept += 1;
                    }
                }
            }
            None => (0..ROUNDS).for_each(|_| drop(self.round())),
        }
    }

    /// Checks one mutation; gives it if its outcome is new.
    fn round(&mut self) -> Option<Vec<u8>> {
        let mut input = self.population[self.random.usize(..self.population.len())].clone();
        for _ in 0..self.random.usize(1..=4) {
            let other = &self.population[self.random.usize(..self.population.len())];
            mutate::mutate(&mut input, other, &mut self.random);
        }
        input.truncate(INPUT_BYTES_MAX);
        if self.random.bool() {
            (self.fuzz.repair)(&mut input);
        }
        if !self.check(&input) {
            return None;
        }
        if self.population.len() == POPULATION_MAX {
            let replaced = self.random.usize(self.given.min(POPULATION_MAX - 1)..POPULATION_MAX);
            self.population.swap_remove(replaced);
        }
        self.population.push(input.clone());
        Some(input)
    }

    /// Parses an input; tells whether its outcome is new.
    fn check(&mut self, input: &[u8]) -> bool {
        self.note(Current { input: input.to_vec(), since: Some(Instant::now()) });
        let mut outcome = None;
        let memory = allocation_counter::measure(|| {
            outcome = Some(catch_unwind(AssertUnwindSafe(|| (self.parse)(input))));
        });
        self.note(Current::default());
        let outcome = match outcome {
            Some(Ok(outcome)) => outcome,
            Some(Err(panic)) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or_default();
                fail(self.fuzz.parser, input, &format!("makes the parser panic: {text}"))
            }
            None => unreachable!("measuring runs what it measures"),
        };
        let Memory { bytes, per_byte } = self.fuzz.memory;
        let allowed = bytes + per_byte * input.len() as u64;
        if memory.bytes_max > allowed {
            fail(self.fuzz.parser, input, &format!("makes it take {} bytes; {allowed} are allowed", memory.bytes_max));
        }
        self.outcomes.insert(outcome::shape(&outcome))
    }

    fn note(&self, current: Current) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = current;
    }
}

/// Divides an input into pieces, always the same ones for the same input: as a connection brings bytes.
#[must_use]
pub fn pieces(input: &[u8]) -> Vec<&[u8]> {
    let mut random = fastrand::Rng::with_seed(outcome::hash(input));
    let longest = [1, 3, 40, 1000][random.usize(..4)];
    let mut pieces = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(random.usize(1..=longest).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// Where the four bytes of a checksum go, and what it covers, as far as there is room; to repair a
/// mutation.
pub fn put_crc32(bytes: &mut [u8], covered: Range<usize>, at: usize, crc32: impl Fn(&[u8]) -> u32) {
    let Some(checksum) = bytes.get(covered).map(crc32) else { return };
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&checksum.to_le_bytes());
    }
}

fn folder(parser: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus").join(parser)
}

/// The inputs in the corpus of a parser, in the order of their names.
fn corpus(parser: &str) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(folder(parser)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let read = |path: &PathBuf| std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    paths.iter().map(read).collect()
}

/// Writes an input into the corpus; gives its path.
fn keep(parser: &str, why: &str, input: &[u8]) -> PathBuf {
    let folder = folder(parser);
    let path = folder.join(format!("{why}-{:016x}", outcome::hash(input)));
    let kept = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, input));
    kept.unwrap_or_else(|error| panic!("cannot keep {}: {error}", path.display()));
    path
}

fn fail(parser: &str, input: &[u8], what: &str) -> ! {
    let path = keep(parser, "broke", input);
    panic!("{parser}: {} {what}", path.display())
}

#[cfg(test)]
mod tests;
