//! Scales of eight bits: s = step·a, a in 1..=255, one float step for a few rows (double quantization).
//!
//! Blocks of 32 with float32 scales and 4-bit zero points take 4 + 1 + 0.125 bits a weight; with scales of eight bits
//! 4 + 0.25 + 0.125 and the steps, which is less than Q4_K's 4.5. Float offsets ([`Affine`]) become eight bits too, and
//! take 4 + 0.25 + 0.25. Runtimes compute both by a DequantizeLinear of the integers when they load the model.
//!
//! Scales of one row differ by a small factor, so a step of 1/255 of the largest moves a scale by a percent at most where it is
//! a fifth of it. Short rows share a step with their neighbours, so that steps never take more than 1/64 bit a weight. The codes
//! are chosen anew for scales and offsets as stored, and of the three nearest integers the one that loses least is taken.

use rayon::prelude::*;

use super::rtn::{BlockGrid, encode};
use super::{Affine, Quantized, Weight, WeightError, check_importance, check_len};

/// Weights that share a step, at least: then a step of 32 bits takes 1/64 bit a weight.
const SHARED: usize = 2048;
/// Rows that share a step, at most: rows that lie further apart may differ by any factor.
const MOST_ROWS: usize = 64;

/// A weight whose scales are integers times a step.
#[derive(Debug, Clone, PartialEq)]
pub struct DoubleScaled {
    /// Codes and zero points; the scales are step·integer, rounded to f32 as a DequantizeLinear does.
    pub weight: Quantized,
    /// Rows that share a step; divides N.
    pub group: usize,
    /// `[N, ceil(K / block)]`, 1..=255.
    pub integers: Vec<u8>,
    /// `[N / group]`, positive and finite.
    pub steps: Vec<f32>,
}

/// A weight with float offsets, whose scales and offsets are integers times steps: w = scale·(code − centre) + offset, the
/// centre of the codes' own width.
#[derive(Debug, Clone, PartialEq)]
pub struct DoubleAffine {
    /// Codes; the scales are step·integer. The value of code 0 is offset − centre·scale, rounded once more.
    pub weight: Affine,
    /// Rows that share steps; divides N.
    pub group: usize,
    /// `[N, ceil(K / block)]`, 1..=255.
    pub integers: Vec<u8>,
    /// `[N / group]`, positive and finite.
    pub steps: Vec<f32>,
    /// `[N, ceil(K / block)]`: offsets of the centre code, −127..=127 steps.
    pub offsets: Vec<i8>,
    /// `[N / group]`, positive and finite.
    pub offset_steps: Vec<f32>,
}

/// Rows that share a step: the least power of two that makes [`SHARED`] weights of them, as far as it divides the rows.
fn rows_per_step(rows: usize, cols: usize) -> usize {
    let divides = |group: &usize| rows.is_multiple_of(*group);
    let mut group = 1;
    while group * cols < SHARED && group < MOST_ROWS && divides(&(group * 2)) {
        group *= 2;
    }
    group
}

/// A step that reaches `largest` in so many units: positive and normal.
fn step(largest: f32, units: f32) -> f32 {
    (largest / units).max(f32::MIN_POSITIVE)
}

/// The integers next to a scale, nearest first.
fn near(scale: f32, step: f32) -> impl Iterator<Item = f32> {
    let near = (scale / step).round_ties_even().clamp(1.0, 255.0);
    [near, near - 1.0, near + 1.0].into_iter().filter(|a| (1.0..=255.0).contains(a))
}

