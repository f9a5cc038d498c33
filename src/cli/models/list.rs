//! `annals models` and `annals models show`: which models there are, and how far each version is.

use serde_json::{Value, json};

use crate::{
    cli::{
        CliError,
        client::{Client, ServerArgs},
        cloud_events::format_time,
        info::size,
        output::{self, Output, grouped, printable},
        table::{Column, Table},
    },
    wire::proto::v1::{Index, ListModelsRequest, Model, ModelVersion},
};

const PAGE_SIZE_MAX: u32 = 1000;

const COLUMNS: [Column; 8] = [
    Column::Text("model", 48),
    Column::Number("version"),
    Column::Text("", 7),
    Column::Number("documents"),
    Column::Number("size"),
    Column::Number("checkpoint"),
    Column::Number("behind"),
    Column::Text("applied", 27),
];

/// List the models with their versions, which is what `annals models` does, too
///
/// Behind: how many positions of the log a version's projection has not come to.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Show a model: its versions, with their indexes
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// The model
    model: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Hands each model to `each`, with the log's head, until it says that it has seen enough.
async fn walk(
    client: &Client,
    mut each: impl FnMut(Model, u64) -> Result<bool, CliError>,
) -> Result<(), CliError> {
    let mut models = client.models();
    let mut page_token = String::new();
    loop {
        let request = ListModelsRequest { page_size: PAGE_SIZE_MAX, page_token };
        let page = models.list_models(request).await?.into_inner();
        for model in page.models {
            if each(model, page.head)? {
                return Ok(());
            }
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(());
        }
    }
}

pub async fn list(args: ListArgs) -> Result<(), CliError> {
    let client = args.server.connect().await?;
    let mut out = Output::stdout();
    let mut rows = Vec::new();
    walk(&client, |model, head| {
        if args.json {
            out.json(&to_json(&model, head))?;
        } else {
            rows.extend(model.versions.iter().map(|version| row(&model, version, head)));
        }
        Ok(false)
    })
    .await?;
    Table::new(COLUMNS).print(rows, &mut out)?;
    Ok(out.flush()?)
}

fn row(model: &Model, version: &ModelVersion, head: u64) -> [String; 8] {
    let current = if version.version == model.current_version { "current" } else { "" };
    [
        model.model.clone(),
        version.version.to_string(),
        current.to_owned(),
        grouped(version.document_count),
        size(version.document_bytes),
        version.checkpoint.to_string(),
        grouped(head.saturating_sub(version.checkpoint)),
        output::time(version.applied_at.as_ref()),
    ]
}

pub async fn show(args: ShowArgs) -> Result<(), CliError> {
    let client = args.server.connect().await?;
    let mut found = None;
    walk(&client, |model, head| {
        let is_found = model.model == args.model;
        if is_found {
            found = Some((model, head));
        }
        Ok(is_found)
    })
    .await?;
    let Some((model, head)) = found else {
        return Err(CliError::Failed(format!(
            "there is no read model {}; `annals models` lists them",
            printable(&args.model)
        )));
    };
    let mut out = Output::stdout();
    if args.json {
        out.json(&to_json(&model, head))?;
    } else {
        print(&model, head, &mut out)?;
    }
    Ok(out.flush()?)
}

fn print(model: &Model, head: u64, out: &mut Output) -> Result<(), CliError> {
    let rows = [
        ("model", printable(&model.model).into_owned()),
        ("current", model.current_version.to_string()),
        ("head", head.to_string()),
    ];
    print_rows(&rows, out)?;
    for version in &model.versions {
        out.line(|_| String::new())?;
        print_rows(&version_rows(version, head), out)?;
    }
    Ok(())
}

fn print_rows(rows: &[(&str, String)], out: &mut Output) -> Result<(), CliError> {
    for (title, value) in rows {
        out.line(|palette| format!("{dim}{title:<12}{dim:#}{value}", dim = palette.dim))?;
    }
    Ok(())
}

fn version_rows(version: &ModelVersion, head: u64) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("version", version.version.to_string()),
        ("documents", grouped(version.document_count)),
        ("size", size(version.document_bytes)),
        ("checkpoint", version.checkpoint.to_string()),
        ("behind", grouped(head.saturating_sub(version.checkpoint))),
        ("created", output::time(version.created_at.as_ref())),
        ("applied", output::time(version.applied_at.as_ref())),
    ];
    let fields = |index: &Index| printable(&index.fields.join(", ")).into_owned();
    rows.extend(version.indexes.iter().map(|index| ("index", fields(index))));
    rows
}

/// Every field, by the names of the protocol's JSON; and the log's head.
fn to_json(model: &Model, head: u64) -> Value {
    json!({
        "model": model.model,
        "currentVersion": model.current_version,
        "versions": model.versions.iter().map(version_json).collect::<Vec<_>>(),
        "head": head,
    })
}

pub fn version_json(version: &ModelVersion) -> Value {
    let indexes = version.indexes.iter().map(|index| json!({ "fields": index.fields }));
    json!({
        "version": version.version,
        "indexes": indexes.collect::<Vec<_>>(),
        "checkpoint": version.checkpoint,
        "documentCount": version.document_count,
        "documentBytes": version.document_bytes,
        "createdAt": version.created_at.as_ref().and_then(format_time),
        "appliedAt": version.applied_at.as_ref().and_then(format_time),
    })
}
