//! Who is woken by which event: everybody whose filter picks it, and few others.

use annals::{
    core::filter::{Clause, Filter},
    service::subscription::{Interest, Interests},
};
use futures_util::FutureExt;
use proptest::{collection::vec, prelude::*};
use tokio_util::sync::CancellationToken;

use super::*;

/// Runs the task until it has looked at everything.
async fn look(interests: &Interests, store: &Store) {
    let head = store.history().log.watermark().get();
    // One that sleeps until then.
    let clause = Clause { types: vec![name("nobody has this type")], ..Clause::default() };
    let nobody = interests.register(&Filter { clauses: vec![clause] });
    nobody.wake_at(head);
    tokio::select! {
        biased;
        () = nobody.changed(head) => {}
        () = interests.clone().follow() => panic!("nobody has stopped it"),
    }
}

fn is_woken(interest: &Interest, after: Position) -> bool {
    interest.changed(after).now_or_never().is_some()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever a filter, whatever is registered when: whoever waits before an event that its filter picks is
    /// woken by it, and no interest has passed such an event.
    #[test]
    fn whoever_a_filter_picks_an_event_for_is_woken(
        before in history(10),
        commits in history(20),
        asked in vec(clauses(), 1..8),
    ) {
        let mut twins = Twins::new(in_memory(4000));
        for (events, pass) in before {
            twins.pass(pass);
            twins.append(events);
        }
        let interests =
            Interests::new(Arc::clone(twins.store.history()), CancellationToken::new());
        let began = Position::new(twins.model.head());
        let interested: Vec<_> =
            asked.iter().map(|clauses| (interests.register(&filter(clauses)), clauses)).collect();
        for (events, pass) in commits {
            twins.pass(pass);
            twins.append(events);
            // Some commits are looked at by themselves, some together.
            if pass % 2 == 0 {
                twins.runtime.block_on(look(&interests, &twins.store));
            }
        }
        twins.runtime.block_on(look(&interests, &twins.store));
        let head = Position::new(twins.model.head());
        for (interest, clauses) in &interested {
            let matching = twins.model.matching(clauses, head.get());
            let next = |after: Position| matching.iter().copied().find(|at| *at > after.get());
            let mut after = began;
            while let Some(at) = next(after) {
                prop_assert!(interest.passed(after).get() < at, "{clauses:?} passes {at}");
                prop_assert!(is_woken(interest, after), "{clauses:?} sleeps after {after}");
                after = Position::new(at);
            }
        }
    }
}

fn types(names: &[&str]) -> Clause {
    Clause { types: names.iter().map(|it| name(it)).collect(), ..Clause::default() }
}

fn of(event_type: &str, stream: &str) -> Kept {
    let event = an_event().new_tree(&mut TestRunner::deterministic()).unwrap().current();
    Kept { event_type: event_type.to_owned(), stream: stream.to_owned(), ..event }
}

