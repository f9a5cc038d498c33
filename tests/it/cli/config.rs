//! Options: which source wins, and what is said of mistakes.

use std::{ffi::OsString, io::Write, time::Duration};

use annals::config::{Config, FILE_FLAG, LogFormat, Mistakes, OPTIONS, Origin, load};
use tempfile::NamedTempFile;

fn flags<const N: usize>(flags: [(&str, &str); N]) -> [(String, String); N] {
    flags.map(|(name, value)| (name.to_owned(), value.to_owned()))
}

fn environment<const N: usize>(variables: [(&str, &str); N]) -> [(OsString, OsString); N] {
    variables.map(|(name, value)| (name.into(), value.into()))
}

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn path(file: &NamedTempFile) -> &str {
    file.path().to_str().unwrap()
}

/// Every text must be in a line of its own.
fn assert_lines(mistakes: &Mistakes, expected: &[&[&str]]) {
    let lines = mistakes.lines();
    assert_eq!(lines.len(), expected.len(), "{mistakes}");
    for texts in expected {
        let found = lines.iter().any(|line| texts.iter().all(|text| line.contains(text)));
        assert!(found, "{texts:?} in\n{mistakes}");
    }
}

#[test]
fn without_a_word_everything_is_a_default() {
    let loaded = load(flags([]), environment([("PATH", "/bin")])).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.settings().all(|(_, _, origin)| *origin == Origin::Default));
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let file = file("# mine\ntags-max = 1\ncommit-events-max = 1\nlisten = \"[::1]:1\"\n");
    let flags = flags([("listen", "127.0.0.1:3"), (FILE_FLAG, path(&file))]);
    let environment =
        environment([("ANNALS_COMMIT_EVENTS_MAX", "2"), ("ANNALS_LISTEN", "127.0.0.1:2")]);
    let loaded = load(flags, environment).unwrap();

    assert_eq!(loaded.config.listen.port(), 3);
    assert_eq!(loaded.config.limits.commit_events_max, 2);
    assert_eq!(loaded.config.limits.tags_max, 1);
    assert_eq!(loaded.config.subscriptions_max, Config::default().subscriptions_max);
    assert_eq!(*loaded.origin("listen"), Origin::Flag);
    assert_eq!(*loaded.origin("commit-events-max"), Origin::Environment);
    assert_eq!(*loaded.origin("tags-max"), Origin::File(file.path().to_owned(), 2));
    assert_eq!(*loaded.origin("subscriptions-max"), Origin::Default);
}

#[test]
fn the_file_that_a_flag_names_replaces_the_environments() {
    let (wanted, other) = (file("tags-max = 1"), file("tags-max = 2"));
    let flags = flags([(FILE_FLAG, path(&wanted))]);
    let loaded = load(flags, environment([("ANNALS_CONFIG", path(&other))])).unwrap();
    assert_eq!(loaded.config.limits.tags_max, 1);
}

#[test]
fn values_are_read_in_the_units_that_people_write() {
    let loaded = load(
        flags([
            ("event-size-max-bytes", "64KiB"),
            ("commit-size-max-bytes", "1MiB"),
            ("shutdown-timeout", "500ms"),
            ("log-level", "info,annals::core=debug"),
            ("log-format", "json"),
            ("bench-service", "true"),
        ]),
        environment([]),
    )
    .unwrap();
    assert_eq!(loaded.config.limits.event_size_bytes_max, 65_536);
    assert_eq!(loaded.config.limits.commit_size_bytes_max, 1_048_576);
    assert_eq!(loaded.config.shutdown_timeout, Duration::from_millis(500));
    assert_eq!(loaded.config.log_format, LogFormat::Json);
    assert!(loaded.config.bench_service);

    for (text, seconds) in [("10s", 10), ("2m", 120), ("1h", 3600), ("0s", 0)] {
        let loaded = load(flags([("shutdown-timeout", text)]), environment([])).unwrap();
        assert_eq!(loaded.config.shutdown_timeout.as_secs(), seconds);
    }
}

