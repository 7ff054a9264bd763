//! What a restore says: what the target came to, what was done, what to type next.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use redwind_archive::plan::{RestorePlan, Target};
use redwind_archive::position::{HistoryId, Offset, Position};
use redwind_archive::store::SourceStore;
use redwind_archive::time::Timestamp;
use redwind_restore::Progress;
use serde::Serialize;
use ulid::Ulid;

use crate::screen::bytes;

/// A difference between the clocks of source and agent that is worth a word, in microseconds.
const SKEW_SHOWN: u64 = 1_000_000;

/// Everything that is said, as `--json` prints it.
#[derive(Serialize)]
pub(super) struct Report {
    source: String,
    /// As it was written.
    target: String,
    /// The instant that it means, if it means one.
    target_time: Option<Timestamp>,
    history: HistoryId,
    /// Where the restored state stands, after the last record included.
    position: Position,
    /// Arrival of the last record included.
    time: Option<Timestamp>,
    /// Id of the last record included.
    last_record: Option<Position>,
    snapshot: SnapshotUsed,
    stream_bytes: u64,
    segments: usize,
    fetch_bytes: u64,
    server: String,
    /// What was done; nothing in a dry run.
    restored: Option<Delivered>,
    /// The source's clock minus the agent's, whose clock the times are of.
    clock_offset_micros: Option<i64>,
    /// Lines to type.
    next: Vec<String>,
    #[serde(skip)]
    program: &'static str,
    #[serde(skip)]
    modules: Vec<String>,
}

#[derive(Serialize)]
struct SnapshotUsed {
    id: Ulid,
    offset: Offset,
    time: Timestamp,
    rdb_bytes: u64,
}

/// Where the state has been brought.
#[derive(Serialize)]
#[serde(tag = "to", rename_all = "lowercase")]
pub(super) enum Delivered {
    /// A data directory.
    Aof { folder: PathBuf },
    /// An RDB file, and how many commands of the stream its engine refused.
    Rdb { file: PathBuf, refused_commands: u64 },
    /// A running server, and how many commands of the stream it refused.
    Into { server: String, refused_commands: u64 },
    /// Whoever came.
    Served { address: SocketAddr },
}

impl Report {
    pub(super) fn new(store: &SourceStore, text: &str, target: Target, plan: &RestorePlan) -> Self {
        let (snapshot, server) = (&plan.snapshot, &plan.snapshot.server);
        Self {
            source: store.name().to_string(),
            target: text.to_owned(),
            target_time: match target {
                Target::Time(time) => Some(time),
                _ => None,
            },
            history: plan.history.history,
            position: Position { history: plan.history.history, offset: plan.cut.offset },
            time: plan.cut.time,
            last_record: plan.cut.last_record,
            snapshot: SnapshotUsed {
                id: snapshot.snapshot,
                offset: snapshot.position.offset,
                time: snapshot.time,
                rdb_bytes: snapshot.rdb_bytes,
            },
            stream_bytes: plan.stream_bytes(),
            segments: plan.segments.len(),
            fetch_bytes: plan.fetch_bytes(),
            server: format!("{} {}", server.vendor, server.version),
            restored: None,
            clock_offset_micros: None,
            next: Vec::new(),
            program: if server.vendor == "valkey" { "valkey-server" } else { "redis-server" },
            modules: server.modules.iter().map(|module| module.name.clone()).collect(),
        }
    }

    /// Tells on stderr what is going to be restored.
    pub(super) fn announce(&self) -> io::Result<()> {
        io::stderr().lock().write_all(self.plan_text().as_bytes())
    }

    /// The result of a dry run.
    pub(super) fn print_plan(&self, json: bool) -> io::Result<()> {
        if json {
            return self.print_json();
        }
        io::stdout().lock().write_all(self.plan_text().as_bytes())
    }

    pub(super) fn delivered(&mut self, delivered: Delivered, progress: &Progress) {
        self.next = self.next_lines(&delivered);
        self.restored = Some(delivered);
        self.clock_offset_micros = progress.clock_offset_micros();
    }

    pub(super) fn print_outcome(&self, json: bool) -> io::Result<()> {
        if json {
            return self.print_json();
        }
        io::stdout().lock().write_all(self.outcome_text().as_bytes())
    }

