//! The common result: codes, scales, integer zero points, and how they came about.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Spec, Weight, WeightError, Zero, check_len};

/// The quantizer that made a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // each is the file of that name
pub enum Method {
    Rtn,
    RtnSearch,
    Hqq,
    Nf4,
    Fp4,
    Kquant,
    Gptq,
    Awq,
}

/// Something that a report should say about a result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// Blocks that hold only zeros; their scale is 1.
    ZeroBlocks(usize),
    /// Blocks whose scale was moved to the least or greatest number of the scale's type.
    ScaleOutOfType(usize),
    /// Input columns that calibration never saw non-zero; their weights were rounded to nearest.
    DeadColumns(usize),
    /// The Gram matrix is singular at the asked damping; this multiple of its mean diagonal was added instead.
    DampingRaised {
        /// What was asked for.
        asked: f64,
        /// What was needed.
        used: f64,
    },
    /// The calibrated method could not be used; the weights were rounded by another one.
    FellBack {
        /// The quantizer used instead.
        to: Method,
        /// Why.
        why: String,
    },
}

/// How a result came about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The quantizer asked for.
    pub method: Method,
    /// What it had to do differently.
    pub notes: Vec<Note>,
}

/// A weight on uniform grids: w = (code − zero point)·scale.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// What was asked for.
    pub spec: Spec,
    /// N
    pub rows: usize,
    /// K
    pub cols: usize,
    /// Columns of a block, resolved (`cols` for one scale a row). The last block of a row may be shorter.
    pub block: usize,
    /// `[N, K]`, one code a byte, 0..=max_code.
    pub codes: Vec<u8>,
    /// `[N, ceil(K / block)]`, positive and finite.
    pub scales: Vec<f32>,
    /// `[N, ceil(K / block)]`; `None`: all are [`super::Bits::center`].
    pub zero_points: Option<Vec<u8>>,
    /// How it came about.
    pub provenance: Provenance,
}

impl Quantized {
    /// An all-zero result of the right size, to be filled.
    pub(crate) fn new(spec: Spec, weight: &Weight<'_>, method: Method) -> Result<Self, WeightError> {
        let (rows, cols) = (weight.rows(), weight.cols());
        let block = spec.block.columns(cols)?;
        let blocks = rows * cols.div_ceil(block);
        Ok(Self {
            spec,
            rows,
            cols,
            block,
            codes: vec![0; rows * cols],
            scales: vec![1.0; blocks],
            zero_points: (spec.zero == Zero::PerBlock).then(|| vec![spec.bits.center(); blocks]),
            provenance: Provenance { method, notes: Vec::new() },
        })
    }

    /// Blocks of one row.
    pub fn blocks_per_row(&self) -> usize {
        self.cols.div_ceil(self.block)
    }

    /// The zero point of block `index` (row-major over `[N, blocks_per_row]`).
    pub fn zero_point(&self, index: usize) -> u8 {
        self.zero_points.as_ref().map_or(self.spec.bits.center(), |z| z[index])
    }

    /// The weights that the codes stand for, `[N, K]` row-major: (code − zero point)·scale, one rounding to f32.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        out.par_chunks_mut(self.cols).enumerate().for_each(|(n, row)| self.dequantize_row(n, row));
        out
    }

    /// Row `n` of [`Self::dequantize`]. `out` has K elements.
    pub fn dequantize_row(&self, n: usize, out: &mut [f32]) {
        let per_row = self.blocks_per_row();
        let codes = &self.codes[n * self.cols..][..self.cols];
        for (b, (out, codes)) in out.chunks_mut(self.block).zip(codes.chunks(self.block)).enumerate() {
            let scale = self.scales[n * per_row + b];
            let zero = i32::from(self.zero_point(n * per_row + b));
            for (o, &code) in out.iter_mut().zip(codes) {
                *o = (i32::from(code) - zero) as f32 * scale;
            }
        }
    }

    /// Bits a weight takes with its share of scales (of the spec's type) and zero points, before row padding.
    pub fn bits_per_weight(&self) -> f64 {
        let stored = f64::from(self.spec.bits.stored());
        let zero = if self.zero_points.is_some() { stored } else { 0.0 };
        let blocks = self.scales.len() as f64 / (self.rows * self.cols) as f64;
        stored + blocks * (f64::from(super::scale_bits(self.spec.scale)) + zero)
    }

    /// Σ (w − ŵ)²·importance over the matrix. `importance` has K elements or none.
    pub fn squared_error(&self, weight: &Weight<'_>, importance: Option<&[f32]>) -> Result<f64, WeightError> {
        squared_error(weight, importance, |n, row| self.dequantize_row(n, row))
    }
}

/// Σ w² over the matrix. Rows are summed in order.
pub fn squared(weight: &Weight<'_>) -> Result<f64, WeightError> {
    squared_error(weight, None, |_, row| row.fill(0.0))
}

/// Σ_nk importance_k·(w_nk − ŵ_nk)² where `decode` writes row n of ŵ. Rows are summed in order.
pub(crate) fn squared_error(
    weight: &Weight<'_>,
    importance: Option<&[f32]>,
    decode: impl Fn(usize, &mut [f32]) + Sync,
) -> Result<f64, WeightError> {
    let cols = weight.cols();
    if let Some(i) = importance {
        check_len("importance", cols, i.len())?;
    }
    let rows: Result<Vec<f64>, WeightError> = (0..weight.rows())
        .into_par_iter()
        .map_init(
            || (vec![0.0; cols], vec![0.0; cols]),
            |(exact, decoded), n| {
                weight.panel(n, exact)?;
                decode(n, decoded);
                let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
                let errors = exact.iter().zip(decoded.iter()).map(square);
                Ok(match importance {
                    Some(i) => errors.zip(i).map(|(e, &i)| e * f64::from(i)).sum(),
                    None => errors.sum::<f64>(),
                })
            },
        )
        .collect();
    Ok(rows?.iter().sum())
}
