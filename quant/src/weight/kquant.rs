//! `kquant`: blocks in super-blocks of 256, whose scales and offsets are themselves small integers (the K-quants of
//! llama.cpp). More accurate than integer zero points at fewer bits: Q4_K takes 4.5 bits a weight.
//!
//! | kind | code bits | blocks | scales | weight | bits a weight |
//! |---|---|---|---|---|---|
//! | Q2_K | 2 | 16 × 16 | 4 bits, offset 4 bits | d·a·code − m·b | 2.625 |
//! | Q3_K | 3 | 16 × 16 | 6 bits signed | d·a·(code − 4) | 3.4375 |
//! | Q4_K | 4 | 8 × 32 | 6 bits, offset 6 bits | d·a·code − m·b | 4.5 |
//! | Q5_K | 5 | 8 × 32 | 6 bits, offset 6 bits | d·a·code − m·b | 5.5 |
//! | Q6_K | 6 | 16 × 16 | 8 bits signed | d·a·(code − 32) | 6.5625 |
//!
//! d and m are f16, b ≥ 0 (a block's range includes 0). Signed scales a are used positive here. Search, per block: a
//! ladder of scales; codes by rounding; scale and offset by weighted least squares in closed form; the best is polished.
//! Then the super-scales: integers a, b are tried around their rounded values with the codes re-rounded, and d, m are
//! refitted to the codes by least squares, twice. Weights: the importance of the columns, or 1. On Gaussian weights the
//! relative errors are 0.260 (Q2_K; ggml 0.297), 0.0703 (Q4_K; 0.0713), 0.0347 (Q5_K; 0.0361), 0.0176 (Q6_K; 0.0178).
//!
//! The result is an [`Affine`] weight. Rows need not be multiples of 256: the last super-block is shorter.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::affine::Affine;
use super::{Method, Note, Provenance, Weight, WeightError, check_importance};
use crate::round::ScaleType;

/// Columns of a super-block.
pub const SUPER: usize = 256;

/// Which K-quant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the table above
pub enum Kind {
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

impl Kind {
    /// Width of a code.
    pub fn bits(self) -> u32 {
        match self {
            Self::Q2K => 2,
            Self::Q3K => 3,
            Self::Q4K => 4,
            Self::Q5K => 5,
            Self::Q6K => 6,
        }
    }

    /// Columns of a block.
    pub fn block(self) -> usize {
        match self {
            Self::Q4K | Self::Q5K => 32,
            Self::Q2K | Self::Q3K | Self::Q6K => 16,
        }
    }

    /// Whether blocks have an offset; the others are symmetric around the centre code.
    pub fn has_offset(self) -> bool {
        matches!(self, Self::Q2K | Self::Q4K | Self::Q5K)
    }

    /// The greatest integer scale (and offset).
    fn max_scale(self) -> f64 {
        match self {
            Self::Q2K => 15.0,
            Self::Q4K | Self::Q5K => 63.0,
            Self::Q3K => 31.0,
            Self::Q6K => 127.0,
        }
    }

    /// Bits a weight takes, in whole super-blocks.
    pub fn bits_per_weight(self) -> f64 {
        match self {
            Self::Q2K => 2.625,
            Self::Q3K => 3.4375,
            Self::Q4K => 4.5,
            Self::Q5K => 5.5,
            Self::Q6K => 6.5625,
        }
    }

    /// The ladder of block scales, as parts of the min/max scale.
    fn ladder(self) -> (f64, f64, usize) {
        match self {
            Self::Q2K => (0.5, 1.1, 20),
            Self::Q3K => (0.65, 1.05, 16),
            Self::Q4K => (0.74, 1.04, 16),
            Self::Q5K => (0.84, 1.03, 12),
            Self::Q6K => (0.9, 1.02, 10),
        }
    }
}

/// A block while it is searched.
struct Sub<'a> {
    w: &'a [f32],
    /// One weight per element, or none.
    importance: Option<&'a [f32]>,
}

/// Sums over a block for codes q (of symmetric kinds: centred): Σi, Σiq, Σiq², Σix, Σiqx, Σix².
#[derive(Default, Clone, Copy)]
struct Sums {
    n: f64,
    q: f64,
    qq: f64,
    x: f64,
    qx: f64,
    xx: f64,
}

impl Sub<'_> {
    fn weight(&self, k: usize) -> f64 {
        self.importance.map_or(1.0, |i| f64::from(i[k]))
    }

    /// Rounds the block at (scale, min) and sums up.
    fn sums(&self, scale: f64, min: f64, lo: f64, hi: f64) -> Sums {
        let mut s = Sums::default();
        let inverse = 1.0 / scale;
        for (k, &x) in self.w.iter().enumerate() {
            let (x, i) = (f64::from(x), self.weight(k));
            let q = ((x - min) * inverse).round_ties_even().clamp(lo, hi);
            s.n += i;
            s.q += i * q;
            s.qq += i * q * q;
            s.x += i * x;
            s.qx += i * q * x;
            s.xx += i * x * x;
        }
        s
    }
}

