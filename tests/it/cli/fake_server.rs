//! The commands against a server that is scripted: what a real one does only on a bad day.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    pin::Pin,
    process::{Child, Stdio},
    sync::{Arc, Mutex},
};

use annals::wire::{
    block::EventBlock,
    proto::v1::{
        self, AppendRequest, AppendResponse, AppendStreamRequest, AppendStreamResponse, CaughtUp,
        CommitRequest, CommitResponse, DeleteStreamRequest, DeleteStreamResponse, RecordedEvent,
        SetRetentionRequest, SetRetentionResponse, SubscribeRequest, SubscribeResponse,
        SubscriptionConfirmed, TombstoneStreamRequest, TombstoneStreamResponse,
        TruncateStreamRequest, TruncateStreamResponse,
        append_stream_response::Result as Answer,
        command_service_server::{CommandService, CommandServiceServer},
        consume_request, consume_response,
        recorded_event::Data,
        subscribe_request::Start,
        subscribe_response::Message,
        subscription_service_server::{SubscriptionService, SubscriptionServiceServer},
    },
};
use tokio_stream::{Stream, StreamExt, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

use super::commands::annals;

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers each subscription and each consumer with the next script, then says nothing more; each other
/// call of the service with its next answer; refuses and repeats appends by their event's type.
#[derive(Clone, Default)]
pub struct Fake(pub Arc<Mutex<State>>);

#[derive(Default)]
pub struct State {
    pub scripts: Vec<Vec<Result<Message, Status>>>,
    pub subscribed: Vec<SubscribeRequest>,
    pub watched: Vec<v1::WatchSubscriptionsResponse>,
    pub deliveries: Vec<Vec<Result<consume_response::Message, Status>>>,
    /// What each consumer has said.
    pub consumers: Vec<Vec<consume_request::Message>>,
    pub answers: Answers,
    pub asked: Asked,
    appended: Vec<(String, String)>,
}

/// The service; a call without an answer is not there.
macro_rules! subscriptions {
    ($($call:ident: $request:ident => $response:ident;)*) => {
        #[derive(Default)]
        pub struct Answers {
            $(pub $call: Vec<v1::$response>,)*
        }

        #[derive(Default)]
        pub struct Asked {
            $(pub $call: Vec<v1::$request>,)*
        }

        #[tonic::async_trait]
        impl SubscriptionService for Fake {
            type SubscribeStream = Messages<SubscribeResponse>;
            type SubscribeInteractiveStream = Messages<v1::SubscribeInteractiveResponse>;
            type WatchSubscriptionsStream = Messages<v1::WatchSubscriptionsResponse>;
            type ConsumeStream = Messages<v1::ConsumeResponse>;

            async fn subscribe(
                &self,
                request: Request<SubscribeRequest>,
            ) -> Result<Response<Self::SubscribeStream>, Status> {
                Ok(Response::new(self.play(request.into_inner())))
            }

            async fn subscribe_interactive(
                &self,
                _: Request<Streaming<v1::SubscribeInteractiveRequest>>,
            ) -> Result<Response<Self::SubscribeInteractiveStream>, Status> {
                Err(Status::unimplemented("subscribe_interactive"))
            }

            async fn watch_subscriptions(
                &self,
                _: Request<v1::WatchSubscriptionsRequest>,
            ) -> Result<Response<Self::WatchSubscriptionsStream>, Status> {
                let changes = std::mem::take(&mut self.0.lock().unwrap().watched);
                let changes = tokio_stream::iter(changes.into_iter().map(Ok));
                Ok(Response::new(Box::pin(changes.chain(tokio_stream::pending()))))
            }

            async fn consume(
                &self,
                request: Request<Streaming<v1::ConsumeRequest>>,
            ) -> Result<Response<Self::ConsumeStream>, Status> {
                Ok(Response::new(self.deliver(request.into_inner())))
            }

            $(async fn $call(
                &self,
                request: Request<v1::$request>,
            ) -> Result<Response<v1::$response>, Status> {
                let mut state = self.0.lock().unwrap();
                state.asked.$call.push(request.into_inner());
                if state.answers.$call.is_empty() {
                    return Err(Status::unimplemented(stringify!($call)));
                }
                Ok(Response::new(state.answers.$call.remove(0)))
            })*
        }
    };
}

subscriptions! {
    list_subscriptions: ListSubscriptionsRequest => ListSubscriptionsResponse;
    create_group: CreateGroupRequest => CreateGroupResponse;
    update_group: UpdateGroupRequest => UpdateGroupResponse;
    delete_group: DeleteGroupRequest => DeleteGroupResponse;
    get_group: GetGroupRequest => GetGroupResponse;
    list_groups: ListGroupsRequest => ListGroupsResponse;
    set_group_position: SetGroupPositionRequest => SetGroupPositionResponse;
    poll: PollRequest => PollResponse;
    settle: SettleRequest => SettleResponse;
    list_parked: ListParkedRequest => ListParkedResponse;
    replay_parked: ReplayParkedRequest => ReplayParkedResponse;
    drop_parked: DropParkedRequest => DropParkedResponse;
}

impl Fake {
    fn play(&self, request: SubscribeRequest) -> Messages<SubscribeResponse> {
        let mut state = self.0.lock().unwrap();
        state.subscribed.push(request);
        let script = state.scripts.remove(0);
        let messages = script.into_iter().map(|message| {
            let response =
                |message| SubscribeResponse { message: Some(message), ..Default::default() };
            message.map(response)
        });
        Box::pin(tokio_stream::iter(messages).chain(tokio_stream::pending()))
    }

    /// Ends when the consumer does.
    fn deliver(
        &self,
        mut requests: Streaming<v1::ConsumeRequest>,
    ) -> Messages<v1::ConsumeResponse> {
        let mut locked = self.0.lock().unwrap();
        let script = locked.deliveries.remove(0).into_iter();
        let number = locked.consumers.len();
        locked.consumers.push(Vec::new());
        let state = Arc::clone(&self.0);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                state.lock().unwrap().consumers[number].extend(request.message);
            }
            drop(end);
        });
        let messages = script
            .map(|message| message.map(|message| v1::ConsumeResponse { message: Some(message) }));
        let ended = futures_util::stream::once(ended).filter_map(|_| None);
        Box::pin(tokio_stream::iter(messages).chain(ended))
    }
}

