//! The first hour with Annals: one process serves, others append, import, read, follow and export.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, ChildStderr, Stdio},
};

use flate2::read::GzDecoder;
use serde_json::Value;
use tempfile::TempDir;

use super::{
    commands::annals,
    import_file::{PERMITS, attributes},
};

/// `annals serve` on a free port, killed when dropped.
struct Server {
    process: Child,
    /// Read up to the line that names the address; open, so that the log can be written.
    _log: BufReader<ChildStderr>,
    address: String,
}

impl Server {
    fn start() -> Self {
        let mut process = annals(&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let address = log
            .by_ref()
            .lines()
            .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap())
            .find_map(|line| line["address"].as_str().map(str::to_owned))
            .expect("the log says where the server listens");
        Self { process, _log: log, address }
    }

    /// Runs a command against this server; its exit code, stdout and stderr.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = annals(arguments).env("ANNALS_SERVER", &self.address).output().unwrap();
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.code(), stdout, stderr)
    }

    /// The objects that a command prints.
    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let (code, stdout, stderr) = self.run(arguments);
        assert_eq!(code, Some(0), "{stderr}");
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// 300 events of 20 streams, with everything that an event can carry.
fn write_events(path: &Path) {
    let mut file = File::create(path).unwrap();
    for number in 1..=300 {
        let event = serde_json::json!({
            "specversion": "1.0",
            "id": format!("order-{number}"),
            "source": "/shop",
            "type": if number % 2 == 0 { "PaymentProcessed" } else { "PaymentFailed" },
            "subject": format!("Payment-{}", number % 20),
            "time": format!("2026-01-01T00:00:00.{number:09}Z"),
            "correlationid": "c",
            "userid": "ann",
            "annalstags": "[\"vip\"]",
            "annalsmetadata": "{\"Some-Key\":\"a\\nb\"}",
            "datacontenttype": "application/json",
            "data": { "amount": number },
        });
        writeln!(file, "{event}").unwrap();
    }
}

fn summary(stderr: &str) -> &str {
    stderr.split(';').next().unwrap()
}

