//! `annals verify`: whether the whole history is what was written, on a server or in a directory.

use std::{fmt::Display, path::PathBuf};

use indicatif::ProgressBar;
use serde_json::json;

use super::{
    CliError,
    client::ServerArgs,
    info::size,
    output::{self, Output, grouped},
    with_causes,
};
use crate::{
    core::{
        commit_log::disk::{
            offline::{self, Offline},
            recovery::Cut,
        },
        log::{chain::Chain, verify::Verifier},
        position::Position,
    },
    service::verify,
    wire::proto::v1::{VerifyRequest, VerifyResult, verify_response::Message},
};

/// Check the whole history: checksums, positions, hash chain
///
/// Prints the hash at the head. Note it elsewhere, with the position: `--at POSITION --expect-hash HASH` tells
/// later whether anything up to there was changed, removed or re-ordered.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Check a data directory that no server has, and change nothing, instead of asking a server
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Also print the hash at this position, which must end a commit
    #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(u64).range(1..))]
    at: Option<u64>,
    /// Fail unless the hash, at the position or at the head, is this one
    #[arg(long, value_name = "HASH", value_parser = parse_hash)]
    expect_hash: Option<Chain>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

fn parse_hash(text: &str) -> Result<Chain, &'static str> {
    Chain::parse(text).ok_or("not 64 hexadecimal digits")
}

pub async fn run(args: VerifyArgs) -> Result<(), CliError> {
    let result = match &args.data {
        Some(_) => in_directory(&args)?,
        None => on_server(&args).await?,
    };
    print(&result, &args)
}

async fn on_server(args: &VerifyArgs) -> Result<VerifyResult, CliError> {
    let mut admin = args.server.connect().await?.admin();
    let request = VerifyRequest {
        position: args.at.unwrap_or(0),
        expected_hash: args.expect_hash.as_ref().map(ToString::to_string).unwrap_or_default(),
    };
    let mut answers = admin.verify(request).await?.into_inner();
    let bar = output::progress_bar(Some(0), true);
    let result = loop {
        match answers.message().await?.and_then(|answer| answer.message) {
            Some(Message::Progress(progress)) => {
                bar.set_length(progress.total_bytes);
                show(&bar, progress.checked_bytes, progress.position);
            }
            Some(Message::Result(result)) => break result,
            None => return Err(CliError::ConnectionLost("the check has no result".to_owned())),
        }
    };
    bar.finish_and_clear();
    Ok(result)
}

fn show(bar: &ProgressBar, bytes: u64, position: impl Display) {
    bar.set_position(bytes);
    bar.set_message(format!("position {position}"));
}

fn in_directory(args: &VerifyArgs) -> Result<VerifyResult, CliError> {
    let path = args.data.as_deref().unwrap_or_else(|| "".as_ref());
    let directory = Offline::open(path).map_err(|error| CliError::Failed(with_causes(&error)))?;
    let bar = output::progress_bar(Some(directory.size()), true);
    let mut verifier = Verifier::new().noting(args.at.map_or(Position::MAX, Position::new));
    let mut shown = 0;
    let checked = offline::verify(directory.files(), &mut verifier, |verifier| {
        // Not each commit: to show it costs more than to check it.
        if verifier.tally().bytes >> 20 != shown {
            shown = verifier.tally().bytes >> 20;
            show(&bar, verifier.tally().bytes, verifier.position());
        }
    });
    bar.finish_and_clear();
    let cut = checked.map_err(|error| {
        let place = path.display();
        let help = format!("  `annals repair --data {place}` shows what can be kept");
        CliError::Failed(format!("{}\n{help}", with_causes(&error)))
    })?;
    if let Some(Cut { file, offset, reason }) = cut {
        output::note(&format!(
            "{file} has a torn tail at byte {offset} ({reason}); nothing of it was acknowledged, and the \
             next start cuts it off"
        ));
    }
    let position = args.at.map_or(verifier.position(), Position::new);
    let found = verify::verified(&verifier, position)
        .and_then(|found| found.expect(args.expect_hash))
        .map_err(|error| CliError::Failed(error.to_string()))?;
    Ok(found.into())
}

fn print(result: &VerifyResult, args: &VerifyArgs) -> Result<(), CliError> {
    let mut out = Output::stdout();
    if args.json {
        out.json(&json!({
            "head": result.head,
            "eventCount": result.event_count,
            "removedCount": result.removed_count,
            "segmentCount": result.segment_count,
            "checkedBytes": result.checked_bytes,
            "headHash": result.head_hash,
            "position": result.position,
            "hash": result.hash,
        }))?;
    } else {
        let mut rows = vec![
            ("events".to_owned(), grouped(result.event_count)),
            ("removed events".to_owned(), grouped(result.removed_count)),
            ("segments".to_owned(), grouped(result.segment_count)),
            ("checked".to_owned(), size(result.checked_bytes)),
            ("head".to_owned(), result.head.to_string()),
        ];
        if !result.head_hash.is_empty() {
            rows.push(("hash".to_owned(), result.head_hash.clone()));
        }
        if result.position != result.head {
            rows.push((format!("hash at {}", result.position), result.hash.clone()));
        }
        for (name, value) in rows {
            out.line(|palette| format!("{dim}{name:<18}{dim:#}{value}", dim = palette.dim))?;
        }
    }
    Ok(out.flush()?)
}