/// Rounds the scales of a weight that was quantized to f32 scales, and chooses its codes anew.
///
/// # Errors
/// `weight` is not what `quantized` was made from by its sizes.
pub fn double_scaled(
    weight: &Weight<'_>,
    quantized: &Quantized,
    importance: Option<&[f32]>,
) -> Result<DoubleScaled, WeightError> {
    let (rows, cols, block) = (quantized.rows, quantized.cols, quantized.block);
    check_len("quantized weight", weight.rows() * weight.cols(), rows * cols)?;
    check_len("quantized weight", weight.cols(), cols)?;
    check_importance(importance, cols)?;
    let per_row = quantized.blocks_per_row();
    let group = rows_per_step(rows, cols);
    let mut out = quantized.clone();
    let mut integers = vec![1u8; rows * per_row];
    let mut steps = vec![1.0f32; rows / group];
    let top = quantized.spec.bits.max_code();
    let done: Result<(), WeightError> = out
        .codes
        .par_chunks_mut(group * cols)
        .zip(out.scales.par_chunks_mut(group * per_row))
        .zip(integers.par_chunks_mut(group * per_row))
        .zip(&mut steps)
        .enumerate()
        .map_init(
            || (vec![0.0f32; group * cols], vec![0u8; block.min(cols)]),
            |(values, trial), (g, (((codes, scales), integers), unit))| {
                weight.panel(g * group, values)?;
                let zero_of = |at: usize| quantized.zero_point(g * group * per_row + at);
                let columns = |at: usize| {
                    let (row, b) = (at / per_row * cols, at % per_row * block);
                    row + b..row + (b + block).min(cols)
                };
                // The scale of a block of zeros says nothing.
                let said = |at: &usize| codes[columns(*at)].iter().any(|&c| c != zero_of(*at));
                let largest = (0..scales.len()).filter(said).fold(0.0f32, |a, at| a.max(scales[at]));
                *unit = step(largest, 255.0);
                for (at, scale) in scales.iter_mut().enumerate() {
                    let place = columns(at);
                    let first = place.start % cols;
                    let (w, codes, zero) = (&values[place.clone()], &mut codes[place], zero_of(at));
                    let mut best = (f64::INFINITY, 1.0);
                    for a in near(*scale, *unit) {
                        let grid =
                            BlockGrid { scale: a * *unit, zero, zeros_only: false, scale_moved: false };
                        let trial = &mut trial[..w.len()];
                        encode(w, &grid, top, trial);
                        let lost = |(k, (w, c)): (usize, (&f32, &u8))| {
                            let back = (i32::from(*c) - i32::from(zero)) as f32 * grid.scale;
                            f64::from(w - back).powi(2) * importance.map_or(1.0, |i| f64::from(i[first + k]))
                        };
                        let error: f64 = w.iter().zip(trial.iter()).enumerate().map(lost).sum();
                        if error < best.0 {
                            best = (error, a);
                            codes.copy_from_slice(trial);
                        }
                    }
                    integers[at] = best.1 as u8;
                    *scale = best.1 * *unit;
                }
                Ok(())
            },
        )
        .collect();
    done?;
    Ok(DoubleScaled { weight: out, group, integers, steps })
}

