//! An allocator that keeps large blocks for the next request of the same size.
//!
//! A model asks for the same sizes in the same order with every sample. Given back to the system in between, each block
//! costs the clearing of its pages when it is touched again: a third of a run in tract. Waiting here it costs nothing, and
//! since what waits is bounded, the peak does not depend on how many samples there are.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Smaller blocks stay with the C library, which takes larger ones from the system one by one
/// ([`keep_level`](super::keep_level)).
pub(super) const LARGE: usize = 128 << 10;
/// Bytes that may wait: about what one sample of an image classifier asks for.
const WAITING: usize = 32 << 20;
/// Blocks that may wait.
const PLACES: usize = 128;

/// Blocks are kept from now on.
static ON: AtomicBool = AtomicBool::new(false);

/// See [`ON`].
pub(super) fn start() {
    ON.store(true, Ordering::Relaxed);
}

/// The system's allocator, and a pool once that is asked for.
pub struct Recycling {
    pool: Mutex<Pool>,
}

fn keeps(layout: Layout) -> bool {
    layout.size() >= LARGE && ON.load(Ordering::Relaxed)
}

impl Recycling {
    /// Hands through what the system gives.
    pub const fn new() -> Recycling {
        Recycling { pool: Mutex::new(Pool::new()) }
    }

    fn with_pool<T>(&self, work: impl FnOnce(&mut Pool) -> T) -> T {
        work(&mut self.pool.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Default for Recycling {
    fn default() -> Recycling {
        Recycling::new()
    }
}

// SAFETY: every block comes from the system's allocator with the layout that it is asked for, and is in one hand at a time:
// its owner's, or the pool's. The pool allocates nothing. Cleared memory comes from the system alone.
unsafe impl GlobalAlloc for Recycling {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if keeps(layout)
            && let Some(block) = self.with_pool(|pool| pool.take(layout))
        {
            return block.at;
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise; the block is the system's.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let mut surplus = Some(Block { at, layout });
        if keeps(layout) {
            surplus = self.with_pool(|pool| pool.put(Block { at, layout }));
        }
        while let Some(block) = surplus {
            // SAFETY: nobody has the block any more, and it is the system's.
            unsafe { System.dealloc(block.at, block.layout) };
            surplus = keeps(layout).then(|| self.with_pool(Pool::surplus)).flatten();
        }
    }
}

/// A block of the system's allocator.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Block {
    at: *mut u8,
    layout: Layout,
}

/// Blocks that wait, the oldest first.
struct Pool {
    blocks: [Option<Block>; PLACES],
    count: usize,
    bytes: usize,
}

// SAFETY: blocks in the pool belong to it alone.
unsafe impl Send for Pool {}

impl Pool {
    const fn new() -> Pool {
        Pool { blocks: [None; PLACES], count: 0, bytes: 0 }
    }

    /// The latest block of exactly this layout.
    fn take(&mut self, layout: Layout) -> Option<Block> {
        let fits = |block: &Option<Block>| block.is_some_and(|block| block.layout == layout);
        let at = self.blocks[..self.count].iter().rposition(fits)?;
        self.remove(at)
    }

    /// Takes a block in; the one that there is no room for.
    fn put(&mut self, block: Block) -> Option<Block> {
        if block.layout.size() > WAITING {
            return Some(block);
        }
        let surplus = if self.count == PLACES { self.remove(0) } else { None };
        self.blocks[self.count] = Some(block);
        self.count += 1;
        self.bytes += block.layout.size();
        surplus.or_else(|| self.surplus())
    }

    /// The oldest block, while too much waits.
    fn surplus(&mut self) -> Option<Block> {
        if self.bytes > WAITING { self.remove(0) } else { None }
    }

    fn remove(&mut self, at: usize) -> Option<Block> {
        let block = self.blocks[at].take()?;
        self.blocks[at..self.count].rotate_left(1);
        self.count -= 1;
        self.bytes -= block.layout.size();
        Some(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(at: usize, size: usize) -> Block {
        Block { at: std::ptr::without_provenance_mut(at), layout: Layout::from_size_align(size, 64).unwrap() }
    }

    #[test]
    fn the_latest_block_of_the_very_layout_comes_back() {
        let mut pool = Pool::new();
        for at in 1..4 {
            assert_eq!(pool.put(block(at, LARGE)), None);
        }
        assert_eq!(pool.take(block(0, LARGE + 1).layout), None);
        assert_eq!(pool.take(Layout::from_size_align(LARGE, 8).unwrap()), None);
        assert_eq!(pool.take(block(0, LARGE).layout), Some(block(3, LARGE)));
        assert_eq!(pool.take(block(0, LARGE).layout), Some(block(2, LARGE)));
        assert_eq!((pool.count, pool.bytes), (1, LARGE));
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_or_too_large_ones() {
        let mut pool = Pool::new();
        for at in 0..PLACES {
            assert_eq!(pool.put(block(at, LARGE)), None);
        }
        assert_eq!(pool.put(block(PLACES, LARGE)), Some(block(0, LARGE)));
        assert_eq!(pool.put(block(7, WAITING + 1)), Some(block(7, WAITING + 1)));
        // One that fills the pool alone drives all others out, one after the other.
        let mut gone = usize::from(pool.put(block(999, WAITING)).is_some());
        while pool.surplus().is_some() {
            gone += 1;
        }
        assert_eq!((gone, pool.count, pool.bytes), (PLACES, 1, WAITING));
    }

    #[test]
    fn blocks_come_and_go_through_the_allocator() {
        let recycling = Recycling::new();
        let layout = Layout::from_size_align(LARGE, 64).unwrap();
        // SAFETY: each block is freed once, with its layout, and not used afterwards.
        unsafe {
            let first = recycling.alloc(layout);
            recycling.dealloc(first, layout);
            assert_eq!(recycling.with_pool(|pool| pool.count), 0, "it has not started");
            start();
            let first = recycling.alloc(layout);
            first.write_bytes(7, LARGE);
            recycling.dealloc(first, layout);
            assert_eq!(recycling.alloc(layout), first);
            let cleared = recycling.alloc_zeroed(layout);
            assert!((0..LARGE).all(|at| *cleared.add(at) == 0));
            recycling.dealloc(cleared, layout);
            let grown = recycling.realloc(first, layout, 2 * LARGE);
            assert_eq!(*grown.add(LARGE - 1), 7);
            recycling.dealloc(grown, Layout::from_size_align(2 * LARGE, 64).unwrap());
            assert_eq!(recycling.with_pool(|pool| (pool.count, pool.bytes)), (2, 3 * LARGE));
            while let Some(block) = recycling.with_pool(|pool| pool.remove(0)) {
                System.dealloc(block.at, block.layout);
            }
        }
    }
}
