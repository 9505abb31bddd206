//! Standard ONNX: `DequantizeLinear` with `axis` and `block_size` (opset 21), or per axis (opset 13).
//!
//! The codes form a tensor of the weight's own shape: `[K, N]` with blocks along axis 0 (the only form that ONNX
//! Runtime, OpenVINO and TensorRT fuse into a low-bit MatMul), or `[N, K]` with blocks along axis 1. Sub-byte types are
//! packed over the *flat* tensor, low bits first, the last byte zero-filled. Scales and zero points have the tensor's
//! shape with the block axis divided; one scale a row gives the per-axis form with N of them.
//!
//! Symmetric weights become signed codes (INT4 = code − 8) without a zero point, others unsigned codes with zero points
//! of the same type. A missing zero point means 0 here, also for unsigned types (MatMulNBits: the centre).
//!
//! onnxruntime 1.31.1 computes 2-bit weights of this form wrongly, in silence, at its default optimization level where N is
//! not a multiple of 4 (its fusion into MatMulNBits; right at the basic level; 4 and 8 bits are right): use
//! [`super::nbits`] for 2 bits there.

use super::transpose;
use crate::Error;
use crate::code::CodeType;
use crate::error::check_len;
use crate::pack::{pack as pack_codes, unpack};
use crate::weight::{Bits, Block, Method, Provenance, Quantized, Spec, Zero};

/// The shape of the stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// `[K, N]`, blocks along axis 0: the weight of a MatMul.
    Kn,
    /// `[N, K]`, blocks along axis 1: embeddings, Gemm with transB.
    Nk,
}

/// The inputs and attributes of a DequantizeLinear node.
#[derive(Debug, Clone, PartialEq)]
pub struct Blocked {
    /// N
    pub rows: usize,
    /// K
    pub cols: usize,
    /// Shape of the codes.
    pub order: Order,
    /// Attribute block_size; `None`: per axis (the axis of N).
    pub block: Option<usize>,
    /// Element type of codes and zero points.
    pub code: CodeType,
    /// Input x, raw bytes.
    pub codes: Vec<u8>,
    /// Input x_scale.
    pub scales: Vec<f32>,
    /// Input x_zero_point, raw bytes.
    pub zero_points: Option<Vec<u8>>,
}

impl Blocked {
    /// Attribute axis: along which blocks run, or of the channels in the per-axis form.
    pub fn axis(&self) -> i64 {
        match (self.order, self.block) {
            (Order::Kn, Some(_)) | (Order::Nk, None) => 0,
            (Order::Nk, Some(_)) | (Order::Kn, None) => 1,
        }
    }

    /// Shape of the codes.
    pub fn shape(&self) -> [usize; 2] {
        match self.order {
            Order::Kn => [self.cols, self.rows],
            Order::Nk => [self.rows, self.cols],
        }
    }

    /// Shape of scales and zero points; one dimension in the per-axis form.
    pub fn scales_shape(&self) -> Vec<usize> {
        match (self.block, self.order) {
            (None, _) => vec![self.rows],
            (Some(b), Order::Kn) => vec![self.cols.div_ceil(b), self.rows],
            (Some(b), Order::Nk) => vec![self.rows, self.cols.div_ceil(b)],
        }
    }
}

/// Signed for symmetric weights, unsigned for the others.
fn code_type(q: &Quantized) -> CodeType {
    match (q.spec.bits, q.zero_points.is_some()) {
        (Bits::Two, false) => CodeType::I2,
        (Bits::Two, true) => CodeType::U2,
        (Bits::Three | Bits::Four, false) => CodeType::I4,
        (Bits::Three | Bits::Four, true) => CodeType::U4,
        (Bits::Eight, false) => CodeType::I8,
        (Bits::Eight, true) => CodeType::U8,
    }
}

