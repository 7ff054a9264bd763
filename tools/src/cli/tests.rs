use super::*;
use crate::exit::{Status, status_of};
use redwind_agent::config::{AgentConfig, TokenSource};

fn file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("redwind.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    (dir, path)
}

fn read(arguments: &[&str]) -> anyhow::Result<Cli> {
    let arguments = || std::iter::once("redwind").chain(arguments.iter().copied());
    let command = command();
    let matches = command.clone().try_get_matches_from(arguments())?;
    let matches = with_settings(command, matches, &|command| command.try_get_matches_from(arguments()))?;
    Ok(Cli::from_arg_matches(&matches)?)
}

fn config(arguments: &[&str]) -> anyhow::Result<AgentConfig> {
    match read(&[&["agent"], arguments].concat())?.command {
        Command::Agent(args) => args.config(),
        _ => panic!("not the agent"),
    }
}

fn refused(arguments: &[&str]) -> String {
    let error = config(arguments).unwrap_err();
    assert!(error.is::<clap::Error>() || status_of(&error) == Status::Usage, "{error:#}");
    format!("{error:#}")
}

const LEAST: [&str; 4] = ["--source", "redis://db", "--store", "file:///a"];

#[test]
fn the_command_line_is_well_formed() {
    command().debug_assert();
}

#[test]
fn two_options_are_enough() {
    let config = config(&LEAST).unwrap();
    assert_eq!(config.source.name.to_string(), "default");
    assert_eq!(config.source.flush_interval.as_secs(), 1);
    assert_eq!(config.source.snapshot_interval.unwrap().as_secs(), 86_400);
    assert_eq!(config.source.segment_bytes_max, 8 << 20);
    assert_eq!(config.grpc.unwrap().to_string(), "127.0.0.1:7417");
    assert_eq!(config.http.unwrap().to_string(), "127.0.0.1:7418");
    assert!(config.source.spool.dir.ends_with("spool"));
}

#[test]
fn every_option_of_the_agent_is_a_setting_of_the_file() {
    let (_dir, path) = file(
        "source = 'rediss://db'\nsource-user = 'me'\nsource-password = 'pw'\nstore = 's3://b/p'\nname = 'n'\n\
         tls-ca = '/ca'\ntls-cert = '/cert'\ntls-key = '/key'\nflush-interval = '2s'\ngetack-interval = '50ms'\n\
         snapshot-interval = 'never'\nspool = '/spool'\nspool-size = '1GiB'\nsegment-size = '1MiB'\n\
         compression-level = -3\ngrpc = 'none'\nhttp = '0.0.0.0:80'\nlisten-open = true\nlisten-cert = '/lc'\n\
         listen-key = '/lk'\nlisten-client-ca = '/lca'\nread-token = 'rt'\noperator-token-file = '/ot'\nlog-format = 'json'\n\
         log-level = 'debug'\n",
    );
    let config = config(&["--config", &path]).unwrap();
    let source = config.source;
    assert_eq!(source.server.username(), Some("me"));
    assert_eq!(source.server.password().unwrap().expose(), b"pw");
    assert_eq!((source.name.to_string().as_str(), source.snapshot_interval, source.compression_level), ("n", None, -3));
    assert_eq!((source.flush_interval.as_millis(), source.getack_interval.as_millis()), (2000, 50));
    assert_eq!((source.spool.bytes_max, source.segment_bytes_max), (1 << 30, 1 << 20));
    assert_eq!((config.grpc, config.http.unwrap().port(), config.access.open), (None, 80, true));
    let access = config.access;
    let shown = [access.cert, access.key, access.client_ca].map(|path| path.unwrap().display().to_string());
    assert_eq!(shown, ["/lc", "/lk", "/lca"]);
    assert!(matches!(access.reader, Some(TokenSource::Given(token)) if token.expose() == b"rt"));
    assert!(matches!(access.operator, Some(TokenSource::File(path)) if path == std::path::Path::new("/ot")));
    assert_eq!(source.tls.key.unwrap().display().to_string(), "/key");
}

#[test]
fn a_flag_wins_over_the_file() {
    let (_dir, path) =
        file("source = 'redis://file'\nstore = 'file:///a'\nflush-interval = '2s'\nlisten-open = true\n");
    let config = config(&["--config", &path, "--source", "redis://flag", "--listen-open=false"]).unwrap();
    assert_eq!(config.source.server.to_string(), "redis://flag:6379");
    assert_eq!(config.source.flush_interval.as_secs(), 2);
    assert!(!config.access.open);
}

