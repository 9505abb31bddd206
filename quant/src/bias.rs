//! INT32 biases: b ≈ code·(s_x·s_w), zero point 0, so that an integer kernel adds the code to its accumulator.
//!
//! **Overflow.** The code must fit, and so must accumulator plus code. Where |b|/(s_x·s_w) is too large (dead weights
//! beside a large bias, tiny activations), the *weight* scale is raised until it fits ([`raise_weight_scales`]) and the
//! weights are quantized again with it: they lose resolution that cannot show beside such a bias. onnxruntime does the
//! same for symmetric weights (quant_utils, 1.31) but leaves no room for the accumulator.

use crate::error::{Error, check_len};
use crate::grid::Params;

/// Scales are raised this much beyond the bare minimum, against the rounding of the product s_x·s_w.
const MARGIN: f64 = 1.0001;

/// A bias as codes.
#[derive(Debug, Clone, PartialEq)]
pub struct Bias {
    /// One code an output channel.
    pub codes: Vec<i32>,
    /// One scale, or one an output channel: s_x·s_w as float32, as a runtime computes it.
    pub scales: Vec<f32>,
    /// Channels whose code had to be clipped, and those that were NaN (code 0).
    pub clipped: Vec<usize>,
    /// Largest |b - code·scale|, NaN aside.
    pub max_error: f32,
}

/// The largest |code| of a bias that cannot overflow an int32 accumulator of `terms` products, each at most
/// `activation`·`weight` in magnitude (255·128 for 8 bits). At least 2^16: beyond some 65,000 terms of full-size
/// products, which do not occur, the accumulator alone could overflow.
pub fn code_limit(terms: usize, activation: u32, weight: u32) -> i32 {
    let reach = (terms as u128).saturating_mul(u128::from(activation)).saturating_mul(u128::from(weight));
    let limit = i32::MAX as u128;
    limit.saturating_sub(reach).max(1 << 16) as i32
}

/// s_x·s_w in float32, one for each of the weights' scales; kept at or above the least normal number.
pub fn scales(input_scale: f32, weights: &[Params]) -> Vec<f32> {
    weights.iter().map(|w| (input_scale * w.scale()).clamp(f32::MIN_POSITIVE, f32::MAX)).collect()
}

/// The scale of a bias at index `i`: per channel, or the only one.
fn at<T: Copy>(values: &[T], i: usize) -> Option<T> {
    if values.len() == 1 { values.first().copied() } else { values.get(i).copied() }
}

fn check(bias: &[f32], weights: usize) -> Result<(), Error> {
    if weights == 1 { Ok(()) } else { check_len("weight scales beside the bias", bias.len(), weights) }
}

/// Raises weight scales so that every |b| / (s_x·s_w) is at most `limit` (see [`code_limit`]). Returns the indices of
/// the scales raised, in order; their weights must be quantized again. NaN and Inf in the bias are passed over.
///
/// # Errors
/// `weights` has neither one entry nor one for each bias.
pub fn raise_weight_scales(
    bias: &[f32],
    input_scale: f32,
    weights: &mut [Params],
    limit: i32,
) -> Result<Vec<usize>, Error> {
    check(bias, weights.len())?;
    let mut raised = Vec::new();
    let single = weights.len() == 1;
    for (i, w) in weights.iter_mut().enumerate() {
        let sizes = bias.iter().map(|b| b.abs()).filter(|b| b.is_finite());
        let largest = if single { sizes.fold(0.0, f32::max) } else { sizes_at(bias, i) };
        let least = f64::from(largest) / f64::from(limit.max(1));
        if f64::from(input_scale) * f64::from(w.scale()) < least {
            let scale = (least * MARGIN / f64::from(input_scale)) as f32;
            if let Ok(p) = Params::new(scale.clamp(f32::MIN_POSITIVE, f32::MAX), w.zero_point()) {
                *w = p;
                raised.push(i);
            }
        }
    }
    Ok(raised)
}

fn sizes_at(bias: &[f32], i: usize) -> f32 {
    bias.get(i).map(|b| b.abs()).filter(|b| b.is_finite()).unwrap_or(0.0)
}

