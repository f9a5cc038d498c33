//! Judges what happened to a consumer group, by what its consumers and its operator have seen and said.
//!
//! ```text
//!   fact 17  Delivered to 3, event 5     written down after it was seen
//!   fact 18  Said by 3, event 5: Ack     written down before it is sent
//!   fact 19  Delivered to 4, event 6     5 and 6 have one key: 5 was settled before
//! ```
//!
//! Facts stand in one order. What is seen has happened before its place, what is said has its effect
//! after its place: so whatever the checker calls a fault is one, however long a message was on its
//! way, and however slow the machine. Only where the group lets events time out does it look at time:
//! at the beginning of that time, and not where the run itself stood still.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

/// What is known of a group, in the order in which it was known.
#[derive(Debug, Clone)]
pub struct Noted {
    /// Since the run began.
    pub at: Duration,
    pub fact: Fact,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// Seen: a consumer was given an event.
    Delivered { consumer: u64, position: u64, deliveries: u32 },
    /// About to be said: what became of it.
    Said { consumer: u64, position: u64, outcome: Outcome },
    /// Seen: the server says that this was not the consumer's any more.
    Refused { consumer: u64, position: u64 },
    /// About to be closed by the consumer.
    Closed { consumer: u64 },
    /// About to be taken off the list of parked events.
    Dropped { positions: Vec<u64> },
    /// The server is about to be killed. What is seen of that server later is not written down.
    Killed,
    /// Seen: since then the run itself stood still.
    Stalled { since: Duration },
    /// Seen while nobody did anything, and nothing was open: all that is parked.
    Parked { positions: Vec<u64> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Ack,
    Skip,
    Park,
    Retry,
}

/// How the group shares its events.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules {
    /// Of a key one event at a time, in order.
    pub ordered: bool,
    /// Past a parked event of the key no other one comes.
    pub hold_back: bool,
    /// So long a consumer has; unset: longer than the run.
    pub timeout: Option<Duration>,
    /// An event is parked after tries that failed, too, not only where a consumer says so.
    pub parks_by_itself: bool,
}

/// The events that match, in the order of the log, each with its key.
pub type Log = BTreeMap<u64, Option<String>>;

/// A broken promise. The numbers are positions, and places in the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A consumer was given what does not match.
    Stranger { position: u64, fact: usize },
    /// Two consumers, or one twice, had the event at once.
    Twice { position: u64, first: usize, second: usize },
    /// Two events of one key were in flight at once.
    TwoOfAKey { positions: (u64, u64), first: usize, second: usize },
    /// An event came before an earlier one of its key was settled.
    TooEarly { position: u64, open: u64, fact: usize },
    /// An earlier event of the key came, for the first time in this life of the server, after a later one.
    Back { position: u64, after: u64, fact: usize },
    /// The event was counted as if it had not been delivered yet: once settled it came anew, or was lost sight of.
    CountedAnew { position: u64, fact: usize },
    /// Neither handled, nor skipped, nor dropped; or not on the list, though its last outcome was that.
    Forgotten { position: u64 },
    /// On the list, and nobody has parked it.
    NeverParked { position: u64 },
}

/// A delivery, and what may have ended it.
struct Delivery {
    fact: usize,
    at: Duration,
    consumer: u64,
    position: u64,
    life: u32,
    /// The first fact that may have ended it.
    end: usize,
}

/// Every fault that the history shows.
pub fn faults(history: &[Noted], log: &Log, rules: Rules) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (fact, noted) in history.iter().enumerate() {
        if let Fact::Delivered { position, .. } = noted.fact
            && !log.contains_key(&position)
        {
            faults.push(Fault::Stranger { position, fact });
        }
    }
    if !faults.is_empty() {
        return faults;
    }
    let effective = effective(history);
    overlaps(history, log, rules, &mut faults);
    if rules.timeout.is_none() {
        counts(history, &mut faults);
    }
    if rules.ordered {
        order(history, log, rules, &effective, &mut faults);
        steps_back(history, log, rules, &effective, &mut faults);
    }
    forgotten(history, log, rules, &effective, &mut faults);
    faults
}

