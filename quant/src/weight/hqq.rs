//! `hqq`: half-quadratic quantization (Badri & Shaji 2023): the zero point of each block that loses least in a robust
//! norm, found by iteration. Data-free.
//!
//! Scale from min/max (inverse scale s); then, at most 20 times:
//!
//! ```text
//! q = clip(round(w·s + z)),  r = (q − z) / s,  e = shrink(w − r, β),  z = mean(q − (w − e)·s)
//! shrink(u, β) = sign(u)·max(|u| − |u|^(p−1) / β, 0),  p = 0.7,  β = 10·1.01^i
//! ```
//!
//! stopping when mean |w − r| no longer falls; the best zero point seen is kept. It is fractional: w = (q − z)·scale. The
//! result is an [`Affine`] weight (`min` = −z·scale), emitted exactly as two terms. [`hqq_rounded`] rounds the zero point to
//! an integer for formats without offsets, and re-rounds the codes for it.

use super::affine::{Affine, affine_by_block};
use super::rtn::{BlockGrid, by_block, encode, range};
use super::{Method, Quantized, Spec, Weight, WeightError};

const P: f64 = 0.7;
const ITERATIONS: usize = 20;

/// The solved zero point and the min/max scale of a block that is not all zero.
fn solve(block: &[f32], spec: &Spec) -> (f64, f64) {
    let top = f64::from(spec.bits.max_code());
    let (lo, hi) = block.iter().fold((f32::MAX, f32::MIN), |(lo, hi), &v| (lo.min(v), hi.max(v)));
    let (lo, hi) = (f64::from(lo), f64::from(hi));
    let ideal = if hi > lo { (hi - lo) / top } else { lo.abs() };
    let scale = f64::from(spec.scale.round(ideal).unwrap_or(spec.scale.min_scale()));
    let inverse = 1.0 / scale;
    let mut zero = -lo * inverse;
    let mut best = (f64::INFINITY, zero);
    let mut beta = 10.0;
    for _ in 0..ITERATIONS {
        let (mut error, mut sum) = (0.0, 0.0);
        for &w in block {
            let w = f64::from(w);
            let q = (w * inverse + zero).round_ties_even().clamp(0.0, top);
            let u = w - (q - zero) * scale;
            error += u.abs();
            // |u|^(p−1) grows without bound at 0, where the shrunk value is 0 anyway.
            let shrunk =
                if u == 0.0 { 0.0 } else { (u.abs() - u.abs().powf(P - 1.0) / beta).max(0.0).copysign(u) };
            sum += q - (w - shrunk) * inverse;
        }
        if error >= best.0 {
            break;
        }
        best = (error, zero);
        zero = sum / block.len() as f64;
        beta *= 1.01;
    }
    (scale, best.1)
}

/// Half-quadratic quantization with fractional zero points. The spec's `zero` is not used.
pub fn hqq(weight: &Weight<'_>, spec: &Spec) -> Result<Affine, WeightError> {
    let top = f64::from(spec.bits.max_code());
    affine_by_block(weight, spec, Method::Hqq, |_, block, codes| {
        if range(block) == (0.0, 0.0) {
            return (0.0, 0.0);
        }
        let (scale, zero) = solve(block, spec);
        let min = (-zero * scale) as f32;
        for (code, &w) in codes.iter_mut().zip(block) {
            *code = ((f64::from(w) - f64::from(min)) / scale).round_ties_even().clamp(0.0, top) as u8;
        }
        (scale as f32, min)
    })
}

/// [`hqq`] with the zero point rounded to an integer code, for formats without offsets.
pub fn hqq_rounded(weight: &Weight<'_>, spec: &Spec) -> Result<Quantized, WeightError> {
    let top = spec.bits.max_code();
    let spec = Spec { zero: super::Zero::PerBlock, ..*spec };
    by_block(
        weight,
        &spec,
        Method::Hqq,
        || (),
        |(), _, block, codes| {
            let mut grid = BlockGrid::of_zeros(&spec);
            if range(block) != (0.0, 0.0) {
                let (scale, zero) = solve(block, &spec);
                grid =
                    BlockGrid::new(&spec, scale, |_| zero.round_ties_even().clamp(0.0, f64::from(top)) as u8);
            }
            encode(block, &grid, top, codes);
            grid
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::rtn::rtn;
    use crate::weight::testing::{gaussian, relative_error};

    #[test]
    fn errors_on_gaussian_weights() {
        let w = gaussian(64 * 512, 4);
        let weight = Weight::from_rows(&w[..], 64, 512).unwrap();
        let spec = Spec::int4(64);
        let error = |q: &[f32]| relative_error(&w, q);
        let nearest = error(&rtn(&weight, &spec).unwrap().dequantize());
        let fractional = error(&hqq(&weight, &spec).unwrap().dequantize());
        let rounded = error(&hqq_rounded(&weight, &spec).unwrap().dequantize());
        // A free offset saves the rounding of the zero point; the robust norm gives up a little squared error.
        assert!(fractional < nearest && rounded < 1.05 * nearest, "{fractional} {rounded} {nearest}");
    }

    #[test]
    fn the_two_terms_add_up() {
        let w = gaussian(5 * 70, 1);
        let weight = Weight::from_rows(&w[..], 5, 70).unwrap();
        for bits in [2u8, 3, 4, 8] {
            let q = hqq(&weight, &Spec::int4(32).with_bits(bits.try_into().unwrap())).unwrap();
            let two = q.two_term();
            let symmetric = two.weight.dequantize();
            for (i, w) in q.dequantize().iter().enumerate() {
                let sum = symmetric[i] + two.offsets[i / 70 * 3 + i % 70 / 32];
                assert!((w - sum).abs() < 1e-5); // two roundings of numbers below 10
            }
        }
    }

    #[test]
    fn degenerate_blocks() {
        let mut w = [0.0; 12];
        w[4..8].fill(2.5); // constant, not zero
        (w[8], w[9]) = (1e30, -1e-30);
        let q = hqq(&Weight::from_rows(&w[..], 1, 12).unwrap(), &Spec::int4(4)).unwrap();
        assert!(q.scales.iter().all(|s| *s > 0.0 && s.is_finite()));
        let back = q.dequantize();
        assert_eq!(back[..4], [0.0; 4]);
        assert!(back[4..8].iter().all(|v| (v - 2.5).abs() < 1e-5)); // one rounding
        assert!((back[8] / 1e30 - 1.0).abs() < 0.1); // its block holds three zeros, which the robust norm favours
        let rounded = hqq_rounded(&Weight::from_rows(&w[..], 1, 12).unwrap(), &Spec::int4(4)).unwrap();
        assert!(rounded.dequantize().iter().all(|v| v.is_finite()));
    }
}
