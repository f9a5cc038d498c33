//! For tests: rules without a store, and the store itself in the test's own process.

mod scenario;
#[cfg(feature = "testing")]
mod store;

/// What [`TestStore::start_with`] takes: the server's settings.
#[cfg(feature = "testing")]
pub use annals::config::Config;

pub use scenario::{Decided, Outcome, Scenario};
#[cfg(feature = "testing")]
pub use store::TestStore;
