//! `annals models create`: a version of a model, empty.

use super::list::version_json;
use crate::{
    cli::{
        CliError,
        client::ServerArgs,
        output::{Output, printable},
    },
    wire::proto::v1::{CreateModelRequest, Index},
};

/// Make a version of a model, empty; the first one is its current one
///
/// The same again changes nothing. Documents are written by the model's projection.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// The model
    model: String,
    /// The version
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..))]
    version: u32,
    /// Index these fields, such as status,customer.country,amount: documents are found by the first ones and
    /// ordered by the next one; may be repeated
    #[arg(long = "index", value_name = "FIELDS", value_parser = parse_index)]
    indexes: Vec<Index>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

fn parse_index(text: &str) -> Result<Index, String> {
    let fields: Vec<String> = text.split(',').map(|field| field.trim().to_owned()).collect();
    if fields.iter().any(String::is_empty) {
        return Err(
            "fields with commas between them are expected, such as status,amount".to_owned()
        );
    }
    Ok(Index { fields })
}

pub async fn run(args: CreateArgs) -> Result<(), CliError> {
    let CreateArgs { model, version, indexes, json, server } = args;
    let request = CreateModelRequest { model: model.clone(), version, indexes };
    let answer = server.connect().await?.models().create_model(request).await?.into_inner();
    let version = answer.version.unwrap_or_default();
    let mut out = Output::stdout();
    if json {
        out.json(&version_json(&version))?;
    } else {
        let (model, checkpoint) = (printable(&model), version.checkpoint);
        out.line(|_| format!("{model} version {} is at checkpoint {checkpoint}", version.version))?;
    }
    Ok(out.flush()?)
}
