//! The query bus and its cache: an answer is never older than the call that gets it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use annals_client::{
    Client, ExpectedVersion, Filter, NewEvent,
    bus::{CacheOptions, Query, QueryBus, QueryCache, QueryEnvelope, QueryError},
    read::Read,
    testing::TestStore,
};
use proptest::prelude::*;

const STREAMS: u64 = 3;

/// How many events a stream has; `None`: all streams together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct EventCount {
    stream: Option<u64>,
}

impl Query for EventCount {
    const NAME: &'static str = "EventCount";
    type Answer = u64;

    fn depends_on(&self) -> Vec<Filter> {
        match self.stream {
            Some(stream) => vec![Filter::new().stream(format!("Account-{stream}"))],
            None => vec![Filter::new().category("Account")],
        }
    }
}

/// The handler reads the events; what it has begun to read it gives out slowly.
fn bus(client: &Client, cache: &QueryCache) -> QueryBus {
    let client = client.clone();
    QueryBus::builder()
        .layer(cache.clone())
        .handle(move |query: Arc<EventCount>, _| {
            let client = client.clone();
            async move {
                let mut events = 0;
                let read = query.depends_on().into_iter().fold(client.read_all(), Read::filter);
                let mut reading = read.events().await?;
                while reading.next().await?.is_some() {
                    events += 1;
                    tokio::task::yield_now().await;
                }
                Ok(events)
            }
        })
        .build()
}

async fn append(client: &Client, stream: u64) {
    let stream = format!("Account-{stream}");
    client.append(stream, ExpectedVersion::Any, [NewEvent::new("Opened")]).await.unwrap();
}

/// How many appends to a stream have begun, and how many were acknowledged.
#[derive(Default)]
struct Appends {
    begun: AtomicU64,
    acknowledged: AtomicU64,
}

#[derive(Debug, Clone)]
enum Step {
    Append(u64),
    Ask(Option<u64>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..STREAMS).prop_map(Step::Append),
        3 => proptest::option::weighted(0.8, 0..STREAMS).prop_map(Step::Ask),
    ]
}

/// Runs the tasks beside each other. The first answer that is older than its question, or newer than can be; and how many
/// answers were kept ones.
async fn run(tasks: Vec<Vec<Step>>, options: CacheOptions) -> (Result<(), String>, u64) {
    let store = TestStore::start().await;
    let cache = QueryCache::with_options(&store.client(), options);
    let bus = bus(&store.client(), &cache);
    let appends: Arc<[Appends; 3]> = Arc::default();
    let running: Vec<_> = tasks
        .into_iter()
        .map(|steps| {
            let (client, bus, appends) = (store.client(), bus.clone(), Arc::clone(&appends));
            tokio::spawn(async move {
                let sum = |stream: Option<u64>, of: fn(&Appends) -> &AtomicU64| -> u64 {
                    let streams = appends.iter().zip(0..);
                    let named = streams.filter(|(_, at)| stream.is_none_or(|it| it == *at));
                    named.map(|(appends, _)| of(appends).load(SeqCst)).sum()
                };
                for step in steps {
                    match step {
                        Step::Append(stream) => {
                            let appends = &appends[usize::try_from(stream).unwrap()];
                            appends.begun.fetch_add(1, SeqCst);
                            append(&client, stream).await;
                            appends.acknowledged.fetch_add(1, SeqCst);
                        }
                        Step::Ask(stream) => {
                            let least = sum(stream, |it| &it.acknowledged);
                            let answer = *bus.ask(EventCount { stream }).await.unwrap();
                            let most = sum(stream, |it| &it.begun);
                            if !(least..=most).contains(&answer) {
                                return Err(format!(
                                    "{stream:?}: {answer} not in {least}..={most}"
                                ));
                            }
                        }
                    }
                }
                Ok(())
            })
        })
        .collect();
    let mut outcome = Ok(());
    for task in running {
        outcome = outcome.and(task.await.unwrap());
    }
    (outcome, cache.hits())
}

