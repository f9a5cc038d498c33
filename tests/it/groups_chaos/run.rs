//! A run: the server and its lives, the groups and what is known of them, who writes and who operates.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use annals::wire::proto::v1::{
    CreateGroupRequest, DropParkedRequest, GroupSettings, GroupStrategy, ListParkedRequest,
    NewEvent, ReadAllRequest, RecordedEvent, ReplayParkedRequest,
    command_service_client::CommandServiceClient, new_event::Data,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::checker::{Fact, Fault, Log, Noted, Rules};
use crate::support::{
    append_request, asked::of_types, connect, consumer::Groups, dice::Dice, endpoint, event,
    process::Process, queries, within,
};

/// The type of the events that the groups are about.
pub const PICKED: &str = "Paid";
const KEYS: u64 = 12;

/// So far may the writers be ahead of the slowest half of the groups.
const AHEAD_MAX: u64 = 400;

/// The server's life, counted, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    pub number: u32,
    pub address: Option<SocketAddr>,
}

pub struct Run {
    pub begun: Instant,
    pub life: watch::Sender<Life>,
    /// How many events were delivered, over all groups.
    progress: watch::Sender<u64>,
    /// Cancelled: everything calms down.
    pub busy: CancellationToken,
    /// Cancelled: consumers go.
    pub over: CancellationToken,
    pub connections: std::sync::atomic::AtomicU64,
    server: Mutex<Option<Process>>,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            life: watch::Sender::new(Life { number: 0, address: None }),
            progress: watch::Sender::new(0),
            busy: CancellationToken::new(),
            over: CancellationToken::new(),
            connections: std::sync::atomic::AtomicU64::default(),
            server: Mutex::default(),
        }
    }
}

impl Run {
    pub fn start(&self, data: &Path) {
        let process = tokio::task::block_in_place(|| Process::start_on(data));
        let address = Some(process.address);
        *self.server.lock().unwrap() = Some(process);
        self.life.send_modify(|life| life.address = address);
    }

    /// Writes down that it is killed, and kills it.
    pub fn kill(&self, groups: &[Arc<Group>]) {
        for group in groups {
            let mut known = group.known();
            known.note(Fact::Killed);
            known.life += 1;
        }
        self.life.send_modify(|life| *life = Life { number: life.number + 1, address: None });
        tokio::task::block_in_place(|| drop(self.server.lock().unwrap().take()));
    }

    /// Waits until so many more events were delivered.
    pub async fn progress_by(&self, count: u64) {
        let mut progress = self.progress.subscribe();
        let target = *progress.borrow() + count;
        within(progress.wait_for(|done| *done >= target)).await.unwrap();
    }

    pub fn progressed(&self) {
        self.progress.send_modify(|done| *done += 1);
    }

    fn groups(&self) -> impl Future<Output = Groups> + use<> {
        let address = self.life.borrow().address.unwrap();
        async move { Groups::new(connect(address).await) }
    }

    pub async fn read_all(&self) -> Vec<RecordedEvent> {
        let address = self.life.borrow().address.unwrap();
        let mut queries = queries(connect(address).await);
        let blocks = within(queries.read_all(ReadAllRequest::default())).await;
        let mut blocks = blocks.unwrap().into_inner();
        let mut events = Vec::new();
        while let Some(block) = within(blocks.message()).await.unwrap() {
            events.extend(block.events);
        }
        events
    }
}

/// What is known of a group.
pub struct Known {
    begun: Instant,
    pub life: u32,
    history: Vec<Noted>,
    /// The ids of the events that were delivered.
    ids: HashMap<u64, String>,
}

impl Known {
    pub fn note(&mut self, fact: Fact) {
        self.history.push(Noted { at: self.begun.elapsed(), fact });
    }
}

pub struct Group {
    pub run: Arc<Run>,
    pub name: String,
    pub strategy: GroupStrategy,
    settings: GroupSettings,
    pub rules: Rules,
    known: Mutex<Known>,
}

