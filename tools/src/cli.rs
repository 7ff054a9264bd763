//! The command line: which commands there are, and how flags, environment and settings file become
//! one set of arguments.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, CommandFactory as _, FromArgMatches as _, Parser};

use crate::commands::agent::AgentArgs;
use crate::commands::check::CheckArgs;
use crate::commands::keygen::KeygenArgs;
use crate::commands::list::ListArgs;
use crate::commands::restore::RestoreArgs;
use crate::commands::rewrap::RewrapArgs;
use crate::commands::snapshot::SnapshotArgs;
use crate::commands::status::StatusArgs;
use crate::commands::verify::VerifyArgs;
use crate::secret_args::settle_secrets;
use crate::settings_file::SettingsFile;

/// Continuous backup and point-in-time recovery for Redis, Valkey and FalkorDB
#[derive(Parser)]
#[command(
    name = "redwind",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Every option can also be given as the environment variable shown with it.\n\
                  Data goes to stdout; logs, progress and errors to stderr.\n\n\
                  Exit status: 0 done, 1 failed, 2 usage or a wrong or missing identity, 3 the target cannot be\n\
                  restored, 4 damage in the archive, 5 the store cannot be reached, refuses or is unfit,\n\
                  6 fenced or locked, 7 the source refuses."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    Agent(Box<AgentArgs>),
    Check(CheckArgs),
    List(ListArgs),
    Restore(Box<RestoreArgs>),
    Verify(VerifyArgs),
    Keygen(KeygenArgs),
    Rewrap(RewrapArgs),
    Status(StatusArgs),
    Snapshot(SnapshotArgs),
}

/// Reads the arguments, the environment, and the settings file that they name, in this order of
/// precedence. Asked for help, or given what makes no sense, clap prints and ends the process.
///
/// # Errors
/// When the settings file cannot be used, or secrets are given twice or in the open.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<Cli> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let command = command();
    let matches = command.clone().get_matches_from(&arguments);
    let matches = with_settings(command, matches, &|command| Ok(command.get_matches_from(&arguments)))?;
    Ok(Cli::from_arg_matches(&matches)?)
}

/// The whole command, every option with its variable: `--flush-interval` is `REDWIND_FLUSH_INTERVAL`.
/// Values in the environment may be secret, so that no help shows them.
fn command() -> clap::Command {
    Cli::command().mut_subcommands(|command| {
        let has_settings = command.get_arguments().any(|argument| argument.get_id() == "config");
        command.mut_args(|argument| match argument.get_long() {
            Some(name) => {
                let variable = format!("REDWIND_{}", name.to_uppercase().replace('-', "_"));
                let is_flag = matches!(argument.get_action(), ArgAction::SetTrue);
                let argument = if has_settings && is_flag { switch(argument) } else { argument };
                argument.env(variable).hide_env_values(true)
            }
            None => argument,
        })
    })
}

/// A flag that a settings file may set: given the value `false`, it wins over a file that says `true`.
fn switch(flag: Arg) -> Arg {
    flag.action(ArgAction::Set)
        .value_name("BOOL")
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .default_value("false")
        .hide_default_value(true)
        .hide_possible_values(true)
}

/// Reads anew (`again`) with what the settings file says as defaults.
fn with_settings(
    mut command: clap::Command,
    matches: ArgMatches,
    again: &dyn Fn(clap::Command) -> Result<ArgMatches, clap::Error>,
) -> anyhow::Result<ArgMatches> {
    let Some((name, given)) = matches.subcommand() else {
        return Ok(matches);
    };
    if let Ok(Some(path)) = given.try_get_one::<PathBuf>("config") {
        let file = SettingsFile::read(path)?;
        let agent = command.find_subcommand("agent").cloned().unwrap_or_default();
        command = change_subcommand(command, name, |subcommand| Ok(file.defaults(subcommand, &agent)?))?;
    }
    let matches = again(command.clone())?;
    let Some((name, given)) = matches.subcommand() else {
        return Ok(matches);
    };
    command = change_subcommand(command, name, |subcommand| Ok(settle_secrets(subcommand, given)?))?;
    Ok(again(command)?)
}

fn change_subcommand(
    command: clap::Command,
    name: &str,
    change: impl FnOnce(clap::Command) -> anyhow::Result<clap::Command>,
) -> anyhow::Result<clap::Command> {
    let mut outcome = Ok(());
    let changed = command.mut_subcommand(name, |subcommand| match change(subcommand.clone()) {
        Ok(changed) => changed,
        Err(error) => {
            outcome = Err(error);
            subcommand
        }
    });
    outcome.map(|()| changed)
}

#[cfg(test)]
mod tests;