fn tasks() -> impl Strategy<Value = Vec<Vec<Step>>> {
    proptest::collection::vec(proptest::collection::vec(step(), 1..40), 2..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Writers and askers beside each other: an answer has every append that was acknowledged before it was asked for, and
    /// none that had not begun when it came.
    #[test]
    fn an_answer_is_never_older_than_its_question(tasks in tasks()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
        let (outcome, _) = runtime.block_on(run(tasks, CacheOptions::default()));
        prop_assert_eq!(outcome, Ok(()));
    }
}

/// The check sees what it is there to see: without looking whether something has happened, answers are old.
#[tokio::test(flavor = "multi_thread")]
async fn without_looking_for_new_events_answers_are_old() {
    let steps = || [Step::Ask(Some(0)), Step::Append(0)].into_iter().cycle().take(20).collect();
    let (outcome, hits) = run(vec![steps()], CacheOptions::default()).await;
    assert_eq!((outcome, hits), (Ok(()), 0));
    let unchecked =
        CacheOptions { unchecked_for: Duration::from_mins(5), ..CacheOptions::default() };
    let (outcome, hits) = run(vec![steps()], unchecked).await;
    assert_eq!((outcome, hits), (Err("Some(0): 0 not in 1..=1".to_owned()), 1));
}

#[tokio::test]
async fn the_same_question_is_answered_once_until_something_has_happened() {
    let store = TestStore::start().await;
    let client = store.client();
    let cache = QueryCache::new(&client);
    let bus = bus(&client, &cache);
    append(&client, 0).await;
    for _ in 0..3 {
        assert_eq!(*bus.ask(EventCount { stream: Some(0) }).await.unwrap(), 1);
        assert_eq!(*bus.ask(EventCount { stream: Some(1) }).await.unwrap(), 0);
    }
    assert_eq!((cache.misses(), cache.hits()), (2, 4));
    // What concerns another question changes nothing for this one.
    append(&client, 1).await;
    assert_eq!(*bus.ask(EventCount { stream: Some(0) }).await.unwrap(), 1);
    assert_eq!((cache.misses(), cache.hits()), (2, 5));
    assert_eq!(*bus.ask(EventCount { stream: Some(1) }).await.unwrap(), 1);
    assert_eq!((cache.misses(), cache.hits()), (3, 5));
    cache.clear();
    assert_eq!(*bus.ask(EventCount { stream: Some(0) }).await.unwrap(), 1);
    assert_eq!(cache.misses(), 4);
}

#[tokio::test]
async fn who_says_what_they_have_written_sees_it_also_where_answers_are_not_checked() {
    let store = TestStore::start().await;
    let client = store.client();
    let unchecked =
        CacheOptions { unchecked_for: Duration::from_mins(5), ..CacheOptions::default() };
    let cache = QueryCache::with_options(&client, unchecked);
    let bus = bus(&client, &cache);
    let query = || QueryEnvelope::from(EventCount { stream: Some(0) });
    assert_eq!(*bus.ask_in::<EventCount>(query()).await.unwrap(), 0);
    append(&client, 0).await;
    assert_eq!(*bus.ask_in::<EventCount>(query()).await.unwrap(), 0, "it may be so old");
    assert_eq!(*bus.ask_in::<EventCount>(query().min_position(1)).await.unwrap(), 1);
    assert_eq!(*bus.ask_in::<EventCount>(query()).await.unwrap(), 1, "for the others, too");
}

/// Those that ask at the same time share one call; an error is not kept, and nobody who may not ask gets a kept answer.
#[tokio::test]
async fn one_call_answers_all_that_wait_and_an_error_none_that_come_later() {
    #[derive(PartialEq, Eq, Hash)]
    struct Fails;
    impl Query for Fails {
        const NAME: &'static str = "Fails";
        type Answer = u64;
        fn depends_on(&self) -> Vec<Filter> {
            Vec::new()
        }
    }
    let store = TestStore::start().await;
    let client = store.client();
    let cache = QueryCache::new(&client);
    let calls = Arc::new(AtomicU64::new(0));
    let (go_on, may_go_on) = tokio::sync::watch::channel(false);
    let counted = Arc::clone(&calls);
    let bus = QueryBus::builder()
        .trace()
        .authorize(|query: QueryEnvelope| {
            let is_known = query.fact("userId").is_some();
            async move { is_known.then_some(()).ok_or_else(|| "who are you?".to_owned()) }
        })
        .layer(cache.clone())
        .handle(move |_: Arc<Fails>, _| {
            let call = counted.fetch_add(1, SeqCst);
            let mut may_go_on = may_go_on.clone();
            async move {
                may_go_on.wait_for(|it| *it).await?;
                if call == 0 { Err("it failed".into()) } else { Ok(call) }
            }
        })
        .build();
    let ask = || {
        let bus = bus.clone();
        async move { bus.ask_in::<Fails>(QueryEnvelope::from(Fails).metadata("userId", "ada")).await }
    };
    let forbidden = bus.ask(Fails).await.unwrap_err();
    assert!(matches!(forbidden, QueryError::Forbidden { .. }), "{forbidden}");
    let waiting: Vec<_> = (0..4).map(|_| tokio::spawn(ask())).collect();
    go_on.send(true).unwrap();
    let mut outcomes = Vec::new();
    for waiting in waiting {
        outcomes.push(waiting.await.unwrap());
    }
    let failed = outcomes.iter().filter(|it| it.is_err()).count();
    assert!(failed >= 1, "the first call failed");
    assert_eq!(*ask().await.unwrap(), 1, "asked again, and then kept");
    assert_eq!(*ask().await.unwrap(), 1);
    assert_eq!(calls.load(SeqCst), 2);
    let unhandled = QueryBus::builder().build().ask(Fails).await.unwrap_err();
    assert_eq!(unhandled.to_string(), "nobody answers Fails");
}
