//! Exactly once, with processes: a projection's runners are killed with SIGKILL at any moment while events are being
//! written, and so is the server below them. The log itself says afterwards what the read model must be.

use std::{
    collections::{BTreeMap, HashSet},
    env,
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use annals::{config::Config, server};
use annals_client::{
    Client, ClientOptions, Event, ExpectedVersion, Filter, NewEvent,
    client::Retry,
    projection::{Documents, HandlerError, Projection, ReadModelTarget, Runner, Target},
    read_model::Find,
};
use rand::RngExt as _;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::target::{SqliteTarget, Statements};
use crate::checks::Checks;

#[path = "../../examples/payments/sqlite/target.rs"]
mod target;

/// Runners that are killed, in each test.
const RUNNER_KILLS: usize = 100;
const SERVER_KILLS_MIN: usize = 10;
/// Runners that there are at once.
const RUNNERS: usize = 2;
const WRITERS: usize = 3;
const ACCOUNTS: u64 = 5;
const STEPS_MAX: u32 = 40;

/// More in one append than in a runner's batch, so that runners have something to do whenever they are killed.
const EVENTS_MAX: usize = 20;

/// The time of an append: the machine is left to the runners.
const PACE: Duration = Duration::from_millis(20);

/// How a runner's line begins that says where it is.
const STEP: &str = "at ";
/// The variable with a process's [`Orders`].
const ORDERS: &str = "PROJECTION_KILLED";
const TOTALS: &str = "totals";
const TABLE: &str = "CREATE TABLE IF NOT EXISTS totals
     (stream TEXT PRIMARY KEY, events INTEGER NOT NULL, amount INTEGER NOT NULL) STRICT";
const ADD: &str = "INSERT INTO totals VALUES (?1, 1, ?2)
     ON CONFLICT DO UPDATE SET events = events + 1, amount = amount + ?2";

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
struct Total {
    events: u64,
    amount: u64,
}

type Totals = BTreeMap<String, Total>;

/// Adds up the amounts of each stream of `Account`.
struct Adds;

fn accounts() -> Vec<Filter> {
    vec![Filter::new().category("Account")]
}

impl Projection<Documents> for Adds {
    fn name(&self) -> &'static str {
        TOTALS
    }

    fn filters(&self) -> Vec<Filter> {
        accounts()
    }

    async fn handle(&mut self, event: &Event, totals: &mut Documents) -> Result<(), HandlerError> {
        let mut total: Total = totals.get(&event.stream).await?.unwrap_or_default();
        total.events += 1;
        total.amount += event.json::<u64>()?;
        totals.put(&event.stream, &total)?;
        Ok(())
    }
}

impl Projection<Statements> for Adds {
    fn name(&self) -> &'static str {
        TOTALS
    }

    fn filters(&self) -> Vec<Filter> {
        accounts()
    }

    async fn handle(&mut self, event: &Event, totals: &mut Statements) -> Result<(), HandlerError> {
        totals.add(ADD, [event.stream.clone().into(), event.json::<i64>()?.into()]);
        Ok(())
    }
}

/// Where the read model is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Place {
    Server,
    Sqlite,
}

/// What a process is told by the test that starts it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Orders {
    address: SocketAddr,
    directory: PathBuf,
    place: Place,
    is_checked: bool,
    batch_size: u32,
    /// Ends when it has caught up.
    is_last: bool,
}

impl Orders {
    /// `None`: whoever runs the ignored tests runs a role for itself, which has nothing to do.
    fn given() -> Option<Self> {
        let orders = env::var(ORDERS).ok()?;
        // A test that was killed itself leaves nothing behind: its end of the pipe closes.
        std::thread::spawn(|| {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(1);
        });
        Some(serde_json::from_str(&orders).unwrap())
    }

    fn client(&self) -> ClientOptions {
        ClientOptions::new(format!("http://{}", self.address))
    }

    fn database(&self) -> PathBuf {
        self.directory.join("totals.sqlite")
    }

