//! A real export of another system: every line maps, and comes back.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use annals::{
    cli::cloud_events,
    wire::proto::v1::{RecordedEvent, new_event, recorded_event},
};
use flate2::read::MultiGzDecoder;
use serde_json::Value;

/// 8577 events of a municipality's permits, beside the project, not in it.
pub(super) const PERMITS: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data/permits.ndjson.gz");

#[test]
fn every_line_of_the_permits_maps_and_comes_back() {
    if !Path::new(PERMITS).exists() {
        eprintln!("not run: there is no {PERMITS}");
        return;
    }
    let mut events = 0;
    for line in BufReader::new(MultiGzDecoder::new(File::open(PERMITS).unwrap())).lines() {
        let line = line.unwrap();
        let (stream, event) = cloud_events::parse(&line).unwrap();
        let Some(new_event::Data::Text(data)) = event.data else { panic!("{line}") };
        assert!(line.contains(&format!("\"data\":{data}")), "byte for byte: {line}");

        let exported = cloud_events::format(&RecordedEvent {
            id: event.id,
            stream,
            r#type: event.r#type,
            data: Some(recorded_event::Data::Text(data)),
            content_type: event.content_type,
            correlation_id: event.correlation_id,
            causation_id: event.causation_id,
            metadata: event.metadata,
            tags: event.tags,
            occurred_at: event.occurred_at,
            ..RecordedEvent::default()
        });
        assert_eq!(attributes(&exported), attributes(&line));
        events += 1;
    }
    assert_eq!(events, 8577);
}

/// The line without order, its time as an instant.
pub(super) fn attributes(line: &str) -> Value {
    let mut attributes: Value = serde_json::from_str(line).unwrap();
    let time = chrono::DateTime::parse_from_rfc3339(attributes["time"].as_str().unwrap()).unwrap();
    attributes["time"] = time.timestamp_nanos_opt().into();
    attributes
}
