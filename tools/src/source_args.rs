//! The options that say which server is the source, and who we are to it.

use std::path::PathBuf;

use redwind_link::{Secret, ServerUrl, TlsOptions};

use crate::exit::UsageError;
use crate::secret_args;
use crate::tls_args::TlsArgs;

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

    // Only from the environment or the settings file: `settle_secrets` sees to that.
    #[arg(long, value_name = "PASSWORD", hide = true)]
    source_password: Option<String>,

    /// A file that holds the password and nothing else; a line end after it does not count
    ///
    /// An agent reads it again for every connection, so that the password can be changed.
    #[arg(long, value_name = "FILE")]
    source_password_file: Option<PathBuf>,

    #[command(flatten)]
    tls: TlsArgs,
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
            server = server.with_password(secret_args::read_file("source-password-file", path)?);
        } else if let Some(password) = &self.source_password {
            server = server.with_password(Secret::from(password.clone()));
        }
        Ok(server)
    }

    /// The file that the password is in, if it was given by one.
    pub(crate) fn password_file(&self) -> Option<PathBuf> {
        self.source_password_file.clone()
    }

    /// The files for TLS.
    pub(crate) fn tls(&self) -> TlsOptions {
        self.tls.options()
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
