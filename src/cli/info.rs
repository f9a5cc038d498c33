//! `annals info`: what the server is and holds.

use serde_json::{Value, json};

use super::{
    CliError,
    client::ServerArgs,
    cloud_events::format_time,
    output::{self, Output, duration, duration_json, grouped, nanos, printable},
};
use crate::wire::proto::v1::{GetInfoRequest, GetInfoResponse, Memory, Mode, QueryCache};

/// The log and every index rest on these; the others are the default indexes.
const FOUNDATION: [&str; 2] = ["  offsets", "  event ids"];

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

fn uptime(info: &GetInfoResponse) -> std::time::Duration {
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
        ("uptime", duration(info.uptime.as_ref().map_or(0, nanos))),
        ("events", events(info)),
        ("streams", grouped(info.stream_count)),
        ("categories", grouped(info.category_count)),
        ("event types", grouped(info.event_type_count)),
        ("tags", grouped(info.tag_count)),
    ];
    if !info.indexed_metadata_keys.is_empty() {
        let keys: Vec<_> = info.indexed_metadata_keys.iter().map(|key| printable(key)).collect();
        rows.push(("indexed metadata", keys.join(", ")));
    }
    if let Some(memory) = &info.memory {
        rows.extend(memory_rows(memory, kept(info)));
    }
    if let Some(cache) = &info.query_cache {
        rows.push(("query cache", query_cache(cache)));
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
        let load = [
            ("connections", info.connection_count, limits.connections_max),
            ("calls", info.call_count, limits.calls_max),
            ("subscriptions", info.subscription_count, limits.subscriptions_max),
        ];
        let load = load.map(|(what, open, max)| {
            format!("{what} {} of {}", grouped(open), grouped(max.into()))
        });
        rows.push(("load", load.join(", ")));
        rows.push((
            "load: requests",
            format!(
                "at most {}, each {}; appends that wait {}, {}",
                size(limits.requests_bytes_max),
                size(limits.request_bytes_max),
                grouped(limits.append_queue_max.into()),
                size(limits.append_queue_bytes_max),
            ),
        ));
    }
    rows
}

fn memory_rows(memory: &Memory, events: u64) -> Vec<(&'static str, String)> {
    let part = |bytes: u64| match per_event(bytes, events) {
        Some(each) => format!("{:>10}  {each:>7.1} B an event", size(bytes)),
        None => format!("{:>10}", size(bytes)),
    };
    let indexes = index_bytes(memory);
    let mut rows = vec![
        (
            "memory: events",
            format!("{}  of {}", part(memory.event_bytes), size(memory.segment_bytes)),
        ),
        ("memory: indexes", part(total(&indexes))),
        ("  default ones", part(default_total(&indexes)) + "  all but offsets and event ids"),
    ];
    rows.extend(indexes.iter().map(|(name, bytes)| (*name, part(*bytes))));
    let rest = [
        ("memory: hidden", memory.retention_bytes),
        ("memory: answers", memory.query_cache_bytes),
        ("memory: unpacked", memory.unpacked_bytes),
        ("sealed files", memory.file_bytes),
        ("memory: process", memory.resident_bytes),
    ];
    // 0 says that there is none, or that it is not known.
    let rest = rest.into_iter().filter(|(_, bytes)| *bytes > 0);
    rows.extend(rest.map(|(name, bytes)| (name, format!("{:>10}", size(bytes)))));
    rows
}

fn query_cache(cache: &QueryCache) -> String {
    format!(
        "hits: {}; misses: {}; answers kept: {}; time saved: {}",
        grouped(cache.hit_count),
        grouped(cache.miss_count),
        grouped(cache.entry_count),
        duration(cache.saved_time.as_ref().map_or(0, nanos)),
    )
}

fn total(parts: &[(&str, u64)]) -> u64 {
    parts.iter().map(|(_, bytes)| bytes).sum()
}

fn default_total(parts: &[(&str, u64)]) -> u64 {
    parts.iter().filter(|(name, _)| !FOUNDATION.contains(name)).map(|(_, it)| it).sum()
}

/// Nothing where there is no event.
#[expect(clippy::cast_precision_loss, reason = "to be read, with a few digits")]
fn per_event(bytes: u64, events: u64) -> Option<f64> {
    (events > 0).then(|| bytes as f64 / events as f64)
}

