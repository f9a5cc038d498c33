//! Subscriptions: proto ↔ core, as in `convert.rs`.

use std::{collections::BTreeMap, time::Duration};

use super::{
    block::EventBlock,
    convert::{
        At, Check, InvalidRequest, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, TEXT_BYTES_MAX, timestamp,
    },
    filter::{self, FILTERS_MAX, VALUES_MAX},
    proto::v1::{
        self, CaughtUp, Checkpoint, FellBehind, FiltersChanged, Heartbeat,
        ListSubscriptionsRequest, ListSubscriptionsResponse, SubscribeInteractiveResponse,
        SubscribeResponse, SubscriptionConfirmed, SubscriptionInfo, SubscriptionKind,
        WatchSubscriptionsRequest, WatchSubscriptionsResponse,
        subscribe_interactive_response as interactive, subscribe_request, subscribe_response,
    },
};
use crate::{
    core::{filter::Clause, limits::Limits, position::Position},
    service::{
        scan::BLOCK_SIZE_BYTES_MAX,
        subscription::{
            Changes, GroupFacts, InteractiveOptions, Kind, Listing, Message, PageAfter, Row,
            RowsRequest, Start, SubscribeOptions, Told,
        },
    },
};

const BATCH_SIZE_DEFAULT: u32 = 1000;
const BATCH_SIZE_MAX: u32 = 10_000;
/// A block.
const BATCH_SIZE_BYTES_DEFAULT: u32 = 120 << 10;
const _: () = assert!(BATCH_SIZE_BYTES_DEFAULT as usize == BLOCK_SIZE_BYTES_MAX);
const BATCH_SIZE_BYTES_MIN: u32 = 1 << 10;
const BATCH_SIZE_BYTES_MAX: u32 = 1 << 20;
const BATCH_WAIT_MAX: Duration = Duration::from_secs(10);
const CHECKPOINT_INTERVAL_DEFAULT: u32 = 10_000;
const CHECKPOINT_INTERVAL_MAX: u32 = 1_000_000;
/// Of heartbeats, and of checkpoints by time.
const QUIET_DEFAULT: Duration = Duration::from_secs(10);
const QUIET: (Duration, Duration) = (Duration::from_millis(100), Duration::from_hours(1));
const PERMITS_MAX: u32 = 1_000_000;
/// What a page's token begins with, before a group's name or a subscription's id.
const TOKEN_OF_GROUP: &str = "group/";
const TOKEN_OF_SUBSCRIPTION: &str = "subscription/";

/// What to follow, and what the subscriber calls itself.
pub fn subscribe(
    request: v1::SubscribeRequest,
    limits: &Limits,
) -> Result<(SubscribeOptions, String), InvalidRequest> {
    let mut check = Check::default();
    let options = check.subscribe(&At::Root, request, limits);
    check.finish(options)
}

/// The same of an interactive subscription. The first message must be `start`.
pub fn start(
    message: Option<v1::SubscribeInteractiveStart>,
    limits: &Limits,
) -> Result<(InteractiveOptions, String), InvalidRequest> {
    let Some(v1::SubscribeInteractiveStart { subscribe, pull, without_filters }) = message else {
        return Err(InvalidRequest::one("start", "must be the first message"));
    };
    let mut check = Check::default();
    let root = At::Root;
    let (start, request) = (root.field("start"), subscribe.unwrap_or_default());
    let checked = check.subscribe(&start.field("subscribe"), request, limits);
    check.finish(
        checked.map(|(subscribe, name)| {
            (InteractiveOptions { subscribe, pull, without_filters }, name)
        }),
    )
}

/// How many values each filter of an interactive subscription has, by its name.
pub type Sizes = BTreeMap<String, usize>;

/// A filter to add beside those of these sizes, among which it is counted.
pub fn add_filter(
    message: v1::AddFilter,
    sizes: &mut Sizes,
    limits: &Limits,
) -> Result<(String, Clause), InvalidRequest> {
    let v1::AddFilter { name, filter } = message;
    let mut check = Check::default();
    let root = At::Root;
    let add_filter = root.field("add_filter");
    check.name(add_filter.field("name"), &name, TEXT_BYTES_MAX);
    let (at, filter) = (add_filter.field("filter"), filter.unwrap_or_default());
    if filter == v1::Filter::default() {
        check.wrong(at, "names nothing, which would be every event");
    }
    let size = filter::size(&filter);
    let others = sizes.iter().filter(|(other, _)| **other != name);
    let (count, values) = others.fold((1, size), |(count, sum), (_, size)| (count + 1, sum + size));
    if count > FILTERS_MAX {
        check.wrong(at, format_args!("would be one of more than {FILTERS_MAX} filters"));
    }
    if values > VALUES_MAX {
        check.wrong(at, format_args!("would make more than {VALUES_MAX} values of all filters"));
        return check.finish(None);
    }
    let clause = check.clause(&at, filter, limits);
    let added = check.finish(Some((name, clause)))?;
    sizes.insert(added.0.clone(), size);
    Ok(added)
}