/// Lays out a weight. A block that covers whole rows gives the per-axis form.
pub fn pack(q: &Quantized, order: Order) -> Result<Blocked, Error> {
    let code = code_type(q);
    let per_row = q.blocks_per_row();
    let offset = if q.zero_points.is_some() { 0 } else { q.spec.bits.center() };
    let stored = q.spec.bits.stored();
    let mut codes = vec![0; q.codes.len()];
    let shift = |c: u8| c.wrapping_sub(offset);
    match order {
        Order::Kn => transpose(&q.codes, q.rows, q.cols, &mut codes, shift),
        Order::Nk => codes.iter_mut().zip(&q.codes).for_each(|(o, &c)| *o = shift(c)),
    }
    let (mut scales, mut zeros) = (q.scales.clone(), q.zero_points.clone());
    if order == Order::Kn && per_row > 1 {
        transpose(&q.scales, q.rows, per_row, &mut scales, |s| s);
        if let (Some(from), Some(to)) = (&q.zero_points, &mut zeros) {
            transpose(from, q.rows, per_row, to, |z| z);
        }
    }
    Ok(Blocked {
        rows: q.rows,
        cols: q.cols,
        order,
        block: (per_row > 1).then_some(q.block),
        code,
        codes: pack_codes(&codes, stored)?,
        scales,
        zero_points: zeros.map(|z| pack_codes(&z, stored)).transpose()?,
    })
}

