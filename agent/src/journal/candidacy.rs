//! Before the term is claimed: the archive has been opened, the spool is ours, and it is to be found out
//! whose turn it is to write.
//!
//! A claim fences whoever held the archive, so it is made only
//! - by the holder's own next run, which has its spool, at once: it fences nobody who lives, and what the
//!   spool still holds must get to the store even while the source is down;
//! - by anybody else only after the source has been reached and found fit, and then when nobody ever
//!   wrote, when the holder has said that it stopped, when it has been silent for long enough, or when it
//!   is told to take over.
//!
//! So agents that are started again whenever they end do not take the archive from each other in turns:
//! the one that was fenced finds the other one alive.

use std::sync::Arc;
use std::time::Duration;

use redwind_archive::audit::AuditEvent;
use redwind_archive::documents::{Marker, TermClaim};
use redwind_archive::keys::Recipients;
use redwind_archive::position::Term;
use redwind_archive::store::SourceStore;
use redwind_archive::time::Clock;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use super::error::JournalError;
use super::signs::{Lookout, Vigil, WATCHER_BEAT};
use super::spool::{Spool, Spooled};
use super::term::{self, Claim, Tenure};
use super::uploader::blocking;
use super::{DRAIN_DEADLINE, Journal, JournalTasks, Opened, Settings, recovery, resume, tell_opened};
use crate::config::{SourceConfig, Succession};
use crate::error::describe;

/// How long a newcomer watches for a sign of life before it gives up.
const WATCH_MAX: Duration = Duration::from_secs(20);
/// Between two looks for everything.
const LOOK: Duration = Duration::from_secs(4);
/// Between two looks at what a watched writer says.
const GLANCE: Duration = Duration::from_secs(1);

/// A turn that was granted longer ago is not acted on: the writer may have come back.
const GRANT_MAX: Duration = Duration::from_secs(5);

/// An agent that may become the archive's writer; see the module.
#[derive(Debug)]
pub struct Candidacy {
    store: SourceStore,
    settings: Settings,
    clock: Arc<Clock>,
    marker: Marker,
    spool: Arc<Spool>,
    /// The log's files in the spool, in order.
    files: Vec<Spooled>,
}

/// The archive's writer, as whoever waits for its turn sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Who writes.
    pub holder: TermClaim,
    /// The writer gives signs within seconds, so that its end would be noticed within seconds, too.
    pub armed: bool,
}

/// Why it is this agent's turn to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Title {
    /// Nobody ever wrote.
    First,
    /// It was the writer, in a run before.
    Restart,
    /// The writer said that it stopped.
    Stopped,
    /// The writer has been silent for long enough.
    Silent,
    /// Somebody said so.
    TakeOver,
}

impl Title {
    fn describe(self) -> &'static str {
        match self {
            Self::First => "nobody has written this archive before",
            Self::Restart => "this agent wrote it before",
            Self::Stopped => "the agent before has stopped",
            Self::Silent => "the agent before gives no sign of life",
            Self::TakeOver => "told to take over",
        }
    }
}

/// Leave to claim the term after a certain one.
#[derive(Debug)]
struct Turn {
    former: Option<TermClaim>,
    title: Title,
}

/// The right to write the archive, from which [`Candidacy::start`] makes a journal.
#[derive(Debug)]
pub struct Mandate {
    tenure: Tenure,
    former: Option<TermClaim>,
    title: Title,
}

impl Mandate {
    /// What goes into the audit log, if another agent wrote before.
    #[must_use]
    pub fn takeover(&self) -> Option<AuditEvent> {
        let former = self.former.as_ref().filter(|_| self.title != Title::Restart)?;
        Some(AuditEvent::Takeover {
            term: self.tenure.identity.term,
            former_term: former.term,
            former_host: former.host.clone(),
            former_pid: former.pid,
            reason: self.title.describe().to_owned(),
        })
    }

    /// What goes into the audit log once the journal has started, if it encrypts.
    #[must_use]
    pub fn new_key(&self, recipients: &Recipients) -> Option<AuditEvent> {
        let epoch = self.tenure.identity.writer;
        (!recipients.is_empty()).then(|| AuditEvent::NewKey { epoch, recipients: recipients.texts() })
    }
}

impl Candidacy {
    /// Opens the archive, making it if there is none, and locks the spool. Claims nothing.
    ///
    /// # Errors
    /// [`JournalError::verdict`] tells what it means to the process.
    pub async fn open(store: SourceStore, config: &SourceConfig, clock: Arc<Clock>) -> Result<Self, JournalError> {
        let settings = Settings {
            spool_dir: config.spool.dir.clone(),
            spool_bytes_max: config.spool.bytes_max,
            segment_bytes_max: config.segment_bytes_max,
            compression_level: config.compression_level,
            recipients: config.recipients.clone(),
            drain_deadline: DRAIN_DEADLINE,
        };
        Self::open_with(store, settings, clock).await
    }

