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
//!
//! **Speed.** Sixteen blocks of sixteen rows are searched side by side, one in each lane of the registers, so nothing is
//! ever summed across lanes and each lane does exactly what the plain reference does with one block. Products and sums are
//! fused ([`f32::mul_add`]) in both.

use super::isa::per_isa;
use super::rtn::{BlockGrid, Panel, by_panel, encode, min_max_of};
use super::{Bits, Method, Quantized, Spec, Weight, WeightError, Zero, check_importance};
use crate::round::MAGIC;

/// Blocks that are searched side by side.
const LANES: usize = 16;

/// One number for each block of a batch.
type Lanes = [f32; LANES];

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

/// Blocks of equal length, as the search sees them: each times a power of two that brings its largest magnitude into
/// [1, 2), column by column.
#[derive(Debug, Default)]
struct Batch {
    values: Vec<Lanes>,
    importance: Vec<f32>,
    /// Least and greatest number of each block, and zero.
    lo: Lanes,
    hi: Lanes,
    factor: Lanes,
}

/// Where blocks of `length` numbers are: each starts `stride` after the one before.
#[derive(Clone, Copy)]
struct Blocks<'a> {
    data: &'a [f32],
    stride: usize,
    count: usize,
    length: usize,
}

impl Batch {
    /// Only ratios of an importance count; its sums are kept in range whatever its unit. All zeros: none.
    fn weigh(&mut self, importance: Option<&[f32]>) {
        self.importance.clear();
        if let Some(i) = importance {
            let largest = i.iter().fold(0.0f32, |a, &v| a.max(v));
            if largest > 0.0 {
                self.importance.extend(i.iter().map(|v| v * (1.0 / largest)));
            }
        }
    }

    /// Lanes without a block hold zeros.
    fn load(&mut self, blocks: Blocks<'_>) {
        self.values.clear();
        self.values.resize(blocks.length, [0.0; LANES]);
        for (lane, block) in blocks.data.chunks(blocks.stride.max(1)).take(blocks.count).enumerate() {
            for (values, &v) in self.values.iter_mut().zip(block) {
                values[lane % LANES] = v;
            }
        }
        normalize(self);
    }
}

/// The larger, where neither is NaN: `f32::max` also looks for NaN.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The smaller, where neither is NaN.
#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

#[inline(always)]
fn normalize_body(batch: &mut Batch) {
    let (mut lo, mut hi) = ([0.0f32; LANES], [0.0f32; LANES]);
    for v in &batch.values {
        for l in 0..LANES {
            lo[l] = smaller(v[l], lo[l]);
            hi[l] = larger(v[l], hi[l]);
        }
    }
    let mut factor = [1.0; LANES];
    for l in 0..LANES {
        factor[l] = normal(lo[l], hi[l]);
    }
    for v in &mut batch.values {
        for l in 0..LANES {
            v[l] *= factor[l];
        }
    }
    (batch.lo, batch.hi, batch.factor) = (lo, hi, factor);
}

per_isa! { fn normalize(batch: &mut Batch) = normalize_body }

/// The power of two that brings the larger magnitude into [1, 2), as far as it is a normal number.
#[inline(always)]
fn normal(lo: f32, hi: f32) -> f32 {
    let exponent = (larger(hi, -lo).to_bits() >> 23) as i32 - 127;
    let inverse = (-exponent).clamp(-126, 126);
    f32::from_bits(((inverse + 127) as u32) << 23)
}

/// Σ d², Σ d·r, Σ r² of a trial, all in units of the scale.
#[derive(Debug, Clone, Copy)]
struct Sums {
    dd: f32,
    dr: f32,
    rr: f32,
}

impl Sums {
    const ZERO: Self = Self { dd: 0.0, dr: 0.0, rr: 0.0 };

    /// Error at the best scale, given the trial scale.
    #[inline(always)]
    fn error(self, scale: f32) -> f32 {
        let gain = if self.rr > 0.0 { self.dr * self.dr / self.rr } else { 0.0 };
        scale * scale * larger(self.dd - gain, 0.0)
    }

    /// The best scale for the trial's codes.
    #[inline(always)]
    fn best_scale(self, scale: f32) -> f32 {
        if self.rr > 0.0 { scale * (1.0 + self.dr / self.rr) } else { scale }
    }
}

/// The best trial so far.
#[derive(Debug, Clone, Copy)]
struct Best {
    error: f32,
    scale: f32,
    zero: f32,
}

impl Best {
    /// The better of this and the trial; the trial only if it loses less.
    #[inline(always)]
    fn or(self, sums: Sums, scale: f32, zero: f32) -> Best {
        let trial = Best { error: sums.error(scale), scale: sums.best_scale(scale), zero };
        if trial.error < self.error { trial } else { self }
    }
}

