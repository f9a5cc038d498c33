//! `annals groups`, `annals tail --group` and `annals subscriptions` against a real server.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use annals::wire::proto::v1::{
    Ack, Nack, NackAction, PollRequest, SettleRequest,
    subscription_service_client::SubscriptionServiceClient,
};
use prost_types::Duration;
use serde_json::{Value, json};

use super::{commands::annals, made_history::Serving};

/// A server in memory with so many events of category `Payment`, and one of another in between.
fn server_with(payments: u64) -> Serving {
    let server =
        Serving::started_by(annals(&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]));
    for number in 1..=payments {
        append(&server, &format!("Payment-{number}"));
        if number == 1 {
            append(&server, "Order-1");
        }
    }
    server
}

fn append(server: &Serving, stream: &str) {
    let (code, _, stderr) = server.run(&["append", stream, "Happened", "{\"a\":1}"]);
    assert_eq!(code, Some(0), "{stderr}");
}

fn said(server: &Serving, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = server.run(arguments);
    assert_eq!(code, Some(0), "{stderr}");
    stdout
}

fn refused(server: &Serving, arguments: &[&str], reason: &str) {
    let (code, _, stderr) = server.run(arguments);
    assert!(code == Some(1) && stderr.contains(reason), "{stderr}");
}

fn shown(server: &Serving, group: &str) -> Value {
    server.json(&["groups", "show", group, "--json"]).remove(0)
}

/// The first events that a consumer of `billing` is given, and how often each was; then it ends.
fn taken(server: &Serving, count: usize) -> Vec<(u64, u64)> {
    let mut tail = annals(&["tail", "--group", "billing", "--json", "--server", &server.address])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let events: Vec<Value> = lines
        .by_ref()
        .take(count)
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    drop(lines);
    assert_eq!(tail.wait().unwrap().code(), Some(0));
    let number = |event: &Value, name: &str| event[name].as_u64().unwrap();
    events.iter().map(|it| (number(it, "position"), number(it, "deliveries"))).collect()
}

/// Takes `events` of `billing`, parks the first and handles the others; their positions.
fn park_the_first(server: &Serving, events: u32) -> Vec<u64> {
    let url = format!("http://{}", server.address);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = SubscriptionServiceClient::connect(url).await.unwrap();
        let poll = PollRequest {
            group: "billing".to_owned(),
            consumer: "test".to_owned(),
            events_max: events,
            wait_max: Some(Duration { seconds: 30, nanos: 0 }),
        };
        let answer = client.poll(poll).await.unwrap().into_inner();
        let batch = answer.events.unwrap().batch.unwrap();
        let positions: Vec<u64> = batch.events.iter().map(|event| event.position).collect();
        let nack = Nack {
            positions: vec![positions[0]],
            action: NackAction::Park.into(),
            reason: "no such account".to_owned(),
            retry_after: None,
        };
        let ack = Ack { positions: positions[1..].to_vec(), up_to: 0 };
        let settle = SettleRequest {
            group: "billing".to_owned(),
            consumer: "test".to_owned(),
            ack: (positions.len() > 1).then_some(ack),
            nacks: vec![nack],
        };
        let answer = client.settle(settle).await.unwrap().into_inner();
        assert_eq!(answer.not_in_flight_positions, [0; 0]);
        positions
    })
}

#[test]
fn a_group_hands_each_event_to_a_tail_once_and_its_position_moves() {
    let server = server_with(3);
    let create = ["groups", "create", "billing", "--category", "Payment", "--retries", "2"];
    assert_eq!(said(&server, &create), "billing begins after position 0\n");
    // The same again is answered again, another one is not.
    assert_eq!(said(&server, &create), "billing begins after position 0\n");
    refused(&server, &["groups", "create", "billing"], "GROUP_EXISTS");

    let group = shown(&server, "billing")["group"].clone();
    assert_eq!((&group["startAfter"], &group["eventsBehind"]), (&json!(0), &json!(3)));
    assert_eq!(group["filters"], json!([{"categories": ["Payment"]}]));
    assert_eq!(group["settings"]["retriesMax"], 2);
    assert_eq!(group["settings"]["messageTimeout"], "30s");

    assert_eq!(taken(&server, 3), [(1, 1), (3, 1), (4, 1)]);
    let group = shown(&server, "billing")["group"].clone();
    assert!(group["position"].as_u64().unwrap() >= 4, "{group}");
    assert_eq!((&group["eventsBehind"], &group["settledCount"]), (&json!(0), &json!(3)));

    append(&server, "Payment-9");
    let events = taken(&server, 1);
    assert!(events[0].0 > 4 && events[0].1 == 1, "{events:?}");

    let listed = said(&server, &["groups"]);
    assert!(listed.lines().nth(1).unwrap().contains("category=Payment"), "{listed}");
    assert_eq!(said(&server, &["groups", "delete", "billing"]), "deleted billing\n");
    refused(&server, &["groups", "show", "billing"], "UNKNOWN_GROUP");
    refused(&server, &["tail", "--group", "billing"], "UNKNOWN_GROUP");
    assert_eq!(said(&server, &["groups"]), "");
}

