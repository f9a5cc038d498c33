//! `annals tail`: the log, live.
//!
//! A connection that breaks is made again, and the subscription goes on after the last position that
//! was handled: nothing is missed, nothing is printed twice. With `--group` it is consumer.rs's.

use std::time::Duration;

use prost_types::Timestamp;
use tonic::{Code, Status, Streaming};

use super::{
    CliError,
    client::ServerArgs,
    consumer,
    filter::{FilterArgs, parse_time},
    output::{self, Output},
};
use crate::wire::proto::v1::{
    Filter, StartTime, SubscribeRequest, SubscribeResponse, TimeBase, subscribe_request::Start,
    subscribe_response::Message,
};

/// What `ListSubscriptions` calls us.
const NAME: &str = "annals tail";

pub const BACK_OFF_MIN: Duration = Duration::from_millis(100);
pub const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// Follow the log live
///
/// Prints each event as it is committed, from now on unless told otherwise, until it is stopped. With
/// --group it takes the events of a consumer group, and acknowledges each once it was printed.
#[derive(Debug, clap::Args)]
pub struct TailArgs {
    #[command(flatten)]
    start: StartArgs,
    /// Take events of this consumer group, which has its own place and filters: see `annals groups`
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// The name that the group's list of consumers shows [default: annals tail]
    #[arg(long, value_name = "NAME", requires = "group", default_value = NAME,
        hide_default_value = true)]
    consumer: String,
    /// Also events of streams that begin with `$`, the server's own and snapshots of clients; with a filter they
    /// are shown if it picks them
    #[arg(long)]
    system: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, PartialEq, Default, clap::Args)]
#[group(multiple = false)]
struct StartArgs {
    /// Begin after this position
    #[arg(long, value_name = "N")]
    after: Option<u64>,
    /// Begin at the log's start
    #[arg(long)]
    from_start: bool,
    /// Begin with the first event that occurred at this time, such as 2011-03-01T09:30:00Z or
    /// 2011-03-01, or later
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from_time: Option<Timestamp>,
}

impl StartArgs {
    fn into_start(self) -> Start {
        let Self { after, from_start, from_time } = self;
        let from_time = from_time.map(|at| {
            Start::FromTime(StartTime { at: Some(at), time_base: TimeBase::Occurred.into() })
        });
        let after = after.or(from_start.then_some(0)).map(Start::After);
        after.or(from_time).unwrap_or(Start::FromNow(()))
    }
}

/// What a new subscription must know of the one before it.
struct Tail {
    server: ServerArgs,
    filters: Vec<Filter>,
    /// Whether events of streams that begin with `$` are printed, too.
    system: bool,
    json: bool,
    out: Output,
    /// After the last position that was handled, once the first subscription stands.
    start: Start,
    back_off: Duration,
}

pub async fn run(args: TailArgs) -> Result<(), CliError> {
    let filters = args.filter.into_filters();
    if let Some(group) = args.group {
        if args.start != StartArgs::default() || !filters.is_empty() {
            return Err(CliError::Usage(
                "--group goes with no start and no filter: a group has its own place and its own \
                 filter, see `annals groups`"
                    .to_owned(),
            ));
        }
        return consumer::run(args.server, group, args.consumer, args.json).await;
    }
    let mut tail = Tail {
        start: args.start.into_start(),
        server: args.server,
        system: args.system || !filters.is_empty(),
        filters,
        json: args.json,
        out: Output::stdout(),
        back_off: BACK_OFF_MIN,
    };
    tokio::select! {
        result = tail.follow() => result,
        () = output::stdout_closed() => Ok(()),
    }
}

impl Tail {
    async fn follow(&mut self) -> Result<(), CliError> {
        // Who asks for a server that is not there has mistaken the address: only what stood is repaired.
        let mut messages = self.subscribe().await?;
        loop {
            let broken = match self.print(&mut messages).await {
                Err(error) if passes(&error) => error,
                Err(error) => return Err(error),
                Ok(()) => Status::unavailable("the server ended the subscription").into(),
            };
            output::note(&format!("{broken}; connecting again"));
            messages = loop {
                tokio::time::sleep(self.back_off).await;
                self.back_off = (self.back_off * 2).min(BACK_OFF_MAX);
                match self.subscribe().await {
                    Ok(messages) => break messages,
                    Err(error) if passes(&error) => {}
                    Err(error) => {
                        if matches!(&error, CliError::Refused(it) if it.code() == Code::OutOfRange)
                        {
                            output::note("the server has another log now; --from-start follows it");
                        }
                        return Err(error);
                    }
                }
            };
        }
    }

    async fn subscribe(&self) -> Result<Streaming<SubscribeResponse>, CliError> {
        let request = SubscribeRequest {
            start: Some(self.start),
            filters: self.filters.clone(),
            name: NAME.to_owned(),
            ..SubscribeRequest::default()
        };
        let client = self.server.connect().await?;
        Ok(client.subscriptions().subscribe(request).await?.into_inner())
    }

    async fn print(&mut self, messages: &mut Streaming<SubscribeResponse>) -> Result<(), CliError> {
        while let Some(message) = messages.message().await? {
            self.back_off = BACK_OFF_MIN;
            match message.message {
                Some(Message::Confirmed(confirmed)) => self.start = Start::After(confirmed.after),
                Some(Message::Events(block)) => {
                    for event in &block.events {
                        if self.system || !event.stream.starts_with('$') {
                            self.out.event(event, self.json)?;
                        }
                        self.start = Start::After(event.position);
                    }
                    self.out.flush()?;
                }
                Some(Message::CaughtUp(caught_up)) => {
                    self.start = Start::After(caught_up.position);
                    output::note(&format!("caught up at position {}", caught_up.position));
                }
                Some(Message::FellBehind(behind)) => self.start = Start::After(behind.position),
                Some(Message::Checkpoint(checkpoint)) => {
                    self.start = Start::After(checkpoint.position);
                }
                Some(Message::Heartbeat(heartbeat)) => {
                    self.start = Start::After(heartbeat.position);
                }
                // Of a newer protocol.
                None => {}
            }
        }
        Ok(())
    }
}

/// Whether a new connection may help.
pub fn passes(error: &CliError) -> bool {
    match error {
        CliError::NoServer { .. } | CliError::ConnectionLost(_) => true,
        CliError::Refused(status) => status.code() == Code::Unavailable,
        _ => false,
    }
}
