//! `annals subscriptions`: who listens, where, how far behind.

use serde_json::{Value, json};

use super::{
    CliError,
    client::ServerArgs,
    cloud_events::format_time,
    filter_text::{filters_json, filters_line},
    output::{self, Output, duration, duration_json, grouped, nanos, printable},
    table::{Column, Table},
};
use crate::wire::proto::v1::{
    ListSubscriptionsRequest, SubscriptionInfo, SubscriptionKind, WatchSubscriptionsRequest,
    WatchSubscriptionsResponse,
};

const PAGE_SIZE_MAX: u32 = 1000;

const COLUMNS: [Column; 9] = [
    Column::Text("kind", 12),
    Column::Text("id", 36),
    Column::Text("who", 48),
    Column::Number("position"),
    Column::Number("behind"),
    Column::Number("rate"),
    Column::Text("state", 11),
    Column::Text("filter", 48),
    Column::Text("last error", 80),
];

/// List who listens: subscriptions that are open, and consumer groups
///
/// Groups first. Behind: events that match and were not sent yet, of a group not settled, and how long
/// ago the first of them was recorded.
#[derive(Debug, clap::Args)]
pub struct SubscriptionsArgs {
    /// Go on, and print the rows that change
    #[arg(long)]
    watch: bool,
    /// Print one JSON object a line; with --watch one a change
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: SubscriptionsArgs) -> Result<(), CliError> {
    if args.watch { watch(args).await } else { list(args).await }
}

async fn list(args: SubscriptionsArgs) -> Result<(), CliError> {
    let mut client = args.server.connect().await?.subscriptions();
    let mut out = Output::stdout();
    let mut rows = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListSubscriptionsRequest { page_size: PAGE_SIZE_MAX, page_token };
        let page = client.list_subscriptions(request).await?.into_inner();
        for info in &page.subscriptions {
            if args.json {
                out.json(&to_json(info))?;
            } else {
                rows.push(row(info));
            }
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            Table::new(COLUMNS).print(rows, &mut out)?;
            return Ok(out.flush()?);
        }
    }
}

async fn watch(args: SubscriptionsArgs) -> Result<(), CliError> {
    let mut client = args.server.connect().await?.subscriptions();
    let request = WatchSubscriptionsRequest { interval: None };
    let mut changes = client.watch_subscriptions(request).await?.into_inner();
    let mut out = Output::stdout();
    let mut table = Table::new(COLUMNS);
    let mut titled = false;
    let watch = async {
        while let Some(change) = changes.message().await? {
            if args.json {
                out.json(&change_json(&change))?;
            } else {
                let rows: Vec<_> = change.subscriptions.iter().map(row).collect();
                if titled {
                    table.print_more(rows, &mut out)?;
                } else {
                    titled = !rows.is_empty();
                    table.print(rows, &mut out)?;
                }
                for line in ended(&change) {
                    out.line(|palette| format!("{dim}{line}{dim:#}", dim = palette.dim))?;
                }
            }
            out.flush()?;
        }
        Err(CliError::ConnectionLost("the server ended the watch".to_owned()))
    };
    tokio::select! {
        result = watch => result,
        () = output::stdout_closed() => Ok(()),
    }
}

fn ended(change: &WatchSubscriptionsResponse) -> impl Iterator<Item = String> {
    let line = |id: &String, what: &str| format!("{} {what}", printable(id));
    let ids = change.ended_subscription_ids.iter().map(move |id| line(id, "ended"));
    ids.chain(change.deleted_groups.iter().map(move |id| line(id, "was deleted")))
}

fn row(info: &SubscriptionInfo) -> [String; 9] {
    let kind = match info.kind() {
        SubscriptionKind::Unspecified => "unknown",
        SubscriptionKind::Subscription => "subscription",
        SubscriptionKind::Interactive => "interactive",
        SubscriptionKind::Group => "group",
    };
    let who = match (info.kind(), info.name.as_str()) {
        (SubscriptionKind::Group, _) => consumers(info.consumer_count),
        (_, "") => info.peer.clone(),
        (_, name) => format!("{name} {}", info.peer),
    };
    [
        kind.to_owned(),
        info.subscription_id.clone(),
        who,
        info.position.to_string(),
        behind(info.events_behind, info.time_behind.as_ref()),
        format!("{:.1}/s", info.events_per_second),
        if info.live { "live" } else { "catching up" }.to_owned(),
        filters_line(&info.filters),
        info.last_error.clone(),
    ]
}

fn consumers(count: u64) -> String {
    match count {
        1 => "1 consumer".to_owned(),
        count => format!("{} consumers", grouped(count)),
    }
}

/// `12, 1 min 3 s`: how many events, and how long ago the first of them was recorded.
pub fn behind(events: u64, time: Option<&prost_types::Duration>) -> String {
    match time {
        Some(time) => format!("{}, {}", grouped(events), duration(nanos(time))),
        None => grouped(events),
    }
}

/// Every field, by the names of the protocol's JSON.
fn to_json(info: &SubscriptionInfo) -> Value {
    let mut json = json!({
        "subscriptionId": info.subscription_id,
        "kind": info.kind().as_str_name(),
        "name": info.name,
        "peer": info.peer,
        "userAgent": info.user_agent,
        "filters": filters_json(&info.filters),
        "startAfter": info.start_after,
        "position": info.position,
        "eventsBehind": info.events_behind,
        "timeBehind": info.time_behind.as_ref().map(duration_json),
        "eventCount": info.event_count,
        "eventsPerSecond": info.events_per_second,
        "live": info.live,
        "openedAt": info.opened_at.as_ref().and_then(format_time),
    });
    if info.kind() == SubscriptionKind::Group {
        json["inFlightCount"] = info.in_flight_count.into();
        json["parkedCount"] = info.parked_count.into();
        json["consumerCount"] = info.consumer_count.into();
        json["lastError"] = info.last_error.as_str().into();
        json["lastErrorAt"] = info.last_error_at.as_ref().and_then(format_time).into();
    }
    json
}

fn change_json(change: &WatchSubscriptionsResponse) -> Value {
    json!({
        "subscriptions": change.subscriptions.iter().map(to_json).collect::<Vec<_>>(),
        "endedSubscriptionIds": change.ended_subscription_ids,
        "deletedGroups": change.deleted_groups,
    })
}