/// What the search of one kind of spec goes through.
#[derive(Clone, Copy)]
struct Ladder {
    top: f32,
    center: f32,
    /// Zero points per block.
    free: bool,
    first: f32,
    step: f32,
    steps: usize,
}

impl Ladder {
    fn new(spec: &Spec) -> Ladder {
        let (first, last, steps) = ladder(spec.bits);
        let (top, center) = (f32::from(spec.bits.max_code()), f32::from(spec.bits.center()));
        let step = (last - first) / (steps - 1) as f32;
        Ladder { top, center, free: spec.zero == Zero::PerBlock, first, step, steps }
    }

    /// The min/max scale of a block; 1 for a block of zeros, whose search finds nothing.
    #[inline(always)]
    fn base(&self, lo: f32, hi: f32) -> f32 {
        let base = if self.free {
            (hi - lo) / self.top
        } else {
            larger(hi / (self.top - self.center), -lo / self.center)
        };
        if base > 0.0 { base } else { 1.0 }
    }

    /// The lower of the two zero points to try at a scale: the window of codes is centred on the range,
    /// (−zero + top − zero) / 2 = mid / scale.
    #[inline(always)]
    fn zero(&self, lo: f32, hi: f32, scale: f32) -> f32 {
        if !self.free {
            return self.center;
        }
        smaller(larger(((self.top - (hi + lo) / scale) * 0.5).floor(), 0.0), self.top - 1.0)
    }
}

/// One trial at scale 1 / `inverse` with codes clipped to `lo..=hi` around zero, plainly: the quotient is rounded once, half
/// to even. Its product is exact in f64.
fn trial_ref(values: &[f32], importance: &[f32], inverse: f32, lo: f32, hi: f32) -> Sums {
    let mut sums = Sums::ZERO;
    for (k, &v) in values.iter().enumerate() {
        let r = ((f64::from(v) * f64::from(inverse)).round_ties_even() as f32).clamp(lo, hi);
        let d = v.mul_add(inverse, -r);
        let (di, ri) = importance.get(k).map_or((d, r), |i| (d * i, r * i));
        sums.dd = di.mul_add(d, sums.dd);
        sums.dr = di.mul_add(r, sums.dr);
        sums.rr = ri.mul_add(r, sums.rr);
    }
    sums
}

/// The search of one block, plainly. `values` and range are normalized.
fn search_ref(values: &[f32], importance: &[f32], lo: f32, hi: f32, ladder: &Ladder) -> Best {
    let look = |scale: f32, zero: f32| trial_ref(values, importance, 1.0 / scale, -zero, ladder.top - zero);
    let base = ladder.base(lo, hi);
    let mut best = Best { error: f32::INFINITY, scale: base, zero: ladder.center };
    for i in 0..ladder.steps {
        let scale = base * (ladder.first + ladder.step * i as f32);
        let zero = ladder.zero(lo, hi, scale);
        best = best.or(look(scale, zero), scale, zero);
        if ladder.free {
            best = best.or(look(scale, zero + 1.0), scale, zero + 1.0);
        }
    }
    for _ in 0..POLISH {
        best = best.or(look(best.scale, best.zero), best.scale, best.zero);
    }
    best
}

/// The sums of a trial in every lane.
#[derive(Clone, Copy)]
struct LaneSums {
    dd: Lanes,
    dr: Lanes,
    rr: Lanes,
}

impl LaneSums {
    #[inline(always)]
    fn at(&self, l: usize) -> Sums {
        Sums { dd: self.dd[l], dr: self.dr[l], rr: self.rr[l] }
    }
}

/// `Z` trials of neighbouring zero points in every lane, equal to [`trial_ref`] to the bit: adding [`MAGIC`] in a fused
/// product rounds it to an integer, once and half to even, and clipping an integer before or after taking it away again is
/// the same (what is too large to be rounded exactly is clipped anyway).
#[inline(always)]
fn trials<const Z: usize, const WEIGHTED: bool>(
    batch: &Batch,
    inverse: &Lanes,
    zero: &Lanes,
    top: f32,
) -> [LaneSums; Z] {
    let mut sums = [LaneSums { dd: [0.0; LANES], dr: [0.0; LANES], rr: [0.0; LANES] }; Z];
    let (mut lo, mut hi) = ([[0.0; LANES]; Z], [[0.0; LANES]; Z]);
    for z in 0..Z {
        for l in 0..LANES {
            lo[z][l] = MAGIC - (zero[l] + z as f32);
            hi[z][l] = MAGIC + (top - (zero[l] + z as f32));
        }
    }
    for (k, v) in batch.values.iter().enumerate() {
        let i = if WEIGHTED { batch.importance[k] } else { 1.0 };
        for l in 0..LANES {
            let rounded = v[l].mul_add(inverse[l], MAGIC);
            for z in 0..Z {
                let r = smaller(larger(rounded, lo[z][l]), hi[z][l]) - MAGIC;
                let d = v[l].mul_add(inverse[l], -r);
                let (di, ri) = if WEIGHTED { (d * i, r * i) } else { (d, r) };
                let s = &mut sums[z];
                s.dd[l] = di.mul_add(d, s.dd[l]);
                s.dr[l] = di.mul_add(r, s.dr[l]);
                s.rr[l] = ri.mul_add(r, s.rr[l]);
            }
        }
    }
    sums
}

