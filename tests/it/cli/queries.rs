//! Searches, statistics, trends, correlations, plans and replays: what the commands ask for and print,
//! against a server that is scripted, and the same commands against a real one.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::SocketAddr,
    pin::Pin,
    process::{Child, Stdio},
    sync::{Arc, Mutex},
};

use annals::wire::{
    block::EventBlock,
    proto::v1::{
        Cause, CorrelationSummary, CountRequest, CountResponse, Direction, ExplainRequest,
        ExplainResponse, FilterPlan, GetCorrelationRequest, GetCorrelationResponse,
        GetEventRequest, GetEventResponse, GetRetentionRequest, GetRetentionResponse,
        GetStatisticsRequest, GetStatisticsResponse, GetStreamRequest, GetStreamResponse,
        GetTrendsRequest, GetTrendsResponse, GroupBy, Grouping, IndexUse, JsonOperator,
        ListCategoriesRequest, ListCategoriesResponse, ListEventTypesRequest,
        ListEventTypesResponse, ListStreamsRequest, ListStreamsResponse, ReadAllRequest,
        ReadStreamRequest, RecordedEvent, ReplayEnded, ReplayPause, ReplayRequest, ReplayResponse,
        ReplayStarted, ReplayedEvents, SearchEnd, SearchProgress, SearchRequest, SearchResponse,
        StatisticsGroup, StatisticsRow, TimeBase, TimelineEntry, TrendRow, TrendSeries,
        WatchStatisticsRequest, WatchStatisticsResponse, WatchTrendsRequest, WatchTrendsResponse,
        get_correlation_response,
        query_service_server::{QueryService, QueryServiceServer},
        recorded_event::Data,
        replay_response, search_response,
    },
};
use prost_types::{Duration, Timestamp};
use serde_json::{Value, json};
use tokio_stream::{Stream, StreamExt, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status};

use super::{commands::annals, made_history::Serving};

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers each call with its script, and keeps what was asked.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    search: Vec<search_response::Message>,
    correlation: Vec<get_correlation_response::Message>,
    statistics: Vec<GetStatisticsResponse>,
    trends: Vec<GetTrendsResponse>,
    replay: Vec<replay_response::Message>,
    explain: ExplainResponse,
    searched: Vec<SearchRequest>,
    counted: Vec<GetStatisticsRequest>,
    charted: Vec<GetTrendsRequest>,
    replayed: Vec<ReplayRequest>,
}

fn ended<T: Send + 'static>(
    messages: impl IntoIterator<Item = T, IntoIter: Send + 'static>,
) -> Response<Messages<T>> {
    Response::new(Box::pin(tokio_stream::iter(messages.into_iter().map(Ok))))
}

/// Nothing follows, and no end either.
fn endless<T: Send + 'static>(
    messages: impl IntoIterator<Item = T, IntoIter: Send + 'static>,
) -> Response<Messages<T>> {
    let messages = tokio_stream::iter(messages.into_iter().map(Ok));
    Response::new(Box::pin(messages.chain(tokio_stream::pending())))
}

#[tonic::async_trait]
impl QueryService for Fake {
    type ReadStreamStream = Messages<EventBlock>;
    type ReadAllStream = Messages<EventBlock>;
    type SearchStream = Messages<SearchResponse>;
    type GetCorrelationStream = Messages<GetCorrelationResponse>;
    type WatchStatisticsStream = Messages<WatchStatisticsResponse>;
    type WatchTrendsStream = Messages<WatchTrendsResponse>;
    type ReplayStream = Messages<ReplayResponse>;

    async fn search(
        &self,
        request: Request<SearchRequest>,
    ) -> Result<Response<Self::SearchStream>, Status> {
        let mut state = self.0.lock().unwrap();
        state.searched.push(request.into_inner());
        let script = std::mem::take(&mut state.search).into_iter();
        Ok(ended(script.map(|message| SearchResponse { message: Some(message) })))
    }

