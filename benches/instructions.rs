//! How many instructions the paths that matter take for an event, held to what is kept in
//! `instructions.toml`: a regression is seen where no wall time could show it.
//!
//! Each case is a process of its own under valgrind's callgrind: it prepares what it needs, on one thread,
//! with fixed ids and a clock that stands still, and is counted in [`counted`] only. Without an argument all
//! cases run and are compared; `--accept` keeps what they took; docs/benchmarks.md says when.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs,
    hint::black_box,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
};

use annals::{
    core::{
        append::Proposal,
        clock::ManualClock,
        commit_log::memory::Memory,
        event::NewEvent,
        filter::{
            Filter,
            plan::{self, Direction},
        },
        limits::Limits,
        log::{
            LogWriter,
            format::{Body, Data},
        },
        name::Name,
        position::{Position, Version},
        sequencer::Sequencer,
        store::Store,
    },
    service::{
        analytics::{
            StatisticsQuery, analyse,
            calendar::{Unit, Zone},
            tally::{By, Named, TimeBase},
        },
        scan::{Progress, Scan},
    },
    wire::{
        append::{self, AppendRequest},
        filter,
        proto::v1,
    },
};
use bytes::Bytes;
use prost::Message;
use serde::Deserialize;
use uuid::Uuid;

/// A case may take so much more than is kept. Two runs of one build differ by 0.1 %, since hash maps have
/// random seeds; the rest is for what a change elsewhere does to the compiler's inlining.
const TOLERANCE_PERCENT: f64 = 5.0;