#[tonic::async_trait]
impl CommandService for Fake {
    type AppendStreamStream = Messages<AppendStreamResponse>;

    async fn append(&self, _: Request<AppendRequest>) -> Result<Response<AppendResponse>, Status> {
        let mut details = ErrorDetails::new();
        details
            .set_error_info("INVALID_REQUEST", "annals", [("a".to_owned(), "1".to_owned())])
            .add_bad_request_violation("events[0].type", "must not be empty");
        Err(Status::with_error_details(tonic::Code::InvalidArgument, "the request is bad", details))
    }

    async fn commit(&self, _: Request<CommitRequest>) -> Result<Response<CommitResponse>, Status> {
        Err(Status::unimplemented("commit"))
    }

    async fn set_retention(
        &self,
        _: Request<SetRetentionRequest>,
    ) -> Result<Response<SetRetentionResponse>, Status> {
        Err(Status::unimplemented("set_retention"))
    }

    async fn truncate_stream(
        &self,
        _: Request<TruncateStreamRequest>,
    ) -> Result<Response<TruncateStreamResponse>, Status> {
        Err(Status::unimplemented("truncate_stream"))
    }

    async fn delete_stream(
        &self,
        _: Request<DeleteStreamRequest>,
    ) -> Result<Response<DeleteStreamResponse>, Status> {
        Err(Status::unimplemented("delete_stream"))
    }

    async fn tombstone_stream(
        &self,
        _: Request<TombstoneStreamRequest>,
    ) -> Result<Response<TombstoneStreamResponse>, Status> {
        Err(Status::unimplemented("tombstone_stream"))
    }