#[inline(always)]
fn search_lanes<const WEIGHTED: bool>(batch: &Batch, ladder: &Ladder) -> [Best; LANES] {
    let (mut lo, mut hi, mut base) = ([0.0; LANES], [0.0; LANES], [1.0; LANES]);
    let mut best = [Best { error: f32::INFINITY, scale: 1.0, zero: ladder.center }; LANES];
    for l in 0..LANES {
        (lo[l], hi[l]) = (batch.lo[l] * batch.factor[l], batch.hi[l] * batch.factor[l]);
        base[l] = ladder.base(lo[l], hi[l]);
        best[l].scale = base[l];
    }
    let (mut scale, mut inverse, mut zero) = ([1.0; LANES], [1.0; LANES], [0.0; LANES]);
    for i in 0..ladder.steps {
        let part = ladder.first + ladder.step * i as f32;
        for l in 0..LANES {
            scale[l] = base[l] * part;
            inverse[l] = 1.0 / scale[l];
            zero[l] = ladder.zero(lo[l], hi[l], scale[l]);
        }
        if ladder.free {
            let [a, b] = trials::<2, WEIGHTED>(batch, &inverse, &zero, ladder.top);
            for l in 0..LANES {
                best[l] = best[l].or(a.at(l), scale[l], zero[l]).or(b.at(l), scale[l], zero[l] + 1.0);
            }
        } else {
            let [a] = trials::<1, WEIGHTED>(batch, &inverse, &zero, ladder.top);
            for l in 0..LANES {
                best[l] = best[l].or(a.at(l), scale[l], zero[l]);
            }
        }
    }
    for _ in 0..POLISH {
        for l in 0..LANES {
            (inverse[l], zero[l]) = (1.0 / best[l].scale, best[l].zero);
        }
        let [a] = trials::<1, WEIGHTED>(batch, &inverse, &zero, ladder.top);
        for (l, best) in best.iter_mut().enumerate() {
            *best = best.or(a.at(l), best.scale, best.zero);
        }
    }
    best
}

#[inline(always)]
fn search_body(batch: &Batch, ladder: &Ladder) -> [Best; LANES] {
    match batch.importance.is_empty() {
        true => search_lanes::<false>(batch, ladder),
        false => search_lanes::<true>(batch, ladder),
    }
}

per_isa! { fn search_fast(batch: &Batch, ladder: &Ladder) -> [Best; LANES] = search_body }

/// Σ d² of a grid in every lane.
#[inline(always)]
fn errors_body(batch: &Batch, inverse: &Lanes, zero: &Lanes, top: f32) -> Lanes {
    let [sums] = match batch.importance.is_empty() {
        true => trials::<1, false>(batch, inverse, zero, top),
        false => trials::<1, true>(batch, inverse, zero, top),
    };
    sums.dd
}

per_isa! { fn errors_fast(batch: &Batch, inverse: &Lanes, zero: &Lanes, top: f32) -> Lanes = errors_body }

/// How a batch is searched and judged.
#[derive(Clone, Copy)]
struct Kernel {
    search: fn(&Batch, &Ladder) -> [Best; LANES],
    errors: fn(&Batch, &Lanes, &Lanes, f32) -> Lanes,
}

const FAST: Kernel = Kernel { search: search_fast, errors: errors_fast };

/// One lane after the other.
const PLAIN: Kernel = Kernel {
    search: |batch, ladder| {
        std::array::from_fn(|l| {
            let values: Vec<f32> = batch.values.iter().map(|v| v[l]).collect();
            let (lo, hi) = (batch.lo[l] * batch.factor[l], batch.hi[l] * batch.factor[l]);
            search_ref(&values, &batch.importance, lo, hi, ladder)
        })
    },
    errors: |batch, inverse, zero, top| {
        std::array::from_fn(|l| {
            let values: Vec<f32> = batch.values.iter().map(|v| v[l]).collect();
            trial_ref(&values, &batch.importance, inverse[l], -zero[l], top - zero[l]).dd
        })
    },
};

