//! `annals tail --group`: the events of a consumer group, each acknowledged once it was printed.
//!
//! Printed means handed to whoever reads stdout. An event whose acknowledgement was lost with the
//! connection comes again, so that each is printed at least once.

use std::time::Duration;

use serde::Serialize;
use tokio::{sync::mpsc, time};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{
    CliError,
    client::ServerArgs,
    output::{self, EventJson, Output, event_line},
    tail::{BACK_OFF_MAX, BACK_OFF_MIN, passes},
};
use crate::wire::proto::v1::{
    Ack, ConsumeRequest, ConsumeResponse, ConsumeStart, DeliveredEvents, RecordedEvent,
    consume_request, consume_response::Message,
};

/// One acknowledgement for each message that came in: there are never many on their way.
const REQUESTS_MAX: usize = 16;

/// How long the last acknowledgements may take to arrive.
const END_WAIT_MAX: Duration = Duration::from_secs(1);

pub struct Consumer {
    server: ServerArgs,
    start: ConsumeStart,
    json: bool,
    out: Output,
    back_off: Duration,
    /// None while there is no connection.
    call: Option<Call>,
}

struct Call {
    requests: mpsc::Sender<ConsumeRequest>,
    responses: Streaming<ConsumeResponse>,
}

/// An event, and beside its fields how often it has been delivered.
#[derive(Serialize)]
struct DeliveredJson<'a> {
    #[serde(flatten)]
    event: EventJson<'a>,
    deliveries: u32,
}

pub async fn run(
    server: ServerArgs,
    group: String,
    consumer: String,
    json: bool,
) -> Result<(), CliError> {
    let start = ConsumeStart { group, consumer, ..ConsumeStart::default() };
    let (out, back_off) = (Output::stdout(), BACK_OFF_MIN);
    let mut consumer = Consumer { server, start, json, out, back_off, call: None };
    let result = tokio::select! {
        result = consumer.follow() => result,
        () = output::stdout_closed() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    consumer.end().await;
    result
}

impl Consumer {
    async fn follow(&mut self) -> Result<(), CliError> {
        // As with a subscription: only what stood is repaired.
        self.connect().await?;
        let mut remark = "; events that were in flight come again";
        loop {
            let broken = match self.print().await {
                Err(error) if passes(&error) => error,
                Err(error) => return Err(error),
                Ok(()) => Status::unavailable("the server ended the call").into(),
            };
            self.call = None;
            output::note(&format!("{broken}; connecting again{remark}"));
            remark = "";
            while self.call.is_none() {
                time::sleep(self.back_off).await;
                self.back_off = (self.back_off * 2).min(BACK_OFF_MAX);
                match self.connect().await {
                    Err(error) if !passes(&error) => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<(), CliError> {
        let client = self.server.connect().await?;
        let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
        say(&requests, consume_request::Message::Start(self.start.clone())).await;
        let responses = client.subscriptions().consume(ReceiverStream::new(waiting)).await?;
        self.call = Some(Call { requests, responses: responses.into_inner() });
        Ok(())
    }

    async fn print(&mut self) -> Result<(), CliError> {
        let Some(Call { requests, responses }) = &mut self.call else { return Ok(()) };
        while let Some(message) = responses.message().await? {
            self.back_off = BACK_OFF_MIN;
            match message.message {
                Some(Message::Events(delivered)) => {
                    let positions = print_events(&delivered, self.json, &mut self.out)?;
                    let ack = Ack { positions, up_to: 0 };
                    say(requests, consume_request::Message::Ack(ack)).await;
                }
                Some(Message::NotInFlight(late)) => {
                    let count = late.positions.len();
                    output::note(&format!("{count} acknowledged too late: they may come again"));
                }
                // Or of a newer protocol.
                Some(Message::Confirmed(_) | Message::Heartbeat(_)) | None => {}
            }
        }
        Ok(())
    }

    /// Lets acknowledgements arrive that are on their way: this side ends the call, then the server does.
    async fn end(self) {
        let Some(Call { requests, mut responses }) = self.call else { return };
        drop(requests);
        let ended = async { while let Ok(Some(_)) = responses.message().await {} };
        let _ = time::timeout(END_WAIT_MAX, ended).await;
    }
}

/// A call that has ended takes nothing; its status tells why.
async fn say(requests: &mpsc::Sender<ConsumeRequest>, message: consume_request::Message) {
    let _ = requests.send(ConsumeRequest { message: Some(message) }).await;
}

/// The positions of what was printed, all of it.
fn print_events(
    delivered: &DeliveredEvents,
    json: bool,
    out: &mut Output,
) -> Result<Vec<u64>, CliError> {
    let events = delivered.batch.iter().flat_map(|batch| &batch.events);
    let mut positions = Vec::with_capacity(delivered.deliveries.len());
    for (index, event) in events.enumerate() {
        let deliveries = delivered.deliveries.get(index).copied().unwrap_or(1);
        print_event(event, deliveries, json, out)?;
        positions.push(event.position);
    }
    out.flush()?;
    Ok(positions)
}

fn print_event(
    event: &RecordedEvent,
    deliveries: u32,
    json: bool,
    out: &mut Output,
) -> Result<(), CliError> {
    if json {
        out.json(&DeliveredJson { event: EventJson::of(event), deliveries })?;
    } else if deliveries > 1 {
        out.line(|palette| {
            let (line, dim) = (event_line(event, palette), palette.dim);
            format!("{line}  {dim}(delivery {deliveries}){dim:#}")
        })?;
    } else {
        out.event(event, json)?;
    }
    Ok(())
}
