//! Logs: always on stderr, so that stdout is data alone.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::exit::UsageError;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. `filter` is a level, or a list of them by part: `info,redwind_agent=debug`. A level
/// alone is that of our own parts: what libraries have to say below a warning is for a list to ask for.
///
/// # Errors
/// When `filter` is neither.
pub(crate) fn init(format: LogFormat, filter: &str) -> Result<(), UsageError> {
    let own = |level: LevelFilter| format!("{},redwind={level}", level.min(LevelFilter::WARN));
    let directives = filter.parse().map_or_else(|_| filter.to_owned(), own);
    let filter = EnvFilter::try_new(directives).map_err(|_| {
        UsageError::new(format!(
            "log-level: {filter:?} is neither error, warn, info, debug, trace nor a list by part such as \
             info,redwind_agent=debug"
        ))
    })?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => logs.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => logs.json().flatten_event(true).with_current_span(true).with_span_list(false).init(),
    }
    Ok(())
}
