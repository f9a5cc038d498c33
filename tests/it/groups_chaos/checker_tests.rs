//! The checker is worth what it refuses: histories made by hand, each with one broken promise.

use std::time::Duration;

use super::checker::{Fact, Fault, Log, Noted, Outcome, Rules, faults};

const UNORDERED: Rules =
    Rules { ordered: false, hold_back: false, timeout: None, parks_by_itself: false };
const ORDERED: Rules = Rules { ordered: true, ..UNORDERED };
const HOLDING: Rules = Rules { hold_back: true, ..ORDERED };
const TIMED: Rules = Rules { timeout: Some(Duration::from_millis(300)), ..ORDERED };

/// 1, 2 and 3 have the key a, 4 has b, 5 has none.
fn log() -> Log {
    let keys = [Some("a"), Some("a"), Some("a"), Some("b"), None];
    (1..).zip(keys.map(|key| key.map(str::to_owned))).collect()
}

fn got(consumer: u64, position: u64) -> Fact {
    got_again(consumer, position, 1)
}

fn got_again(consumer: u64, position: u64, deliveries: u32) -> Fact {
    Fact::Delivered { consumer, position, deliveries }
}

fn said(consumer: u64, position: u64, outcome: Outcome) -> Fact {
    Fact::Said { consumer, position, outcome }
}

fn ack(consumer: u64, position: u64) -> Fact {
    said(consumer, position, Outcome::Ack)
}

fn refused(consumer: u64, position: u64) -> Fact {
    Fact::Refused { consumer, position }
}

fn dropped(positions: &[u64]) -> Fact {
    Fact::Dropped { positions: positions.to_vec() }
}

fn parked(positions: &[u64]) -> Fact {
    Fact::Parked { positions: positions.to_vec() }
}

/// Consumer 9 handles these.
fn handled(positions: impl IntoIterator<Item = u64>) -> Vec<Fact> {
    positions.into_iter().flat_map(|position| [got(9, position), ack(9, position)]).collect()
}

/// A fact each millisecond, then all the rest is handled.
fn check(facts: &[Fact], rest: impl IntoIterator<Item = u64>, rules: Rules) -> Vec<Fault> {
    let mut found = check_counts(facts, rest, rules);
    // How often they were delivered does not matter in most of these histories.
    found.retain(|fault| !matches!(fault, Fault::CountedAnew { .. }));
    found
}

fn check_counts(facts: &[Fact], rest: impl IntoIterator<Item = u64>, rules: Rules) -> Vec<Fault> {
    let all = facts.iter().cloned().chain(handled(rest));
    let history: Vec<_> =
        (0..).zip(all).map(|(at, fact)| Noted { at: Duration::from_millis(at), fact }).collect();
    faults(&history, &log(), rules)
}

#[test]
fn a_history_in_order_has_no_fault() {
    for rules in [UNORDERED, ORDERED, HOLDING, TIMED] {
        assert_eq!(check(&[], 1..=5, rules), []);
        // A retry, a crash of a consumer, and a kill after which all comes again.
        let facts = [
            got(1, 1),
            said(1, 1, Outcome::Retry),
            got(2, 1),
            Fact::Closed { consumer: 2 },
            got(3, 1),
            ack(3, 1),
            got(3, 2),
            Fact::Killed,
        ];
        assert_eq!(check(&facts, 1..=5, rules), []);
    }
}

#[test]
fn an_event_that_does_not_match_is_a_fault() {
    let faults = check(&[got(1, 6)], 1..=5, UNORDERED);
    assert_eq!(faults, [Fault::Stranger { position: 6, fact: 0 }]);
}

