//! `awq`: activation-aware scaling (Lin et al. 2023). Columns that meet strong inputs are scaled up before quantizing, and
//! their inputs down by as much, which moves rounding error to where it matters less. Exact in real arithmetic.
//!
//! The scales are shared by all weights that read the same input (q, k, v; gate, up), so that 1/s can be folded into the
//! producer: norm weight / s, or rows of the producing weight / s. Candidates, for r = 0, 1/20, …, 19/20:
//!
//! ```text
//! s = x̄^r                      (llm-awq)
//! s = x̄^r / (w̄^(1−r) + 1e-4)   (AutoAWQ; w̄_k: mean over rows of |w_k| / max |w| of its block)
//! ```
//!
//! then s ≥ 1e-4 and s / √(max·min). x̄_k is the mean |x_k|; where only the Gram matrix is known, √H_kk stands for it (a
//! constant factor drops out). The loss is Σ tr(ΔW·H·ΔWᵀ) over the weights, so no forward passes are needed; s = 1 is always
//! a candidate, so the result is never worse than no scaling. [`apply`] makes the scaled weight, [`Gram::scaled`] the
//! matching Gram matrix: quantize those with any method, [`super::gptq`] included.
//!
//! [`clip`] is AWQ's second step: per row and block the range is shrunk to the one whose *output* error on the block,
//! e·H_bb·eᵀ, is least (diagonal blocks of H, all tokens; the published form samples 512 of them).

use rayon::prelude::*;

use super::gram::Gram;
use super::loss::Loss;
use super::rtn::{BlockGrid, by_block, encode, min_max, range, rtn};
use super::rtn_search::rtn_search;
use super::{Method, Quantized, Spec, Weight, WeightError, Zero, check_len};

/// Steps of r in 0..1.
const RATIOS: usize = 20;
/// Rows of each weight that the search looks at: enough for a mean, and the choice of s is one number deep.
const MOST_ROWS: usize = 1024;

/// How candidates are quantized while searching.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Trial {
    /// Min/max, as published.
    #[default]
    Rtn,
    /// With the importance-weighted search, as the final data-free quantizer would.
    RtnSearch,
}

/// Column scales and what they gain.
#[derive(Debug, Clone, PartialEq)]
pub struct AwqScales {
    /// One positive factor per column: weights × s, inputs / s.
    pub scales: Vec<f32>,
    /// The exponent r of the winner; `None`: no scaling won.
    pub ratio: Option<f32>,
    /// Output error of the searched rows without scaling.
    pub loss_before: f64,
    /// And with it.
    pub loss_after: f64,
}

