//! `com.microsoft::GatherBlockQuantized`: rows of a quantized embedding table, dequantized as they are gathered.
//!
//! Here gather_axis = 0 and quantize_axis = 1 (the last). Two forms:
//! - INT4 or UINT4 data `[V, D]`, packed over the flat tensor as ONNX packs; zero points of the same type, packed the
//!   same way; missing means **0**.
//! - UINT8 data `[V, D·bits/8]` with attribute bits 2, 4 or 8, each row packed low bits first; D must fill whole bytes
//!   (onnxruntime makes the rows of the output that long); zero
//!   points `[V, ceil(blocks·bits/8)]` packed the same way; missing means **2^(bits−1)**.
//!
//! block_size is a power of two ≥ 16; scales are `[V, ceil(D/block)]`.

use super::{bits_of, center_shift, contrib_block, repeat};
use crate::Error;
use crate::code::CodeType;
use crate::error::check_len;
use crate::pack::{pack as pack_codes, pack_into, packed_len, unpack};
use crate::weight::{Block, Method, Provenance, Quantized, Spec, Zero};

/// How the codes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// INT4 for symmetric tables, UINT4 with zero points for others; four (or three) bits only.
    Int4,
    /// UINT8 bytes that hold 2-, 4- or 8-bit codes.
    Bytes,
}

/// The inputs and attributes of a GatherBlockQuantized node.
#[derive(Debug, Clone, PartialEq)]
pub struct GatherTable {
    /// V, the number of entries.
    pub rows: usize,
    /// D, the length of an entry.
    pub cols: usize,
    /// Attribute bits.
    pub bits: u32,
    /// Attribute block_size.
    pub block: usize,
    /// Element type of data and zero points.
    pub code: CodeType,
    /// Input data, raw bytes.
    pub codes: Vec<u8>,
    /// Input scales.
    pub scales: Vec<f32>,
    /// Input zero_points, raw bytes.
    pub zero_points: Option<Vec<u8>>,
}

impl GatherTable {
    /// Shape of the data as declared in the model.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.declared(self.cols)]
    }

    /// Shape of the zero points as declared in the model.
    pub fn zero_points_shape(&self) -> [usize; 2] {
        [self.rows, self.declared(self.cols.div_ceil(self.block))]
    }

    fn declared(&self, codes: usize) -> usize {
        if self.code == CodeType::U8 { (codes * self.bits as usize).div_ceil(8) } else { codes }
    }
}

/// Packs `[rows, cols]` codes row by row, each row padded to whole bytes.
fn pack_rows(codes: &[u8], cols: usize, bits: u32) -> Result<Vec<u8>, Error> {
    let bytes = packed_len(cols, bits)?;
    let mut out = vec![0; codes.len() / cols.max(1) * bytes];
    for (row, out) in codes.chunks(cols.max(1)).zip(out.chunks_mut(bytes.max(1))) {
        pack_into(row, bits, out)?;
    }
    Ok(out)
}

/// Lays out a table. Blocks longer than 256 are cut; other sizes that are no multiple of 16 are an error.
pub fn pack(q: &Quantized, form: Form) -> Result<GatherTable, Error> {
    let (block, times) = contrib_block(q)?;
    let bits = q.spec.bits.stored();
    let per_row = q.cols.div_ceil(block);
    let scales = repeat(&q.scales, q.blocks_per_row(), times, per_row);
    let zeros = q.zero_points.as_ref().map(|z| repeat(z, q.blocks_per_row(), times, per_row));
    let (code, codes, zero_points) = match form {
        Form::Int4 => {
            if bits != 4 {
                return Err(Error::Parameter {
                    what: "bits of INT4 data",
                    must: "4",
                    found: bits.to_string(),
                });
            }
            let offset = if zeros.is_some() { 0 } else { q.spec.bits.center() };
            let codes: Vec<u8> = q.codes.iter().map(|c| c.wrapping_sub(offset)).collect();
            let code = if zeros.is_some() { CodeType::U4 } else { CodeType::I4 };
            (code, pack_codes(&codes, 4)?, zeros.map(|z| pack_codes(&z, 4)).transpose()?)
        }
        Form::Bytes => {
            if !(q.cols * bits as usize).is_multiple_of(8) {
                return Err(Error::Parameter {
                    what: "length of an entry",
                    must: "whole bytes of codes",
                    found: format!("{} codes of {bits} bits", q.cols),
                });
            }
            let shift = center_shift(q);
            let codes: Vec<u8> = q.codes.iter().map(|c| c + shift).collect();
            let zeros = zeros.map(|z| pack_rows(&z, per_row, bits)).transpose()?;
            (CodeType::U8, pack_rows(&codes, q.cols, bits)?, zeros)
        }
    };
    Ok(GatherTable { rows: q.rows, cols: q.cols, bits, block, code, codes, scales, zero_points })
}

