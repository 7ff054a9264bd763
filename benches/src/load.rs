//! Deterministic loads, made as they are read.
//!
//! The same size and seed give the same bytes on every machine, so a ratio taken today can be taken
//! again tomorrow. Values are JSON-like: field names and words repeat, identifiers and tokens do not,
//! which zstd at level 1 shrinks about threefold, as it does real documents of this kind.

use std::io::{self, Read, Write};

use crate::resp::encode;

/// The generator makes commands until this much is ready, then hands it out.
const PIECE: usize = 64 * 1024;
/// Databases the mixed load spreads over.
const DATABASES: u64 = 4;
/// The mixed load changes its database after this many steps, on average.
const STEPS_PER_SELECT: u64 = 64;

/// What commands a load consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 40 % SET (a quarter with EX), 20 % HSET, 8 % ZADD, 8 % LPUSH with LTRIM, 6 % EXPIRE, 4 % DEL,
    /// 6 % INCR, 3 % SADD, 5 % MULTI of four, over four databases.
    Mix,
    /// SETs of ever new keys: a dataset.
    Fill,
}

/// A load as a stream of bytes that ends between commands.
pub struct Load {
    kind: Kind,
    random: Random,
    /// Bytes still to be made.
    remaining: u64,
    /// Identifiers are drawn below this, so that a larger load has a larger dataset.
    keys: u64,
    steps: u64,
    ready: Vec<u8>,
    taken: usize,
}

impl Load {
    /// A load of at least `bytes` bytes, more by less than one command and its framing.
    pub fn new(kind: Kind, bytes: u64, seed: u64) -> Self {
        let keys = (bytes / 8192).max(1000);
        Self { kind, random: Random(seed), remaining: bytes, keys, steps: 0, ready: Vec::new(), taken: 0 }
    }

    /// SETs whose dataset gives an RDB of about `rdb_bytes`: LZF makes it three quarters of the commands.
    pub fn dataset(rdb_bytes: u64, seed: u64) -> Self {
        Self::new(Kind::Fill, rdb_bytes / 3 * 4, seed)
    }

    /// The whole load in memory, so that making it costs nothing while it is fed.
    pub fn into_bytes(mut self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.remaining as usize + PIECE);
        while self.refill() {
            all.extend_from_slice(&self.ready);
            self.taken = self.ready.len();
        }
        all
    }

    /// Makes the next piece once the last one is used up; false at the end.
    fn refill(&mut self) -> bool {
        self.ready.clear();
        self.taken = 0;
        while self.remaining > 0 && self.ready.len() < PIECE {
            let before = self.ready.len();
            match self.kind {
                Kind::Mix => self.mixed_step(),
                Kind::Fill => self.fill_step(),
            }
            self.steps += 1;
            self.remaining = self.remaining.saturating_sub((self.ready.len() - before) as u64);
        }
        !self.ready.is_empty()
    }

    fn fill_step(&mut self) {
        let (key, value) = (format!("doc:{:010}", self.steps), self.random.json(100, 600));
        encode(&mut self.ready, &[b"SET", key.as_bytes(), &value]);
    }

    fn mixed_step(&mut self) {
        if self.random.below(STEPS_PER_SELECT) == 0 || self.steps == 0 {
            let database = self.random.below(DATABASES).to_string();
            encode(&mut self.ready, &[b"SELECT", database.as_bytes()]);
        }
        match self.random.below(100) {
            0..40 => self.set(),
            40..60 => self.hset(),
            60..68 => self.zadd(),
            68..76 => self.lpush(),
            76..82 => self.expire(),
            82..86 => self.del(),
            86..92 => self.incr(),
            92..95 => self.sadd(),
            _ => {
                encode(&mut self.ready, &[b"MULTI"]);
                self.set();
                self.incr();
                self.hset();
                self.zadd();
                encode(&mut self.ready, &[b"EXEC"]);
            }
        }
    }

    fn key(&mut self, prefix: &str) -> Vec<u8> {
        format!("{prefix}:{}", self.random.below(self.keys)).into_bytes()
    }

    fn set(&mut self) {
        let (key, value) = (self.key("user"), self.random.json(100, 1000));
        if self.random.below(4) == 0 {
            // Never so short that a key expires during a bench: that would add DELs of its own.
            let seconds = (3600 + self.random.below(82_800)).to_string();
            encode(&mut self.ready, &[b"SET", &key, &value, b"EX", seconds.as_bytes()]);
        } else {
            encode(&mut self.ready, &[b"SET", &key, &value]);
        }
    }

    fn hset(&mut self) {
        let (key, field) = (self.key("session"), format!("part{}", self.random.below(8)));
        let value = self.random.json(100, 1000);
        encode(&mut self.ready, &[b"HSET", &key, field.as_bytes(), &value]);
    }

    fn zadd(&mut self) {
        let (key, score) = (self.key("board"), self.random.below(1_000_000).to_string());
        let member = self.key("player");
        encode(&mut self.ready, &[b"ZADD", &key, score.as_bytes(), &member]);
    }

    fn lpush(&mut self) {
        let (key, value) = (self.key("feed"), self.random.json(100, 1000));
        encode(&mut self.ready, &[b"LPUSH", &key, &value]);
        encode(&mut self.ready, &[b"LTRIM", &key, b"0", b"99"]);
    }

    fn expire(&mut self) {
        let (key, seconds) = (self.key("user"), (3600 + self.random.below(82_800)).to_string());
        encode(&mut self.ready, &[b"EXPIRE", &key, seconds.as_bytes()]);
    }

    fn del(&mut self) {
        let key = self.key("user");
        encode(&mut self.ready, &[b"DEL", &key]);
    }

    fn incr(&mut self) {
        let key = self.key("counter");
        encode(&mut self.ready, &[b"INCR", &key]);
    }

    fn sadd(&mut self) {
        let (key, member) = (self.key("tags"), self.key("tag"));
        encode(&mut self.ready, &[b"SADD", &key, &member]);
    }
}

