//! `nf4` and `fp4`: sixteen fixed values times a scale per block (bitsandbytes; Dettmers et al. 2023, "QLoRA").
//!
//! Blocks run over the *flat* row-major `[N, K]` array and may cross rows, as the files and `MatMulBnb4` have it.
//! code = the table's value nearest to w / scale (the lower one at a tie), scale = the block's largest magnitude; a block
//! of zeros has scale 1. With [`Scale::Searched`] the scale is instead the one of a ladder, refined by least squares,
//! that loses least: the same format, less error (NF4 on Gaussian weights in blocks of 64:
//! relative error 0.0852 instead of 0.0919).
//!
//! **Double quantization** stores the scales in 8 bits: per 256 of them an offset-free affine grid, so that one
//! `DequantizeLinear` restores them (bitsandbytes' own code book is not uniform; its files carry their table).
//! Codes are chosen for the restored scales, so nothing is lost twice. 4.127 instead of 4.5 bits a weight at block 64.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::quantized::squared_error;
use super::{Method, Note, Provenance, Weight, WeightError};
use crate::round::round_small;

/// Values of the NF4 codes 0..=15: quantiles of the normal distribution.
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Values of the FP4 codes 0..=15: bit 3 is the sign, the others 0, 1/192, 2/3, 1, 1/3, 1/2, 1/6, 1/4.
pub const FP4: [f32; 16] = {
    let magnitudes = [0.0, 0.005_208_333_3, 0.666_666_7, 1.0, 0.333_333_34, 0.5, 0.166_666_67, 0.25];
    let mut table = [0.0; 16];
    let mut i = 0;
    while i < 8 {
        table[i] = magnitudes[i];
        table[i + 8] = -magnitudes[i];
        i += 1;
    }
    table
};

/// Which sixteen values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// A sign and eight magnitudes, as bitsandbytes defines them.
    Fp4,
    /// Quantiles of the normal distribution.
    Nf4,
}

impl Table {
    /// The value of each code.
    pub fn values(self) -> &'static [f32; 16] {
        match self {
            Self::Fp4 => &FP4,
            Self::Nf4 => &NF4,
        }
    }

    fn method(self) -> Method {
        match self {
            Self::Fp4 => Method::Fp4,
            Self::Nf4 => Method::Nf4,
        }
    }
}

/// How the scale of a block is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// The largest magnitude, as bitsandbytes does.
    AbsMax,
    /// The one that loses least.
    #[default]
    Searched,
}

/// A weight on a table of values: w = `table[code] * scale`.
#[derive(Debug, Clone, PartialEq)]
pub struct Codebook {
    /// Which values.
    pub table: Table,
    /// N
    pub rows: usize,
    /// K
    pub cols: usize,
    /// Elements of a flat block.
    pub block: usize,
    /// `[N·K]`, one code a byte, 0..=15.
    pub codes: Vec<u8>,
    /// `[ceil(N·K / block)]`, positive and finite: what the codes are to be multiplied by.
    pub scales: Vec<f32>,
    /// The scales in 8 bits, if asked for; `scales` are then the restored ones.
    pub nested: Option<NestedScales>,
    /// How it came about.
    pub provenance: Provenance,
}

/// Scales in 8 bits: scale = code·step of the group.
#[derive(Debug, Clone, PartialEq)]
pub struct NestedScales {
    /// One per scale, 1..=255.
    pub codes: Vec<u8>,
    /// One per [`NESTED_BLOCK`] scales, positive.
    pub steps: Vec<f32>,
}

/// Scales that share a second-level step.
pub const NESTED_BLOCK: usize = 256;

impl Codebook {
    /// The weights that the codes stand for, `[N, K]` row-major.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.codes.len()];
        out.par_chunks_mut(self.cols).enumerate().for_each(|(n, row)| self.dequantize_row(n, row));
        out
    }

    /// Row `n` of the weights that the codes stand for. `out` has K elements.
    pub fn dequantize_row(&self, n: usize, out: &mut [f32]) {
        let values = self.table.values();
        for (i, o) in (n * self.cols..).zip(out) {
            *o = values[usize::from(self.codes[i] & 15)] * self.scales[i / self.block];
        }
    }

    /// Bits a weight takes with its share of the scales.
    pub fn bits_per_weight(&self) -> f64 {
        let count = self.codes.len() as f64;
        let scales = match &self.nested {
            Some(n) => 8.0 * n.codes.len() as f64 + 32.0 * n.steps.len() as f64,
            None => 32.0 * self.scales.len() as f64,
        };
        4.0 + scales / count
    }

    /// Σ importance_k·(w − ŵ)².
    pub fn squared_error(&self, weight: &Weight<'_>, importance: Option<&[f32]>) -> Result<f64, WeightError> {
        squared_error(weight, importance, |n, row| self.dequantize_row(n, row))
    }
}

