//! A finding: what was looked at, what was found, and the line to type.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Subject {
    Source,
    Store,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// An agent works with it, and something is worse than it could be.
    Warning,
    /// An agent refuses to work with it, or could not do its work.
    Failure,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) subject: Subject,
    /// What was looked at: stable, for scripts.
    pub(super) check: &'static str,
    pub(super) level: Level,
    /// What was found, for people.
    pub(super) message: String,
    /// What to type, or to set, to mend it.
    pub(super) fix: Option<String>,
}

impl Finding {
    pub(super) fn new(subject: Subject, check: &'static str, level: Level, message: impl Into<String>) -> Self {
        Self { subject, check, level, message: message.into(), fix: None }
    }

    pub(super) fn with_fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// The findings as JSON.
pub(super) fn document(findings: &[Finding]) -> Value {
    json!({ "fit": is_fit(findings), "findings": findings })
}

/// The findings for people, the line to type below each.
pub(super) fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { subject, check, level, message, fix } in findings {
        let level = match level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Failure => "FAILURE",
        };
        let subject = match subject {
            Subject::Source => "source",
            Subject::Store => "store",
        };
        let _ = writeln!(text, "{level:<8} {subject:<7} {check:<22} {message}");
        if let Some(fix) = fix {
            let _ = writeln!(text, "{:<39} -> {fix}", "");
        }
    }
    let warnings = findings.iter().filter(|found| found.level == Level::Warning).count();
    let verdict = if is_fit(findings) { "fit" } else { "not fit" };
    let _ = match warnings {
        0 => writeln!(text, "\n{verdict}"),
        1 => writeln!(text, "\n{verdict}, with 1 warning"),
        _ => writeln!(text, "\n{verdict}, with {warnings} warnings"),
    };
    text
}

fn is_fit(findings: &[Finding]) -> bool {
    findings.iter().all(|found| found.level != Level::Failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_to_type_stands_below_its_finding() {
        let findings = [
            Finding::new(Subject::Source, "version", Level::Ok, "redis 7.0.15"),
            Finding::new(Subject::Source, "repl-timeout", Level::Warning, "too short")
                .with_fix("CONFIG SET repl-timeout 60"),
        ];
        let expected = "\
ok       source  version                redis 7.0.15
warning  source  repl-timeout           too short
                                        -> CONFIG SET repl-timeout 60

fit, with 1 warning
";
        assert_eq!(text(&findings), expected);
        let json = document(&findings);
        assert_eq!(json["fit"], true);
        assert_eq!(json["findings"][1]["level"], "warning");
        assert!(json["findings"][0]["fix"].is_null());
    }
}
