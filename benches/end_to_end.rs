//! What a call costs more than an empty call of its shape: over real gRPC, to the real server in a
//! process of its own, real and empty by turns in one run. docs/benchmarks.md tells how to read it.
//!
//! ```text
//! cargo bench --bench end_to_end                     all shapes, about two minutes
//! cargo bench --bench end_to_end -- stream           those with `stream` in their name
//! cargo bench --bench end_to_end -- --rounds 15      default 7
//! cargo bench --bench end_to_end -- --against PATH   another build of the server, too, by turns
//! cargo bench --bench end_to_end -- --only real      or `empty`, `disk`: for a profiler
//! cargo bench --bench end_to_end -- --messages       appends beside the empty call with the same messages
//! cargo bench --bench end_to_end -- --durable        appends in durable mode, beside the bare disk
//! cargo bench --bench end_to_end -- --durable --recovery 1000000    starts after a crash, nothing else
//! cargo bench --bench end_to_end -- --analytics 10000000            questions about a large history, nothing else
//! cargo bench --bench end_to_end -- --subscriptions 5    who follows what is appended, loads of 5 s, nothing else
//! cargo bench --bench end_to_end -- --packing DIR    what compression does to a data directory, nothing else
//! cargo bench --bench end_to_end -- --smoke          very small, to see that it works: no figures
//! ```
//!
//! Every round checks its results. Without `--bench`, which is how `cargo test` runs it, it is `--smoke`.
//! The load comes from this process, so on two cores it shares them with the server: rates are those of
//! both together, processor time is the server's alone.

mod support;

use std::path::PathBuf;

use annals::cli::bench::load;
use support::{
    analytics::Questions,
    disk::{FileSystem, Place},
    packing, recovery,
    report::{self, Bare, Row},
    server::Server,
    shapes::{self, SHAPES, Shape, Sizes},
    subscriptions,
    target::{Target, Twin},
};

const ROUNDS: usize = 7;
const ANALYTICS_EVENTS: usize = 10_000_000;
const ANALYTICS_EVENTS_SMOKE: usize = 3200;
const SUBSCRIPTIONS_SECONDS: usize = 5;
const RECOVERY_EVENTS: usize = 1_000_000;
const LOAD_ROUNDS: usize = 3;
const RECOVERY_ROUNDS: usize = 3;
const RECOVERY_EVENTS_SMOKE: usize = 3200;

struct Options {
    smoke: bool,
    durable: bool,
    /// So many events are read back after a crash.
    recovery: Option<usize>,
    /// So many events are asked about.
    analytics: Option<usize>,
    /// Subscribers follow loads of so many seconds.
    subscriptions: Option<usize>,
    /// The segments of this directory are packed and unpacked.
    packing: Option<PathBuf>,
    rounds: usize,
    against: Option<PathBuf>,
    only: Option<Twin>,
    /// The empty twin of appends takes the same messages, and not only as many bytes.
    messages: bool,
    /// Parts of shapes' names; none: all shapes.
    wanted: Vec<String>,
}

impl Options {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = arguments.peekable();
        let mut options = Self {
            smoke: false,
            durable: false,
            recovery: None,
            analytics: None,
            subscriptions: None,
            packing: None,
            rounds: ROUNDS,
            against: None,
            only: None,
            messages: false,
            wanted: Vec::new(),
        };
        let mut bench = false;
        while let Some(argument) = arguments.next() {
            let mut number_or = |default| {
                let number = arguments.next_if(|next| next.parse::<usize>().is_ok());
                Some(number.and_then(|number| number.parse().ok()).unwrap_or(default))
            };
            match argument.as_str() {
                "--recovery" => options.recovery = number_or(RECOVERY_EVENTS),
                "--analytics" => options.analytics = number_or(ANALYTICS_EVENTS),
                "--subscriptions" => options.subscriptions = number_or(SUBSCRIPTIONS_SECONDS),
                _ => {}
            }
            if let "--recovery" | "--analytics" | "--subscriptions" = argument.as_str() {
                continue;
            }
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--bench" => bench = true,
                "--smoke" | "--test" => options.smoke = true,
                "--durable" => options.durable = true,
                "--messages" => options.messages = true,
                "--packing" => options.packing = Some(value()?.into()),
                "--against" => options.against = Some(value()?.into()),
                "--only" => {
                    options.only = Some(match value()?.as_str() {
                        "real" => Twin::Real,
                        "empty" => Twin::Empty,
                        "disk" => Twin::Disk,
                        _ => return Err("--only is `real`, `empty` or `disk`".to_owned()),
                    });
                }
                "--rounds" => {
                    let rounds = value()?.parse().ok().filter(|rounds| *rounds > 0);
                    options.rounds = rounds.ok_or("--rounds needs a number from 1")?;
                }
                flag if flag.starts_with('-') => return Err(format!("{flag} is not known")),
                _ => options.wanted.push(argument),
            }
        }
        options.smoke |= !bench;
        if options.smoke {
            options.rounds = 1;
        }
        if options.recovery.is_some() && !options.durable {
            return Err("--recovery needs --durable".to_owned());
        }
        Ok(options)
    }

    fn wants(&self, shape: Shape) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|part| shape.name().contains(part))
    }
}

