//! Scales of eight bits: s = step·a, a in 1..=255, one float step a row (double quantization).
//!
//! Blocks of 32 with float32 scales and 4-bit zero points take 4 + 1 + 0.125 bits a weight; with scales of eight bits
//! 4 + 0.25 + 0.125 and a step a row, which is less than Q4_K's 4.5. Runtimes compute the scales by a DequantizeLinear of
//! the integers. Scales of one row differ by a small factor, so a step of 1/255 of the largest moves a scale by a percent at most
//! where it is a fifth of it. The codes are chosen anew for the scale as stored, and of the three nearest integers the one that
//! loses least is taken.

use rayon::prelude::*;

use super::rtn::{BlockGrid, encode};
use super::{Quantized, Weight, WeightError, check_importance, check_len};

/// A weight whose scales are integers times one step a row.
#[derive(Debug, Clone, PartialEq)]
pub struct DoubleScaled {
    /// Codes and zero points; the scales are step·integer, rounded to f32 as a DequantizeLinear does.
    pub weight: Quantized,
    /// `[N, ceil(K / block)]`, 1..=255.
    pub integers: Vec<u8>,
    /// `[N]`, positive and finite.
    pub steps: Vec<f32>,
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
    let mut out = quantized.clone();
    let mut integers = vec![1u8; rows * per_row];
    let mut steps = vec![1.0f32; rows];
    let top = quantized.spec.bits.max_code();
    let done: Result<(), WeightError> = out
        .codes
        .par_chunks_mut(cols)
        .zip(out.scales.par_chunks_mut(per_row))
        .zip(integers.par_chunks_mut(per_row))
        .zip(&mut steps)
        .enumerate()
        .map_init(
            || (vec![0.0f32; cols], vec![0u8; block.min(cols)]),
            |(values, trial), (n, (((codes, scales), integers), step))| {
                weight.panel(n, values)?;
                let largest = scales.iter().fold(0.0f32, |a, s| a.max(*s));
                *step = (largest / 255.0).max(f32::MIN_POSITIVE);
                for b in 0..per_row {
                    let (first, last) = (b * block, ((b + 1) * block).min(cols));
                    let (w, codes) = (&values[first..last], &mut codes[first..last]);
                    let zero = quantized.zero_point(n * per_row + b);
                    let near = (scales[b] / *step).round_ties_even().clamp(1.0, 255.0);
                    let mut best = (f64::INFINITY, near);
                    for a in [near, near - 1.0, near + 1.0] {
                        if !(1.0..=255.0).contains(&a) {
                            continue;
                        }
                        let grid =
                            BlockGrid { scale: a * *step, zero, zeros_only: false, scale_moved: false };
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
                    integers[b] = best.1 as u8;
                    scales[b] = best.1 * *step;
                }
                Ok(())
            },
        )
        .collect();
    done?;
    Ok(DoubleScaled { weight: out, integers, steps })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::rtn_search::rtn_search;
    use crate::weight::testing::{gaussian, relative_error};
    use crate::weight::{Bits, Spec};

    #[test]
    fn costs_next_to_nothing() {
        let w = gaussian(64 * 1024, 7);
        let weight = Weight::from_rows(&w[..], 64, 1024).unwrap();
        let error = |block: usize| {
            let q = rtn_search(&weight, &Spec::int4(block), None).unwrap();
            let d = double_scaled(&weight, &q, None).unwrap();
            for (n, scales) in d.weight.scales.chunks(d.weight.blocks_per_row()).enumerate() {
                let row = &d.integers[n * scales.len()..][..scales.len()];
                assert!(scales.iter().zip(row).all(|(s, a)| *s == f32::from(*a) * d.steps[n] && *a > 0));
            }
            (relative_error(&w, &q.dequantize()), relative_error(&w, &d.weight.dequantize()))
        };
        let (plain, double) = error(32);
        assert!(double < 1.002 * plain, "{double} {plain}"); // 1.0002 measured
        // The same size spent on larger blocks with float scales loses more: 4.4 bits each, and 4.6.
        assert!(double < 0.95 * error(64).0);
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
        let q = rtn_search(&weight, &Spec::int4(32), None).unwrap();
        assert!(double_scaled(&Weight::from_rows(&w[..], 7, 30).unwrap(), &q, None).is_err());
    }
}
