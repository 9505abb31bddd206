//! Giving memory back to the system during long runs.
//!
//! Running models takes and frees large blocks of many sizes. The C library keeps what is freed, and what is left between
//! small blocks that live on grows with the number of samples (a fifth more after some hundred) though nothing is held.

mod recycle;

pub use recycle::Recycling;

/// Makes the C library take blocks from the system that hold a tensor and give them back at once, for the rest of the process.
/// By itself it raises the bound with every large block that is freed, up to 32 MiB; tensors then share its heap with what
/// stays, and the peak depends on how threads interleave: it grew by up to a seventh from 40 to 400 samples. What that costs
/// the program does not pay: its allocator, [`Recycling`], keeps what a sample needs.
pub fn keep_level() {
    recycle::start();
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const M_MMAP_THRESHOLD: std::ffi::c_int = -3;
        unsafe extern "C" {
            safe fn mallopt(parameter: std::ffi::c_int, value: std::ffi::c_int) -> std::ffi::c_int;
        }
        // What the C library starts with.
        mallopt(M_MMAP_THRESHOLD, recycle::LARGE as std::ffi::c_int);
    }
}

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