/// For each event what was said of it, but for what certainly had no effect.
fn effective(history: &[Noted]) -> HashMap<u64, Vec<(usize, u64, Outcome)>> {
    let mut said: HashMap<(u64, u64), u32> = HashMap::new();
    let mut refused: HashMap<(u64, u64), u32> = HashMap::new();
    for noted in history {
        match noted.fact {
            Fact::Said { consumer, position, .. } => {
                *said.entry((consumer, position)).or_default() += 1;
            }
            Fact::Refused { consumer, position } => {
                *refused.entry((consumer, position)).or_default() += 1;
            }
            _ => {}
        }
    }
    let mut effective: HashMap<u64, Vec<_>> = HashMap::new();
    for (fact, noted) in history.iter().enumerate() {
        let Fact::Said { consumer, position, outcome } = noted.fact else { continue };
        // Where a consumer said several things of one event, nobody knows which one was refused.
        let key = (consumer, position);
        if refused.get(&key) != said.get(&key) {
            effective.entry(position).or_default().push((fact, consumer, outcome));
        }
    }
    effective
}

/// At most one consumer has an event, and at most one event of a key is in flight.
fn overlaps(history: &[Noted], log: &Log, rules: Rules, faults: &mut Vec<Fault>) {
    let mut deliveries: Vec<Delivery> = Vec::new();
    // The deliveries that nothing has ended yet.
    let mut open: Vec<usize> = Vec::new();
    let mut dropped: BTreeSet<u64> = BTreeSet::new();
    let mut life = 0;
    for (fact, noted) in history.iter().enumerate() {
        let ends = |delivery: &Delivery| match &noted.fact {
            Fact::Said { consumer, position, .. } => {
                (*consumer, *position) == (delivery.consumer, delivery.position)
            }
            Fact::Closed { consumer } => *consumer == delivery.consumer,
            Fact::Dropped { positions } => positions.contains(&delivery.position),
            Fact::Killed => true,
            _ => false,
        };
        open.retain(|index| {
            let delivery: &mut Delivery = &mut deliveries[*index];
            let ended = ends(delivery);
            if ended {
                delivery.end = delivery.end.min(fact);
            }
            !ended
        });
        match noted.fact {
            Fact::Killed => life += 1,
            Fact::Dropped { ref positions } => dropped.extend(positions),
            Fact::Delivered { consumer, position, .. } => {
                // One that is being dropped may be nobody's when it is seen, and in nobody's way.
                let end = if dropped.contains(&position) { fact } else { usize::MAX };
                open.push(deliveries.len());
                let at = noted.at;
                deliveries.push(Delivery { fact, at, consumer, position, life, end });
            }
            _ => {}
        }
    }
    let mut of_key: HashMap<(u32, &str), Vec<&Delivery>> = HashMap::new();
    let mut of_event: HashMap<(u32, u64), Vec<&Delivery>> = HashMap::new();
    for delivery in &deliveries {
        of_event.entry((delivery.life, delivery.position)).or_default().push(delivery);
        if let Some(key) = log[&delivery.position].as_deref().filter(|_| rules.ordered) {
            of_key.entry((delivery.life, key)).or_default().push(delivery);
        }
    }
    // Its time began when the server gave it out, which was before it was seen: half of it is for the way.
    let surely_open = |first: &Delivery, second: &Delivery| {
        second.fact < first.end.min(second.end)
            && rules.timeout.is_none_or(|timeout| {
                second.at < first.at + timeout / 2
                    && !history.iter().any(|noted| {
                        matches!(noted.fact, Fact::Stalled { since }
                            if since <= second.at && first.at <= noted.at + timeout)
                    })
            })
    };
    for (first, second) in of_event.values().flat_map(|all| pairs(all)) {
        if surely_open(first, second) {
            let (first_fact, second_fact) = (first.fact, second.fact);
            let position = first.position;
            faults.push(Fault::Twice { position, first: first_fact, second: second_fact });
        }
    }
    for (first, second) in of_key.values().flat_map(|all| pairs(all)) {
        if first.position != second.position && surely_open(first, second) {
            let positions = (first.position, second.position);
            faults.push(Fault::TwoOfAKey { positions, first: first.fact, second: second.fact });
        }
    }
}

