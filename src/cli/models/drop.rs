//! `annals models drop`: a version goes, or a model with all its versions; nobody brings it back but its projection.

use std::io::{self, IsTerminal, Write};

use serde_json::json;

use crate::{
    cli::{
        CliError,
        client::ServerArgs,
        output::{Output, printable},
    },
    wire::proto::v1::DropModelRequest,
};

/// Remove a version of a model, or the model with all its versions
///
/// Its projection can make it again from the log. The current version goes only if it is the only one.
#[derive(Debug, clap::Args)]
pub struct DropArgs {
    /// The model
    model: String,
    /// This version only [default: all of them]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    version: Option<u32>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: DropArgs) -> Result<(), CliError> {
    let DropArgs { model, version, yes, json, server } = args;
    let what = match version {
        None => format!("{} with all its versions", printable(&model)),
        Some(version) => format!("version {version} of {}", printable(&model)),
    };
    if !yes && !confirmed(&what)? {
        return Err(CliError::Failed("nothing was dropped".to_owned()));
    }
    let request = DropModelRequest { model: model.clone(), version: version.unwrap_or_default() };
    let answer = server.connect().await?.models().drop_model(request).await?.into_inner();
    let versions = answer.dropped_versions;
    let mut out = Output::stdout();
    if json {
        out.json(&json!({ "droppedVersions": versions }))?;
    } else {
        let versions = versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        out.line(|_| format!("dropped {}: version {versions}", printable(&model)))?;
    }
    Ok(out.flush()?)
}

/// Whether whoever sits at the terminal agrees. Where nobody does, --yes must be given.
fn confirmed(what: &str) -> Result<bool, CliError> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let text = format!("nobody can be asked here; with --yes {what} is dropped");
        return Err(CliError::Usage(text));
    }
    let fault = |error| CliError::file("the terminal", error);
    let mut terminal = io::stderr();
    write!(terminal, "drop {what}? [y/N] ").and_then(|()| terminal.flush()).map_err(fault)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(fault)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
