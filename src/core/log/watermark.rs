//! The head that readers may see: nothing above it is visible to anyone.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::core::{
    position::Position,
    sync::{AtomicU64, Ordering},
};

/// The readers' side: where the visible log ends, and a way to wait until it has grown.
pub struct Watermark {
    /// Written by the one [`WatermarkWriter`].
    position: AtomicU64,
    grown: Notify,
}

/// The sequencer's side.
pub struct WatermarkWriter {
    shared: Arc<Watermark>,
    last: Position,
}

impl Watermark {
    /// The position up to which everything may be seen.
    pub fn get(&self) -> Position {
        // Acquire, pairs with the Release in `WatermarkWriter::advance`: segment and index were written
        // before that store.
        Position::new(self.position.load(Ordering::Acquire))
    }

    /// Waits until the watermark is beyond `after`, and returns it.
    pub async fn beyond(&self, after: Position) -> Position {
        loop {
            // Interest is registered before the watermark is looked at, so no growth falls between.
            let grown = self.grown.notified();
            let now = self.get();
            if now > after {
                return now;
            }
            grown.await;
        }
    }
}

impl WatermarkWriter {
    /// Nothing is visible yet.
    pub fn new() -> Self {
        let shared = Watermark { position: AtomicU64::new(0), grown: Notify::new() };
        Self { shared: Arc::new(shared), last: Position::ZERO }
    }

    /// The readers' side.
    pub fn shared(&self) -> &Arc<Watermark> {
        &self.shared
    }

    /// Makes every event up to and including `to` visible.
    pub fn advance(&mut self, to: Position) {
        assert!(self.last <= to, "the watermark never goes back");
        if self.last == to {
            return;
        }
        self.last = to; // Kept here: loading the atomic only to check it would blind the model.
        // Release, pairs with the Acquire in `Watermark::get`: segment and index were written before
        // this store, so whoever sees `to` sees them whole.
        self.shared.position.store(to.get(), Ordering::Release);
        self.shared.grown.notify_waiters();
    }
}

impl Default for WatermarkWriter {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, feature = "loom"))]
mod model {
    use super::*;

    /// Seen to fail with Relaxed in `advance` or in `get`.
    #[test]
    fn what_was_written_before_the_watermark_is_seen_with_it() {
        loom::model(|| {
            let mut watermark = WatermarkWriter::new();
            let shared = Arc::clone(watermark.shared());
            let written = Arc::new(loom::sync::atomic::AtomicU64::new(0));
            let writer = {
                let written = Arc::clone(&written);
                loom::thread::spawn(move || {
                    for position in 1..=2 {
                        // Relaxed: the watermark publishes it.
                        written.store(position, Ordering::Relaxed);
                        watermark.advance(Position::new(position));
                    }
                })
            };
            let seen = shared.get();
            // Relaxed: the watermark has published it.
            assert!(written.load(Ordering::Relaxed) >= seen.get());
            writer.join().expect("the writer does not panic");
        });
    }
}
