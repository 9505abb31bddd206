//! `rtn_search`: the scale and zero point of each block that lose least, found by search. The data-free default.
//!
//! For a ladder of scales below and around the min/max one, and for the two integer zero points that centre the
//! window of codes on the block's range, the block is rounded; given the codes, the best scale is a least-squares
//! quotient in closed form, so each trial is judged by the error at *its* best scale:
//!
//! ```text
//! t = w / s,  r = clip(round(t), −zero, max_code − zero),  d = t − r
//! error at the best scale = s²·(Σ d² − (Σ d·r)² / Σ r²)   at   s·(1 + Σ d·r / Σ r²)
//! ```
//!
//! The best trial is polished (re-rounded at its best scale while that helps), its scale is rounded to the type it is
//! stored in, and min/max is kept where nothing beats it, so the result is never worse than `rtn`. Sums may be
//! weighted by an importance per column (mean x², as in an imatrix).
//!
//! On Gaussian weights in blocks of 32 at four bits the relative error is 0.0769; an exhaustive search over every zero
//! point and 161 scales finds 0.0767, min/max 0.0807.

use super::isa::per_isa;
use super::rtn::{BlockGrid, by_block, encode, min_max, range};
use super::{Bits, Method, Quantized, Spec, Weight, WeightError, Zero, check_importance};
use crate::round::round_small;

/// Sums run over this many independent lanes, whatever the register width.
const LANES: usize = 16;

/// Lowest and highest scale of the ladder, as parts of the min/max scale, and its steps. The fewer the codes, the
/// more clipping pays; with 8 bits the range must be kept.
fn ladder(bits: Bits) -> (f32, f32, usize) {
    match bits {
        Bits::Two => (0.42, 1.1, 24),
        Bits::Three => (0.58, 1.06, 20),
        Bits::Four => (0.68, 1.04, 20),
        Bits::Eight => (0.94, 1.005, 12),
    }
}

/// Times the best trial is re-rounded at its best scale.
const POLISH: usize = 3;

/// Σ d², Σ d·r, Σ r² of a trial, all in units of the scale.
#[derive(Debug, Clone, Copy)]
struct Sums {
    dd: f32,
    dr: f32,
    rr: f32,
}

impl Sums {
    /// Error at the best scale, given the trial scale.
    fn error(self, scale: f32) -> f32 {
        let gain = if self.rr > 0.0 { self.dr * self.dr / self.rr } else { 0.0 };
        scale * scale * (self.dd - gain).max(0.0)
    }

    /// The best scale for the trial's codes.
    fn best_scale(self, scale: f32) -> f32 {
        if self.rr > 0.0 { scale * (1.0 + self.dr / self.rr) } else { scale }
    }
}

/// The best trial so far.
struct Best {
    error: f32,
    scale: f32,
    zero: f32,
}

impl Best {
    /// Takes the trial if it loses less; says whether it did.
    #[inline(always)]
    fn offer(&mut self, sums: Sums, scale: f32, zero: f32) -> bool {
        let error = sums.error(scale);
        let better = error < self.error;
        if better {
            *self = Self { error, scale: sums.best_scale(scale), zero };
        }
        better
    }
}

/// A block as the search sees it: times a power of two that brings its largest magnitude into [1, 2), padded with
/// zeros to whole lanes (a zero rounds to zero at any scale and adds nothing to any sum).
#[derive(Debug, Default)]
struct Scratch {
    values: Vec<[f32; LANES]>,
    importance: Vec<[f32; LANES]>,
}

impl Scratch {
    fn load(&mut self, block: &[f32], importance: Option<&[f32]>, factor: f32) {
        pad(block, factor, &mut self.values);
        self.importance.clear();
        if let Some(i) = importance {
            // Only ratios count; keep the sums in range whatever the unit of the importance.
            let largest = i.iter().fold(0.0f32, |a, &v| a.max(v));
            if largest > 0.0 {
                pad(i, 1.0 / largest, &mut self.importance);
            }
        }
    }
}

fn pad(values: &[f32], factor: f32, out: &mut Vec<[f32; LANES]>) {
    out.clear();
    out.extend(values.chunks(LANES).map(|chunk| {
        let mut lanes = [0.0; LANES];
        lanes.iter_mut().zip(chunk).for_each(|(l, &v)| *l = v * factor);
        lanes
    }));
}