/// A case: its name, and what prepares it.
type Case = (&'static str, fn() -> Counted);

/// What is counted of a case, once. It says how many events it was about. What was prepared for it is not
/// taken down in it: that would be counted, too.
type Counted = Box<dyn FnMut() -> u64>;

const CASES: [Case; 10] = [
    ("convert a request of 100", || convert(100)),
    ("encode an event", encode),
    ("append 1 a commit", || append_commits(1)),
    ("append 100 a commit", || append_commits(100)),
    ("read all", read_all),
    ("read streams", read_streams),
    ("filter by one index", || filter(vec![types("Failed")])),
    ("filter by two clauses", || filter(vec![types("Failed"), in_category("Refund", "Settled")])),
    ("find an id", find),
    ("statistics", statistics),
];

// --- The cases -----------------------------------------------------------------------------------

/// The events of each case, or of the history that it asks.
const EVENTS: u64 = 10_000;
const CATEGORIES: [&str; 5] = ["Account", "Customer", "Payment", "Refund", "Transfer"];
const TYPES: [&str; 4] = ["Created", "Settled", "Failed", "Reviewed"];
const STREAMS: u64 = 50;

/// The bytes of a request to a proposal.
fn convert(events: u64) -> Counted {
    let requests: Vec<Bytes> = requests(events).collect();
    Box::new(move || {
        let mut converted = 0;
        for bytes in &requests {
            let proposal = proposal(bytes.clone());
            converted += proposal.writes[0].events.len() as u64;
        }
        converted
    })
}

/// An event's own fields to the bytes that the log has.
fn encode() -> Counted {
    let name = |text: &str| Name::new(text, 100).expect("a name");
    let (stream, event_type, tag) = (name("Payment-1"), name("Settled"), name("priority"));
    let (id, data) = (id(1), data(1));
    Box::new(move || {
        for _ in 0..EVENTS {
            let body = Body {
                data: Data::Text(&data),
                correlation_id: "correlation-1",
                metadata: vec![("organizationId", "organization-1")],
                ..Body::default()
            };
            black_box(NewEvent::new(
                id,
                &stream,
                &event_type,
                std::slice::from_ref(&tag),
                None,
                body,
            ));
        }
        EVENTS
    })
}

/// Proposals to answers: handed in, decided, written, indexed, published.
fn append_commits(events: u64) -> Counted {
    let store = empty();
    let mut proposals: Vec<Proposal> = requests(events).map(proposal).collect();
    Box::new(move || {
        for proposal in proposals.drain(..) {
            commit(&store, proposal);
        }
        store.history().log.reader().head().get()
    })
}

/// Everything forwards, in blocks, as they are sent.
fn read_all() -> Counted {
    let store = filled();
    let (everything, forwards) = (Filter::default(), Direction::Forwards);
    Box::new(move || {
        let (history, clock) = (store.history(), store.clock());
        drain(Scan::all(history, clock, &everything, forwards, Position::ZERO, 0))
    })
}

/// One stream after the other, to its end.
fn read_streams() -> Counted {
    let (store, streams) = (filled(), (0..STREAMS).map(stream).collect::<Vec<_>>());
    Box::new(move || {
        let (history, clock, forwards) = (store.history(), store.clock(), Direction::Forwards);
        let scan = |stream: &String| {
            Scan::stream(history, clock, stream, forwards, Version::ZERO, 0).expect("it has events")
        };
        streams.iter().map(scan).map(drain).sum()
    })
}

/// The positions of what a filter picks.
fn filter(filters: Vec<v1::Filter>) -> Counted {
    let store = filled();
    let filter = filter::filter(filters, &Limits::default()).expect("it is valid");
    Box::new(move || {
        let history = store.history();
        let (reader, after) = (history.log.reader(), Position::ZERO);
        let (found, to) =
            plan::matches(&filter, history, &reader, after, usize::MAX, u32::MAX, None);
        assert_eq!(to, reader.head(), "it looks at all");
        found.len() as u64
    })
}

fn types(one: &str) -> v1::Filter {
    v1::Filter { types: vec![one.to_owned()], ..v1::Filter::default() }
}

fn in_category(category: &str, one: &str) -> v1::Filter {
    v1::Filter { categories: vec![category.to_owned()], ..types(one) }
}

/// Events by their ids.
fn find() -> Counted {
    let store = filled();
    let ids: Vec<Uuid> = (0..EVENTS).map(id).collect();
    Box::new(move || {
        let reader = store.history().log.reader();
        ids.iter().filter(|id| store.history().find(id, &reader).is_some()).count() as u64
    })
}

/// Everything by type, category and day.
fn statistics() -> Counted {
    let store = filled();
    let query = StatisticsQuery {
        filter: Filter::default(),
        groups: vec![By::Name(Named::Type), By::Name(Named::Category), By::Time(Unit::Day)],
        zone: Zone::UTC,
        base: TimeBase::Occurred,
        rows_max: 100,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    Box::new(move || {
        let answer = runtime.block_on(analyse(&query, store.history(), store.clock()));
        answer.expect("it has few rows").events
    })
}

/// Walks to the end.
fn drain(mut scan: Scan) -> u64 {
    let mut events = 0;
    loop {
        match scan.step(u64::MAX) {
            Progress::Block(block) => events += block.events,
            Progress::Nothing => {}
            Progress::End => return events,
            Progress::Dropped(first) => panic!("nothing was dropped before {first}"),
        }
    }
}

// --- What they are prepared with -----------------------------------------------------------------

fn empty() -> Store {
    // All events fit: what a new segment costs is not spread over them by chance.
    let log = LogWriter::with_segment_size(16 << 20);
    Store::new(Sequencer::new(log, Box::new(Memory)), Arc::new(ManualClock::default()), 16)
}

fn filled() -> Store {
    let store = empty();
    for request in requests(10) {
        commit(&store, proposal(request));
    }
    store
}

/// All events, so many a request, the streams by turns, as a client sends them.
fn requests(events: u64) -> impl Iterator<Item = Bytes> {
    (0..EVENTS / events).map(move |number| {
        let request = v1::AppendRequest {
            stream: stream(number % STREAMS),
            expected_version: Some(number / STREAMS * events),
            events: (number * events..(number + 1) * events).map(event).collect(),
            ..v1::AppendRequest::default()
        };
        request.encode_to_vec().into()
    })
}

fn stream(number: u64) -> String {
    format!("{}-{number}", one_of(&CATEGORIES, number))
}

fn event(number: u64) -> v1::NewEvent {
    v1::NewEvent {
        id: id(number).to_string(),
        r#type: one_of(&TYPES, number / 3).to_owned(),
        data: Some(v1::new_event::Data::Text(data(number))),
        correlation_id: format!("correlation-{}", number / 10),
        metadata: [("organizationId".to_owned(), format!("organization-{}", number % 7))].into(),
        tags: vec![one_of(&["priority", "ordinary", "bulk"], number).to_owned()],
        occurred_at: Some(prost_types::Timestamp {
            seconds: 1_750_000_000 + 60 * i64::try_from(number).expect("a small number"),
            nanos: 0,
        }),
        ..v1::NewEvent::default()
    }
}

/// 256 bytes of JSON.
fn data(number: u64) -> String {
    let start = format!("{{\"number\":{number},\"note\":\"");
    format!("{start}{}\"}}", "x".repeat(256 - 2 - start.len()))
}

fn id(number: u64) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, &number.to_be_bytes())
}

fn one_of<'a>(all: &[&'a str], number: u64) -> &'a str {
    all[usize::try_from(number).expect("a small number") % all.len()]
}

fn proposal(request: Bytes) -> Proposal {
    let request = AppendRequest::decode(request).expect("it was encoded");
    append::proposal(request, &Limits::default()).expect("it is valid")
}