/// Reads the tensors of a DequantizeLinear node; the inverse of [`pack`] (three-bit codes come back as four bits).
/// Unsigned codes without zero point have zero 0, signed ones with a zero point get it moved to unsigned.
pub fn unpack_weight(m: &Blocked, method: Method) -> Result<Quantized, Error> {
    let bits = match m.code {
        CodeType::I2 | CodeType::U2 => Bits::Two,
        CodeType::I4 | CodeType::U4 => Bits::Four,
        CodeType::I8 | CodeType::U8 => Bits::Eight,
        code => return Err(Error::CodeType { what: "a blocked weight", code }),
    };
    let block = m.block.unwrap_or(m.cols);
    let count = m.rows.checked_mul(m.cols).filter(|&c| c > 0 && block > 0);
    let count = count.ok_or_else(|| Error::Shape(format!("a weight of {} × {}", m.rows, m.cols)))?;
    let per_row = m.cols.div_ceil(block);
    check_len("scales", m.rows * per_row, m.scales.len())?;
    // Signed codes are moved up by half the range, which maps both code and zero point to unsigned.
    let offset = if m.code.is_signed() { bits.center() } else { 0 };
    let mask = bits.max_code();
    let raise = |c: u8| c.wrapping_add(offset) & mask;
    let mut codes = unpack(&m.codes, bits.stored(), count)?;
    if m.order == Order::Kn {
        let stored = codes.clone();
        transpose(&stored, m.cols, m.rows, &mut codes, raise);
    } else {
        codes.iter_mut().for_each(|c| *c = raise(*c));
    }
    let rows_first = |from: &[u8]| {
        let mut to = from.to_vec();
        if m.order == Order::Kn {
            transpose(from, per_row, m.rows, &mut to, |z| z);
        }
        to
    };
    let zero_points = match &m.zero_points {
        Some(z) => {
            let z: Vec<u8> = unpack(z, bits.stored(), m.rows * per_row)?.into_iter().map(raise).collect();
            Some(rows_first(&z))
        }
        None if m.code.is_signed() => None,
        None => Some(vec![0; m.rows * per_row]),
    };
    let mut scales = m.scales.clone();
    if m.order == Order::Kn {
        transpose(&m.scales, per_row, m.rows, &mut scales, |s| s);
    }
    let zero = if zero_points.is_some() { Zero::PerBlock } else { Zero::Center };
    Ok(Quantized {
        spec: Spec {
            bits,
            block: m.block.map_or(Block::Row, Block::Columns),
            zero,
            scale: Default::default(),
        },
        rows: m.rows,
        cols: m.cols,
        block,
        codes,
        scales,
        zero_points,
        provenance: Provenance { method, notes: Vec::new() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::testing::sample;
    use proptest::prelude::*;

    fn small(bits: Bits, codes: Vec<u8>, zeros: Option<Vec<u8>>) -> Quantized {
        // N = 3, K = 3, blocks of 2: ragged, an odd number of elements.
        let zero = if zeros.is_some() { Zero::PerBlock } else { Zero::Center };
        Quantized {
            spec: Spec { bits, block: Block::Columns(2), zero, scale: Default::default() },
            rows: 3,
            cols: 3,
            block: 2,
            codes,
            scales: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            zero_points: zeros,
            provenance: Provenance { method: Method::Rtn, notes: vec![] },
        }
    }

    #[test]
    fn golden_bytes() {
        // Rows (output channels) 0 7 15 / 8 9 10 / 1 2 3: as [K, N] the flat order is 0 8 1, 7 9 2, 15 10 3.
        let codes = vec![0, 7, 15, 8, 9, 10, 1, 2, 3];
        let m = pack(&small(Bits::Four, codes.clone(), Some(vec![1, 2, 3, 4, 5, 6])), Order::Kn).unwrap();
        assert_eq!((m.code, m.axis(), m.shape()), (CodeType::U4, 0, [3, 3]));
        assert_eq!(m.codes, [0x80, 0x71, 0x29, 0xaf, 0x03]);
        assert_eq!(m.scales, [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]); // [2, 3]
        assert_eq!(m.zero_points, Some(vec![0x31, 0x25, 0x64]));
        // Symmetric: code − 8 as two's complement nibbles: −8 0 −7, −1 1 −6, 7 2 −5.
        let m = pack(&small(Bits::Four, codes.clone(), None), Order::Kn).unwrap();
        assert_eq!((m.code, m.codes), (CodeType::I4, vec![0x08, 0xf9, 0xa1, 0x27, 0x0b]));
        // Three bits: code − 4: 0 is stored as −4 (0xc), 4 as 0.
        let m = pack(&small(Bits::Three, vec![0, 4, 7, 0, 4, 7, 0, 4, 7], None), Order::Nk).unwrap();
        assert_eq!((m.code, m.axis(), m.codes), (CodeType::I4, 1, vec![0x0c, 0xc3, 0x30, 0x0c, 0x03]));
        let m = pack(&small(Bits::Two, vec![0, 1, 2, 3, 2, 1, 0, 3, 1], None), Order::Nk).unwrap();
        assert_eq!((m.code, m.codes), (CodeType::I2, vec![0b01_00_11_10, 0b01_10_11_00, 0b11]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn unpack_inverts_pack(
            rows in 1usize..80, cols in 1usize..80, width in 0usize..3, block in 1usize..40,
            row: bool, zero: bool, kn: bool, seed: u64
        ) {
            let bits = [Bits::Two, Bits::Four, Bits::Eight][width];
            let block = if row { Block::Row } else { Block::Columns(block) };
            let zero = if zero { Zero::PerBlock } else { Zero::Center };
            let q = sample(rows, cols, bits, block, zero, seed);
            let m = pack(&q, if kn { Order::Kn } else { Order::Nk }).unwrap();
            prop_assert_eq!(m.scales.len(), m.scales_shape().iter().product::<usize>());
            let back = unpack_weight(&m, Method::Rtn).unwrap();
            prop_assert_eq!((back.codes, back.scales, back.zero_points), (q.codes, q.scales, q.zero_points));
        }
    }

    #[test]
    fn wrong_sizes_are_errors() {
        let good = pack(&sample(4, 9, Bits::Four, Block::Columns(4), Zero::PerBlock, 3), Order::Kn).unwrap();
        let refused = |change: &dyn Fn(&mut Blocked)| {
            let mut m = good.clone();
            change(&mut m);
            unpack_weight(&m, Method::Rtn).is_err()
        };
        assert!(!refused(&|_| ()));
        assert!(refused(&|m| m.codes.truncate(1)));
        assert!(refused(&|m| m.scales.truncate(1)));
        assert!(refused(&|m| m.zero_points = Some(vec![])));
        assert!(refused(&|m| m.block = Some(0)));
        assert!(refused(&|m| m.code = CodeType::F4E2M1));
        assert!(refused(&|m| m.rows = usize::MAX));
        assert!(refused(&|m| m.cols = 0));
    }
}
