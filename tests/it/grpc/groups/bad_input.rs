//! Every mistake that can be made with a group: its own `INVALID_ARGUMENT`, the field named, nothing done.

use annals::wire::proto::v1::{
    Ack, ConsumeRequest, ConsumeStart, CreateGroupRequest, DropParkedRequest, Filter, Filters,
    GroupSettings, ListGroupsRequest, ListParkedRequest, Nack, PollRequest, ReplayParkedRequest,
    SetGroupPositionRequest, SettleRequest, UpdateGroupRequest, consume_request::Message as Says,
    create_group_request::Start, set_group_position_request::Target,
};
use prost_types::{Duration, Timestamp};
use tonic::{Code, Status};

use crate::support::{
    ANY, Refusal, TestStore,
    asked::of_types,
    consumer::{Groups, consumer, group, millis, patient},
    within,
};

/// What is wrong, the request, and the fields that the answer names.
type Case<T> = (&'static str, T, &'static [&'static str]);

fn check(what: &str, refusal: &Status, fields: &[&str]) {
    assert_eq!(refusal.code(), Code::InvalidArgument, "{what}: {refusal}");
    assert_eq!(refusal.reason(), "INVALID_REQUEST", "{what}");
    let mut violations = refusal.violations();
    let mut fields = fields.to_vec();
    violations.sort();
    fields.sort_unstable();
    assert_eq!(violations, fields, "{what}");
}

#[expect(clippy::unnecessary_wraps, reason = "as the field takes it")]
fn nanos(seconds: i64, nanos: i32) -> Option<Duration> {
    Some(Duration { seconds, nanos })
}

/// Settings of which one is out of its bounds.
fn bad_settings() -> Vec<Case<GroupSettings>> {
    let set = |change: &dyn Fn(&mut GroupSettings)| {
        let mut settings = patient();
        change(&mut settings);
        settings
    };
    let timeout = &["settings.message_timeout"];
    let delay = &["settings.retry_delay"];
    let delay_max = &["settings.retry_delay_max"];
    let interval = &["settings.checkpoint_interval"];
    vec![
        ("strategy 5", set(&|s| s.strategy = 5), &["settings.strategy"]),
        ("strategy -1", set(&|s| s.strategy = -1), &["settings.strategy"]),
        ("99.9 ms", set(&|s| s.message_timeout = nanos(0, 99_999_999)), timeout),
        ("no time", set(&|s| s.message_timeout = nanos(0, 0)), timeout),
        ("over 1 h", set(&|s| s.message_timeout = nanos(3600, 1)), timeout),
        ("time before now", set(&|s| s.message_timeout = nanos(-1, 0)), timeout),
        ("for ever", set(&|s| s.message_timeout = nanos(i64::MAX, i32::MAX)), timeout),
        ("1001 retries", set(&|s| s.retries_max = Some(1001)), &["settings.retries_max"]),
        ("back in time", set(&|s| s.retry_delay = nanos(0, -1)), delay),
        ("a delay over 1 h", set(&|s| s.retry_delay = nanos(3600, 1)), delay),
        ("back in time at most", set(&|s| s.retry_delay_max = nanos(-1, 0)), delay_max),
        ("over 24 h", set(&|s| s.retry_delay_max = nanos(86_400, 1)), delay_max),
        ("10 001 in flight", set(&|s| s.in_flight_max = 10_001), &["settings.in_flight_max"]),
        ("100 001 parked", set(&|s| s.parked_max = 100_001), &["settings.parked_max"]),
        ("far ahead", set(&|s| s.window_max = 10_001), &["settings.window_max"]),
        ("9.9 ms", set(&|s| s.checkpoint_interval = nanos(0, 9_999_999)), interval),
        ("noted never", set(&|s| s.checkpoint_interval = nanos(3600, 1)), interval),
        ("10 001 consumers", set(&|s| s.consumers_max = 10_001), &["settings.consumers_max"]),
        ("all", set(&|s| s.in_flight_max = u32::MAX), &["settings.in_flight_max"]),
        (
            "several",
            GroupSettings {
                strategy: 9,
                message_timeout: nanos(0, 1),
                retries_max: Some(u32::MAX),
                retry_delay: nanos(9999, 0),
                retry_delay_max: nanos(99_999, 0),
                in_flight_max: u32::MAX,
                hold_back_parked_keys: false,
                parked_max: u32::MAX,
                window_max: u32::MAX,
                checkpoint_interval: nanos(0, 1),
                consumers_max: u32::MAX,
            },
            &[
                "settings.strategy",
                "settings.message_timeout",
                "settings.retries_max",
                "settings.retry_delay",
                "settings.retry_delay_max",
                "settings.in_flight_max",
                "settings.parked_max",
                "settings.window_max",
                "settings.checkpoint_interval",
                "settings.consumers_max",
            ],
        ),
    ]
}

/// A server with the group `mail`, that has an event.
async fn with_mail() -> (TestStore, Groups) {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", patient())).await.unwrap();
    store.append("Payment-1", ANY, ["Paid"]).await.unwrap();
    (store, groups)
}

#[tokio::test]
async fn a_bad_group_is_refused_by_the_name_of_its_field_and_not_made() {
    let store = TestStore::start().await;
    let groups = store.groups();
    let make = |name: &str| group(name, patient());
    let filtered = |filters| CreateGroupRequest { filters, ..group("mail", patient()) };
    let from_time = |seconds, nanos| CreateGroupRequest {
        start: Some(Start::FromTime(Timestamp { seconds, nanos })),
        ..group("mail", patient())
    };
    let mut cases: Vec<Case<CreateGroupRequest>> = vec![
        ("no name", make(""), &["group"]),
        ("a name of 257 bytes", make(&"x".repeat(257)), &["group"]),
        ("a name of 129 characters, 258 bytes", make(&"é".repeat(129)), &["group"]),
        ("a line feed in the name", make("ma\nil"), &["group"]),
        ("a filter that names nothing", filtered(vec![Filter::default()]), &["filters[0]"]),
        ("33 filters", filtered(vec![of_types(&["Paid"]).remove(0); 33]), &["filters"]),
        ("an empty name", filtered(of_types(&["Paid", ""])), &["filters[0].types[1]"]),
        ("a second of nanoseconds", from_time(0, 1_000_000_000), &["from_time"]),
        ("before year 1", from_time(-62_135_596_801, 0), &["from_time"]),
        (
            "several",
            CreateGroupRequest {
                filters: vec![Filter::default()],
                ..group("", GroupSettings { window_max: 10_001, ..patient() })
            },
            &["group", "filters[0]", "settings.window_max"],
        ),
    ];
    let settings = bad_settings().into_iter();
    cases.extend(settings.map(|(what, bad, fields)| (what, group("mail", bad), fields)));
    for (what, request, fields) in cases {
        check(what, &groups.create(request).await.unwrap_err(), fields);
    }
    assert!(groups.list(ListGroupsRequest::default()).await.unwrap().groups.is_empty());
    assert_eq!(store.head().await, 0);
}

#[tokio::test]
async fn a_bad_update_is_refused_by_the_name_of_its_field_and_changes_nothing() {
    let (store, groups) = with_mail().await;
    let before = groups.info("mail").await;
    for (what, bad, fields) in bad_settings() {
        let request =
            UpdateGroupRequest { group: "mail".to_owned(), settings: Some(bad), filters: None };
        check(what, &groups.update(request).await.unwrap_err(), fields);
    }
    let request = UpdateGroupRequest {
        group: "mail".to_owned(),
        settings: Some(GroupSettings { window_max: 10_001, ..patient() }),
        filters: Some(Filters { filters: vec![Filter::default()] }),
    };
    let fields = ["settings.window_max", "filters.filters[0]"];
    check("both", &groups.update(request).await.unwrap_err(), &fields);
    let after = groups.info("mail").await;
    assert_eq!((after.settings, after.filters), (before.settings, before.filters));
    assert_eq!(store.head().await, 2);
}

#[tokio::test]
async fn what_just_fits_is_taken() {
    let (_store, groups) = with_mail().await;
    let largest = GroupSettings {
        strategy: 4,
        message_timeout: nanos(3600, 0),
        retries_max: Some(1000),
        retry_delay: nanos(3600, 0),
        retry_delay_max: nanos(86_400, 0),
        in_flight_max: 10_000,
        hold_back_parked_keys: true,
        parked_max: 100_000,
        window_max: 10_000,
        checkpoint_interval: nanos(3600, 0),
        consumers_max: 10_000,
    };
    let smallest = GroupSettings {
        strategy: 1,
        message_timeout: nanos(0, 100_000_000),
        retries_max: Some(0),
        retry_delay: nanos(0, 0),
        retry_delay_max: nanos(0, 0),
        in_flight_max: 1,
        hold_back_parked_keys: false,
        parked_max: 1,
        window_max: 1,
        checkpoint_interval: nanos(0, 10_000_000),
        consumers_max: 1,
    };
    for (name, settings) in [("largest", largest), ("smallest", smallest)] {
        assert_eq!(groups.create(group(name, settings)).await.unwrap().settings, Some(settings));
    }
    let start = ConsumeStart {
        in_flight_max: 10_000,
        heartbeat_interval: nanos(3600, 0),
        ..consumer("largest", &"x".repeat(256))
    };
    let consumer = groups.consume(start).await.unwrap();
    assert_eq!(consumer.confirmed.in_flight_max, 10_000);
    // None of these is in flight, and all of that is in order.
    let many: Vec<u64> = (1..=10_000).collect();
    let nack = Nack {
        positions: many.clone(),
        action: 1,
        reason: "x".repeat(1024),
        retry_after: nanos(86_400, 0),
    };
    let request = SettleRequest {
        group: "mail".to_owned(),
        consumer: "x".repeat(256),
        ack: Some(Ack { positions: many.clone(), up_to: u64::MAX }),
        nacks: vec![Nack { positions: vec![1], ..nack.clone() }; 100],
    };
    groups.settle(SettleRequest { nacks: vec![nack], ..request.clone() }).await.unwrap();
    assert!(!groups.settle(request).await.unwrap().is_empty());
    let request = PollRequest {
        group: "mail".to_owned(),
        consumer: "x".repeat(256),
        events_max: 10_000,
        wait_max: nanos(60, 0),
    };
    assert_eq!(groups.poll(request).await.unwrap().events.unwrap().deliveries, [1]);
    let request =
        ReplayParkedRequest { group: "mail".to_owned(), positions: many.clone(), events_max: 0 };
    assert_eq!(groups.replay(request).await.unwrap(), 0);
    let request = DropParkedRequest { group: "mail".to_owned(), positions: many, all: false };
    assert_eq!(groups.drop_request(request).await.unwrap(), 0);
}

#[tokio::test]
async fn a_bad_call_is_refused_by_the_name_of_its_field() {
    let (_store, groups) = with_mail().await;
    let mail = || "mail".to_owned();
    let many = || vec![1; 10_001];
    let page = |page_size, page_token: &str| ListGroupsRequest {
        page_size,
        page_token: page_token.to_owned(),
    };
    check("groups", &groups.list(page(1001, "")).await.unwrap_err(), &["page_size"]);
    check("token", &groups.list(page(0, "\u{1}no")).await.unwrap_err(), &["page_token"]);

    let request = SetGroupPositionRequest { group: mail(), expected_position: 0, target: None };
    check("no target", &groups.send_position(request).await.unwrap_err(), &["target"]);

    let request = ListParkedRequest { group: mail(), after: 0, page_size: 1001 };
    check("parked", &groups.list_parked(request).await.unwrap_err(), &["page_size"]);

    let request = ReplayParkedRequest { group: mail(), positions: many(), events_max: 0 };
    check("replay", &groups.replay(request).await.unwrap_err(), &["positions"]);

    let request = DropParkedRequest { group: mail(), positions: many(), all: false };
    check("drop", &groups.drop_request(request).await.unwrap_err(), &["positions"]);
    let request = DropParkedRequest { group: mail(), positions: vec![], all: false };
    let refusal = groups.drop_request(request).await.unwrap_err();
    assert_eq!((refusal.code(), &*refusal.reason()), (Code::InvalidArgument, "INVALID_REQUEST"));
    let field = refusal.violations().remove(0);
    assert!(field == "positions" || field == "all", "{field}");
}

#[tokio::test]
async fn a_bad_poll_or_settle_is_refused_by_the_name_of_its_field() {
    let (_store, groups) = with_mail().await;
    let poll = PollRequest {
        group: "mail".to_owned(),
        consumer: "a".to_owned(),
        ..PollRequest::default()
    };
    let cases: Vec<Case<PollRequest>> = vec![
        ("nobody", PollRequest { consumer: String::new(), ..poll.clone() }, &["consumer"]),
        ("257 bytes", PollRequest { consumer: "x".repeat(257), ..poll.clone() }, &["consumer"]),
        ("10 001", PollRequest { events_max: 10_001, ..poll.clone() }, &["events_max"]),
        ("over 1 min", PollRequest { wait_max: nanos(60, 1), ..poll.clone() }, &["wait_max"]),
        ("no time", PollRequest { wait_max: nanos(-1, 0), ..poll.clone() }, &["wait_max"]),
        (
            "several",
            PollRequest {
                consumer: String::new(),
                events_max: 10_001,
                wait_max: nanos(99, 0),
                ..poll
            },
            &["consumer", "events_max", "wait_max"],
        ),
    ];
    for (what, request, fields) in cases {
        check(what, &groups.poll(request).await.unwrap_err(), fields);
    }
    assert_eq!(groups.info("mail").await.delivered_count, 0);

    let settle = SettleRequest {
        group: "mail".to_owned(),
        consumer: "a".to_owned(),
        ack: Some(Ack { positions: vec![1], up_to: 0 }),
        nacks: vec![],
    };
    let acks = |positions| Some(Ack { positions, up_to: 0 });
    let nack = |change: &dyn Fn(&mut Nack)| {
        let mut nack = Nack { positions: vec![1], ..Nack::default() };
        change(&mut nack);
        SettleRequest {
            nacks: vec![Nack { positions: vec![1], ..Nack::default() }, nack],
            ..settle.clone()
        }
    };
    let cases: Vec<Case<SettleRequest>> = vec![
        ("nobody", SettleRequest { consumer: String::new(), ..settle.clone() }, &["consumer"]),
        (
            "many acks",
            SettleRequest { ack: acks(vec![1; 10_001]), ..settle.clone() },
            &["ack.positions"],
        ),
        (
            "101 nacks",
            SettleRequest {
                nacks: vec![Nack { positions: vec![1], ..Nack::default() }; 101],
                ..settle.clone()
            },
            &["nacks"],
        ),
        ("many", nack(&|nack| nack.positions = vec![1; 10_001]), &["nacks[1].positions"]),
        ("action 4", nack(&|nack| nack.action = 4), &["nacks[1].action"]),
        ("a long reason", nack(&|nack| nack.reason = "x".repeat(1025)), &["nacks[1].reason"]),
        ("over 24 h", nack(&|nack| nack.retry_after = nanos(86_400, 1)), &["nacks[1].retry_after"]),
        ("back in time", nack(&|nack| nack.retry_after = nanos(0, -1)), &["nacks[1].retry_after"]),
    ];
    for (what, request, fields) in cases {
        check(what, &groups.settle(request).await.unwrap_err(), fields);
    }
}

/// The refusal, which may be the call's or come in place of a message.
async fn refused(groups: &Groups, messages: Vec<ConsumeRequest>) -> Status {
    let mut answers = match groups.consume_raw(messages).await {
        Ok(answers) => answers,
        Err(refusal) => return refusal,
    };
    loop {
        match within(answers.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended well"),
            Err(refusal) => return refusal,
        }
    }
}

fn saying(message: Says) -> ConsumeRequest {
    ConsumeRequest { message: Some(message) }
}

#[tokio::test]
async fn a_consumer_that_starts_badly_is_refused_by_the_name_of_its_field() {
    let (_store, groups) = with_mail().await;
    let start = |change: &dyn Fn(&mut ConsumeStart)| {
        let mut start = consumer("mail", "a");
        change(&mut start);
        saying(Says::Start(start))
    };
    let interval = &["start.heartbeat_interval"];
    let cases: Vec<Case<ConsumeRequest>> = vec![
        ("257 bytes", start(&|s| s.consumer = "x".repeat(257)), &["start.consumer"]),
        ("more than the group's", start(&|s| s.in_flight_max = 11), &["start.in_flight_max"]),
        ("99.9 ms", start(&|s| s.heartbeat_interval = nanos(0, 99_999_999)), interval),
        ("over 1 h", start(&|s| s.heartbeat_interval = nanos(3600, 1)), interval),
        (
            "several",
            start(&|s| {
                s.consumer = "x".repeat(257);
                s.heartbeat_interval = Some(millis(1));
            }),
            &["start.consumer", "start.heartbeat_interval"],
        ),
    ];
    for (what, message, fields) in cases {
        check(what, &refused(&groups, vec![message]).await, fields);
    }
    for (what, message) in [
        ("nothing", None),
        ("an ack", Some(Says::Ack(Ack { positions: vec![1], up_to: 0 }))),
        ("a heartbeat", Some(Says::Heartbeat(()))),
    ] {
        check(what, &refused(&groups, vec![ConsumeRequest { message }]).await, &["start"]);
    }
    let info = groups.until("mail", |info| info.consumer_count == 0).await;
    assert_eq!((info.delivered_count, info.in_flight_count), (0, 0), "nobody was let in");
}

/// What it has in flight then goes to the next one.
#[tokio::test]
async fn a_consumer_that_says_something_wrong_is_ended_by_the_name_of_its_field() {
    let (store, groups) = with_mail().await;
    let ack = |positions| Says::Ack(Ack { positions, up_to: 0 });
    let nack = |change: &dyn Fn(&mut Nack)| {
        let mut nack = Nack { positions: vec![1], ..Nack::default() };
        change(&mut nack);
        Says::Nack(nack)
    };
    let cases: Vec<Case<Option<Says>>> = vec![
        ("a second start", Some(Says::Start(consumer("mail", "b"))), &["start"]),
        ("nothing", None, &["message"]),
        ("many acks", Some(ack(vec![1; 10_001])), &["ack.positions"]),
        ("many nacks", Some(nack(&|n| n.positions = vec![1; 10_001])), &["nack.positions"]),
        ("action 4", Some(nack(&|n| n.action = 4)), &["nack.action"]),
        ("action -1", Some(nack(&|n| n.action = -1)), &["nack.action"]),
        ("a long reason", Some(nack(&|n| n.reason = "é".repeat(513))), &["nack.reason"]),
        ("over 24 h", Some(nack(&|n| n.retry_after = nanos(86_400, 1))), &["nack.retry_after"]),
        ("back in time", Some(nack(&|n| n.retry_after = nanos(-1, 0))), &["nack.retry_after"]),
        (
            "several",
            Some(nack(&|n| {
                n.action = 9;
                n.reason = "x".repeat(2000);
                n.retry_after = nanos(99_999, 0);
            })),
            &["nack.action", "nack.reason", "nack.retry_after"],
        ),
    ];
    let head = store.head().await;
    let count = u32::try_from(cases.len()).unwrap();
    let settings = Some(GroupSettings { retries_max: Some(1000), ..patient() });
    let request = UpdateGroupRequest { group: "mail".to_owned(), settings, filters: None };
    groups.update(request).await.unwrap();
    for ((what, message, fields), deliveries) in cases.into_iter().zip(1..) {
        let mut wrong = groups.consume(consumer("mail", "a")).await.unwrap();
        wrong.expect(head, deliveries).await;
        match message {
            Some(message) => wrong.say(message).await,
            None => wrong.say_nothing().await,
        }
        check(what, &wrong.end().await, fields);
    }
    let mut right = groups.consume(consumer("mail", "b")).await.unwrap();
    right.expect(head, count + 1).await;
}

/// A name that no group can have is one that no group has; which of the two is told does not matter.
#[tokio::test]
async fn a_name_that_no_group_can_have_is_refused_everywhere() {
    let (_store, groups) = with_mail().await;
    for name in [String::new(), "x".repeat(257), "ma\nil".to_owned()] {
        let refusals = [
            groups.get(&name).await.unwrap_err(),
            groups.delete(&name).await.unwrap_err(),
            groups.set_position(&name, 0, Target::After(0)).await.unwrap_err(),
            groups.consume(consumer(&name, "a")).await.err().unwrap(),
            groups
                .list_parked(ListParkedRequest { group: name.clone(), ..Default::default() })
                .await
                .unwrap_err(),
        ];
        for refusal in refusals {
            if refusal.code() == Code::NotFound {
                assert_eq!(refusal.reason(), "UNKNOWN_GROUP");
            } else {
                assert_eq!(refusal.reason(), "INVALID_REQUEST");
                let field = refusal.violations().remove(0);
                assert!(field == "group" || field == "start.group", "{field}");
            }
        }
    }
}
