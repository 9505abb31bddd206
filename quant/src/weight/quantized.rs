//! The common result: codes, scales, integer zero points, and how they came about.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::isa::per_isa;
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

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Note::ZeroBlocks(count) => write!(f, "{count} blocks hold only zeros"),
            Note::ScaleOutOfType(count) => {
                write!(f, "{count} scales were moved into the range of their type")
            }
            Note::DeadColumns(count) => {
                write!(f, "{count} inputs were always zero: rounded to nearest there")
            }
            Note::DampingRaised { asked, used } => {
                write!(f, "the inputs are nearly dependent: damping {used} instead of {asked}")
            }
            Note::FellBack { to, why } => write!(f, "{to:?} instead: {why}"),
        }
    }
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

/// ‖W − Ŵ‖ / ‖W‖ where `decode` writes row n of ŵ; 0 for a weight of zeros.
pub fn relative_error(
    weight: &Weight<'_>,
    decode: impl Fn(usize, &mut [f32]) + Sync,
) -> Result<f64, WeightError> {
    let nothing = vec![0.0; weight.cols()];
    let sums = by_row(weight, |n, exact, decoded| {
        decode(n, decoded);
        [distance(exact, decoded, &[]), distance(exact, &nothing, &[])]
    })?;
    let [error, energy] = sums;
    Ok(if energy > 0.0 { (error / energy).sqrt() } else { 0.0 })
}

/// Rows that are read together.
const PANEL: usize = 32;

/// Σ_nk importance_k·(w_nk − ŵ_nk)² where `decode` writes row n of ŵ. Each row in eight fixed lanes.
pub(crate) fn squared_error(
    weight: &Weight<'_>,
    importance: Option<&[f32]>,
    decode: impl Fn(usize, &mut [f32]) + Sync,
) -> Result<f64, WeightError> {
    if let Some(i) = importance {
        check_len("importance", weight.cols(), i.len())?;
    }
    let [sum] = by_row(weight, |n, exact, decoded| {
        decode(n, decoded);
        [distance(exact, decoded, importance.unwrap_or_default())]
    })?;
    Ok(sum)
}

/// Sums of `N` numbers that `of` makes of each row: of its number, its weights, and a buffer of the same size. In the order of
/// the rows, whatever the thread count.
fn by_row<const N: usize>(
    weight: &Weight<'_>,
    of: impl Fn(usize, &[f32], &mut [f32]) -> [f64; N] + Sync,
) -> Result<[f64; N], WeightError> {
    let (rows, cols) = (weight.rows(), weight.cols());
    let panels: Result<Vec<[[f64; N]; PANEL]>, WeightError> = (0..rows.div_ceil(PANEL))
        .into_par_iter()
        .map_init(
            || (vec![0.0; PANEL.min(rows) * cols], vec![0.0; cols]),
            |(exact, decoded), panel| {
                let (first, mut sums) = (panel * PANEL, [[0.0; N]; PANEL]);
                let exact = &mut exact[..PANEL.min(rows - first) * cols];
                weight.panel(first, exact)?;
                for ((n, exact), sum) in exact.chunks_exact(cols).enumerate().zip(&mut sums) {
                    *sum = of(first + n, exact, decoded);
                }
                Ok(sums)
            },
        )
        .collect();
    let mut all = [0.0; N];
    for row in panels?.iter().flatten() {
        all.iter_mut().zip(row).for_each(|(all, one)| *all += one);
    }
    Ok(all)
}

/// Σ importance·(a − b)²; no importance: empty.
#[inline(always)]
fn distance_body(a: &[f32], b: &[f32], importance: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 8];
    let square = |a: f32, b: f32| {
        let d = f64::from(a) - f64::from(b);
        d * d
    };
    let ((a8, a1), (b8, b1)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let rest = a1.iter().zip(b1).map(|(&a, &b)| square(a, b));
    if importance.is_empty() {
        for (a, b) in a8.iter().zip(b8) {
            for l in 0..8 {
                lanes[l] += square(a[l], b[l]);
            }
        }
        lanes.iter().sum::<f64>() + rest.sum::<f64>()
    } else {
        let (i8, i1) = importance.as_chunks::<8>();
        for ((a, b), i) in a8.iter().zip(b8).zip(i8) {
            for l in 0..8 {
                lanes[l] += square(a[l], b[l]) * f64::from(i[l]);
            }
        }
        lanes.iter().sum::<f64>() + rest.zip(i1).map(|(d, &i)| d * f64::from(i)).sum::<f64>()
    }
}

per_isa! { fn distance(a: &[f32], b: &[f32], importance: &[f32]) -> f64 = distance_body }
