//! SmoothQuant: moving the difficulty of outlier channels from activations to weights.
//!
//! For y = x·W, dividing input channel k of x by s_k and multiplying row k of W by it changes nothing in float, but a
//! channel whose activations are a hundred times its neighbours' no longer sets the grid of all. With α between 0 and 1,
//! s_k = max|x_k|^α / max|w_k|^(1-α) (Xiao et al., arXiv 2211.10438). The best α differs from layer to layer;
//! [`search`] tries them offline on token vectors kept from calibration, against the error of the layer's own output.

use rayon::prelude::*;

use crate::error::{Error, check_len};
use crate::grid::{Grid, Params, Policy};
use crate::minifloat::{self, Overflow};
use crate::quantize::{Layout, fake_quantize, ranges};

/// Least and greatest factor: the paper's lower bound, and its reciprocal.
const LIMITS: (f64, f64) = (1e-5, 1e5);
/// Output columns that the search looks at; more are sampled evenly. Their inputs are what matters, and all see those.
const COLUMNS: usize = 256;

/// One factor for each input channel: divide the activations (or the gain and shift of the normalization before) by it,
/// multiply the weights' rows. `weight_max` is over the rows of *all* consumers of these activations. A channel that is
/// dead on either side keeps 1.
pub fn factors(activation_max: &[f32], weight_max: &[f32], alpha: f64) -> Result<Vec<f32>, Error> {
    check_len("weight rows beside the activations", activation_max.len(), weight_max.len())?;
    let factor = |(&a, &w): (&f32, &f32)| {
        let s = f64::from(a).powf(alpha) / f64::from(w).powf(1.0 - alpha);
        let alive = a > 0.0 && w > 0.0 && s.is_finite();
        if alive { s.clamp(LIMITS.0, LIMITS.1) as f32 } else { 1.0 }
    };
    Ok(activation_max.iter().zip(weight_max).map(factor).collect())
}

/// One linear layer and what calibration kept of its input.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// Least and greatest number seen in each input channel (K of them).
    pub ranges: &'a [(f32, f32)],
    /// Sampled input vectors, row-major [tokens, K].
    pub tokens: &'a [f32],
    /// Weights, row-major [K, N]; consumers of the same input side by side.
    pub weights: &'a [f32],
    /// Grid of the activations, one for the whole tensor.
    pub activation_grid: Grid,
    /// Grid of the weights, one for each output column.
    pub weight_grid: Grid,
}

/// The outcome of a search.
#[derive(Debug, Clone, PartialEq)]
pub struct Smoothing {
    /// The best α; `None` where leaving the layer as it is was best.
    pub alpha: Option<f64>,
    /// The factors (all 1 for `None`).
    pub factors: Vec<f32>,
    /// Mean squared error of the layer's output with them.
    pub error: f64,
    /// The same without smoothing.
    pub error_before: f64,
}

/// Tries every α in `alphas` and no smoothing; on a tie no smoothing, then the α that comes first, wins.
///
/// # Errors
/// Sizes that do not fit together.
pub fn search(layer: &Layer, alphas: &[f64], policy: &Policy) -> Result<Smoothing, Error> {
    let k = layer.ranges.len();
    if k == 0 || layer.tokens.is_empty() {
        return Err(Error::Shape("smoothing needs input channels and sampled tokens".to_string()));
    }
    check_len("sampled tokens", layer.tokens.len().div_ceil(k).saturating_mul(k), layer.tokens.len())?;
    check_len("weights", layer.weights.len().div_ceil(k).saturating_mul(k), layer.weights.len())?;
    let n = layer.weights.len() / k;
    let activation_max: Vec<f32> = layer.ranges.iter().map(|(lo, hi)| lo.abs().max(hi.abs())).collect();
    let weight_max = crate::equalize::abs_max(layer.weights, &Layout::per_axis(&[k, n], 0)?)?;

    // Evenly spaced columns, transposed: [columns, K], so that dot products run over contiguous numbers.
    let taken = n.min(COLUMNS);
    let mut columns = vec![0.0f32; taken * k];
    for (c, column) in columns.chunks_exact_mut(k).enumerate() {
        let from = c * n / taken.max(1);
        column.iter_mut().enumerate().for_each(|(r, w)| *w = layer.weights[r * n + from]);
    }
    let target = product(layer.tokens, &columns, k);
    let trial = |factors: &[f32]| -> Result<f64, Error> {
        let error = trial_error(layer, &columns, factors, &target, policy)?;
        Ok(if error.is_nan() { f64::INFINITY } else { error })
    };
    let ones = vec![1.0; k];
    let error_before = trial(&ones)?;
    let tried: Vec<(Vec<f32>, f64)> = alphas
        .par_iter()
        .map(|&alpha| {
            let s = factors(&activation_max, &weight_max, alpha)?;
            let error = trial(&s)?;
            Ok((s, error))
        })
        .collect::<Result<_, Error>>()?;
    let mut best = Smoothing { alpha: None, factors: ones, error: error_before, error_before };
    for (&alpha, (factors, error)) in alphas.iter().zip(tried) {
        if error < best.error {
            best = Smoothing { alpha: Some(alpha), factors, error, error_before };
        }
    }
    Ok(best)
}

