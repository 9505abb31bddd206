//! A file as the target of an encoder: small pieces are gathered, large ones go straight through.

use std::fs::File;
use std::io::{self, Write};

use bytes::buf::UninitSlice;
use bytes::{Buf, BufMut};

use crate::mapped::write_slice;

/// Bytes gathered before a write.
const GATHER: usize = 1 << 16;

/// An encoder's target that writes to a file. prost asks for a [`BufMut`], which cannot fail: the first error is kept and
/// [`FileBuf::finish`] gives it.
pub(crate) struct FileBuf<'a> {
    file: &'a mut File,
    gathered: Box<[u8]>,
    filled: usize,
    error: Option<io::Error>,
}

impl<'a> FileBuf<'a> {
    pub fn new(file: &'a mut File) -> FileBuf<'a> {
        FileBuf { file, gathered: vec![0; GATHER].into(), filled: 0, error: None }
    }

    /// Writes what is gathered and tells whether everything arrived.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush();
        self.error.map_or(Ok(()), Err)
    }

    fn flush(&mut self) {
        if self.error.is_none() {
            self.error = self.file.write_all(&self.gathered[..self.filled]).err();
        }
        self.filled = 0;
    }
}

// SAFETY: `chunk_mut` gives initialized memory, at least one byte of it, and `advance_mut` counts what was filled.
unsafe impl BufMut for FileBuf<'_> {
    fn remaining_mut(&self) -> usize {
        usize::MAX
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        self.filled += count;
        assert!(self.filled <= GATHER, "an encoder advances over what it was given");
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        if self.filled == GATHER {
            self.flush();
        }
        UninitSlice::new(&mut self.gathered[self.filled..])
    }

    fn put<T: Buf>(&mut self, mut source: T)
    where
        Self: Sized,
    {
        while source.has_remaining() {
            let piece = source.chunk();
            let length = piece.len();
            self.put_slice(piece);
            source.advance(length);
        }
    }

    fn put_slice(&mut self, bytes: &[u8]) {
        if bytes.len() > GATHER - self.filled {
            self.flush();
        }
        if bytes.len() >= GATHER {
            if self.error.is_none() {
                self.error = write_slice(self.file, bytes).err();
            }
        } else {
            self.gathered[self.filled..self.filled + bytes.len()].copy_from_slice(bytes);
            self.filled += bytes.len();
        }
    }
}