fn main() {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(mistake) => {
            eprintln!("end_to_end: {mistake}");
            std::process::exit(2);
        }
    };
    if let Some(directory) = &options.packing {
        packing::run(directory).expect("it is a data directory that can be read");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("the load generator's runtime starts");
    runtime.block_on(run(&options));
}

async fn run(options: &Options) {
    if let Some(events) = options.analytics {
        return ask(options, events).await;
    }
    if let Some(seconds) = options.subscriptions {
        return follow(options, seconds).await;
    }
    match options.recovery {
        _ if !options.durable => memory(options).await,
        None => durable(options, |shape| options.wants(shape)).await,
        Some(events) => recover(options, events).await,
    }
    if options.smoke && !options.durable && options.wanted.is_empty() {
        durable(options, |shape| shape.waiting_max() == Some(16)).await;
        recover(options, RECOVERY_EVENTS_SMOKE).await;
        ask(options, ANALYTICS_EVENTS_SMOKE).await;
        follow(options, SUBSCRIPTIONS_SECONDS).await;
    }
    if options.smoke {
        println!("smoke, not figures: every result was as it should be");
    }
}

/// The first server is ours, the second, if one was named, the one to compare with.
async fn targets(options: &Options, sizes: &Sizes, durable: bool) -> Vec<Target> {
    let binaries = [Some(PathBuf::from(env!("CARGO_BIN_EXE_annals"))), options.against.clone()];
    let mut targets = Vec::new();
    for binary in binaries.into_iter().flatten() {
        let place = durable.then(Place::new);
        let mut target = Target::prepare(Server::start(&binary, place), sizes).await;
        if options.messages {
            target.empty = load::Twin::Messages;
        }
        targets.push(target);
    }
    targets
}

/// One round of the twins on all servers.
async fn turns(
    options: &Options,
    targets: &mut [Target],
    sizes: &Sizes,
    (shape, round): (Shape, usize),
    rows: &mut [Row],
) {
    // Whoever goes first goes last in the next round.
    let mut turns: Vec<_> = (0..targets.len())
        .flat_map(|target| [Twin::Real, Twin::Empty, Twin::Disk].map(|twin| (target, twin)))
        .filter(|(target, twin)| {
            let durable = targets[*target].server.place.is_some();
            *twin != Twin::Disk || (durable && shape.has_disk())
        })
        .filter(|(_, twin)| options.only.is_none_or(|only| only == *twin))
        .collect();
    let count = turns.len();
    turns.rotate_left(round % count);
    for (index, twin) in turns {
        let outcome = shapes::run(shape, twin, &mut targets[index], sizes, round).await;
        if round > 0 {
            rows[index].add(twin, outcome);
        }
    }
}

