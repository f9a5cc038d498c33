//! The real server, killed under load, again and again.

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use annals::wire::proto::v1::{
    AppendRequest, AppendResponse, AppendStreamRequest, CommitRequest, NewEvent, ReadAllRequest,
    RecordedEvent, StreamWrite, append_stream_response,
    command_service_client::CommandServiceClient, new_event,
    query_service_client::QueryServiceClient, recorded_event,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::transport::Channel;
use uuid::Uuid;

const ROUNDS: u64 = 30;
const WRITERS: u64 = 8;
const EVENTS_MAX: u64 = 4;

/// `annals serve` on a data directory; killed with SIGKILL when dropped.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(data: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_annals"))
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--data"])
            .arg(data)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut seen = String::new();
        let address = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "the server ended: {seen}");
            let fields: serde_json::Value = serde_json::from_str(&line).unwrap();
            if let Some(address) = fields["address"].as_str() {
                break format!("http://{address}");
            }
            seen += &line;
        };
        // The rest of the log is read, so that the server is not held up by it.
        std::thread::spawn(move || log.read_to_string(&mut String::new()));
        Self { process, address }
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(self.address.clone()).unwrap().connect().await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// One call of a writer. What it writes follows from its number, so it can be repeated and compared.
#[derive(Debug, Clone)]
struct Call {
    number: u64,
}

impl Call {
    fn ids(&self) -> Vec<Uuid> {
        let count = self.number % EVENTS_MAX + 1;
        (0..count).map(|event| Uuid::from_u64_pair(self.number, 1 << 63 | event)).collect()
    }

    fn data(id: Uuid) -> String {
        let (number, event) = id.as_u64_pair();
        format!(
            "{{\"call\":{number},\"event\":{},\"fill\":\"{}\"}}",
            event & 0xff,
            "z".repeat(usize::try_from(number % 700).unwrap(),)
        )
    }

    fn events(&self) -> Vec<NewEvent> {
        self.ids()
            .into_iter()
            .map(|id| NewEvent {
                id: id.to_string(),
                r#type: "Happened".to_owned(),
                data: Some(new_event::Data::Text(Self::data(id))),
                ..NewEvent::default()
            })
            .collect()
    }

    fn append(&self, writer: u64) -> AppendRequest {
        let stream = format!("Writer-{writer}");
        AppendRequest { stream, events: self.events(), ..AppendRequest::default() }
    }

    /// The first half goes to the writer's own stream, the rest to one that all share.
    fn commit(&self, writer: u64) -> CommitRequest {
        let mut own = self.events();
        let shared = own.split_off(own.len() / 2);
        let write = |stream: String, events| StreamWrite { stream, events, ..Default::default() };
        let mut all = vec![write("Shared-1".to_owned(), shared)];
        if !own.is_empty() {
            all.push(write(format!("Writer-{writer}"), own));
        }
        CommitRequest { writes: all, ..CommitRequest::default() }
    }
}

/// An acknowledged call: its first and last position.
type Acknowledged = (Call, u64, u64);

/// What a writer knows at the end of a round: what was acknowledged, and what was on its way.
#[derive(Default)]
struct Outcome {
    acknowledged: Vec<Acknowledged>,
    open: Vec<Call>,
}

/// Writes until the server is gone.
async fn write(
    channel: Channel,
    writer: u64,
    numbers: Arc<AtomicU64>,
    told: mpsc::Sender<()>,
) -> Outcome {
    let mut client = CommandServiceClient::new(channel);
    let mut outcome = Outcome::default();
    // Relaxed: it only gives out numbers.
    let next = || Call { number: numbers.fetch_add(1, Ordering::Relaxed) };
    match writer % 3 {
        0 => loop {
            let call = next();
            let Ok(response) = client.append(call.append(writer)).await else {
                outcome.open.push(call);
                return outcome;
            };
            let AppendResponse { first_position, position, .. } = response.into_inner();
            outcome.acknowledged.push((call, first_position, position));
            let _ = told.send(()).await;
        },
        1 => loop {
            let call = next();
            let Ok(response) = client.commit(call.commit(writer)).await else {
                outcome.open.push(call);
                return outcome;
            };
            let response = response.into_inner();
            outcome.acknowledged.push((call, response.first_position, response.position));
            let _ = told.send(()).await;
        },
        _ => {
            let (requests, receiver) = mpsc::channel(64);
            let mut open = std::collections::VecDeque::new();
            let Ok(responses) = client.append_stream(ReceiverStream::new(receiver)).await else {
                return outcome;
            };
            let mut responses = responses.into_inner();
            loop {
                // 16 are on their way at once.
                while open.len() < 16 {
                    let call = next();
                    let append = Some(call.append(writer));
                    open.push_back(call);
                    let _ = requests.send(AppendStreamRequest { append }).await;
                }
                let Some(Ok(response)) = responses.next().await else {
                    outcome.open.extend(open);
                    return outcome;
                };
                let call = open.pop_front().unwrap();
                match response.result.unwrap() {
                    append_stream_response::Result::Appended(appended) => {
                        let AppendResponse { first_position, position, .. } = appended;
                        outcome.acknowledged.push((call, first_position, position));
                    }
                    append_stream_response::Result::Error(error) => panic!("{error:?}"),
                }
                let _ = told.send(()).await;
            }
        }
    }
}

