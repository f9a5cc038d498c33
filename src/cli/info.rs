//! `annals info`: what the server is and holds.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    CliError,
    client::ServerArgs,
    cloud_events::format_time,
    output::{self, Output, grouped},
};
use crate::wire::proto::v1::{GetInfoRequest, GetInfoResponse, Memory, Mode};

/// Show what the server is and holds
#[derive(Debug, clap::Args)]
pub struct InfoArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: InfoArgs) -> Result<(), CliError> {
    let mut admin = args.server.connect().await?.admin();
    let info = admin.get_info(GetInfoRequest {}).await?.into_inner();
    let mut out = Output::stdout();
    if args.json {
        out.json(&to_json(&info))?;
    } else {
        for (name, value) in rows(&info) {
            out.line(|palette| format!("{dim}{name:<18}{dim:#}{value}", dim = palette.dim))?;
        }
    }
    Ok(out.flush()?)
}

fn mode(info: &GetInfoResponse) -> &'static str {
    match info.mode() {
        Mode::Memory => "memory",
        Mode::Durable => "durable",
        Mode::Unspecified => "unknown",
    }
}

fn uptime(info: &GetInfoResponse) -> Duration {
    info.uptime.and_then(|uptime| uptime.try_into().ok()).unwrap_or_default()
}

fn rows(info: &GetInfoResponse) -> Vec<(&'static str, String)> {
    let mode = match info.mode() {
        Mode::Memory => "memory: events end with the server".to_owned(),
        Mode::Durable if info.sync == "always" => "durable, sync always".to_owned(),
        Mode::Durable => format!("durable, but weaker: sync {}", info.sync),
        Mode::Unspecified => "unknown".to_owned(),
    };
    let mut rows = vec![
        ("version", info.version.clone()),
        ("mode", mode),
        ("started", output::time(info.started_at.as_ref())),
        ("uptime", duration(uptime(info))),
        ("events", events(info)),
        ("streams", grouped(info.stream_count)),
        ("categories", grouped(info.category_count)),
        ("event types", grouped(info.event_type_count)),
        ("tags", grouped(info.tag_count)),
        ("subscriptions", grouped(info.subscription_count)),
    ];
    if let Some(memory) = &info.memory {
        let indexes: u64 = index_bytes(memory).iter().map(|(_, bytes)| bytes).sum();
        rows.extend([
            (
                "memory: events",
                format!("{} of {}", size(memory.event_bytes), size(memory.segment_bytes)),
            ),
            ("memory: indexes", size(indexes)),
        ]);
        if memory.file_bytes > 0 {
            rows.push(("sealed files", size(memory.file_bytes)));
        }
        if memory.resident_bytes > 0 {
            rows.push(("memory: process", size(memory.resident_bytes)));
        }
    }
    if let Some(limits) = &info.limits {
        rows.push((
            "limits",
            format!(
                "event {}, commit {} and {} events",
                size(limits.event_bytes_max),
                size(limits.commit_bytes_max),
                grouped(limits.commit_events_max.into()),
            ),
        ));
    }
    rows
}

/// What finds events, part by part.
fn index_bytes(memory: &Memory) -> [(&'static str, u64); 10] {
    [
        ("offsets", memory.offset_bytes),
        ("event ids", memory.event_id_bytes),
        ("streams", memory.stream_bytes),
        ("categories", memory.category_bytes),
        ("types", memory.type_bytes),
        ("tags", memory.tag_bytes),
        ("correlation ids", memory.correlation_bytes),
        ("causation ids", memory.causation_bytes),
        ("metadata", memory.metadata_bytes),
        ("columns", memory.column_bytes),
    ]
}

/// Every field, by the names of the protocol's JSON.
fn to_json(info: &GetInfoResponse) -> Value {
    json!({
        "version": info.version,
        "mode": mode(info),
        "sync": info.sync,
        "startedAt": info.started_at.as_ref().and_then(format_time),
        "uptimeSeconds": uptime(info).as_secs_f64(),
        "head": info.head,
        "firstPosition": info.first_position,
        "streamCount": info.stream_count,
        "categoryCount": info.category_count,
        "eventTypeCount": info.event_type_count,
        "tagCount": info.tag_count,
        "subscriptionCount": info.subscription_count,
        "memory": info.memory.as_ref().map(|memory| json!({
            "segmentBytes": memory.segment_bytes,
            "eventBytes": memory.event_bytes,
            "offsetBytes": memory.offset_bytes,
            "eventIdBytes": memory.event_id_bytes,
            "streamBytes": memory.stream_bytes,
            "categoryBytes": memory.category_bytes,
            "typeBytes": memory.type_bytes,
            "tagBytes": memory.tag_bytes,
            "correlationBytes": memory.correlation_bytes,
            "causationBytes": memory.causation_bytes,
            "metadataBytes": memory.metadata_bytes,
            "columnBytes": memory.column_bytes,
            "retentionBytes": memory.retention_bytes,
            "queryCacheBytes": memory.query_cache_bytes,
            "residentBytes": memory.resident_bytes,
            "fileBytes": memory.file_bytes,
            "unpackedBytes": memory.unpacked_bytes,
        })),
        "limits": info.limits.as_ref().map(|limits| json!({
            "eventBytesMax": limits.event_bytes_max,
            "commitBytesMax": limits.commit_bytes_max,
            "commitEventsMax": limits.commit_events_max,
            "streamNameBytesMax": limits.stream_name_bytes_max,
            "eventTypeBytesMax": limits.event_type_bytes_max,
            "metadataEntriesMax": limits.metadata_entries_max,
            "tagsMax": limits.tags_max,
        })),
    })
}

/// How many events there are, and how many there were.
fn events(info: &GetInfoResponse) -> String {
    match info.first_position {
        0 | 1 => grouped(info.head),
        first => format!("{} of {} are kept", grouped(info.head + 1 - first), grouped(info.head)),
    }
}

/// `1.5 MiB`: one digit after the point, rounded down.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes >> (10 * (unit + 1)) > 0 {
        unit += 1;
    }
    let whole = bytes >> (10 * unit);
    if unit == 0 {
        return format!("{whole} B");
    }
    let tenth = ((bytes >> (10 * (unit - 1))) & 1023) * 10 / 1024;
    format!("{whole}.{tenth} {}", UNITS[unit])
}

/// The two largest units: `3 d 4 h`.
fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_short() {
        assert_eq!([0, 1023, 1536, 4 << 20].map(size), ["0 B", "1023 B", "1.5 KiB", "4.0 MiB"]);
        let durations = [0, 61, 3600, 90_000].map(|seconds| duration(Duration::from_secs(seconds)));
        assert_eq!(durations, ["0 s", "1 min 1 s", "1 h 0 min", "1 d 1 h"]);
    }
}
