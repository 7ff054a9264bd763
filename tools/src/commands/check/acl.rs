//! What our user may do on the source, found out by commands that do nothing.

use std::time::Duration;

use redwind_link::{Connection, LinkError, ReplicationInfo, ServerUrl, psync_allowed};

use super::finding::{Finding, Level, Subject};

/// Everything that an agent and this check ask of a server.
const RULES_ALL: &str = "+psync +replconf +ping +info +time +module|list +config|get";

/// Whether a command is allowed, and the server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Right {
    Granted,
    Denied,
    Unknown,
}

/// Finds what is missing. `connection` is used up to the last command; `probe` is another one, that
/// is closed afterwards.
///
/// # Errors
/// When a connection is lost on the way.
pub(super) async fn check(
    url: &ServerUrl,
    connection: &mut Connection,
    probe: Connection,
    replication: &ReplicationInfo,
    timeout: Duration,
) -> Result<Vec<Finding>, LinkError> {
    let mut missing: Vec<(&str, Right, Level)> = Vec::new();
    let mut note = |name, right, level| {
        if right != Right::Granted {
            missing.push((name, right, level));
        }
    };
    for (name, command, level) in [
        ("PING", &[&b"PING"[..]][..], Level::Failure),
        ("REPLCONF", &[b"REPLCONF", b"capa", b"eof"], Level::Failure),
        ("TIME", &[b"TIME"], Level::Warning),
        ("MODULE LIST", &[b"MODULE", b"LIST"], Level::Warning),
        ("CONFIG GET", &[b"CONFIG", b"GET", b"repl-timeout"], Level::Warning),
    ] {
        note(name, right(connection.command(command).await)?, level);
    }
    note("PSYNC", right(psync_allowed(probe, replication, timeout).await)?, Level::Failure);
    if missing.is_empty() {
        let message = "our user may do all that an agent needs";
        return Ok(vec![Finding::new(Subject::Source, "acl", Level::Ok, message)]);
    }
    let of =
        |wanted| missing.iter().filter(move |(_, _, level)| *level == wanted).map(|(name, right, _)| (*name, right));
    let user = url.username().unwrap_or("default");
    Ok([Level::Failure, Level::Warning].into_iter().filter_map(|level| finding(user, level, of(level))).collect())
}

/// One finding for all that is missing at a level.
fn finding<'a>(user: &str, level: Level, missing: impl Iterator<Item = (&'a str, &'a Right)>) -> Option<Finding> {
    let mut denied = false;
    let parts: Vec<String> = missing
        .map(|(name, right)| {
            denied |= *right == Right::Denied;
            let lack = match right {
                Right::Unknown => format!("the server has no {name} (renamed, or disabled by a managed service)"),
                _ => format!("user {user} may not {name}"),
            };
            format!("{lack}: {}", consequence(name))
        })
        .collect();
    let found = Finding::new(Subject::Source, "acl", level, parts.join("; "));
    match (parts.is_empty(), denied) {
        (true, _) => None,
        (false, true) => Some(found.with_fix(format!("ACL SETUSER {user} {RULES_ALL}"))),
        (false, false) => Some(found),
    }
}

fn consequence(name: &str) -> &'static str {
    match name {
        "TIME" => "the clocks cannot be compared",
        "MODULE LIST" => "the archive will not tell which modules a restore needs",
        "CONFIG GET" => "this check cannot look at the server's settings",
        _ => "an agent cannot follow this server",
    }
}

fn right<T>(outcome: Result<T, LinkError>) -> Result<Right, LinkError> {
    match outcome {
        Ok(_) => Ok(Right::Granted),
        Err(LinkError::NoPermission { .. }) => Ok(Right::Denied),
        Err(LinkError::UnknownCommand { .. }) => Ok(Right::Unknown),
        Err(error) if error.is_answer() => Ok(Right::Granted),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_together_with_the_line_to_type() {
        let missing = [("PSYNC", &Right::Denied), ("PING", &Right::Unknown)];
        let found = finding("red", Level::Failure, missing.into_iter()).unwrap();
        assert!(found.message.starts_with("user red may not PSYNC: an agent cannot follow"), "{}", found.message);
        assert!(found.message.contains("; the server has no PING (renamed"), "{}", found.message);
        assert!(found.fix.unwrap().starts_with("ACL SETUSER red +psync +replconf +ping"));
        assert_eq!(finding("red", Level::Warning, std::iter::empty()), None);
        let unknown = finding("red", Level::Failure, [("PSYNC", &Right::Unknown)].into_iter()).unwrap();
        assert_eq!(unknown.fix, None);
    }

    #[test]
    fn only_noperm_and_unknown_commands_are_missing_rights() {
        let answer = |text: &str| right::<()>(Err(LinkError::from_server(&[b"PSYNC"], text.as_bytes()))).unwrap();
        assert_eq!(answer("NOPERM this user has no permissions to run the 'psync' command"), Right::Denied);
        assert_eq!(answer("ERR unknown command 'PSYNC', with args beginning with: "), Right::Unknown);
        assert_eq!(answer("ERR SYNC and PSYNC are invalid with pending output"), Right::Granted);
        assert_eq!(answer("NOMASTERLINK Can't SYNC while not connected with my master"), Right::Granted);
    }
}