/// What finds events, part by part.
fn index_bytes(memory: &Memory) -> [(&'static str, u64); 10] {
    [
        ("  offsets", memory.offset_bytes),
        ("  event ids", memory.event_id_bytes),
        ("  streams", memory.stream_bytes),
        ("  categories", memory.category_bytes),
        ("  types", memory.type_bytes),
        ("  tags", memory.tag_bytes),
        ("  correlation ids", memory.correlation_bytes),
        ("  causation ids", memory.causation_bytes),
        ("  metadata", memory.metadata_bytes),
        ("  columns", memory.column_bytes),
    ]
}

/// Every field, by the names of the protocol's JSON; and the indexes' bytes for each event, which are
/// worked out here.
fn to_json(info: &GetInfoResponse) -> Value {
    let indexes = info.memory.as_ref().map(index_bytes);
    let each = |total: fn(&[(&str, u64)]) -> u64| {
        indexes.as_ref().and_then(|parts| per_event(total(parts), kept(info)))
    };
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
        "connectionCount": info.connection_count,
        "callCount": info.call_count,
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
            "requestBytesMax": limits.request_bytes_max,
            "requestsBytesMax": limits.requests_bytes_max,
            "connectionsMax": limits.connections_max,
            "callsMax": limits.calls_max,
            "appendQueueMax": limits.append_queue_max,
            "appendQueueBytesMax": limits.append_queue_bytes_max,
            "subscriptionsMax": limits.subscriptions_max,
        })),
        "queryCache": info.query_cache.as_ref().map(|cache| json!({
            "hitCount": cache.hit_count,
            "missCount": cache.miss_count,
            "entryCount": cache.entry_count,
            "savedTime": duration_json(&cache.saved_time.unwrap_or_default()),
        })),
        "indexedMetadataKeys": info.indexed_metadata_keys,
        "indexBytesPerEvent": each(total),
        "defaultIndexBytesPerEvent": each(default_total),
    })
}

/// How many events there are, and how many there were.
fn events(info: &GetInfoResponse) -> String {
    match info.first_position {
        0 | 1 => grouped(info.head),
        _ => format!("{} of {} are kept", grouped(kept(info)), grouped(info.head)),
    }
}

/// How many events the log has not dropped; hidden ones among them.
fn kept(info: &GetInfoResponse) -> u64 {
    (info.head + 1).saturating_sub(info.first_position.max(1))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!([0, 1023, 1536, 4 << 20].map(size), ["0 B", "1023 B", "1.5 KiB", "4.0 MiB"]);
    }

    #[test]
    fn each_part_of_the_memory_has_a_row_and_indexes_their_bytes_for_an_event() {
        let memory = Memory {
            event_bytes: 1000,
            segment_bytes: 1 << 20,
            offset_bytes: 40,
            event_id_bytes: 200,
            stream_bytes: 30,
            column_bytes: 20,
            ..Memory::default()
        };
        let info = GetInfoResponse {
            head: 20,
            first_position: 11,
            memory: Some(memory),
            query_cache: Some(QueryCache { hit_count: 3, ..QueryCache::default() }),
            indexed_metadata_keys: vec!["userId".to_owned(), "a\u{1b}".to_owned()],
            ..GetInfoResponse::default()
        };
        let rows = rows(&info);
        let row = |name: &str| {
            let row = rows.iter().find(|(title, _)| *title == name);
            row.map_or_else(|| panic!("{name}"), |(_, value)| value.trim())
        };
        assert_eq!(row("memory: events"), "1000 B    100.0 B an event  of 1.0 MiB");
        assert_eq!(row("memory: indexes"), "290 B     29.0 B an event");
        assert!(row("  default ones").starts_with("50 B      5.0 B an event"));
        assert_eq!(row("  event ids"), "200 B     20.0 B an event");
        assert_eq!(row("  tags"), "0 B      0.0 B an event");
        assert_eq!(row("indexed metadata"), "userId, a\\u{1b}");
        assert_eq!(row("query cache"), "hits: 3; misses: 0; answers kept: 0; time saved: 0 s");
        // Each fits into its column.
        assert!(rows.iter().all(|(title, _)| title.len() < 18), "{rows:?}");

        let json = to_json(&info);
        assert_eq!(json["indexBytesPerEvent"], 29.0);
        assert_eq!(json["defaultIndexBytesPerEvent"], 5.0);
        assert_eq!(json["queryCache"]["hitCount"], 3);
        assert_eq!(json["queryCache"]["savedTime"], "0s");
        assert_eq!(json["indexedMetadataKeys"][0], "userId");
        let empty = GetInfoResponse { memory: Some(memory), ..GetInfoResponse::default() };
        assert!(to_json(&empty)["indexBytesPerEvent"].is_null());
    }
}
