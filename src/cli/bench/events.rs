//! The events that loads append: JSON of a given size, with ids that are the client's, as clients should.

use std::sync::atomic::{AtomicU64, Ordering};

use prost_types::Timestamp;
use uuid::Uuid;

use crate::wire::proto::v1::{AppendRequest, NewEvent, new_event};

/// Spreads over all bits, as random ids are; odd, so that no two are alike.
const SPREAD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;

/// Makes requests; shared by all who append.
pub struct Maker {
    /// Of the first id.
    base: u128,
    made: AtomicU64,
    data: String,
}

impl Maker {
    /// Makes events with so many bytes of data. Of makers with the same `base` the ids are the same.
    pub fn new(base: u128, data_bytes: usize) -> Self {
        Self { base, made: AtomicU64::new(0), data: data(data_bytes) }
    }

    /// A request of `events` events for `stream`.
    pub fn append(
        &self,
        stream: &str,
        expected_version: Option<u64>,
        events: u64,
    ) -> AppendRequest {
        self.append_at(stream, expected_version, events, None)
    }

    /// The same, of events that say when they occurred.
    pub fn append_at(
        &self,
        stream: &str,
        expected_version: Option<u64>,
        events: u64,
        occurred_at: Option<Timestamp>,
    ) -> AppendRequest {
        // Relaxed: each number once is all that is asked of it.
        let before = self.made.fetch_add(events, Ordering::Relaxed);
        let event = |number: u64| NewEvent {
            id: id(self.base.wrapping_add(number.into())).to_string(),
            r#type: "PaymentProcessed".to_owned(),
            data: Some(new_event::Data::Text(self.data.clone())),
            occurred_at,
            ..NewEvent::default()
        };
        let events = (before + 1..=before + events).map(event).collect();
        let stream = stream.to_owned();
        AppendRequest { stream, events, expected_version, ..AppendRequest::default() }
    }
}

/// The id of that number.
pub fn id(number: u128) -> Uuid {
    Uuid::from_u128(number.wrapping_mul(SPREAD))
}

/// JSON of so many bytes, at least 2.
pub fn data(bytes: usize) -> String {
    const START: &str = r#"{"amount":"129.90","currency":"EUR","note":""#;
    const END: &str = r#""}"#;
    match bytes.checked_sub(START.len() + END.len()) {
        Some(fill) => format!("{START}{}{END}", "x".repeat(fill)),
        None => format!("\"{}\"", "x".repeat(bytes.saturating_sub(2))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_json_of_the_size_that_was_asked_for() {
        for bytes in [2, 3, 45, 46, 47, 256, 100_000] {
            let data = data(bytes);
            assert_eq!(data.len(), bytes);
            serde_json::from_str::<serde_json::Value>(&data).expect("JSON");
        }
    }

    #[test]
    fn no_two_events_have_one_id() {
        let maker = Maker::new(u128::MAX, 2);
        let requests = [maker.append("a-1", Some(0), 3), maker.append("a-2", None, 2)];
        let ids = requests.iter().flat_map(|it| &it.events).map(|event| &event.id);
        assert_eq!(ids.collect::<std::collections::BTreeSet<_>>().len(), 5);
    }
}