#[test]
fn all_mistakes_of_all_sources_are_reported_at_once() {
    let file = file("append-queue-max = 0\nlog_level = \"info\"\ntags-max = [1]\n");
    let mistakes = load(
        flags([
            ("listen", "localhost"),
            ("shutdown-timeout", "10"),
            ("log-level", "verbose"),
            (FILE_FLAG, path(&file)),
        ]),
        environment([
            ("ANNALS_TAGS_MAX", "many"),
            ("ANNALS_LISTN", "127.0.0.1:1"),
            ("ANNALS_SERVER", "http://127.0.0.1:1"),
        ]),
    )
    .unwrap_err();
    assert_lines(
        &mistakes,
        &[
            &["flag: --listen is \"localhost\"", "allowed: ADDRESS:PORT"],
            &["flag: --shutdown-timeout is \"10\"", "allowed: a whole number of ms, s, m or h"],
            &["flag: --log-level is \"verbose\"", "allowed: off, error, warn, info, debug, trace"],
            &["environment: ANNALS_TAGS_MAX is \"many\"", "allowed: 1 to 1024"],
            &["environment: ANNALS_LISTN is not an option", "did you mean ANNALS_LISTEN?"],
            &[":1: append-queue-max is \"0\"", "allowed: 1 to 1048576"],
            &[":2: log_level is not an option", "did you mean log-level?"],
            &[":3: tags-max is array"],
        ],
    );
}

#[test]
fn a_value_that_another_source_overrides_is_checked_too() {
    let mistakes = load(flags([("tags-max", "1")]), environment([("ANNALS_TAGS_MAX", "0")]));
    assert_lines(&mistakes.unwrap_err(), &[&["environment: ANNALS_TAGS_MAX is \"0\""]]);
}

#[test]
fn an_event_that_no_commit_can_hold_is_a_mistake() {
    let flags = flags([("event-size-max-bytes", "2MiB")]);
    let environment = environment([("ANNALS_COMMIT_SIZE_MAX_BYTES", "1MiB")]);
    assert_lines(
        &load(flags, environment).unwrap_err(),
        &[&[
            "event-size-max-bytes (2097152, flag)",
            "commit-size-max-bytes (1048576, environment)",
        ]],
    );
}

#[test]
fn nothing_goes_beyond_the_hard_limits() {
    for option in OPTIONS.iter().filter(|option| option.name.contains("-max")) {
        // How much the disk takes is the operator's to say.
        let too_much = (option.name != "models-size-max-bytes").then_some("99999999999");
        for value in ["0"].into_iter().chain(too_much) {
            let mistakes = load(flags([(option.name, value)]), environment([]));
            assert_lines(&mistakes.unwrap_err(), &[&[option.name, value]]);
        }
    }
}

#[test]
fn a_file_that_is_not_there_or_not_toml_is_a_mistake() {
    let missing = load(flags([(FILE_FLAG, "/nowhere/annals.toml")]), environment([]));
    assert_lines(&missing.unwrap_err(), &[&["file /nowhere/annals.toml", "No such file"]]);

    let broken = file("tags-max = 1\nlisten = \"\n");
    let mistakes = load(flags([(FILE_FLAG, path(&broken))]), environment([])).unwrap_err();
    assert!(mistakes.lines().iter().any(|line| line.contains(":2: not TOML")), "{mistakes}");
}

#[test]
fn what_is_printed_is_a_file_that_says_the_same() {
    let given = flags([
        ("listen", "[::1]:9"),
        ("shutdown-timeout", "1500ms"),
        ("log-level", "info,annals[{name=\"a\"}]=debug"),
        ("bench-service", "true"),
    ]);
    let loaded = load(given, environment([])).unwrap();
    let printed = file(&loaded.to_string());
    let again = load(flags([(FILE_FLAG, path(&printed))]), environment([])).unwrap();
    assert_eq!(again.config, loaded.config);
}
