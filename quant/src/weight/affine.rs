//! Weights with a float offset per block, w = scale·code + min, and their *two-term form*.
//!
//! ONNX has no fast operator with float offsets (MatMulNBits takes float zero points but then expands the weight at every
//! call, 100 times slower), so the emitters split a layer, exactly:
//!
//! ```text
//! w = s·(code − z) + c,   c = min + z·s,   z the centre code
//! y = MatMul(x; symmetric codes, s) + R(x)·Cᵀ,   R(x)[block] = Σ of x over the block
//! ```

use rayon::prelude::*;

use super::quantized::squared_error;
use super::{Bits, Block, Method, Note, Provenance, Quantized, Spec, Weight, WeightError, Zero};
use crate::round::ScaleType;

/// A weight with a float offset per block.
#[derive(Debug, Clone, PartialEq)]
pub struct Affine {
    /// Width of the codes, 2 to 8.
    pub bits: u32,
    /// N
    pub rows: usize,
    /// K
    pub cols: usize,
    /// Columns of a block; the last block of a row may be shorter.
    pub block: usize,
    /// `[N, K]`, one code a byte.
    pub codes: Vec<u8>,
    /// `[N, ceil(K / block)]`, positive and finite (1 in a constant block).
    pub scales: Vec<f32>,
    /// `[N, ceil(K / block)]`: the value of code 0.
    pub mins: Vec<f32>,
    /// Bits a weight takes with its share of scales and offsets, as the method stores them.
    pub bits_per_weight: f64,
    /// How it came about.
    pub provenance: Provenance,
}

/// [`Affine`] as a symmetric weight and a small second factor.
#[derive(Debug, Clone, PartialEq)]
pub struct TwoTerm {
    /// Symmetric codes in a width that ONNX stores (2, 4 or 8 bits).
    pub weight: Quantized,
    /// C, `[N, ceil(K / block)]`.
    pub offsets: Vec<f32>,
}

impl Affine {
    /// Blocks of one row.
    pub fn blocks_per_row(&self) -> usize {
        self.cols.div_ceil(self.block)
    }

    /// The weights that the codes stand for, `[N, K]` row-major.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.codes.len()];
        out.par_chunks_mut(self.cols).enumerate().for_each(|(n, row)| self.dequantize_row(n, row));
        out
    }

    /// Row `n` of [`Self::dequantize`]. `out` has K elements.
    pub fn dequantize_row(&self, n: usize, out: &mut [f32]) {
        let per_row = self.blocks_per_row();
        let codes = &self.codes[n * self.cols..][..self.cols];
        for (b, (out, codes)) in out.chunks_mut(self.block).zip(codes.chunks(self.block)).enumerate() {
            let (scale, min) = (self.scales[n * per_row + b], self.mins[n * per_row + b]);
            out.iter_mut().zip(codes).for_each(|(o, &c)| *o = f32::from(c) * scale + min);
        }
    }

    /// Σ importance_k·(w − ŵ)².
    pub fn squared_error(&self, weight: &Weight<'_>, importance: Option<&[f32]>) -> Result<f64, WeightError> {
        squared_error(weight, importance, |n, row| self.dequantize_row(n, row))
    }

    /// The two-term form. Widths between those of ONNX are widened; the numbers stay the same up to one rounding of f32.
    pub fn two_term(&self) -> TwoTerm {
        let bits = match self.bits {
            ..=2 => Bits::Two,
            3..=4 => Bits::Four,
            _ => Bits::Eight,
        };
        // The codes' own centre, moved onto the stored width's.
        let own = 1u8 << (self.bits - 1);
        let shift = bits.center() - own;
        let offset = |(s, m): (&f32, &f32)| (f64::from(*m) + f64::from(own) * f64::from(*s)) as f32;
        TwoTerm {
            offsets: self.scales.iter().zip(&self.mins).map(offset).collect(),
            weight: Quantized {
                spec: Spec {
                    bits,
                    block: Block::Columns(self.block),
                    zero: Zero::Center,
                    scale: ScaleType::F32,
                },
                rows: self.rows,
                cols: self.cols,
                block: self.block,
                codes: self.codes.iter().map(|c| c + shift).collect(),
                scales: self.scales.clone(),
                zero_points: None,
                provenance: self.provenance.clone(),
            },
        }
    }
}

/// Quantizes each block on its own: `choose` writes the codes of a block (given its first column) and gives scale and
/// minimum; a scale of 0 stands for a constant block.
pub(crate) fn affine_by_block(
    weight: &Weight<'_>,
    spec: &Spec,
    method: Method,
    choose: impl Fn(usize, &[f32], &mut [u8]) -> (f32, f32) + Sync,
) -> Result<Affine, WeightError> {
    let (rows, cols) = (weight.rows(), weight.cols());
    let block = spec.block.columns(cols)?;
    let per_row = cols.div_ceil(block);
    let mut codes = vec![0u8; rows * cols];
    let (mut scales, mut mins) = (vec![1.0f32; rows * per_row], vec![0.0f32; rows * per_row]);
    let constant: Result<Vec<usize>, WeightError> = codes
        .par_chunks_mut(16 * cols)
        .zip(scales.par_chunks_mut(16 * per_row))
        .zip(mins.par_chunks_mut(16 * per_row))
        .enumerate()
        .map_init(
            || vec![0.0; 16 * cols],
            |panel, (p, ((codes, scales), mins))| {
                let panel = &mut panel[..codes.len()];
                weight.panel(p * 16, panel)?;
                let mut constant = 0;
                let parts = panel.chunks(cols).zip(codes.chunks_mut(cols));
                let grids = scales.chunks_mut(per_row).zip(mins.chunks_mut(per_row));
                for ((row, codes), (scales, mins)) in parts.zip(grids) {
                    let blocks = row.chunks(block).zip(codes.chunks_mut(block));
                    for (b, ((w, codes), (scale, min))) in
                        blocks.zip(scales.iter_mut().zip(mins.iter_mut())).enumerate()
                    {
                        let chosen = choose(b * block, w, codes);
                        constant += usize::from(chosen.0 == 0.0);
                        (*scale, *min) = (if chosen.0 == 0.0 { 1.0 } else { chosen.0 }, chosen.1);
                    }
                }
                Ok(constant)
            },
        )
        .collect();
    let constant: usize = constant?.iter().sum();
    let notes = (constant > 0).then_some(Note::ZeroBlocks(constant)).into_iter().collect();
    let scale_bits = f64::from(super::scale_bits(spec.scale));
    Ok(Affine {
        bits: spec.bits.width(),
        rows,
        cols,
        block,
        bits_per_weight: f64::from(spec.bits.stored())
            + 2.0 * scale_bits * (rows * per_row) as f64 / (rows * cols) as f64,
        codes,
        scales,
        mins,
        provenance: Provenance { method, notes },
    })
}