    async fn get_correlation(
        &self,
        _: Request<GetCorrelationRequest>,
    ) -> Result<Response<Self::GetCorrelationStream>, Status> {
        let script = std::mem::take(&mut self.0.lock().unwrap().correlation).into_iter();
        Ok(ended(script.map(|message| GetCorrelationResponse { message: Some(message) })))
    }

    async fn get_statistics(
        &self,
        request: Request<GetStatisticsRequest>,
    ) -> Result<Response<GetStatisticsResponse>, Status> {
        let mut state = self.0.lock().unwrap();
        state.counted.push(request.into_inner());
        Ok(Response::new(state.statistics.remove(0)))
    }

    async fn watch_statistics(
        &self,
        request: Request<WatchStatisticsRequest>,
    ) -> Result<Response<Self::WatchStatisticsStream>, Status> {
        let mut state = self.0.lock().unwrap();
        state.counted.extend(request.into_inner().statistics);
        let script = (0..).zip(std::mem::take(&mut state.statistics));
        Ok(endless(script.map(|(number, statistics)| WatchStatisticsResponse {
            statistics: Some(statistics),
            complete: number == 0,
        })))
    }

    async fn get_trends(
        &self,
        request: Request<GetTrendsRequest>,
    ) -> Result<Response<GetTrendsResponse>, Status> {
        let mut state = self.0.lock().unwrap();
        state.charted.push(request.into_inner());
        Ok(Response::new(state.trends.remove(0)))
    }

    async fn watch_trends(
        &self,
        request: Request<WatchTrendsRequest>,
    ) -> Result<Response<Self::WatchTrendsStream>, Status> {
        let mut state = self.0.lock().unwrap();
        state.charted.extend(request.into_inner().trends);
        let script = (0..).zip(std::mem::take(&mut state.trends));
        Ok(endless(script.map(|(number, trends)| WatchTrendsResponse {
            trends: Some(trends),
            complete: number == 0,
        })))
    }

    async fn replay(
        &self,
        request: Request<ReplayRequest>,
    ) -> Result<Response<Self::ReplayStream>, Status> {
        let mut state = self.0.lock().unwrap();
        state.replayed.push(request.into_inner());
        let script = std::mem::take(&mut state.replay);
        let ends = matches!(script.last(), Some(replay_response::Message::Ended(_)));
        let script = script.into_iter().map(|message| ReplayResponse { message: Some(message) });
        Ok(if ends { ended(script) } else { endless(script) })
    }

    async fn explain(
        &self,
        _: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, Status> {
        Ok(Response::new(self.0.lock().unwrap().explain.clone()))
    }

    // No command here makes these calls.

    async fn read_stream(
        &self,
        _: Request<ReadStreamRequest>,
    ) -> Result<Response<Self::ReadStreamStream>, Status> {
        Err(Status::unimplemented("read_stream"))
    }

    async fn read_all(
        &self,
        _: Request<ReadAllRequest>,
    ) -> Result<Response<Self::ReadAllStream>, Status> {
        Err(Status::unimplemented("read_all"))
    }

    async fn get_event(
        &self,
        _: Request<GetEventRequest>,
    ) -> Result<Response<GetEventResponse>, Status> {
        Err(Status::unimplemented("get_event"))
    }

    async fn get_stream(
        &self,
        _: Request<GetStreamRequest>,
    ) -> Result<Response<GetStreamResponse>, Status> {
        Err(Status::unimplemented("get_stream"))
    }

    async fn list_streams(
        &self,
        _: Request<ListStreamsRequest>,
    ) -> Result<Response<ListStreamsResponse>, Status> {
        Err(Status::unimplemented("list_streams"))
    }

    async fn list_categories(
        &self,
        _: Request<ListCategoriesRequest>,
    ) -> Result<Response<ListCategoriesResponse>, Status> {
        Err(Status::unimplemented("list_categories"))
    }

    async fn list_event_types(
        &self,
        _: Request<ListEventTypesRequest>,
    ) -> Result<Response<ListEventTypesResponse>, Status> {
        Err(Status::unimplemented("list_event_types"))
    }

    async fn count(&self, _: Request<CountRequest>) -> Result<Response<CountResponse>, Status> {
        Err(Status::unimplemented("count"))
    }

    async fn get_retention(
        &self,
        _: Request<GetRetentionRequest>,
    ) -> Result<Response<GetRetentionResponse>, Status> {
        Err(Status::unimplemented("get_retention"))
    }
}

impl Fake {
    fn scripted(script: impl FnOnce(&mut State)) -> Self {
        let fake = Self::default();
        script(&mut fake.0.lock().unwrap());
        fake
    }

