//! Time that a test can set.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// A moment, UTC: seconds since 1970 (may be negative) and nanoseconds in the second (0 to 999 999 999).
/// The range is protobuf's: year 1 to year 9999.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Timestamp {
    seconds: i64,
    nanos: u32,
}

impl Timestamp {
    /// 0001-01-01T00:00:00Z, from google/protobuf/timestamp.proto.
    pub const SECONDS_MIN: i64 = -62_135_596_800;
    /// 9999-12-31T23:59:59Z, from google/protobuf/timestamp.proto.
    pub const SECONDS_MAX: i64 = 253_402_300_799;

    /// The moment, if it is in range.
    pub fn new(seconds: i64, nanos: i64) -> Option<Self> {
        let nanos = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
        (Self::SECONDS_MIN..=Self::SECONDS_MAX)
            .contains(&seconds)
            .then_some(Self { seconds, nanos })
    }

    /// So many microseconds since 1970.
    pub fn from_micros(micros: i64) -> Self {
        let nanos = u32::try_from(micros.rem_euclid(1_000_000) * 1000).expect("below 10^9");
        Self { seconds: micros.div_euclid(1_000_000), nanos }
    }

    /// Microseconds since 1970, rounded down.
    pub fn micros(self) -> i64 {
        self.seconds * 1_000_000 + i64::from(self.nanos / 1000)
    }

    /// Microseconds since 1970, rounded up.
    pub fn micros_up(self) -> i64 {
        self.micros() + i64::from(!self.nanos.is_multiple_of(1000))
    }

    /// The time from `earlier` to this moment; `None` if this one is earlier.
    pub fn since(self, earlier: Self) -> Option<Duration> {
        let nanos = i128::from(self.seconds - earlier.seconds) * 1_000_000_000
            + i128::from(self.nanos)
            - i128::from(earlier.nanos);
        let nanos = u128::try_from(nanos).ok()?;
        let seconds = u64::try_from(nanos / 1_000_000_000).expect("less than 10 000 years");
        let nanos = u32::try_from(nanos % 1_000_000_000).expect("below 10^9");
        Some(Duration::new(seconds, nanos))
    }

    /// Whole seconds since 1970, rounded down.
    pub fn seconds(self) -> i64 {
        self.seconds
    }

    /// Nanoseconds in the second.
    pub fn nanos(self) -> u32 {
        self.nanos
    }
}

/// Where the time comes from.
pub trait Clock: Send + Sync {
    /// Now, in microseconds since 1970, UTC. May go back: the sequencer does not follow it there.
    fn now_micros(&self) -> i64;
}

/// The operating system's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    fn now_micros(&self) -> i64 {
        let since = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    }
}

/// A clock that a test sets.
#[derive(Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// From now on it is `micros`.
    pub fn set(&self, micros: i64) {
        // Relaxed: the test's own synchronisation orders it.
        self.0.store(micros, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now_micros(&self) -> i64 {
        // Relaxed: the test's own synchronisation orders it.
        self.0.load(Ordering::Relaxed)
    }
}
