//! Giving memory back to the system during long runs.
//!
//! Running models takes and frees large blocks of many sizes. The C library keeps what is freed, and what is left between
//! small blocks that live on grows with the number of samples (a fifth more after some hundred) though nothing is held.

/// Runs between two calls of [`trim`]: often enough that the least runs see it, seldom enough to cost nothing.
pub const EVERY: usize = 16;

/// Gives freed pages back, where the C library can be asked to.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        malloc_trim(0);
    }
}