    /// What to type on a server that is to replicate from us.
    pub(super) fn print_serving(address: SocketAddr, password: &str, json: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if json {
            let lines = serde_json::json!({ "address": address, "password": password });
            writeln!(out, "{lines}")?;
            return out.flush();
        }
        let host = match address.ip().is_unspecified() {
            true => "<an address of this machine>".to_owned(),
            false => address.ip().to_string(),
        };
        writeln!(
            out,
            "serving on {address}; type in a client of the server that is to hold the state (its data is replaced):\n\n    \
             CONFIG SET masterauth {password}\n    REPLICAOF {host} {}\n\n\
             and, once it is said here that it holds everything:\n\n    \
             REPLICAOF NO ONE\n    CONFIG SET masterauth \"\"\n\nCtrl-C ends this.\n",
            address.port()
        )?;
        out.flush()
    }

    /// That a replica may be released now.
    pub(super) fn print_holder(replica: SocketAddr, json: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match json {
            true => writeln!(out, "{}", serde_json::json!({ "holds_everything": replica }))?,
            false => writeln!(out, "the server at {replica} holds everything: release it by REPLICAOF NO ONE")?,
        }
        out.flush()
    }

    fn print_json(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, self)?;
        writeln!(out)
    }

    fn plan_text(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(out, "{name:<12} {value}");
        };
        let target = match self.target_time {
            Some(time) => format!("{} = {time}", self.target),
            None => self.target.clone(),
        };
        line("target", target);
        line("position", self.position.to_string());
        line(
            "last record",
            match (self.last_record, self.time) {
                (Some(record), Some(time)) => format!("{record}, arrived {time}"),
                (Some(record), None) => record.to_string(),
                _ => "none: the snapshot stands exactly there".to_owned(),
            },
        );
        let SnapshotUsed { id, offset, time, rdb_bytes } = &self.snapshot;
        line("snapshot", format!("{id} of {time}, offset {offset}, {}", bytes(*rdb_bytes)));
        line("stream", format!("{} in {} segments", bytes(self.stream_bytes), self.segments));
        line("to fetch", bytes(self.fetch_bytes));
        line("source", format!("{} ({})", self.source, self.server));
        out
    }

    fn outcome_text(&self) -> String {
        let mut out = match &self.restored {
            None => String::new(),
            Some(Delivered::Aof { folder }) => format!("restored to {}\n", folder.display()),
            Some(Delivered::Rdb { file, .. }) => format!("restored to {}\n", file.display()),
            Some(Delivered::Into { server, .. }) => format!("restored into {server}, which is a primary again\n"),
            Some(Delivered::Served { address }) => format!("no longer serving on {address}\n"),
        };
        for warning in self.warnings() {
            let _ = writeln!(out, "warning: {warning}");
        }
        if !self.next.is_empty() {
            let _ = writeln!(out, "\nnext:\n");
            for line in &self.next {
                let _ = writeln!(out, "    {line}");
            }
        }
        out
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let (Some(Delivered::Rdb { refused_commands, .. }) | Some(Delivered::Into { refused_commands, .. })) =
            &self.restored
        else {
            return self.skew().into_iter().collect();
        };
        if *refused_commands > 0 {
            warnings.push(format!(
                "the server refused {refused_commands} commands of the stream, as replicas of the source did; its log names them"
            ));
        }
        warnings.extend(self.skew());
        warnings
    }

    fn skew(&self) -> Option<String> {
        let micros = self.clock_offset_micros.filter(|micros| micros.unsigned_abs() > SKEW_SHOWN)?;
        #[expect(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
        let seconds = micros.unsigned_abs() as f64 / 1e6;
        let side = if micros > 0 { "ahead of" } else { "behind" };
        Some(format!("the source's clock was {seconds:.1} s {side} the agent's, by which times are told"))
    }

    fn next_lines(&self, delivered: &Delivered) -> Vec<String> {
        let modules: String =
            self.modules.iter().map(|module| format!(" --loadmodule <the file of {module}>")).collect();
        match delivered {
            Delivered::Aof { folder } => {
                vec![format!("{} --dir {} --appendonly yes{modules}", self.program, quoted(folder))]
            }
            Delivered::Rdb { file, .. } => {
                let folder = file.parent().unwrap_or(Path::new("/"));
                let name = file.file_name().map(PathBuf::from).unwrap_or_default();
                vec![format!(
                    "{} --dir {} --dbfilename {} --appendonly no{modules}",
                    self.program,
                    quoted(folder),
                    quoted(&name)
                )]
            }
            Delivered::Into { .. } | Delivered::Served { .. } => Vec::new(),
        }
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
