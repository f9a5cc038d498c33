//! A bell for one who looks after things: who rings it learns whether somebody must be called.
//!
//! ```text
//! who looks after it:  attend … look … leave: false, it has rung   attend … look … leave: true
//! who rings:                       ring: false                                                   ring: true, calls
//! ```

use super::sync::{AtomicU8, Ordering};

/// Whether somebody looks after what there is to do.
pub struct Bell(AtomicU8);

/// Nobody does; there is nothing to do.
const QUIET: u8 = 0;
/// Somebody does.
const ATTENDED: u8 = 1;
/// There is something that nobody has begun to look after.
const RINGS: u8 = 2;

impl Bell {
    /// A bell that nobody attends.
    pub fn new() -> Self {
        Self(AtomicU8::new(QUIET))
    }

    /// Somebody looks after everything that it has rung for.
    pub fn attend(&self) {
        // Acquire, pairs with the Release in `ring`: what it has rung for is seen.
        self.0.swap(ATTENDED, Ordering::Acquire);
    }

    /// Nobody does any more, if it has not rung since. Whether that is so.
    pub fn leave(&self) -> bool {
        // Relaxed: what it has rung for is looked at after `attend`.
        self.0.compare_exchange(ATTENDED, QUIET, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// There is something to do. Whether somebody must be called.
    pub fn ring(&self) -> bool {
        // Release, pairs with the Acquire in `attend`.
        self.0.swap(RINGS, Ordering::Release) == QUIET
    }
}

impl Default for Bell {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, feature = "loom"))]
mod model {
    use loom::sync::{Arc, atomic::AtomicUsize};

    use super::*;

    /// Seen to fail where `leave` says true whatever has rung, and with Relaxed in `ring` or `attend`.
    #[test]
    fn what_it_rings_for_is_seen_or_somebody_is_called() {
        loom::model(|| {
            let bell = Arc::new(Bell::default());
            let work = Arc::new(AtomicUsize::new(0));
            bell.attend();
            let ringers: Vec<_> = (0..2)
                .map(|_| {
                    let (bell, work) = (Arc::clone(&bell), Arc::clone(&work));
                    loom::thread::spawn(move || {
                        // Relaxed: it is the bell that orders.
                        work.fetch_add(1, Ordering::Relaxed);
                        bell.ring()
                    })
                })
                .collect();
            let done = || work.load(Ordering::Relaxed); // Relaxed: as above.
            let mut seen = done();
            while !bell.leave() {
                bell.attend();
                seen = done();
            }
            let called = ringers.into_iter().map(|it| it.join().expect("no panic"));
            let called = called.filter(|called| *called).count();
            assert!(called <= 1 && (called == 1 || seen == 2));
        });
    }
}
