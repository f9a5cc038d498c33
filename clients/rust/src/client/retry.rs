//! When a call is made again: pauses that grow, with chance in them, so that clients do not come back together.

use std::time::Duration;

use rand::RngExt as _;

use crate::{Error, Result};

/// How often and how soon something is tried again.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
/// # let nobody_listens = format!("http://{}", listener.local_addr().unwrap());
/// # drop(listener);
/// use annals_client::{ClientOptions, client::Retry};
/// use std::time::Duration;
///
/// let retry = Retry { tries: 2, pause: Duration::from_millis(10), ..Retry::default() };
/// let client = ClientOptions::new(nobody_listens).retry(retry).connect().await?;
/// let error = client.count([]).await.unwrap_err();
/// assert!(error.is_transient(), "it was tried twice, and may be tried again");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// How many tries there are in all, the first among them. 1: none is repeated.
    pub tries: u32,
    /// The longest first pause; each later one may be twice as long.
    pub pause: Duration,
    /// But no longer than this.
    pub pause_max: Duration,
}

impl Default for Retry {
    /// 8 tries; pauses of up to 50 ms, 100 ms and so on, and at most 5 s.
    fn default() -> Self {
        Self { tries: 8, pause: Duration::from_millis(50), pause_max: Duration::from_secs(5) }
    }
}

impl Retry {
    /// As often as it takes: for what runs in the background.
    #[must_use]
    pub fn for_ever() -> Self {
        Self { tries: u32::MAX, ..Self::default() }
    }
}

/// The pauses of one call.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    tries_left: u32,
    pause: Duration,
    retry: Retry,
}

impl Backoff {
    pub(crate) fn new(retry: &Retry) -> Self {
        Self { tries_left: retry.tries.saturating_sub(1), pause: retry.pause, retry: *retry }
    }

    /// How long to wait before the next try; `None`: that was the last one. Between half and all of what it may be,
    /// by chance.
    pub(crate) fn next(&mut self) -> Option<Duration> {
        self.tries_left = match self.tries_left {
            0 => return None,
            u32::MAX => u32::MAX,
            left => left - 1,
        };
        let pause = self.pause.min(self.retry.pause_max);
        self.pause = pause.saturating_mul(2);
        Some(pause.mul_f64(rand::rng().random_range(0.5..=1.0)))
    }

    /// Waits before the next try, where one can help; otherwise gives the error back. `what` connects again.
    pub(crate) async fn wait_after(&mut self, error: Error, what: &'static str) -> Result<()> {
        self.wait_if(error.is_repeatable(), error, what).await
    }

    /// The same, where the caller knows whether another try can help.
    pub(crate) async fn wait_if(
        &mut self,
        helps: bool,
        error: Error,
        what: &'static str,
    ) -> Result<()> {
        match self.next() {
            Some(pause) if helps => {
                tracing::debug!(%error, ?pause, "{what} connects again");
                tokio::time::sleep(pause).await;
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// It went well meanwhile.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(&self.retry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_end_with_the_tries() {
        let retry = Retry {
            tries: 5,
            pause: Duration::from_millis(100),
            pause_max: Duration::from_millis(300),
        };
        let mut backoff = Backoff::new(&retry);
        for max in [100, 200, 300, 300] {
            let pause = backoff.next().unwrap();
            assert!(pause <= Duration::from_millis(max), "{pause:?}");
            assert!(pause >= Duration::from_millis(max / 2), "{pause:?}");
        }
        assert_eq!(backoff.next(), None);
        backoff.reset();
        assert!(backoff.next().unwrap() <= Duration::from_millis(100));
    }
}
