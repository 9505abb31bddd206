//! Messages one after the other, into a buffer or a file.
//!
//! A message within another stands behind its length, which is known only once it has been made. So everything is made
//! twice: [`Wire::measure`] counts and keeps the lengths of what is opened, in order; [`Wire::write`] has them. That takes
//! eight bytes for each node and graph, where a message takes a kilobyte a node.

use bytes::{BufMut, Bytes};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::error::ProtoError;

/// The target of an exporter.
pub(crate) struct Wire<'o, B> {
    /// None while measuring.
    out: Option<&'o mut B>,
    /// Bytes counted or written.
    size: u64,
    /// Lengths of the messages that were opened, in the order of their starts.
    lengths: Lengths,
    /// Of these, how many were opened.
    opened: usize,
}

/// What measuring finds out.
pub(crate) type Lengths = Vec<u64>;

impl Wire<'static, Vec<u8>> {
    /// Counts what `make` puts on the wire: bytes altogether, and the lengths that writing needs.
    pub fn measure(
        make: impl FnOnce(&mut Wire<'static, Vec<u8>>) -> Result<(), ProtoError>,
    ) -> Result<(u64, Lengths), ProtoError> {
        let mut wire = Wire { out: None, size: 0, lengths: Vec::new(), opened: 0 };
        make(&mut wire)?;
        Ok((wire.size, wire.lengths))
    }
}

impl<'o, B: BufMut> Wire<'o, B> {
    /// Writes what `make` puts on the wire, which must be what was measured.
    pub fn write(
        out: &'o mut B,
        (size, lengths): (u64, Lengths),
        make: impl FnOnce(&mut Wire<'o, B>) -> Result<(), ProtoError>,
    ) -> Result<(), ProtoError> {
        let mut wire = Wire { out: Some(out), size: 0, lengths, opened: 0 };
        make(&mut wire)?;
        debug_assert_eq!((wire.size, wire.opened), (size, wire.lengths.len()), "written as measured");
        Ok(())
    }

    /// Fields of the message that is open. A message in several parts is the parts one after the other.
    pub fn fields(&mut self, part: &impl Message) {
        self.size += part.encoded_len() as u64;
        if let Some(out) = &mut self.out {
            // `encode` without the check of a capacity that a file does not have. The target itself, not a reference to one:
            // a file takes large slices whole.
            part.encode_raw(&mut **out);
        }
    }

    /// A message as a field of the one that is open.
    pub fn message(&mut self, number: u32, message: &impl Message) {
        self.head(number, message.encoded_len() as u64);
        self.fields(message);
    }

    /// Encoded bytes as a field of the message that is open.
    pub fn bytes(&mut self, number: u32, bytes: &Bytes) {
        self.head(number, bytes.len() as u64);
        self.size += bytes.len() as u64;
        if let Some(out) = &mut self.out {
            out.put_slice(bytes);
        }
    }

    /// A message that `make` gives the fields of, as a field of the one that is open.
    pub fn open(
        &mut self,
        number: u32,
        make: impl FnOnce(&mut Wire<'o, B>) -> Result<(), ProtoError>,
    ) -> Result<(), ProtoError> {
        let at = self.opened;
        self.opened += 1;
        if self.out.is_some() {
            // Measured before: the same model opens the same messages.
            let length = self.lengths.get(at).copied().unwrap_or_default();
            self.head(number, length);
            return make(self);
        }
        self.lengths.push(0);
        let before = self.size;
        make(self)?;
        let length = self.size - before;
        self.lengths[at] = length;
        self.head(number, length);
        Ok(())
    }

    fn head(&mut self, number: u32, length: u64) {
        self.size += (key_len(number) + encoded_len_varint(length)) as u64;
        if let Some(out) = &mut self.out {
            encode_key(number, WireType::LengthDelimited, out);
            encode_varint(length, out);
        }
    }
}
