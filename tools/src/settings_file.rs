//! The settings file: TOML whose keys are the names of the options, without dashes in front.
//!
//! An entry becomes the default of the option that it names, so that flags and environment win over
//! it, each value is read by the option's own parser, and no list of keys has to be kept beside the
//! options. Tables are kept free for settings of several sources.

use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use toml::de::{DeTable, DeValue};

const FILE_BYTES_MAX: u64 = 1 << 20;

/// What is wrong with a settings file. Never repeats a value, which may be a secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    #[error("{}: larger than 1 MiB", .0.display())]
    TooLarge(PathBuf),
    #[error("{}:{line}: {problem}", path.display())]
    Line { path: PathBuf, line: usize, problem: String },
}

/// A settings file, with its variables expanded.
#[derive(Debug)]
pub(crate) struct SettingsFile {
    path: PathBuf,
    entries: Vec<Entry>,
}

struct Entry {
    key: String,
    value: String,
    line: usize,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in line {}", self.key, self.line)
    }
}

impl SettingsFile {
    /// Reads a file and expands its variables from the environment.
    pub(crate) fn read(path: &Path) -> Result<Self, SettingsError> {
        let failed = |error| SettingsError::Read(path.to_owned(), error);
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(SettingsError::TooLarge(path.to_owned()));
        }
        Self::parse(path, &text, &|name| std::env::var(name).ok())
    }

    fn parse(path: &Path, text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let fail =
            |at: usize, problem: String| SettingsError::Line { path: path.to_owned(), line: line(text, at), problem };
        let table = DeTable::parse(text).map_err(|error| {
            let Range { start, .. } = error.span().unwrap_or_default();
            fail(start, error.message().to_owned())
        })?;
        let mut entries = Vec::new();
        for (key, value) in table.get_ref() {
            let at = key.span().start;
            let value = match value.get_ref() {
                DeValue::String(text) => expand(text, variable),
                DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
                DeValue::Boolean(flag) => Ok(flag.to_string()),
                _ => Err("expected a string, a whole number, true or false".to_owned()),
            };
            let value = value.map_err(|problem| fail(at, format!("{}: {problem}", key.get_ref())))?;
            entries.push(Entry { key: key.get_ref().to_string(), value, line: line(text, at) });
        }
        Ok(Self { path: path.to_owned(), entries })
    }

    /// Makes the entries the defaults of `command`'s options. Those of `agent` that `command` does
    /// not have are left alone, so that one file serves several commands.
    pub(crate) fn defaults(
        &self,
        command: clap::Command,
        agent: &clap::Command,
    ) -> Result<clap::Command, SettingsError> {
        self.entries.iter().try_fold(command, |command, entry| {
            if option(&command, &entry.key).is_none() && option(agent, &entry.key).is_some() {
                return Ok(command);
            }
            self.default(command, entry).map_err(|problem| SettingsError::Line {
                path: self.path.clone(),
                line: entry.line,
                problem: format!("{}: {problem}", entry.key),
            })
        })
    }

    fn default(&self, command: clap::Command, entry: &Entry) -> Result<clap::Command, String> {
        let id = option(&command, &entry.key).filter(|id| id != "config").ok_or_else(|| {
            let known = option(&command, &entry.key.replace('_', "-")).is_some();
            let hint = if known { "keys are written with '-'" } else { "keys are the options of `redwind agent`" };
            format!("no such setting; {hint}")
        })?;
        let flag = format!("--{}={}", entry.key, entry.value);
        command.clone().no_binary_name(true).try_get_matches_from([flag]).map_err(|error| reason(&error))?;
        let value = entry.value.clone();
        Ok(command.mut_arg(id, |arg| arg.default_value(value).hide_default_value(true)))
    }
}

/// The id of the option with a name.
fn option(command: &clap::Command, name: &str) -> Option<clap::Id> {
    command.get_arguments().find(|arg| arg.get_long() == Some(name)).map(|arg| arg.get_id().clone())
}

/// Why a value was refused, without the value.
fn reason(error: &clap::Error) -> String {
    if let Some(source) = std::error::Error::source(error) {
        return source.to_string();
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) => format!("expected one of {}", valid.join(", ")),
        _ => "not a value for this setting".to_owned(),
    }
}

fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1
}

/// Replaces `${NAME}` by the variable's value; `$${` stands for `${` itself.
fn expand(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = after;
            continue;
        }
        let (name, after) = after.split_once('}').ok_or("a ${ without its }")?;
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric());
        if !is_name {
            return Err("between ${ and } stands the name of an environment variable and nothing else".to_owned());
        }
        expanded.push_str(before);
        expanded.push_str(&variable(name).ok_or_else(|| format!("the environment variable {name} is not set"))?);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SettingsFile, SettingsError> {
        let variable = |name: &str| (name == "WHO").then(|| "me".to_owned());
        SettingsFile::parse(Path::new("a.toml"), text, &variable)
    }

    fn values(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap().entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
    }

    #[test]
    fn variables_are_expanded_in_strings() {
        let read =
            values("source = 'redis://${WHO}@h'\nname = \"$${WHO}$\"\ncompression-level = 3\nlisten-open = true\n");
        let expected =
            [("source", "redis://me@h"), ("name", "${WHO}$"), ("compression-level", "3"), ("listen-open", "true")];
        assert_eq!(read.len(), expected.len());
        for (key, value) in expected {
            assert!(read.contains(&(key.to_owned(), value.to_owned())), "{key}: {read:?}");
        }
    }

    #[test]
    fn an_error_names_file_line_and_key() {
        for (text, expected) in [
            ("\nname = 'a${NOBODY}'", "a.toml:2: name: the environment variable NOBODY is not set"),
            ("name = '${WHO'", "a.toml:1: name: a ${ without its }"),
            (
                "name = '${W-O}'",
                "a.toml:1: name: between ${ and } stands the name of an environment variable and nothing else",
            ),
            ("\n\nname = [1]", "a.toml:3: name: expected a string, a whole number, true or false"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), expected);
        }
        let error = parse("name = 'a'\nname = 'canary'").unwrap_err().to_string();
        assert!(error.starts_with("a.toml:2: ") && !error.contains("canary"), "{error}");
        let error = parse("name = 'a'\nsource = \"canary").unwrap_err().to_string();
        assert!(error.starts_with("a.toml:2: ") && !error.contains("canary"), "{error}");
    }

    #[test]
    fn whatever_a_file_holds_is_read_or_refused() {
        let seeds = [
            "source = 'redis://${WHO}@h'\nname = \"$${WHO}$\"\ncompression-level = 3\nlisten-open = true\n",
            "# a comment\nflush-interval = \"1s\"\nstore = \"\"\"s3://bucket\"\"\"\n[table]\nx = [1, {y = 2.5}]\n",
            "name = 'a${NOBODY}'\nspool = \"\\u00e9\\n\"\nd = 2026-11-20T14:03:07Z\nn = 0xff\n",
        ];
        let memory = redwind_fuzz::Memory { bytes: 256 << 10, per_byte: 512 };
        redwind_fuzz::Fuzz::of("settings").seeds(seeds).memory(memory).run(|input| {
            match parse(&String::from_utf8_lossy(input)) {
                Ok(file) => format!("{} entries", "x".repeat(file.entries.len().min(9))),
                Err(error) => error.to_string().split(": ").last().unwrap_or_default().to_owned(),
            }
        });
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(([a-z]{1,3}|\\[a\\]|[a-z]=[\"'0-9\\[{]|\\$\\{|\\}|\n|.){0,40})") {
            let _outcome = parse(&text);
        }
    }
}
