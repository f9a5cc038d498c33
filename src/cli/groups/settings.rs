//! `annals groups create` and `update`: what a group takes, and how it works.

use clap::builder::RangedU64ValueParser;
use prost_types::{Duration, Timestamp};

use super::show::group_json;
use crate::{
    cli::{
        CliError,
        client::ServerArgs,
        filter::{FilterArgs, parse_time},
        output::{Output, printable},
        replay::parse_duration,
    },
    wire::proto::v1::{
        CreateGroupRequest, Filters, GetGroupRequest, GroupInfo, GroupSettings, GroupStrategy,
        UpdateGroupRequest, create_group_request::Start,
    },
};

const HEADING: &str = "How it works";

/// Make a consumer group
///
/// Without options it begins at the log's start and takes every event but those of streams
/// that begin with `$`. The same again changes nothing.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// The group's name
    group: String,
    #[command(flatten)]
    start: StartArgs,
    #[command(flatten)]
    settings: SettingsArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct StartArgs {
    /// Begin at the log's start, as it does unless told otherwise
    #[arg(long)]
    from_start: bool,
    /// Begin after this position
    #[arg(long, value_name = "N")]
    after: Option<u64>,
    /// Begin with the next event that is committed
    #[arg(long)]
    from_now: bool,
    /// Begin with the first event that occurred at this time, such as 2011-03-01T09:30:00Z or
    /// 2011-03-01, or later
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from_time: Option<Timestamp>,
}

/// Give a group other settings or filters
///
/// What is not named stays as it is. Filter options take the place of the group's filters, all of them.
#[derive(Debug, clap::Args)]
pub struct UpdateArgs {
    /// The group
    group: String,
    #[command(flatten)]
    settings: SettingsArgs,
    /// Take every event from now on, whatever the filters were
    #[arg(long)]
    all_events: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// What is not named is the server's default, or stays as it is.
#[derive(Debug, Clone, PartialEq, Default, clap::Args)]
struct SettingsArgs {
    /// How events are shared [default: round-robin]
    #[arg(help_heading = HEADING, long)]
    strategy: Option<Strategy>,
    /// How long a consumer may take to settle an event; then it goes to another one, such as 30s
    /// [default: 30s]
    #[arg(help_heading = HEADING, long, value_name = "DURATION", value_parser = parse_duration)]
    message_timeout: Option<Duration>,
    /// How often an event is delivered again before it is parked [default: 10]
    #[arg(help_heading = HEADING, long, value_name = "N",
        value_parser = RangedU64ValueParser::<u32>::new().range(..=1000))]
    retries: Option<u32>,
    /// How long an event waits before it is delivered again; twice as long each time that follows
    /// [default: 1s]
    #[arg(help_heading = HEADING, long, value_name = "DURATION", value_parser = parse_duration)]
    retry_delay: Option<Duration>,
    /// But no longer than this [default: 1m]
    #[arg(help_heading = HEADING, long, value_name = "DURATION", value_parser = parse_duration)]
    retry_delay_max: Option<Duration>,
    /// How many events one consumer has at once, at most [default: 10]
    #[arg(help_heading = HEADING, long, value_name = "N",
        value_parser = RangedU64ValueParser::<u32>::new().range(1..=10_000))]
    in_flight: Option<u32>,
    /// With an ordered strategy: while an event is parked, later ones of its key wait [default: false]
    #[arg(help_heading = HEADING, long, value_name = "BOOL", num_args = 0..=1,
        require_equals = true, default_missing_value = "true")]
    hold_back_parked_keys: Option<bool>,
    /// How many events may be parked; with one more the group stops [default: 10000]
    #[arg(help_heading = HEADING, long, value_name = "N",
        value_parser = RangedU64ValueParser::<u32>::new().range(1..=100_000))]
    parked_max: Option<u32>,
    /// How many matching events the group looks ahead of its first that is not settled [default: 1000]
    #[arg(help_heading = HEADING, long, value_name = "N",
        value_parser = RangedU64ValueParser::<u32>::new().range(1..=10_000))]
    window: Option<u32>,
    /// How often what is settled is noted in the log [default: 1s]
    #[arg(help_heading = HEADING, long, value_name = "DURATION", value_parser = parse_duration)]
    checkpoint_interval: Option<Duration>,
    /// How many consumers may take events at once [default: 100]
    #[arg(help_heading = HEADING, long, value_name = "N",
        value_parser = RangedU64ValueParser::<u32>::new().range(1..=10_000))]
    consumers_max: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, clap::ValueEnum)]
enum Strategy {
    /// In turn, to each consumer that has room
    RoundRobin,
    /// To the consumer that came first; to the next when it goes
    DispatchToOne,
    /// In turn, but of each stream one event at a time, in order
    OrderedByStream,
    /// In turn, but of each correlation id one event at a time, in order
    OrderedByCorrelation,
}