/// A table sorted by value, with the midpoints between neighbours.
struct Sorted {
    values: [f32; 16],
    codes: [u8; 16],
    limits: [f32; 15],
}

impl Sorted {
    fn new(table: Table) -> Self {
        let mut codes: [u8; 16] = std::array::from_fn(|i| i as u8);
        let of = |c: u8| table.values()[usize::from(c)];
        codes.sort_by(|a, b| of(*a).total_cmp(&of(*b)));
        let values = codes.map(of);
        let mid = |i: usize| ((f64::from(values[i]) + f64::from(values[i + 1])) / 2.0) as f32;
        // FP4 has −0 before +0: their midpoint 0 sends −0 to the lower place, which is written as +0 below.
        Self { limits: std::array::from_fn(mid), codes, values }
    }

    /// Place of the nearest value: the number of midpoints below.
    #[inline(always)]
    fn place(&self, t: f32) -> usize {
        self.limits.iter().map(|l| usize::from(t > *l)).sum()
    }

    fn code(&self, t: f32) -> u8 {
        let place = self.place(t);
        if self.values[place] == 0.0 { self.zero_code() } else { self.codes[place] }
    }

    /// The code of +0.
    fn zero_code(&self) -> u8 {
        let zero = (0..16).find(|&i| self.values[i] == 0.0 && self.values[i].is_sign_positive());
        zero.map_or(0, |i| self.codes[i])
    }
}

/// Steps of the ladder of scales, as parts of the largest magnitude.
const LADDER: (f32, f32, usize) = (0.72, 1.12, 21);

/// The scale that loses least on a block of which `largest` > 0 is the greatest magnitude.
fn search(block: &[f32], largest: f32, sorted: &Sorted) -> f64 {
    let trial = |scale: f64| -> (f64, f64) {
        let inverse = (1.0 / scale) as f32;
        let (mut vv, mut vx) = (0.0f64, 0.0f64);
        for &x in block {
            let t = x * inverse;
            let v = f64::from(sorted.values[sorted.place(t)]);
            vv += v * v;
            vx += v * f64::from(t);
        }
        // In units of the scale: error at the best scale is Σx² − (Σvx)²/Σv², so compare the gain.
        if vv > 0.0 { (vx * vx / vv * scale * scale, scale * vx / vv) } else { (0.0, scale) }
    };
    let largest = f64::from(largest);
    let mut best = (f64::NEG_INFINITY, largest);
    let (first, last, steps) = (f64::from(LADDER.0), f64::from(LADDER.1), LADDER.2);
    for i in 0..steps {
        let tried = trial(largest * (first + (last - first) * i as f64 / (steps - 1) as f64));
        if tried.0 > best.0 {
            best = tried;
        }
    }
    for _ in 0..3 {
        let tried = trial(best.1);
        if tried.0 <= best.0 {
            break;
        }
        best = tried;
    }
    best.1
}

/// Quantizes a weight to a table. `block` is the length of the flat blocks; `nested` asks for scales in 8 bits.
pub fn nf4(
    weight: &Weight<'_>,
    table: Table,
    block: usize,
    scale: Scale,
    nested: bool,
) -> Result<Codebook, WeightError> {
    if block == 0 {
        return Err(WeightError::Option { what: "block", must: "at least 1", found: "0".into() });
    }
    let (rows, cols) = (weight.rows(), weight.cols());
    let sorted = Sorted::new(table);
    let count = rows * cols;
    let mut flat = vec![0.0f32; count];
    flat.par_chunks_mut(16 * cols)
        .enumerate()
        .map(|(p, panel)| weight.panel(16 * p, panel))
        .collect::<Result<(), WeightError>>()?;
    let mut zero_blocks = 0;
    let mut scales: Vec<f32> = flat
        .par_chunks(block)
        .map(|w| {
            let largest = w.iter().fold(0.0f32, |a, v| a.max(v.abs()));
            if largest < f32::MIN_POSITIVE {
                return 0.0; // only zeros, or nothing a normal scale could resolve
            }
            let scale = match scale {
                Scale::AbsMax => f64::from(largest),
                Scale::Searched => search(w, largest, &sorted),
            };
            (scale as f32).clamp(f32::MIN_POSITIVE, f32::MAX)
        })
        .collect();
    for s in scales.iter_mut().filter(|s| **s == 0.0) {
        (*s, zero_blocks) = (1.0, zero_blocks + 1);
    }
    let nested = nested.then(|| nest(&mut scales));
    let mut codes = vec![0u8; count];
    codes.par_chunks_mut(block).zip(flat.par_chunks(block)).zip(&scales).for_each(|((codes, w), scale)| {
        codes.iter_mut().zip(w).for_each(|(c, w)| *c = sorted.code(w / scale));
    });
    let notes = (zero_blocks > 0).then_some(Note::ZeroBlocks(zero_blocks)).into_iter().collect();
    let provenance = Provenance { method: table.method(), notes };
    Ok(Codebook { table, rows, cols, block, codes, scales, nested, provenance })
}

