//! Any watch, folded: whenever it has caught up with a checkpoint, the client has what a look at every document
//! of that checkpoint gives.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use annals::wire::proto::v1::{
    ApplyRequest, DocumentWrite, FieldMatch, FindRequest,
    JsonOperator::{GreaterOrEqual, Less},
    WatchRequest,
    watch_response::Message,
};
use tokio::{sync::Semaphore, task::JoinSet};

use super::model::{Plain, assert_same};
use crate::support::{
    TestStore, connect,
    dice::Dice,
    models::{
        Models, Watch, apply, create, delete, equals, find, matches, merge, number, text, upsert,
        watch,
    },
    within,
};

const INDEXES: &[&[&str]] = &[&["s", "n"], &["n"]];
const APPLIES: u64 = 300;
const KEYS: u64 = 30;
/// Of a slow watcher's documents: not many of them fit into what waits on a connection.
const FILL: usize = 3000;

/// What each version has been at each of its checkpoints.
type History = Arc<Mutex<HashMap<(u32, u64), Plain>>>;

fn wanted() -> Vec<Vec<FieldMatch>> {
    vec![
        vec![],
        vec![equals("s", text("a"))],
        vec![equals("s", text("b")), matches("n", Less, number(4.0))],
        vec![matches("n", GreaterOrEqual, number(3.0))],
        vec![matches("n", GreaterOrEqual, number(2.0)), equals("s", text("a"))],
        vec![equals("n", number(99.0))],
    ]
}

