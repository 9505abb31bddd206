//! `rtn`: round to nearest on the grid of each block's minimum and maximum. The plain baseline.
//!
//! Per block, with zero always included in the range:
//! - zero point per block: scale = (max − min) / max_code, zero = round(−min / scale);
//! - symmetric: the least scale that clips nothing, max(max / (max_code − center), −min / center). It is positive
//!   (onnxruntime's is max/−8, negative whenever the extreme is positive, which TensorRT refuses).
//! - only zeros: scale 1, codes and zero point at the centre.
//!
//! Codes are chosen for the scale as it will be stored (f32, f16 or bf16).

use rayon::prelude::*;

use super::isa::per_isa;
use super::{Method, Note, Quantized, Spec, Weight, WeightError, Zero};
use crate::round::{ScaleType, round_small};

/// Rows that are read and quantized together: enough that a `[K, N]` weight of f16 is read in whole cache lines.
const PANEL: usize = 32;

/// Scale and zero point of one block, and what had to be done for them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BlockGrid {
    pub scale: f32,
    pub zero: u8,
    pub zeros_only: bool,
    pub scale_moved: bool,
}

impl BlockGrid {
    /// The grid of a block of zeros.
    pub fn of_zeros(spec: &Spec) -> Self {
        Self { scale: 1.0, zero: spec.bits.center(), zeros_only: true, scale_moved: false }
    }

    /// Rounds `ideal` to the type of the scales; `zero` then sees the rounded scale. The scale is lowered where a code
    /// would stand for an infinite value.
    pub fn new(spec: &Spec, ideal: f64, zero: impl FnOnce(f64) -> u8) -> Self {
        let mut scale = spec.scale.round(ideal).unwrap_or(spec.scale.min_scale());
        let zero = zero(f64::from(scale));
        let reach = f64::from(zero.max(spec.bits.max_code() - zero));
        let limit =
            f64::from(if spec.scale == ScaleType::F16 { ScaleType::F16.max_scale() } else { f32::MAX });
        if f64::from(scale) * reach > limit {
            // 1/256 below the limit, so that rounding to any of the types stays below it.
            scale = spec.scale.round(limit / reach * (255.0 / 256.0)).unwrap_or(scale);
            if f64::from(scale) * reach > limit {
                scale *= 0.5; // powers of two round up
            }
        }
        let moved = ideal < f64::from(spec.scale.min_scale()) || f64::from(scale) < ideal * 0.99;
        Self { scale, zero, zeros_only: false, scale_moved: moved }
    }
}

/// Least and greatest of a block and zero.
pub(crate) fn range(block: &[f32]) -> (f32, f32) {
    block.iter().fold((0.0f32, 0.0f32), |(lo, hi), &v| (lo.min(v), hi.max(v)))
}

/// The min/max grid of a block.
pub(crate) fn min_max(block: &[f32], spec: &Spec) -> BlockGrid {
    min_max_of(range(block), spec)
}

/// The min/max grid of a range that holds zero.
pub(crate) fn min_max_of((lo, hi): (f32, f32), spec: &Spec) -> BlockGrid {
    if lo == 0.0 && hi == 0.0 {
        return BlockGrid::of_zeros(spec);
    }
    let (lo, hi) = (f64::from(lo), f64::from(hi));
    let (top, center) = (f64::from(spec.bits.max_code()), f64::from(spec.bits.center()));
    match spec.zero {
        Zero::Center => BlockGrid::new(spec, (hi / (top - center)).max(-lo / center), |_| spec.bits.center()),
        Zero::PerBlock => {
            BlockGrid::new(spec, (hi - lo) / top, |s| (-lo / s).round_ties_even().clamp(0.0, top) as u8)
        }
    }
}

/// Rounds a block to its grid: clip(round_half_even(w / scale) + zero), the quotient in f32 as QuantizeLinear's.
/// Clipping first (to integers) changes nothing and keeps the magnitude small enough for [`round_small`].
#[inline(always)]
fn encode_body(block: &[f32], grid: &BlockGrid, max_code: u8, codes: &mut [u8]) {
    let zero = f32::from(grid.zero);
    let (lo, hi) = (-zero, f32::from(max_code) - zero);
    for (code, &w) in codes.iter_mut().zip(block) {
        // A quotient of finite numbers is no NaN, so plain comparisons do what `max` and `min` do.
        let quotient = w / grid.scale;
        let quotient = if quotient > lo { quotient } else { lo };
        let r = round_small(if quotient < hi { quotient } else { hi }) + zero;
        // SAFETY: r is an integer in 0..=max_code.
        *code = unsafe { r.to_int_unchecked::<i32>() } as u8;
    }
}

per_isa! {
    /// The codes of a block on its grid.
    pub(crate) fn encode(block: &[f32], grid: &BlockGrid, max_code: u8, codes: &mut [u8]) = encode_body
}

/// [`encode`] written plainly.
#[cfg(test)]
fn encode_ref(block: &[f32], grid: &BlockGrid, max_code: u8, codes: &mut [u8]) {
    for (code, &w) in codes.iter_mut().zip(block) {
        let code_of = (w / grid.scale).round_ties_even() + f32::from(grid.zero);
        *code = code_of.clamp(0.0, f32::from(max_code)) as u8;
    }
}

