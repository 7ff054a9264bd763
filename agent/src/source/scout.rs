//! Before the archive is claimed: whether the source can be followed at all.
//!
//! An agent that cannot follow its source must not take the archive from one that does. So the server
//! is reached, asked what it is, and asked whether our user may replicate, without replicating.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use redwind_archive::time::Clock;
use redwind_link::psync_allowed;
use tokio::sync::watch;
use tracing::{info, warn};

use super::backoff::Backoff;
use super::error::{AttachError, SourceError};
use super::handshake::{COMMAND_TIMEOUT, Endpoint, for_log};
use super::link_state::{LinkState, LinkStateSender, Phase};
use super::monitor::{Facts, examine};
use crate::config::SourceConfig;
use crate::error::describe;

const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(10);
/// Between two looks at the source while standing by.
const LOOK: Duration = Duration::from_secs(30);

/// Looks at a source without following it; see the module.
#[derive(Debug)]
pub struct Scout {
    endpoint: Endpoint,
    clock: Arc<Clock>,
    link: LinkStateSender,
}

impl Scout {
    /// Prepares to look at the source that `config` names.
    #[must_use]
    pub fn new(config: &SourceConfig, clock: Arc<Clock>) -> Self {
        let endpoint = Endpoint::of(config);
        let link = LinkStateSender::new(clock.now());
        Self { endpoint, clock, link }
    }

    /// The link as it is, from now on.
    #[must_use]
    pub fn link_state(&self) -> watch::Receiver<LinkState> {
        self.link.subscribe()
    }

    /// Waits until the server was found fit to be followed.
    ///
    /// # Errors
    /// It refuses us, and waiting would not help.
    pub async fn reach(&self) -> Result<(), SourceError> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        let mut told = None;
        loop {
            match self.probe().await {
                Ok(()) => return Ok(()),
                Err(error) if !error.is_retryable() => return Err(SourceError::Refused(error)),
                Err(error) => {
                    let (reason, retry_in) = (describe(&error), backoff.next());
                    if told.as_ref() != Some(&reason) {
                        warn!("the source cannot be followed yet, so that the archive is not claimed: {reason}");
                        told = Some(reason.clone());
                    }
                    self.link.enter(Phase::Down { reason, retry_in }, self.clock.now());
                    tokio::time::sleep(retry_in).await;
                }
            }
        }
    }

    /// Stands by for a writer, called `holder`.
    pub fn stand_by(&self, holder: String, armed: bool) {
        let now = self.clock.now();
        let trouble = match &self.link.subscribe().borrow().phase {
            Phase::StandingBy { trouble, .. } => trouble.clone(),
            _ => None,
        };
        self.link.enter(Phase::StandingBy { holder, armed, trouble }, now);
    }

    /// Keeps looking at the source while standing by. Runs until dropped.
    pub async fn keep_looking(&self) -> Infallible {
        loop {
            tokio::time::sleep(LOOK).await;
            if !matches!(self.link.subscribe().borrow().phase, Phase::StandingBy { .. }) {
                continue;
            }
            let found = self.probe().await.err().map(|error| describe(&error));
            let now = self.clock.now();
            self.link.update(|state| {
                let Phase::StandingBy { trouble, .. } = &mut state.phase else { return };
                match &found {
                    Some(reason) if trouble.is_none() => warn!("standing by: the source cannot be followed: {reason}"),
                    None if trouble.is_some() => info!("standing by: the source can be followed again"),
                    _ => {}
                }
                if *trouble != found {
                    (*trouble, state.phase_since) = (found, now);
                }
            });
        }
    }

    async fn probe(&self) -> Result<(), AttachError> {
        let (mut control, facts) = examine(&self.endpoint, &self.clock).await?;
        let replication = control.info_replication().await?;
        let log = for_log(&self.endpoint, &facts).await?;
        psync_allowed(log.connection, &replication, COMMAND_TIMEOUT).await?;
        let Facts { server, clock_offset, .. } = facts;
        self.link.update(|state| (state.server, state.clock_offset) = (Some(server), clock_offset));
        Ok(())
    }
}