impl Sums {
    /// Σ i·(scale·q + min − x)².
    fn error(&self, scale: f64, min: f64) -> f64 {
        (scale * scale * self.qq + min * min * self.n + self.xx + 2.0 * scale * min * self.q
            - 2.0 * scale * self.qx
            - 2.0 * min * self.x)
            .max(0.0)
    }

    /// Least-squares scale and min ≤ 0 (min = 0 for kinds without offset).
    fn solve(&self, has_offset: bool) -> Option<(f64, f64)> {
        let determinant = self.n * self.qq - self.q * self.q;
        if has_offset && determinant > 1e-12 * self.n * self.qq {
            let scale = (self.n * self.qx - self.q * self.x) / determinant;
            let min = (self.qq * self.x - self.q * self.qx) / determinant;
            if min <= 0.0 && scale > 0.0 {
                return Some((scale, min));
            }
        }
        let scale = self.qx / self.qq;
        (self.qq > 0.0 && scale > 0.0).then_some((scale, 0.0))
    }
}

/// The codes' range: from 0, or around the centre.
fn code_range(kind: Kind) -> (f64, f64) {
    let top = f64::from((1u32 << kind.bits()) - 1);
    let center = f64::from(1u32 << (kind.bits() - 1));
    if kind.has_offset() { (0.0, top) } else { (-center, top - center) }
}

/// Scale and min of a block on its own; (0, 0) for zeros.
fn search(sub: &Sub<'_>, kind: Kind) -> (f64, f64) {
    let (lo, hi) = super::rtn::range(sub.w);
    if (lo, hi) == (0.0, 0.0) {
        return (0.0, 0.0);
    }
    let (low, high) = (f64::from(lo), f64::from(hi));
    let (qlo, qhi) = code_range(kind);
    let base = if kind.has_offset() { (high - low) / qhi } else { (high / qhi).max(low / qlo) };
    let mut best = (f64::INFINITY, base, if kind.has_offset() { low } else { 0.0 });
    let consider = |best: &mut (f64, f64, f64), scale: f64, min: f64| {
        let sums = sub.sums(scale, min, qlo, qhi);
        let Some((scale, min)) = sums.solve(kind.has_offset()) else { return false };
        let error = sums.error(scale, min);
        let better = error < best.0;
        if better {
            *best = (error, scale, min);
        }
        better
    };
    let (first, last, steps) = kind.ladder();
    for i in 0..steps {
        let scale = base * (first + (last - first) * i as f64 / (steps - 1) as f64);
        // The window of codes centred on the range.
        let min = if kind.has_offset() { (0.5 * (low + high - qhi * scale)).min(0.0) } else { 0.0 };
        consider(&mut best, scale, min);
    }
    for _ in 0..4 {
        let (_, scale, min) = best;
        if !consider(&mut best, scale, min) {
            break;
        }
    }
    (best.1, best.2)
}

fn f16(v: f64) -> f64 {
    ScaleType::F16.round(v).map_or(0.0, f64::from)
}

