//! `annals bench`: every shape against a real server, by counts, so that what comes out adds up.

use serde_json::Value;

use super::{commands::annals, made_history::Serving};

/// A server in memory, with the empty calls or without.
fn serving(more: &[&str]) -> Serving {
    let mut command = annals(&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    command.args(more);
    Serving::started_by(command)
}

fn with_twins() -> Serving {
    serving(&["--bench-service"])
}

/// The one object that a command prints.
fn one(server: &Serving, arguments: &[&str]) -> Value {
    let mut all = server.json(&[&["bench"], arguments, &["--json"]].concat());
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn head(server: &Serving) -> u64 {
    server.json(&["info", "--json"])[0]["head"].as_u64().unwrap()
}

#[test]
fn appends_are_as_many_as_were_asked_for_and_the_log_has_them() {
    let server = serving(&[]);
    let found = one(&server, &["append", "--count", "100", "--callers", "3", "--batch", "7"]);
    assert_eq!((&found["shape"], &found["load"]["callers"]), (&"append".into(), &3.into()));
    assert_eq!(
        (&found["server"]["mode"], &found["load"]["connections"]),
        (&"memory".into(), &2.into())
    );
    assert_eq!((&found["real"]["events"], head(&server)), (&100.into(), 100));
    assert_eq!((&found["empty"], &found["ratio"]), (&Value::Null, &Value::Null));
    // Of sevens; the last one has what is left.
    assert_eq!(found["real"]["latency_us"]["count"], 15);
    let latency = &found["rounds"][0]["latency_us"];
    let at = |name: &str| latency[name].as_f64().unwrap();
    assert!(0.0 < at("p50") && at("p50") <= at("p99_9") && at("p99_9") <= at("max"), "{latency}");

    let rounds =
        ["stream", "--count", "1000", "--rounds", "3", "--in-flight", "5", "--streams", "4"];
    let found = one(&server, &rounds);
    assert_eq!((&found["real"]["events"], head(&server)), (&3000.into(), 3100));
    assert_eq!(found["rounds"].as_array().unwrap().len(), 3);
    assert_eq!(versions(&server, &found), [750; 4]);

    // Shared by all callers: one turn for each stream, whoever appends.
    let shared = ["append", "--count", "40", "--callers", "3", "--streams", "40"];
    assert_eq!(versions(&server, &one(&server, &shared)), [1; 40]);
}

/// Of each stream of the run the current version.
fn versions(server: &Serving, run: &Value) -> Vec<u64> {
    let prefix = format!("{}-", run["category"].as_str().unwrap());
    let streams = server.json(&["streams", "--json"]);
    let of_run = streams.iter().filter(|it| it["name"].as_str().unwrap().starts_with(&prefix));
    of_run.map(|stream| stream["version"].as_u64().unwrap()).collect()
}

#[test]
fn each_shape_stands_beside_its_empty_twin_which_appends_nothing() {
    let server = with_twins();
    let turns = ["--count", "50", "--rounds", "2"];
    for shape in [
        &["append", "--compare"][..],
        &["append", "--compare=bytes", "--callers", "2"],
        &["stream", "--compare", "--batch", "3"],
        &["stream", "--compare=bytes"],
        &["subscribe", "--live", "--compare"],
    ] {
        let before = head(&server);
        let found = one(&server, &[shape, &turns].concat());
        assert_eq!(
            (&found["real"]["events"], &found["empty"]["events"]),
            (&100.into(), &100.into())
        );
        // One more round has warmed up.
        assert_eq!(head(&server) - before, 150, "{shape:?}");
        assert!(found["ratio"]["events_per_s"]["median"].as_f64().unwrap() > 0.0, "{found}");
        assert!(found["ratio"]["p99"].as_f64().unwrap() > 0.0, "{found}");
    }
    for shape in [
        &["read", "--compare"][..],
        &["read", "--compare", "--limit", "100", "--callers", "2"],
        &["read", "--compare", "--streams", "7"],
        &["subscribe", "--compare"],
    ] {
        let found = one(&server, &[shape, &turns].concat());
        for side in ["real", "empty"] {
            assert!(found[side]["events"].as_u64().unwrap() >= 100, "{shape:?}: {found}");
        }
    }
    let before = head(&server);
    for shape in ["append", "stream", "read", "subscribe"] {
        let found = one(&server, &[shape, "--empty", "--count", "20"]);
        assert_eq!(
            (&found["real"], &found["rounds"][0]["call"]),
            (&Value::Null, &"messages".into())
        );
        assert!(found["empty"]["events"].as_u64().unwrap() >= 20);
    }
    assert_eq!(head(&server), before);
}

/// The bytes of that call go to a file beside the data, which has no name.
#[test]
fn durable_appends_stand_beside_the_call_that_only_writes_and_syncs() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = serving(&["--bench-service", "--data", data.to_str().unwrap()]);
    let entries = || std::fs::read_dir(&data).unwrap().count();
    let before = entries();
    let disk = ["append", "--compare=disk", "--callers", "40", "--count", "400", "--rounds", "2"];
    let found = one(&server, &disk);
    assert_eq!((&found["real"]["events"], &found["empty"]["events"]), (&800.into(), &800.into()));
    let calls = found["rounds"].as_array().unwrap().iter().map(|round| &round["call"]);
    assert_eq!(calls.filter(|call| *call == "disk").count(), 2);
    assert_eq!((head(&server), entries()), (1200, before));
}

#[test]
fn reads_have_what_was_filled_in() {
    let server = serving(&[]);
    let read = ["read", "--fill", "500", "--streams", "5", "--count", "500", "--decode"];
    let found = one(&server, &read);
    // Five calls: a stream has a fifth.
    assert_eq!((&found["real"]["events"], head(&server)), (&500.into(), 500));
    assert_eq!(found["real"]["latency_us"]["count"], 5);
    let found = one(&server, &["read", "--count", "1000", "--decode"]);
    assert_eq!(
        (&found["real"]["events"], &found["load"]["events_in_log"]),
        (&1000.into(), &500.into())
    );
    let found =
        one(&server, &["subscribe", "--fill", "50", "--count", "550", "--subscribers", "1"]);
    assert_eq!((&found["real"]["events"], head(&server)), (&550.into(), 550));
}

#[test]
fn what_cannot_be_measured_is_said() {
    let server = serving(&[]);
    for shape in ["append", "stream", "read", "subscribe"] {
        for option in ["--empty", "--compare"] {
            let (code, stdout, stderr) = server.run(&["bench", shape, option]);
            assert_eq!((code, stdout.as_str()), (Some(1), ""));
            assert!(stderr.contains("start it with `annals serve --bench-service`"), "{stderr}");
        }
    }
    let (code, _, stderr) = with_twins().run(&["bench", "append", "--compare=disk"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("start the server with --data"), "{stderr}");
    for (shape, empty) in [("stream", "disk"), ("read", "disk"), ("subscribe", "bytes")] {
        let (code, _, stderr) = server.run(&["bench", shape, &format!("--compare={empty}")]);
        assert_eq!(code, Some(2));
        assert!(stderr.contains(&format!("leave out `={empty}`")), "{stderr}");
    }
    for shape in ["read", "subscribe"] {
        let (code, _, stderr) = server.run(&["bench", shape]);
        assert_eq!(code, Some(1));
        assert!(stderr.contains("--fill N appends events first"), "{stderr}");
    }
    let (code, _, stderr) =
        server.run(&["bench", "append", "--batch", "10000", "--data-bytes", "4000"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("at most 16777216 are allowed"), "{stderr}");
    assert_eq!(head(&server), 0);
}

#[test]
fn for_people_it_says_what_was_measured_and_how_to_remove_it() {
    let server = with_twins();
    let arguments = ["bench", "append", "--count", "20", "--compare", "--rounds", "1"];
    let (code, stdout, stderr) = server.run(&arguments);
    assert_eq!(code, Some(0), "{stderr}");
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(lines[0].starts_with("append http://127.0.0.1:"), "{stdout}");
    assert!(lines[0].ends_with("· mode memory"), "{stdout}");
    assert_eq!(
        lines[1],
        "callers 1, connections 1, batch 1, data bytes 256, streams 1, rounds of 20 events"
    );
    assert!(lines[2].contains("events/s") && lines[2].contains("p99.9"), "{stdout}");
    let names = ["round 1", "round 1 empty", "real", "empty", "real / empty: events/s "];
    for name in names {
        assert!(lines[3..].iter().any(|line| line.starts_with(name)), "{name} in\n{stdout}");
    }
    // What it says is what to type.
    let said = stderr.lines().find(|line| line.contains("annals retention set")).unwrap();
    let set = said.trim().split(" && ").next().unwrap();
    let set: Vec<&str> = set.split(' ').skip(1).collect();
    assert_eq!(server.run(&set).0, Some(0), "{said}");
    let category = set[set.iter().position(|it| *it == "--category").unwrap() + 1];
    let shown = server.json(&["retention", "show", "--category", category, "--json"]);
    assert!(!shown.is_empty());
}

#[test]
fn the_mixed_load_appends_reads_follows_and_verifies() {
    let server = serving(&[]);
    let arguments = [
        "bench",
        "mixed",
        "--count",
        "2000",
        "--callers",
        "3",
        "--batch",
        "4",
        "--subscribers",
        "2",
        "--readers",
        "2",
        "--limit",
        "50",
        "--category",
        "soak",
        "--json",
        "--report-every",
        "10ms",
    ];
    let mut lines = server.json(&arguments);
    let total = lines.pop().unwrap();
    assert_eq!((&total["kind"], &total["category"]), (&"total".into(), &"soak".into()));
    assert_eq!((&total["appended"]["events"], head(&server)), (&2000.into(), 2000));
    assert_eq!(total["acknowledged_position"], 2000);
    assert_eq!(total["appended"]["latency_us"]["count"], 500);
    // Each of two subscribers has all.
    assert_eq!(total["received"]["events"], 4000);
    assert_eq!(total["received"]["latency_us"]["count"], 4000);
    assert!(total["read"]["latency_us"]["count"].as_u64().unwrap() >= 2);
    for part in ["appended", "read", "received"] {
        assert_eq!(total[part]["errors"], serde_json::json!({}), "{part}");
    }
    let good = serde_json::json!({ "missing": 0, "repeated": 0, "wrong_answers": 0 });
    assert_eq!(total["verified"], good);
    assert!(lines.iter().all(|line| line["kind"] == "interval"), "{lines:?}");
}

#[test]
fn the_mixed_load_goes_on_where_appends_are_refused_and_counts_them() {
    let server = serving(&["--max-memory", "64MiB"]);
    let arguments = [
        "bench",
        "mixed",
        "--duration",
        "3s",
        "--batch",
        "50",
        "--data-bytes",
        "100000",
        "--readers",
        "0",
        "--json",
    ];
    let (code, stdout, stderr) = server.run(&arguments);
    assert_eq!(code, Some(0), "{stderr}");
    let total: Value = serde_json::from_str(&stdout).unwrap();
    assert!(total["appended"]["errors"]["RESOURCE_EXHAUSTED"].as_u64().unwrap() > 0, "{total}");
    assert_eq!(total["received"]["events"], total["appended"]["events"]);
    assert_eq!(total["appended"]["events"], head(&server));
}

#[test]
fn for_people_the_mixed_load_has_a_line_for_each_interval_and_the_totals() {
    let server = serving(&[]);
    let arguments =
        ["bench", "mixed", "--duration", "300ms", "--report-every", "100ms", "--pace", "500"];
    let (code, stdout, stderr) = server.run(&arguments);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("appended/s"), "{stdout}");
    for name in ["appended ", "read ", "received ", "verified: 0 missing, 0 repeated"] {
        assert!(stdout.lines().any(|line| line.starts_with(name)), "{name} in\n{stdout}");
    }
    // So many in so long, and not as many as go.
    assert!(head(&server) <= 151, "{}", head(&server));
}