/// How many events are permitted.
pub fn permits(message: v1::Permits) -> Result<u32, InvalidRequest> {
    let v1::Permits { events } = message;
    if (1..=PERMITS_MAX).contains(&events) {
        return Ok(events);
    }
    let what = format!("is {events}, not between 1 and {PERMITS_MAX}");
    Err(InvalidRequest::one("permits.events", what))
}

/// Which page.
pub fn page(request: ListSubscriptionsRequest) -> Result<RowsRequest, InvalidRequest> {
    let ListSubscriptionsRequest { page_size, page_token } = request;
    let mut check = Check::default();
    let root = At::Root;
    let size = check.number(root.field("page_size"), page_size, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX);
    let after = if let Some(name) = page_token.strip_prefix(TOKEN_OF_GROUP) {
        Some(PageAfter::Group(name.to_owned()))
    } else {
        let id = page_token.strip_prefix(TOKEN_OF_SUBSCRIPTION).and_then(|id| id.parse().ok());
        id.map(PageAfter::Subscription)
    };
    if after.is_none() && !page_token.is_empty() {
        check.wrong(root.field("page_token"), "is not of a page of this list");
    }
    check.finish(Some(RowsRequest { after, size: size as usize }))
}

/// How often to tell changes.
pub fn watch(request: WatchSubscriptionsRequest) -> Result<Duration, InvalidRequest> {
    let WatchSubscriptionsRequest { interval } = request;
    let mut check = Check::default();
    let interval = check.interval(At::Root.field("interval"), interval);
    check.finish(Some(interval))
}

impl Check {
    fn subscribe(
        &mut self,
        at: &At<'_>,
        request: v1::SubscribeRequest,
        limits: &Limits,
    ) -> Option<(SubscribeOptions, String)> {
        let v1::SubscribeRequest {
            start,
            filters,
            batch_size,
            batch_size_bytes,
            batch_wait_max,
            checkpoint_interval,
            checkpoint_wait_max,
            heartbeat_interval,
            name,
        } = request;
        let start = self.start(at, start);
        let filter = self.filter(at, filters, limits);
        let field = at.field("batch_size");
        let batch_size = self.number(field, batch_size, BATCH_SIZE_DEFAULT, BATCH_SIZE_MAX);
        let field = at.field("batch_size_bytes");
        if (1..BATCH_SIZE_BYTES_MIN).contains(&batch_size_bytes) {
            let min = BATCH_SIZE_BYTES_MIN;
            self.wrong(field, format_args!("is {batch_size_bytes}, at least {min} is needed"));
        }
        let (default, max) = (BATCH_SIZE_BYTES_DEFAULT, BATCH_SIZE_BYTES_MAX);
        let batch_size_bytes = self.number(field, batch_size_bytes, default, max);
        let bounds = (Duration::ZERO, BATCH_WAIT_MAX);
        let field = at.field("batch_wait_max");
        let batch_wait_max = self.duration(field, batch_wait_max, Duration::ZERO, bounds);
        let (default, max) = (CHECKPOINT_INTERVAL_DEFAULT, CHECKPOINT_INTERVAL_MAX);
        let field = at.field("checkpoint_interval");
        let checkpoint_interval = self.number(field, checkpoint_interval, default, max);
        let checkpoint_wait_max = self.quiet(at.field("checkpoint_wait_max"), checkpoint_wait_max);
        let heartbeat_interval = self.quiet(at.field("heartbeat_interval"), heartbeat_interval);
        self.text(at.field("name"), &name, TEXT_BYTES_MAX);
        let options = SubscribeOptions {
            start: start?,
            filter,
            batch_size: u64::from(batch_size),
            batch_size_bytes: batch_size_bytes as usize,
            batch_wait_max,
            checkpoint_interval: u64::from(checkpoint_interval),
            checkpoint_wait_max,
            heartbeat_interval,
        };
        Some((options, name))
    }

    fn start(&mut self, at: &At<'_>, start: Option<subscribe_request::Start>) -> Option<Start> {
        use subscribe_request::Start as Sent;
        match start {
            None => Some(Start::After(Position::ZERO)),
            Some(Sent::After(after)) => Some(Start::After(Position::new(after))),
            Some(Sent::FromNow(())) => Some(Start::Now),
            Some(Sent::FromTime(v1::StartTime { at: moment, time_base })) => {
                let field = at.field("from_time");
                let base = self.base(field.field("time_base"), time_base);
                let Some(moment) = moment else {
                    self.wrong(field.field("at"), "must be set");
                    return None;
                };
                Some(Start::From(self.timestamp(field.field("at"), moment)?, base))
            }
        }
    }

