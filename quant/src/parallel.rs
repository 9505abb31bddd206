//! Independent pieces of work on all threads.

use rayon::prelude::*;

/// What `work` makes of each item, in the order of the items, whatever the number of threads.
pub fn map<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync + Send) -> Vec<R> {
    items.par_iter().map(work).collect()
}
