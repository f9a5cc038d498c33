//! `annals repair`: what is wrong with a data directory, and what can be kept of it.

use std::path::PathBuf;

use super::{
    CliError,
    info::size,
    output::{self, Output},
    with_causes,
};
use crate::core::{
    commit_log::disk::{
        offline::Offline,
        repair::{self, DAMAGED, Plan},
    },
    position::Position,
};

/// Show what is wrong with a data directory, and mend it
///
/// Without --yes nothing is changed. With it everything up to the last good commit before the first fault stays,
/// and what is behind goes to DIR/damaged-TIME, where it can be looked at; nothing is deleted. A backup that
/// has more is better than a repair. Exit code 0: the directory is good; 1: it is not.
#[derive(Debug, clap::Args)]
pub struct RepairArgs {
    /// The data directory, which no server has
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Do it
    #[arg(long)]
    yes: bool,
}

pub fn run(args: &RepairArgs) -> Result<(), CliError> {
    let directory =
        Offline::open(&args.data).map_err(|error| CliError::Failed(with_causes(&error)))?;
    let bar = output::progress_bar(Some(directory.size()), true);
    let mut shown = 0;
    let plan = repair::plan(&directory, |verifier| {
        let bytes = verifier.tally().bytes;
        if bytes >> 20 != shown {
            shown = bytes >> 20;
            bar.set_position(bytes);
        }
    });
    bar.finish_and_clear();
    let plan = plan.map_err(|error| CliError::Failed(with_causes(&error)))?;

    let mut out = Output::stdout();
    for finding in &plan.findings {
        out.line(|_| finding.to_string())?;
    }
    if !plan.is_needed() {
        if plan.findings.is_empty() {
            out.line(|_| format!("nothing is wrong: {}", positions(plan.head)))?;
            return Ok(out.flush()?);
        }
        out.line(|_| "nothing was changed".to_owned())?;
        out.flush()?;
        return Err(CliError::Reported);
    }
    out.line(|_| format!("stays: {}", positions(plan.head)))?;
    let (files, bytes) = plan.aside;
    out.line(|_| format!("goes aside: {files} files, whole or in part, {}", size(bytes)))?;
    if !args.yes {
        out.line(|_| {
            let place = args.data.display();
            format!("nothing was changed; `annals repair --data {place} --yes` does it")
        })?;
        out.flush()?;
        return Err(CliError::Reported);
    }
    let folder = mend(&directory, &plan)?;
    out.line(|_| format!("done; what went aside is in {}", folder.display()))?;
    out.flush()?;
    // What a repair cannot bring back has been said.
    let is_left = plan.findings.iter().any(|it| matches!(it, repair::Finding::Chain { .. }));
    if is_left { Err(CliError::Reported) } else { Ok(()) }
}

fn mend(directory: &Offline, plan: &Plan) -> Result<PathBuf, CliError> {
    let now = chrono::Utc::now().format("%Y%m%dT%H%M%SZ");
    let names = (1..).map(|number| match number {
        1 => format!("{DAMAGED}{now}"),
        _ => format!("{DAMAGED}{now}-{number}"),
    });
    let mut folders = names.map(|name| directory.path().join(name));
    let folder = folders.find(|folder| !folder.exists()).expect("numbers do not end");
    plan.run(directory, &folder, || true).map_err(|error| {
        CliError::Failed(format!(
            "{}: {error}; a repair again goes on from where this one stopped",
            folder.display()
        ))
    })?;
    Ok(folder)
}

fn positions(head: Position) -> String {
    match head.get() {
        0 => "no event".to_owned(),
        head => format!("positions 1 to {head}"),
    }
}
