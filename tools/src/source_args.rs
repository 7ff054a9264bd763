//! The options that say which server is the source, and who we are to it.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::ArgMatches;
use clap::parser::ValueSource;
use redwind_link::{Secret, ServerUrl, TlsOptions};

use crate::exit::UsageError;

const PASSWORD_BYTES_MAX: usize = 64 << 10;

#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Source")]
pub(crate) struct SourceArgs {
    /// The server to follow: a primary, or better a replica of it
    ///
    /// redis://host:port, rediss://host:port for TLS, unix:///path/to.sock; IPv6 addresses in
    /// brackets. A password in it is visible in the process list when it is given on the command
    /// line: give it by --source-password-file, in REDWIND_SOURCE_PASSWORD, or as the setting
    /// source-password in the settings file.
    #[arg(long, value_name = "URL")]
    source: Option<String>,

    /// The ACL user, instead of one in the URL
    #[arg(long, value_name = "NAME")]
    source_user: Option<String>,

    // Only from the environment or the settings file: `settle_password` sees to that.
    #[arg(long, value_name = "PASSWORD", hide = true)]
    source_password: Option<String>,

    /// A file that holds the password and nothing else; a line end after it does not count
    #[arg(long, value_name = "FILE")]
    source_password_file: Option<PathBuf>,

    /// PEM file of the authorities to trust for rediss://, instead of the system's
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,

    /// PEM file of our certificate, for servers that ask for one
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// PEM file of the private key of --tls-cert
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
}

impl SourceArgs {
    /// Whether a source was named at all.
    pub(crate) fn is_given(&self) -> bool {
        self.source.is_some()
    }

    /// The server, with user and password wherever they came from.
    pub(crate) fn server(&self) -> anyhow::Result<ServerUrl> {
        let missing =
            || UsageError::new("no source: give --source URL, REDWIND_SOURCE, or `source` in the settings file");
        let text = self.source.as_deref().ok_or_else(missing)?;
        let mut server: ServerUrl = text.parse().map_err(|error| UsageError::new(format!("source: {error}")))?;
        if let Some(user) = &self.source_user {
            server = server.with_username(user.clone());
        }
        if let Some(path) = &self.source_password_file {
            let password =
                std::fs::read(path).with_context(|| format!("source-password-file: cannot read {}", path.display()));
            server = server.with_password(secret(password.map_err(|error| UsageError::new(format!("{error:#}")))?)?);
        } else if let Some(password) = &self.source_password {
            server = server.with_password(Secret::from(password.clone()));
        }
        Ok(server)
    }

    /// The files for TLS.
    pub(crate) fn tls(&self) -> TlsOptions {
        TlsOptions { ca: self.tls_ca.clone(), cert: self.tls_cert.clone(), key: self.tls_key.clone() }
    }
}

fn secret(mut bytes: Vec<u8>) -> Result<Secret, UsageError> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    if bytes.is_empty() || bytes.len() > PASSWORD_BYTES_MAX {
        return Err(UsageError::new("source-password-file: the file is empty, or too large for a password"));
    }
    Ok(Secret::from(bytes))
}

/// A password and a file with a password: what was given closer to the command wins, and the other
/// one is taken out of `command`.
///
/// # Errors
/// When both were given in the same way, or a password on the command line.
pub(crate) fn settle_password(command: clap::Command, given: &ArgMatches) -> Result<clap::Command, UsageError> {
    const PASSWORD: &str = "source_password";
    const FILE: &str = "source_password_file";
    if given.try_contains_id(PASSWORD).is_err() {
        return Ok(command);
    }
    if given.value_source(PASSWORD) == Some(ValueSource::CommandLine) {
        return Err(UsageError::new(
            "source-password: a password on the command line is visible in the process list; \
             give it by --source-password-file or in REDWIND_SOURCE_PASSWORD",
        ));
    }
    let without = |command: clap::Command, id: &'static str| {
        command.mut_arg(id, |arg| arg.env(None::<&str>).default_value(None::<&str>))
    };
    match (given.value_source(PASSWORD), given.value_source(FILE)) {
        (Some(password), Some(file)) if password == file => {
            Err(UsageError::new("give either source-password or source-password-file, not both"))
        }
        (Some(password), Some(file)) => Ok(without(command, if password < file { PASSWORD } else { FILE })),
        _ => Ok(command),
    }
}

/// Whether an argument as it was typed is, or holds, a server's URL with a password.
pub(crate) fn shows_password(argument: &str) -> bool {
    let value = match argument.split_once('=') {
        Some((flag, value)) if flag.starts_with("--") => value,
        _ => argument,
    };
    value.parse::<ServerUrl>().is_ok_and(|url| url.password().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_end_after_a_password_does_not_count() {
        for text in ["pass", "pass\n", "pass\r\n"] {
            assert_eq!(secret(text.into()).unwrap().expose(), b"pass");
        }
        assert_eq!(secret("pa ss\n\n".into()).unwrap().expose(), b"pa ss\n");
        assert!(secret("\n".into()).is_err() && secret(vec![b'x'; PASSWORD_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn passwords_on_the_command_line_are_seen() {
        for (argument, shows) in [
            ("redis://:pw@host", true),
            ("--source=rediss://u:pw@host", true),
            ("--into=unix:///s?password=x", true),
            ("redis://host", false),
            ("--source=redis://u@host", false),
            ("--store=s3://a/b", false),
        ] {
            assert_eq!(shows_password(argument), shows, "{argument}");
        }
    }
}