#[test]
fn a_second_import_writes_nothing_and_an_export_imports_as_the_same_events() {
    let folder = TempDir::new().unwrap();
    let [given, exported, again] = ["given.ndjson", "exported.ndjson.gz", "again.ndjson"]
        .map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    write_events(given.as_ref());

    let first = Server::start();
    let (code, _, stderr) = first.run(&["import", &given]);
    assert_eq!((code, summary(&stderr)), (Some(0), "300 written, 0 already there, 0 failed"));
    let (code, _, stderr) = first.run(&["import", &given]);
    assert_eq!((code, summary(&stderr)), (Some(0), "0 written, 300 already there, 0 failed"));
    assert_eq!(first.run(&["export", &exported]).0, Some(0));

    let second = Server::start();
    let (code, _, stderr) = second.run(&["import", &exported]);
    assert_eq!((code, summary(&stderr)), (Some(0), "300 written, 0 already there, 0 failed"));
    assert_eq!(second.run(&["export", &again]).0, Some(0));

    let exported = std::io::read_to_string(GzDecoder::new(File::open(exported).unwrap())).unwrap();
    assert_eq!(exported, std::fs::read_to_string(again).unwrap());
    let given = std::fs::read_to_string(given).unwrap();
    for (given, exported) in given.lines().zip(exported.lines()) {
        let [given, exported] = [given, exported].map(|line| {
            let mut event: Value = serde_json::from_str(line).unwrap();
            let time = event["time"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>();
            event["time"] = time.unwrap().timestamp_nanos_opt().into();
            event
        });
        assert_eq!(given, exported);
    }
    assert_eq!(given.lines().count(), exported.lines().count());
}

/// A real history goes in and comes back: the same ids, types, subjects, times and data, in its order.
#[test]
fn a_real_history_is_taken_in_once_and_given_back_as_it_was() {
    if !Path::new(PERMITS).exists() {
        eprintln!("not run: there is no {PERMITS}");
        return;
    }
    let server = Server::start();
    let (code, _, stderr) = server.run(&["import", PERMITS]);
    assert_eq!((code, summary(&stderr)), (Some(0), "8577 written, 0 already there, 0 failed"));
    let info = &server.json(&["info", "--json"])[0];
    assert_eq!((&info["head"], &info["streamCount"]), (&8577.into(), &1434.into()));

    let (code, exported, _) = server.run(&["export", "-"]);
    assert_eq!(code, Some(0));
    let given = std::io::read_to_string(GzDecoder::new(File::open(PERMITS).unwrap())).unwrap();
    assert_eq!(exported.lines().count(), 8577);
    for (given, exported) in given.lines().zip(exported.lines()) {
        assert_eq!(attributes(exported), attributes(given));
        // The data stands last in the given line.
        let data = &given[given.find("\"data\":").unwrap()..given.len() - 1];
        assert!(exported.contains(data), "byte for byte: {exported}");
    }

    let (code, _, stderr) = server.run(&["import", PERMITS]);
    assert_eq!((code, summary(&stderr)), (Some(0), "0 written, 8577 already there, 0 failed"));
    assert_eq!(server.json(&["info", "--json"])[0]["head"], 8577);
}

#[test]
fn what_is_appended_is_read_by_stream_by_tag_and_backwards() {
    let server = Server::start();
    for (stream, tag) in [("Payment-1", "vip"), ("Payment-2", "new"), ("Order-1", "vip")] {
        let data = format!("{{\"of\": \"{stream}\"}}");
        let appended = server.json(&["append", stream, "Happened", &data, "--tag", tag, "--json"]);
        assert_eq!(appended[0]["version"], 1);
    }
    let positions = |arguments: &[&str]| -> Vec<u64> {
        let events = server.json(&[&["read", "--json"], arguments].concat());
        events.iter().map(|event| event["position"].as_u64().unwrap()).collect()
    };
    assert_eq!(positions(&[]), [1, 2, 3]);
    assert_eq!(positions(&["--backwards", "--limit", "2"]), [3, 2]);
    assert_eq!(positions(&["--after", "1"]), [2, 3]);
    assert_eq!(positions(&["--tag", "vip"]), [1, 3]);
    assert_eq!(positions(&["--tag", "vip", "--category", "Order"]), [3]);
    assert_eq!(positions(&["--in-stream", "Payment-1", "--in-stream", "Payment-2"]), [1, 2]);
    assert_eq!(positions(&["Payment-2"]), [2]);
    assert_eq!(server.json(&["read", "Order-1", "--json"])[0]["data"]["of"], "Order-1");

    let streams = server.json(&["streams", "Payment-", "--json"]);
    let names: Vec<_> = streams.iter().map(|stream| &stream["name"]).collect();
    assert_eq!(names, ["Payment-1", "Payment-2"]);
    assert_eq!(server.json(&["info", "--json"])[0]["head"], 3);
}

#[test]
fn a_stale_version_is_refused_with_what_was_found() {
    let server = Server::start();
    let append = ["append", "Payment-1", "Paid", "{}", "--expected-version", "0"];
    assert_eq!(server.run(&append).0, Some(0));
    let (code, _, stderr) = server.run(&append);
    assert_eq!(code, Some(1));
    for text in ["WRONG_EXPECTED_VERSION", "expected=0", "actual=1"] {
        assert!(stderr.contains(text), "{stderr}");
    }
}

#[test]
fn what_is_hidden_by_a_command_is_in_no_answer_and_in_no_export() {
    let folder = TempDir::new().unwrap();
    let export = folder.path().join("export.ndjson");
    let export = export.to_str().unwrap();
    let server = Server::start();
    for stream in ["Payment-1", "Payment-2", "Order-1", "Order-2"] {
        for event_type in ["First", "Second", "Third"] {
            assert_eq!(server.run(&["append", stream, event_type]).0, Some(0));
        }
    }
    let said = |arguments: &[&str], expected: &str| {
        let (code, stdout, stderr) = server.run(arguments);
        assert_eq!((code, stdout.trim_end()), (Some(0), expected), "{stderr}");
    };
    let of_category = ["retention", "set", "--category", "Payment", "--max-count", "2"];
    said(&of_category, "kept from now on: the newest 2; set at position 13");
    said(&of_category, "unchanged: it was set already");
    let both = ["retention", "set", "Payment-1", "--max-age", "90d", "--max-count", "1", "--json"];
    assert_eq!(server.json(&both)[0], serde_json::json!({"position": 14, "unchanged": false}));
    let none = ["retention", "set", "Payment-1", "--everything"];
    said(&none, "kept from now on: everything; set at position 15");
    let truncate = ["truncate", "Order-1", "--before", "3"];
    said(&truncate, "truncated Order-1 before version 3, at position 16");
    said(&truncate, "already truncated Order-1 before version 3");
    let delete = ["delete", "Order-2", "--expected-version", "3"];
    said(&delete, "deleted Order-2, at position 17");
    said(&["tombstone", "Order-2"], "tombstoned Order-2, at position 18");
    let again = server.json(&["tombstone", "Order-2", "--json"]);
    assert_eq!(again[0], serde_json::json!({"position": 0, "unchanged": true}));

    let shown = server.json(&["retention", "show", "Payment-1", "--json"]);
    let expected = serde_json::json!({
        "rule": {"maxAge": null, "maxCount": null},
        "categoryRule": {"maxAge": null, "maxCount": 2},
        "state": "STREAM_STATE_LIVE",
        "version": 3,
        "hiddenVersion": 2,
    });
    assert_eq!(shown[0], expected);
    let (code, shown, _) = server.run(&["retention", "show", "Order-2"]);
    assert_eq!(code, Some(0));
    assert!(shown.contains("tombstoned") && shown.contains("hidden up to      3"), "{shown}");
    let (_, shown, _) = server.run(&["retention", "show", "--category", "Payment"]);
    assert!(shown.contains("the newest 2"), "{shown}");
    let (code, _, stderr) = server.run(&["append", "Order-2", "Fourth"]);
    assert!(code == Some(1) && stderr.contains("STREAM_TOMBSTONED"), "{stderr}");
    let (code, _, stderr) = server.run(&["truncate", "Order-1", "--before", "9"]);
    assert!(code == Some(1) && stderr.contains("before_version: is 9, at most 4"), "{stderr}");

    // The server's own events are left out, so that the rest can be imported elsewhere.
    assert_eq!(summary(&server.run(&["export", export]).2), "4 exported");
    let second = Server::start();
    let (code, _, stderr) = second.run(&["import", export]);
    assert_eq!((code, summary(&stderr)), (Some(0), "4 written, 0 already there, 0 failed"));
    assert_eq!(summary(&server.run(&["export", export, "--limit", "3"]).2), "3 exported");
    assert_eq!(summary(&server.run(&["export", export, "--system"]).2), "10 exported");
    // Nor do they count where a limit is set.
    assert_eq!(server.run(&["append", "Refund-1", "First"]).0, Some(0));
    let one = ["export", export, "--after", "12", "--limit", "1"];
    assert_eq!(summary(&server.run(&one).2), "1 exported");
}

#[test]
fn streams_are_listed_beyond_one_page() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("events.ndjson");
    let mut lines = File::create(&file).unwrap();
    for number in 0..2345 {
        writeln!(
            lines,
            r#"{{"specversion":"1.0","id":"{number}","source":"/s","type":"T","subject":"S-{number}"}}"#
        )
        .unwrap();
    }
    let server = Server::start();
    assert_eq!(server.run(&["import", file.to_str().unwrap()]).0, Some(0));
    assert_eq!(server.run(&["streams"]).1.lines().count(), 2345);
    assert_eq!(server.run(&["streams", "--limit", "1500"]).1.lines().count(), 1500);
}

#[test]
fn a_tail_prints_what_was_there_and_then_what_comes() {
    let server = Server::start();
    assert_eq!(server.run(&["append", "Payment-1", "First"]).0, Some(0));
    let mut tail = annals(&["tail", "--from-start", "--json"])
        .env("ANNALS_SERVER", &server.address)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut events = BufReader::new(tail.stdout.take().unwrap())
        .lines()
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    assert_eq!(events.next().unwrap()["type"], "First");
    assert_eq!(server.run(&["append", "Payment-1", "Second"]).0, Some(0));
    assert_eq!(events.next().unwrap()["type"], "Second");
    // The reader has seen enough, and nothing more comes.
    drop(events);
    assert_eq!(tail.wait().unwrap().code(), Some(0));
}