    async fn append_stream(
        &self,
        request: Request<Streaming<AppendStreamRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let state = Arc::clone(&self.0);
        let mut number = 0;
        let answers = request.into_inner().map(move |request| {
            let append = request?.append.unwrap();
            let event = &append.events[0];
            number += 1;
            let result = match event.r#type.as_str() {
                "Lost" => return Err(Status::unavailable("gone")),
                "Refused" => Answer::Error(tonic_types::Status {
                    code: tonic::Code::FailedPrecondition.into(),
                    message: "somebody was first".to_owned(),
                    details: Vec::new(),
                }),
                kind => {
                    let mut state = state.lock().unwrap();
                    state.appended.push((append.stream.clone(), event.id.clone()));
                    Answer::Appended(AppendResponse {
                        duplicate: kind == "Repeated",
                        ..AppendResponse::default()
                    })
                }
            };
            Ok(AppendStreamResponse { request: number, result: Some(result) })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

impl Fake {
    pub fn scripted(script: impl FnOnce(&mut State)) -> Self {
        let fake = Self::default();
        script(&mut fake.0.lock().unwrap());
        fake
    }

    /// Runs the binary against it: the exit code, stdout and stderr.
    pub fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = against(self.clone(), arguments, |child| child.wait_with_output().unwrap());
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.code(), stdout, stderr)
    }

    /// What a command that never ends prints first, and on stderr; then its pipe is closed, which ends it.
    pub fn lines(&self, arguments: &[&str], count: usize) -> (Vec<String>, String) {
        against(self.clone(), arguments, move |mut child| {
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let first = lines.by_ref().take(count).map(Result::unwrap).collect();
            drop(lines);
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            (first, String::from_utf8(output.stderr).unwrap())
        })
    }

    async fn start(self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(SubscriptionServiceServer::new(self.clone()))
            .add_service(CommandServiceServer::new(self))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        address
    }
}

/// Runs the binary against a fake, and hands back what `drive` made of it and what the fake saw.
pub fn against<T: Send + 'static>(
    fake: Fake,
    arguments: &[&str],
    drive: impl FnOnce(Child) -> T + Send + 'static,
) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let address = runtime.block_on(fake.start());
    let mut command = annals(arguments);
    command.env("ANNALS_SERVER", address.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let result = drive(command.spawn().unwrap());
    runtime.shutdown_background();
    result
}

pub fn event(position: u64) -> RecordedEvent {
    RecordedEvent {
        position,
        version: position,
        stream: "Payment-1".to_owned(),
        r#type: "Paid".to_owned(),
        data: Some(Data::Text("{\"a\":1}".to_owned())),
        metadata: BTreeMap::new(),
        ..RecordedEvent::default()
    }
}

fn sent(position: u64) -> Message {
    Message::Events(EventBlock { events: vec![event(position)], ..EventBlock::default() })
}

fn confirmed(after: u64) -> Message {
    let subscription_id = "1".to_owned();
    Message::Confirmed(SubscriptionConfirmed { subscription_id, after, head: after })
}

/// Nothing is missed, nothing is there twice; and `| head` ends it, though nothing more comes.
#[test]
fn a_broken_tail_goes_on_after_the_last_event_it_printed_until_its_pipe_is_closed() {
    let fake = Fake::default();
    let caught_up = Message::CaughtUp(CaughtUp { position: 6 });
    fake.0.lock().unwrap().scripts = vec![
        vec![Ok(confirmed(4)), Ok(sent(5)), Ok(sent(6)), Err(Status::unavailable("stops"))],
        vec![Ok(confirmed(6)), Ok(caught_up), Err(Status::unavailable("stops again"))],
        vec![Ok(confirmed(6)), Ok(sent(7))],
    ];
    let state = Arc::clone(&fake.0);
    let (positions, code, stderr) = against(fake, &["tail", "--json"], |mut tail| {
        let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
        let positions: Vec<u64> = lines
            .by_ref()
            .take(3)
            .map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap())
            .map(|event| event["position"].as_u64().unwrap())
            .collect();
        drop(lines);
        let output = tail.wait_with_output().unwrap();
        (positions, output.status.code(), String::from_utf8(output.stderr).unwrap())
    });
    assert_eq!(positions, [5, 6, 7]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("caught up at position 6\n"), "{stderr}");
    let subscribed = &state.lock().unwrap().subscribed;
    let starts: Vec<_> = subscribed.iter().map(|request| request.start.unwrap()).collect();
    assert_eq!(starts, [Start::FromNow(()), Start::After(6), Start::After(6)]);
    assert!(subscribed.iter().all(|request| request.name == "annals tail"));
}