    /// After how long a quiet something is sent.
    pub(super) fn quiet(&mut self, at: At<'_>, sent: Option<prost_types::Duration>) -> Duration {
        self.duration(at, sent, QUIET_DEFAULT, QUIET)
    }
}

impl From<Message> for SubscribeResponse {
    fn from(message: Message) -> Self {
        use subscribe_response::Message as Sent;
        let mut response = Self::default();
        response.message = Some(match message {
            Message::Confirmed { id, after, head } => Sent::Confirmed(SubscriptionConfirmed {
                subscription_id: id.to_string(),
                after: after.get(),
                head: head.get(),
            }),
            Message::Events { block, pending, replaying } => {
                (response.pending, response.replaying) = (pending, replaying);
                Sent::Events(EventBlock::from_encoded(block.bytes))
            }
            Message::Checkpoint(position) => {
                Sent::Checkpoint(Checkpoint { position: position.get() })
            }
            Message::CaughtUp(position) => Sent::CaughtUp(CaughtUp { position: position.get() }),
            Message::FellBehind { position, head } => {
                Sent::FellBehind(FellBehind { position: position.get(), head: head.get() })
            }
            Message::Heartbeat { position, sent_at } => Sent::Heartbeat(Heartbeat {
                position: position.get(),
                sent_at: Some(timestamp(sent_at)),
            }),
        });
        response
    }
}

impl From<Told> for SubscribeInteractiveResponse {
    fn from(told: Told) -> Self {
        use interactive::Message as Sent;
        use subscribe_response::Message as Same;
        let message = match told {
            Told::Message(message) => message,
            Told::FiltersChanged { position, names } => {
                let changed = FiltersChanged { position: position.get(), names };
                return Self { message: Some(Sent::FiltersChanged(changed)), ..Self::default() };
            }
        };
        let SubscribeResponse { message, pending, replaying } = message.into();
        let message = message.map(|message| match message {
            Same::Confirmed(confirmed) => Sent::Confirmed(confirmed),
            Same::Events(events) => Sent::Events(events),
            Same::Checkpoint(checkpoint) => Sent::Checkpoint(checkpoint),
            Same::CaughtUp(caught_up) => Sent::CaughtUp(caught_up),
            Same::FellBehind(fell_behind) => Sent::FellBehind(fell_behind),
            Same::Heartbeat(heartbeat) => Sent::Heartbeat(heartbeat),
        });
        Self { message, pending, replaying }
    }
}

impl From<Listing> for ListSubscriptionsResponse {
    fn from(Listing { rows, next }: Listing) -> Self {
        let token = |after| match after {
            PageAfter::Group(name) => format!("{TOKEN_OF_GROUP}{name}"),
            PageAfter::Subscription(id) => format!("{TOKEN_OF_SUBSCRIPTION}{id}"),
        };
        let subscriptions = rows.into_iter().map(SubscriptionInfo::from).collect();
        Self { subscriptions, next_page_token: next.map(token).unwrap_or_default() }
    }
}

impl From<Changes> for WatchSubscriptionsResponse {
    fn from(Changes { rows, ended, deleted_groups }: Changes) -> Self {
        let subscriptions = rows.into_iter().map(SubscriptionInfo::from).collect();
        Self { subscriptions, ended_subscription_ids: ended, deleted_groups }
    }
}

impl From<Row> for SubscriptionInfo {
    fn from(row: Row) -> Self {
        let Row {
            id,
            kind,
            caller,
            filter,
            start_after,
            position,
            events_behind,
            time_behind,
            events,
            events_per_second,
            live,
            opened_at,
            group,
        } = row;
        let kind = match kind {
            Kind::Group => SubscriptionKind::Group,
            Kind::Subscription => SubscriptionKind::Subscription,
            Kind::Interactive => SubscriptionKind::Interactive,
        };
        let GroupFacts { in_flight, parked, consumers, last_error } = group.unwrap_or_default();
        let (last_error, last_error_at) = last_error.unzip();
        Self {
            subscription_id: id,
            kind: kind.into(),
            name: caller.name,
            peer: caller.peer,
            user_agent: caller.user_agent,
            filters: filter.map(|filter| filter::told(&filter)).unwrap_or_default(),
            start_after: start_after.get(),
            position: position.get(),
            events_behind,
            time_behind: time_behind.and_then(|time| time.try_into().ok()),
            event_count: events,
            events_per_second,
            live,
            opened_at: Some(timestamp(opened_at)),
            in_flight_count: in_flight,
            parked_count: parked,
            consumer_count: consumers,
            last_error: last_error.unwrap_or_default(),
            last_error_at: last_error_at.map(timestamp),
        }
    }
}