#[inline(always)]
fn fold(s: &[f32; LANES]) -> f32 {
    let half: [f32; 8] = std::array::from_fn(|i| s[i] + s[i + 8]);
    let quarter: [f32; 4] = std::array::from_fn(|i| half[i] + half[i + 4]);
    (quarter[0] + quarter[2]) + (quarter[1] + quarter[3])
}

/// One trial at scale 1 / `inverse` with codes clipped to `lo..=hi` around zero, plainly. No importance: empty.
fn trial_ref(values: &[[f32; LANES]], importance: &[[f32; LANES]], inverse: f32, lo: f32, hi: f32) -> Sums {
    let (mut dd, mut dr, mut rr) = ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
    for (c, chunk) in values.iter().enumerate() {
        for (l, v) in chunk.iter().enumerate() {
            let t = v * inverse;
            let r = t.round_ties_even().clamp(lo, hi);
            let d = t - r;
            let i = importance.get(c).map_or(1.0, |i| i[l]);
            dd[l] += d * d * i;
            dr[l] += d * r * i;
            rr[l] += r * r * i;
        }
    }
    Sums { dd: fold(&dd), dr: fold(&dr), rr: fold(&rr) }
}

/// The same sums to the bit. Clipping first keeps the magnitude small enough for [`round_small`]; the bounds are
/// integers, so the order of clipping and rounding does not matter.
#[inline(always)]
fn trial(values: &[[f32; LANES]], importance: &[[f32; LANES]], inverse: f32, lo: f32, hi: f32) -> Sums {
    let (mut dd, mut dr, mut rr) = ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
    let mut add = |v: &[f32; LANES], i: &[f32; LANES]| {
        for l in 0..LANES {
            let t = v[l] * inverse;
            let r = round_small(t.max(lo).min(hi));
            let d = t - r;
            dd[l] += d * d * i[l];
            dr[l] += d * r * i[l];
            rr[l] += r * r * i[l];
        }
    };
    if importance.is_empty() {
        values.iter().for_each(|v| add(v, &[1.0; LANES]));
    } else {
        values.iter().zip(importance).for_each(|(v, i)| add(v, i));
    }
    Sums { dd: fold(&dd), dr: fold(&dr), rr: fold(&rr) }
}

/// The best trial for a block with range `lo..=hi` (both already normalized, not both zero).
#[inline(always)]
fn search(
    scratch: &Scratch,
    (lo, hi): (f32, f32),
    spec: &Spec,
    trial: impl Fn(&[[f32; LANES]], &[[f32; LANES]], f32, f32, f32) -> Sums,
) -> (f32, f32) {
    let (top, center) = (f32::from(spec.bits.max_code()), f32::from(spec.bits.center()));
    let look =
        |scale: f32, zero: f32| trial(&scratch.values, &scratch.importance, 1.0 / scale, -zero, top - zero);
    let (first, last, steps) = ladder(spec.bits);
    let base = match spec.zero {
        Zero::PerBlock => (hi - lo) / top,
        Zero::Center => (hi / (top - center)).max(-lo / center),
    };
    let mut best = Best { error: f32::INFINITY, scale: base, zero: center };
    let step = (last - first) / (steps - 1) as f32;
    for i in 0..steps {
        let scale = base * (first + step * i as f32);
        if spec.zero == Zero::Center {
            best.offer(look(scale, center), scale, center);
            continue;
        }
        // Centre the window of codes on the range: (−zero + top − zero) / 2 = mid / scale.
        let zero = ((top - (hi + lo) / scale) * 0.5).floor().max(0.0).min(top - 1.0);
        best.offer(look(scale, zero), scale, zero);
        best.offer(look(scale, zero + 1.0), scale, zero + 1.0);
    }
    for _ in 0..POLISH {
        let (scale, zero) = (best.scale, best.zero);
        if !best.offer(look(scale, zero), scale, zero) {
            break;
        }
    }
    (best.scale, best.zero)
}

#[inline(always)]
fn search_body(scratch: &Scratch, range: (f32, f32), spec: &Spec) -> (f32, f32) {
    search(scratch, range, spec, trial)
}

per_isa! { fn search_fast(scratch: &Scratch, range: (f32, f32), spec: &Spec) -> (f32, f32) = search_body }