#[test]
fn an_event_that_two_have_at_once_is_a_fault() {
    let twice = [Fault::Twice { position: 5, first: 0, second: 1 }];
    for rules in [UNORDERED, ORDERED, HOLDING, TIMED] {
        assert_eq!(check(&[got(1, 5), got(2, 5), ack(1, 5), ack(2, 5)], 1..=4, rules), twice);
        assert_eq!(check(&[got(1, 5), got(1, 5), ack(1, 5)], 1..=4, rules), twice);
    }
    // Once its consumer is gone, or the server was, another one may have it.
    for between in [Fact::Closed { consumer: 1 }, Fact::Killed, ack(1, 5)] {
        assert_eq!(check(&[got(1, 5), between, got(2, 5), ack(2, 5)], 1..=4, UNORDERED), []);
    }
    for between in [Fact::Closed { consumer: 3 }, ack(1, 4)] {
        let facts = [got(1, 4), got(1, 5), between, got(2, 5), ack(2, 5), ack(1, 5)];
        let faults = check(&facts, 1..=4, UNORDERED);
        assert!(faults.contains(&Fault::Twice { position: 5, first: 1, second: 3 }), "{faults:?}");
    }
}

#[test]
fn two_events_of_a_key_at_once_are_a_fault_where_they_are_ordered() {
    // The second one is too early, whether the first one is open or not.
    let facts = [got(1, 1), got(2, 2), ack(1, 1), ack(2, 2)];
    assert_eq!(check(&facts, 3..=5, UNORDERED), []);
    let faults = check(&facts, 3..=5, ORDERED);
    assert!(faults.contains(&Fault::TwoOfAKey { positions: (1, 2), first: 0, second: 1 }));
    assert!(faults.contains(&Fault::TooEarly { position: 2, open: 1, fact: 1 }));
    // A parked one that is replayed is one of its key, too.
    let replayed =
        [got(1, 1), said(1, 1, Outcome::Park), got(1, 2), got(2, 1), ack(1, 2), ack(2, 1)];
    let faults = check(&replayed, 3..=5, ORDERED);
    assert_eq!(faults, [Fault::TwoOfAKey { positions: (2, 1), first: 2, second: 3 }]);
    // Keys do not wait for each other, nor does an event without one.
    assert_eq!(
        check(&[got(1, 1), got(1, 4), got(2, 5), ack(1, 1), ack(1, 4), ack(2, 5)], 2..=3, ORDERED),
        []
    );
}

#[test]
fn an_event_before_an_earlier_one_of_its_key_is_settled_is_a_fault() {
    let early = |facts: &[Fact], rest: &[u64], rules| {
        let faults = check(facts, rest.iter().copied(), rules);
        faults.iter().any(|fault| matches!(fault, Fault::TooEarly { .. }))
    };
    assert!(early(&[got(1, 2), ack(1, 2)], &[1, 3, 4, 5], ORDERED), "the first one never came");
    let retried = [got(1, 1), said(1, 1, Outcome::Retry), got(1, 2), ack(1, 2)];
    assert!(early(&retried, &[1, 3, 4, 5], ORDERED), "a retry settles nothing");
    let closed = [got(1, 1), Fact::Closed { consumer: 1 }, got(2, 2), ack(2, 2)];
    assert!(early(&closed, &[1, 3, 4, 5], ORDERED), "it comes again first");
    let late = [got(1, 1), ack(1, 1), refused(1, 1), got(2, 2), ack(2, 2)];
    assert!(early(&late, &[1, 3, 4, 5], ORDERED), "the ack came too late");
    let two_back = [got(1, 2), ack(1, 2), got(1, 1), ack(1, 1), got(1, 3), ack(1, 3)];
    assert!(early(&two_back, &[4, 5], ORDERED));
    let killed = [got(1, 1), Fact::Killed, got(2, 2), ack(2, 2)];
    assert!(early(&killed, &[1, 3, 4, 5], ORDERED), "a kill settles nothing");
    assert!(!early(&two_back, &[4, 5], UNORDERED));
    // What says so before the kill may have been noted.
    let noted = [got(1, 1), ack(1, 1), Fact::Killed, got(2, 2), ack(2, 2)];
    assert!(!early(&noted, &[3, 4, 5], ORDERED));
}

