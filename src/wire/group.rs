//! Consumer groups: proto ↔ service, and the part of `annals.v1.SubscriptionService` that is about them.

use std::time::Duration;

use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Answers,
    block::EventBlock,
    caller, consume,
    convert::{self, At, Check, InvalidRequest, TEXT_BYTES_MAX, timestamp},
    filter,
    proto::v1::{self, create_group_request::Start, set_group_position_request::Target as Sent},
};
use crate::{
    core::{filter::Filter, limits::Limits, log::format, name::Name, position::Position},
    service::{
        group::{
            ConsumerFacts, Delivered, GroupFacts, GroupService, ParkedPage, Settlement, Target,
            Which,
            journal::Begin,
            settings::{Settings, Strategy},
            window::Outcome,
        },
        subscription::Caller,
    },
};

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const POSITIONS_MAX: usize = 10_000;
const NACKS_MAX: usize = 100;
const REASON_BYTES_MAX: usize = 1024;
const RETRIES_MAX: u32 = 1000;
const COUNT_MAX: u32 = 10_000;
const PARKED_MAX: u32 = 100_000;
const WAIT_MAX: Duration = Duration::from_mins(1);

/// The calls about groups.
pub struct Groups {
    pub service: GroupService,
    pub limits: Limits,
}

impl Groups {
    pub async fn create(
        &self,
        request: v1::CreateGroupRequest,
    ) -> Result<v1::CreateGroupResponse, Status> {
        let (name, begin, filter, settings) = created(request, &self.limits)?;
        let facts = self.service.create(name, begin, filter, settings).await?;
        Ok(v1::CreateGroupResponse { group: Some(facts.into()) })
    }

    pub async fn update(
        &self,
        request: v1::UpdateGroupRequest,
    ) -> Result<v1::UpdateGroupResponse, Status> {
        let (name, settings, filter) = updated(request, &self.limits)?;
        let facts = self.service.update(&name, settings, filter).await?;
        Ok(v1::UpdateGroupResponse { group: Some(facts.into()) })
    }

    pub async fn delete(
        &self,
        request: v1::DeleteGroupRequest,
    ) -> Result<v1::DeleteGroupResponse, Status> {
        self.service.delete(&group(&request.group)?).await?;
        Ok(v1::DeleteGroupResponse {})
    }

    pub fn get(&self, request: &v1::GetGroupRequest) -> Result<v1::GetGroupResponse, Status> {
        let (facts, consumers) = self.service.get(&group(&request.group)?)?;
        let consumers = consumers.into_iter().map(Into::into).collect();
        Ok(v1::GetGroupResponse { group: Some(facts.into()), consumers })
    }

    pub fn list(&self, request: v1::ListGroupsRequest) -> Result<v1::ListGroupsResponse, Status> {
        let v1::ListGroupsRequest { page_size, page_token } = request;
        let page = convert::page(String::new(), page_size, page_token)?;
        let (groups, more) = self.service.list(&page.after, page.size);
        let last = groups.last().filter(|_| more);
        let next_page_token = last.map(|group| group.name.to_string()).unwrap_or_default();
        let groups = groups.into_iter().map(Into::into).collect();
        Ok(v1::ListGroupsResponse { groups, next_page_token })
    }

    pub async fn set_position(
        &self,
        request: v1::SetGroupPositionRequest,
    ) -> Result<v1::SetGroupPositionResponse, Status> {
        let (name, expected, target) = moved(request)?;
        let position = self.service.set_position(&name, expected, target).await?;
        Ok(v1::SetGroupPositionResponse { position: position.get() })
    }

