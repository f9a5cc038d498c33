//! The permit to write to an index, and what its holder keeps in one. Unsafe code: [`Sole`].

use std::{
    cell::UnsafeCell,
    // Not those of a model: a permit is passed on by whoever passes on the sequencer, in an order of theirs.
    sync::atomic::{AtomicU64, Ordering},
};

/// The permit to write to an index. There is one in a store, the sequencer's: single-writer structures
/// take it as `&mut`, so that two threads cannot write at once.
pub struct SoleWriter {
    /// No other permit has it.
    id: u64,
}

/// The last permit's.
static LAST_ID: AtomicU64 = AtomicU64::new(0);

impl SoleWriter {
    /// The permit. Only the owner of a store's write side makes one.
    pub(in crate::core) fn new() -> Self {
        // Relaxed: each number is taken once, and that is all. Nobody makes 2^64.
        Self { id: LAST_ID.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

/// A part of a shared structure that is the sole writer's: who has the permit needs no lock for it. (As the cells of
/// the crate qcell are, but that the first permit that comes is the owner.)
pub struct Sole<T> {
    /// 0: nobody yet.
    owner: AtomicU64,
    value: UnsafeCell<T>,
}

impl<T> Sole<T> {
    pub fn new(value: T) -> Self {
        Self { owner: AtomicU64::new(0), value: UnsafeCell::new(value) }
    }

    /// The value, for as long as the permit is given for it.
    ///
    /// # Panics
    /// If another permit was given before.
    #[allow(unsafe_code)]
    pub fn get<'a>(&'a self, writer: &'a mut SoleWriter) -> &'a mut T {
        // Relaxed, all: an owner is set once, and what is behind it is ordered by how the permit got here.
        if self.owner.load(Ordering::Relaxed) != writer.id {
            let order = Ordering::Relaxed;
            let first = self.owner.compare_exchange(0, writer.id, order, order);
            first.expect("a structure has one writer");
        }
        // SAFETY: only who has the permit with the owner's id comes here; there is one, and it is borrowed, not to be
        // used by anyone, for as long as the value is.
        unsafe { &mut *self.value.get() }
    }
}

// SAFETY: a shared `Sole` gives its value to the one who has the permit, as a mutex gives it to who has locked it.
#[allow(unsafe_code)]
unsafe impl<T: Send> Sync for Sole<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_permit_is_the_only_one() {
        let (mut one, mut other) = (SoleWriter::new(), SoleWriter::new());
        let sole = Sole::new(1);
        *sole.get(&mut one) += 1;
        assert_eq!(*sole.get(&mut one), 2);
        let refused = std::panic::AssertUnwindSafe(|| *sole.get(&mut other));
        assert!(std::panic::catch_unwind(refused).is_err());
    }
}