#[test]
fn past_a_parked_event_its_key_goes_on_only_where_it_is_not_held_back() {
    let facts = [got(1, 1), said(1, 1, Outcome::Park), got(1, 2), ack(1, 2), got(1, 1), ack(1, 1)];
    assert_eq!(check(&facts, 3..=5, ORDERED), []);
    let faults = check(&facts, 3..=5, HOLDING);
    assert_eq!(faults[0], Fault::TooEarly { position: 2, open: 1, fact: 2 });
    // Settled after a replay, or dropped.
    let replayed = [got(1, 1), said(1, 1, Outcome::Park), got(1, 1), ack(1, 1)];
    assert_eq!(check(&replayed, 2..=5, HOLDING), []);
    let forgotten = [got(1, 1), said(1, 1, Outcome::Park), dropped(&[1])];
    assert_eq!(check(&forgotten, 2..=5, HOLDING), []);
}

#[test]
fn an_event_that_comes_first_after_a_later_one_of_its_key_is_a_fault_in_one_life_of_the_server() {
    // Both were handled in the life before; then the second one comes first.
    let back =
        [handled([1, 2]), vec![Fact::Killed, got(1, 2), ack(1, 2), got(1, 1), ack(1, 1)]].concat();
    assert_eq!(check(&back, 3..=5, ORDERED), [Fault::Back { position: 1, after: 2, fact: 7 }]);
    let in_order = [handled([1, 2]), vec![Fact::Killed], handled([1, 2])].concat();
    assert_eq!(check(&in_order, 3..=5, ORDERED), []);
    let killed_again =
        [handled([1, 2]), vec![Fact::Killed], handled([2]), vec![Fact::Killed], handled([1])];
    assert_eq!(check(&killed_again.concat(), 3..=5, ORDERED), []);
    // A parked one that is replayed comes when it comes, unless the key is held back.
    let parked = [
        got(1, 1),
        said(1, 1, Outcome::Park),
        Fact::Killed,
        got(1, 2),
        ack(1, 2),
        got(1, 1),
        ack(1, 1),
    ];
    assert_eq!(check(&parked, 3..=5, ORDERED), []);
    // What comes again after a kill may come after it.
    let first = [handled([1]), vec![got(1, 2), said(1, 2, Outcome::Park), Fact::Killed]].concat();
    assert_eq!(check(&[first.clone(), handled([2, 1])].concat(), 3..=5, ORDERED), []);
    let back = check(&[first, handled([2, 1])].concat(), 3..=5, HOLDING);
    assert_eq!(back, [Fault::Back { position: 1, after: 2, fact: 7 }]);
    let faults = check(&parked, 3..=5, HOLDING);
    assert!(faults.contains(&Fault::Back { position: 1, after: 2, fact: 5 }), "{faults:?}");
}

#[test]
fn an_event_that_comes_anew_in_one_life_of_the_server_is_a_fault() {
    let anew = [Fault::CountedAnew { position: 5, fact: 2 }];
    assert_eq!(check_counts(&[got(1, 5), ack(1, 5)], [5, 1, 2, 3, 4], UNORDERED), anew);
    let retried = [got(1, 5), said(1, 5, Outcome::Retry), got_again(1, 5, 2), ack(1, 5)];
    assert_eq!(check_counts(&retried, 1..=4, UNORDERED), []);
    let killed = [got(1, 5), ack(1, 5), Fact::Killed];
    assert_eq!(check_counts(&killed, 1..=5, UNORDERED), []);
    // An earlier one may be seen late.
    assert_eq!(check_counts(&[got(1, 5), ack(1, 5)], [5, 1, 2, 3, 4], TIMED), []);
}

#[test]
fn an_event_that_nobody_handled_is_a_fault() {
    let forgotten = |position| vec![Fault::Forgotten { position }];
    assert_eq!(check(&[], [1, 2, 3, 5], ORDERED), forgotten(4), "it never came");
    for outcome in [Outcome::Retry, Outcome::Park] {
        let facts = [got(1, 4), said(1, 4, outcome)];
        assert_eq!(check(&facts, [1, 2, 3, 5], UNORDERED), forgotten(4), "{outcome:?}");
    }
    let late = [got(1, 4), ack(1, 4), refused(1, 4)];
    assert_eq!(check(&late, [1, 2, 3, 5], UNORDERED), forgotten(4), "nobody took the ack");
    assert_eq!(check(&[got(1, 4), Fact::Killed], [1, 2, 3, 5], UNORDERED), forgotten(4));
    assert_eq!(check(&[got(1, 4), said(1, 4, Outcome::Skip)], [1, 2, 3, 5], UNORDERED), []);
}