fn a_write(dice: &mut Dice, fill: &str) -> DocumentWrite {
    let key = format!("k{}", dice.below(KEYS));
    let (s, n) = (*dice.pick(&["a", "b", "c"]), dice.below(6));
    match dice.below(6) {
        0 => delete(&key),
        1 => merge(&key, &format!(r#"{{"n":{n}}}"#)),
        2 => merge(&key, &format!(r#"{{"s":"{s}","extra":null}}"#)),
        _ => upsert(&key, &format!(r#"{{"s":"{s}","n":{n},"extra":{n},"fill":"{fill}"}}"#)),
    }
}

/// Reads to the end, a message for each permit, and compares at each checkpoint. How often it was told to forget, and
/// how often it was compared.
async fn follow(
    mut watch: Watch,
    request: WatchRequest,
    history: History,
    permits: Arc<Semaphore>,
    last: u64,
) -> (usize, usize) {
    let (mut resets, mut compared) = (0, 0);
    let (mut version, mut checkpoint) = (None, 0);
    loop {
        within(permits.acquire()).await.unwrap().forget();
        match watch.next().await.unwrap() {
            Message::Reset(reset) => {
                resets += 1;
                assert!(request.version == 0 || reset.version == request.version);
                (version, checkpoint) = (Some(reset.version), 0);
            }
            Message::CaughtUp(caught_up) => {
                let told = version.get_or_insert(caught_up.version);
                assert_eq!(*told, caught_up.version, "another version comes with a reset");
                assert!(checkpoint <= caught_up.checkpoint, "{checkpoint} came before");
                checkpoint = caught_up.checkpoint;
                let history = history.lock().unwrap();
                let plain = &history[&(caught_up.version, checkpoint)];
                let what = format!("{:?} at {checkpoint}", request.matches);
                assert_same(watch.documents.values(), plain.matching(&request.matches), &what);
                compared += 1;
                if checkpoint == last {
                    return (resets, compared);
                }
            }
            Message::Changes(_) | Message::Heartbeat(_) => {}
        }
    }
}

/// The server's versions and what they should be.
struct Projection {
    models: Models,
    history: History,
    plain: HashMap<u32, Plain>,
}

impl Projection {
    async fn apply(&mut self, version: u32, checkpoint: u64, writes: Vec<DocumentWrite>) {
        let plain = self.plain.get_mut(&version).unwrap();
        let before = plain.checkpoint;
        plain.apply(checkpoint, &writes);
        // Before it is told to anybody.
        self.history.lock().unwrap().insert((version, checkpoint), plain.clone());
        let request = ApplyRequest { version, ..apply("m", before, checkpoint, writes) };
        self.models.apply(request).await.unwrap();
    }
}

async fn round(seed: u64) -> usize {
    let mut dice = Dice::new(seed);
    let store = TestStore::start().await;
    let head = store.fill("Payment-1", usize::try_from(APPLIES).unwrap() * 3).await;
    let last = *head.last().unwrap();
    let models = store.models();
    let history: History = Arc::default();
    let mut plain = HashMap::new();
    for version in [1, 2] {
        models.create(create("m", version, INDEXES)).await.unwrap();
        plain.insert(version, Plain::default());
        history.lock().unwrap().insert((version, 0), Plain::default());
    }
    let mut projection = Projection { models: models.clone(), history, plain };
    let mut watches = JoinSet::new();
    let slow = Arc::new(Semaphore::new(0));
    let fast = Arc::new(Semaphore::new(1 << 20));
    let mut begin = async |projection: &Projection, matches, version, permits: &Arc<Semaphore>| {
        let request = WatchRequest { version, ..watch("m", matches) };
        let models = Models::new(connect(store.address).await);
        let (history, permits) = (Arc::clone(&projection.history), Arc::clone(permits));
        watches.spawn(async move {
            let watch = models.watch(request.clone()).await.unwrap();
            follow(watch, request, history, permits, last).await
        });
    };
    for matches in wanted() {
        begin(&projection, matches.clone(), 0, &fast).await;
        begin(&projection, matches.clone(), 1, &fast).await;
        begin(&projection, matches, 0, &slow).await;
    }
    let fill = "x".repeat(FILL);
    for _ in 0..APPLIES {
        let version = if dice.once_in(3) { 2 } else { 1 };
        let checkpoint = projection.plain[&version].checkpoint + 1 + dice.below(3);
        let writes = (0..dice.below(12)).map(|_| a_write(&mut dice, &fill)).collect();
        projection.apply(version, checkpoint.min(last - 1), writes).await;
        if dice.once_in(60) {
            let version = *dice.pick(&[1, 2]);
            models.switch("m", version).await.unwrap();
        }
        if dice.once_in(30) {
            // One that begins in the midst of it.
            let matches = dice.pick(&wanted()).clone();
            begin(&projection, matches, 0, &fast).await;
        }
        if dice.once_in(10) {
            slow.add_permits(1);
        }
    }
    for version in [1, 2] {
        projection
            .apply(version, last, vec![delete("k0"), upsert("k1", r#"{"s":"a","n":1}"#)])
            .await;
    }
    slow.add_permits(1 << 20);
    let mut resets = 0;
    while let Some(result) = within(watches.join_next()).await {
        let (told, compared) = result.unwrap();
        assert!(compared > 0);
        resets += told;
    }
    // Find says the same.
    for (version, plain) in &projection.plain {
        for matches in wanted() {
            let request = FindRequest { version: *version, ..find("m", matches, "") };
            let found = models.find_all(request.clone()).await.unwrap();
            plain.assert_found(&found, &request);
        }
    }
    resets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folded_watch_is_at_each_checkpoint_what_a_look_at_every_document_gives() {
    let mut resets = 0;
    for seed in 0..4 {
        resets += round(0x000a_11a1 + seed).await;
    }
    assert!(resets > 0, "versions were switched, and some were slow");
}

/// The first result comes in several parts, each of its own moment: before it is told to be whole, all that changed
/// meanwhile is in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_result_that_changes_while_it_is_read_is_that_of_the_checkpoint_with_which_it_is_whole()
 {
    const DOCUMENTS: u64 = 1800;
    const CHANGES: u64 = 200;
    let store = TestStore::start().await;
    let at = store.fill("Payment-1", usize::try_from(CHANGES).unwrap() + 1).await;
    let last = *at.last().unwrap();
    let models = store.models();
    models.create(create("m", 1, INDEXES)).await.unwrap();
    let history: History = Arc::default();
    let plain = HashMap::from([(1, Plain::default())]);
    let mut projection = Projection { models: models.clone(), history, plain };
    let fill = "x".repeat(8000);
    let document = |key: u64, n: u64| {
        let json = format!(r#"{{"s":"a","n":{n},"fill":"{fill}"}}"#);
        upsert(&format!("{key:05}"), &json)
    };
    projection.apply(1, at[0], (0..DOCUMENTS).map(|key| document(key, key % 6)).collect()).await;
    for (request, seed) in [(watch("m", []), 1), (watch("m", [equals("s", text("a"))]), 2)] {
        let mut watch =
            Models::new(connect(store.address).await).watch(request.clone()).await.unwrap();
        // The first parts are read, and the last ones are not: the connection has no room for them.
        let first = watch.next().await.unwrap();
        assert!(matches!(first, Message::Changes(_)), "{first:?}");
        let mut dice = Dice::new(seed);
        let begin = usize::try_from(seed - 1).unwrap() * 100 + 1;
        for position in &at[begin..begin + 100] {
            let mut writes: Vec<_> =
                (0..3).map(|_| document(dice.below(DOCUMENTS), dice.below(6))).collect();
            writes.push(delete(&format!("{:05}", dice.below(DOCUMENTS))));
            projection.apply(1, *position, writes).await;
        }
        let permits = Arc::new(Semaphore::new(1 << 20));
        let end = at[begin + 99];
        let history = Arc::clone(&projection.history);
        let (resets, compared) = follow(watch, request, history, permits, end).await;
        assert_eq!(resets, 0, "all changes were kept");
        assert!(compared > 0);
    }
    assert_eq!(projection.plain[&1].checkpoint, last);
}
