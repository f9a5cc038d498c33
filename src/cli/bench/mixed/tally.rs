//! Counts that do not grow: of a part of the load (appends, reads, arrivals), and of what is verified.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use tonic::Code;

use crate::cli::bench::{
    load::{latencies, nanos},
    report::{latency_json, per_second, rounded},
};

/// What one part has come to, in all and since the last look.
pub struct Part(Mutex<[Tally; 2]>);

/// Of a span of time.
pub struct Tally {
    pub events: u64,
    pub latencies: Histogram<u64>,
    /// By the code of the status.
    pub errors: BTreeMap<i32, u64>,
}

impl Tally {
    fn new() -> Self {
        Self { events: 0, latencies: latencies(), errors: BTreeMap::new() }
    }

    /// How many calls have failed.
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    /// `UNAVAILABLE 12, RESOURCE_EXHAUSTED 3`.
    pub fn errors_text(&self) -> String {
        let errors = self.errors.iter().map(|(code, count)| format!("{} {count}", name(*code)));
        errors.collect::<Vec<_>>().join(", ")
    }

    pub fn json(&self, time: Duration) -> Value {
        let errors = self.errors.iter().map(|(code, count)| (name(*code), (*count).into()));
        json!({
            "events": self.events,
            "events_per_s": rounded(per_second(self.events, time)),
            "latency_us": latency_json(&self.latencies),
            "errors": errors.collect::<Map<_, _>>(),
        })
    }
}

impl Part {
    pub fn new() -> Self {
        Self(Mutex::new([Tally::new(), Tally::new()]))
    }

    fn each(&self, change: impl Fn(&mut Tally)) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter_mut().for_each(change);
    }

    /// A call that moved so many events.
    pub fn add(&self, events: u64, took: Duration) {
        self.each(|tally| {
            tally.events += events;
            tally.latencies.saturating_record(nanos(took));
        });
    }

    /// Events, each of which was so long on its way, where that is known.
    pub fn arrived(&self, events: u64, on_their_way: &[u64]) {
        self.each(|tally| {
            tally.events += events;
            for nanos in on_their_way {
                tally.latencies.saturating_record(*nanos);
            }
        });
    }

    pub fn fail(&self, code: Code) {
        self.each(|tally| *tally.errors.entry(code.into()).or_default() += 1);
    }

    /// What has come since the last call of this.
    pub fn since(&self) -> Tally {
        let mut both = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut both[1], Tally::new())
    }

    /// All of it.
    pub fn total(&self) -> Tally {
        let mut both = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut both[0], Tally::new())
    }
}

/// As the specification of gRPC has it: `RESOURCE_EXHAUSTED`.
fn name(code: i32) -> String {
    let mut name = String::new();
    for c in format!("{:?}", Code::from(code)).chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(c.to_uppercase());
    }
    name
}

/// Checks that positions come each once and in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    last: u64,
    /// Positions that were left out.
    pub missing: u64,
    /// Positions that came again, or after a later one.
    pub repeated: u64,
}

impl Order {
    /// The next one is `after + 1`.
    pub fn after(after: u64) -> Self {
        Self { last: after, missing: 0, repeated: 0 }
    }

    /// The last position that came.
    pub fn last(&self) -> u64 {
        self.last
    }

    pub fn take(&mut self, position: u64) {
        if position <= self.last {
            // One that was left out comes late, or it was there before: neither is as promised.
            self.repeated += 1;
            return;
        }
        self.missing += position - self.last - 1;
        self.last = position;
    }

    /// Nothing more comes, and up to here it should have.
    pub fn end(&mut self, at: u64) {
        self.missing += at.saturating_sub(self.last);
        self.last = self.last.max(at);
    }

    /// The log goes on from `head`, which is before what has come: what came after it is gone.
    pub fn fall_back(&mut self, head: u64) {
        self.missing += self.last.saturating_sub(head);
        self.last = head;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(after: u64, positions: &[u64]) -> Order {
        let mut order = Order::after(after);
        for position in positions {
            order.take(*position);
        }
        order
    }

    #[test]
    fn positions_in_a_row_are_as_they_should_be() {
        assert_eq!(order(4, &[5, 6, 7]), Order { last: 7, missing: 0, repeated: 0 });
    }

    #[test]
    fn a_gap_is_seen_with_its_length_also_at_the_beginning_and_the_end() {
        assert_eq!(order(0, &[1, 2, 6, 7]).missing, 3);
        assert_eq!(order(4, &[7]).missing, 2);
        let mut short = order(0, &[1, 2]);
        short.end(5);
        assert_eq!((short.missing, short.last()), (3, 5));
        short.end(4);
        assert_eq!(short.missing, 3);
    }

    #[test]
    fn what_comes_again_or_late_is_seen_and_does_not_hide_a_gap() {
        assert_eq!(order(0, &[1, 2, 2, 3]), Order { last: 3, missing: 0, repeated: 1 });
        assert_eq!(order(0, &[1, 3, 2, 4]), Order { last: 4, missing: 1, repeated: 1 });
        assert_eq!(order(9, &[3]).repeated, 1);
    }

    #[test]
    fn a_log_that_has_lost_its_end_is_seen() {
        let mut order = order(0, &[1, 2, 3, 4]);
        order.fall_back(1);
        order.take(2);
        assert_eq!(order, Order { last: 2, missing: 3, repeated: 0 });
    }

    #[test]
    fn a_part_has_what_came_since_the_last_look_and_all() {
        let part = Part::new();
        part.add(2, Duration::from_millis(1));
        part.fail(Code::Unavailable);
        assert_eq!((part.since().events, part.since().events), (2, 0));
        part.fail(Code::Unavailable);
        part.fail(Code::ResourceExhausted);
        assert_eq!(part.since().error_count(), 2);
        let total = part.total();
        assert_eq!((total.events, total.latencies.len()), (2, 1));
        assert_eq!(total.errors_text(), "RESOURCE_EXHAUSTED 1, UNAVAILABLE 2");
    }
}
