//! How a consumer group works.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a group's events are shared by its consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// In turn, to each that has room.
    RoundRobin,
    /// To the one that came first.
    DispatchToOne,
    /// In turn, of each stream at most one at a time, in order.
    OrderedByStream,
    /// The same by correlation id; events without one are not ordered.
    OrderedByCorrelation,
}

impl Strategy {
    /// Whether events have keys, of each of which at most one is in flight.
    pub fn is_ordered(self) -> bool {
        matches!(self, Self::OrderedByStream | Self::OrderedByCorrelation)
    }
}

/// How a group works; group.proto has the bounds, which the edge keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    pub strategy: Strategy,
    /// How long a consumer may take to settle an event.
    #[serde(with = "millis")]
    pub message_timeout: Duration,
    /// How often an event is delivered again before it is parked.
    pub retries_max: u32,
    /// How long an event waits before it is delivered again: at first, doubled each time, and at most.
    #[serde(with = "millis")]
    pub retry_delay: Duration,
    #[serde(with = "millis")]
    pub retry_delay_max: Duration,
    /// How many events one consumer has in flight at once, at most.
    pub in_flight_max: usize,
    /// Of an ordered group: while an event is parked, later ones of its key are held back.
    pub hold_back_parked_keys: bool,
    /// How many events may be parked.
    pub parked_max: usize,
    /// How many events that are not settled are looked at ahead, at most.
    pub window_max: usize,
    /// How often what is settled is noted in the log.
    #[serde(with = "millis")]
    pub checkpoint_interval: Duration,
    /// How many consumers may take events at once.
    pub consumers_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            strategy: Strategy::RoundRobin,
            message_timeout: Duration::from_secs(30),
            retries_max: 10,
            retry_delay: Duration::from_secs(1),
            retry_delay_max: Duration::from_mins(1),
            in_flight_max: 10,
            hold_back_parked_keys: false,
            parked_max: 10_000,
            window_max: 1000,
            checkpoint_interval: Duration::from_secs(1),
            consumers_max: 100,
        }
    }
}

impl Settings {
    /// Whether events wait for parked ones of their key.
    pub fn holds_back(&self) -> bool {
        self.hold_back_parked_keys && self.strategy.is_ordered()
    }

    /// How long an event waits that failed so many times.
    pub fn delay(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.retry_delay.saturating_mul(1 << doublings).min(self.retry_delay_max)
    }
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_doubles_up_to_its_greatest() {
        let settings = Settings { retry_delay_max: Duration::from_secs(5), ..Settings::default() };
        let delays = [1, 2, 3, 4, u32::MAX].map(|failures| settings.delay(failures).as_secs());
        assert_eq!(delays, [1, 2, 4, 5, 5]);
    }
}