    pub async fn consume(
        &self,
        request: Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Answers<v1::ConsumeResponse>>, Status> {
        consume::begin(&self.service, request).await
    }

    pub async fn poll(
        &self,
        request: Request<v1::PollRequest>,
    ) -> Result<v1::PollResponse, Status> {
        let caller = caller::of(&request);
        let Poll { group, consumer, events_max, wait_max } = poll(request.into_inner())?;
        let caller = Caller { name: consumer.to_string(), ..caller };
        let polled = self.service.poll(&group, caller, events_max, wait_max);
        let (delivered, before) = polled.await?;
        let settle_before = (!delivered.deliveries.is_empty()).then(|| timestamp(before));
        Ok(v1::PollResponse { events: Some(delivered.into()), settle_before })
    }

    pub fn settle(&self, request: v1::SettleRequest) -> Result<v1::SettleResponse, Status> {
        let (group, consumer, settlements) = settle(request)?;
        let not_in_flight = self.service.settle(&group, consumer.as_str(), &settlements)?;
        Ok(v1::SettleResponse { not_in_flight_positions: numbers(&not_in_flight) })
    }

    pub fn list_parked(
        &self,
        request: v1::ListParkedRequest,
    ) -> Result<v1::ListParkedResponse, Status> {
        let v1::ListParkedRequest { group: name, after, page_size } = request;
        let mut check = Check::default();
        let name = check.group(At::Root.field("group"), &name);
        let page_size = check.page_size(At::Root.field("page_size"), page_size);
        let name = check.finish(name)?;
        let page = self.service.list_parked(&name, Position::new(after), page_size)?;
        Ok(page.into())
    }

    pub async fn replay_parked(
        &self,
        request: v1::ReplayParkedRequest,
    ) -> Result<v1::ReplayParkedResponse, Status> {
        let v1::ReplayParkedRequest { group: name, positions, events_max } = request;
        let mut check = Check::default();
        let name = check.group(At::Root.field("group"), &name);
        let positions = check.positions(At::Root.field("positions"), &positions);
        if !positions.is_empty() && events_max > 0 {
            check.wrong(At::Root.field("events_max"), "must be 0 where positions are named");
        }
        let name = check.finish(name)?;
        let which = match events_max {
            0 if positions.is_empty() => Which::First(usize::MAX),
            0 => Which::These(positions),
            max => Which::First(usize_of(max)),
        };
        let count = self.service.replay_parked(&name, which).await?;
        Ok(v1::ReplayParkedResponse { event_count: count as u64 })
    }

    pub async fn drop_parked(
        &self,
        request: v1::DropParkedRequest,
    ) -> Result<v1::DropParkedResponse, Status> {
        let v1::DropParkedRequest { group: name, positions, all } = request;
        let mut check = Check::default();
        let name = check.group(At::Root.field("group"), &name);
        let none = positions.is_empty();
        let positions = check.positions(At::Root.field("positions"), &positions);
        match (none, all) {
            (true, false) => {
                check
                    .wrong(At::Root.field("positions"), "must not be empty where `all` is not set");
            }
            (false, true) => {
                check.wrong(At::Root.field("all"), "must not be set where positions are named");
            }
            _ => {}
        }
        let name = check.finish(name)?;
        let which = if all { Which::First(usize::MAX) } else { Which::These(positions) };
        let count = self.service.drop_parked(&name, which).await?;
        Ok(v1::DropParkedResponse { event_count: count as u64 })
    }
}

fn usize_of(number: u32) -> usize {
    usize::try_from(number).expect("pointers have 64 bits")
}

fn numbers(positions: &[Position]) -> Vec<u64> {
    positions.iter().map(|position| position.get()).collect()
}

/// A group's name by itself.
fn group(name: &str) -> Result<Name, InvalidRequest> {
    let mut check = Check::default();
    let name = check.group(At::Root.field("group"), name);
    check.finish(name)
}

impl Check {
    pub(super) fn group(&mut self, at: At<'_>, name: &str) -> Option<Name> {
        self.name(at, name, TEXT_BYTES_MAX)
    }

    fn positions(&mut self, at: At<'_>, positions: &[u64]) -> Vec<Position> {
        if !self.at_most(at, positions.len(), POSITIONS_MAX, "entries") {
            return Vec::new();
        }
        if let Some(index) = positions.iter().position(|position| *position == 0) {
            self.wrong(at.index(index), "must be at least 1");
        }
        positions.iter().copied().map(Position::new).collect()
    }

    fn page_size(&mut self, at: At<'_>, size: u32) -> usize {
        usize_of(self.number(at, size, convert::PAGE_SIZE_DEFAULT, convert::PAGE_SIZE_MAX))
    }