#[test]
fn a_tail_that_begins_at_a_time_goes_on_where_it_was() {
    let fake = Fake::scripted(|state| {
        state.scripts = vec![
            vec![Ok(confirmed(4)), Err(Status::unavailable("stops"))],
            vec![Ok(confirmed(4)), Ok(sent(5))],
        ];
    });
    let (lines, _) = fake.lines(&["tail", "--from-time", "1970-01-02"], 1);
    assert!(lines[0].contains("Payment-1@5"), "{lines:?}");
    let subscribed = &fake.0.lock().unwrap().subscribed;
    let at = Some(prost_types::Timestamp { seconds: 86_400, nanos: 0 });
    let from_time = v1::StartTime { at, time_base: v1::TimeBase::Occurred.into() };
    assert_eq!(subscribed[0].start, Some(Start::FromTime(from_time)));
    assert_eq!(subscribed[1].start, Some(Start::After(4)));
}

#[test]
fn a_refusal_is_told_with_its_reason_and_every_field_that_is_wrong() {
    let output = against(Fake::default(), &["append", "Payment-1", "Paid", "{}"], |child| {
        child.wait_with_output().unwrap()
    });
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "error: the request is bad\n  - events[0].type: must not be empty\n  \
         reason: INVALID_REQUEST a=1\n"
    );
}

fn line(id: u32, event_type: &str) -> String {
    format!(
        "{{\"specversion\":\"1.0\",\"id\":\"00000000-0000-0000-0000-{id:012}\",\"source\":\"/s\",\
         \"type\":\"{event_type}\",\"subject\":\"Payment-{}\"}}",
        id % 3
    )
}

/// The exit code, stderr, and the numbers of the events that were appended, in their order.
fn import(arguments: &[&str], file: String) -> (Option<i32>, String, Vec<u32>) {
    let fake = Fake::default();
    let state = Arc::clone(&fake.0);
    let output = against(fake, &[&["import", "-"], arguments].concat(), move |mut child| {
        let mut stdin = child.stdin.take().unwrap();
        // An import that stops early closes the pipe.
        let _ = stdin.write_all(file.as_bytes());
        drop(stdin);
        child.wait_with_output().unwrap()
    });
    let state = state.lock().unwrap();
    let appended = state.appended.iter().map(|(_, id)| id[24..].parse().unwrap()).collect();
    (output.status.code(), String::from_utf8(output.stderr).unwrap(), appended)
}

fn file(lines: impl IntoIterator<Item = String>) -> String {
    lines.into_iter().map(|line| line + "\n").collect()
}

#[test]
fn an_import_appends_in_the_order_of_the_file_and_counts_what_was_there() {
    let count = 5000;
    let kind = |id: u32| if id.is_multiple_of(5) { "Repeated" } else { "Paid" };
    let (code, stderr, appended) = import(&[], file((1..=count).map(|id| line(id, kind(id)))));
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(appended, (1..=count).collect::<Vec<_>>());
    assert!(
        stderr.starts_with("4000 written, 1000 already there, 0 failed; 3 streams"),
        "{stderr}"
    );
}

#[test]
fn a_bad_line_stops_an_import_before_the_next_line() {
    let lines = [line(1, "Paid"), "{".to_owned(), line(3, "Paid")];
    let (code, stderr, appended) = import(&[], file(lines));
    assert_eq!(code, Some(1));
    assert_eq!(appended, [1]);
    assert!(stderr.contains("error: line 2: not a CloudEvent in JSON"), "{stderr}");
    assert!(stderr.contains("1 written, 0 already there, 1 failed"), "{stderr}");
}

#[test]
fn an_import_that_continues_passes_over_bad_and_refused_lines_and_fails_at_the_end() {
    let lines =
        [line(1, "Paid"), "{".to_owned(), line(3, "Refused"), line(4, "Paid"), String::new()];
    let (code, stderr, appended) = import(&["--on-error", "continue"], file(lines));
    assert_eq!(code, Some(1));
    assert_eq!(appended, [1, 4]);
    assert!(stderr.contains("error: line 3: somebody was first"), "{stderr}");
    assert!(stderr.contains("2 written, 0 already there, 2 failed"), "{stderr}");
}

#[test]
fn an_import_that_loses_its_server_says_that_it_can_be_repeated() {
    let lines = [line(1, "Paid"), line(2, "Lost"), line(3, "Paid")];
    let (code, stderr, _) = import(&[], file(lines));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("import the file again"), "{stderr}");
    assert!(stderr.contains("error: gone"), "{stderr}");
}
