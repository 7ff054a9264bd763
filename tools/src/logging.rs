//! Logs: always on stderr, so that stdout is data alone.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::exit::UsageError;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. `filter` is a level, or a list of them by part: `info,redwind_agent=debug`.
///
/// # Errors
/// When `filter` is neither.
pub(crate) fn init(format: LogFormat, filter: &str) -> Result<(), UsageError> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|_| UsageError::new(format!("log-level: {filter:?} is neither error, warn, info, debug, trace nor a list by part such as info,redwind_agent=debug")))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => logs.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => logs.json().flatten_event(true).with_current_span(true).with_span_list(false).init(),
    }
    Ok(())
}