/// A few whole rows of a weight, and where their result goes.
pub(crate) struct Panel<'a> {
    /// K
    pub cols: usize,
    /// Columns of a block.
    pub block: usize,
    /// `[rows, K]`
    pub weights: &'a [f32],
    /// `[rows, K]`, to be filled.
    pub codes: &'a mut [u8],
    scales: &'a mut [f32],
    zeros: &'a mut [u8],
    /// Blocks of zeros, and blocks whose scale was moved.
    pub counts: (usize, usize),
}

impl Panel<'_> {
    /// How many rows.
    pub fn rows(&self) -> usize {
        self.weights.len() / self.cols
    }

    /// The grid of a block of a row.
    pub fn set(&mut self, row: usize, block: usize, grid: BlockGrid) {
        let at = row * self.cols.div_ceil(self.block) + block;
        (self.scales[at], self.zeros[at]) = (grid.scale, grid.zero);
        self.counts.0 += usize::from(grid.zeros_only);
        self.counts.1 += usize::from(grid.scale_moved);
    }
}

/// Quantizes panels of [`PANEL`] rows. `work` fills one (given a scratch made by `scratch`) and returns its counts.
pub(crate) fn by_panel<S>(
    weight: &Weight<'_>,
    spec: &Spec,
    method: Method,
    scratch: impl Fn() -> S + Sync + Send,
    work: impl Fn(&mut S, Panel<'_>) -> (usize, usize) + Sync,
) -> Result<Quantized, WeightError> {
    let mut out = Quantized::new(*spec, weight, method)?;
    let (cols, block, per_row) = (out.cols, out.block, out.blocks_per_row());
    let mut unused = vec![0u8; if out.zero_points.is_none() { out.scales.len() } else { 0 }];
    let zeros = out.zero_points.as_mut().unwrap_or(&mut unused);
    let counts: Result<Vec<(usize, usize)>, WeightError> = out
        .codes
        .par_chunks_mut(PANEL * cols)
        .zip(out.scales.par_chunks_mut(PANEL * per_row))
        .zip(zeros.par_chunks_mut(PANEL * per_row))
        .enumerate()
        .map_init(
            || (vec![0.0; PANEL.min(weight.rows()) * cols], scratch()),
            |(weights, scratch), (p, ((codes, scales), zeros))| {
                let weights = &mut weights[..codes.len()];
                weight.panel(p * PANEL, weights)?;
                Ok(work(scratch, Panel { cols, block, weights, codes, scales, zeros, counts: (0, 0) }))
            },
        )
        .collect();
    let (zeros_only, moved) = counts?.iter().fold((0, 0), |a, c| (a.0 + c.0, a.1 + c.1));
    out.provenance.notes.extend((zeros_only > 0).then_some(Note::ZeroBlocks(zeros_only)));
    out.provenance.notes.extend((moved > 0).then_some(Note::ScaleOutOfType(moved)));
    Ok(out)
}

/// Quantizes each block on its own: `choose` finds the grid and writes the codes of one block (given its first
/// column and a scratch made by `scratch`).
pub(crate) fn by_block<S>(
    weight: &Weight<'_>,
    spec: &Spec,
    method: Method,
    scratch: impl Fn() -> S + Sync + Send,
    choose: impl Fn(&mut S, usize, &[f32], &mut [u8]) -> BlockGrid + Sync,
) -> Result<Quantized, WeightError> {
    by_panel(weight, spec, method, scratch, |scratch, mut panel| {
        for row in 0..panel.rows() {
            for (b, first) in (0..panel.cols).step_by(panel.block).enumerate() {
                let end = (first + panel.block).min(panel.cols);
                let at = row * panel.cols + first..row * panel.cols + end;
                let grid = choose(scratch, first, &panel.weights[at.clone()], &mut panel.codes[at]);
                panel.set(row, b, grid);
            }
        }
        panel.counts
    })
}

/// Round to nearest on min/max grids.
pub fn rtn(weight: &Weight<'_>, spec: &Spec) -> Result<Quantized, WeightError> {
    let top = spec.bits.max_code();
    by_block(
        weight,
        spec,
        Method::Rtn,
        || (),
        |(), _, w, codes| {
            let grid = min_max(w, spec);
            encode(w, &grid, top, codes);
            grid
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::testing::gaussian;
    use crate::weight::{Bits, Block};

    fn one_row(w: &[f32], spec: Spec) -> Quantized {
        rtn(&Weight::from_rows(w, 1, w.len()).unwrap(), &spec).unwrap()
    }

    #[test]
    fn known_blocks() {
        // [min, max, ...] on 0..=15: scale 1 by construction, so every number can be read off.
        let q = one_row(&[-5.0, 10.0, 0.0, 0.5, 1.5, -0.5, 2.6, 9.9], Spec::int4(8));
        assert_eq!((q.scales[0], q.zero_point(0)), (1.0, 5));
        assert_eq!(q.codes, [0, 15, 5, 5, 7, 5, 8, 15]); // ties to even
        let q = one_row(&[-8.0, 7.0, 3.2], Spec::int4(16).symmetric());
        assert_eq!((q.scales[0], &q.zero_points), (1.0, &None));
        assert_eq!(q.codes, [0, 15, 11]);
        // The extreme is positive: the scale still is, and nothing is clipped.
        let q = one_row(&[7.0, -1.0], Spec::int4(16).symmetric());
        assert_eq!((q.scales[0], q.codes), (1.0, vec![15, 7]));
    }

    #[test]
    fn codes_equal_their_reference() {
        let w: Vec<f32> =
            gaussian(301, 8).into_iter().chain([f32::MAX, f32::MIN, 0.5, 1.5, -2.5, 1e-40]).collect();
        for scale in [1.0, 0.3, 1e-30, f32::MIN_POSITIVE, 1e30] {
            for (max_code, zero) in [(15, 0), (15, 7), (3, 3), (255, 128)] {
                let grid = BlockGrid { scale, zero, zeros_only: false, scale_moved: false };
                let (mut fast, mut plain) = (vec![0; w.len()], vec![0; w.len()]);
                encode(&w, &grid, max_code, &mut fast);
                encode_ref(&w, &grid, max_code, &mut plain);
                assert_eq!(fast, plain);
            }
        }
    }

    #[test]
    fn degenerate_blocks() {
        let q = one_row(&[0.0; 5], Spec::int4(4));
        assert_eq!((&q.scales, &q.codes), (&vec![1.0, 1.0], &vec![8; 5]));
        assert_eq!(q.provenance.notes, [Note::ZeroBlocks(2)]);
        // One-signed blocks keep zero in range and stay within half a step (onnxruntime's vendored RTN: 0.5 wrong).
        let q = one_row(&[0.5, 1.0, 0.75], Spec::int4(16));
        let worst =
            q.dequantize().iter().zip([0.5, 1.0, 0.75]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 0.5 / 15.0 + 1e-7, "{worst}"); // half a step of 1/15
        let q = one_row(&[-0.5, -1.0], Spec::int4(16));
        assert_eq!((q.zero_point(0), q.codes[1]), (15, 0));
        // Extremes of f32: scales stay finite, positive and normal.
        let q = one_row(&[f32::MAX, f32::MIN, 1e-42, -1e-42], Spec::int4(2));
        assert!(q.scales.iter().all(|s| s.is_normal() && *s > 0.0));
        assert_eq!(q.provenance.notes, [Note::ScaleOutOfType(2)]);
        assert!(q.dequantize().iter().all(|v| v.is_finite()));
        let q = one_row(&[3.0], Spec::int4(32));
        assert_eq!(q.dequantize(), [3.0]);
    }

    #[test]
    fn codes_fit_the_stored_scale() {
        let w: Vec<f32> = (0..64).map(|i| ((i * 37 % 64) as f32 - 31.3) * 0.0137).collect();
        for scale in [ScaleType::F16, ScaleType::Bf16] {
            let q = one_row(&w, Spec { scale, ..Spec::int4(32) });
            assert!(q.scales.iter().all(|&s| scale.round(f64::from(s)) == Some(s)));
            for (b, (w, v)) in w.chunks(32).zip(q.dequantize().chunks(32)).enumerate() {
                // Half a step, and half a step more where rounding the scale down or the zero point clips an end.
                assert!(w.iter().zip(v).all(|(a, b_)| (a - b_).abs() <= 1.01 * q.scales[b]));
            }
        }
    }

    #[test]
    fn widths_blocks_and_sizes() {
        let w: Vec<f32> = (0..7 * 33).map(|i| (i as f32 * 0.7).sin()).collect();
        let weight = Weight::from_kn(&w[..], 7, 33).unwrap();
        for bits in [Bits::Two, Bits::Three, Bits::Four, Bits::Eight] {
            for block in [Block::Columns(16), Block::Columns(256), Block::Row] {
                for zero in [Zero::Center, Zero::PerBlock] {
                    let q = rtn(&weight, &Spec { bits, block, zero, scale: ScaleType::F32 }).unwrap();
                    assert!(q.codes.iter().all(|&c| c <= bits.max_code()));
                    assert_eq!(q.scales.len(), 7 * q.blocks_per_row());
                    let half_step = q.scales.iter().fold(0.0, |a: f32, &s| a.max(s));
                    let exact = weight.to_f32().unwrap();
                    // One step: half from rounding, half from rounding the zero point.
                    assert!(
                        q.dequantize().iter().zip(&exact).all(|(a, b)| (a - b).abs() <= half_step * 1.001)
                    );
                }
            }
        }
        assert!(rtn(&weight, &Spec { block: Block::Columns(0), ..Spec::int4(1) }).is_err());
    }

    #[test]
    fn the_same_bytes_for_any_thread_count() {
        let w: Vec<f32> = (0..100 * 70).map(|i| (i as f32 * 1.3).sin()).collect();
        let weight = Weight::from_rows(&w[..], 100, 70).unwrap();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| rtn(&weight, &Spec::int4(32)).unwrap())
        };
        assert_eq!(run(1), run(3));
    }
}