impl Group {
    pub fn new(
        run: Arc<Run>,
        name: &str,
        strategy: GroupStrategy,
        settings: GroupSettings,
        rules: Rules,
    ) -> Self {
        let known = Known { begun: run.begun, life: 0, history: Vec::new(), ids: HashMap::new() };
        Self { run, name: name.to_owned(), strategy, settings, rules, known: Mutex::new(known) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap()
    }

    /// Whether the server still lives that life.
    pub fn lives(&self, life: u32) -> bool {
        self.known().life == life
    }

    /// Writes it down, unless it is about a server that is dead. Then the caller says and does nothing more.
    #[must_use]
    pub fn note(&self, life: u32, fact: Fact) -> bool {
        let mut known = self.known();
        let lives = known.life == life;
        if lives {
            known.note(fact);
        }
        lives
    }

    pub fn note_now(&self, fact: Fact) {
        self.known().note(fact);
    }

    /// Writes down a delivery. An event is the same one each time.
    #[must_use]
    pub fn note_delivery(
        &self,
        life: u32,
        consumer: u64,
        event: &RecordedEvent,
        deliveries: u32,
    ) -> bool {
        let position = event.position;
        let fact = Fact::Delivered { consumer, position, deliveries };
        self.note(life, fact) && {
            let mut known = self.known();
            let id = known.ids.entry(position).or_insert_with(|| event.id.clone());
            assert_eq!(*id, event.id, "{}: position {position} is one event", self.name);
            drop(known);
            self.run.progressed();
            true
        }
    }

    pub fn assert_what_was_delivered_is_in(&self, events: &[RecordedEvent]) {
        for (position, id) in &self.known().ids {
            assert_eq!(events[usize::try_from(position - 1).unwrap()].id, *id, "{}", self.name);
        }
    }

    pub fn history(&self) -> Vec<Noted> {
        self.known().history.clone()
    }

    /// Prints what is known about the events of a fault, and those between them of the same key.
    pub fn tell(&self, fault: &Fault, log: &Log) {
        let (one, other) = match fault {
            Fault::TwoOfAKey { positions, .. } => *positions,
            Fault::TooEarly { position, open: other, .. }
            | Fault::Back { position, after: other, .. } => (*position, *other),
            Fault::Stranger { position, .. }
            | Fault::Twice { position, .. }
            | Fault::CountedAnew { position, .. }
            | Fault::Forgotten { position }
            | Fault::NeverParked { position } => (*position, *position),
        };
        let key = log.get(&one);
        let between = log.range(one.min(other)..=one.max(other));
        let about: Vec<u64> =
            between.filter(|(_, its)| Some(*its) == key).map(|(position, _)| *position).collect();
        println!("  of one key: {about:?}");
        for (number, Noted { at, fact }) in self.known().history.iter().enumerate() {
            let told = match fact {
                Fact::Delivered { position, .. }
                | Fact::Said { position, .. }
                | Fact::Refused { position, .. } => about.contains(position),
                Fact::Dropped { positions } | Fact::Parked { positions } => {
                    let about: Vec<_> = positions.iter().filter(|it| about.contains(it)).collect();
                    if !about.is_empty() {
                        let what =
                            if matches!(fact, Fact::Parked { .. }) { "Parked" } else { "Dropped" };
                        println!("  {number} {at:?} {what} {about:?}");
                    }
                    false
                }
                Fact::Killed => true,
                Fact::Closed { .. } | Fact::Stalled { .. } => false,
            };
            if told {
                println!("  {number} {at:?} {fact:?}");
            }
        }
    }

    pub async fn create(&self) {
        let request = CreateGroupRequest {
            group: self.name.clone(),
            filters: of_types(&[PICKED]),
            settings: Some(self.settings),
            ..CreateGroupRequest::default()
        };
        self.run.groups().await.create(request).await.unwrap();
    }

    /// Waits until nothing is open up to there.
    pub async fn settled_up_to(&self, last: u64) {
        let groups = self.run.groups().await;
        groups
            .until(&self.name, |info| {
                info.position >= last && info.in_flight_count == 0 && info.retry_count == 0
            })
            .await;
    }

    pub async fn all_parked(&self) -> Vec<u64> {
        let groups = self.run.groups().await;
        let mut all = Vec::new();
        loop {
            let after = all.last().copied().unwrap_or(0);
            let request = ListParkedRequest { group: self.name.clone(), after, page_size: 100 };
            let page = groups.list_parked(request).await.unwrap();
            all.extend(page.parked.iter().map(|parked| parked.position));
            if !page.more {
                assert_eq!(all.len() as u64, page.parked_count, "{}", self.name);
                return all;
            }
        }
    }

    pub async fn replay_all_that_is_parked(&self) {
        let groups = self.run.groups().await;
        groups.replay_parked(&self.name, &[]).await;
        groups.until(&self.name, |info| info.parked_count == 0 && info.in_flight_count == 0).await;
        assert!(self.all_parked().await.is_empty());
    }
}

/// Notes when the run itself stands still, so that nobody is blamed for it.
pub async fn watch_the_clock(run: Arc<Run>, groups: Vec<Arc<Group>>) {
    const TICK: Duration = Duration::from_millis(10);
    let mut before = run.begun.elapsed();
    let mut ticks = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            () = run.over.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let now = run.begun.elapsed();
        if now > before + 6 * TICK {
            for group in &groups {
                group.note_now(Fact::Stalled { since: before });
            }
        }
        before = now;
    }
}

