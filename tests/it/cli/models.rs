//! `annals models` against a real server.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use annals::wire::proto::v1::{
    ApplyRequest, DocumentWrite, document_write::Write,
    read_model_service_client::ReadModelServiceClient,
};
use serde_json::{Value, json};

use super::{commands::annals, made_history::Serving};

/// A server in memory with so many events.
fn server_with(events: usize) -> Serving {
    let server =
        Serving::started_by(annals(&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]));
    for _ in 0..events {
        said(&server, &["append", "Payment-1", "Happened", "{}"]);
    }
    server
}

fn said(server: &Serving, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = server.run(arguments);
    assert_eq!(code, Some(0), "{stderr}");
    stdout
}

fn refused(server: &Serving, arguments: &[&str], reason: &str) {
    let (code, stdout, stderr) = server.run(arguments);
    assert_eq!((code, &*stdout), (Some(1), ""), "{stderr}");
    assert!(stderr.contains(reason), "{stderr}");
}

/// What a projection does: documents of `orders`, and its checkpoint. An empty document is deleted.
fn project(server: &Serving, version: u32, from: u64, to: u64, documents: &[(&str, &str)]) {
    let writes = documents.iter().map(|(key, json)| {
        let write = match *json {
            "" => Write::Delete(()),
            json => Write::Upsert(json.to_owned()),
        };
        DocumentWrite { key: (*key).to_owned(), write: Some(write) }
    });
    let request = ApplyRequest {
        model: "orders".to_owned(),
        version,
        expected_checkpoint: from,
        checkpoint: to,
        writes: writes.collect(),
    };
    let url = format!("http://{}", server.address);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = ReadModelServiceClient::connect(url).await.unwrap();
        client.apply(request).await.unwrap();
    });
}

const CREATE: [&str; 7] =
    ["models", "create", "orders", "--index", "status,amount", "--index", " amount "];