/// Within one life of the server the deliveries of an event are counted up. (Where events time out, an earlier
/// one may be seen after a later one.)
fn counts(history: &[Noted], faults: &mut Vec<Fault>) {
    let mut last: HashMap<u64, u32> = HashMap::new();
    for (fact, noted) in history.iter().enumerate() {
        match noted.fact {
            Fact::Killed => last.clear(),
            Fact::Delivered { position, deliveries, .. }
                if last.insert(position, deliveries).is_some_and(|before| before >= deliveries) =>
            {
                faults.push(Fault::CountedAnew { position, fact });
            }
            _ => {}
        }
    }
}

/// Each with the few that follow it: what overlaps is seldom far apart.
fn pairs<'a>(all: &'a [&'a Delivery]) -> impl Iterator<Item = (&'a Delivery, &'a Delivery)> {
    all.iter().enumerate().flat_map(move |(index, first)| {
        all[index + 1..].iter().take(20).map(move |second| (*first, *second))
    })
}

/// What may have settled an event, so that the next one of its key could come.
fn settles(outcome: Outcome, rules: Rules) -> bool {
    match outcome {
        Outcome::Ack | Outcome::Skip => true,
        Outcome::Park => !rules.hold_back,
        Outcome::Retry => rules.parks_by_itself && !rules.hold_back,
    }
}

/// An event of a key comes after every earlier one was settled, in this life of the server or another one.
fn order(
    history: &[Noted],
    log: &Log,
    rules: Rules,
    effective: &HashMap<u64, Vec<(usize, u64, Outcome)>>,
    faults: &mut Vec<Fault>,
) {
    let mut settled: HashMap<u64, usize> = HashMap::new();
    for (position, said) in effective {
        let settling = said.iter().filter(|(_, _, outcome)| settles(*outcome, rules));
        if let Some(first) = settling.map(|(fact, ..)| *fact).min() {
            settled.insert(*position, first);
        }
    }
    for (fact, noted) in history.iter().enumerate() {
        if let Fact::Dropped { positions } = &noted.fact {
            for position in positions {
                let first = settled.entry(*position).or_insert(fact);
                *first = (*first).min(fact);
            }
        }
    }
    // For each event the last of the first settlements of all earlier ones of its key.
    let mut before: HashMap<u64, (usize, u64)> = HashMap::new();
    let mut of_key: HashMap<&str, (usize, u64)> = HashMap::new();
    for (position, key) in log {
        let Some(key) = key.as_deref() else { continue };
        let own = (settled.get(position).copied().unwrap_or(usize::MAX), *position);
        match of_key.get_mut(key) {
            Some(last) => {
                before.insert(*position, *last);
                *last = (*last).max(own);
            }
            None => {
                of_key.insert(key, own);
            }
        }
    }
    for (fact, noted) in history.iter().enumerate() {
        let Fact::Delivered { position, .. } = noted.fact else { continue };
        if let Some((settled, open)) = before.get(&position)
            && *settled > fact
        {
            faults.push(Fault::TooEarly { position, open: *open, fact });
        }
    }
}

