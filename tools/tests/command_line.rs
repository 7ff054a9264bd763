//! The `redwind` binary from outside: precedence of settings, secrets, exit statuses.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on")]

use std::io::Read as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// `redwind` with a clean environment.
fn redwind(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redwind"));
    command.args(arguments).env_clear().envs(environment.iter().copied());
    command.output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file =
        write(dir.path(), "redwind.toml", "source = 'redis://db'\nstore = 'file:///a'\nflush-interval = '61s'\n");
    let config = ["agent", "--config", file.to_str().unwrap()];
    // Each is out of bounds, so that the error tells which one counted.
    let told = |arguments: &[&str], environment: &[(&str, &str)]| {
        let output = redwind(&[&config[..], arguments].concat(), environment);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        stderr(&output)
    };
    assert!(told(&[], &[]).contains("flush-interval: 61s is out of bounds"));
    let environment = [("REDWIND_FLUSH_INTERVAL", "62s")];
    assert!(told(&[], &environment).contains("flush-interval: 62s is out of bounds"));
    assert!(told(&["--flush-interval", "63s"], &environment).contains("flush-interval: 63s is out of bounds"));
}

#[test]
fn a_variable_that_is_not_set_is_named_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "redwind.toml", "name = 'a'\nsource = 'redis://${DB_HOST}'\nstore = 'file:///a'\n");
    let arguments = ["agent", "--config", file.to_str().unwrap(), "--flush-interval", "61s"];
    let output = redwind(&arguments, &[]);
    let expected = format!("error: {}:2: source: the environment variable DB_HOST is not set\n", file.display());
    assert_eq!((output.status.code(), stderr(&output)), (Some(2), expected));
    let output = redwind(&arguments, &[("DB_HOST", "db")]);
    assert!(stderr(&output).contains("flush-interval"), "{}", stderr(&output));
}

/// What a server on a port of its own is sent first when `redwind check` runs so.
fn first_command(arguments: &[&str], environment: &[(&str, &str)]) -> (String, Output) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut bytes = [0; 256];
        let read = peer.read(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..read]).into_owned()
    });
    let source = format!("redis://me:url@127.0.0.1:{port}");
    let output = redwind(&[&["check", "--source", &source], arguments].concat(), environment);
    (server.join().unwrap(), output)
}

#[test]
fn the_password_given_closest_to_the_command_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let secret = write(dir.path(), "secret", "secret\n");
    let file = write(dir.path(), "redwind.toml", "source-password = 'settings'\n");
    let (secret, file) = (secret.to_str().unwrap(), file.to_str().unwrap());
    let variable = ("REDWIND_SOURCE_PASSWORD", "variable");
    for (arguments, environment, expected) in [
        (&[][..], &[][..], "url"),
        (&["--config", file], &[], "settings"),
        (&["--config", file], &[variable], "variable"),
        (&["--config", file, "--source-password-file", secret], &[variable], "secret"),
        (&["--config", file], &[("REDWIND_SOURCE_PASSWORD_FILE", secret)], "secret"),
    ] {
        let (sent, _) = first_command(arguments, environment);
        assert!(sent.contains("AUTH") && sent.contains(&format!("\r\n{expected}\r\n")), "{expected}: {sent:?}");
    }
}

#[test]
fn secrets_are_shown_nowhere() {
    let environment = [
        ("REDWIND_SOURCE", "redis://:canary@127.0.0.1:1"),
        ("REDWIND_SOURCE_PASSWORD", "canary"),
        ("REDWIND_STORE", "s3://a:canary@b"),
    ];
    for arguments in
        [&["agent", "--help"][..], &["check", "--help"], &["agent"], &["check"], &["agent", "--flush-interval", "x"]]
    {
        let output = redwind(arguments, &environment);
        let shown = format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(&output));
        assert!(!shown.contains("canary"), "{arguments:?}: {shown}");
    }
}

#[test]
fn the_last_word_of_an_agent_that_logs_json_is_json() {
    let arguments =
        ["agent", "--source", "redis://127.0.0.1:1", "--store", "file:///dev/null/below", "--log-format", "json"];
    let output = redwind(&[&arguments[..], &["--grpc", "none", "--http", "none"]].concat(), &[]);
    let text = stderr(&output);
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((output.status.code(), &last["level"]), (Some(5), &"ERROR".into()), "{text}");
}

#[test]
fn a_password_in_the_process_list_is_warned_of() {
    const WARNING: &str = "visible in the process list";
    let (_, output) = first_command(&[], &[]);
    assert!(stderr(&output).contains(WARNING));
    let output = redwind(&["check"], &[("REDWIND_SOURCE", "redis://:canary@127.0.0.1:1")]);
    assert!(!stderr(&output).contains(WARNING));
}

#[test]
fn each_kind_of_failure_has_its_status() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let spool = dir.path().join("spool");
    let blocked = format!("file://{}/below", write(dir.path(), "file", "").display());
    let agent = ["agent", "--source", "redis://127.0.0.1:1", "--spool", spool.to_str().unwrap(), "--http", "none"];
    for (arguments, expected, words) in [
        (&["--help"][..], 0, ""),
        (&["nonsense"], 2, "unrecognized subcommand"),
        (&["check"], 2, "nothing to check"),
        (&["agent"], 2, "no source"),
        (&["agent", "--config", "/nowhere.toml"], 2, "cannot read /nowhere.toml"),
        (&["agent", "--log-level", "=="], 2, "log-level"),
        (&["check", "--source", "redis://127.0.0.1:1"], 7, ""),
        (&["check", "--store", &blocked], 5, ""),
        (&[&agent[..], &["--grpc", "none", "--store", &blocked]].concat(), 5, "cannot open file://"),
        (&[&agent[..], &["--grpc", &taken, "--store", "memory://"]].concat(), 1, "for --grpc"),
        (&["status", "--agent", "127.0.0.1:1"], 1, "cannot reach an agent"),
    ] {
        let output = redwind(arguments, &[]);
        assert_eq!(output.status.code(), Some(expected), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).lines().filter(|line| line.starts_with("error: ")).count() <= 1, "{}", stderr(&output));
    }
}
