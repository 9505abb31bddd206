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

mod batch;
mod ladder;
mod lanes;
mod plain;

use super::rtn::{BlockGrid, Panel, by_panel, encode, min_max_of};
use super::{Method, Quantized, Spec, Weight, WeightError, check_importance};
use batch::{Batch, Blocks, LANES, Lanes};
use ladder::{Best, Ladder};
use lanes::FAST;
use plain::PLAIN;

/// How a batch is searched and judged.
#[derive(Clone, Copy)]
struct Kernel {
    search: fn(&Batch, &Ladder) -> [Best; LANES],
    errors: fn(&Batch, &Lanes, &Lanes, f32) -> Lanes,
}

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
    use crate::weight::rtn::rtn;
    use crate::weight::testing::{gaussian, relative_error};
    use crate::weight::{Bits, Block, Zero};

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
