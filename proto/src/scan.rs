//! A walk over the wire format before anything is decoded.
//!
//! It checks what decoding would trip over late or not at all: lengths that lie, nesting that exhausts the stack, more
//! structure than the file's size justifies, and fields that the schema does not know, which prost would drop without a
//! word. It reads tags and lengths only: the bytes of a weight are never touched.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::ProtoError;

/// A message of the schema.
pub(crate) struct Message {
    pub name: &'static str,
    /// Bytes that the decoded message takes in memory, what its fields point to aside.
    pub size: usize,
    pub fields: &'static [Field],
}

/// A field of a message.
pub(crate) struct Field {
    pub number: u32,
    pub name: &'static str,
    pub kind: Kind,
}

/// What a field holds.
pub(crate) enum Kind {
    /// One number.
    Number,
    /// A list of fixed-width numbers of this many bytes.
    Numbers(usize),
    /// A list of varints, each decoded to this many bytes.
    Varints(usize),
    /// Text: copied when decoded.
    String,
    /// Bytes: a slice of the input when decoded.
    Bytes,
    /// Another message.
    Message(&'static Message),
}

/// What the scan found.
#[derive(Default)]
pub(crate) struct Found {
    /// Fields that the schema does not know, as `Message.number`, and how often.
    pub unknown: BTreeMap<(&'static str, u32), usize>,
    /// Where the opaque fields of the root message lie.
    pub opaque: Vec<(u32, Range<usize>)>,
}

/// Messages within messages. prost stops at 100.
const MAX_DEPTH: usize = 96;
/// Decoded bytes allowed for each byte of the file. Real models stay below 30 even when they hold nothing but nodes.
const MAX_AMPLIFICATION: u64 = 64;
/// Decoded bytes allowed in any case.
const FREE: u64 = 4 << 20;

/// Bytes that the decoded messages of a file may take.
pub(crate) fn limit(bytes: &[u8]) -> u64 {
    MAX_AMPLIFICATION.saturating_mul(bytes.len() as u64).saturating_add(FREE)
}

/// Scans `bytes` as `root`. `limit` bounds what the decoded messages take. Fields of the root in `opaque` are located; what is unknown inside them is not noted, because
/// they are passed through as they are.
pub(crate) fn scan(
    bytes: &[u8],
    limit: u64,
    root: &'static Message,
    opaque: &[u32],
) -> Result<Found, ProtoError> {
    let mut scan = Scan { bytes, at: 0, cost: 0, limit, noting: true, found: Found::default() };
    scan.message(root, bytes.len(), 0, opaque)?;
    Ok(scan.found)
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    cost: u64,
    limit: u64,
    noting: bool,
    found: Found,
}

impl Scan<'_> {
    fn message(
        &mut self,
        message: &'static Message,
        end: usize,
        depth: usize,
        opaque: &[u32],
    ) -> Result<(), ProtoError> {
        self.charge(message.size)?;
        if depth > MAX_DEPTH {
            return Err(self.error(message, None, format!("nested deeper than {MAX_DEPTH} messages")));
        }
        while self.at < end {
            let key = self.varint(end).ok_or_else(|| self.error(message, None, "a broken field key"))?;
            let (number, wire) = (u32::try_from(key >> 3).unwrap_or(0), key & 7);
            if number == 0 || number > 0x1FFF_FFFF {
                return Err(self.error(message, None, format!("field number {} is impossible", key >> 3)));
            }
            let field = message.fields.iter().find(|field| field.number == number);
            if field.is_none() && self.noting {
                *self.found.unknown.entry((message.name, number)).or_default() += 1;
            }
            match wire {
                0 => {
                    self.varint(end).ok_or_else(|| self.error(message, field, "a broken number"))?;
                    self.charge_number(field)?;
                }
                1 | 5 => {
                    let width = if wire == 1 { 8 } else { 4 };
                    if end - self.at < width {
                        return Err(self.error(message, field, "the message ends inside a number"));
                    }
                    self.at += width;
                    self.charge_number(field)?;
                }
                2 => {
                    let length = self.varint(end).and_then(|length| usize::try_from(length).ok());
                    let length = length.ok_or_else(|| self.error(message, field, "a broken length"))?;
                    if length > end - self.at {
                        let left = end - self.at;
                        let what = format!("a length of {length} bytes, where {left} are left");
                        return Err(self.error(message, field, what));
                    }
                    self.payload(field, length, depth, opaque.contains(&number))?;
                }
                _ => {
                    return Err(self.error(
                        message,
                        field,
                        format!("wire type {wire}, which ONNX does not use"),
                    ));
                }
            }
        }
        Ok(())
    }

    fn payload(
        &mut self,
        field: Option<&'static Field>,
        length: usize,
        depth: usize,
        opaque: bool,
    ) -> Result<(), ProtoError> {
        let end = self.at + length;
        match field.map(|field| (field, &field.kind)) {
            Some((field, Kind::Message(inner))) => {
                if opaque {
                    self.found.opaque.push((field.number, self.at..end));
                }
                let noting = self.noting;
                self.noting = noting && !opaque;
                self.message(inner, end, depth + 1, &[])?;
                self.noting = noting;
            }
            Some((_, Kind::String)) => self.charge(size_of::<String>() + length)?,
            Some((_, Kind::Bytes)) => self.charge(size_of::<bytes::Bytes>())?,
            // A packed varint takes at least one byte.
            Some((_, Kind::Varints(width))) => self.charge(length.saturating_mul(*width))?,
            Some((_, Kind::Numbers(_))) => self.charge(length)?,
            Some((_, Kind::Number)) | None => {}
        }
        self.at = end;
        Ok(())
    }

    fn charge_number(&mut self, field: Option<&'static Field>) -> Result<(), ProtoError> {
        match field.map(|field| &field.kind) {
            Some(Kind::Numbers(width) | Kind::Varints(width)) => self.charge(*width),
            _ => Ok(()),
        }
    }

    fn charge(&mut self, bytes: usize) -> Result<(), ProtoError> {
        self.cost = self.cost.saturating_add(bytes as u64);
        if self.cost > self.limit {
            return Err(ProtoError::Amplified { file: self.bytes.len(), limit: self.limit });
        }
        Ok(())
    }

    fn varint(&mut self, end: usize) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at).filter(|_| self.at < end)?;
            self.at += 1;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn error(&self, message: &Message, field: Option<&Field>, what: impl Into<String>) -> ProtoError {
        let message = match field {
            Some(field) => format!("{}.{}", message.name, field.name),
            None => message.name.to_string(),
        };
        ProtoError::Wire { offset: self.at, message, what: what.into() }
    }
}
