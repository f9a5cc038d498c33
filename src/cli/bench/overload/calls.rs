//! What calls came to: how many with which status, and how long they took.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use tonic::{Code, Status};

/// Latencies in microseconds, up to an hour, three digits.
pub fn latencies() -> Histogram<u64> {
    // Bounded: what is recorded beyond the range of one that grows would be cut to what it holds so far.
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are allowed")
}

pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Of the calls of a phase.
pub struct Outcomes {
    /// How many, and what one of them said.
    codes: BTreeMap<i32, (u64, String)>,
    pub latencies: Histogram<u64>,
}

impl Outcomes {
    pub fn new() -> Self {
        Self { codes: BTreeMap::new(), latencies: latencies() }
    }

    pub fn add<T>(&mut self, outcome: &Result<T, Status>, took: Duration) {
        let (code, said) = match outcome {
            Ok(_) => (Code::Ok, ""),
            Err(status) => (status.code(), status.message()),
        };
        let (count, _) = self.codes.entry(code as i32).or_insert_with(|| (0, said.to_owned()));
        *count += 1;
        self.latencies.saturating_record(micros(took));
    }

    pub fn count(&self, code: Code) -> u64 {
        self.codes.get(&(code as i32)).map_or(0, |(count, _)| *count)
    }

    pub fn total(&self) -> u64 {
        self.codes.values().map(|(count, _)| count).sum()
    }

    /// Each code, as gRPC spells it, and how many calls ended with it.
    pub fn codes(&self) -> impl Iterator<Item = (String, u64)> {
        self.codes.iter().map(|(code, (count, _))| (name(Code::from(*code)), *count))
    }

    /// Those that are not allowed, each with how many there were and what one of them said.
    pub fn others(&self, allowed: &[Code]) -> Vec<(String, u64, String)> {
        let others = self.codes.iter().filter(|(code, _)| !allowed.contains(&Code::from(**code)));
        others
            .map(|(code, (count, said))| (name(Code::from(*code)), *count, said.clone()))
            .collect()
    }
}

/// `ResourceExhausted` as `RESOURCE_EXHAUSTED`.
fn name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_counted_and_those_not_allowed_are_told() {
        let mut outcomes = Outcomes::new();
        let took = Duration::from_millis(2);
        outcomes.add(&Ok(()), took);
        for message in ["full", "still full"] {
            outcomes.add::<()>(&Err(Status::resource_exhausted(message)), took);
        }
        let codes: Vec<_> = outcomes.codes().collect();
        assert_eq!(codes, [("OK".to_owned(), 1), ("RESOURCE_EXHAUSTED".to_owned(), 2)]);
        assert_eq!((outcomes.total(), outcomes.count(Code::Ok)), (3, 1));
        assert_eq!(outcomes.latencies.value_at_quantile(0.5) / 10, 200, "2 ms");
        let others = outcomes.others(&[Code::Ok]);
        assert_eq!(others, [("RESOURCE_EXHAUSTED".to_owned(), 2, "full".to_owned())]);
        assert!(outcomes.others(&[Code::Ok, Code::ResourceExhausted]).is_empty());
    }
}
