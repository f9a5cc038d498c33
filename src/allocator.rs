//! What glibc's allocator keeps of the memory that is freed.
#![allow(unsafe_code)]

/// So much at the end of a heap is kept for what comes next, and what is larger is mapped by itself.
///
/// glibc's own answer is 128 KiB, and grows with the largest piece that was freed. Reads have several blocks
/// of 120 KiB on their way at a time: they were given back to the system and taken anew again and again, which is a seventh
/// of all that a read costs. There is a heap for each thread that allocates, at most eight for each processor.
const KEPT_BYTES: i32 = 4 << 20;

/// Sets it, unless the environment has `GLIBC_TUNABLES`. Before there are threads.
pub fn configure() {
    #[cfg(target_env = "gnu")]
    if std::env::var_os("GLIBC_TUNABLES").is_none() {
        for parameter in [libc::M_TRIM_THRESHOLD, libc::M_MMAP_THRESHOLD] {
            // SAFETY: mallopt(3) takes any value; one that it refuses changes nothing.
            unsafe { libc::mallopt(parameter, KEPT_BYTES) };
        }
    }
}
