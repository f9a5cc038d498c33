//! What the query cache is worth: an answer that is kept beside one that is asked for, over a real connection.
//!
//! ```sh
//! cargo bench --package annals-client --bench query_cache
//! ```
//!
//! Each line is a query that folds the history of one stream, of so many events. `miss` asks the handler, which reads them;
//! `hit` asks the server only whether one has come since; `unchecked` asks nobody. All three beside `call`, a call of the
//! server that reads nothing. Medians of interleaved rounds; server and client share the machine's cores.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use annals_client::{
    Client, ExpectedVersion, Filter, NewEvent,
    bus::{CacheOptions, Query, QueryBus, QueryCache},
    testing::TestStore,
};

/// The sum of what was deposited to an account.
#[derive(PartialEq, Eq, Hash, Clone)]
struct Balance {
    account: u64,
}

impl Query for Balance {
    const NAME: &'static str = "Balance";
    type Answer = u64;

    fn depends_on(&self) -> Vec<Filter> {
        vec![Filter::new().stream(stream(self.account))]
    }
}

fn stream(account: u64) -> String {
    format!("Account-{account}")
}

fn bus(client: &Client, cache: &QueryCache) -> QueryBus {
    let client = client.clone();
    QueryBus::builder()
        .layer(cache.clone())
        .handle(move |query: Arc<Balance>, _| {
            let read = client.read_stream(stream(query.account));
            async move {
                let mut events = read.events().await?;
                let mut balance = 0;
                while let Some(event) = events.next().await? {
                    balance += event.json::<serde_json::Value>()?["amount"].as_u64().unwrap();
                }
                Ok(balance)
            }
        })
        .build()
}

/// An account whose number is how many events it has, of about 256 bytes in the log.
async fn fill(client: &Client, account: u64) {
    let note = "x".repeat(120);
    let events = (0..account).map(|amount| {
        let data = serde_json::json!({ "amount": amount, "note": note });
        NewEvent::json("Deposited", &data).unwrap()
    });
    client.append(stream(account), ExpectedVersion::NoStream, events).await.unwrap();
}

async fn timed<T>(work: impl Future<Output = T>) -> Duration {
    let begun = Instant::now();
    black_box(work.await);
    begun.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let rounds = if std::env::args().any(|argument| argument == "--smoke") { 5 } else { 1000 };
    let store = TestStore::start().await;
    let client = store.client();
    let cache = QueryCache::new(&client);
    let checked = bus(&client, &cache);
    let unchecked_for = Duration::from_mins(5);
    let options = CacheOptions { unchecked_for, ..CacheOptions::default() };
    let trusting = QueryCache::with_options(&client, options);
    let unchecked = bus(&client, &trusting);

    println!("memory mode, {rounds} rounds, medians in us, and how many times a hit each takes");
    println!("{:>8} {:>10} {:>10} {:>16} {:>16}", "events", "call", "hit", "unchecked", "miss");
    for account in [1, 10, 100, 1000, 10_000] {
        fill(&client, account).await;
        let query = Balance { account };
        let balance = account * (account - 1) / 2;
        assert_eq!(*unchecked.ask(query.clone()).await.unwrap(), balance);
        let mut times: [Vec<Duration>; 4] = Default::default();
        for _ in 0..rounds {
            cache.clear();
            times[3].push(timed(checked.ask(query.clone())).await);
            times[1].push(timed(checked.ask(query.clone())).await);
            times[2].push(timed(unchecked.ask(query.clone())).await);
            times[0].push(timed(client.stream_info(stream(account))).await);
        }
        assert_eq!(*checked.ask(query).await.unwrap(), balance);
        let [call, hit, unchecked, miss] =
            times.map(|times| median(times).as_secs_f64() * 1_000_000.0);
        let (less, more) = (unchecked / hit, miss / hit);
        println!(
            "{account:>8} {call:>10.1} {hit:>10.1} {unchecked:>8.1} x {less:<5.2} {miss:>8.1} x {more:<5.1}"
        );
    }
    assert!(cache.hits() >= cache.misses(), "{cache:?}");
}
