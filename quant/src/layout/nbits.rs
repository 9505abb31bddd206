//! `com.microsoft::MatMulNBits`: y = x · ((code − zero)·scale)ᵀ.
//!
//! - B: uint8 `[N, ceil(K/block), block·bits/8]`; row n is output channel n, blocks run along K, low bits first. The
//!   last block of a row is a full blob; its codes beyond K are 0 and ignored.
//! - scales: `[N, ceil(K/block)]`.
//! - zero points (optional): uint8 `[N, ceil(ceil(K/block)·bits/8)]`, low bits first, each row padded to whole bytes
//!   with 0. Missing: 2^(bits−1).
//!
//! bits 2, 4 or 8; block a power of two from 16 to 256 (onnxruntime's CPU kernels returned zeros for 512).

use rayon::prelude::*;

use super::{bits_of, center_shift, contrib_block, repeat};
use crate::Error;
use crate::error::check_len;
use crate::pack::{pack_into, packed_len, unpack, unpack_into};
use crate::weight::{Block, Method, Provenance, Quantized, Spec, Zero};

/// The inputs and attributes of a MatMulNBits node.
#[derive(Debug, Clone, PartialEq)]
pub struct NBits {
    /// Attribute N.
    pub rows: usize,
    /// Attribute K.
    pub cols: usize,
    /// Attribute bits: 2, 4 or 8.
    pub bits: u32,
    /// Attribute block_size.
    pub block: usize,
    /// Input B.
    pub codes: Vec<u8>,
    /// Input scales.
    pub scales: Vec<f32>,
    /// Input zero_points, packed.
    pub zero_points: Option<Vec<u8>>,
}

impl NBits {
    /// Blocks of one row.
    pub fn blocks_per_row(&self) -> usize {
        self.cols.div_ceil(self.block)
    }

    /// Shape of input B.
    pub fn codes_shape(&self) -> [usize; 3] {
        [self.rows, self.blocks_per_row(), self.block * self.bits as usize / 8]
    }

    /// Bytes of one row of packed zero points.
    pub fn zero_bytes_per_row(&self) -> usize {
        (self.blocks_per_row() * self.bits as usize).div_ceil(8)
    }
}

/// Lays out a weight. Blocks longer than 256 columns are cut; other sizes that are no multiple of 16 are an error.
pub fn pack(q: &Quantized) -> Result<NBits, Error> {
    let (block, times) = contrib_block(q)?;
    let bits = q.spec.bits.stored();
    let per_row = q.cols.div_ceil(block);
    let blob = block * bits as usize / 8;
    let shift = center_shift(q);
    let mut codes = vec![0; q.rows * per_row * blob];
    let bytes = packed_len(q.cols, bits)?;
    q.codes.par_chunks(q.cols).zip(codes.par_chunks_mut(per_row * blob)).try_for_each_init(
        Vec::new,
        |moved, (mut row, out)| {
            if shift > 0 {
                moved.clear();
                moved.extend(row.iter().map(|code| code + shift));
                row = moved;
            }
            pack_into(row, bits, &mut out[..bytes])
        },
    )?;
    let scales = repeat(&q.scales, q.blocks_per_row(), times, per_row);
    let zero_points = match &q.zero_points {
        None => None,
        Some(zeros) => {
            let zeros = repeat(zeros, q.blocks_per_row(), times, per_row);
            let bytes = packed_len(per_row, bits)?;
            let mut out = vec![0; q.rows * bytes];
            for (row, out) in zeros.chunks(per_row).zip(out.chunks_mut(bytes)) {
                pack_into(row, bits, out)?;
            }
            Some(out)
        }
    };
    Ok(NBits { rows: q.rows, cols: q.cols, bits, block, codes, scales, zero_points })
}