/// Within one life of the server no event of a key comes that was not there before a later one, unless it
/// had been parked and went on its own way. (After a kill the group may begin again further back.)
fn steps_back(
    history: &[Noted],
    log: &Log,
    rules: Rules,
    effective: &HashMap<u64, Vec<(usize, u64, Outcome)>>,
    faults: &mut Vec<Fault>,
) {
    let mut furthest: HashMap<&str, u64> = HashMap::new();
    let mut seen: BTreeSet<u64> = BTreeSet::new();
    // One that is dropped while it is on its way may be seen after the next one.
    let mut dropped: BTreeSet<u64> = BTreeSet::new();
    for (fact, noted) in history.iter().enumerate() {
        match noted.fact {
            Fact::Dropped { ref positions } => dropped.extend(positions),
            Fact::Killed => {
                furthest.clear();
                seen.clear();
            }
            Fact::Delivered { position, .. } => {
                let Some(key) = log[&position].as_deref() else { continue };
                let last = furthest.entry(key).or_default();
                let dropped_before = dropped.contains(&position);
                let parked_before = !rules.hold_back
                    && effective.get(&position).is_some_and(|said| {
                        said.iter().any(|(said, _, outcome)| {
                            *said < fact
                                && (*outcome == Outcome::Park
                                    || (rules.parks_by_itself && *outcome == Outcome::Retry))
                        })
                    });
                if position < *last
                    && !seen.contains(&position)
                    && !parked_before
                    && !dropped_before
                {
                    faults.push(Fault::Back { position, after: *last, fact });
                }
                // Where a parked one goes its own way, what comes again after a kill may come after it.
                if !parked_before {
                    *last = (*last).max(position);
                }
                seen.insert(position);
            }
            _ => {}
        }
    }
}

/// Every event was handled, skipped or dropped, or it is on the list; and the last list has every event
/// whose last outcome says so, and no other.
fn forgotten(
    history: &[Noted],
    log: &Log,
    rules: Rules,
    effective: &HashMap<u64, Vec<(usize, u64, Outcome)>>,
    faults: &mut Vec<Fault>,
) {
    // At each list, and at the end.
    let mut lists: Vec<(usize, BTreeSet<u64>)> = Vec::new();
    for (fact, noted) in history.iter().enumerate() {
        if let Fact::Parked { positions } = &noted.fact {
            lists.push((fact, positions.iter().copied().collect()));
        }
    }
    let last_list_is_the_end = lists.last().is_some_and(|(fact, _)| fact + 1 == history.len());
    if !last_list_is_the_end {
        lists.push((history.len(), BTreeSet::new()));
    }
    let mut dropped: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut delivered: HashMap<u64, Vec<(usize, u64)>> = HashMap::new();
    for (fact, noted) in history.iter().enumerate() {
        match &noted.fact {
            Fact::Dropped { positions } => {
                for position in positions {
                    dropped.entry(*position).or_default().push(fact);
                }
            }
            Fact::Delivered { consumer, position, .. } => {
                delivered.entry(*position).or_default().push((fact, *consumer));
            }
            _ => {}
        }
    }
    for (at, listed) in lists {
        let mut parked_keys: BTreeSet<&str> = BTreeSet::new();
        for (position, key) in log {
            let said: Vec<_> =
                effective.get(position).into_iter().flatten().filter(|said| said.0 < at).collect();
            let drops: Vec<_> =
                dropped.get(position).into_iter().flatten().filter(|fact| **fact < at).collect();
            let settled = !drops.is_empty()
                || said.iter().any(|(.., outcome)| matches!(outcome, Outcome::Ack | Outcome::Skip));
            let is_listed = listed.contains(position);
            // The last that was said is "park", by a consumer that got it when all else had been said.
            let last_was_park = said.iter().max().is_some_and(|(last, by, outcome)| {
                let all = delivered.get(position).map_or(&[][..], Vec::as_slice);
                let got = all
                    .iter()
                    .filter(|(fact, consumer)| fact < last && consumer == by)
                    .map(|(fact, _)| *fact)
                    .max();
                *outcome == Outcome::Park
                    && said.iter().all(|(fact, ..)| fact == last || Some(*fact) < got)
                    // What was dropped does not come again; it may have been on its way.
                    && drops.is_empty()
                    && all.iter().all(|(fact, _)| *fact < *last || *fact > at)
            });
            if !is_listed && (!settled || last_was_park) {
                faults.push(Fault::Forgotten { position: *position });
            }
            let may_be_parked = said.iter().any(|(.., outcome)| *outcome == Outcome::Park)
                || rules.parks_by_itself
                || (rules.hold_back && key.as_deref().is_some_and(|key| parked_keys.contains(key)));
            if is_listed && !may_be_parked {
                faults.push(Fault::NeverParked { position: *position });
            }
            if is_listed && let Some(key) = key {
                parked_keys.insert(key);
            }
        }
    }
}