/// Puts scales on 8-bit grids, and writes back what they restore to.
fn nest(scales: &mut [f32]) -> NestedScales {
    let mut nested = NestedScales { codes: Vec::with_capacity(scales.len()), steps: Vec::new() };
    for group in scales.chunks_mut(NESTED_BLOCK) {
        let largest = group.iter().fold(0.0f32, |a, &s| a.max(s));
        let step = (largest / 255.0).max(f32::MIN_POSITIVE);
        nested.steps.push(step);
        for s in group {
            let code = round_small((*s / step).clamp(1.0, 255.0));
            *s = code * step;
            nested.codes.push(code as u8);
        }
    }
    nested
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::testing::{gaussian, relative_error};

    fn quantize(w: &[f32], table: Table, block: usize, scale: Scale, nested: bool) -> Codebook {
        nf4(&Weight::from_rows(w, 1, w.len()).unwrap(), table, block, scale, nested).unwrap()
    }

    #[test]
    fn every_table_value_is_its_own_code() {
        for table in [Table::Nf4, Table::Fp4] {
            let w: Vec<f32> = table.values().iter().map(|v| v * 3.0).collect();
            let q = quantize(&w, table, 16, Scale::AbsMax, false);
            let expected: Vec<u8> =
                (0..16).map(|c| if table == Table::Fp4 && c == 8 { 0 } else { c }).collect();
            assert_eq!((q.codes, q.scales), (expected, vec![3.0]));
        }
    }

    #[test]
    fn codes_are_the_nearest_values() {
        let w = gaussian(500, 1);
        for table in [Table::Nf4, Table::Fp4] {
            for scale in [Scale::AbsMax, Scale::Searched] {
                let q = quantize(&w, table, 64, scale, false);
                for (i, (w, v)) in w.iter().zip(q.dequantize()).enumerate() {
                    let scale = q.scales[i / 64];
                    let nearest =
                        table.values().iter().map(|t| (t * scale - w).abs()).fold(f32::MAX, f32::min);
                    assert!((v - w).abs() <= nearest + 1e-6 * scale); // rounding of w / scale
                }
            }
        }
    }

    #[test]
    fn errors_on_gaussian_weights() {
        let w = gaussian(1 << 16, 2);
        let error =
            |table, scale, nested| relative_error(&w, &quantize(&w, table, 64, scale, nested).dequantize());
        // Measured with 64k numbers, whose spread is below 1 %: 0.0919 and 0.0852.
        let plain = error(Table::Nf4, Scale::AbsMax, false);
        let searched = error(Table::Nf4, Scale::Searched, false);
        assert!((0.091..0.093).contains(&plain), "{plain}");
        assert!(searched < 0.97 * plain, "{searched}");
        let nested = error(Table::Nf4, Scale::Searched, true);
        assert!(nested < 1.005 * searched, "{nested}");
        assert!(error(Table::Fp4, Scale::Searched, false) < error(Table::Fp4, Scale::AbsMax, false));
    }

    #[test]
    fn degenerate_blocks() {
        let mut w = vec![0.0; 10];
        w[8] = -2.0;
        let q = quantize(&w, Table::Nf4, 4, Scale::Searched, true);
        assert_eq!(q.dequantize()[..8], [0.0; 8]);
        assert_eq!(q.provenance.notes, [Note::ZeroBlocks(2)]);
        assert!((q.dequantize()[8] + 2.0).abs() < 0.01); // scale in 8 bits: half a step of 2/255
        assert_eq!(quantize(&w, Table::Fp4, 4, Scale::AbsMax, false).codes[..4], [0; 4]);
        let q = quantize(&[f32::MAX, f32::MIN, 1e-44, 0.0], Table::Nf4, 2, Scale::Searched, false);
        assert!(q.scales.iter().all(|s| s.is_normal()) && q.dequantize().iter().all(|v| v.is_finite()));
        let weight = Weight::from_rows(&w[..], 2, 5).unwrap();
        assert!(nf4(&weight, Table::Nf4, 0, Scale::AbsMax, false).is_err());
        assert!(
            nf4(&Weight::from_rows(&[f32::NAN][..], 1, 1).unwrap(), Table::Nf4, 4, Scale::AbsMax, false)
                .is_err()
        );
    }

    #[test]
    fn sizes() {
        let w = gaussian(64 * 256, 3);
        assert_eq!(quantize(&w, Table::Nf4, 64, Scale::AbsMax, false).bits_per_weight(), 4.5);
        let nested = quantize(&w, Table::Nf4, 64, Scale::AbsMax, true).bits_per_weight();
        assert!((nested - 4.127).abs() < 0.001, "{nested}");
    }
}
