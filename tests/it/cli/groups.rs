//! `annals groups` and `annals tail --group`: what they ask for and print, against a scripted server.

use std::{
    io::{BufRead, BufReader},
    sync::Arc,
};

use annals::wire::{
    block::EventBlock,
    proto::v1::{
        self, Ack, ConsumeConfirmed, ConsumeStart, ConsumerInfo, DeliveredEvents, Filter, Filters,
        GroupInfo, GroupSettings, GroupStrategy, NotInFlight, ParkedEvent, consume_request,
        consume_response::Message, create_group_request::Start, set_group_position_request::Target,
    },
};
use prost_types::{Duration, Timestamp};
use serde_json::{Value, json};
use tonic::Status;

use super::{
    commands::annals,
    fake_server::{Fake, against, event},
};

fn settings() -> GroupSettings {
    let time = |seconds| Some(Duration { seconds, nanos: 0 });
    GroupSettings {
        strategy: GroupStrategy::OrderedByStream.into(),
        message_timeout: time(30),
        retries_max: Some(10),
        retry_delay: time(1),
        retry_delay_max: time(60),
        in_flight_max: 10,
        hold_back_parked_keys: true,
        parked_max: 10_000,
        window_max: 1000,
        checkpoint_interval: time(1),
        consumers_max: 100,
    }
}

fn group(name: &str) -> GroupInfo {
    GroupInfo {
        group: name.to_owned(),
        settings: Some(settings()),
        position: 7,
        events_behind: 3,
        time_behind: Some(Duration { seconds: 2, nanos: 0 }),
        in_flight_count: 2,
        retry_count: 1,
        parked_count: 4,
        consumer_count: 1,
        delivered_count: 1500,
        redelivered_count: 5,
        last_error: "event 5: no such account".to_owned(),
        ..GroupInfo::default()
    }
}