    fn settings(&mut self, at: &At<'_>, sent: Option<v1::GroupSettings>) -> Settings {
        let default = Settings::default();
        let Some(sent) = sent else { return default };
        let v1::GroupSettings {
            strategy,
            message_timeout,
            retries_max,
            retry_delay,
            retry_delay_max,
            in_flight_max,
            hold_back_parked_keys,
            parked_max,
            window_max,
            checkpoint_interval,
            consumers_max,
        } = sent;
        let field = at.field("strategy");
        let known = v1::GroupStrategy::try_from(strategy);
        let strategy = match known {
            Ok(v1::GroupStrategy::Unspecified | v1::GroupStrategy::RoundRobin) => {
                Strategy::RoundRobin
            }
            Ok(v1::GroupStrategy::DispatchToOne) => Strategy::DispatchToOne,
            Ok(v1::GroupStrategy::OrderedByStream) => Strategy::OrderedByStream,
            Ok(v1::GroupStrategy::OrderedByCorrelation) => Strategy::OrderedByCorrelation,
            Err(_) => {
                self.wrong(field, format_args!("is {strategy}, not a strategy"));
                default.strategy
            }
        };
        if hold_back_parked_keys && known.is_ok() && !strategy.is_ordered() {
            let field = at.field("hold_back_parked_keys");
            self.wrong(field, "must not be set where the strategy does not order events");
        }
        let tenth = 100 * MILLISECOND;
        let field = at.field("message_timeout");
        let message_timeout =
            self.duration(field, message_timeout, default.message_timeout, (tenth, HOUR));
        let retries = retries_max.unwrap_or(default.retries_max);
        if retries > RETRIES_MAX {
            let field = at.field("retries_max");
            self.wrong(field, format_args!("is {retries}, at most {RETRIES_MAX} is allowed"));
        }
        let zero = Duration::ZERO;
        let field = at.field("retry_delay");
        let retry_delay = self.duration(field, retry_delay, default.retry_delay, (zero, HOUR));
        let field = at.field("retry_delay_max");
        let retry_delay_max =
            self.duration(field, retry_delay_max, default.retry_delay_max, (zero, DAY));
        let field = at.field("checkpoint_interval");
        let bounds = (10 * MILLISECOND, HOUR);
        let checkpoint_interval =
            self.duration(field, checkpoint_interval, default.checkpoint_interval, bounds);
        let mut count = |name, sent, default: usize, max| {
            let default = u32::try_from(default).expect("a small number");
            usize_of(self.number(at.field(name), sent, default, max))
        };
        Settings {
            strategy,
            message_timeout,
            retries_max: retries,
            retry_delay,
            retry_delay_max,
            in_flight_max: count("in_flight_max", in_flight_max, default.in_flight_max, COUNT_MAX),
            hold_back_parked_keys,
            parked_max: count("parked_max", parked_max, default.parked_max, PARKED_MAX),
            window_max: count("window_max", window_max, default.window_max, COUNT_MAX),
            checkpoint_interval,
            consumers_max: count("consumers_max", consumers_max, default.consumers_max, COUNT_MAX),
        }
    }

    /// What is handled.
    pub(super) fn ack(&mut self, at: &At<'_>, ack: &v1::Ack) -> Settlement {
        let v1::Ack { positions, up_to } = ack;
        let field = at.field("positions");
        if positions.is_empty() && *up_to == 0 {
            self.wrong(field, "must not be empty where `up_to` is not set");
        }
        let positions = self.positions(field, positions);
        Settlement { positions, up_to: Position::new(*up_to), outcome: Outcome::Settled }
    }