/// Who listens to other names sleeps, and is past all that does not concern it.
#[test]
fn nobody_is_woken_by_what_is_not_for_it() {
    let mut twins = Twins::new(in_memory(4000));
    twins.append(vec![of("A", "Payment-1"); 10]);
    let interests = Interests::new(Arc::clone(twins.store.history()), CancellationToken::new());
    let register = |clauses: &[&Clause]| {
        let clauses = clauses.iter().copied().cloned().collect();
        interests.register(&Filter { clauses })
    };
    let rare = Clause { streams: vec![name("Payment-2")], ..types(&["A"]) };
    let text = Clause {
        text: annals::core::filter::text::TextMatch::new(vec!["x".into()]).ok(),
        ..Clause::default()
    };
    let prefix = |text| Clause { stream_prefixes: vec![name(text)], ..Clause::default() };
    let cases = [
        ("another type", register(&[&types(&["B"])]), false),
        ("two others", register(&[&types(&["B"]), &types(&["C", "D"])]), false),
        ("its type", register(&[&types(&["A"])]), true),
        ("its type, second", register(&[&types(&["B"]), &types(&["C", "A"])]), true),
        ("a frequent type of a rare stream", register(&[&rare]), false),
        ("a prefix in another category", register(&[&prefix("Order-1")]), false),
        ("a prefix in its category", register(&[&prefix("Payment-9")]), true),
        ("a prefix of categories", register(&[&prefix("Ord")]), true),
        ("a text", register(&[&text]), true),
        (
            "a text beside a type",
            register(&[&Clause { types: types(&["B"]).types, ..text.clone() }]),
            false,
        ),
        ("everything", register(&[]), true),
        ("nothing", interests.nothing(), true),
    ];
    twins.append(vec![of("A", "Payment-1"); 5]);
    twins.runtime.block_on(look(&interests, &twins.store));
    for (what, interest, woken) in &cases {
        assert_eq!(is_woken(interest, Position::new(10)), *woken, "{what}");
        // Once its owner has seen them it sleeps.
        assert_eq!(interest.passed(Position::new(15)), Position::new(15), "{what}");
        assert!(!is_woken(interest, Position::new(15)), "{what}");
        if !woken {
            assert_eq!(interest.passed(Position::new(10)), Position::new(15), "{what}");
        }
    }
    // What comes next is looked at for those who are left.
    let (_, left, _) = &cases[2];
    twins.append(vec![of("B", "Payment-1"), of("A", "Payment-1"), of("B", "Payment-1")]);
    twins.runtime.block_on(look(&interests, &twins.store));
    assert_eq!(left.passed(Position::new(15)), Position::new(16));
    assert_eq!(left.passed(Position::new(17)), Position::new(18));
}

/// A mark ends a wait once, and the one that takes its place ends the next.
#[test]
fn a_mark_is_told_when_everything_up_to_it_was_looked_at() {
    let mut twins = Twins::new(in_memory(4000));
    let interests = Interests::new(Arc::clone(twins.store.history()), CancellationToken::new());
    let interest = interests.register(&Filter { clauses: vec![types(&["B"])] });
    interest.wake_at(Position::new(3));
    for (marked, events) in [(false, 2), (true, 2), (false, 5)] {
        twins.append(vec![of("A", "Payment-1"); events]);
        twins.runtime.block_on(look(&interests, &twins.store));
        assert_eq!(is_woken(&interest, Position::ZERO), marked);
        assert!(!is_woken(&interest, Position::ZERO), "told once");
    }
    interest.wake_at(Position::new(11));
    interest.wake_at(Position::new(9));
    assert!(is_woken(&interest, Position::ZERO), "it is there already");
    twins.append(vec![of("A", "Payment-1"); 5]);
    twins.runtime.block_on(look(&interests, &twins.store));
    assert!(!is_woken(&interest, Position::ZERO), "the mark before counts no more");
}

/// Who waits does so on other threads than the task: nobody sleeps for ever.
#[test]
fn nobody_misses_an_event_while_others_append() {
    const EVENTS: u64 = 2000;
    let mut twins = Twins::new(in_memory(4000));
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(3).build().unwrap();
    let interests = Interests::new(Arc::clone(twins.store.history()), CancellationToken::new());
    threads.spawn(interests.clone().follow());
    let waiting: Vec<_> = ["A", "B", "C", "D"]
        .into_iter()
        .zip(1..)
        .map(|(event_type, first)| {
            let interest = interests.register(&Filter { clauses: vec![types(&[event_type])] });
            threads.spawn(async move {
                let mut after = Position::ZERO;
                for next in (first..=EVENTS).step_by(4) {
                    interest.changed(after).await;
                    assert!(interest.passed(after).get() < next);
                    after = Position::new(next);
                }
            })
        })
        .collect();
    for _ in 0..EVENTS / 4 {
        twins.append(["A", "B", "C", "D"].map(|it| of(it, "Payment-1")).to_vec());
    }
    for task in waiting {
        twins.runtime.block_on(within(task)).unwrap();
    }
}
