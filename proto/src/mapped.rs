//! Mapped files, and the way back from a slice of one to the file.
//!
//! A tensor is a slice of bytes and does not say whose. When it is written unchanged, copying from file to file inside the
//! kernel takes half the time of writing from the map (1.8 s and 3.7 s for 4 GiB in the page cache), so large files that
//! are mapped stay on a list by address. Nothing but speed depends on it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use memmap2::Mmap;

/// Smaller files do not stay open: a model may have its weights in thousands of them.
const STAYS_OPEN: usize = 16 << 20;
/// Smaller slices are not worth a look at the list.
const WORTHWHILE: usize = 1 << 16;

static LIST: Mutex<BTreeMap<usize, Weak<Mapped>>> = Mutex::new(BTreeMap::new());

struct Mapped {
    map: Mmap,
    file: File,
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if let Ok(mut list) = LIST.lock() {
            list.remove(&(self.map.as_ptr() as usize));
        }
    }
}

struct Owner(Arc<Mapped>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0.map
    }
}

/// Maps a whole file. An empty one needs no map.
///
/// The map is private and read-only. If another program truncates the file while it is mapped, reading it stops this
/// program, as it would any other that maps files.
pub(crate) fn map(file: File) -> io::Result<Bytes> {
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the slice is only read; that nobody truncates or rewrites the file meanwhile is the contract above.
    let map = unsafe { Mmap::map(&file)? };
    if map.len() < STAYS_OPEN {
        return Ok(Bytes::from_owner(map));
    }
    let mapped = Arc::new(Mapped { map, file });
    if let Ok(mut list) = LIST.lock() {
        list.insert(mapped.map.as_ptr() as usize, Arc::downgrade(&mapped));
    }
    Ok(Bytes::from_owner(Owner(mapped)))
}

/// Gives the memory back that holds what was read of mapped files so far. Who reads again waits for the page cache, or for
/// the disk; the contents are the same.
pub fn release_pages() {
    // Upgraded under the lock, dropped outside of it, as in `source`.
    #[cfg(unix)]
    let alive: Vec<_> =
        LIST.lock().map(|list| list.values().filter_map(Weak::upgrade).collect()).unwrap_or_default();
    #[cfg(unix)]
    for mapped in alive {
        // SAFETY: the map is read-only and of a file, so dropped pages come back as they were. It is advice: a kernel that
        // declines leaves everything as it is.
        let _ = unsafe { mapped.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }
}

/// The mapped file that the slice is part of, and where it starts there. Maps do not overlap, so an address inside one
/// that is alive belongs to it.
fn source(bytes: &[u8]) -> Option<(Arc<Mapped>, u64)> {
    let start = bytes.as_ptr() as usize;
    // Upgraded under the lock, dropped outside of it: dropping the last reference takes the lock.
    let mapped = LIST.lock().ok()?.range(..=start).next_back()?.1.upgrade()?;
    let offset = start - mapped.map.as_ptr() as usize;
    let inside = offset.checked_add(bytes.len()).is_some_and(|end| end <= mapped.map.len());
    inside.then_some((mapped, offset as u64))
}

/// Writes the slice at the end of what was written to `out`, from file to file where it can.
pub(crate) fn write_slice(out: &mut File, bytes: &[u8]) -> io::Result<()> {
    let done = if bytes.len() < WORTHWHILE {
        0
    } else {
        source(bytes).map_or(0, |from| copy(out, bytes.len(), from))
    };
    out.write_all(bytes.get(done..).unwrap_or_default())
}

/// Copies as much as the kernel is willing to; what it does not take (other file systems, pipes) is written as usual.
#[cfg(target_os = "linux")]
fn copy(out: &File, length: usize, (mapped, mut offset): (Arc<Mapped>, u64)) -> usize {
    let mut done = 0;
    while done < length {
        match rustix::fs::copy_file_range(&mapped.file, Some(&mut offset), out, None, length - done) {
            Ok(0) | Err(_) => break,
            Ok(copied) => done += copied,
        }
    }
    done
}

#[cfg(not(target_os = "linux"))]
fn copy(_: &File, _: usize, (mapped, _): (Arc<Mapped>, u64)) -> usize {
    let _ = &mapped.file;
    0
}
