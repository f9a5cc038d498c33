//! `Consume`: events down, what became of them up. Each direction has a task of its own: a client that does not
//! read is heard all the same.

use std::time::Duration;

use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Answers, answers, caller,
    convert::{At, Check, InvalidRequest, TEXT_BYTES_MAX, timestamp},
    group::{count, told},
    proto::v1::{
        ConsumeConfirmed, ConsumeHeartbeat, ConsumeRequest, ConsumeResponse, ConsumeStart,
        NotInFlight, consume_request::Message as Sent, consume_response::Message as Told,
    },
};
use crate::{
    core::{name::Name, position::Position},
    service::{
        group::{Consumer, GroupService, Message, Settlement, Settler},
        subscription::Caller,
    },
};

/// So many messages about events that are not the consumer's any more wait until it reads; then it is not heard.
const NOTES_MAX: usize = 16;
const IN_FLIGHT_MAX: u32 = 10_000;

/// Waits for the start, and then takes events.
pub async fn begin(
    service: &GroupService,
    request: Request<Streaming<ConsumeRequest>>,
) -> Result<Response<Answers<ConsumeResponse>>, Status> {
    let caller = caller::of(&request);
    let mut requests = request.into_inner();
    let first = requests.message().await?.and_then(|request| request.message);
    let Some(Sent::Start(start)) = first else {
        return Err(InvalidRequest::one("start", "must be the first message").into());
    };
    let Start { group, consumer, in_flight_max, heartbeat_interval } = check(start)?;
    let caller = Caller { name: consumer, ..caller };
    let consumer = service.consume(&group, caller, in_flight_max, heartbeat_interval)?;
    let (notes, heard) = mpsc::channel(NOTES_MAX);
    tokio::spawn(listen(requests, consumer.settler(), notes));
    let confirmed = Told::Confirmed(ConsumeConfirmed {
        consumer_id: consumer.id().to_string(),
        in_flight_max: count(consumer.in_flight_max()),
        message_timeout: Some(told(consumer.message_timeout())),
    });
    let talk = Talk { consumer, heard, confirmed: Some(confirmed) };
    Ok(Response::new(answers(Some(talk), |talk| async move {
        let mut talk = talk?;
        match talk.next().await {
            Ok(Some(message)) => {
                let response = ConsumeResponse { message: Some(message) };
                Some((Ok(response), Some(talk)))
            }
            Ok(None) => None,
            Err(status) => Some((Err(status), None)),
        }
    })))
}

/// What a consumer is told beside its events.
enum Note {
    NotInFlight(Vec<Position>),
    /// The call ends: it has said something wrong.
    End(Status),
}

struct Talk {
    consumer: Consumer,
    heard: mpsc::Receiver<Note>,
    confirmed: Option<Told>,
}

impl Talk {
    /// The next message; `None`: the consumer has said that it takes no more.
    async fn next(&mut self) -> Result<Option<Told>, Status> {
        if let Some(confirmed) = self.confirmed.take() {
            return Ok(Some(confirmed));
        }
        tokio::select! {
            biased;
            note = self.heard.recv() => match note {
                None => Ok(None),
                Some(Note::End(status)) => Err(status),
                Some(Note::NotInFlight(positions)) => {
                    let positions = positions.iter().map(|position| position.get()).collect();
                    Ok(Some(Told::NotInFlight(NotInFlight { positions })))
                }
            },
            message = self.consumer.next() => Ok(Some(match message? {
                Message::Events(delivered) => Told::Events(delivered.into()),
                Message::Heartbeat(at) => {
                    Told::Heartbeat(ConsumeHeartbeat { sent_at: Some(timestamp(at)) })
                }
            })),
        }
    }
}

/// Hears what becomes of events, until the consumer is gone or says no more.
async fn listen(
    mut requests: Streaming<ConsumeRequest>,
    settler: Settler,
    notes: mpsc::Sender<Note>,
) {
    loop {
        let request = tokio::select! {
            biased;
            () = settler.gone.cancelled() => break,
            request = requests.message() => request,
        };
        let note = match request {
            Ok(None) => return,
            Err(status) => Note::End(status),
            Ok(Some(request)) => match settlement(request) {
                Err(error) => Note::End(error.into()),
                Ok(None) => {
                    settler.hear();
                    continue;
                }
                Ok(Some(settlement)) => {
                    let not_in_flight = settler.settle(&settlement);
                    if not_in_flight.is_empty() {
                        continue;
                    }
                    Note::NotInFlight(not_in_flight)
                }
            },
        };
        let end = matches!(note, Note::End(_));
        if notes.send(note).await.is_err() || end {
            break;
        }
    }
    drop(notes);
    super::linger(requests).await;
}

struct Start {
    group: Name,
    consumer: String,
    in_flight_max: usize,
    heartbeat_interval: Duration,
}

fn check(start: ConsumeStart) -> Result<Start, InvalidRequest> {
    let ConsumeStart { group, consumer, in_flight_max, heartbeat_interval } = start;
    let mut check = Check::default();
    let at = At::Root.field("start");
    let group = check.group(at.field("group"), &group);
    check.text(at.field("consumer"), &consumer, TEXT_BYTES_MAX);
    let in_flight_max = check.number(at.field("in_flight_max"), in_flight_max, 0, IN_FLIGHT_MAX);
    let heartbeat_interval = check.quiet(at.field("heartbeat_interval"), heartbeat_interval);
    let in_flight_max = usize::try_from(in_flight_max).expect("pointers have 64 bits");
    check.finish(group.map(|group| Start { group, consumer, in_flight_max, heartbeat_interval }))
}

/// What became of events; `None`: the consumer is alive.
pub fn settlement(request: ConsumeRequest) -> Result<Option<Settlement>, InvalidRequest> {
    let (mut check, root) = (Check::default(), At::Root);
    let settlement = match request.message {
        Some(Sent::Heartbeat(())) => None,
        Some(Sent::Ack(ack)) => Some(check.ack(&root.field("ack"), &ack)),
        Some(Sent::Nack(nack)) => Some(check.nack(&root.field("nack"), nack)),
        Some(Sent::Start(_)) => {
            check.wrong(root.field("start"), "must be the first message, and no later one");
            None
        }
        None => {
            check.wrong(root.field("message"), "must be set");
            None
        }
    };
    check.finish(Some(settlement))
}
