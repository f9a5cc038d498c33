//! What every load has: whom it calls, until when it goes on, what it came to, and why it fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::cli::CliError;

/// Who is called: the store, or the service that does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Twin {
    /// The real call.
    Real,
    /// The empty call with the same messages, where there is one.
    Messages,
    /// The empty call with as many bytes, which decodes next to nothing.
    Bytes,
    /// The same, whose bytes are written and synced by a bare loop.
    Disk,
}

/// What a load came to.
pub struct Taken {
    /// Events that were appended or received; of an empty call, those that it stands for.
    pub events: u64,
    /// Of calls, or of events on their way: nanoseconds.
    pub latencies: Histogram<u64>,
}

impl Taken {
    /// Nothing yet.
    pub fn nothing() -> Self {
        Self { events: 0, latencies: latencies() }
    }

    /// A call for so many events that began at `started`.
    pub fn add(&mut self, events: u64, started: Instant) {
        self.events += events;
        self.latencies.saturating_record(nanos(started.elapsed()));
    }

    /// Both together.
    pub fn merge(&mut self, other: &Self) {
        self.events += other.events;
        self.latencies += &other.latencies;
    }
}

/// For latencies in nanoseconds, up to a minute, two digits: about 30 KiB, however many there are.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 2).expect("the bounds are sane")
}

/// Saturates after five centuries.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Why a load ends early.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A call failed.
    #[error("{}", .0.message())]
    Refused(Box<Status>),
    /// An answer is not what was asked for.
    #[error("{0}")]
    Wrong(String),
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl From<Fault> for CliError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(status) => (*status).into(),
            Fault::Wrong(what) => Self::Failed(what),
        }
    }
}

/// How much a round is.
#[derive(Debug, Clone, Copy)]
pub enum Amount {
    /// So long.
    For(Duration),
    /// So many events.
    Events(u64),
}

/// What is left of a round, shared by all who work on it.
pub struct Budget {
    amount: Amount,
    began: Instant,
    /// Events that were given out, or received.
    taken: AtomicU64,
    stopped: CancellationToken,
}

impl Budget {
    /// The round begins.
    pub fn begin(amount: Amount) -> Arc<Self> {
        let (began, stopped) = (Instant::now(), CancellationToken::new());
        Arc::new(Self { amount, began, taken: AtomicU64::new(0), stopped })
    }

    /// Leave to append or read so many events, or as many as are left; none: the round is over.
    pub fn take(&self, at_most: u64) -> Option<u64> {
        if self.is_over() {
            return None;
        }
        let Amount::Events(all) = self.amount else {
            self.spend(at_most);
            return Some(at_most);
        };
        let grant = |taken: u64| at_most.min(all.saturating_sub(taken));
        // Relaxed: a count, which nothing else hangs on.
        let before = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
            (grant(taken) > 0).then(|| taken + grant(taken))
        });
        before.ok().map(grant)
    }

    /// So many events came, unasked.
    pub fn spend(&self, events: u64) {
        self.taken.fetch_add(events, Ordering::Relaxed);
    }

    /// How many events are left, where they are counted.
    pub fn left(&self) -> Option<u64> {
        match self.amount {
            Amount::For(_) => None,
            Amount::Events(all) => Some(all.saturating_sub(self.taken.load(Ordering::Relaxed))),
        }
    }

    /// Whether there is nothing left.
    pub fn is_over(&self) -> bool {
        self.is_ended() || self.left() == Some(0)
    }

    /// Whether what was begun is given up: the time is over, or it was stopped.
    pub fn is_ended(&self) -> bool {
        let late = match self.amount {
            Amount::For(time) => self.began.elapsed() >= time,
            Amount::Events(_) => false,
        };
        late || self.stopped.is_cancelled()
    }

    /// Ends it before its time.
    pub fn stop(&self) {
        self.stopped.cancel();
    }

    /// Until the time is over, or somebody has stopped it; of a budget of events the latter only.
    pub async fn over(&self) {
        let time = async {
            match self.amount {
                Amount::For(time) => tokio::time::sleep_until((self.began + time).into()).await,
                Amount::Events(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            () = time => {}
            () = self.stopped.cancelled() => {}
        }
    }

    /// How much is done, in thousandths.
    pub fn done(&self) -> u64 {
        let (done, all) = match self.amount {
            Amount::For(time) => (nanos(self.began.elapsed()), nanos(time)),
            Amount::Events(all) => (self.taken.load(Ordering::Relaxed), all),
        };
        let thousandths = u128::from(done) * 1000 / u128::from(all.max(1));
        u64::try_from(thousandths).unwrap_or(u64::MAX).min(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_of_events_gives_out_exactly_so_many() {
        let budget = Budget::begin(Amount::Events(10));
        assert_eq!([budget.take(4), budget.take(4)], [Some(4), Some(4)]);
        assert_eq!((budget.left(), budget.done()), (Some(2), 800));
        assert_eq!([budget.take(4), budget.take(4)], [Some(2), None]);
        assert!(budget.is_over());
    }

    #[test]
    fn a_budget_of_time_ends_with_it_or_when_it_is_stopped() {
        assert_eq!(Budget::begin(Amount::For(Duration::ZERO)).take(1), None);
        let budget = Budget::begin(Amount::For(Duration::from_hours(1)));
        assert_eq!(budget.take(7), Some(7));
        budget.stop();
        assert_eq!(budget.take(7), None);
    }
}