impl From<Strategy> for GroupStrategy {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::RoundRobin => Self::RoundRobin,
            Strategy::DispatchToOne => Self::DispatchToOne,
            Strategy::OrderedByStream => Self::OrderedByStream,
            Strategy::OrderedByCorrelation => Self::OrderedByCorrelation,
        }
    }
}

/// As an option would have it.
pub fn strategy_name(strategy: GroupStrategy) -> &'static str {
    match strategy {
        GroupStrategy::Unspecified | GroupStrategy::RoundRobin => "round-robin",
        GroupStrategy::DispatchToOne => "dispatch-to-one",
        GroupStrategy::OrderedByStream => "ordered-by-stream",
        GroupStrategy::OrderedByCorrelation => "ordered-by-correlation",
    }
}

impl SettingsArgs {
    /// `settings`, but for what is named; nothing where nothing is.
    fn over(self, settings: GroupSettings) -> Option<GroupSettings> {
        if self == Self::default() {
            return None;
        }
        let strategy = self.strategy.map(|it| GroupStrategy::from(it).into());
        Some(GroupSettings {
            strategy: strategy.unwrap_or(settings.strategy),
            message_timeout: self.message_timeout.or(settings.message_timeout),
            retries_max: self.retries.or(settings.retries_max),
            retry_delay: self.retry_delay.or(settings.retry_delay),
            retry_delay_max: self.retry_delay_max.or(settings.retry_delay_max),
            in_flight_max: self.in_flight.unwrap_or(settings.in_flight_max),
            hold_back_parked_keys: self
                .hold_back_parked_keys
                .unwrap_or(settings.hold_back_parked_keys),
            parked_max: self.parked_max.unwrap_or(settings.parked_max),
            window_max: self.window.unwrap_or(settings.window_max),
            checkpoint_interval: self.checkpoint_interval.or(settings.checkpoint_interval),
            consumers_max: self.consumers_max.unwrap_or(settings.consumers_max),
        })
    }
}

pub async fn create(args: CreateArgs) -> Result<(), CliError> {
    // At the log's start where there is none.
    let StartArgs { from_start: _, after, from_now, from_time } = args.start;
    let start = after.map(Start::After).or(from_time.map(Start::FromTime));
    let request = CreateGroupRequest {
        group: args.group,
        start: start.or(from_now.then_some(Start::FromNow(()))),
        filters: args.filter.into_filters(),
        settings: args.settings.over(GroupSettings::default()),
    };
    let answer = args.server.connect().await?.subscriptions().create_group(request).await?;
    let group = answer.into_inner().group.unwrap_or_default();
    let done = format!("begins after position {}", group.start_after);
    tell(&group, &done, args.json)
}

pub async fn update(args: UpdateArgs) -> Result<(), CliError> {
    let UpdateArgs { group, settings, all_events, json, filter, server } = args;
    let filters = filter.into_filters();
    if all_events && !filters.is_empty() {
        return Err(CliError::Usage("--all-events goes with no other filter".to_owned()));
    }
    let filters = (all_events || !filters.is_empty()).then_some(Filters { filters });
    let changes_settings = settings != SettingsArgs::default();
    if !changes_settings && filters.is_none() {
        return Err(CliError::Usage("nothing is named that is to be changed".to_owned()));
    }
    let mut client = server.connect().await?.subscriptions();
    let settings = if changes_settings {
        let request = GetGroupRequest { group: group.clone() };
        let info = client.get_group(request).await?.into_inner().group.unwrap_or_default();
        settings.over(info.settings.unwrap_or_default())
    } else {
        None
    };
    let request = UpdateGroupRequest { group, settings, filters };
    let group = client.update_group(request).await?.into_inner().group.unwrap_or_default();
    tell(&group, "is updated", json)
}

fn tell(group: &GroupInfo, done: &str, json: bool) -> Result<(), CliError> {
    let mut out = Output::stdout();
    if json {
        out.json(&group_json(group))?;
    } else {
        out.line(|_| format!("{} {done}", printable(&group.group)))?;
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn a_strategy_is_printed_as_it_is_asked_for() {
        for strategy in Strategy::value_variants() {
            let value = strategy.to_possible_value().expect("none is hidden");
            assert_eq!(strategy_name((*strategy).into()), value.get_name());
        }
    }

    #[test]
    fn what_is_not_named_stays_as_it_is() {
        let kept = GroupSettings { retries_max: Some(3), in_flight_max: 7, ..Default::default() };
        assert_eq!(SettingsArgs::default().over(kept), None);
        let args = SettingsArgs {
            retries: Some(0),
            hold_back_parked_keys: Some(false),
            strategy: Some(Strategy::OrderedByStream),
            ..SettingsArgs::default()
        };
        let expected = GroupSettings {
            strategy: GroupStrategy::OrderedByStream.into(),
            retries_max: Some(0),
            ..kept
        };
        let kept = GroupSettings { hold_back_parked_keys: true, ..kept };
        assert_eq!(args.over(kept), Some(expected));
    }
}
