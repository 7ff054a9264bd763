//! A seeded stream of writes over everything a server can hold.
//!
//! The same seed and flavor give the same commands. Keys are few, so that they are overwritten,
//! moved and expired again and again, and their names say the type of what is under them, so that
//! commands meet values they can work on.

mod data;
mod keyspace;
mod scripts;
mod special;

use fastrand::Rng;
use redis::Value;

use crate::server::Cli;
use crate::servers::Flavor;

/// One command's arguments.
pub type Command = Vec<Vec<u8>>;

/// A command of words and bytes: `command!["SET", key, value]`.
macro_rules! command {
    ($($word:expr),+ $(,)?) => {
        vec![$(AsRef::<[u8]>::as_ref(&$word).to_vec()),+]
    };
}
pub(crate) use command;

/// A family of operations: the commands of one step, sent together.
type Family = fn(&mut Workload) -> Vec<Command>;

/// Families with how often each is chosen.
const FAMILIES: &[(u32, Family)] = &[
    (12, data::strings),
    (4, data::counters),
    (8, data::lists),
    (8, data::sets),
    (8, data::sorted_sets),
    (10, data::hashes),
    (6, data::hash_field_expiries),
    (3, data::bits_and_hyperloglogs),
    (2, data::geo),
    (8, special::streams),
    (3, special::binary),
    (1, special::megabyte),
    (4, special::transaction),
    (1, special::large_transaction),
    (4, special::published),
    (3, scripts::scripts),
    (3, scripts::functions),
    (10, keyspace::expiries),
    (6, keyspace::moves),
    (4, keyspace::deletions),
    (1, keyspace::whole_databases),
];

/// What only a server with graphs is asked for.
const GRAPHS: (u32, Family) = (15, special::graphs);

/// Writes to one server, over several databases.
#[derive(Debug)]
pub struct Workload {
    rng: Rng,
    seed: u64,
    flavor: Flavor,
    steps: u64,
}

impl Workload {
    /// A workload that `flavor` can execute. The seed is printed, so that a failing test shows it.
    pub fn new(seed: u64, flavor: &Flavor) -> Self {
        println!("workload seed {seed} on {flavor}");
        Self { rng: Rng::with_seed(seed), seed, flavor: flavor.clone(), steps: 0 }
    }

    /// A workload whose seed is `REDWIND_TEST_SEED`, or a new one.
    pub fn any(flavor: &Flavor) -> Self {
        let given = std::env::var("REDWIND_TEST_SEED").ok();
        let seed = given.and_then(|seed| seed.parse().ok());
        Self::new(seed.unwrap_or_else(|| fastrand::u64(..)), flavor)
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// One operation of every family, and one value of 10 MB: nothing is left to chance.
    pub fn prelude(&mut self, cli: &mut Cli) {
        for (_, family) in families(&self.flavor) {
            for _ in 0..4 {
                self.perform(cli, family);
            }
        }
        let value = self.random_bytes(10 << 20);
        self.send(cli, &[command!["SET", "string:10MB", value]]);
    }

    /// One random operation: a command, a transaction or a few commands together.
    pub fn step(&mut self, cli: &mut Cli) {
        let families: Vec<_> = families(&self.flavor).collect();
        let total: u32 = families.iter().map(|(weight, _)| weight).sum();
        let mut chosen = self.rng.u32(0..total);
        for (weight, family) in families {
            if chosen < weight {
                return self.perform(cli, family);
            }
            chosen -= weight;
        }
    }

    /// `count` random operations.
    pub fn run(&mut self, cli: &mut Cli, count: usize) {
        for _ in 0..count {
            self.step(cli);
        }
    }

    fn perform(&mut self, cli: &mut Cli, family: Family) {
        self.steps += 1;
        let mut commands = Vec::new();
        // now and then another database; 9 is the one that FLUSHDB and SWAPDB work on
        if self.rng.u8(..) < 60 {
            let database = self.pick(&["0", "0", "1", "3", "9"]);
            commands.push(command!["SELECT", database]);
        }
        commands.extend(family(self));
        self.send(cli, &commands);
    }

    /// Sends commands and checks that whatever was refused was well-formed.
    fn send(&self, cli: &mut Cli, commands: &[Command]) {
        let replies = cli.pipeline(commands);
        for (command, reply) in commands.iter().zip(&replies) {
            let Value::ServerError(error) = reply else { continue };
            let text = format!("{error:?}").to_lowercase();
            let broken = ["unknown", "syntax", "wrong number", "noperm", "loading", "misconf"];
            let words: Vec<_> = command.iter().take(4).map(|word| word.escape_ascii().to_string()).collect();
            assert!(
                !broken.iter().any(|broken| text.contains(broken)),
                "seed {}: {} is refused: {text}",
                self.seed,
                words.join(" ")
            );
        }
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.rng.usize(0..choices.len())]
    }

    /// One of a few keys of this type.
    fn key(&mut self, kind: &str) -> String {
        format!("{kind}:{}", self.rng.u8(0..20))
    }

    fn number(&mut self, below: u32) -> String {
        self.rng.u32(0..below).to_string()
    }

    /// A short value: text, a number, or bytes.
    fn value(&mut self) -> Vec<u8> {
        match self.rng.u8(0..4) {
            0 => self.number(1_000_000).into_bytes(),
            1 => format!("{{\"step\":{},\"name\":\"value\"}}", self.steps).into_bytes(),
            2 => "x".repeat(self.rng.usize(0..300)).into_bytes(),
            _ => {
                let length = self.rng.usize(0..200);
                self.random_bytes(length)
            }
        }
    }

    fn random_bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.rng.fill(&mut bytes);
        bytes
    }

    fn coin(&mut self) -> bool {
        self.rng.bool()
    }
}

/// Sets the keys of these numbers to 1 MiB each that nothing compresses.
pub fn noise(cli: &mut Cli, numbers: impl IntoIterator<Item = u64>) {
    let mut value = vec![0; 1 << 20];
    for number in numbers {
        fastrand::fill(&mut value);
        cli.command(&[b"SET".as_slice(), format!("noise:{number}").as_bytes(), &value]);
    }
}

fn families(flavor: &Flavor) -> impl Iterator<Item = (u32, Family)> + use<> {
    let graphs = flavor.has_graphs().then_some(GRAPHS);
    FAMILIES.iter().copied().chain(graphs)
}