/// `orders` with three documents, and two events that its projection has not come to.
fn server_with_orders() -> Serving {
    let server = server_with(5);
    said(&server, &CREATE);
    let documents = [
        ("a", "{\"status\":\"failed\",\n \"amount\":12.10}"),
        ("b", r#"{"status":"failed","amount":7}"#),
        ("c", r#"{"status":"paid","amount":100}"#),
    ];
    project(&server, 0, 0, 3, &documents);
    server
}

#[test]
fn models_are_made_and_listed_with_how_far_each_version_is() {
    let server = server_with(0);
    assert_eq!(said(&server, &["models"]), "");
    assert_eq!(said(&server, &CREATE), "orders version 1 is at checkpoint 0\n");
    // The same again is answered again, another one is not.
    assert_eq!(said(&server, &CREATE), "orders version 1 is at checkpoint 0\n");
    refused(&server, &["models", "create", "orders"], "MODEL_EXISTS");
    let made = server.json(&["models", "create", "orders", "--version", "2", "--json"]).remove(0);
    assert_eq!((&made["version"], &made["indexes"]), (&json!(2), &json!([])));

    let server = server_with_orders();
    said(&server, &["models", "create", "orders", "--version", "2"]);
    said(&server, &["models", "create", "b"]);
    let listed = said(&server, &["models"]);
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 4, "{listed}");
    assert_eq!(lines[0], "model   version           documents  size  checkpoint  behind  applied");
    assert_eq!(lines[1], "b             1  current          0   0 B           0       5  -");
    assert!(
        lines[2].starts_with("orders        1  current          3  99 B           3       2  20"),
        "{listed}"
    );
    assert_eq!(lines[3], "orders        2                   0   0 B           0       5  -");
    assert_eq!(said(&server, &["models", "list"]), listed);

    let listed = server.json(&["models", "--json"]);
    assert_eq!((&listed[0]["model"], &listed[1]["model"]), (&json!("b"), &json!("orders")));
    assert_eq!((&listed[1]["currentVersion"], &listed[1]["head"]), (&json!(1), &json!(5)));
    let version = &listed[1]["versions"][0];
    let fields = json!([{"fields": ["status", "amount"]}, {"fields": ["amount"]}]);
    assert_eq!(version["indexes"], fields);
    assert_eq!((&version["checkpoint"], &version["documentCount"]), (&json!(3), &json!(3)));
    assert_eq!(version["documentBytes"], 99);
    assert!(version["createdAt"].is_string() && version["appliedAt"].is_string());
}

#[test]
fn a_model_is_shown_with_its_versions_and_their_indexes() {
    let server = server_with_orders();
    said(&server, &["models", "create", "orders", "--version", "7"]);
    let shown = said(&server, &["models", "show", "orders"]);
    for line in [
        "model       orders\n",
        "current     1\n",
        "head        5\n\n",
        "version     1\ndocuments   3\nsize        99 B\ncheckpoint  3\nbehind      2\ncreated     20",
        "index       status, amount\nindex       amount\n\nversion     7\n",
    ] {
        assert!(shown.contains(line), "{line:?} in\n{shown}");
    }
    let shown = server.json(&["models", "show", "orders", "--json"]).remove(0);
    assert_eq!(shown, server.json(&["models", "--json"])[0]);
    refused(&server, &["models", "show", "nowhere"], "there is no read model nowhere");
}

#[test]
fn a_document_is_got_by_its_key() {
    let server = server_with_orders();
    let get = ["models", "get", "orders", "a"];
    assert_eq!(said(&server, &get), "{\"status\":\"failed\",  \"amount\":12.10}\n");
    // Its digits stay what they are.
    let (_, stdout, _) = server.run(&[&get[..], &["--json"]].concat());
    assert_eq!(
        stdout,
        "{\"document\":{\"key\":\"a\",\"json\":{\"status\":\"failed\",  \"amount\":12.10},\
         \"position\":3},\"checkpoint\":3}\n"
    );
    refused(&server, &["models", "get", "orders", "z"], "UNKNOWN_DOCUMENT");
    refused(&server, &["models", "get", "nowhere", "a"], "UNKNOWN_MODEL");
    refused(&server, &["models", "get", "orders", "a", "--version", "2"], "UNKNOWN_MODEL");
    said(&server, &["models", "get", "orders", "a", "--version", "1", "--min-position", "3"]);
}

#[test]
fn documents_are_found_by_what_their_fields_say() {
    let server = server_with_orders();
    let found = |options: &[&str]| -> Vec<String> {
        let find = [&["models", "find", "orders", "--json"], options].concat();
        let found = server.json(&find).into_iter();
        found.map(|document| document["key"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(found(&[]), ["a", "b", "c"]);
    assert_eq!(found(&["--descending"]), ["c", "b", "a"]);
    assert_eq!(found(&["--where", "status=failed"]), ["b", "a"]);
    assert_eq!(found(&["--where", "status=failed", "--order-by", "amount"]), ["b", "a"]);
    assert_eq!(found(&["--where", "amount>=12.1"]), ["a", "c"]);
    assert_eq!(found(&["--where", "amount > 12.1", "--where", "status == paid"]), ["c"]);
    assert_eq!(found(&["--order-by", "amount", "--descending", "--limit", "2"]), ["c", "a"]);
    assert_eq!(found(&["--where", "amount=\"7\""]), [""; 0]);
    assert_eq!(found(&["--version", "1", "--min-position", "3", "--where", "amount=7"]), ["b"]);

    let text = said(&server, &["models", "find", "orders", "--where", "status=failed"]);
    assert_eq!(
        text,
        "       3  b  {\"status\":\"failed\",\"amount\":7}\n       3  a  \
         {\"status\":\"failed\",  \"amount\":12.10}\n"
    );
    let document = server.json(&["models", "find", "orders", "--limit", "1", "--json"]).remove(0);
    assert_eq!(
        document,
        json!({"key": "a", "json": {"status": "failed", "amount": 12.10}, "position": 3})
    );
    let (_, _, stderr) = server.run(&["models", "find", "orders", "--limit", "2"]);
    assert_eq!(stderr, "the first 2; there are more\n");
    let (_, _, stderr) = server.run(&["models", "find", "orders", "--limit", "3"]);
    assert_eq!(stderr, "");

    refused(&server, &["models", "find", "orders", "--where", "other=1"], "NOT_INDEXED");
    refused(&server, &["models", "find", "orders", "--order-by", "other"], "fields=other");
    refused(&server, &["models", "find", "nowhere"], "UNKNOWN_MODEL");
}

#[test]
fn documents_are_found_beyond_one_page() {
    let server = server_with(1);
    said(&server, &CREATE);
    let keys: Vec<String> = (0..2345).map(|number| format!("{number:05}")).collect();
    let documents: Vec<_> = keys.iter().map(|key| (&**key, r#"{"amount":1}"#)).collect();
    project(&server, 0, 0, 1, &documents);
    let lines = |options: &[&str]| {
        let find = [&["models", "find", "orders"], options].concat();
        said(&server, &find).lines().count()
    };
    assert_eq!(lines(&[]), 2345);
    assert_eq!(lines(&["--where", "amount=1", "--limit", "1500"]), 1500);
}

/// The lines that a watch prints, while `drive` does something after some of them.
#[test]
fn a_watch_prints_what_matches_and_then_what_changes_until_its_pipe_is_closed() {
    let server = server_with_orders();
    said(&server, &["models", "create", "orders", "--version", "2", "--index", "status"]);
    let watch = |options: &[&str]| {
        let words = ["models", "watch", "orders", "--where", "status=failed"];
        let mut child = annals(&[&words, options, &["--server", &server.address]].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let next = move || lines.next().unwrap().unwrap();
        (child, next)
    };
    let (text, mut line) = watch(&[]);
    assert_eq!(line(), "+        3  b  {\"status\":\"failed\",\"amount\":7}");
    assert_eq!(line(), "+        3  a  {\"status\":\"failed\",  \"amount\":12.10}");
    let (as_json, mut json_line) = watch(&["--json"]);
    let mut message = move || serde_json::from_str::<Value>(&json_line()).unwrap();
    let first = message();
    assert_eq!(first["changes"]["upserts"][1]["json"]["amount"], 12.10);
    assert_eq!(first["changes"]["removedKeys"], json!([]));
    assert_eq!(message(), json!({"caughtUp": {"checkpoint": 3, "version": 1}}));

    project(&server, 1, 3, 4, &[("a", ""), ("c", r#"{"status":"failed"}"#)]);
    assert_eq!(line(), "+        4  c  {\"status\":\"failed\"}");
    assert_eq!(line(), "-           a");
    let upsert = json!({"key": "c", "json": {"status": "failed"}, "position": 4});
    let changes = json!({"changes": {"upserts": [upsert], "removedKeys": ["a"]}});
    assert_eq!(message(), changes);
    assert_eq!(message(), json!({"caughtUp": {"checkpoint": 4, "version": 1}}));

    project(&server, 2, 0, 5, &[("z", r#"{"status":"failed","v":2}"#)]);
    said(&server, &["models", "switch", "orders", "2"]);
    assert_eq!(line(), "+        5  z  {\"status\":\"failed\",\"v\":2}");
    assert_eq!(message(), json!({"reset": {"version": 2}}));
    assert_eq!(message()["changes"]["upserts"][0]["key"], "z");
    assert_eq!(message(), json!({"caughtUp": {"checkpoint": 5, "version": 2}}));

    drop((line, message));
    let output = text.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let stderr = String::from_utf8(output.stderr).unwrap();
    for remark in [
        "version 1 at checkpoint 3: 2 documents match\n",
        "the result of version 2 comes from its beginning\n",
    ] {
        assert!(stderr.contains(remark), "{stderr}");
    }
    assert_eq!(as_json.wait_with_output().unwrap().status.code(), Some(0));
    refused(&server, &["models", "watch", "orders", "--where", "other=1"], "NOT_INDEXED");
    refused(&server, &["models", "watch", "nowhere"], "UNKNOWN_MODEL");
}

#[test]
fn a_watch_of_a_model_that_is_dropped_ends_with_what_was_said() {
    let server = server_with_orders();
    let mut watch = annals(&["models", "watch", "orders", "--server", &server.address])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    said(&server, &["models", "drop", "orders", "--yes"]);
    let output = watch.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("UNKNOWN_MODEL"));
}

#[test]
fn a_version_is_made_the_current_one_and_others_are_dropped() {
    let server = server_with_orders();
    said(&server, &["models", "create", "orders", "--version", "2"]);
    project(&server, 2, 0, 5, &[("z", "{}")]);
    let switch = ["models", "switch", "orders", "2"];
    assert_eq!(said(&server, &switch), "orders has version 2 now, before 1\n");
    assert_eq!(said(&server, &switch), "orders has version 2 already\n");
    let json = server.json(&[&switch[..], &["--json"]].concat());
    assert_eq!(json, [json!({"previousVersion": 2})]);
    assert_eq!(said(&server, &["models", "get", "orders", "z"]), "{}\n");
    refused(&server, &["models", "switch", "orders", "3"], "UNKNOWN_MODEL");
    refused(&server, &["models", "switch", "nowhere", "1"], "UNKNOWN_MODEL");

    let drop = ["models", "drop", "orders", "--yes"];
    let current = [&drop[..], &["--version", "2"]].concat();
    refused(&server, &current, "MODEL_VERSION_CURRENT");
    let old = [&drop[..], &["--version", "1"]].concat();
    assert_eq!(said(&server, &old), "dropped orders: version 1\n");
    said(&server, &["models", "create", "orders", "--version", "9"]);
    let json = server.json(&[&drop[..], &["--json"]].concat());
    assert_eq!(json, [json!({"droppedVersions": [2, 9]})]);
    assert_eq!(said(&server, &["models"]), "");
    refused(&server, &drop, "UNKNOWN_MODEL");
}

/// stdin is no terminal here: there is nobody to ask.
#[test]
fn nothing_is_dropped_where_nobody_can_be_asked() {
    let server = server_with_orders();
    for (options, what) in
        [(&[][..], "orders with all its versions"), (&["--version", "1"], "version 1 of orders")]
    {
        let (code, stdout, stderr) = server.run(&[&["models", "drop", "orders"], options].concat());
        assert_eq!((code, &*stdout), (Some(2), ""));
        assert!(stderr.contains(&format!("with --yes {what} is dropped")), "{stderr}");
    }
    assert_eq!(server.json(&["models", "--json"]).len(), 1);
}