fn parsed(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

// --- Groups --------------------------------------------------------------------------------------

#[test]
fn without_a_subcommand_the_groups_are_listed_page_by_page() {
    let pages = || {
        let page = |name: &str, token: &str| v1::ListGroupsResponse {
            groups: vec![group(name)],
            next_page_token: token.to_owned(),
        };
        vec![page("billing", "next"), page("mail", "")]
    };
    for arguments in [&["groups"][..], &["groups", "list"]] {
        let fake = Fake::scripted(|state| state.answers.list_groups = pages());
        let (code, stdout, stderr) = fake.run(arguments);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        let lines: Vec<&str> = stdout.lines().collect();
        assert_eq!(
            lines[..2],
            [
                "group    strategy           position  behind  in flight  retry  parked  consumers  \
                 filter       last error",
                "billing  ordered-by-stream         7  3, 2 s          2      1       4          1  \
                 every event  event 5: no such account",
            ]
        );
        assert!(lines[2].starts_with("mail "), "{stdout}");
        assert_eq!(fake.0.lock().unwrap().asked.list_groups[1].page_token, "next");
    }
    let fake = Fake::scripted(|state| state.answers.list_groups = pages());
    let lines = parsed(&fake.run(&["groups", "--json"]).1);
    assert_eq!((&lines[0]["group"], &lines[1]["group"]), (&json!("billing"), &json!("mail")));
    assert_eq!(lines[0]["settings"]["strategy"], "GROUP_STRATEGY_ORDERED_BY_STREAM");
    assert_eq!(lines[0]["settings"]["messageTimeout"], "30s");
}

#[test]
fn a_group_is_shown_with_its_settings_and_its_consumers() {
    let consumer = ConsumerInfo {
        consumer_id: "9".to_owned(),
        name: "worker".to_owned(),
        peer: "127.0.0.1:5".to_owned(),
        in_flight_count: 2,
        in_flight_max: 10,
        paused: true,
        ..ConsumerInfo::default()
    };
    let answer = v1::GetGroupResponse { group: Some(group("billing")), consumers: vec![consumer] };
    let fake = Fake::scripted(|state| state.answers.get_group = vec![answer.clone(), answer]);
    let (code, stdout, stderr) = fake.run(&["groups", "show", "billing"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for line in [
        "group             billing\n",
        "filter            every event\n",
        "position          7\n",
        "behind            3, 2 s\n",
        "wait for a retry  1\n",
        "parked            4\n",
        "delivered         1 500, of them again 5\n",
        "last error        -  event 5: no such account\n",
        "strategy          ordered-by-stream\n",
        "message timeout   30 s\n",
        "  at most         1 min 0 s\n",
        "parked keys wait  yes\n",
        "consumers         at most 100\n",
        "\n\nconsumer  name    peer                in flight  delivered  settled  connected\n",
        "\n9         worker  127.0.0.1:5  2 of 10 (paused)          0        0  -\n",
    ] {
        assert!(stdout.contains(line), "{line:?} in\n{stdout}");
    }
    let shown = &parsed(&fake.run(&["groups", "show", "billing", "--json"]).1)[0];
    assert_eq!(
        (&shown["group"]["retryCount"], &shown["group"]["timeBehind"]),
        (&json!(1), &json!("2s"))
    );
    assert_eq!(shown["consumers"][0]["paused"], true);
    let asked = &fake.0.lock().unwrap().asked.get_group;
    assert!(asked.iter().all(|request| request.group == "billing"));
}

#[test]
fn a_group_is_made_as_the_options_say() {
    let made = || v1::CreateGroupResponse { group: Some(group("billing")) };
    let fake = Fake::scripted(|state| state.answers.create_group = vec![made(), made(), made()]);
    let options = "--from-time 1970-01-02 --type Paid --category Payment \
        --strategy ordered-by-correlation --message-timeout 10s --retries 0 --retry-delay 0s \
        --retry-delay-max 5m --in-flight 7 --hold-back-parked-keys --parked-max 8 --window 9 \
        --checkpoint-interval 100ms --consumers-max 2";
    let create: Vec<&str> =
        ["groups", "create", "billing"].into_iter().chain(options.split_whitespace()).collect();
    let (code, stdout, stderr) = fake.run(&create);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(stdout, "billing begins after position 0\n");
    let asked = fake.0.lock().unwrap().asked.create_group.remove(0);
    let time = |seconds, nanos| Some(Duration { seconds, nanos });
    let expected = v1::CreateGroupRequest {
        group: "billing".to_owned(),
        start: Some(Start::FromTime(Timestamp { seconds: 86_400, nanos: 0 })),
        filters: vec![Filter {
            types: vec!["Paid".to_owned()],
            categories: vec!["Payment".to_owned()],
            ..Filter::default()
        }],
        settings: Some(GroupSettings {
            strategy: GroupStrategy::OrderedByCorrelation.into(),
            message_timeout: time(10, 0),
            retries_max: Some(0),
            retry_delay: time(0, 0),
            retry_delay_max: time(300, 0),
            in_flight_max: 7,
            hold_back_parked_keys: true,
            parked_max: 8,
            window_max: 9,
            checkpoint_interval: time(0, 100_000_000),
            consumers_max: 2,
        }),
    };
    assert_eq!(asked, expected);

    for (option, start) in [
        (&["--after", "4"][..], Some(Start::After(4))),
        (&["--from-now"], Some(Start::FromNow(()))),
    ] {
        let create = [&["groups", "create", "billing", "--json"], option].concat();
        assert_eq!(parsed(&fake.run(&create).1)[0]["group"], "billing");
        let asked = fake.0.lock().unwrap().asked.create_group.remove(0);
        assert_eq!((asked.start, asked.settings, asked.filters), (start, None, Vec::new()));
    }
}

#[test]
fn an_update_sends_what_it_has_read_but_for_what_is_named() {
    let get = v1::GetGroupResponse { group: Some(group("billing")), consumers: Vec::new() };
    let updated = || v1::UpdateGroupResponse { group: Some(group("billing")) };
    let fake = Fake::scripted(|state| {
        state.answers.get_group = vec![get];
        state.answers.update_group = vec![updated(), updated(), updated()];
    });
    let run = |options: &[&str]| {
        let (code, stdout, stderr) =
            fake.run(&[&["groups", "update", "billing"], options].concat());
        assert_eq!((code, stdout.as_str()), (Some(0), "billing is updated\n"), "{stderr}");
        fake.0.lock().unwrap().asked.update_group.remove(0)
    };
    let asked = run(&["--retries", "3", "--hold-back-parked-keys=false"]);
    let expected =
        GroupSettings { retries_max: Some(3), hold_back_parked_keys: false, ..settings() };
    assert_eq!((asked.settings, asked.filters), (Some(expected), None));
    // Without a setting there is nothing to read.
    let asked = run(&["--tag", "vip"]);
    let vip = Filter { tags: vec!["vip".to_owned()], ..Filter::default() };
    assert_eq!((asked.settings, asked.filters), (None, Some(Filters { filters: vec![vip] })));
    let asked = run(&["--all-events"]);
    assert_eq!((asked.settings, asked.filters), (None, Some(Filters::default())));
}

#[test]
fn a_group_is_moved_and_deleted() {
    let fake = Fake::scripted(|state| {
        state.answers.set_group_position = vec![v1::SetGroupPositionResponse { position: 5 }; 2];
        state.answers.delete_group = vec![v1::DeleteGroupResponse {}];
    });
    let go = ["groups", "move", "billing", "--expected-position", "7"];
    let (_, stdout, stderr) = fake.run(&[&go[..], &["--after", "5"]].concat());
    assert_eq!(stdout, "billing goes on after position 5\n", "{stderr}");
    let (_, stdout, _) = fake.run(&[&go[..], &["--skip", "8", "--json"]].concat());
    assert_eq!(stdout, "{\"position\":5}\n");
    assert_eq!(fake.run(&["groups", "delete", "billing"]).1, "deleted billing\n");
    let asked = &fake.0.lock().unwrap().asked;
    let moved = asked.set_group_position.iter().map(|it| (it.expected_position, it.target));
    let expected = [(7, Some(Target::After(5))), (7, Some(Target::Skip(8)))];
    assert_eq!(moved.collect::<Vec<_>>(), expected);
    assert_eq!(asked.delete_group[0].group, "billing");
}

// --- Parked events -------------------------------------------------------------------------------

fn parked(position: u64) -> ParkedEvent {
    ParkedEvent {
        position,
        event: Some(event(position)),
        reason: "no such\naccount".to_owned(),
        deliveries: 11,
        parked_at: Some(Timestamp { seconds: 0, nanos: 0 }),
        ..ParkedEvent::default()
    }
}

#[test]
fn parked_events_are_listed_with_their_reason_beyond_one_page() {
    let hidden = ParkedEvent { event: None, held_back: true, replaying: true, ..parked(9) };
    let pages = || {
        let page = |parked, more| v1::ListParkedResponse { parked, parked_count: 40, more };
        vec![page(vec![parked(5)], true), page(vec![hidden.clone()], false)]
    };
    let fake = Fake::scripted(|state| state.answers.list_parked = pages());
    let (code, stdout, stderr) = fake.run(&["groups", "parked", "billing", "--limit", "30"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(
        stdout.lines().collect::<Vec<_>>(),
        [
            "       5  -  Payment-1@5  Paid  {\"a\":1}",
            "          parked 1970-01-01T00:00:00Z, delivered 11 times: no such account",
            "       9  (the event is hidden or removed)",
            "          parked 1970-01-01T00:00:00Z, held back by an earlier one of its key, being \
             delivered again: no such account",
        ]
    );
    let asked = fake.0.lock().unwrap().asked.list_parked.split_off(0);
    let asked: Vec<_> = asked.iter().map(|it| (it.after, it.page_size)).collect();
    assert_eq!(asked, [(0, 30), (5, 29)]);

    let fake = Fake::scripted(|state| state.answers.list_parked = pages());
    let listed = parsed(&fake.run(&["groups", "parked", "billing", "--json"]).1);
    assert_eq!((&listed[0]["event"]["version"], &listed[0]["deliveries"]), (&json!(5), &json!(11)));
    assert_eq!((&listed[1]["event"], &listed[1]["heldBack"]), (&Value::Null, &json!(true)));

    let fake = Fake::scripted(|state| state.answers.list_parked = pages());
    let (_, _, stderr) = fake.run(&["groups", "parked", "billing", "--limit", "1"]);
    assert_eq!(stderr, "40 are parked; the next ones: --after 5\n");
}

#[test]
fn parked_events_come_again_or_are_dropped_those_that_are_named_or_all() {
    let fake = Fake::scripted(|state| {
        state.answers.replay_parked = vec![v1::ReplayParkedResponse { event_count: 2 }; 3];
        state.answers.drop_parked = vec![v1::DropParkedResponse { event_count: 1 }; 2];
    });
    assert_eq!(fake.run(&["groups", "replay", "g", "5", "9"]).1, "2 delivered again\n");
    assert_eq!(fake.run(&["groups", "replay", "g", "--first", "3"]).1, "2 delivered again\n");
    assert_eq!(fake.run(&["groups", "replay", "g", "--json"]).1, "{\"eventCount\":2}\n");
    assert_eq!(fake.run(&["groups", "drop", "g", "5"]).1, "1 dropped\n");
    assert_eq!(fake.run(&["groups", "drop", "g", "--all", "--json"]).1, "{\"eventCount\":1}\n");
    let asked = &fake.0.lock().unwrap().asked;
    let replayed = asked.replay_parked.iter().map(|it| (it.positions.clone(), it.events_max));
    assert_eq!(replayed.collect::<Vec<_>>(), [(vec![5, 9], 0), (vec![], 3), (vec![], 0)]);
    let dropped = asked.drop_parked.iter().map(|it| (it.positions.clone(), it.all));
    assert_eq!(dropped.collect::<Vec<_>>(), [(vec![5], false), (vec![], true)]);
}

// --- Their events --------------------------------------------------------------------------------

fn confirmed() -> Message {
    Message::Confirmed(ConsumeConfirmed::default())
}

fn delivered(events: &[(u64, u32)]) -> Message {
    let (events, deliveries): (Vec<_>, _) =
        events.iter().map(|(at, times)| (event(*at), *times)).unzip();
    let batch = Some(EventBlock { events, ..EventBlock::default() });
    Message::Events(DeliveredEvents { batch, deliveries })
}

fn start(consumer: &str) -> consume_request::Message {
    consume_request::Message::Start(ConsumeStart {
        group: "billing".to_owned(),
        consumer: consumer.to_owned(),
        ..ConsumeStart::default()
    })
}

fn ack(positions: &[u64]) -> consume_request::Message {
    consume_request::Message::Ack(Ack { positions: positions.to_vec(), up_to: 0 })
}

#[test]
fn a_tail_of_a_group_acknowledges_what_it_has_printed_and_marks_what_came_again() {
    let late = Message::NotInFlight(NotInFlight { positions: vec![5] });
    let script =
        vec![Ok(confirmed()), Ok(delivered(&[(5, 1), (8, 3)])), Ok(late), Ok(delivered(&[(9, 1)]))];
    let fake = Fake::scripted(|state| state.deliveries = vec![script]);
    let (lines, stderr) = fake.lines(&["tail", "--group", "billing"], 3);
    assert_eq!(
        lines,
        [
            "       5  -  Payment-1@5  Paid  {\"a\":1}",
            "       8  -  Payment-1@8  Paid  {\"a\":1}  (delivery 3)",
            "       9  -  Payment-1@9  Paid  {\"a\":1}",
        ]
    );
    assert_eq!(stderr, "1 acknowledged too late: they may come again\n");
    // Nothing is lost on the way out.
    let said = &fake.0.lock().unwrap().consumers[0];
    assert_eq!(*said, [start("annals tail"), ack(&[5, 8]), ack(&[9])]);
}

#[test]
fn a_tail_of_a_group_whose_connection_breaks_takes_events_again() {
    let stops = || Err(Status::unavailable("stops"));
    let fake = Fake::scripted(|state| {
        state.deliveries = vec![
            vec![Ok(confirmed()), Ok(delivered(&[(5, 1)])), stops()],
            vec![Ok(confirmed()), stops()],
            vec![Ok(confirmed()), Ok(delivered(&[(5, 2), (6, 1)]))],
        ];
    });
    let tail = ["tail", "--group", "billing", "--consumer", "me", "--json"];
    let (lines, stderr) = fake.lines(&tail, 3);
    let events = parsed(&lines.join("\n"));
    let seen: Vec<_> = events
        .iter()
        .map(|it| (it["position"].as_u64().unwrap(), it["deliveries"].as_u64().unwrap()))
        .collect();
    assert_eq!(seen, [(5, 1), (5, 2), (6, 1)]);
    assert_eq!(events[0]["data"]["a"], 1);
    assert_eq!(
        stderr,
        "stops; connecting again; events that were in flight come again\n\
         stops; connecting again\n"
    );
    assert_eq!(fake.0.lock().unwrap().consumers[2], [start("me"), ack(&[5, 6])]);
}

#[cfg(unix)]
#[test]
fn a_tail_of_a_group_that_is_interrupted_ends_well() {
    use rustix::process::{Pid, Signal, kill_process};
    let fake = Fake::scripted(|state| {
        state.deliveries = vec![vec![Ok(confirmed()), Ok(delivered(&[(5, 1)]))]];
    });
    let state = Arc::clone(&fake.0);
    let code = against(fake, &["tail", "--group", "billing"], |mut tail| {
        let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().contains("Payment-1@5"));
        kill_process(Pid::from_child(&tail), Signal::INT).unwrap();
        tail.wait().unwrap().code()
    });
    assert_eq!(code, Some(0));
    assert_eq!(state.lock().unwrap().consumers[0], [start("annals tail"), ack(&[5])]);
}

#[test]
fn a_refused_consumer_is_told_why_and_does_not_try_again() {
    let fake = Fake::scripted(|state| {
        state.deliveries = vec![vec![Err(Status::not_found("there is no group billing"))]];
    });
    let (code, stdout, stderr) = fake.run(&["tail", "--group", "billing"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.starts_with("error: there is no group billing\n"), "{stderr}");
}

#[test]
fn a_group_has_its_own_start_and_filter() {
    for option in [
        &["--after", "1"][..],
        &["--from-start"],
        &["--from-time", "1970-01-02"],
        &["--type", "Paid"],
    ] {
        let output = annals(&[&["tail", "--group", "billing"], option].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("a group has its own place and its own filter"), "{stderr}");
    }
}