    async fn project<T: Target>(&self, client: &Client, target: T)
    where
        Adds: Projection<T::Batch>,
    {
        let target = Checks { target, is_on: self.is_checked };
        let runner = Runner::new(client, Adds, target).batch_size(self.batch_size);
        let mut progress = runner.progress();
        tokio::spawn(async move {
            while progress.changed().await.is_ok() {
                // A line of its own: the test's own name has no end.
                println!("\n{STEP}{}", progress.borrow_and_update().checkpoint);
            }
        });
        if self.is_last {
            return runner.run_until_caught_up().await.unwrap();
        }
        let ran = runner.run(std::future::pending()).await;
        // Without the check it may go beyond the log, which the server does not take.
        assert!(!self.is_checked, "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process of the other tests"]
async fn role_server() {
    let Some(orders) = Orders::given() else { return };
    let listener = TcpListener::bind(orders.address).await.unwrap();
    let config = Config { data: Some(orders.directory.join("data")), ..Config::default() };
    server::run(config, listener, CancellationToken::new()).await.unwrap();
}

/// With a thread that tells the steps, whatever the runner's does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process of the other tests"]
async fn role_runner() {
    let Some(orders) = Orders::given() else { return };
    let client = orders.client().connect().await.unwrap();
    match orders.place {
        Place::Server => {
            orders.project(&client, ReadModelTarget::new(client.read_model(TOTALS))).await;
        }
        Place::Sqlite => {
            let target = SqliteTarget::open(&orders.database(), TOTALS, TABLE).unwrap();
            orders.project(&client, target).await;
        }
    }
}

/// This program again, with one of the roles as its only test. Dropped, it is killed with SIGKILL.
struct Process {
    child: Child,
    _stdin: ChildStdin,
}

impl Process {
    fn start(role: &str, orders: &Orders, mut told: impl FnMut() + Send + 'static) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args([&format!("projection_killed::{role}"), "--exact", "--ignored", "--nocapture"])
            .env(ORDERS, serde_json::to_string(orders).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        // A pipe that nobody reads would stop the process.
        let lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let steps = lines.filter(|line| line.starts_with(STEP));
        std::thread::spawn(move || steps.for_each(|_| told()));
        Self { child, _stdin: stdin }
    }

    fn server(orders: &Orders) -> Self {
        Self::start("role_server", orders, || {})
    }

    /// Tells its steps.
    fn runner(orders: &Orders, told: &mpsc::Sender<()>) -> Self {
        let told = told.clone();
        // Who has not heard the last one yet need not hear of this one.
        Self::start("role_runner", orders, move || told.try_send(()).unwrap_or_default())
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_mins(1), future).await.expect("within a minute")
}

/// Appends until it is told to stop: what was acknowledged, by position.
async fn write(client: Client, stop: CancellationToken) -> BTreeMap<u64, Uuid> {
    let mut acknowledged = BTreeMap::new();
    let mut pace = tokio::time::interval(PACE);
    while !stop.is_cancelled() {
        pace.tick().await;
        let deposit = || NewEvent::json("Deposited", &rand::rng().random_range(0..1000)).unwrap();
        let events: Vec<NewEvent> =
            (0..rand::rng().random_range(1..=EVENTS_MAX)).map(|_| deposit()).collect();
        let stream = match rand::rng().random_range(0..=ACCOUNTS) {
            ACCOUNTS => "User-1".to_owned(),
            account => format!("Account-{account}"),
        };
        let appended = loop {
            match client.append(&stream, ExpectedVersion::Any, events.clone()).await {
                Ok(appended) => break appended,
                // The server is away. The same events again.
                Err(error) if error.is_transient() || error.is_outcome_unknown() => {}
                Err(error) => panic!("{error:?}"),
            }
        };
        let positions = (appended.position + 1 - events.len() as u64)..=appended.position;
        acknowledged.extend(positions.zip(events.iter().map(|event| event.id)));
    }
    acknowledged
}

/// What there is when everything is over.
#[derive(Debug)]
struct End {
    model: Totals,
    checkpoint: u64,
    /// What the model must be.
    fold: Totals,
    head: u64,
}

/// Kills runners and server, starts them anew, and lets one last runner come to the end.
async fn killed(place: Place, is_checked: bool) -> End {
    let directory = tempfile::tempdir().unwrap();
    // Bound and not listening, it keeps the port for the servers that come one after the other.
    let port = TcpSocket::new_v4().unwrap();
    port.set_reuseaddr(true).unwrap();
    port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = port.local_addr().unwrap();
    let path = directory.path().to_owned();
    let orders =
        Orders { address, directory: path, place, is_checked, batch_size: 500, is_last: false };
    let mut server = Some(Process::server(&orders));
    let retry = Retry { pause_max: Duration::from_millis(100), ..Retry::for_ever() };
    let client = orders.client().retry(retry).connect().await.unwrap();
    client.read_model(TOTALS).create(&[]).await.unwrap();
    let (stop, mut writers) = (CancellationToken::new(), JoinSet::new());
    for _ in 0..WRITERS {
        writers.spawn(write(client.clone(), stop.clone()));
    }

    let (told, mut heard) = mpsc::channel(1);
    let mut runners: Vec<Process> = Vec::new();
    let (mut runner_kills, mut server_kills, mut steps) = (0, 0, 0);
    for turn in 1.. {
        while runners.len() < RUNNERS {
            // Of different sizes, so that their batches overlap.
            let batch_size = rand::rng().random_range(3..=9);
            runners.push(Process::runner(&Orders { batch_size, ..orders.clone() }, &told));
        }
        server.get_or_insert_with(|| Process::server(&orders));
        if runner_kills >= RUNNER_KILLS {
            break;
        }
        // Any moment: some steps on, and then in the middle of one.
        let steps_max = rand::rng().random_range(0..STEPS_MAX);
        let moment = Duration::from_micros(rand::rng().random_range(0..10_000));
        let some_steps = async {
            for _ in 0..steps_max {
                heard.recv().await;
                steps += 1;
            }
        };
        // Without the check, all of them may have ended.
        let _ = timeout(Duration::from_millis(500), some_steps).await;
        tokio::time::sleep(moment).await;
        if turn % 4 == 0 {
            server = None;
            server_kills += 1;
        }
        // One of them or all; the next ones begin while the server is away, if it was killed.
        for _ in 0..rand::rng().random_range(1..=RUNNERS) {
            let mut runner = runners.swap_remove(rand::rng().random_range(0..runners.len()));
            assert!(!runner.has_ended() || !is_checked, "a runner has ended by itself");
            runner_kills += 1;
        }
    }
    drop(runners);
    stop.cancel();
    let mut acknowledged = BTreeMap::new();
    while let Some(written) = within(writers.join_next()).await {
        acknowledged.extend(written.unwrap());
    }
    assert!(server_kills >= SERVER_KILLS_MIN, "{server_kills}");
    assert!(
        !is_checked || steps > RUNNER_KILLS,
        "the runners that were killed had come on: {steps}"
    );

    let last = Orders { is_checked: true, batch_size: 500, is_last: true, ..orders.clone() };
    let mut last = Process::runner(&last, &told);
    drop(told);
    while within(heard.recv()).await.is_some() {}
    assert!(last.child.wait().unwrap().success());
    let log = client.read_all().collect().await.unwrap();
    check(&log, &acknowledged);
    let (model, checkpoint) = match place {
        Place::Server => documents(&client).await,
        Place::Sqlite => rows(&orders),
    };
    End { model, checkpoint, fold: fold(&log), head: log.len() as u64 }
}

/// What was acknowledged is where it was acknowledged, and no event is there twice.
fn check(log: &[Event], acknowledged: &BTreeMap<u64, Uuid>) {
    let mut ids = HashSet::new();
    for (position, event) in (1..).zip(log) {
        assert_eq!(event.position, position, "positions have no gap");
        assert!(ids.insert(event.id), "{event:?} is there twice");
    }
    for (position, id) in acknowledged {
        let event = log.get(usize::try_from(position - 1).unwrap());
        assert_eq!(event.map(|event| event.id), Some(*id), "acknowledged at {position}");
    }
    assert!(acknowledged.len() > RUNNER_KILLS, "{} were acknowledged", acknowledged.len());
}

fn fold(log: &[Event]) -> Totals {
    let mut totals = Totals::new();
    for event in log.iter().filter(|event| event.stream.starts_with("Account-")) {
        let total = totals.entry(event.stream.clone()).or_default();
        total.events += 1;
        total.amount += event.json::<u64>().unwrap();
    }
    totals
}

async fn documents(client: &Client) -> (Totals, u64) {
    let model = client.read_model(TOTALS);
    let found = model.find_all(Find::new()).await.unwrap();
    let totals = found.into_iter().map(|document| (document.key, document.value)).collect();
    (totals, model.checkpoint().await.unwrap().checkpoint)
}

fn rows(orders: &Orders) -> (Totals, u64) {
    let connection = Connection::open(orders.database()).unwrap();
    let mut totals = connection.prepare("SELECT stream, events, amount FROM totals").unwrap();
    let totals = totals.query_map([], |row| {
        let number = |at| Ok::<_, rusqlite::Error>(row.get::<_, i64>(at)?.cast_unsigned());
        Ok((row.get(0)?, Total { events: number(1)?, amount: number(2)? }))
    });
    let totals = totals.unwrap().collect::<Result<_, _>>().unwrap();
    let checkpoint = "SELECT position FROM checkpoints WHERE projection = ?1";
    let checkpoint = connection.query_row(checkpoint, [TOTALS], |row| row.get::<_, i64>(0));
    (totals, checkpoint.unwrap().cast_unsigned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_model_on_the_server_is_exactly_the_fold_after_runners_and_server_were_killed() {
    let end = killed(Place::Server, true).await;
    assert_eq!(end.model, end.fold);
    assert_eq!(end.checkpoint, end.head);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_a_sqlite_database_are_exactly_the_fold_after_runners_and_server_were_killed() {
    let end = killed(Place::Sqlite, true).await;
    assert_eq!(end.model, end.fold);
    assert_eq!(end.checkpoint, end.head);
}

/// The harness sees what it is there to see.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_checkpoint_check_killed_runners_do_not_count_once() {
    for place in [Place::Server, Place::Sqlite] {
        let end = killed(place, false).await;
        assert_ne!(end.model, end.fold, "{place:?}");
    }
}