/// Reads the tensors of a GatherBlockQuantized node; the inverse of [`pack`] up to cut blocks and three-bit codes.
pub fn unpack_table(m: &GatherTable, method: Method) -> Result<Quantized, Error> {
    let bits = bits_of(m.bits)?;
    let count = m.rows.checked_mul(m.cols).filter(|&c| c > 0 && m.block > 0);
    let count = count.ok_or_else(|| Error::Shape(format!("a table of {} × {}", m.rows, m.cols)))?;
    let per_row = m.cols.div_ceil(m.block);
    check_len("scales", m.rows * per_row, m.scales.len())?;
    let (codes, zero_points) = match m.code {
        CodeType::I4 | CodeType::U4 if m.bits == 4 => {
            let offset = if m.code == CodeType::I4 { 8 } else { 0 };
            let raise = |v: Vec<u8>| -> Vec<u8> { v.into_iter().map(|c| (c + offset) & 15).collect() };
            let zeros = m.zero_points.as_ref().map(|z| unpack(z, 4, m.rows * per_row)).transpose()?;
            let zeros = match zeros {
                None if m.code == CodeType::U4 => Some(vec![0; m.rows * per_row]),
                zeros => zeros.map(raise),
            };
            (raise(unpack(&m.codes, 4, count)?), zeros)
        }
        CodeType::U8 => {
            let rows = |bytes: &[u8], cols: usize| -> Result<Vec<u8>, Error> {
                let per_row = packed_len(cols, m.bits)?;
                check_len("packed rows", m.rows * per_row, bytes.len())?;
                let rows: Result<Vec<_>, Error> =
                    bytes.chunks(per_row).map(|r| unpack(r, m.bits, cols)).collect();
                Ok(rows?.concat())
            };
            let zeros = m.zero_points.as_ref().map(|z| rows(z, per_row)).transpose()?;
            (rows(&m.codes, m.cols)?, zeros)
        }
        code => return Err(Error::CodeType { what: "GatherBlockQuantized", code }),
    };
    let zero = if zero_points.is_some() { Zero::PerBlock } else { Zero::Center };
    Ok(Quantized {
        spec: Spec { bits, block: Block::Columns(m.block), zero, scale: Default::default() },
        rows: m.rows,
        cols: m.cols,
        block: m.block,
        codes,
        scales: m.scales.clone(),
        zero_points,
        provenance: Provenance { method, notes: Vec::new() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::testing::sample;
    use crate::weight::Bits;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        // Flat packing crosses rows where D is odd; packing in bytes needs whole ones.
        let mut q = sample(2, 17, Bits::Four, Block::Columns(16), Zero::Center, 1);
        q.codes = (0..34).map(|i| i % 16).collect();
        let flat = pack(&q, Form::Int4).unwrap();
        assert_eq!((flat.code, flat.shape()), (CodeType::I4, [2, 17]));
        // code − 8: 0 → 8 (−8), 1 → 9, ...; element 17 (code 1) shares a byte with element 16 (code 0).
        assert_eq!(&flat.codes[..2], [0x98, 0xba]);
        assert_eq!(flat.codes[8], 0x98);
        assert!(pack(&q, Form::Bytes).is_err());
        let mut q = sample(2, 18, Bits::Four, Block::Columns(16), Zero::Center, 1);
        q.codes = (0..36).map(|i| i % 16).collect();
        let bytes = pack(&q, Form::Bytes).unwrap();
        assert_eq!((bytes.code, bytes.shape()), (CodeType::U8, [2, 9]));
        assert_eq!((bytes.codes[0], bytes.codes[8], bytes.codes[9]), (0x10, 0x10, 0x32));
        q.zero_points = Some(vec![1, 2, 3, 4]);
        assert_eq!(pack(&q, Form::Bytes).unwrap().zero_points, Some(vec![0x21, 0x43]));
        assert_eq!(pack(&q, Form::Int4).unwrap().zero_points, Some(vec![0x21, 0x43]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn unpack_inverts_pack(
            rows in 1usize..6, cols in 1usize..150, width in 0usize..3, log in 4u32..9, zero: bool, int4: bool, seed: u64
        ) {
            let bits = [Bits::Two, Bits::Four, Bits::Eight][width];
            let zero = if zero { Zero::PerBlock } else { Zero::Center };
            let (form, cols) = if int4 && bits == Bits::Four { (Form::Int4, cols) } else { (Form::Bytes, cols.next_multiple_of(4)) };
            let q = sample(rows, cols, bits, Block::Columns(1 << log), zero, seed);
            let m = pack(&q, form).unwrap();
            prop_assert_eq!(unpack_table(&m, Method::Rtn).unwrap().dequantize(), q.dequantize());
        }
    }

    #[test]
    fn what_is_refused() {
        let q = sample(2, 32, Bits::Two, Block::Columns(16), Zero::Center, 1);
        assert!(pack(&q, Form::Int4).is_err());
        let q = sample(2, 32, Bits::Four, Block::Columns(8), Zero::Center, 1);
        assert!(pack(&q, Form::Bytes).is_err());
        let good =
            pack(&sample(2, 32, Bits::Four, Block::Columns(16), Zero::Center, 1), Form::Bytes).unwrap();
        assert!(unpack_table(&GatherTable { rows: usize::MAX, ..good.clone() }, Method::Rtn).is_err());
        assert!(unpack_table(&GatherTable { block: 0, ..good.clone() }, Method::Rtn).is_err());
        assert!(unpack_table(&GatherTable { codes: vec![], ..good.clone() }, Method::Rtn).is_err());
        assert!(unpack_table(&GatherTable { code: CodeType::I8, ..good }, Method::Rtn).is_err());
    }
}