async fn memory(options: &Options) {
    let sizes = if options.smoke { Sizes::SMOKE } else { Sizes::FULL };
    let mut targets = targets(options, &sizes, false).await;
    report::header(options.smoke, options.rounds, &targets).await;
    for shape in SHAPES.into_iter().filter(|shape| options.wants(*shape)) {
        let mut rows: Vec<Row> = targets.iter().map(|_| Row::new(shape)).collect();
        // Round 0 warms up.
        for round in usize::from(options.smoke)..=options.rounds {
            turns(options, &mut targets, &sizes, (shape, round), &mut rows).await;
        }
        report::rows(&rows);
    }
    report::footer();
    for target in &targets {
        target.check_head().await;
    }
}

/// What appends cost in durable mode, beside the empty call and beside the disk alone.
async fn durable(options: &Options, wanted: impl Fn(Shape) -> bool) {
    let file_system = real_disk(options.smoke);
    let sizes = if options.smoke { Sizes::SMOKE } else { Sizes::DURABLE };
    let mut targets = targets(options, &sizes, true).await;
    report::header_lines(options.smoke, options.rounds, &targets).await;
    report::durable_header(file_system.as_ref());
    for (shape, batch) in SHAPES.into_iter().filter_map(|shape| Some((shape, shape.waiting_max()?)))
    {
        if !wanted(shape) {
            continue;
        }
        let mut rows: Vec<Row> = targets.iter().map(|_| Row::new(shape)).collect();
        for round in usize::from(options.smoke)..=options.rounds {
            let before = (targets[0].appended, targets[0].log_bytes().await);
            turns(options, &mut targets, &sizes, (shape, round), &mut rows).await;
            let events = targets[0].appended - before.0;
            let bytes = targets[0].log_bytes().await - before.1;
            if round == 0 || events == 0 {
                continue;
            }
            // As many batches as would be if each took all that can wait.
            let count = usize::try_from(events).expect("it is small").div_ceil(batch);
            let event_bytes = usize::try_from(bytes.div_ceil(events)).expect("it is small");
            let place = targets[0].server.place.as_ref().expect("durable mode");
            let bare = Bare::measure(place, (batch, event_bytes), count);
            for row in &mut rows {
                row.add_bare(bare);
            }
        }
        report::durable_rows(&rows);
    }
    report::durable_footer();
    for target in &targets {
        target.check_head().await;
    }
}

/// How long a start after a crash takes.
async fn recover(options: &Options, events: usize) {
    let file_system = real_disk(options.smoke);
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_annals"));
    let sizes = if options.smoke { Sizes::SMOKE } else { Sizes::DURABLE };
    let target = Target::prepare(Server::start(&binary, Some(Place::new())), &sizes).await;
    let rounds = if options.smoke { 1 } else { RECOVERY_ROUNDS };
    let recovery = recovery::run(target, events, rounds).await;
    report::recovery(file_system.as_ref(), &recovery);
}

/// What questions about a large history cost, in memory mode.
async fn ask(options: &Options, events: usize) {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_annals"));
    let target = Target::prepare(Server::start(&binary, None), &Sizes::NOTHING).await;
    report::header_lines(options.smoke, options.rounds, std::slice::from_ref(&target)).await;
    let questions = Questions::prepare(&target.connections, events).await;
    report::analytics(questions, options.rounds, options.smoke).await;
}

/// What subscriptions cost, in memory mode.
async fn follow(options: &Options, seconds: usize) {
    let sizes = subscriptions::Sizes::full(seconds as u64);
    let sizes = if options.smoke { subscriptions::Sizes::SMOKE } else { sizes };
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_annals"));
    let start = async || Target::prepare(Server::start(&binary, None), &Sizes::NOTHING).await;
    let mut target = start().await;
    report::header_lines(options.smoke, options.rounds, std::slice::from_ref(&target)).await;
    subscriptions::tell_delays(&mut target, &sizes, options.rounds).await;
    subscriptions::tell_loads(&mut target, &sizes, options.rounds.min(LOAD_ROUNDS)).await;
    target.check_head().await;
    drop(target);
    subscriptions::tell_idle(start, &sizes).await;
}

fn real_disk(smoke: bool) -> Option<FileSystem> {
    let file_system = FileSystem::of_temporary_files();
    assert!(
        smoke || !file_system.as_ref().is_some_and(FileSystem::is_memory),
        "{} is in memory: name a directory on a disk in TMPDIR",
        std::env::temp_dir().display()
    );
    file_system
}
