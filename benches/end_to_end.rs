//! What a call costs more than an empty call of its shape: over real gRPC, to the real server in a
//! process of its own, real and empty by turns in one run. docs/benchmarks.md tells how to read it.
//!
//! ```text
//! cargo bench --bench end_to_end                     all shapes, about two minutes
//! cargo bench --bench end_to_end -- stream           those with `stream` in their name
//! cargo bench --bench end_to_end -- --rounds 15      default 7
//! cargo bench --bench end_to_end -- --against PATH   another build of the server, too, by turns
//! cargo bench --bench end_to_end -- --only real      or `empty`: for a profiler
//! cargo bench --bench end_to_end -- --smoke          very small, to see that it works: no figures
//! ```
//!
//! Every round checks its results. Without `--bench`, which is how `cargo test` runs it, it is `--smoke`.
//! The load comes from this process, so on two cores it shares them with the server: rates are those of
//! both together, processor time is the server's alone.

mod support;

use std::path::PathBuf;

use support::{
    report::{self, Row},
    server::Server,
    shapes::{self, SHAPES, Sizes},
    target::{Target, Twin},
};

const ROUNDS: usize = 7;

struct Options {
    smoke: bool,
    rounds: usize,
    against: Option<PathBuf>,
    only: Option<Twin>,
    /// Parts of shapes' names; none: all shapes.
    wanted: Vec<String>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options =
            Self { smoke: false, rounds: ROUNDS, against: None, only: None, wanted: Vec::new() };
        let mut bench = false;
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--bench" => bench = true,
                "--smoke" | "--test" => options.smoke = true,
                "--against" => options.against = Some(value()?.into()),
                "--only" => {
                    options.only = Some(match value()?.as_str() {
                        "real" => Twin::Real,
                        "empty" => Twin::Empty,
                        _ => return Err("--only is `real` or `empty`".to_owned()),
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
        Ok(options)
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
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("the load generator's runtime starts");
    runtime.block_on(run(&options));
}

async fn run(options: &Options) {
    let sizes = if options.smoke { Sizes::SMOKE } else { Sizes::FULL };
    let binaries = [Some(PathBuf::from(env!("CARGO_BIN_EXE_annals"))), options.against.clone()];
    let mut targets = Vec::new();
    for binary in binaries.into_iter().flatten() {
        targets.push(Target::prepare(Server::start(&binary), &sizes).await);
    }
    report::header(options.smoke, options.rounds, &targets).await;

    for shape in SHAPES {
        let wanted = &options.wanted;
        if !wanted.is_empty() && !wanted.iter().any(|part| shape.name().contains(part.as_str())) {
            continue;
        }
        let mut rows: Vec<Row> = targets.iter().map(|_| Row::new(shape)).collect();
        // Round 0 warms up.
        for round in usize::from(options.smoke)..=options.rounds {
            // Whoever goes first goes last in the next round.
            let mut turns: Vec<_> = (0..targets.len())
                .flat_map(|target| [(target, Twin::Real), (target, Twin::Empty)])
                .filter(|(_, twin)| options.only.is_none_or(|only| only == *twin))
                .collect();
            let count = turns.len();
            turns.rotate_left(round % count);
            for (index, twin) in turns {
                let outcome = shapes::run(shape, twin, &mut targets[index], &sizes, round).await;
                if round > 0 {
                    rows[index].add(twin, outcome);
                }
            }
        }
        report::rows(&rows);
    }
    for target in &targets {
        target.check_head().await;
    }
    report::footer(options.smoke);
}