#[test]
fn parked_events_are_listed_come_again_and_are_dropped() {
    let server = server_with(2);
    said(&server, &["groups", "create", "billing", "--category", "Payment"]);
    assert_eq!(park_the_first(&server, 2), [1, 3]);

    let parked = server.json(&["groups", "parked", "billing", "--json"]).remove(0);
    assert_eq!((&parked["position"], &parked["deliveries"]), (&json!(1), &json!(1)));
    assert_eq!(parked["event"]["stream"], "Payment-1");
    let text = said(&server, &["groups", "parked", "billing"]);
    assert!(text.contains("delivered once: no such account"), "{text}");

    assert_eq!(said(&server, &["groups", "replay", "billing", "1"]), "1 delivered again\n");
    assert_eq!(taken(&server, 1)[0].0, 1);
    assert_eq!(said(&server, &["groups", "parked", "billing"]), "");

    append(&server, "Payment-9");
    let position = park_the_first(&server, 1)[0].to_string();
    assert_eq!(said(&server, &["groups", "drop", "billing", "1"]), "0 dropped\n");
    assert_eq!(said(&server, &["groups", "drop", "billing", &position]), "1 dropped\n");
    assert_eq!(said(&server, &["groups", "parked", "billing"]), "");
    assert_eq!(shown(&server, "billing")["group"]["parkedCount"], 0);
}

#[test]
fn a_group_is_moved_from_where_it_is_only_and_updated_setting_by_setting() {
    let server = server_with(2);
    said(&server, &["groups", "create", "billing", "--category", "Payment", "--window", "7"]);
    assert_eq!(taken(&server, 2), [(1, 1), (3, 1)]);
    let position = shown(&server, "billing")["group"]["position"].to_string();

    let back = |expected: &str| -> Vec<String> {
        ["groups", "move", "billing", "--after", "1", "--expected-position", expected]
            .map(str::to_owned)
            .to_vec()
    };
    let run = |arguments: Vec<String>| {
        server.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let (code, _, stderr) = run(back("999"));
    assert!(code == Some(1) && stderr.contains("WRONG_GROUP_POSITION"), "{stderr}");
    let (code, _, stderr) = run(back(&position));
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(taken(&server, 1)[0].0, 3);

    let update = ["groups", "update", "billing", "--retries", "0", "--all-events"];
    assert_eq!(said(&server, &update), "billing is updated\n");
    let group = shown(&server, "billing")["group"].clone();
    let settings = &group["settings"];
    assert_eq!((&settings["retriesMax"], &settings["windowMax"]), (&json!(0), &json!(7)));
    assert_eq!(group["filters"], json!([]));
}

#[test]
fn a_tail_and_a_group_are_among_those_who_listen() {
    let server = server_with(2);
    said(&server, &["groups", "create", "billing", "--category", "Payment"]);
    let options = ["tail", "--from-start", "--type", "Happened", "--server", &server.address];
    let mut tail = annals(&options).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();

    let listed = server.json(&["subscriptions", "--json"]);
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert_eq!(listed[0]["subscriptionId"], "billing");
    assert_eq!((&listed[0]["eventsBehind"], &listed[0]["position"]), (&json!(2), &json!(0)));
    assert_eq!(listed[1]["kind"], "SUBSCRIPTION_KIND_SUBSCRIPTION");
    assert_eq!(listed[1]["name"], "annals tail");
    assert_eq!(listed[1]["filters"], json!([{"types": ["Happened"]}]));
    let text = said(&server, &["subscriptions"]);
    assert!(text.contains("0 consumers") && text.contains("type=Happened"), "{text}");
    drop(lines);
    tail.wait().unwrap();
}