/// The grids of the loaded blocks: the searched one, or min/max if that loses no more at the scales as stored.
fn choose(batch: &Batch, spec: &Spec, kernel: Kernel) -> [BlockGrid; LANES] {
    let ladder = Ladder::new(spec);
    let found = (kernel.search)(batch, &ladder);
    let plain: [BlockGrid; LANES] = std::array::from_fn(|l| min_max_of((batch.lo[l], batch.hi[l]), spec));
    let searched: [BlockGrid; LANES] = std::array::from_fn(|l| match plain[l].zeros_only {
        true => plain[l],
        false => {
            let scale = f64::from(found[l].scale) / f64::from(batch.factor[l]);
            BlockGrid::new(spec, scale, |_| found[l].zero as u8)
        }
    });
    let error = |grids: &[BlockGrid; LANES]| {
        let scale: [f64; LANES] =
            std::array::from_fn(|l| f64::from(grids[l].scale) * f64::from(batch.factor[l]));
        let inverse = std::array::from_fn(|l| (1.0 / scale[l]) as f32);
        let zero = std::array::from_fn(|l| f32::from(grids[l].zero));
        let errors = (kernel.errors)(batch, &inverse, &zero, ladder.top);
        std::array::from_fn::<f64, LANES, _>(|l| f64::from(errors[l]) * scale[l] * scale[l])
    };
    let (a, b) = (error(&searched), error(&plain));
    std::array::from_fn(|l| if a[l] < b[l] { searched[l] } else { plain[l] })
}

/// Searches blocks for methods that choose grids as they go.
#[derive(Debug, Default)]
pub(crate) struct Searcher(Batch);

impl Searcher {
    /// The best grids of blocks of equal length, one after the other in `blocks`; `importance` has one weight ≥ 0 per element.
    /// `put` gets the number and the grid of each.
    pub fn choose(
        &mut self,
        blocks: &[f32],
        importance: &[f32],
        spec: &Spec,
        mut put: impl FnMut(usize, BlockGrid),
    ) {
        let length = importance.len();
        self.0.weigh(Some(importance));
        for (part, data) in blocks.chunks(length * LANES).enumerate() {
            let count = data.len() / length.max(1);
            self.0.load(Blocks { data, stride: length, count, length });
            for (l, grid) in choose(&self.0, spec, FAST).into_iter().take(count).enumerate() {
                put(part * LANES + l, grid);
            }
        }
    }
}

fn run(
    weight: &Weight<'_>,
    spec: &Spec,
    importance: Option<&[f32]>,
    kernel: Kernel,
) -> Result<Quantized, WeightError> {
    check_importance(importance, weight.cols())?;
    let top = spec.bits.max_code();
    by_panel(weight, spec, Method::RtnSearch, Batch::default, |batch, mut panel: Panel<'_>| {
        let (rows, cols, block) = (panel.rows(), panel.cols, panel.block);
        for (b, first) in (0..cols).step_by(block).enumerate() {
            let length = block.min(cols - first);
            batch.weigh(importance.map(|i| &i[first..first + length]));
            for row in (0..rows).step_by(LANES) {
                let count = LANES.min(rows - row);
                let data = &panel.weights[row * cols + first..];
                batch.load(Blocks { data, stride: cols, count, length });
                for (l, grid) in choose(batch, spec, kernel).into_iter().take(count).enumerate() {
                    let at = (row + l) * cols + first;
                    encode(&panel.weights[at..at + length], &grid, top, &mut panel.codes[at..at + length]);
                    panel.set(row + l, b, grid);
                }
            }
        }
        panel.counts
    })
}

/// Searches scale and zero point of every block. `importance` has one weight ≥ 0 per column (mean x²), or is left out;
/// a block whose columns have no importance at all is searched without.
pub fn rtn_search(
    weight: &Weight<'_>,
    spec: &Spec,
    importance: Option<&[f32]>,
) -> Result<Quantized, WeightError> {
    run(weight, spec, importance, FAST)
}

/// [`rtn_search`] written plainly; gives the same bits.
pub fn rtn_search_ref(
    weight: &Weight<'_>,
    spec: &Spec,
    importance: Option<&[f32]>,
) -> Result<Quantized, WeightError> {
    run(weight, spec, importance, PLAIN)
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
        // Lanes left empty, whole batches, more rows than a panel, a shorter last block, blocks longer than a row.
        let sizes = [(5, 64, 32, 1), (37, 100, 32, 2), (2, 37, 256, 3), (16, 16, 16, 4), (1, 1, 16, 5)];
        for (rows, cols, block, seed) in sizes {
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