/// Waits for a server to talk to. None: everything calms down.
async fn alive(run: &Run) -> Option<Life> {
    let mut lives = run.life.subscribe();
    tokio::select! {
        biased;
        () = run.busy.cancelled() => None,
        life = lives.wait_for(|life| life.address.is_some()) => Some(*life.unwrap()),
    }
}

/// Writes events of some keys, and others, as far ahead of the groups as is good. What becomes of an append
/// that fails is what the log says in the end.
pub async fn write(run: Arc<Run>, groups: u64, mut dice: Dice) {
    let mut written = 0;
    while let Some(life) = alive(&run).await {
        let Ok(channel) = endpoint(life.address.unwrap()).connect().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let mut commands = CommandServiceClient::new(channel);
        loop {
            let mut progress = run.progress.subscribe();
            // There are two writers, and half of the groups may wait for an operator.
            let enough = (2 * written * groups / 2).saturating_sub(AHEAD_MAX);
            tokio::select! {
                biased;
                () = run.busy.cancelled() => return,
                _ = progress.wait_for(|done| *done >= enough) => {}
            }
            let stream = format!("Key-{}", dice.below(KEYS));
            let count = dice.below(4) + 1;
            let events: Vec<_> = (0..count).map(|_| random_event(&mut dice)).collect();
            written += events.iter().filter(|event| event.r#type == PICKED).count() as u64;
            if commands.append(append_request(&stream, None, events)).await.is_err() {
                break;
            }
        }
    }
}

fn random_event(dice: &mut Dice) -> NewEvent {
    let picked = !dice.once_in(5);
    let correlation_id =
        if dice.once_in(8) { String::new() } else { format!("case-{}", dice.below(KEYS)) };
    NewEvent {
        correlation_id,
        data: Some(Data::Text(format!("{{\"number\":{}}}", dice.below(1000)))),
        ..event(if picked { PICKED } else { "Noise" })
    }
}

/// Looks after what is parked: delivers it again, or forgets it.
pub async fn operate(run: Arc<Run>, groups: Vec<Arc<Group>>, mut dice: Dice) {
    while let Some(life) = alive(&run).await {
        let Ok(channel) = endpoint(life.address.unwrap()).connect().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let client = Groups::new(channel);
        loop {
            let group = Arc::clone(dice.pick(&groups));
            if !step(&client, life.number, &group, &mut dice).await {
                break;
            }
            tokio::select! {
                biased;
                () = run.busy.cancelled() => return,
                () = run.progress_by(20) => {}
            }
        }
    }
}

/// Whether the server lives.
async fn step(client: &Groups, life: u32, group: &Group, dice: &mut Dice) -> bool {
    let name = group.name.clone();
    let request = ListParkedRequest { group: name.clone(), after: 0, page_size: 20 };
    let listed = match client.list_parked(request).await {
        Ok(listed) => listed.parked,
        Err(status) => {
            assert!(!group.lives(life), "{}: {status}", group.name);
            return false;
        }
    };
    if listed.is_empty() {
        return group.lives(life);
    }
    let some: Vec<_> =
        listed.iter().filter(|_| dice.once_in(2)).map(|parked| parked.position).collect();
    let done = match dice.below(5) {
        0 if !some.is_empty() => {
            if !group.note(life, Fact::Dropped { positions: some.clone() }) {
                return false;
            }
            let request = DropParkedRequest { group: name, positions: some, all: false };
            client.drop_request(request).await
        }
        1 => {
            let request = ReplayParkedRequest { group: name, positions: some, events_max: 0 };
            client.replay(request).await
        }
        2 => {
            let events_max = 3;
            client.replay(ReplayParkedRequest { group: name, positions: vec![], events_max }).await
        }
        _ => client.replay(ReplayParkedRequest { group: name, ..Default::default() }).await,
    };
    if let Err(status) = &done {
        assert!(!group.lives(life), "{}: {status}", group.name);
    }
    done.is_ok()
}
