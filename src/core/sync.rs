//! The atomics of the core: std's, or a model checker's in its models.
//!
//! Only what is modelled comes from here. A model checker cannot see into arc-swap, so [`Snapshot`]
//! has a stand-in there that has the same promise: whoever loads a value sees all that was written
//! before it was stored.

#[cfg(feature = "loom")]
pub use loom::sync::{
    Mutex,
    atomic::{
        AtomicBool, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering,
    },
};
#[cfg(all(feature = "shuttle", not(feature = "loom")))]
pub use shuttle::sync::{
    Mutex,
    atomic::{
        AtomicBool, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering,
    },
};
#[cfg(not(any(feature = "loom", feature = "shuttle")))]
pub use std::sync::{
    Mutex,
    atomic::{
        AtomicBool, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering,
    },
};

use std::sync::Arc;

/// A value that is replaced as a whole and rarely, and read without a lock.
#[cfg(not(any(feature = "loom", feature = "shuttle")))]
pub struct Snapshot<T>(arc_swap::ArcSwap<T>);

#[cfg(not(any(feature = "loom", feature = "shuttle")))]
impl<T> Snapshot<T> {
    /// Begins with `value`.
    pub fn new(value: Arc<T>) -> Self {
        Self(arc_swap::ArcSwap::new(value))
    }

    /// The value of now, to keep.
    pub fn load(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Looks at the value of now without keeping it; `look` must not wait.
    pub fn with<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.0.load())
    }

    /// Replaces the value for all who load it from now on.
    pub fn store(&self, value: Arc<T>) {
        self.0.store(value);
    }
}

/// The stand-in for models.
#[cfg(any(feature = "loom", feature = "shuttle"))]
pub struct Snapshot<T>(Mutex<Arc<T>>);

#[cfg(any(feature = "loom", feature = "shuttle"))]
impl<T> Snapshot<T> {
    pub fn new(value: Arc<T>) -> Self {
        Self(Mutex::new(value))
    }

    pub fn load(&self) -> Arc<T> {
        Arc::clone(&self.0.lock().expect("no holder panics"))
    }

    pub fn with<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.load())
    }

    pub fn store(&self, value: Arc<T>) {
        *self.0.lock().expect("no holder panics") = value;
    }
}