/// The codes of a bias, round half to even, clipped to ±`limit`.
///
/// # Errors
/// `weights` has neither one entry nor one for each bias.
pub fn quantize(bias: &[f32], input_scale: f32, weights: &[Params], limit: i32) -> Result<Bias, Error> {
    check(bias, weights.len())?;
    let scales = scales(input_scale, weights);
    let mut out = Bias { codes: Vec::with_capacity(bias.len()), clipped: Vec::new(), max_error: 0.0, scales };
    for (i, &b) in bias.iter().enumerate() {
        let scale = f64::from(at(&out.scales, i).unwrap_or(f32::MAX));
        let exact = (f64::from(b) / scale).round_ties_even();
        let code = exact.clamp(-f64::from(limit), f64::from(limit)) as i32; // NaN gives 0
        if f64::from(code) != exact {
            out.clipped.push(i);
        }
        let error = (f64::from(b) - f64::from(code) * scale).abs() as f32;
        out.max_error = out.max_error.max(error); // ignores NaN
        out.codes.push(code);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(scales: &[f32]) -> Vec<Params> {
        scales.iter().map(|&s| Params::new(s, 0).unwrap()).collect()
    }

    #[test]
    fn codes_round_half_to_even_per_channel_and_per_tensor() {
        let b = quantize(&[1.25, -1.25, 0.75], 0.5, &params(&[1.0, 1.0, 0.5]), i32::MAX).unwrap();
        assert_eq!((b.codes, b.scales), (vec![2, -2, 3], vec![0.5, 0.5, 0.25]));
        assert_eq!((b.max_error, b.clipped.len()), (0.25, 0));
        let b = quantize(&[1.0, -3.0], 0.5, &params(&[2.0]), i32::MAX).unwrap();
        assert_eq!((b.codes, b.scales), (vec![1, -3], vec![1.0]));
        assert!(quantize(&[1.0; 3], 0.5, &params(&[1.0; 2]), i32::MAX).is_err());
        assert!(quantize(&[], 0.5, &params(&[1.0]), i32::MAX).unwrap().codes.is_empty());
    }

    #[test]
    fn overflow_raises_the_weight_scale_of_that_channel_only() {
        let bias = [1000.0, 1.0, f32::INFINITY];
        let limit = code_limit(4608, 255, 128);
        let mut w = params(&[1e-9, 1e-3, 1e-3]);
        let clipped = quantize(&bias, 1e-4, &w, limit).unwrap().clipped;
        assert_eq!(clipped, [0, 2]);
        assert_eq!(raise_weight_scales(&bias, 1e-4, &mut w, limit).unwrap(), [0]);
        assert_eq!(w[1].scale(), 1e-3);
        let b = quantize(&bias, 1e-4, &w, limit).unwrap();
        assert_eq!(b.clipped, [2]);
        assert!(b.codes[0] > limit / 2 && b.codes[0] <= limit);
        // accumulator and code together stay in range
        assert!(i64::from(b.codes[0]) + 4608 * 255 * 128 <= i64::from(i32::MAX));
        assert!(raise_weight_scales(&bias, 1e-4, &mut w, limit).unwrap().is_empty(), "once is enough");
        let mut one = params(&[1e-12]);
        assert_eq!(raise_weight_scales(&[0.5, -7.0], 1e-3, &mut one, limit).unwrap(), [0]);
        assert!(quantize(&[0.5, -7.0], 1e-3, &one, limit).unwrap().clipped.is_empty());
    }

    #[test]
    fn ugly_biases_and_scales() {
        let b =
            quantize(&[f32::NAN, f32::NEG_INFINITY, f32::MAX], f32::MIN_POSITIVE, &params(&[1e-30]), 1 << 30)
                .unwrap();
        assert_eq!((b.codes, b.clipped), (vec![0, -(1 << 30), 1 << 30], vec![0, 1, 2]));
        assert_eq!(b.scales, [f32::MIN_POSITIVE]);
        assert_eq!(code_limit(usize::MAX, u32::MAX, u32::MAX), 1 << 16);
        assert_eq!(code_limit(0, 255, 128), i32::MAX);
    }
}