    pub(super) async fn open_with(
        store: SourceStore,
        settings: Settings,
        clock: Arc<Clock>,
    ) -> Result<Self, JournalError> {
        let marker = term::open_archive(&store, &clock, !settings.recipients.is_empty()).await?;
        let (name, wanted, dir) = (store.name().clone(), marker.clone(), settings.spool_dir.clone());
        let limit = settings.spool_bytes_max;
        let (spool, files) = blocking(move || Spool::open(&dir, &name, &wanted, limit)).await?;
        Ok(Self { store, settings, clock, marker, spool: Arc::new(spool), files })
    }

    /// The archive's id.
    #[must_use]
    pub fn archive(&self) -> Ulid {
        self.marker.archive
    }

    /// Waits for this agent's turn as `succession` says, and claims the archive. Calls `fit` before every
    /// claim, but for that of the holder's own next run, to find out whether the source can be followed;
    /// and `stand_by` whenever what is known of the writer changes.
    ///
    /// # Errors
    /// When the archive is another's, the store fails, or `fit` does.
    pub async fn win<E: From<JournalError>>(
        &self,
        succession: Succession,
        mut fit: impl AsyncFnMut() -> Result<(), E>,
        mut stand_by: impl FnMut(&Standing),
    ) -> Result<Mandate, E> {
        let mut turn = self.own_turn().await?;
        loop {
            let own = turn.is_some();
            if !own {
                fit().await?;
            }
            let granted = match turn.take() {
                Some(own) => own,
                None => self.turn(succession, &mut stand_by).await?,
            };
            if succession == Succession::StandBy && !own {
                // It may have been a long time since the source was found fit, and it may be one until it
                // is again.
                let granted_at = Instant::now();
                fit().await?;
                if granted_at.elapsed() > GRANT_MAX {
                    continue;
                }
            }
            match self.claim(granted).await? {
                Ok(mandate) => return Ok(mandate),
                Err(lost) if succession == Succession::Yield => return Err(JournalError::Held(lost).into()),
                Err(lost) => tracing::info!(
                    term = %lost.term, host = %lost.host, pid = lost.pid, "another agent was quicker to claim the archive"
                ),
            }
        }
    }

    /// The turn of the holder's own next run.
    async fn own_turn(&self) -> Result<Option<Turn>, JournalError> {
        let newest = Lookout::new(&self.store, &self.clock).claim().await?;
        let own = newest.filter(|claim| self.is_own(claim));
        Ok(own.map(|claim| Turn { former: Some(claim), title: Title::Restart }))
    }

    fn is_own(&self, claim: &TermClaim) -> bool {
        claim.spool == Some(self.spool.id())
    }

    async fn turn(&self, succession: Succession, stand_by: &mut impl FnMut(&Standing)) -> Result<Turn, JournalError> {
        let mut lookout = Lookout::new(&self.store, &self.clock);
        if succession == Succession::TakeOver {
            let former = lookout.claim().await?;
            let title = if former.is_none() { Title::First } else { Title::TakeOver };
            return Ok(Turn { former, title });
        }
        let store_now = lookout.announce().await?;
        let Some(sight) = lookout.look().await? else { return Ok(Turn { former: None, title: Title::First }) };
        let vigil = Vigil::begin(sight, store_now, Instant::now());
        if self.is_own(vigil.holder()) || vigil.is_over(Instant::now()) {
            return Ok(self.end(vigil));
        }
        match succession {
            Succession::StandBy => Ok(self.stand_by(lookout, vigil, stand_by).await),
            _ => self.watch(lookout, vigil).await,
        }
    }

    /// Watches for a short time whether the writer lives.
    async fn watch(&self, mut lookout: Lookout<'_>, mut vigil: Vigil) -> Result<Turn, JournalError> {
        let holder = vigil.holder();
        tracing::info!(
            term = %holder.term, host = %holder.host, pid = holder.pid, "the archive has a writer; looking whether it lives"
        );
        let deadline = Instant::now() + WATCH_MAX;
        while Instant::now() < deadline {
            sleep(LOOK).await;
            let now = Instant::now();
            let Some(sight) = lookout.look().await? else { continue };
            let news = vigil.see(sight, now);
            if vigil.is_over(now) {
                return Ok(self.end(vigil));
            }
            if news {
                return Err(JournalError::Held(Box::new(vigil.holder().clone())));
            }
        }
        let silent = vigil.silent(Instant::now());
        Err(JournalError::Unclear { claim: Box::new(vigil.holder().clone()), silent })
    }

