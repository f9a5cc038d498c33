//! `annals models`: read models, which projections elsewhere keep on the server.
//!
//! Writing to them is their projection's: what is here looks, and says which version is the current one.

mod create;
mod drop;
mod find;
mod list;
mod matches;
mod watch;

use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    CliError,
    client::ServerArgs,
    output::{Output, Palette, json_in_one_line, printable},
};
use crate::wire::proto::v1::{Document, GetRequest, SwitchModelRequest};

/// List, ask and manage read models, which projections keep as JSON documents
///
/// A model has versions, side by side: one of them is the current one, which is meant where no --version is given.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ModelsArgs {
    #[command(subcommand)]
    command: Option<ModelsCommand>,
    #[command(flatten)]
    list: list::ListArgs,
}

#[derive(Debug, clap::Subcommand)]
enum ModelsCommand {
    List(list::ListArgs),
    Show(list::ShowArgs),
    Create(create::CreateArgs),
    Get(GetArgs),
    Find(find::FindArgs),
    Watch(watch::WatchArgs),
    Switch(SwitchArgs),
    Drop(drop::DropArgs),
}

/// Which version of which model.
#[derive(Debug, Clone, clap::Args)]
struct ModelArgs {
    /// The model
    model: String,
    /// This version [default: the current one]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    version: u32,
}

/// Print one document
#[derive(Debug, clap::Args)]
struct GetArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The document's key
    key: String,
    /// Wait until the model has come to this position, such as that of an event that was just appended
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    min_position: u64,
    /// Print one JSON object: the document with its key and its position, and the model's checkpoint
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Make a version the current one, at once for every call that follows
#[derive(Debug, clap::Args)]
struct SwitchArgs {
    /// The model
    model: String,
    /// The version
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    version: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: ModelsArgs) -> Result<(), CliError> {
    match args.command {
        None => list::list(args.list).await,
        Some(ModelsCommand::List(args)) => list::list(args).await,
        Some(ModelsCommand::Show(args)) => list::show(args).await,
        Some(ModelsCommand::Create(args)) => create::run(args).await,
        Some(ModelsCommand::Get(args)) => get(args).await,
        Some(ModelsCommand::Find(args)) => find::run(args).await,
        Some(ModelsCommand::Watch(args)) => watch::run(args).await,
        Some(ModelsCommand::Switch(args)) => switch(args).await,
        Some(ModelsCommand::Drop(args)) => drop::run(args).await,
    }
}

/// A document as JSON: the names of the protocol's JSON, and what it says as JSON.
#[derive(Serialize)]
struct DocumentJson<'a> {
    key: &'a str,
    json: std::borrow::Cow<'a, RawValue>,
    position: u64,
}

impl<'a> DocumentJson<'a> {
    fn of(document: &'a Document) -> Result<Self, CliError> {
        let json = json_in_one_line(&document.json).ok_or_else(|| {
            CliError::Failed(format!("the document {} is no JSON", printable(&document.key)))
        })?;
        Ok(Self { key: &document.key, json, position: document.position })
    }
}

/// Position, key, and what it says.
fn document_line(document: &Document, palette: &Palette) -> String {
    let Palette { dim, stream, .. } = palette;
    format!(
        "{dim}{:>8}{dim:#}  {stream}{}{stream:#}  {}",
        document.position,
        printable(&document.key),
        printable(&document.json)
    )
}

#[derive(Serialize)]
struct GetJson<'a> {
    document: DocumentJson<'a>,
    checkpoint: u64,
}

async fn get(args: GetArgs) -> Result<(), CliError> {
    let GetArgs { model: ModelArgs { model, version }, key, min_position, json, server } = args;
    let request = GetRequest { model, version, key, min_position };
    let answer = server.connect().await?.models().get(request).await?.into_inner();
    let document = answer.document.unwrap_or_default();
    let mut out = Output::stdout();
    if json {
        let document = DocumentJson::of(&document)?;
        out.json(&GetJson { document, checkpoint: answer.checkpoint })?;
    } else {
        // Nothing stands beside it, so that it can be handed on.
        out.line(|_| printable(&document.json).into_owned())?;
    }
    Ok(out.flush()?)
}

async fn switch(args: SwitchArgs) -> Result<(), CliError> {
    let SwitchArgs { model, version, json, server } = args;
    let request = SwitchModelRequest { model: model.clone(), version };
    let answer = server.connect().await?.models().switch_model(request).await?.into_inner();
    let previous = answer.previous_version;
    let mut out = Output::stdout();
    if json {
        out.json(&serde_json::json!({ "previousVersion": previous }))?;
    } else if previous == version {
        out.line(|_| format!("{} has version {version} already", printable(&model)))?;
    } else {
        let model = printable(&model);
        out.line(|_| format!("{model} has version {version} now, before {previous}"))?;
    }
    Ok(out.flush()?)
}
