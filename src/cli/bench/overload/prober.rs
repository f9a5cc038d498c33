//! Asks for the server's health every 100 ms, as a supervisor would.
//!
//! On a thread, a runtime and a connection of its own, so that it waits for the server and not for the load beside it.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::calls::{latencies, micros};
use crate::cli::CliError;

const INTERVAL: Duration = Duration::from_millis(100);
/// A check that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was found since the last look.
pub struct Probe {
    /// Microseconds, of the checks that were answered.
    pub latencies: Histogram<u64>,
    pub failures: u64,
    /// What the first of them was.
    pub failure: Option<String>,
}

impl Probe {
    fn new() -> Self {
        Self { latencies: latencies(), failures: 0, failure: None }
    }
}

pub struct Prober {
    found: Arc<Mutex<Probe>>,
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

impl Prober {
    pub fn start(endpoint: Endpoint) -> Result<Self, CliError> {
        let found = Arc::new(Mutex::new(Probe::new()));
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| CliError::file("the runtime", error))?;
        let thread = thread::spawn({
            let (found, stop) = (Arc::clone(&found), stop.clone());
            move || {
                runtime.block_on(stop.run_until_cancelled(probe(&endpoint, &found)));
            }
        });
        Ok(Self { found, stop, thread })
    }

    /// What was found since the last call.
    pub fn take(&self) -> Probe {
        mem::replace(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner), Probe::new())
    }

    pub fn stop(self) {
        self.stop.cancel();
        // It has nothing more to say.
        let _ = self.thread.join();
    }
}

async fn probe(endpoint: &Endpoint, found: &Mutex<Probe>) {
    // Connected here, and again after a failure.
    let mut health = HealthClient::new(endpoint.connect_lazy());
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asked = Instant::now();
        let failure = match timeout(PATIENCE, check(&mut health)).await {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure),
            Err(_) => Some(format!("no answer within {PATIENCE:?}")),
        };
        let took = asked.elapsed();
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        match failure {
            None => found.latencies.saturating_record(micros(took)),
            Some(failure) => {
                found.failures += 1;
                found.failure.get_or_insert(failure);
            }
        }
    }
}

/// Whether the server as a whole serves.
pub async fn check(health: &mut HealthClient<Channel>) -> Result<(), String> {
    let answer = health.check(HealthCheckRequest { service: String::new() }).await;
    match answer.map(|answer| answer.into_inner().status()) {
        Ok(ServingStatus::Serving) => Ok(()),
        Ok(status) => Err(status.as_str_name().to_owned()),
        Err(status) => Err(format!("{:?}: {}", status.code(), status.message())),
    }
}