    /// Watches until the writer is gone.
    async fn stand_by(&self, mut lookout: Lookout<'_>, mut vigil: Vigil, stand_by: &mut impl FnMut(&Standing)) -> Turn {
        let mut told = None;
        let mut announced = Instant::now();
        let mut failing = false;
        loop {
            let standing = Standing { holder: vigil.holder().clone(), armed: vigil.is_armed() };
            if told.as_ref() != Some(&standing) {
                tell_standing(&standing);
                stand_by(&standing);
                told = Some(standing);
            }
            sleep(if vigil.is_armed() { GLANCE } else { LOOK }).await;
            let looked = async {
                if announced.elapsed() >= WATCHER_BEAT {
                    lookout.announce().await?;
                    announced = Instant::now();
                }
                if vigil.is_armed() {
                    let sign = lookout.glance(vigil.holder().term).await?;
                    vigil.hear(sign, Instant::now());
                } else if let Some(sight) = lookout.look().await? {
                    vigil.see(sight, Instant::now());
                }
                Ok::<_, redwind_archive::store::StoreError>(())
            };
            match looked.await {
                Ok(()) => failing = false,
                Err(error) => {
                    vigil.blinded(Instant::now());
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(error = %describe(&error), "standing by: the store fails");
                    }
                }
            }
            if self.is_own(vigil.holder()) || vigil.is_over(Instant::now()) {
                return self.end(vigil);
            }
        }
    }

    fn end(&self, vigil: Vigil) -> Turn {
        let title = match vigil.holder() {
            own if self.is_own(own) => Title::Restart,
            _ if vigil.has_stopped() => Title::Stopped,
            _ => Title::Silent,
        };
        Turn { former: Some(vigil.holder().clone()), title }
    }

    async fn claim(&self, turn: Turn) -> Result<Result<Mandate, Box<TermClaim>>, JournalError> {
        let Turn { former, title } = turn;
        let newest = former.as_ref().map_or(Term::default(), |former| former.term);
        let (store, archive, spool) = (self.store.clone(), self.marker.archive, self.spool.id());
        match Tenure::claim(store, archive, spool, newest, &self.clock).await? {
            Claim::Won(tenure) => {
                tell_claimed(&tenure, former.as_ref(), title);
                Ok(Ok(Mandate { tenure, former, title }))
            }
            Claim::Lost(theirs) => Ok(Err(theirs)),
        }
    }

    /// Makes the journal: recovers the spool, and finds where the archive ends. Raises the clock to the
    /// newest arrival time in the archive.
    ///
    /// When `cancel` is cancelled, entries handed over by then are sealed and stored within
    /// [`DRAIN_DEADLINE`]; stop the log reader first.
    ///
    /// # Errors
    /// [`JournalError::verdict`] tells what it means to the process.
    pub async fn start(
        self,
        mandate: Mandate,
        cancel: CancellationToken,
    ) -> Result<(Journal, JournalTasks), JournalError> {
        let Self { store, settings, clock, marker, spool, files } = self;
        let mut tenure = mandate.tenure;
        tenure.begin_epoch(&settings.recipients).await?;
        let stored = resume::find_end(&store, &marker).await?;
        let (joined, heir) = (Arc::clone(&spool), tenure.clone());
        let (stored, survivors) = blocking(move || {
            let survivors = recovery::join(&joined, &files, &stored, &heir);
            (stored, survivors)
        })
        .await;
        let survivors = survivors?;
        clock.raise(survivors.end.as_ref().map(|end| end.newest_time).unwrap_or_default());
        tell_opened(&store, &tenure, &survivors);
        Journal::start(store, settings, clock, cancel, Opened { spool, tenure, stored, survivors })
    }
}

#[cfg(test)]
impl Candidacy {
    /// Takes the archive over, whoever has it.
    pub(crate) async fn take_over(self, cancel: CancellationToken) -> Result<(Journal, JournalTasks), JournalError> {
        let mandate = self.win(Succession::TakeOver, async || Ok::<_, JournalError>(()), |_| ()).await?;
        self.start(mandate, cancel).await
    }
}

fn tell_standing(standing: &Standing) {
    let Standing { holder, armed } = standing;
    let (term, host, pid) = (holder.term, &holder.host, holder.pid);
    if *armed {
        tracing::info!(%term, %host, pid, "standing by, armed: the writer's end would be noticed within seconds");
    } else {
        tracing::info!(%term, %host, pid, "standing by, not armed: the writer's end would be noticed within 90 s");
    }
}

/// Where a change of the writer becomes known.
fn tell_claimed(tenure: &Tenure, former: Option<&TermClaim>, title: Title) {
    let term = tenure.identity.term;
    match former {
        Some(former) if title != Title::Restart => tracing::warn!(
            %term, former_term = %former.term, former_host = %former.host, former_pid = former.pid,
            "took the archive over: {}", title.describe()
        ),
        _ => tracing::info!(%term, "claimed the archive: {}", title.describe()),
    }
}