    /// What is not.
    pub(super) fn nack(&mut self, at: &At<'_>, nack: v1::Nack) -> Settlement {
        let v1::Nack { positions, action, reason, retry_after } = nack;
        let field = at.field("positions");
        if positions.is_empty() {
            self.wrong(field, "must not be empty");
        }
        let positions = self.positions(field, &positions);
        self.at_most(at.field("reason"), reason.len(), REASON_BYTES_MAX, "bytes");
        let field = at.field("retry_after");
        let after = retry_after
            .map(|after| self.duration(field, Some(after), Duration::ZERO, (Duration::ZERO, DAY)));
        let action = v1::NackAction::try_from(action).unwrap_or_else(|_| {
            self.wrong(at.field("action"), format_args!("is {action}, not an action"));
            v1::NackAction::Retry
        });
        let outcome = match action {
            v1::NackAction::Unspecified | v1::NackAction::Retry => Outcome::Retry { after, reason },
            v1::NackAction::Park => Outcome::Park { reason },
            v1::NackAction::Skip => Outcome::Settled,
        };
        if after.is_some() && !matches!(outcome, Outcome::Retry { .. }) {
            self.wrong(field, "must be unset where the action is not NACK_ACTION_RETRY");
        }
        Settlement { positions, up_to: Position::ZERO, outcome }
    }
}

/// A group to make.
pub fn created(
    request: v1::CreateGroupRequest,
    limits: &Limits,
) -> Result<(Name, Begin, Filter, Settings), InvalidRequest> {
    let v1::CreateGroupRequest { group, start, filters, settings } = request;
    let (mut check, root) = (Check::default(), At::Root);
    let name = check.group(root.field("group"), &group);
    let begin = match start {
        None => Begin::After(0),
        Some(Start::After(after)) => Begin::After(after),
        Some(Start::FromNow(())) => Begin::Now,
        Some(Start::FromTime(time)) => {
            let time = check.timestamp(root.field("from_time"), time);
            Begin::Time(time.unwrap_or_default())
        }
    };
    let filter = check.filter(&root, filters, limits);
    let settings = check.settings(&root.field("settings"), settings);
    check.finish(name.map(|name| (name, begin, filter, settings)))
}

/// A name, and what is set anew.
pub type Updated = (Name, Option<Settings>, Option<Filter>);

/// What a group is to be.
pub fn updated(
    request: v1::UpdateGroupRequest,
    limits: &Limits,
) -> Result<Updated, InvalidRequest> {
    let v1::UpdateGroupRequest { group, settings, filters } = request;
    let (mut check, root) = (Check::default(), At::Root);
    let name = check.group(root.field("group"), &group);
    let settings = settings.map(|settings| check.settings(&root.field("settings"), Some(settings)));
    let filter = filters
        .map(|v1::Filters { filters }| check.filter(&root.field("filters"), filters, limits));
    check.finish(name.map(|name| (name, settings, filter)))
}

fn moved(request: v1::SetGroupPositionRequest) -> Result<(Name, Position, Target), InvalidRequest> {
    let v1::SetGroupPositionRequest { group, expected_position, target } = request;
    let (mut check, root) = (Check::default(), At::Root);
    let name = check.group(root.field("group"), &group);
    let target = match target {
        Some(Sent::After(after)) => Some(Target::After(Position::new(after))),
        Some(Sent::Skip(0)) => {
            check.wrong(root.field("skip"), "must be at least 1");
            None
        }
        Some(Sent::Skip(position)) => Some(Target::Past(Position::new(position))),
        None => {
            check.wrong(root.field("target"), "must be set");
            None
        }
    };
    let expected = Position::new(expected_position);
    check.finish(name.zip(target).map(|(name, target)| (name, expected, target)))
}

struct Poll {
    group: Name,
    consumer: Name,
    events_max: usize,
    wait_max: Duration,
}

fn poll(request: v1::PollRequest) -> Result<Poll, InvalidRequest> {
    let v1::PollRequest { group, consumer, events_max, wait_max } = request;
    let (mut check, root) = (Check::default(), At::Root);
    let group = check.group(root.field("group"), &group);
    let consumer = check.name(root.field("consumer"), &consumer, TEXT_BYTES_MAX);
    let events_max = usize_of(check.number(root.field("events_max"), events_max, 1, COUNT_MAX));
    let bounds = (Duration::ZERO, WAIT_MAX);
    let wait_max = check.duration(root.field("wait_max"), wait_max, Duration::ZERO, bounds);
    let names = group.zip(consumer);
    check.finish(names.map(|(group, consumer)| Poll { group, consumer, events_max, wait_max }))
}

/// What became of events.
pub fn settle(request: v1::SettleRequest) -> Result<(Name, Name, Vec<Settlement>), InvalidRequest> {
    let v1::SettleRequest { group, consumer, ack, nacks } = request;
    let (mut check, root) = (Check::default(), At::Root);
    let group = check.group(root.field("group"), &group);
    let consumer = check.name(root.field("consumer"), &consumer, TEXT_BYTES_MAX);
    let mut settlements: Vec<_> =
        ack.iter().map(|ack| check.ack(&root.field("ack"), ack)).collect();
    let field = root.field("nacks");
    if check.at_most(field, nacks.len(), NACKS_MAX, "entries") {
        for (index, nack) in nacks.into_iter().enumerate() {
            settlements.push(check.nack(&field.index(index), nack));
        }
    }
    check.finish(group.zip(consumer).map(|(group, consumer)| (group, consumer, settlements)))
}

/// A duration as it is told: whole nanoseconds, and never beyond what protobuf has.
pub(super) fn told(duration: Duration) -> prost_types::Duration {
    duration.try_into().unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}

impl From<Settings> for v1::GroupSettings {
    fn from(settings: Settings) -> Self {
        let Settings {
            strategy,
            message_timeout,
            retries_max,
            retry_delay,
            retry_delay_max,
            in_flight_max,
            hold_back_parked_keys,
            parked_max,
            window_max,
            checkpoint_interval,
            consumers_max,
        } = settings;
        let strategy = match strategy {
            Strategy::RoundRobin => v1::GroupStrategy::RoundRobin,
            Strategy::DispatchToOne => v1::GroupStrategy::DispatchToOne,
            Strategy::OrderedByStream => v1::GroupStrategy::OrderedByStream,
            Strategy::OrderedByCorrelation => v1::GroupStrategy::OrderedByCorrelation,
        };
        Self {
            strategy: strategy.into(),
            message_timeout: Some(told(message_timeout)),
            retries_max: Some(retries_max),
            retry_delay: Some(told(retry_delay)),
            retry_delay_max: Some(told(retry_delay_max)),
            in_flight_max: count(in_flight_max),
            hold_back_parked_keys,
            parked_max: count(parked_max),
            window_max: count(window_max),
            checkpoint_interval: Some(told(checkpoint_interval)),
            consumers_max: count(consumers_max),
        }
    }
}

pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl From<GroupFacts> for v1::GroupInfo {
    fn from(facts: GroupFacts) -> Self {
        let GroupFacts {
            name,
            settings,
            filter,
            created_at,
            start_after,
            position,
            events_behind,
            time_behind,
            counts,
            last_error,
        } = facts;
        let (error, at) = last_error.unzip();
        Self {
            group: name.to_string(),
            settings: Some(settings.into()),
            filters: filter::told(&filter),
            created_at: Some(timestamp(created_at)),
            start_after: start_after.get(),
            position: position.get(),
            events_behind,
            time_behind: time_behind.map(told),
            in_flight_count: counts.in_flight as u64,
            retry_count: counts.delayed as u64,
            parked_count: counts.parked as u64,
            consumer_count: counts.consumers as u64,
            delivered_count: counts.delivered,
            redelivered_count: counts.redelivered,
            settled_count: counts.settled,
            last_error: error.map(|error| error.to_string()).unwrap_or_default(),
            last_error_at: at.map(timestamp),
        }
    }
}

impl From<ConsumerFacts> for v1::ConsumerInfo {
    fn from(facts: ConsumerFacts) -> Self {
        let ConsumerFacts { id, member, counts } = facts;
        Self {
            consumer_id: id.to_string(),
            name: member.caller.name,
            peer: member.caller.peer,
            user_agent: member.caller.user_agent,
            in_flight_count: counts.in_flight as u64,
            in_flight_max: count(counts.in_flight_max),
            delivered_count: counts.delivered,
            settled_count: counts.settled,
            paused: counts.paused,
            connected_at: Some(timestamp(member.since)),
        }
    }
}

impl From<Delivered> for v1::DeliveredEvents {
    fn from(delivered: Delivered) -> Self {
        let Delivered { block, deliveries } = delivered;
        Self { batch: Some(EventBlock::from_encoded(block.bytes)), deliveries }
    }
}

impl From<ParkedPage> for v1::ListParkedResponse {
    fn from(page: ParkedPage) -> Self {
        let ParkedPage { parked, count, more } = page;
        let parked = parked.into_iter().map(|(position, parked, record)| {
            let event = record.map(|record| {
                let message = format::message(&record);
                v1::RecordedEvent::decode(message).expect("the log holds events")
            });
            v1::ParkedEvent {
                position: position.get(),
                event,
                reason: parked.reason.to_string(),
                deliveries: parked.deliveries,
                parked_at: Some(timestamp(parked.at)),
                held_back: parked.held,
                replaying: parked.replaying,
            }
        });
        Self { parked: parked.collect(), parked_count: count as u64, more }
    }
}