    async fn start(self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(QueryServiceServer::new(self))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        address
    }

    /// Runs the binary against it, and hands back what `drive` made of it.
    fn drive<T>(&self, arguments: &[&str], drive: impl FnOnce(Child) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let address = runtime.block_on(self.clone().start());
        let mut command = annals(arguments);
        command.env("ANNALS_SERVER", address.to_string());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let result = drive(command.spawn().unwrap());
        runtime.shutdown_background();
        result
    }

    /// The exit code, stdout and stderr.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = self.drive(arguments, |child| child.wait_with_output().unwrap());
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.code(), stdout, stderr)
    }

    /// What a command that never ends prints first; then its pipe is closed, which ends it.
    fn lines(&self, arguments: &[&str], count: usize) -> Vec<String> {
        self.drive(arguments, |mut child| {
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let first = lines.by_ref().take(count).map(Result::unwrap).collect();
            drop(lines);
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            first
        })
    }
}

fn event(position: u64) -> RecordedEvent {
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

fn block(positions: impl IntoIterator<Item = u64>) -> EventBlock {
    EventBlock { events: positions.into_iter().map(event).collect(), ..EventBlock::default() }
}

fn json_lines(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn positions(stdout: &str) -> Vec<u64> {
    json_lines(stdout).iter().map(|event| event["position"].as_u64().unwrap()).collect()
}

#[test]
fn a_search_sends_every_filter_and_tells_the_token_of_the_next_page() {
    use search_response::Message;
    let end = SearchEnd { next_page_token: "abc".to_owned(), event_count: 3, head: 9 };
    let script = vec![
        Message::Events(block([9, 7])),
        Message::Progress(SearchProgress { position: 5 }),
        Message::Events(block([2])),
        Message::End(end),
    ];
    let fake = Fake::scripted(|state| state.search = script);
    let (code, stdout, stderr) = fake.run(&[
        "search",
        "--backwards",
        "--json",
        "--stream-prefix",
        "Pay",
        "--metadata",
        "k=1",
        "--metadata",
        "k=2",
        "--occurred-from",
        "1970-01-02",
        "--text",
        "x",
        "--json-match",
        "$.a >= 1",
        "--page-token",
        "before",
    ]);
    assert_eq!((code, positions(&stdout)), (Some(0), vec![9, 7, 2]), "{stderr}");
    assert_eq!(stderr, "3 events; there may be more: --page-token abc\n");

    let state = fake.0.lock().unwrap();
    let [request] = &state.searched[..] else { panic!("{:?}", state.searched) };
    assert_eq!(request.direction(), Direction::Backwards);
    assert_eq!((request.limit, request.page_token.as_str()), (100, "before"));
    let [filter] = &request.filters[..] else { panic!("{request:?}") };
    assert_eq!(filter.stream_prefixes, ["Pay"]);
    assert_eq!(filter.metadata[0].values, ["1", "2"]);
    assert_eq!(filter.occurred.unwrap().from.unwrap().seconds, 86_400);
    assert_eq!(filter.texts, ["x"]);
    assert_eq!(filter.json[0].path, "$.a");
    assert_eq!(filter.json[0].operator(), JsonOperator::GreaterOrEqual);
}

#[test]
fn the_last_page_of_a_search_has_no_remark_and_a_page_without_an_end_is_a_failure() {
    use search_response::Message;
    let whole = vec![Message::Events(block([1])), Message::End(SearchEnd::default())];
    let fake = Fake::scripted(|state| state.search = whole);
    let (code, stdout, stderr) = fake.run(&["search", "--all"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.contains("Payment-1@1"), "{stdout}");
    assert_eq!(fake.0.lock().unwrap().searched[0].limit, 0);

    let fake = Fake::scripted(|state| state.search = vec![Message::Events(block([1]))]);
    let (code, stdout, stderr) = fake.run(&["search", "--json"]);
    assert_eq!((code, positions(&stdout)), (Some(1), vec![1]));
    assert!(stderr.contains("the page has no end"), "{stderr}");
}

fn statistics(count: u64) -> GetStatisticsResponse {
    let group_by = GroupBy { grouping: Grouping::Day.into(), metadata_key: String::new() };
    let day = Timestamp { seconds: 86_400, nanos: 0 };
    let row = StatisticsRow { key: "1970-01-02".to_owned(), start: Some(day), count };
    let group = StatisticsGroup {
        group_by: Some(group_by),
        rows: vec![row],
        row_count: 3,
        other_count: 7,
        ..StatisticsGroup::default()
    };
    GetStatisticsResponse {
        event_count: count + 7,
        stream_count: 2,
        groups: vec![group],
        position: 50,
        ..GetStatisticsResponse::default()
    }
}

#[test]
fn statistics_are_a_table_for_people_and_one_object_for_programs() {
    let fake = Fake::scripted(|state| state.statistics = vec![statistics(1234), statistics(1234)]);
    let (code, stdout, stderr) = fake.run(&["stats", "--by", "day", "--time-zone", "Europe/Paris"]);
    assert_eq!(code, Some(0), "{stderr}");
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines[0], "events            1 241");
    assert_eq!(lines[lines.len() - 3], "by day: the latest 1 of 3");
    assert!(lines[lines.len() - 2].starts_with("  1970-01-02    1 234  ████"), "{stdout}");
    assert_eq!(lines[lines.len() - 1], "  (other rows)      7");

    let (_, stdout, _) = fake.run(&["stats", "--json", "--by", "metadata:k", "--recorded"]);
    let [object] = &json_lines(&stdout)[..] else { panic!("{stdout}") };
    let row = json!({"key": "1970-01-02", "count": 1234, "start": "1970-01-02T00:00:00Z"});
    assert_eq!(object["groups"][0]["rows"][0], row);
    assert_eq!(object["groups"][0]["groupBy"]["grouping"], "GROUPING_DAY");

    let asked = &fake.0.lock().unwrap().counted;
    assert_eq!((asked[0].rows_max, asked[0].time_zone.as_str()), (20, "Europe/Paris"));
    assert_eq!((asked[1].rows_max, asked[1].time_base()), (0, TimeBase::Recorded));
    assert_eq!(asked[1].group_by[0].metadata_key, "k");
}

#[test]
fn watched_statistics_are_printed_as_they_change_until_the_pipe_is_closed() {
    let fake = || Fake::scripted(|state| state.statistics = vec![statistics(1), statistics(2)]);
    let lines = fake().lines(&["stats", "--watch", "--json"], 2);
    let changes = json_lines(&lines.join("\n"));
    assert_eq!(changes[0]["complete"], true);
    assert_eq!(changes[1]["complete"], false);
    assert_eq!(changes[1]["statistics"]["groups"][0]["rows"][0]["count"], 2);
    let lines = fake().lines(&["stats", "--watch"], 10);
    assert_eq!(lines[9], "day  1970-01-02  2", "{lines:?}");
}

fn trends(count: u64) -> GetTrendsResponse {
    let row = |key: &str, series: &str, count| TrendRow {
        key: key.to_owned(),
        series: series.to_owned(),
        count,
        ..TrendRow::default()
    };
    let series = |key: &str, count| TrendSeries { key: key.to_owned(), count };
    GetTrendsResponse {
        rows: vec![row("1970-01", "Paid", count), row("1970-01", "Lost", 1)],
        event_count: count + 1,
        series: vec![series("Paid", count), series("Lost", 1)],
        position: 5,
        ..GetTrendsResponse::default()
    }
}

#[test]
fn trends_are_bars_of_each_series_at_each_time() {
    let fake = Fake::scripted(|state| state.trends = vec![trends(8), trends(8)]);
    let arguments = ["trends", "--by", "month", "--split-by", "type", "--series", "2", "--fill"];
    let (code, stdout, stderr) = fake.run(&arguments);
    assert_eq!(code, Some(0), "{stderr}");
    // A pipe is taken for a line of 80 characters.
    let bars: Vec<&str> = stdout.lines().skip_while(|line| !line.is_empty()).skip(1).collect();
    assert_eq!(
        bars,
        [
            format!("1970-01  Paid  8  {}", "█".repeat(61)),
            format!("         Lost  1  {}▋", "█".repeat(7))
        ]
    );

    let (_, stdout, _) = fake.run(&[&arguments[..], &["--json"]].concat());
    let [object] = &json_lines(&stdout)[..] else { panic!("{stdout}") };
    assert_eq!(object["rows"][1]["series"], "Lost");
    assert_eq!(object["series"][0], json!({"key": "Paid", "count": 8}));

    let asked = &fake.0.lock().unwrap().charted[0];
    assert_eq!(asked.unit(), Grouping::Month);
    assert_eq!(asked.split_by.as_ref().unwrap().grouping(), Grouping::Type);
    assert_eq!((asked.series_max, asked.fill_empty), (2, true));
}

#[test]
fn watched_trends_are_printed_as_they_change_until_the_pipe_is_closed() {
    let fake = || Fake::scripted(|state| state.trends = vec![trends(1), trends(2)]);
    let lines = fake().lines(&["trends", "--watch", "--json", "--split-by", "type"], 2);
    assert_eq!(json_lines(&lines[1])[0]["trends"]["rows"][0]["count"], 2);
    let lines = fake().lines(&["trends", "--watch", "--split-by", "type"], 7);
    assert_eq!(lines[6], "1970-01  Paid  2", "{lines:?}");
}

#[test]
fn a_correlation_is_a_tree_or_a_timeline_or_an_object_an_event() {
    use get_correlation_response::Message;
    let entry = |position: u64, tree_order, depth, cause: Cause, cause_position| {
        Message::Entry(TimelineEntry {
            event: Some(event(position)),
            since_first: Some(Duration { seconds: 0, nanos: 500_000_000 }),
            since_cause: (depth > 0).then_some(Duration { seconds: 2, nanos: 0 }),
            cause: cause.into(),
            cause_position,
            depth,
            tree_order,
        })
    };
    let script = || {
        let summary = CorrelationSummary {
            event_count: 5,
            sent_count: 3,
            stream_count: 1,
            root_count: 2,
            ..CorrelationSummary::default()
        };
        Fake::scripted(|state| {
            state.correlation = vec![
                Message::Summary(summary),
                entry(1, 1, 0, Cause::None, 0),
                entry(2, 3, 0, Cause::Unknown, 0),
                entry(3, 2, 1, Cause::Known, 1),
            ];
        })
    };
    let (code, stdout, stderr) = script().run(&["correlation", "case-1"]);
    assert_eq!((code, stderr.as_str()), (Some(0), "the first 3 of 5 events\n"));
    assert_eq!(
        stdout,
        "case-1: 5 events in 1 stream, 2 trees\n       \
         1  Payment-1@1  Paid  +500 ms\n       \
         3  └─ Payment-1@3  Paid  +500 ms  (+2 s after 1)\n       \
         2  Payment-1@2  Paid  +500 ms  (its cause  is unknown)\n"
    );
    let (_, stdout, _) = script().run(&["correlation", "case-1", "--timeline"]);
    let flat: Vec<&str> = stdout.lines().skip(1).map(|line| &line[7..21]).collect();
    assert_eq!(flat, ["1  Payment-1@1", "2  Payment-1@2", "3  Payment-1@3"]);

    let (_, stdout, _) = script().run(&["correlation", "case-1", "--json"]);
    let objects = json_lines(&stdout);
    assert_eq!(objects[0]["summary"]["rootCount"], 2);
    let third = &objects[3]["entry"];
    assert_eq!(third["event"]["data"]["a"], 1);
    assert_eq!((&third["cause"], &third["sinceCause"]), (&json!("CAUSE_KNOWN"), &json!("2s")));
    assert_eq!((&third["depth"], &third["treeOrder"]), (&json!(1), &json!(2)));
}

#[test]
fn a_plan_is_told_with_its_indexes() {
    let index = IndexUse { index: "types".to_owned(), value_count: 1, event_count: 12 };
    let plan = FilterPlan { indexes: vec![index], candidates_max: 12, ..FilterPlan::default() };
    let explain = ExplainResponse {
        head: 90,
        plans: vec![plan],
        candidates_max: 12,
        ..ExplainResponse::default()
    };
    let fake = Fake::scripted(|state| state.explain = explain);
    let (code, stdout, _) = fake.run(&["explain", "--type", "Paid"]);
    assert_eq!(code, Some(0));
    assert_eq!(
        stdout,
        "index             types: values 1, events 12\n\
         candidates        at most 12 of 90 events\n"
    );
    let (_, stdout, _) = fake.run(&["explain", "--type", "Paid", "--json"]);
    assert_eq!(json_lines(&stdout)[0]["plans"][0]["indexes"][0]["eventCount"], 12);
}

fn replayed(position: u64) -> replay_response::Message {
    let batch = Some(block([position]));
    replay_response::Message::Events(ReplayedEvents { batch, is_replay: true })
}

#[test]
fn a_replay_prints_each_event_at_once_and_tells_its_pauses_and_its_end() {
    use replay_response::Message;
    let pause = ReplayPause {
        wait: Some(Duration { seconds: 90, nanos: 0 }),
        until: Some(Timestamp { seconds: 0, nanos: 0 }),
    };
    let script = vec![
        Message::Started(ReplayStarted { head: 9 }),
        replayed(1),
        Message::Pause(pause),
        replayed(2),
        Message::Ended(ReplayEnded { event_count: 2, position: 9 }),
    ];
    let fake = Fake::scripted(|state| state.replay = script);
    let (code, stdout, stderr) = fake.run(&[
        "replay",
        "--json",
        "--speed",
        "2.5",
        "--pause-max",
        "1500ms",
        "--from",
        "1970-01-02",
        "--after",
        "4",
        "--limit",
        "7",
    ]);
    assert_eq!((code, positions(&stdout)), (Some(0), vec![1, 2]), "{stderr}");
    assert_eq!(
        stderr,
        "a pause of 1 min 30 s, until 1970-01-01T00:00:00Z\n2 events replayed, up to position 9\n"
    );
    let asked = fake.0.lock().unwrap().replayed.remove(0);
    assert!((asked.speed - 2.5).abs() < f64::EPSILON);
    assert_eq!(asked.pause_max, Some(Duration { seconds: 1, nanos: 500_000_000 }));
    assert_eq!(asked.from, Some(Timestamp { seconds: 86_400, nanos: 0 }));
    assert_eq!((asked.after, asked.limit), (4, 7));

    // The next one is far away, and the reader has this one.
    let fake = Fake::scripted(|state| state.replay = vec![replayed(1)]);
    assert_eq!(positions(&fake.lines(&["replay", "--json"], 1)[0]), [1]);
    assert!((fake.0.lock().unwrap().replayed[0].speed - 1.0).abs() < f64::EPSILON);
}

// --- Against a real server -----------------------------------------------------------------------

/// Four payments of a case, each a second after the one before, two of them caused by the first.
fn server_with_a_case() -> Serving {
    let mut command = annals(&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    command.args(["--index-metadata", "userId"]);
    let server = Serving::started_by(command);
    let first = "00000000-0000-7000-8000-000000000001";
    for number in 1..=4 {
        let id = format!("00000000-0000-7000-8000-00000000000{number}");
        let stream = format!("Payment-{}", number % 2);
        let data = format!(
            "{{\"amount\": {number}00, \"currency\": \"EUR\", \"note\": \"Straße {number}\"}}"
        );
        let (time, user) =
            (format!("2011-03-0{number}T12:00:00Z"), format!("userId=u{}", number % 2));
        let event_type = if number == 1 { "Asked" } else { "Paid" };
        let mut arguments = vec![
            "append",
            &stream,
            event_type,
            &data,
            "--id",
            &id,
            "--occurred-at",
            &time,
            "--metadata",
            &user,
            "--metadata",
            "host=a",
            "--correlation-id",
            "case-1",
        ];
        let cause = match number {
            2 | 3 => first,
            4 => "command-9",
            _ => "",
        };
        if !cause.is_empty() {
            arguments.extend(["--causation-id", cause]);
        }
        let (code, _, stderr) = server.run(&arguments);
        assert_eq!(code, Some(0), "{stderr}");
    }
    server
}

fn found(server: &Serving, arguments: &[&str]) -> Vec<u64> {
    let events = server.json(&[arguments, &["--json"]].concat());
    events.iter().map(|event| event["position"].as_u64().unwrap()).collect()
}

#[test]
fn a_real_server_finds_what_each_option_names_in_every_command_that_reads() {
    let server = server_with_a_case();
    for (options, expected) in [
        (&["--stream-prefix", "Payment-1"][..], &[1, 3][..]),
        (&["--correlation-id", "case-1", "--type", "Asked"], &[1]),
        (&["--causation-id", "command-9"], &[4]),
        (&["--metadata", "userId=u1"], &[1, 3]),
        (&["--metadata", "userId=u0", "--metadata", "userId=u1"], &[1, 2, 3, 4]),
        (&["--metadata", "userId=u0", "--metadata", "host=b"], &[]),
        (&["--occurred-from", "2011-03-02", "--occurred-to", "2011-03-03T12:00:00Z"], &[2]),
        (&["--recorded-to", "2011-03-02"], &[]),
        (&["--text", "STRASSE 2", "--text", "STRAẞE 3"], &[3]),
        (&["--json-match", "$.amount > 200"], &[3, 4]),
        (&["--json-match", "$.currency=EUR", "--json-match", "$.amount<=100"], &[1]),
        (&["--json-match", "$.none exists"], &[]),
    ] {
        for command in ["read", "search"] {
            assert_eq!(found(&server, &[&[command], options].concat()), expected, "{options:?}");
        }
    }
}

#[test]
fn a_real_search_goes_on_with_its_token() {
    let server = server_with_a_case();
    let (code, stdout, stderr) = server.run(&["search", "--json", "--limit", "3"]);
    assert_eq!((code, positions(&stdout)), (Some(0), vec![1, 2, 3]), "{stderr}");
    let token = stderr.split("--page-token ").nth(1).unwrap().trim();
    let (_, stdout, stderr) =
        server.run(&["search", "--json", "--limit", "3", "--page-token", token]);
    assert_eq!((positions(&stdout), stderr.as_str()), (vec![4], ""));
    assert_eq!(found(&server, &["search", "--backwards", "--all"]), [4, 3, 2, 1]);
}

#[test]
fn a_real_server_counts_by_time_name_and_metadata() {
    let server = server_with_a_case();
    let by = ["stats", "--json", "--by", "day", "--by", "type", "--by", "metadata:userId"];
    let counted = &server.json(&by)[0];
    assert_eq!((&counted["eventCount"], &counted["streamCount"]), (&json!(4), &json!(2)));
    assert_eq!(counted["groups"][0]["rows"][0]["key"], "2011-03-01");
    assert_eq!(counted["groups"][1]["rows"][0], json!({"key": "Paid", "count": 3}));
    assert_eq!(counted["groups"][2]["rows"][1], json!({"key": "u1", "count": 2}));
    let (code, stdout, _) = server.run(&["stats", "--time-zone", "Europe/Amsterdam"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("2011-03-01T13:00+01:00"), "{stdout}");

    let trends = &server.json(&["trends", "--json", "--split-by", "type", "--type", "Paid"])[0];
    assert_eq!(trends["rows"].as_array().unwrap().len(), 3);
    assert_eq!(trends["series"], json!([{"key": "Paid", "count": 3}]));
    let (code, stdout, _) = server.run(&["trends", "--by", "month"]);
    assert!(code == Some(0) && stdout.contains("2011-03  4  ███"), "{stdout}");
}

#[test]
fn a_real_correlation_is_drawn_and_a_plan_names_its_index() {
    let server = server_with_a_case();
    let (code, stdout, stderr) = server.run(&["correlation", "case-1"]);
    assert_eq!(code, Some(0), "{stderr}");
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(lines[0].starts_with("case-1: 4 events in 2 streams, 2 trees; 2011-03-01"), "{stdout}");
    assert!(lines[2].contains("├─ Payment-0@1  Paid  +1 d 0 h  (+1 d 0 h after 1)"), "{stdout}");
    assert!(lines[3].contains("└─ Payment-1@2"), "{stdout}");
    assert!(lines[4].ends_with("(its cause command-9 is unknown)"), "{stdout}");
    let (code, _, stderr) = server.run(&["correlation", "nothing"]);
    assert!(code == Some(1) && stderr.contains("UNKNOWN_CORRELATION"), "{stderr}");

    let plan = &server.json(&["explain", "--json", "--execute", "--type", "Paid"])[0];
    assert_eq!(plan["plans"][0]["indexes"][0]["index"], "types");
    assert_eq!(plan["execution"]["matchCount"], 3);
    let (_, stdout, _) = server.run(&["explain", "--text", "x"]);
    assert!(stdout.contains("every event is a candidate"), "{stdout}");
}

#[test]
fn a_real_replay_sends_everything_at_once_or_at_a_pace() {
    let server = server_with_a_case();
    assert_eq!(found(&server, &["replay", "--speed", "0"]), [1, 2, 3, 4]);
    let shortened = ["replay", "--pause-max", "10ms", "--from", "2011-03-03"];
    assert_eq!(found(&server, &shortened), [3, 4]);
}

#[test]
fn a_real_server_tells_what_its_indexes_and_its_cache_hold() {
    let server = server_with_a_case();
    let info = &server.json(&["info", "--json"])[0];
    assert_eq!(info["indexedMetadataKeys"], json!(["userId"]));
    assert!(info["queryCache"]["missCount"].is_u64(), "{info}");
    let [all, default] = ["indexBytesPerEvent", "defaultIndexBytesPerEvent"]
        .map(|name| info[name].as_f64().unwrap());
    assert!(0.0 < default && default < all, "{info}");
    let (_, stdout, _) = server.run(&["info"]);
    for part in ["memory: indexes", "  event ids", "  columns", "query cache", "indexed metadata"] {
        assert!(stdout.contains(part), "{part} in\n{stdout}");
    }
}
