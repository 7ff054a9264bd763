//! Options that are secrets: never on the command line, which others can see; in the environment, the
//! settings file, or a file of their own.

use std::path::Path;

use clap::ArgMatches;
use clap::parser::ValueSource;
use redwind_link::Secret;

use crate::exit::UsageError;

const SECRET_BYTES_MAX: usize = 64 << 10;

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
    secret(option, bytes)
}

fn secret(option: &str, mut bytes: Vec<u8>) -> Result<Secret, UsageError> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    if bytes.is_empty() || bytes.len() > SECRET_BYTES_MAX {
        return Err(UsageError::new(format!("{option}: the file is empty, or too large for a secret")));
    }
    Ok(Secret::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_end_after_a_secret_does_not_count() {
        for text in ["pass", "pass\n", "pass\r\n"] {
            assert_eq!(secret("it", text.into()).unwrap().expose(), b"pass");
        }
        assert_eq!(secret("it", "pa ss\n\n".into()).unwrap().expose(), b"pa ss\n");
        assert!(secret("it", "\n".into()).is_err() && secret("it", vec![b'x'; SECRET_BYTES_MAX + 1]).is_err());
    }
}