/// Searches the scales of the weights that read one input. `mean_abs` is x̄ (K elements); `None` takes √H_kk.
pub fn awq_scales(
    weights: &[Weight<'_>],
    spec: &Spec,
    gram: &Gram,
    mean_abs: Option<&[f32]>,
    trial: Trial,
) -> Result<AwqScales, WeightError> {
    let cols = gram.cols();
    for w in weights {
        check_len("Gram matrix", w.cols(), cols)?;
    }
    let inputs: Vec<f64> = match mean_abs {
        Some(m) => {
            super::check_importance(Some(m), cols)?;
            m.iter().map(|v| f64::from(*v)).collect()
        }
        None => gram.diagonal().iter().map(|d| d.max(0.0).sqrt()).collect(),
    };
    let sampled: Vec<Vec<f32>> = weights.iter().map(sample_rows).collect::<Result<_, _>>()?;
    let magnitudes = mean_relative_magnitude(&sampled, cols, spec.block.columns(cols)?);
    let loss = Loss::new(gram);
    let evaluate = |scales: &[f32]| -> Result<f64, WeightError> {
        let scaled_gram = (trial == Trial::RtnSearch).then(|| gram.scaled(scales)).transpose()?;
        let importance = scaled_gram.as_ref().map(Gram::importance);
        let mut total = 0.0;
        for w in &sampled {
            let scaled: Vec<f32> = scale_rows(w, scales);
            let view = Weight::from_rows(&scaled[..], scaled.len() / cols, cols)?;
            let q = match &importance {
                None => rtn(&view, spec)?,
                Some(i) => rtn_search(&view, spec, Some(i))?,
            };
            let mut difference = q.dequantize();
            for (row, exact) in difference.chunks_mut(cols).zip(w.chunks(cols)) {
                row.iter_mut().zip(exact).zip(scales).for_each(|((q, w), s)| *q = w - *q / s);
            }
            total += loss.of_difference(&difference);
        }
        Ok(total)
    };
    let loss_before = evaluate(&vec![1.0; cols])?;
    let mut best = AwqScales { scales: vec![1.0; cols], ratio: None, loss_before, loss_after: loss_before };
    for step in 0..RATIOS {
        let ratio = step as f64 / RATIOS as f64;
        let plain = inputs.iter().map(|x| x.powf(ratio));
        let duo = inputs.iter().zip(&magnitudes).map(|(x, w)| x.powf(ratio) / (w.powf(1.0 - ratio) + 1e-4));
        for candidate in [normalize(plain), normalize(duo)] {
            let Some(scales) = candidate else { continue };
            let loss = evaluate(&scales)?;
            if loss < best.loss_after {
                best = AwqScales { scales, ratio: Some(ratio as f32), loss_before, loss_after: loss };
            }
        }
    }
    Ok(best)
}

/// At most [`MOST_ROWS`] rows, evenly spread.
pub(super) fn sample_rows(weight: &Weight<'_>) -> Result<Vec<f32>, WeightError> {
    let (rows, cols) = (weight.rows(), weight.cols());
    if rows <= MOST_ROWS {
        return weight.to_f32();
    }
    let mut out = vec![0.0; MOST_ROWS * cols];
    for (i, row) in out.chunks_mut(cols).enumerate() {
        weight.panel(i * rows / MOST_ROWS, row)?;
    }
    Ok(out)
}

/// w̄: per column, the mean over the rows of all weights of |w| / max |w| in its block.
fn mean_relative_magnitude(weights: &[Vec<f32>], cols: usize, block: usize) -> Vec<f64> {
    let mut mean = vec![0.0f64; cols];
    let mut rows = 0usize;
    for row in weights.iter().flat_map(|w| w.chunks(cols)) {
        rows += 1;
        for (m, w) in mean.chunks_mut(block).zip(row.chunks(block)) {
            let most = w.iter().fold(0.0f32, |a, v| a.max(v.abs()));
            if most > 0.0 {
                m.iter_mut().zip(w).for_each(|(m, w)| *m += f64::from(w.abs() / most));
            }
        }
    }
    mean.iter_mut().for_each(|m| *m /= rows.max(1) as f64);
    mean
}

/// s ≥ 1e-4, divided by √(max·min); `None` if not all are finite.
fn normalize(scales: impl Iterator<Item = f64>) -> Option<Vec<f32>> {
    let scales: Vec<f64> = scales.map(|s| s.max(1e-4)).collect();
    let most = scales.iter().fold(0.0f64, |a, s| a.max(*s));
    let least = scales.iter().fold(f64::INFINITY, |a, s| a.min(*s));
    let middle = (most * least).sqrt();
    let scales: Vec<f32> = scales.iter().map(|s| (s / middle) as f32).collect();
    scales.iter().all(|s| s.is_normal() && *s > 0.0).then_some(scales)
}

fn scale_rows(weight: &[f32], scales: &[f32]) -> Vec<f32> {
    weight.chunks(scales.len()).flat_map(|row| row.iter().zip(scales).map(|(w, s)| w * s)).collect()
}

/// The weight with its columns scaled, `[N, K]` row-major. Quantize it with [`Gram::scaled`]; divide the layer's input by
/// the scales.
pub fn apply(weight: &Weight<'_>, scales: &[f32]) -> Result<Vec<f32>, WeightError> {
    check_len("scales", weight.cols(), scales.len())?;
    if let Some(index) = scales.iter().position(|s| !(s.is_finite() && *s > 0.0)) {
        return Err(WeightError::Value { what: "scale", index, value: f64::from(scales[index]) });
    }
    let scaled = scale_rows(&weight.to_f32()?, scales);
    match scaled.iter().position(|v| !v.is_finite()) {
        None => Ok(scaled),
        Some(at) => {
            Err(WeightError::NotFinite { row: at / scales.len(), col: at % scales.len(), value: scaled[at] })
        }
    }
}

/// Shrink factors of [`clip`], from the whole range down.
const SHRINK: usize = 20;
const SHRINK_STEP: f64 = 0.025;

/// Rounds to nearest on ranges shrunk, per row and block, to where the block's output error is least.
pub fn clip(weight: &Weight<'_>, spec: &Spec, gram: &Gram) -> Result<Quantized, WeightError> {
    let cols = weight.cols();
    check_len("Gram matrix", cols, gram.cols())?;
    let block = spec.block.columns(cols)?;
    let mean = gram.diagonal().iter().sum::<f64>() / cols as f64;
    let unit = if mean > 0.0 { 1.0 / mean } else { 0.0 };
    // Diagonal blocks of H, row-major.
    let blocks: Vec<Vec<f32>> = (0..cols)
        .into_par_iter()
        .step_by(block)
        .map(|b| {
            let n = block.min(cols - b);
            (0..n * n).map(|e| (gram.at(b + e / n, b + e % n) * unit) as f32).collect()
        })
        .collect();
    let top = f64::from(spec.bits.max_code());
    by_block(weight, spec, Method::Awq, Vec::new, |difference: &mut Vec<f32>, first, w, codes| {
        let plain = min_max(w, spec);
        if plain.zeros_only {
            encode(w, &plain, spec.bits.max_code(), codes);
            return plain;
        }
        let (lo, hi) = range(w);
        let h = &blocks[first / block];
        let mut best = (f64::INFINITY, plain);
        for step in 0..SHRINK {
            let factor = 1.0 - SHRINK_STEP * step as f64;
            let grid = match (step, spec.zero) {
                (0, _) => plain,
                (_, Zero::Center) => {
                    BlockGrid::new(spec, f64::from(plain.scale) * factor, |_| spec.bits.center())
                }
                (_, Zero::PerBlock) => {
                    let (lo, hi) = (f64::from(lo) * factor, f64::from(hi) * factor);
                    BlockGrid::new(spec, (hi - lo) / top, |s| {
                        (-lo / s).round_ties_even().clamp(0.0, top) as u8
                    })
                }
            };
            encode(w, &grid, spec.bits.max_code(), codes);
            difference.clear();
            let value = |c: &u8| (i32::from(*c) - i32::from(grid.zero)) as f32 * grid.scale;
            difference.extend(w.iter().zip(codes.iter()).map(|(w, c)| w - value(c)));
            let error: f64 = difference
                .iter()
                .zip(h.chunks(w.len()))
                .map(|(d, h)| {
                    f64::from(*d) * f64::from(difference.iter().zip(h).map(|(d, h)| d * h).sum::<f32>())
                })
                .sum();
            if error < best.0 {
                best = (error, grid);
            }
        }
        encode(w, &best.1, spec.bits.max_code(), codes);
        best.1
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::gptq::{GptqOptions, gptq};
    use crate::weight::testing::gaussian;

    /// Inputs of very different strength: one in sixteen is 12 times as strong.
    fn setting(rows: usize, cols: usize) -> (Vec<f32>, Gram) {
        let mut gram = Gram::new(cols);
        let mut x = gaussian(600 * cols, 2);
        x.iter_mut().enumerate().for_each(|(i, v)| *v *= if i % cols % 16 == 3 { 12.0 } else { 1.0 });
        gram.add(&x).unwrap();
        (gaussian(rows * cols, 1), gram)
    }

    #[test]
    fn scaling_pays_on_uneven_inputs_and_composes_with_gptq() {
        let (w, gram) = setting(96, 128);
        let weight = Weight::from_rows(&w[..], 96, 128).unwrap();
        let spec = Spec::int4(32);
        for trial in [Trial::Rtn, Trial::RtnSearch] {
            let found = awq_scales(&[weight, weight], &spec, &gram, None, trial).unwrap();
            assert!(found.loss_after < 0.7 * found.loss_before, "{found:?}"); // 0.4 to 0.5 measured
            let scaled = apply(&weight, &found.scales).unwrap();
            let scaled_gram = gram.scaled(&found.scales).unwrap();
            let view = Weight::from_rows(&scaled[..], 96, 128).unwrap();
            let options = GptqOptions::default();
            let loss = Loss::new(&scaled_gram);
            let both =
                loss.of(&view, &gptq(&view, &spec, &scaled_gram, &options).unwrap().dequantize()).unwrap();
            let q = gptq(&weight, &spec, &gram, &options).unwrap();
            let alone = Loss::new(&gram).of(&weight, &q.dequantize()).unwrap();
            assert!(both < alone && alone < found.loss_before / 2.0 && both < found.loss_after / 2.0);
        }
    }

    #[test]
    fn even_inputs_need_no_scaling() {
        let w = vec![1.0; 64];
        let mut gram = Gram::new(16);
        gram.add(&gaussian(160, 1)).unwrap();
        let weight = Weight::from_rows(&w[..], 4, 16).unwrap();
        let found = awq_scales(&[weight], &Spec::int4(16), &gram, Some(&[1.0; 16]), Trial::Rtn).unwrap();
        assert_eq!(found.scales, [1.0; 16]); // constant weights are exact already
        let dead = awq_scales(&[weight], &Spec::int4(16), &Gram::new(16), None, Trial::Rtn).unwrap();
        assert_eq!((dead.scales, dead.loss_after), (vec![1.0; 16], 0.0));
    }

    #[test]
    fn clipping_lowers_the_output_error_of_blocks() {
        let (w, gram) = setting(64, 128);
        let weight = Weight::from_rows(&w[..], 64, 128).unwrap();
        for spec in [Spec::int4(128), Spec::int4(32).symmetric()] {
            let loss = Loss::new(&gram);
            let of = |q: Quantized| loss.of(&weight, &q.dequantize()).unwrap();
            let (clipped, plain) =
                (of(clip(&weight, &spec, &gram).unwrap()), of(rtn(&weight, &spec).unwrap()));
            // The sum over blocks leaves out what blocks share, so "lower" is not a theorem; 0.8 measured.
            assert!(clipped < 0.95 * plain, "{clipped} {plain}");
        }
        assert!(clip(&weight, &Spec::int4(32), &Gram::new(4)).is_err());
    }

    #[test]
    fn impossible_scales_are_errors() {
        let w = [1.0f32, f32::MAX];
        let weight = Weight::from_rows(&w[..], 1, 2).unwrap();
        assert!(apply(&weight, &[1.0]).is_err());
        assert!(apply(&weight, &[1.0, 0.0]).is_err());
        assert!(apply(&weight, &[1.0, f32::NAN]).is_err());
        assert!(apply(&weight, &[1.0, 2.0]).is_err());
        assert!(awq_scales(&[weight], &Spec::int4(2), &Gram::new(3), None, Trial::Rtn).is_err());
    }
}