fn commit(store: &Store, proposal: Proposal) {
    let (mut answer, leads) = store.submit(proposal).expect("there is room");
    assert!(leads && !store.lead(1), "nobody else is here");
    answer.try_recv().expect("it was decided").expect("nothing refuses it");
}

// --- Counting and comparing ----------------------------------------------------------------------

/// Callgrind counts from its beginning to its end, and knows it by its name.
#[inline(never)]
fn counted(case: &mut dyn FnMut() -> u64) -> u64 {
    black_box(case())
}

/// What is kept: instructions an event.
#[derive(Deserialize)]
struct Kept {
    rustc: String,
    instructions: BTreeMap<String, f64>,
}

fn main() -> ExitCode {
    // Cargo adds the first one.
    let arguments: Vec<String> = env::args().skip(1).filter(|it| it != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => compare(),
        ["--accept"] => accept(),
        ["--case", name] => {
            let (_, prepare) = CASES.iter().find(|case| case.0 == name).expect("a case");
            println!("{}", counted(&mut *prepare()));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("nothing, to compare with what is kept, or --accept, to keep what is now");
            ExitCode::from(2)
        }
    }
}

fn compare() -> ExitCode {
    let text = fs::read_to_string(kept_in()).expect("benches/instructions.toml");
    let mut kept: Kept = toml::from_str(&text).expect("it was written by --accept");
    let (mut worse, mut better) = (Vec::new(), Vec::new());
    println!("{:<26} {:>12} {:>12} {:>8}", "instructions an event", "kept", "now", "");
    for (name, now) in count_all() {
        let Some(was) = kept.instructions.remove(name) else {
            println!("{name:<26} {:>12} {now:>12.2}", "");
            worse.push(format!("{name}: nothing is kept of it"));
            continue;
        };
        let percent = (now / was - 1.0) * 100.0;
        println!("{name:<26} {was:>12.2} {now:>12.2} {percent:>+7.2}%");
        if percent > TOLERANCE_PERCENT {
            worse.push(format!("{name}: {was:.2} instructions an event were kept, now it takes {now:.2}: {percent:.1} % more"));
        } else if percent < -TOLERANCE_PERCENT {
            better.push(format!("{name}: better by {:.1} %", -percent));
        }
    }
    worse.extend(kept.instructions.keys().map(|name| format!("{name}: is kept, and no case")));
    if !better.is_empty() {
        println!("\n{}\nKeep that: {ACCEPT}", better.join("\n"));
    }
    if worse.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!(
        "\n{}\nAt most {TOLERANCE_PERCENT} % more is let pass. If it is meant: {ACCEPT}",
        worse.join("\n")
    );
    if kept.rustc != rustc() {
        println!("What is kept is from {}, this is {}: that can be all.", kept.rustc, rustc());
    }
    ExitCode::FAILURE
}

const ACCEPT: &str = "`just instructions --accept`, and say why in the commit";

fn accept() -> ExitCode {
    let mut text = format!(
        "# Instructions an event, by benches/instructions.rs: written by `just instructions --accept`, held by \
         `scripts/test instructions`.\n# Another rustc makes other instructions: on a new one, accept a \
         commit whose counts were good on the old one.\nrustc = \"{}\"\n\n[instructions]\n",
        rustc()
    );
    for (name, now) in count_all() {
        writeln!(text, "\"{name}\" = {now:.2}").expect("a string takes it");
    }
    fs::write(kept_in(), &text).expect("benches/instructions.toml can be written");
    print!("{text}");
    ExitCode::SUCCESS
}

fn kept_in() -> impl AsRef<Path> {
    concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.toml")
}

fn rustc() -> String {
    let output = Command::new("rustc").arg("-V").output().expect("rustc starts");
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

/// Instructions an event, of each case.
fn count_all() -> Vec<(&'static str, f64)> {
    // All at once: what a case takes does not depend on who else is there.
    let running: Vec<_> = CASES.iter().map(|(name, _)| (*name, start(name))).collect();
    running.into_iter().map(|(name, valgrind)| (name, count(name, valgrind))).collect()
}

fn start(name: &str) -> Child {
    Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=*instructions::counted*")
        .arg(env::current_exe().expect("this program"))
        .args(["--case", name])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("valgrind starts: it must be installed")
}

#[expect(clippy::cast_precision_loss, reason = "both are far below 2^52")]
fn count(name: &str, valgrind: Child) -> f64 {
    let output = valgrind.wait_with_output().expect("valgrind ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}");
    // ==1234== Collected : 5678
    let instructions: u64 = said
        .lines()
        .find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
        .unwrap_or_else(|| panic!("{name}: nothing was collected: {said}"));
    let events: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number");
    assert!(instructions > 0 && events > 0, "{name}: {said}");
    instructions as f64 / events as f64
}
