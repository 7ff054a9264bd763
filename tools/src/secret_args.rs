//! Options that are secrets: never on the command line, which others can see; in the environment, the
//! settings file, or a file of their own.

use std::path::Path;

use clap::ArgMatches;
use clap::parser::ValueSource;
use redwind_link::Secret;

use crate::exit::UsageError;

/// The options: the secret itself, hidden from help, and a file that holds it.
const SECRETS: [(&str, &str); 4] = [
    ("source-password", "source-password-file"),
    ("read-token", "read-token-file"),
    ("operator-token", "operator-token-file"),
    ("token", "token-file"),
];

/// A secret and a file with it: what was given closer to the command wins, and the other one is taken out
/// of `command`.
///
/// # Errors
/// When both were given in the same way, or a secret on the command line.
pub(crate) fn settle_secrets(command: clap::Command, given: &ArgMatches) -> Result<clap::Command, UsageError> {
    SECRETS.into_iter().try_fold(command, |command, (secret, file)| settle(command, given, secret, file))
}

fn settle(
    command: clap::Command,
    given: &ArgMatches,
    secret: &'static str,
    file: &'static str,
) -> Result<clap::Command, UsageError> {
    let [secret_id, file_id] = [secret, file].map(|name| name.replace('-', "_"));
    if given.try_contains_id(&secret_id).is_err() {
        return Ok(command);
    }
    if given.value_source(&secret_id) == Some(ValueSource::CommandLine) {
        let variable = secret_id.to_uppercase();
        return Err(UsageError::new(format!(
            "{secret}: a secret on the command line is visible in the process list; give it by --{file} or in \
             REDWIND_{variable}"
        )));
    }
    let without = |command: clap::Command, id: String| {
        command.mut_arg(id, |arg| arg.env(None::<&str>).default_value(None::<&str>))
    };
    match (given.value_source(&secret_id), given.value_source(&file_id)) {
        (Some(secret_source), Some(file_source)) if secret_source == file_source => {
            Err(UsageError::new(format!("give either {secret} or {file}, not both")))
        }
        (Some(secret_source), Some(file_source)) => {
            Ok(without(command, if secret_source < file_source { secret_id } else { file_id }))
        }
        _ => Ok(command),
    }
}

/// Reads the file that `option` names; a line end after the secret does not count.
pub(crate) fn read_file(option: &str, path: &Path) -> Result<Secret, UsageError> {
    let bytes = std::fs::read(path)
        .map_err(|error| UsageError::new(format!("{option}: cannot read {}: {error}", path.display())))?;
    let unfit = || UsageError::new(format!("{option}: the file is empty, or too large for a secret"));
    Secret::from_file(bytes).ok_or_else(unfit)
}