async fn read_all(server: &Server) -> Vec<RecordedEvent> {
    let mut client =
        QueryServiceClient::new(server.channel().await).max_decoding_message_size(usize::MAX);
    let mut blocks = client.read_all(ReadAllRequest::default()).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(block) = blocks.next().await {
        events.extend(block.unwrap().events);
    }
    events
}

/// Every acknowledged call is there whole, byte for byte, at the acknowledged positions; every other is
/// there whole or not at all.
fn check(events: &[RecordedEvent], acknowledged: &[Acknowledged]) {
    let mut versions: HashMap<&str, u64> = HashMap::new();
    let mut calls: BTreeMap<u64, Vec<Uuid>> = BTreeMap::new();
    for (position, event) in (1..).zip(events) {
        assert_eq!(event.position, position, "positions have no gap");
        let version = versions.entry(&event.stream).or_default();
        *version += 1;
        assert_eq!(event.version, *version, "versions have no gap");
        let id: Uuid = event.id.parse().unwrap();
        let data = recorded_event::Data::Text(Call::data(id));
        assert_eq!(event.data.as_ref(), Some(&data), "the data is what was sent");
        calls.entry(id.as_u64_pair().0).or_default().push(id);
    }
    for (number, ids) in calls {
        let sent = Call { number }.ids();
        let mut ids = ids.clone();
        ids.sort();
        assert_eq!(ids, sent, "a call is there whole");
    }
    for (call, first, last) in acknowledged {
        let mut ids: Vec<String> = (*first..=*last)
            .map(|position| events[usize::try_from(position - 1).unwrap()].id.clone())
            .collect();
        ids.sort();
        let sent: Vec<String> = call.ids().iter().map(Uuid::to_string).collect();
        assert_eq!(ids, sent, "an acknowledged call is where it was acknowledged");
    }
}

/// `kill -9` at any moment, under eight writers of all three kinds: nothing that was acknowledged is
/// lost or moved, no commit is there in part, and a repeat with the same ids gives the first answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9() {
    let data = tempfile::tempdir().unwrap();
    let numbers = Arc::new(AtomicU64::new(1));
    let mut random = SmallRng::seed_from_u64(0x000a_11a1);
    let mut acknowledged: Vec<Acknowledged> = Vec::new();
    let mut retried = 0;
    for _ in 0..ROUNDS {
        let mut server = Server::start(data.path());
        let (told, mut heard) = mpsc::channel(1024);
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            let channel = server.channel().await;
            writers.push(tokio::spawn(write(channel, writer, Arc::clone(&numbers), told.clone())));
        }
        drop(told);
        for _ in 0..random.random_range(1..1500) {
            heard.recv().await.unwrap();
        }
        server.process.kill().unwrap();
        let drain = tokio::spawn(async move { while heard.recv().await.is_some() {} });
        let mut open = Vec::new();
        for (writer, task) in (0..).zip(writers) {
            let outcome = task.await.unwrap();
            acknowledged.extend(outcome.acknowledged);
            open.extend(outcome.open.into_iter().map(|call| (writer, call)));
        }
        drain.await.unwrap();
        drop(server);

        let server = Server::start(data.path());
        check(&read_all(&server).await, &acknowledged);
        let mut client = CommandServiceClient::new(server.channel().await);
        // An earlier call again, and what was on its way: now it is certain.
        if let Some((call, first, last)) =
            acknowledged.iter().rev().find(|(call, ..)| call.number % 3 == 0)
        {
            let stream =
                read_all(&server).await[usize::try_from(first - 1).unwrap()].stream.clone();
            let writer: Option<u64> = stream.strip_prefix("Writer-").and_then(|n| n.parse().ok());
            if let Some(writer) = writer.filter(|writer| writer % 3 != 1) {
                let again = client.append(call.append(writer)).await.unwrap().into_inner();
                assert!(again.duplicate);
                assert_eq!((again.first_position, again.position), (*first, *last));
            }
        }
        for (writer, call) in open {
            let (first, last) = if writer % 3 == 1 {
                let response = client.commit(call.commit(writer)).await.unwrap().into_inner();
                (response.first_position, response.position)
            } else {
                let response = client.append(call.append(writer)).await.unwrap().into_inner();
                (response.first_position, response.position)
            };
            retried += 1;
            acknowledged.push((call, first, last));
        }
        check(&read_all(&server).await, &acknowledged);
    }
    assert!(retried >= ROUNDS, "calls were on their way when the server was killed");
}

/// A log that nobody reads any more is lost, and nothing else.
#[test]
fn a_server_whose_log_has_no_reader_stops_when_it_is_told_to() {
    let mut process = Command::new(env!("CARGO_BIN_EXE_annals"))
        .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "the server ended");
    }
    drop(log);
    let kill = |signal: &str, id: u32| {
        assert!(Command::new("kill").args([signal, &id.to_string()]).status().unwrap().success());
    };
    let id = process.id();
    kill("-TERM", id);
    let (sender, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(process.wait()));
    let Ok(status) = ended.recv_timeout(Duration::from_mins(1)) else {
        kill("-KILL", id);
        panic!("the server did not stop");
    };
    assert_eq!(status.unwrap().code(), Some(0));
}
