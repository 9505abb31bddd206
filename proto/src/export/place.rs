//! Where the elements of each tensor go: into the model file or beside it.

use std::collections::HashMap;

use bytes::Bytes;
use ir::{Encoding, Tensor};

/// Which tensors go into another file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Placement {
    /// Those that came from another file.
    AsRead,
    /// None.
    Inline,
    /// Those of at least so many bytes.
    From(usize),
}

/// A slice of the data file.
pub(crate) struct Chunk {
    pub offset: u64,
    pub bytes: Bytes,
}

/// Lays out the data file.
pub(crate) struct Placer {
    placement: Placement,
    align: u64,
    /// Name of the data file.
    pub file: String,
    /// Slices in the order of their offsets.
    pub chunks: Vec<Chunk>,
    end: u64,
    /// Tensors over the same bytes share a slice. The chunks keep the bytes alive, so an address is never reused.
    placed: HashMap<(*const u8, usize), u64>,
}

impl Placer {
    pub fn new(placement: Placement, file: String, align: u64) -> Placer {
        Placer { placement, align: align.max(1), file, chunks: vec![], end: 0, placed: HashMap::new() }
    }

    /// The offset in the data file, if the tensor goes there. Strings and empty tensors never do.
    pub fn place(&mut self, tensor: &Tensor) -> Option<u64> {
        let bytes = tensor.bytes();
        let outside = match self.placement {
            Placement::AsRead => tensor.encoding == Encoding::External,
            Placement::Inline => false,
            Placement::From(threshold) => bytes.len() >= threshold,
        };
        if !outside || bytes.is_empty() {
            return None;
        }
        let key = (bytes.as_ptr(), bytes.len());
        if let Some(&offset) = self.placed.get(&key) {
            return Some(offset);
        }
        let offset = self.end.next_multiple_of(self.align);
        self.end = offset + bytes.len() as u64;
        self.chunks.push(Chunk { offset, bytes: bytes.clone() });
        self.placed.insert(key, offset);
        Some(offset)
    }
}