/// Reads the tensors of a MatMulNBits node; the inverse of [`pack`] up to cut blocks and three-bit codes.
pub fn unpack_weight(m: &NBits, method: Method) -> Result<Quantized, Error> {
    let bits = bits_of(m.bits)?;
    if !(16..=256).contains(&m.block) || !m.block.is_power_of_two() {
        return Err(Error::Parameter {
            what: "block_size",
            must: "a power of two from 16 to 256",
            found: m.block.to_string(),
        });
    }
    let overflow = || Error::Shape(format!("a weight of {} × {} overflows", m.rows, m.cols));
    let per_row = m.blocks_per_row();
    let blob = m.block * m.bits as usize / 8;
    let row_bytes = per_row.checked_mul(blob).ok_or_else(overflow)?;
    check_len("B", m.rows.checked_mul(row_bytes).ok_or_else(overflow)?, m.codes.len())?;
    check_len("scales", m.rows * per_row, m.scales.len())?;
    let bytes = packed_len(m.cols, m.bits)?;
    let mut codes = vec![0; m.rows * m.cols];
    if m.cols > 0 {
        for (row, out) in m.codes.chunks(row_bytes).zip(codes.chunks_mut(m.cols)) {
            unpack_into(&row[..bytes], m.bits, out)?;
        }
    }
    let zero_points = match &m.zero_points {
        None => None,
        Some(packed) => {
            let bytes = m.zero_bytes_per_row();
            check_len("zero_points", m.rows * bytes, packed.len())?;
            let rows: Result<Vec<_>, Error> =
                packed.chunks(bytes.max(1)).map(|row| unpack(row, m.bits, per_row)).collect();
            Some(rows?.concat())
        }
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

    fn quantized(
        rows: usize,
        cols: usize,
        bits: Bits,
        block: usize,
        codes: Vec<u8>,
        zeros: Option<Vec<u8>>,
    ) -> Quantized {
        let zero = if zeros.is_some() { Zero::PerBlock } else { Zero::Center };
        let blocks = rows * cols.div_ceil(block);
        Quantized {
            spec: Spec { bits, block: Block::Columns(block), zero, scale: Default::default() },
            rows,
            cols,
            block,
            codes,
            scales: (0..blocks).map(|b| b as f32 + 1.0).collect(),
            zero_points: zeros,
            provenance: Provenance { method: Method::Rtn, notes: vec![] },
        }
    }

    #[test]
    fn golden_bytes() {
        // Four bits: byte j = q[2j] | q[2j+1] << 4. K = 19: the second blob has three codes; three zero points (odd).
        let codes: Vec<u8> = (0..19).map(|k| k % 16).collect();
        let m = pack(&quantized(1, 19, Bits::Four, 16, codes, Some(vec![7, 9]))).unwrap();
        let mut expected = vec![0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe];
        expected.extend([0x10, 0x02, 0, 0, 0, 0, 0, 0]);
        assert_eq!(m.codes, expected);
        assert_eq!(m.codes_shape(), [1, 2, 8]);
        assert_eq!(m.zero_points, Some(vec![0x97]));
        // Odd block count: each row of zero points starts a byte (K = 896, group 128 crashes onnxruntime's own tool).
        let m = pack(&quantized(2, 48, Bits::Four, 16, vec![0; 96], Some(vec![1, 2, 3, 4, 5, 6]))).unwrap();
        assert_eq!(m.zero_points, Some(vec![0x21, 0x03, 0x54, 0x06]));
        // Two bits: four codes a byte, five zero points in two bytes.
        let codes = [0, 1, 2, 3].repeat(20);
        let m = pack(&quantized(1, 80, Bits::Two, 16, codes, Some(vec![3, 2, 1, 0, 1]))).unwrap();
        assert_eq!(m.codes, vec![0xe4; 20]);
        assert_eq!(m.zero_points, Some(vec![0b00_01_10_11, 0b01]));
        // Eight bits: one a byte.
        let m = pack(&quantized(1, 16, Bits::Eight, 16, (240..=255).collect(), Some(vec![128]))).unwrap();
        assert_eq!((m.codes, m.zero_points), ((240..=255).collect(), Some(vec![128])));
    }

    #[test]
    fn three_bits_are_stored_in_four() {
        let m = pack(&quantized(1, 16, Bits::Three, 16, [0, 7].repeat(8), None)).unwrap();
        assert_eq!((m.bits, m.codes), (4, vec![0xb4; 8])); // code 4 (zero) becomes 8, MatMulNBits' default zero
        let m = pack(&quantized(1, 16, Bits::Three, 16, [0, 7].repeat(8), Some(vec![2]))).unwrap();
        assert_eq!((m.codes, m.zero_points), (vec![0x70; 8], Some(vec![2])));
    }

    #[test]
    fn long_blocks_are_cut() {
        let q = sample(3, 1100, Bits::Four, Block::Columns(1024), Zero::PerBlock, 1);
        let m = pack(&q).unwrap();
        assert_eq!((m.block, m.blocks_per_row()), (256, 5));
        assert_eq!(unpack_weight(&m, Method::Rtn).unwrap().dequantize(), q.dequantize());
        for cols in [1, 15, 16, 17, 200, 600] {
            let q = sample(2, cols, Bits::Eight, Block::Row, Zero::Center, 2);
            let m = pack(&q).unwrap();
            assert_eq!(unpack_weight(&m, Method::Rtn).unwrap().dequantize(), q.dequantize());
        }
        let q = sample(2, 100, Bits::Four, Block::Columns(24), Zero::Center, 2);
        assert!(pack(&q).is_err());
        let q = sample(2, 100, Bits::Four, Block::Columns(48), Zero::Center, 2);
        assert_eq!(pack(&q).unwrap().block, 16);
    }

    #[test]
    fn wrong_sizes_are_errors() {
        let good = pack(&sample(3, 40, Bits::Four, Block::Columns(16), Zero::PerBlock, 1)).unwrap();
        let refused = |change: &dyn Fn(&mut NBits)| {
            let mut m = good.clone();
            change(&mut m);
            unpack_weight(&m, Method::Rtn).is_err()
        };
        assert!(!refused(&|_| ()));
        assert!(refused(&|m| m.codes.truncate(5)));
        assert!(refused(&|m| m.scales.push(1.0)));
        assert!(refused(&|m| m.zero_points = Some(vec![0])));
        assert!(refused(&|m| m.bits = 3));
        assert!(refused(&|m| m.block = 512));
        assert!(refused(&|m| m.block = 0));
        assert!(refused(&|m| m.rows = usize::MAX));
        assert!(refused(&|m| m.cols = usize::MAX / 2));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn unpack_inverts_pack(
            rows in 1usize..6, cols in 1usize..150, width in 0usize..3, log in 4u32..9, zero: bool, seed: u64
        ) {
            let bits = [Bits::Two, Bits::Four, Bits::Eight][width];
            let zero = if zero { Zero::PerBlock } else { Zero::Center };
            let q = sample(rows, cols, bits, Block::Columns(1 << log), zero, seed);
            let m = pack(&q).unwrap();
            let shape: usize = m.codes_shape().iter().product();
            prop_assert_eq!(m.codes.len(), shape);
            let back = unpack_weight(&m, Method::Rtn).unwrap();
            prop_assert_eq!(back.dequantize(), q.dequantize());
            if cols > 1 << log {
                prop_assert_eq!((back.codes, back.scales, back.zero_points), (q.codes, q.scales, q.zero_points));
            }
        }
    }
}