fn search_ref(scratch: &Scratch, range: (f32, f32), spec: &Spec) -> (f32, f32) {
    search(scratch, range, spec, trial_ref)
}

/// Grid of one block: the searched one, or min/max if that loses no more at the scales as stored.
fn choose(
    block: &[f32],
    importance: Option<&[f32]>,
    spec: &Spec,
    scratch: &mut Scratch,
    search: impl Fn(&Scratch, (f32, f32), &Spec) -> (f32, f32),
) -> BlockGrid {
    let (lo, hi) = range(block);
    if lo == 0.0 && hi == 0.0 {
        return BlockGrid::of_zeros(spec);
    }
    let exponent = (hi.max(-lo).to_bits() >> 23) as i32 - 127;
    let factor = 2f32.powi((-exponent).clamp(-126, 126));
    scratch.load(block, importance, factor);
    let plain = min_max(block, spec);
    let (scale, zero) = search(scratch, (lo * factor, hi * factor), spec);
    let searched = BlockGrid::new(spec, f64::from(scale) / f64::from(factor), |_| zero as u8);
    let top = f32::from(spec.bits.max_code());
    let error = |g: &BlockGrid| {
        let (scale, zero) = (f64::from(g.scale) * f64::from(factor), f32::from(g.zero));
        let sums = trial(&scratch.values, &scratch.importance, (1.0 / scale) as f32, -zero, top - zero);
        f64::from(sums.dd) * scale * scale
    };
    if error(&searched) < error(&plain) { searched } else { plain }
}

/// Searches single blocks, for methods that choose grids as they go.
#[derive(Debug, Default)]
pub(crate) struct Searcher(Scratch);

impl Searcher {
    /// The best grid of a block; `importance` has one weight ≥ 0 per element.
    pub fn choose(&mut self, block: &[f32], importance: Option<&[f32]>, spec: &Spec) -> BlockGrid {
        choose(block, importance, spec, &mut self.0, search_fast)
    }
}

fn run(
    weight: &Weight<'_>,
    spec: &Spec,
    importance: Option<&[f32]>,
    search: impl Fn(&Scratch, (f32, f32), &Spec) -> (f32, f32) + Sync,
) -> Result<Quantized, WeightError> {
    check_importance(importance, weight.cols())?;
    let top = spec.bits.max_code();
    by_block(weight, spec, Method::RtnSearch, Scratch::default, |scratch, first, w, codes| {
        let grid = choose(w, importance.map(|i| &i[first..first + w.len()]), spec, scratch, &search);
        encode(w, &grid, top, codes);
        grid
    })
}

/// Searches scale and zero point of every block. `importance` has one weight ≥ 0 per column (mean x²), or is left out;
/// a block whose columns have no importance at all is searched without.
pub fn rtn_search(
    weight: &Weight<'_>,
    spec: &Spec,
    importance: Option<&[f32]>,
) -> Result<Quantized, WeightError> {
    run(weight, spec, importance, search_fast)
}

