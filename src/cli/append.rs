//! `annals append`: one event.

use std::{
    fs::File,
    io::{self, Read},
};

use chrono::{DateTime, FixedOffset};
use serde::Serialize;
use uuid::Uuid;

use super::{
    CliError,
    client::ServerArgs,
    cloud_events::{format_time, is_json, is_text},
    output::{Output, printable},
};
use crate::{
    core::limits::Limits,
    wire::proto::v1::{AppendRequest, NewEvent, new_event},
};

/// Append an event to a stream
#[derive(Debug, clap::Args)]
pub struct AppendArgs {
    /// The stream: Category-id, such as Payment-1
    stream: String,
    /// What happened, such as PaymentProcessed
    #[arg(value_name = "TYPE")]
    event_type: String,
    /// What the event says, JSON unless --content-type says otherwise; `-` reads stdin, @FILE a file
    #[arg(allow_negative_numbers = true)]
    data: Option<String>,
    /// The event's id; the same id twice appends once [default: a new one]
    #[arg(long, value_name = "UUID")]
    id: Option<Uuid>,
    /// How many events the stream must have for this one to be appended; 0: none yet
    #[arg(long, value_name = "N")]
    expected_version: Option<u64>,
    /// What the event belongs to, over all streams
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    correlation_id: String,
    /// The id of what made the event happen
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    causation_id: String,
    /// A fact about the event; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_entry)]
    metadata: Vec<(String, String)>,
    /// What the event is about, to find it by; may be repeated
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// The data's media type [default: application/json]
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// When it happened, such as 2026-11-22T09:30:00Z [default: now]
    #[arg(long, value_name = "RFC3339", value_parser = DateTime::parse_from_rfc3339)]
    occurred_at: Option<DateTime<FixedOffset>>,
    /// Run every check and write nothing
    #[arg(long)]
    validate_only: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

fn parse_entry(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("KEY=VALUE is expected".to_owned()),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Appended<'a> {
    stream: &'a str,
    id: &'a str,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recorded_at: Option<String>,
    duplicate: bool,
    validate_only: bool,
}

pub async fn run(args: AppendArgs) -> Result<(), CliError> {
    let content_type = args.content_type.unwrap_or_default();
    let data = args.data.as_deref().map(read_data).transpose()?;
    let data = data.map(|bytes| data_of(bytes, &content_type)).transpose()?;
    // Made here, not by the server, so that it can be shown.
    let id = args.id.unwrap_or_else(Uuid::now_v7).to_string();

    let mut metadata = std::collections::BTreeMap::new();
    for (key, value) in args.metadata {
        if let Some(first) = metadata.insert(key.clone(), value) {
            return Err(CliError::Usage(format!(
                "--metadata {key} is given twice, first as {first:?}"
            )));
        }
    }
    let event = NewEvent {
        id: id.clone(),
        r#type: args.event_type,
        content_type,
        data,
        correlation_id: args.correlation_id,
        causation_id: args.causation_id,
        metadata,
        tags: args.tag,
        occurred_at: args.occurred_at.map(|time| prost_types::Timestamp {
            seconds: time.timestamp(),
            // Below 2e9, also in a leap second.
            nanos: i32::try_from(time.timestamp_subsec_nanos().min(999_999_999))
                .unwrap_or_default(),
        }),
    };
    let request = AppendRequest {
        stream: args.stream.clone(),
        events: vec![event],
        expected_version: args.expected_version,
        conditions: Vec::new(),
        validate_only: args.validate_only,
    };
    let answer = args.server.connect().await?.commands().append(request).await?.into_inner();

    let mut out = Output::stdout();
    if args.json {
        out.json(&Appended {
            stream: &args.stream,
            id: &id,
            version: answer.version,
            position: Some(answer.position).filter(|position| *position > 0),
            recorded_at: answer.recorded_at.as_ref().and_then(format_time),
            duplicate: answer.duplicate,
            validate_only: args.validate_only,
        })?;
    } else {
        out.line(|palette| {
            let (dim, stream) = (palette.dim, palette.stream);
            let place = format!("{stream}{}@{}{stream:#}", printable(&args.stream), answer.version);
            match (args.validate_only, answer.duplicate) {
                (_, true) => format!("already there: {place} at position {}", answer.position),
                (true, false) => format!("valid: would be {place}"),
                (false, false) => {
                    format!("appended {place} at position {}  {dim}{id}{dim:#}", answer.position)
                }
            }
        })?;
    }
    Ok(out.flush()?)
}

/// What DATA stands for.
fn read_data(argument: &str) -> Result<Vec<u8>, CliError> {
    let (name, mut reader): (&str, Box<dyn Read>) = match argument.strip_prefix('@') {
        Some(path) => {
            (path, Box::new(File::open(path).map_err(|error| CliError::file(path, error))?))
        }
        None if argument == "-" => ("stdin", Box::new(io::stdin().lock())),
        None => return Ok(argument.as_bytes().to_vec()),
    };
    let max = Limits::HARD.event_size_bytes_max;
    let mut data = Vec::new();
    reader
        .by_ref()
        .take(max as u64 + 1)
        .read_to_end(&mut data)
        .map_err(|error| CliError::file(name, error))?;
    if data.len() > max {
        return Err(CliError::Failed(format!(
            "{name} has more than {max} bytes: no event can hold it"
        )));
    }
    Ok(data)
}

fn data_of(data: Vec<u8>, content_type: &str) -> Result<new_event::Data, CliError> {
    let json = content_type.is_empty() || is_json(content_type);
    if !json && !is_text(content_type) {
        return Ok(new_event::Data::Binary(data.into()));
    }
    let text = String::from_utf8(data).map_err(|_| {
        CliError::Usage("the data is not UTF-8; say what it is with --content-type".to_owned())
    })?;
    if !json {
        return Ok(new_event::Data::Text(text));
    }
    // A file's last line end is not the data's; without it an export can nest the data as it is.
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => Ok(new_event::Data::Text(text.to_owned())),
        Err(error) => Err(CliError::Usage(format!(
            "the data is not JSON: {error}\n  got: {}\n  a JSON string has quotes of its own: \
             '\"text\"'; for other data say --content-type text/plain",
            text.chars().take(200).collect::<String>(),
        ))),
    }
}