/// Rounds scales and offsets of a weight with float offsets, and chooses its codes anew.
///
/// # Errors
/// `weight` is not what `affine` was made from by its sizes.
pub fn double_affine(
    weight: &Weight<'_>,
    affine: &Affine,
    importance: Option<&[f32]>,
) -> Result<DoubleAffine, WeightError> {
    let (rows, cols, block) = (affine.rows, affine.cols, affine.block);
    check_len("quantized weight", weight.rows() * weight.cols(), rows * cols)?;
    check_len("quantized weight", weight.cols(), cols)?;
    check_importance(importance, cols)?;
    let per_row = affine.blocks_per_row();
    let group = rows_per_step(rows, cols);
    let (count, groups) = (rows * per_row, rows / group);
    let mut out = affine.clone();
    let (mut integers, mut offsets) = (vec![1u8; count], vec![0i8; count]);
    let (mut steps, mut offset_steps) = (vec![1.0f32; groups], vec![1.0f32; groups]);
    let bits = affine.bits.clamp(1, 8);
    let (center, top) = ((1u32 << (bits - 1)) as f32, ((1u32 << bits) - 1) as f32);
    let done: Result<(), WeightError> = out
        .codes
        .par_chunks_mut(group * cols)
        .zip(out.scales.par_chunks_mut(group * per_row).zip(out.mins.par_chunks_mut(group * per_row)))
        .zip(integers.par_chunks_mut(group * per_row).zip(offsets.par_chunks_mut(group * per_row)))
        .zip(steps.par_iter_mut().zip(&mut offset_steps))
        .enumerate()
        .map_init(
            || (vec![0.0f32; group * cols], vec![0u8; block.min(cols)]),
            |(values, trial), (g, (((codes, (scales, mins)), (integers, offsets)), (unit, offset_unit)))| {
                weight.panel(g * group, values)?;
                let columns = |at: usize| {
                    let (row, b) = (at / per_row * cols, at % per_row * block);
                    row + b..row + (b + block).min(cols)
                };
                // A constant block is an offset alone, whatever its scale says.
                let ideal: Vec<(f32, f32)> = (0..scales.len())
                    .map(|at| match &codes[columns(at)] {
                        [one, rest @ ..] if rest.iter().all(|c| c == one) => {
                            (0.0, scales[at].mul_add(f32::from(*one), mins[at]))
                        }
                        _ => (scales[at], scales[at].mul_add(center, mins[at])),
                    })
                    .collect();
                let largest = |f: &dyn Fn(&(f32, f32)) -> f32| ideal.iter().map(f).fold(0.0, f32::max);
                *unit = step(largest(&|i| i.0), 255.0);
                *offset_unit = step(largest(&|i| i.1.abs()), 127.0);
                for (at, &(scale, offset)) in ideal.iter().enumerate() {
                    let place = columns(at);
                    let first = place.start % cols;
                    let (w, codes) = (&values[place.clone()], &mut codes[place]);
                    let trial = &mut trial[..w.len()];
                    let weigh = |k: usize| importance.map_or(1.0, |i| f64::from(i[first + k]));
                    let round = |v: f32| (v / *offset_unit).round_ties_even().clamp(-127.0, 127.0);
                    let mut best = (f64::INFINITY, 1.0, 0.0);
                    for a in near(scale, *unit) {
                        let s = a * *unit;
                        let mut encode = |offset: f32| {
                            for (c, w) in trial.iter_mut().zip(w) {
                                *c = ((w - offset) / s + center).round_ties_even().clamp(0.0, top) as u8;
                            }
                            // The offset that suits these codes best, and what they lose at the one they were chosen for.
                            let (mut sum, mut all, mut lost) = (0.0, 0.0, 0.0);
                            for (k, (c, w)) in trial.iter().zip(w).enumerate() {
                                let rest = f64::from(*w) - f64::from((f32::from(*c) - center) * s);
                                sum += weigh(k) * rest;
                                all += weigh(k);
                                lost += weigh(k) * (rest - f64::from(offset)).powi(2);
                            }
                            (if all > 0.0 { (sum / all) as f32 } else { offset }, lost)
                        };
                        let (better, _) = encode(round(offset) * *offset_unit);
                        for b in [round(offset), round(better)] {
                            let (_, lost) = encode(b * *offset_unit);
                            if lost < best.0 {
                                best = (lost, a, b);
                            }
                        }
                    }
                    let (_, a, b) = best;
                    let (s, offset) = (a * *unit, b * *offset_unit);
                    for (c, w) in codes.iter_mut().zip(w) {
                        *c = ((w - offset) / s + center).round_ties_even().clamp(0.0, top) as u8;
                    }
                    (integers[at], offsets[at]) = (a as u8, b as i8);
                    (scales[at], mins[at]) = (s, offset - center * s);
                }
                Ok(())
            },
        )
        .collect();
    done?;
    Ok(DoubleAffine { weight: out, group, integers, steps, offsets, offset_steps })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::kquant::{Kind, kquant};
    use crate::weight::rtn_search::rtn_search;
    use crate::weight::testing::{gaussian, relative_error};
    use crate::weight::{Bits, Spec};

    #[test]
    fn costs_next_to_nothing() {
        for (rows, cols) in [(64, 1024), (128, 512), (1024, 64)] {
            let w = gaussian(rows * cols, 7);
            let weight = Weight::from_rows(&w[..], rows, cols).unwrap();
            let error = |block: usize| {
                let q = rtn_search(&weight, &Spec::int4(block), None).unwrap();
                let d = double_scaled(&weight, &q, None).unwrap();
                assert_eq!(d.steps.len(), rows / d.group);
                for (n, scales) in d.weight.scales.chunks(d.weight.blocks_per_row()).enumerate() {
                    let row = &d.integers[n * scales.len()..][..scales.len()];
                    let step = d.steps[n / d.group];
                    assert!(scales.iter().zip(row).all(|(s, a)| *s == f32::from(*a) * step && *a > 0));
                }
                (relative_error(&w, &q.dequantize()), relative_error(&w, &d.weight.dequantize()))
            };
            let (plain, double) = error(32);
            assert!(double < 1.002 * plain, "{double} {plain}"); // 1.0002 measured
            // The same size spent on larger blocks with float scales loses more: 4.4 bits each, and 4.6.
            assert!(double < 0.95 * error(64).0);
        }
    }

    #[test]
    fn offsets_cost_next_to_nothing() {
        for (rows, cols) in [(64, 1024), (1024, 64)] {
            let w = gaussian(rows * cols, 8);
            let weight = Weight::from_rows(&w[..], rows, cols).unwrap();
            for kind in [Kind::Q2K, Kind::Q4K, Kind::Q5K, Kind::Q6K] {
                let q = kquant(&weight, kind, None).unwrap();
                let d = double_affine(&weight, &q, None).unwrap();
                let (plain, double) =
                    (relative_error(&w, &q.dequantize()), relative_error(&w, &d.weight.dequantize()));
                // 8 bits are finer than the 6 and 4 of most kinds: better than those, and no worse than Q6_K's 8.
                assert!(double < 1.01 * plain, "{kind:?} {rows}: {double} {plain}");
                let center = (1 << (kind.bits() - 1)) as f32;
                for (at, (s, m)) in d.weight.scales.iter().zip(&d.weight.mins).enumerate() {
                    let group = at / d.weight.blocks_per_row() / d.group;
                    assert_eq!(*s, f32::from(d.integers[at]) * d.steps[group]);
                    assert_eq!(*m, f32::from(d.offsets[at]) * d.offset_steps[group] - center * s);
                }
            }
        }
    }

    #[test]
    fn ugly_rows() {
        let mut w = gaussian(3 * 70, 3);
        w[..70].fill(0.0);
        w[75] = 1e30; // its row's other blocks have scales far below one step
        let weight = Weight::from_rows(&w[..], 3, 70).unwrap();
        for bits in [Bits::Two, Bits::Four, Bits::Eight] {
            let q = rtn_search(&weight, &Spec::int4(32).with_bits(bits), None).unwrap();
            let d = double_scaled(&weight, &q, None).unwrap();
            assert!(d.steps.iter().chain(&d.weight.scales).all(|s| s.is_finite() && *s > 0.0));
            let back = d.weight.dequantize();
            assert!(back[..70].iter().all(|v| *v == 0.0));
            assert!(back.iter().all(|v| v.is_finite()));
        }
        w[75] = 1.0; // K-quants have scales of 16 bits
        let weight = Weight::from_rows(&w[..], 3, 70).unwrap();
        let d = double_affine(&weight, &kquant(&weight, Kind::Q4K, None).unwrap(), None).unwrap();
        let back = d.weight.dequantize();
        assert!(back[..70].iter().all(|v| *v == 0.0), "{:?}", &back[..70]);
        assert!(back.iter().all(|v| v.is_finite()));
        let q = rtn_search(&weight, &Spec::int4(32), None).unwrap();
        assert!(double_scaled(&Weight::from_rows(&w[..], 7, 30).unwrap(), &q, None).is_err());
    }

    /// The scale of a block of zeros is 1, far above all others: it must not set the step.
    #[test]
    fn a_block_of_zeros_does_not_spoil_its_row() {
        let mut w: Vec<f32> = gaussian(4 * 256, 5).iter().map(|v| v * 0.02).collect();
        w[32..64].fill(0.0);
        let weight = Weight::from_rows(&w[..], 4, 256).unwrap();
        let q = rtn_search(&weight, &Spec::int4(32), None).unwrap();
        let d = double_scaled(&weight, &q, None).unwrap();
        let (plain, double) =
            (relative_error(&w, &q.dequantize()), relative_error(&w, &d.weight.dequantize()));
        assert!(double < 1.01 * plain, "{double} {plain}");
        let q = kquant(&weight, Kind::Q4K, None).unwrap();
        let d = double_affine(&weight, &q, None).unwrap();
        let (plain, double) =
            (relative_error(&w, &q.dequantize()), relative_error(&w, &d.weight.dequantize()));
        assert!(double < 1.01 * plain, "{double} {plain}");
    }
}