/// One super-block: codes, and (scale, min) per block. Scale 0 stands for a block of zeros.
fn super_block(w: &[f32], importance: Option<&[f32]>, kind: Kind, codes: &mut [u8]) -> Vec<(f64, f64)> {
    let block = kind.block();
    let subs: Vec<Sub<'_>> = w
        .chunks(block)
        .enumerate()
        .map(|(b, w)| Sub { w, importance: importance.map(|i| &i[b * block..b * block + w.len()]) })
        .collect();
    let ideal: Vec<(f64, f64)> = subs.iter().map(|s| search(s, kind)).collect();
    let most = kind.max_scale();
    let (qlo, qhi) = code_range(kind);
    let largest = |f: &dyn Fn(&(f64, f64)) -> f64| ideal.iter().map(f).fold(0.0, f64::max);
    let mut d = f16(largest(&|s| s.0) / most);
    let mut m = f16(largest(&|s| -s.1) / most);
    let mut integers = vec![(0.0f64, 0.0f64); subs.len()];
    for pass in 0..2 {
        let mut total = [0.0f64; 5]; // normal equations of (d, m): Σaaqq, Σabq, Σbb, Σaqx, Σbx
        for ((sub, ideal), chosen) in subs.iter().zip(&ideal).zip(&mut integers) {
            let near = |v: f64, unit: f64| if unit > 0.0 { (v / unit).round_ties_even() } else { 0.0 };
            let (a0, b0) = if pass == 0 { (near(ideal.0, d), near(-ideal.1, m)) } else { *chosen };
            let mut best = (f64::INFINITY, a0, b0, Sums::default());
            for da in [0.0, -1.0, 1.0] {
                for db in if kind.has_offset() { &[0.0, -1.0, 1.0][..] } else { &[0.0] } {
                    let (a, b) = ((a0 + da).clamp(0.0, most), (b0 + db).clamp(0.0, most));
                    if a * d == 0.0 {
                        continue;
                    }
                    let sums = sub.sums(a * d, -b * m, qlo, qhi);
                    let error = sums.error(a * d, -b * m);
                    if error < best.0 {
                        best = (error, a, b, sums);
                    }
                }
            }
            if ideal.0 == 0.0 || best.0 == f64::INFINITY {
                best = (0.0, 0.0, 0.0, Sums::default());
            }
            let (_, a, b, s) = best;
            *chosen = (a, b);
            for (t, v) in total.iter_mut().zip([a * a * s.qq, a * b * s.q, b * b * s.n, a * s.qx, b * s.x]) {
                *t += v;
            }
        }
        // Minimize Σ (d·a·q − m·b − x)². Kept if the answer is sane.
        let [aa, ab, bb, ax, bx] = total;
        let determinant = aa * bb - ab * ab;
        if bb > 0.0 && determinant > 1e-9 * aa * bb {
            let (nd, nm) = ((bb * ax - ab * bx) / determinant, (ab * ax - aa * bx) / determinant);
            if nd > 0.5 * d && nd < 2.0 * d && nm > 0.5 * m && nm < 2.0 * m {
                (d, m) = (f16(nd), f16(nm));
            }
        } else if aa > 0.0 && bb == 0.0 && ax > 0.0 {
            d = f16(ax / aa);
        }
    }
    let center = if kind.has_offset() { 0.0 } else { -qlo };
    integers
        .iter()
        .zip(subs)
        .zip(codes.chunks_mut(block))
        .map(|((&(a, b), sub), codes)| {
            let (scale, min) = (a * d, -b * m);
            for (code, &x) in codes.iter_mut().zip(sub.w) {
                let q = if scale > 0.0 {
                    ((f64::from(x) - min) / scale).round_ties_even().clamp(qlo, qhi)
                } else {
                    0.0
                };
                *code = (q + center) as u8;
            }
            (scale, if kind.has_offset() { min } else { -center * scale })
        })
        .collect()
}