#[test]
fn the_list_has_every_event_whose_last_outcome_says_so_and_no_other() {
    let park = |position| [got(1, position), said(1, position, Outcome::Park)];
    let facts = |middle: &[Fact]| [&park(4)[..], &handled([1, 2, 3, 5]), middle].concat();
    assert_eq!(check(&facts(&[parked(&[4])]), [], ORDERED), []);
    assert_eq!(check(&facts(&[parked(&[])]), [], ORDERED), [Fault::Forgotten { position: 4 }]);
    let two = check(&facts(&[parked(&[4, 5])]), [], ORDERED);
    assert_eq!(two, [Fault::NeverParked { position: 5 }]);
    // Later it is replayed and handled.
    assert_eq!(check(&facts(&[parked(&[4])]), [4], ORDERED), []);
    // Handled, and then, after a kill, parked.
    let again = [handled(1..=5), vec![Fact::Killed], park(4).to_vec(), vec![parked(&[])]].concat();
    assert_eq!(check(&again, [], ORDERED), [Fault::Forgotten { position: 4 }]);
    let again = [handled(1..=5), vec![Fact::Killed], park(4).to_vec(), vec![parked(&[4])]].concat();
    assert_eq!(check(&again, [], ORDERED), []);
    // What is behind a parked one of its key is on the list where it is held back.
    let held = [&park(1)[..], &handled([4, 5]), &[parked(&[1, 2, 3])]].concat();
    assert_eq!(check(&held, 1..=3, HOLDING), []);
    let faults = check(&held, 1..=3, ORDERED);
    assert!(faults.contains(&Fault::NeverParked { position: 2 }), "{faults:?}");
}

/// It was on its way when it was taken off the list, and the next of its key came then.
#[test]
fn an_event_that_is_seen_after_it_was_dropped_is_in_nobodys_way() {
    let facts = [
        got(1, 1),
        said(1, 1, Outcome::Park),
        dropped(&[1]),
        got(1, 1),
        got(2, 2),
        ack(1, 1),
        ack(2, 2),
    ];
    assert_eq!(check(&facts, 3..=5, HOLDING), []);
    let mut overtaken = facts.clone();
    overtaken.swap(3, 4);
    assert_eq!(check(&overtaken, 3..=5, HOLDING), []);
    let faults = check(&[&facts[..2], &facts[3..]].concat(), 3..=5, HOLDING);
    assert!(faults.contains(&Fault::TwoOfAKey { positions: (1, 2), first: 2, second: 3 }));
}

/// What was given out late may have timed out, and what the run did not see in time proves nothing.
#[test]
fn where_events_time_out_only_the_beginning_of_that_time_is_judged() {
    let at = |millis, fact| Noted { at: Duration::from_millis(millis), fact };
    let rest = || handled(1..=4).into_iter().map(|fact| at(9000, fact));
    let judge = |second: u64, rules, stall: Option<u64>| {
        let first = at(0, got(1, 5));
        let stall = stall.map(|until| {
            at(until, Fact::Stalled { since: Duration::from_millis(until.saturating_sub(100)) })
        });
        let facts = [at(second, got(2, 5)), at(8000, ack(2, 5))];
        let history: Vec<_> = [first].into_iter().chain(facts).chain(rest()).chain(stall).collect();
        let mut history = history;
        history.sort_by_key(|noted| noted.at);
        faults(&history, &log(), rules)
    };
    let twice = vec![Fault::Twice { position: 5, first: 0, second: 1 }];
    assert_eq!(judge(100, TIMED, None), twice);
    assert_eq!(judge(200, TIMED, None), []);
    let anew = Fault::CountedAnew { position: 5, fact: 1 };
    assert_eq!(judge(7000, ORDERED, None), [twice.clone(), vec![anew]].concat());
    assert_eq!(judge(100, TIMED, Some(150)), []);
    assert_eq!(judge(100, TIMED, Some(5000)), twice);
}
