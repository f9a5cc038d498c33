//! `annals tail`: the log, live.
//!
//! A connection that breaks is made again, and the subscription goes on after the last position that
//! was handled: nothing is missed, nothing is printed twice.

use std::time::Duration;

use tonic::{Code, Status, Streaming};

use super::{
    CliError,
    client::ServerArgs,
    filter::FilterArgs,
    output::{self, Output},
};
use crate::wire::proto::v1::{
    Filter, SubscribeRequest, SubscribeResponse, subscribe_request::Start,
    subscribe_response::Message,
};

const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// Follow the log live
///
/// Prints each event as it is committed, from now on unless told otherwise, until it is stopped.
#[derive(Debug, clap::Args)]
pub struct TailArgs {
    /// Begin after this position
    #[arg(long, value_name = "N", conflicts_with = "from_start")]
    after: Option<u64>,
    /// Begin at the log's start
    #[arg(long)]
    from_start: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// What a new subscription must know of the one before it.
struct Tail {
    server: ServerArgs,
    filters: Vec<Filter>,
    json: bool,
    out: Output,
    /// The last position that was handled; none before the first subscription from now on stands.
    handled: Option<u64>,
    back_off: Duration,
}

pub async fn run(args: TailArgs) -> Result<(), CliError> {
    let mut tail = Tail {
        handled: args.after.or(args.from_start.then_some(0)),
        server: args.server,
        filters: args.filter.into_filters(),
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
        let start = self.handled.map_or(Start::FromNow(()), Start::After);
        let request = SubscribeRequest {
            start: Some(start),
            filters: self.filters.clone(),
            ..SubscribeRequest::default()
        };
        let client = self.server.connect().await?;
        Ok(client.subscriptions().subscribe(request).await?.into_inner())
    }

    async fn print(&mut self, messages: &mut Streaming<SubscribeResponse>) -> Result<(), CliError> {
        while let Some(message) = messages.message().await? {
            self.back_off = BACK_OFF_MIN;
            match message.message {
                Some(Message::Confirmed(confirmed)) => self.handled = Some(confirmed.after),
                Some(Message::Events(block)) => {
                    for event in &block.events {
                        self.out.event(event, self.json)?;
                        self.handled = Some(event.position);
                    }
                    self.out.flush()?;
                }
                Some(Message::CaughtUp(caught_up)) => {
                    self.handled = Some(caught_up.position);
                    output::note(&format!("caught up at position {}", caught_up.position));
                }
                Some(Message::FellBehind(behind)) => self.handled = Some(behind.position),
                Some(Message::Checkpoint(checkpoint)) => self.handled = Some(checkpoint.position),
                Some(Message::Heartbeat(heartbeat)) => self.handled = Some(heartbeat.position),
                // Of a newer protocol.
                None => {}
            }
        }
        Ok(())
    }
}

/// Whether a new connection may help.
fn passes(error: &CliError) -> bool {
    match error {
        CliError::NoServer { .. } | CliError::ConnectionLost(_) => true,
        CliError::Refused(status) => status.code() == Code::Unavailable,
        _ => false,
    }
}