/// Mean squared error of tokens·columns with both on their grids after smoothing.
fn trial_error(
    layer: &Layer,
    columns: &[f32],
    factors: &[f32],
    target: &[f32],
    policy: &Policy,
) -> Result<f64, Error> {
    let k = factors.len();
    let smoothed = layer.ranges.iter().zip(factors).map(|(&(lo, hi), &s)| (lo / s, hi / s));
    let (lo, hi) = smoothed.fold((0.0f32, 0.0f32), |(a, b), (lo, hi)| (a.min(lo), b.max(hi)));
    let (params, _) = Params::from_range(lo, hi, layer.activation_grid, policy);
    let x: Vec<f32> =
        layer.tokens.chunks_exact(k).flat_map(|t| t.iter().zip(factors).map(|(x, s)| x / s)).collect();
    let x = on_grid(&x, &Layout::per_tensor(x.len()), &[params], layer.activation_grid)?;

    let w: Vec<f32> =
        columns.chunks_exact(k).flat_map(|c| c.iter().zip(factors).map(|(w, s)| w * s)).collect();
    let layout = Layout::per_axis(&[columns.len() / k, k], 0)?;
    let (params, _) = Params::for_channels(&ranges(&w, &layout)?, layer.weight_grid, policy);
    let w = on_grid(&w, &layout, &params, layer.weight_grid)?;

    let got = product(&x, &w, k);
    let error: f64 = got.iter().zip(target).map(|(g, t)| (f64::from(*g) - f64::from(*t)).powi(2)).sum();
    Ok(error / target.len().max(1) as f64)
}

fn on_grid(x: &[f32], layout: &Layout, params: &[Params], grid: Grid) -> Result<Vec<f32>, Error> {
    let mut out = vec![0.0; x.len()];
    if grid.code.is_float() {
        minifloat::fake_quantize(x, layout, params, grid.code, Overflow::Saturate, &mut out)?;
    } else {
        fake_quantize(x, layout, params, grid.codes(), &mut out)?;
    }
    Ok(out)
}

/// [tokens, K]·[columns, K]ᵀ, row-major [tokens, columns].
fn product(tokens: &[f32], columns: &[f32], k: usize) -> Vec<f32> {
    const LANES: usize = 8;
    let dot = |a: &[f32], b: &[f32]| {
        let ((a, x), (b, y)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        let mut sum = [0.0f32; LANES];
        for (a, b) in a.iter().zip(b) {
            for i in 0..LANES {
                sum[i] += a[i] * b[i];
            }
        }
        sum.iter().sum::<f32>() + x.iter().zip(y).map(|(a, b)| a * b).sum::<f32>()
    };
    tokens.chunks_exact(k).flat_map(|t| columns.chunks_exact(k).map(move |c| dot(t, c))).collect()
}

/// 0.00, 0.05, … 1.00.
pub fn default_alphas() -> Vec<f64> {
    (0..=20).map(|i| f64::from(i) / 20.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::CodeType;
    use crate::grid::Span;

    /// Numbers in -1..1 that look random.
    fn noise(seed: u64, n: usize) -> Vec<f32> {
        let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            (s >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    fn grids() -> (Grid, Grid) {
        (Grid::asymmetric(CodeType::U8), Grid::symmetric(CodeType::I8).with_span(Span::Narrow))
    }

    fn outcome(outlier: f32) -> Smoothing {
        let (k, n, t) = (32, 300, 40);
        let mut x = noise(1, t * k);
        x.iter_mut().skip(5).step_by(k).for_each(|v| *v *= outlier);
        let w = noise(2, k * n);
        let ranges = crate::quantize::ranges(&x, &Layout::per_axis(&[t, k], 1).unwrap()).unwrap();
        let (activation_grid, weight_grid) = grids();
        let layer = Layer { ranges: &ranges, tokens: &x, weights: &w, activation_grid, weight_grid };
        search(&layer, &default_alphas(), &Policy::default()).unwrap()
    }

    #[test]
    fn an_outlier_channel_is_smoothed_and_a_plain_layer_hardly() {
        let s = outcome(100.0);
        assert!(s.error < s.error_before / 20.0, "{s:?}");
        assert!(s.alpha.is_some_and(|a| a > 0.1 && a < 0.95), "{:?}", s.alpha);
        assert!(s.factors[5] / s.factors[4] > 5.0);
        let plain = outcome(1.0);
        assert!(plain.error <= plain.error_before && plain.error > plain.error_before * 0.8);
    }

    #[test]
    fn factors_follow_the_formula_and_dead_channels_keep_one() {
        let s = factors(&[4.0, 0.0, 1.0, f32::INFINITY], &[0.25, 1.0, 0.0, 1.0], 0.5).unwrap();
        assert_eq!(s, [4.0, 1.0, 1.0, 1.0]);
        assert_eq!(factors(&[9.0], &[2.0], 1.0).unwrap(), [9.0]);
        assert_eq!(factors(&[9.0], &[2.0], 0.0).unwrap(), [0.5]);
        assert!(factors(&[1.0], &[], 0.5).is_err());
    }

    #[test]
    fn sizes_are_checked_and_ugly_numbers_survive() {
        let (activation_grid, weight_grid) = grids();
        let layer = |ranges, tokens, weights| Layer { ranges, tokens, weights, activation_grid, weight_grid };
        let p = Policy::default();
        let r = [(0.0, 1.0); 2];
        assert!(search(&layer(&r, &[1.0; 3], &[1.0; 4]), &[0.5], &p).is_err());
        assert!(search(&layer(&r, &[1.0; 4], &[1.0; 5]), &[0.5], &p).is_err());
        assert!(search(&layer(&[], &[], &[]), &[0.5], &p).is_err());
        let s =
            search(&layer(&[(0.0, f32::INFINITY), (0.0, 1.0)], &[f32::NAN; 4], &[f32::NAN; 4]), &[0.5], &p);
        assert_eq!(s.unwrap().alpha, None, "nothing to be learned from NaN");
        assert_eq!(search(&layer(&r, &[1.0; 4], &[]), &[0.5], &p).unwrap().alpha, None);
    }
}