#[test]
fn errors_of_the_file_name_file_line_and_key() {
    for (text, expected) in [
        ("source = 'redis://db'\nflush-interval = 'soon'", ":2: flush-interval: expected a duration such as 1s"),
        ("\n\nsuorce = 'x'", ":3: suorce: no such setting"),
        ("flush_interval = '1s'", ":1: flush_interval: no such setting; keys are written with '-'"),
        ("log-format = 'xml'", ":1: log-format: expected one of text, json"),
        ("compression-level = 'high'", ":1: compression-level: invalid digit"),
        ("listen-open = 'perhaps'", ":1: listen-open: expected one of true, false"),
        ("config = 'other.toml'", ":1: config: no such setting"),
        ("name = '../up'", ":1: name: "),
    ] {
        let (_dir, path) = file(text);
        let error = refused(&["--config", &path]);
        assert!(error.starts_with(&format!("{path}{expected}")), "{error}");
    }
    assert!(refused(&["--config", "/nowhere.toml"]).contains("cannot read /nowhere.toml"));
}

#[test]
fn what_is_missing_is_told_with_its_three_ways() {
    for (arguments, option, variable) in
        [(&LEAST[2..], "--source", "REDWIND_SOURCE"), (&LEAST[..2], "--store", "REDWIND_STORE")]
    {
        let error = refused(arguments);
        assert!(error.contains(option) && error.contains(variable) && error.contains("settings file"), "{error}");
    }
}

#[test]
fn what_is_no_id_is_told_where_ids_are_found() {
    for option in ["--history", "--snapshot"] {
        let error = read(&["restore", "--to", "latest", option, "nope"]).err().unwrap().to_string();
        assert!(error.contains(option) && error.contains("as `redwind list` shows it"), "{error}");
    }
}

#[test]
fn a_password_comes_from_one_place() {
    let (dir, path) = file("source-password = 'from-file'\n");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "from-secret\n").unwrap();
    let password = |arguments: &[&str]| {
        let config = config(&[&LEAST[..], arguments].concat()).unwrap();
        String::from_utf8(config.source.server.password().unwrap().expose().to_vec()).unwrap()
    };
    assert_eq!(password(&["--config", &path]), "from-file");
    let flag = ["--source-password-file", secret.to_str().unwrap()];
    assert_eq!(password(&flag), "from-secret");
    assert_eq!(password(&[&["--config", &path], &flag[..]].concat()), "from-secret");
    let both = format!("source-password = 'x'\nsource-password-file = '{}'\n", secret.display());
    let (_dir, path) = file(&both);
    assert!(refused(&[&LEAST[..], &["--config", &path]].concat()).contains("not both"));
    assert!(refused(&[&LEAST[..], &["--source-password", "canary"]].concat()).contains("visible in the process list"));
}

#[test]
fn no_error_repeats_a_password() {
    for arguments in [
        &["--source", "redis://:canary#x@db", "--store", "file:///a"][..],
        &["--source", "redis://db", "--store", "s3://key:canary@bucket"],
        &["--source", "redis://:canary@db", "--store", "file:///a", "--tls-ca", "/ca"],
        &["--source", "redis://db", "--store", "file:///a", "--source-password", "canary"],
    ] {
        let error = refused(arguments);
        assert!(!error.contains("canary"), "{error}");
    }
    for text in [
        "source = 'redis://:canary#@db'",
        "source-password = ['canary']",
        "source = 'redis://:canary@db'\nstore = 'canary' x",
    ] {
        let (_dir, path) = file(text);
        let error = refused(&["--store", "file:///a", "--config", &path]);
        assert!(!error.contains("canary"), "{error}");
    }
}

#[test]
fn a_check_reads_the_agents_file() {
    let (_dir, path) = file("source = 'redis://db'\nflush-interval = '2s'\n");
    assert!(matches!(read(&["check", "--config", &path]).unwrap().command, Command::Check(_)));
    let (_dir, path) = file("nonsense = 'x'\n");
    assert!(read(&["check", "--config", &path]).is_err());
}

#[test]
fn every_option_has_its_variable_whose_value_no_help_shows() {
    for subcommand in command().get_subcommands() {
        for argument in subcommand.get_arguments().filter(|argument| argument.get_long().is_some()) {
            let long = argument.get_long().unwrap();
            let expected = format!("REDWIND_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env(), Some(std::ffi::OsStr::new(&expected)), "redwind {}", subcommand.get_name());
            assert!(argument.is_hide_env_values_set(), "redwind {} --{long}", subcommand.get_name());
        }
    }
}