/// [`rtn_search`] written plainly; gives the same bits.
pub fn rtn_search_ref(
    weight: &Weight<'_>,
    spec: &Spec,
    importance: Option<&[f32]>,
) -> Result<Quantized, WeightError> {
    run(weight, spec, importance, search_ref)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::round::ScaleType;
    use crate::weight::Block;
    use crate::weight::rtn::rtn;
    use crate::weight::testing::{gaussian, relative_error};

    #[test]
    fn equals_its_reference() {
        for (rows, cols, block, seed) in [(5, 64, 32, 1), (3, 100, 32, 2), (2, 37, 256, 3), (4, 16, 16, 4)] {
            let w = gaussian(rows * cols, seed);
            let weight = Weight::from_kn(&w[..], rows, cols).unwrap();
            let importance: Vec<f32> = gaussian(cols, seed + 9).iter().map(|v| v * v).collect();
            for bits in [Bits::Two, Bits::Three, Bits::Four, Bits::Eight] {
                for zero in [Zero::Center, Zero::PerBlock] {
                    for i in [None, Some(&importance[..])] {
                        let spec = Spec { bits, block: Block::Columns(block), zero, scale: ScaleType::F32 };
                        let fast = rtn_search(&weight, &spec, i).unwrap();
                        assert_eq!(fast, rtn_search_ref(&weight, &spec, i).unwrap());
                    }
                }
            }
        }
    }

    #[test]
    fn errors_on_gaussian_weights() {
        // Exhaustive search finds 0.0766 and min/max 0.0807 on other random numbers; ±0.0006 covers the spread of 64k
        // samples. Symmetric codes with positive scales have only 7 steps for a positive extreme: 0.0862 measured.
        let w = gaussian(64 * 1024, 7);
        let weight = Weight::from_rows(&w[..], 64, 1024).unwrap();
        let error = |q: &Quantized| relative_error(&w, &q.dequantize());
        let searched = error(&rtn_search(&weight, &Spec::int4(32), None).unwrap());
        assert!(searched < 0.0774, "{searched}");
        let symmetric = error(&rtn_search(&weight, &Spec::int4(32).symmetric(), None).unwrap());
        assert!(symmetric < 0.0870, "{symmetric}");
        let plain = error(&rtn(&weight, &Spec::int4(32)).unwrap());
        assert!((0.0802..0.0814).contains(&plain), "{plain}");
    }

    #[test]
    fn never_worse_than_min_max() {
        for scale in [ScaleType::F32, ScaleType::F16] {
            for (block, seed) in [(1, 1), (3, 2), (16, 3), (32, 4), (256, 5)] {
                let mut w = gaussian(512, seed);
                w[100..140].iter_mut().for_each(|v| *v = v.abs() + 1.0); // one-signed blocks
                w[200..232].fill(0.0);
                w[300] = 300.0;
                let weight = Weight::from_rows(&w[..], 2, 256).unwrap();
                for bits in [Bits::Two, Bits::Four, Bits::Eight] {
                    let spec = Spec { bits, block: Block::Columns(block), zero: Zero::PerBlock, scale };
                    let of = |q: &Quantized| q.squared_error(&weight, None).unwrap();
                    let (searched, plain) = (rtn_search(&weight, &spec, None), rtn(&weight, &spec));
                    let (searched, plain) = (of(&searched.unwrap()), of(&plain.unwrap()));
                    // Sums are f32: 1e-5 of the plain error is their rounding. A block of one is exact either way.
                    assert!(searched <= plain * (1.0 + 1e-5) + 1e-12, "{block} {bits:?}: {searched} {plain}");
                }
            }
        }
    }

    #[test]
    fn importance_moves_the_error_to_unimportant_columns() {
        let w = gaussian(64 * 32, 3);
        let weight = Weight::from_rows(&w[..], 64, 32).unwrap();
        let importance: Vec<f32> = (0..32).map(|k| if k < 4 { 100.0 } else { 1.0 }).collect();
        let of = |i: Option<&[f32]>| {
            rtn_search(&weight, &Spec::int4(32), i)
                .unwrap()
                .squared_error(&weight, Some(&importance))
                .unwrap()
        };
        assert!(of(Some(&importance)) < 0.8 * of(None)); // 0.64 measured
        assert_eq!(
            rtn_search(&weight, &Spec::int4(32), Some(&[0.0; 32])).unwrap(),
            rtn_search(&weight, &Spec::int4(32), None).unwrap()
        );
        assert!(rtn_search(&weight, &Spec::int4(32), Some(&[1.0; 31])).is_err());
        assert!(rtn_search(&weight, &Spec::int4(32), Some(&[-1.0; 32])).is_err());
        assert!(rtn_search(&weight, &Spec::int4(32), Some(&[f32::NAN; 32])).is_err());
    }

    #[test]
    fn extreme_magnitudes() {
        for magnitude in [1e-44f32, 1e-38, 1e-20, 1e30, 3e38] {
            let w: Vec<f32> = gaussian(64, 5).iter().map(|v| v * 0.2 * magnitude).collect();
            let weight = Weight::from_rows(&w[..], 2, 32).unwrap();
            let q = rtn_search(&weight, &Spec::int4(32), None).unwrap();
            assert!(q.scales.iter().all(|s| s.is_normal() && *s > 0.0), "{magnitude}");
            assert!(q.dequantize().iter().all(|v| v.is_finite()));
            if magnitude > 1e-30 {
                assert!(relative_error(&w, &q.dequantize()) < 0.1); // 0.077 ± the spread of two blocks
            }
        }
    }
}
