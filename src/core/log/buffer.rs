//! Memory that is never moved, grown, or written twice at one place: what a segment is written to.
//!
//! Who may write and read when is the segment's to say; the bounds are checked here.

#![allow(unsafe_code)]

use std::{
    alloc::{Layout, handle_alloc_error},
    ops::Range,
};

use memmap2::{MmapMut, MmapRaw};

/// Zeroed memory. The operating system gives it page by page, as it is touched, and has all of it back
/// with the buffer: from an allocator's heap, small allocations behind it would keep it.
pub struct Buffer {
    memory: MmapRaw,
    /// loom cannot see into raw memory; it sees into this, a cell for each byte.
    #[cfg(feature = "loom")]
    cells: Vec<loom::cell::UnsafeCell<()>>,
}

// SAFETY: the memory may be shared, as `MmapRaw` says; loom checks every access to the cells.
#[cfg(feature = "loom")]
unsafe impl Sync for Buffer {}

impl Buffer {
    pub fn new(size: usize) -> Self {
        let Ok(memory) = MmapMut::map_anon(size) else {
            handle_alloc_error(Layout::array::<u8>(size).expect("a segment's size is sane"))
        };
        Self {
            memory: memory.into(),
            #[cfg(feature = "loom")]
            cells: (0..size).map(|_| loom::cell::UnsafeCell::new(())).collect(),
        }
    }

    pub fn size(&self) -> usize {
        self.memory.len()
    }

    /// Copies `bytes` to `at`.
    ///
    /// # Safety
    /// During the call nobody else writes or reads any byte of the range, and no slice of it is
    /// alive. The range's bounds are checked.
    pub unsafe fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at <= self.size() && bytes.len() <= self.size() - at, "a write stays inside");
        #[cfg(feature = "loom")]
        for cell in &self.cells[at..at + bytes.len()] {
            cell.with_mut(|_| ());
        }
        // SAFETY: in bounds by the assertion; exclusive by the caller's promise, so `bytes`, a live
        // shared slice, cannot overlap it.
        unsafe {
            let target = self.memory.as_mut_ptr().add(at);
            target.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }

    /// Asks the system for the pages of `range`, as far as it is inside: for many at once that costs less than for
    /// each when it is touched. Where the system does not know how, nothing happens.
    pub fn expect_writes(&self, range: Range<usize>) {
        let end = range.end.min(self.size());
        #[cfg(all(target_os = "linux", not(any(feature = "loom", miri))))]
        if range.start < end {
            let advice = memmap2::Advice::PopulateWrite;
            let _ = self.memory.advise_range(advice, range.start, end - range.start);
        }
        #[cfg(not(all(target_os = "linux", not(any(feature = "loom", miri)))))]
        let _ = end;
    }

    /// The bytes of `range`.
    ///
    /// # Safety
    /// Nobody writes to the range as long as the slice lives, and every earlier write to it happened
    /// before the call. The range's bounds are checked.
    pub unsafe fn read(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.size(), "a read stays inside");
        #[cfg(feature = "loom")]
        for cell in &self.cells[range.clone()] {
            cell.with(|_| ());
        }
        // SAFETY: in bounds by the assertion, zeroed when it was mapped; nobody writes to it by the
        // caller's promise.
        unsafe {
            let start = self.memory.as_ptr().add(range.start);
            std::slice::from_raw_parts(start, range.len())
        }
    }
}