impl Read for Load {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.ready.len() && !self.refill() {
            return Ok(0);
        }
        let n = (&self.ready[self.taken..]).read(out)?;
        self.taken += n;
        Ok(n)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough randomness for a load, in three lines and no crate.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn word(&mut self) -> &'static str {
        const WORDS: [&str; 32] = [
            "amber", "basket", "candle", "delta", "ember", "falcon", "garden", "harbor", "island", "jasmine", "kettle",
            "lantern", "meadow", "nectar", "orchid", "pepper", "quartz", "river", "saffron", "timber", "umbra",
            "velvet", "willow", "xenon", "yonder", "zephyr", "copper", "marble", "silver", "canyon", "breeze",
            "summit",
        ];
        WORDS[self.below(WORDS.len() as u64) as usize]
    }

    /// A JSON-like document of `from..=to` bytes.
    fn json(&mut self, from: u64, to: u64) -> Vec<u8> {
        let length = (from + self.below(to - from + 1)) as usize;
        let mut out = Vec::with_capacity(length + 64);
        // Writing to a vector cannot fail.
        let _ = write!(
            out,
            r#"{{"id":{},"name":"{} {}","token":"{:016x}""#,
            self.below(10_000_000),
            self.word(),
            self.word(),
            self.next()
        );
        for field in 0.. {
            if out.len() + 3 >= length {
                break;
            }
            let _ = match self.below(4) {
                0 => write!(out, r#","trace_{field}":"{:016x}""#, self.next()),
                1 => write!(out, r#","count_{field}":{}"#, self.below(100_000)),
                2 => write!(out, r#","status_{field}":"{}","active":true"#, self.word()),
                _ => write!(out, r#","title_{field}":"{} {} {}""#, self.word(), self.word(), self.word()),
            };
        }
        out.truncate(length - 2);
        out.extend_from_slice(b"\"}");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_bytes_read_or_whole() {
        let whole = Load::new(Kind::Mix, 300_000, 7).into_bytes();
        let mut read = Vec::new();
        Load::new(Kind::Mix, 300_000, 7).read_to_end(&mut read).expect("memory");
        assert!(whole == read && whole.len() >= 300_000 && whole.len() < 310_000);
        assert!(whole != Load::new(Kind::Mix, 300_000, 8).into_bytes());
    }

    #[test]
    fn a_load_ends_between_commands() {
        for kind in [Kind::Mix, Kind::Fill] {
            let bytes = Load::new(kind, 100_000, 1).into_bytes();
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                rest = skip_command(rest);
            }
        }
    }

    fn number(bytes: &[u8]) -> (usize, &[u8]) {
        let end = bytes.windows(2).position(|w| w == b"\r\n").expect("line end");
        let text = std::str::from_utf8(&bytes[1..end]).expect("digits");
        (text.parse().expect("number"), &bytes[end + 2..])
    }

    fn skip_command(bytes: &[u8]) -> &[u8] {
        assert_eq!(bytes[0], b'*');
        let (arguments, mut rest) = number(bytes);
        for _ in 0..arguments {
            assert_eq!(rest[0], b'$');
            let (length, body) = number(rest);
            assert_eq!(&body[length..length + 2], b"\r\n");
            rest = &body[length + 2..];
        }
        rest
    }
}