/// Quantizes a weight to a K-quant. `importance` has one weight ≥ 0 per column, or is left out. A magnitude that
/// d·a cannot reach in f16 is an error.
pub fn kquant(weight: &Weight<'_>, kind: Kind, importance: Option<&[f32]>) -> Result<Affine, WeightError> {
    let (rows, cols) = (weight.rows(), weight.cols());
    check_importance(importance, cols)?;
    let block = kind.block();
    let per_row = cols.div_ceil(block);
    let mut codes = vec![0u8; rows * cols];
    let (mut scales, mut mins) = (vec![1.0f32; rows * per_row], vec![0.0f32; rows * per_row]);
    let zeros: Result<Vec<usize>, WeightError> = codes
        .par_chunks_mut(16 * cols)
        .zip(scales.par_chunks_mut(16 * per_row))
        .zip(mins.par_chunks_mut(16 * per_row))
        .enumerate()
        .map_init(
            || vec![0.0; 16 * cols],
            |panel, (p, ((codes, scales), mins))| {
                let panel = &mut panel[..codes.len()];
                weight.panel(p * 16, panel)?;
                let mut zeros = 0;
                for (r, (row, codes)) in panel.chunks(cols).zip(codes.chunks_mut(cols)).enumerate() {
                    for (s, (w, codes)) in row.chunks(SUPER).zip(codes.chunks_mut(SUPER)).enumerate() {
                        let largest = w.iter().fold(0.0f32, |a, v| a.max(v.abs()));
                        // The greatest block range that f16 super-scales can express.
                        if f64::from(largest) > 65504.0 * kind.max_scale() {
                            let at = w.iter().position(|v| v.abs() == largest).unwrap_or(0);
                            let (row, col) = (p * 16 + r, s * SUPER + at);
                            return Err(WeightError::NotFinite { row, col, value: w[at] });
                        }
                        let first = s * SUPER;
                        let part = importance.map(|i| &i[first..first + w.len()]);
                        let part = part.filter(|i| i.iter().any(|v| *v > 0.0));
                        let at = r * per_row + first / block;
                        for (b, (scale, min)) in super_block(w, part, kind, codes).into_iter().enumerate() {
                            zeros += usize::from(scale == 0.0);
                            scales[at + b] = if scale == 0.0 { 1.0 } else { scale as f32 };
                            mins[at + b] = min as f32;
                        }
                        // Blocks of zeros in symmetric kinds: their code is the centre, their minimum must follow.
                        if !kind.has_offset() {
                            let center = -code_range(kind).0 as f32;
                            (at..at + w.len().div_ceil(block)).for_each(|b| mins[b] = -center * scales[b]);
                        }
                    }
                }
                Ok(zeros)
            },
        )
        .collect();
    let zeros: usize = zeros?.iter().sum();
    let notes = (zeros > 0).then_some(Note::ZeroBlocks(zeros)).into_iter().collect();
    Ok(Affine {
        bits: kind.bits(),
        rows,
        cols,
        block,
        codes,
        scales,
        mins,
        bits_per_weight: kind.bits_per_weight(),
        provenance: Provenance { method: Method::Kquant, notes },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::testing::{gaussian, relative_error};

    /// Relative errors of ggml's own writers on Gaussian weights (format notes, 2M weights), within 1 %, the spread of 128k
    /// samples. Measured: 0.260, 0.161, 0.0703, 0.0347, 0.0176. Q3_K's bar is ours: ggml reaches 0.151 with negative
    /// scales, which give the four negative codes to the larger side but which TensorRT refuses.
    #[test]
    fn as_good_as_ggmls_writers() {
        let w = gaussian(1 << 17, 5);
        let weight = Weight::from_rows(&w[..], 128, 1024).unwrap();
        for (kind, bar) in [
            (Kind::Q2K, 0.297),
            (Kind::Q3K, 0.1613),
            (Kind::Q4K, 0.0713),
            (Kind::Q5K, 0.0361),
            (Kind::Q6K, 0.0178),
        ] {
            let q = kquant(&weight, kind, None).unwrap();
            let error = relative_error(&w, &q.dequantize());
            assert!(error < 1.01 * bar, "{kind:?}: {error} against {bar}");
        }
    }

    #[test]
    fn scales_are_products_of_f16_and_small_integers() {
        let w = gaussian(512, 6);
        for kind in [Kind::Q2K, Kind::Q3K, Kind::Q4K, Kind::Q5K, Kind::Q6K] {
            let q = kquant(&Weight::from_rows(&w[..], 1, 512).unwrap(), kind, None).unwrap();
            assert!(q.codes.iter().all(|c| u32::from(*c) < 1 << kind.bits()));
            for scales in q.scales.chunks(SUPER / kind.block()) {
                let most = kind.max_scale();
                let fits = |d: f32| {
                    let integers = scales.iter().map(|s| f64::from(*s) / f64::from(d));
                    integers.clone().all(|a| (a - a.round()).abs() < 1e-5 && a.round() <= most)
                };
                // d is one of the f16 numbers that divide the largest scale by an integer ≤ most.
                let largest = scales.iter().fold(0.0f32, |a, &s| a.max(s));
                assert!((1..=most as u32).any(|a| fits((f64::from(largest) / f64::from(a)) as f32)));
            }
        }
    }

    #[test]
    fn ugly_rows() {
        let mut w = gaussian(3 * 300, 7); // 300 is no multiple of 16, 32 or 256
        w[..64].fill(0.0);
        w[300..332].fill(0.7); // constant
        w[600..632].iter_mut().for_each(|v| *v = -v.abs() - 1.0);
        w[700] = 1000.0;
        let weight = Weight::from_rows(&w[..], 3, 300).unwrap();
        let importance: Vec<f32> =
            (0..300).map(|k| if k < 40 { 0.0 } else { 1.0 + (k % 3) as f32 }).collect();
        for kind in [Kind::Q2K, Kind::Q3K, Kind::Q4K, Kind::Q5K, Kind::Q6K] {
            for importance in [None, Some(&importance[..])] {
                let q = kquant(&weight, kind, importance).unwrap();
                assert!(q.scales.iter().all(|s| *s > 0.0 && s.is_finite()), "{kind:?}");
                let back = q.dequantize();
                assert_eq!(back[..32], [0.0; 32], "{kind:?}");
                let two = q.two_term();
                let symmetric = two.weight.dequantize();
                for (i, v) in back.iter().enumerate() {
                    let c = two.offsets[i / 300 * q.blocks_per_row() + i % 300 / q.block];
                    assert!((symmetric[i] + c - v).abs() <= 1e-6 * 1000.0); // roundings of numbers up to 1000
                }
            }
        }
        w[5] = f32::NAN;
        assert!(kquant(&Weight::from_rows(&w[..], 3, 300).unwrap(), Kind::Q4K, None).is_err());
        w[5] = 1e30;
        assert!(kquant(&Weight::from_rows(&w[..], 3, 300).unwrap(), Kind::Q4K, None).is_err());
    }
}
