//! `annals groups show`: one group, for people and as JSON.

use prost_types::Duration;
use serde_json::{Value, json};

use super::settings::strategy_name;
use crate::{
    cli::{
        CliError,
        cloud_events::format_time,
        filter_text::{filters_json, filters_line},
        output::{self, Output, duration, duration_json, grouped, nanos, printable},
        subscriptions::behind,
        table::{Column, Table},
    },
    wire::proto::v1::{ConsumerInfo, GetGroupResponse, GroupInfo, GroupSettings},
};

const COLUMNS: [Column; 7] = [
    Column::Text("consumer", 36),
    Column::Text("name", 36),
    Column::Text("peer", 48),
    Column::Number("in flight"),
    Column::Number("delivered"),
    Column::Number("settled"),
    Column::Text("connected", 27),
];

pub fn print(answer: &GetGroupResponse, out: &mut Output) -> Result<(), CliError> {
    let group = answer.group.clone().unwrap_or_default();
    for (name, value) in rows(&group) {
        out.line(|palette| format!("{dim}{name:<18}{dim:#}{value}", dim = palette.dim))?;
    }
    if !answer.consumers.is_empty() {
        out.line(|_| String::new())?;
    }
    let consumers = answer.consumers.iter().map(consumer).collect();
    Ok(Table::new(COLUMNS).print(consumers, out)?)
}

fn rows(group: &GroupInfo) -> Vec<(&'static str, String)> {
    let redelivered = grouped(group.redelivered_count);
    let mut rows = vec![
        ("group", printable(&group.group).into_owned()),
        ("filter", printable(&filters_line(&group.filters)).into_owned()),
        ("created", output::time(group.created_at.as_ref())),
        ("began after", group.start_after.to_string()),
        ("position", group.position.to_string()),
        ("behind", behind(group.events_behind, group.time_behind.as_ref())),
        ("in flight", grouped(group.in_flight_count)),
        ("wait for a retry", grouped(group.retry_count)),
        ("parked", grouped(group.parked_count)),
        ("delivered", format!("{}, of them again {redelivered}", grouped(group.delivered_count))),
        ("settled", grouped(group.settled_count)),
    ];
    if !group.last_error.is_empty() {
        let at = output::time(group.last_error_at.as_ref());
        rows.push(("last error", format!("{at}  {}", printable(&group.last_error))));
    }
    rows.extend(group.settings.iter().flat_map(settings_rows));
    rows
}

fn settings_rows(settings: &GroupSettings) -> [(&'static str, String); 11] {
    let time = |it: &Option<Duration>| duration(it.as_ref().map_or(0, nanos));
    let held_back = if settings.hold_back_parked_keys { "yes" } else { "no" };
    [
        ("strategy", strategy_name(settings.strategy()).to_owned()),
        ("message timeout", time(&settings.message_timeout)),
        ("retries", grouped(settings.retries_max.unwrap_or_default().into())),
        ("retry delay", time(&settings.retry_delay)),
        ("  at most", time(&settings.retry_delay_max)),
        ("in flight, each", format!("at most {}", grouped(settings.in_flight_max.into()))),
        ("parked keys wait", held_back.to_owned()),
        ("may be parked", grouped(settings.parked_max.into())),
        ("window", grouped(settings.window_max.into())),
        ("checkpoint every", time(&settings.checkpoint_interval)),
        ("consumers", format!("at most {}", grouped(settings.consumers_max.into()))),
    ]
}

fn consumer(consumer: &ConsumerInfo) -> [String; 7] {
    let paused = if consumer.paused { " (paused)" } else { "" };
    let (in_flight, most) = (consumer.in_flight_count, consumer.in_flight_max);
    [
        consumer.consumer_id.clone(),
        consumer.name.clone(),
        consumer.peer.clone(),
        format!("{} of {}{paused}", grouped(in_flight), grouped(most.into())),
        grouped(consumer.delivered_count),
        grouped(consumer.settled_count),
        output::time(consumer.connected_at.as_ref()),
    ]
}

/// Every field, by the names of the protocol's JSON.
pub fn to_json(answer: &GetGroupResponse) -> Value {
    json!({
        "group": answer.group.as_ref().map(group_json),
        "consumers": answer.consumers.iter().map(consumer_json).collect::<Vec<_>>(),
    })
}

pub fn group_json(group: &GroupInfo) -> Value {
    json!({
        "group": group.group,
        "settings": group.settings.as_ref().map(settings_json),
        "filters": filters_json(&group.filters),
        "createdAt": group.created_at.as_ref().and_then(format_time),
        "startAfter": group.start_after,
        "position": group.position,
        "eventsBehind": group.events_behind,
        "timeBehind": group.time_behind.as_ref().map(duration_json),
        "inFlightCount": group.in_flight_count,
        "retryCount": group.retry_count,
        "parkedCount": group.parked_count,
        "consumerCount": group.consumer_count,
        "deliveredCount": group.delivered_count,
        "redeliveredCount": group.redelivered_count,
        "settledCount": group.settled_count,
        "lastError": group.last_error,
        "lastErrorAt": group.last_error_at.as_ref().and_then(format_time),
    })
}

fn settings_json(settings: &GroupSettings) -> Value {
    let time = |it: &Option<Duration>| it.as_ref().map(duration_json);
    json!({
        "strategy": settings.strategy().as_str_name(),
        "messageTimeout": time(&settings.message_timeout),
        "retriesMax": settings.retries_max,
        "retryDelay": time(&settings.retry_delay),
        "retryDelayMax": time(&settings.retry_delay_max),
        "inFlightMax": settings.in_flight_max,
        "holdBackParkedKeys": settings.hold_back_parked_keys,
        "parkedMax": settings.parked_max,
        "windowMax": settings.window_max,
        "checkpointInterval": time(&settings.checkpoint_interval),
        "consumersMax": settings.consumers_max,
    })
}

fn consumer_json(consumer: &ConsumerInfo) -> Value {
    json!({
        "consumerId": consumer.consumer_id,
        "name": consumer.name,
        "peer": consumer.peer,
        "userAgent": consumer.user_agent,
        "inFlightCount": consumer.in_flight_count,
        "inFlightMax": consumer.in_flight_max,
        "deliveredCount": consumer.delivered_count,
        "settledCount": consumer.settled_count,
        "paused": consumer.paused,
        "connectedAt": consumer.connected_at.as_ref().and_then(format_time),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_title_fits_into_its_column() {
        let group = GroupInfo {
            settings: Some(GroupSettings::default()),
            last_error: "no room\n".to_owned(),
            ..GroupInfo::default()
        };
        let rows = rows(&group);
        assert!(rows.iter().all(|(title, _)| title.len() < 18), "{rows:?}");
        assert!(rows.contains(&("last error", "-  no room ".to_owned())), "{rows:?}");
    }
}
