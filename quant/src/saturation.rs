//! Saturation of 8-bit products on x86 CPUs without VNNI.
//!
//! `pmaddubsw` multiplies unsigned activation codes with signed weight codes and adds neighbouring products in *int16*,
//! saturating: 255·127 + 255·127 = 64,770 becomes 32,767. The same model is then right on one machine and wrong on
//! another. Weights of 7 bits (|w| ≤ 64) cannot saturate; they cost resolution, so they are for the layers that do.
//!
//! Weight rows are the codes that meet one output, in the order in which the kernel walks the reduction; neighbours are
//! positions 2k and 2k + 1, as in MLAS's U8S8 kernels. Signed activations are shifted by 128 there, so that their codes
//! count from 0 to 255, too.

use crate::error::{Error, check_len};

/// What can happen to the pairs of some weights.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PairBound {
    /// Pairs of neighbours (a last single one counts as a pair with 0).
    pub pairs: u64,
    /// Pairs that some activation codes up to the given one saturate.
    pub can_saturate: u64,
    /// Least and greatest sum of a pair, before saturation.
    pub least: i32,
    /// See `least`.
    pub greatest: i32,
}

/// Bounds over all activation codes 0..=`max_activation`. `row` is the length of a weight row; `weights` holds whole
/// rows.
///
/// # Errors
/// A row length of 0, or rows that are not whole.
pub fn bound(weights: &[i8], row: usize, max_activation: u8) -> Result<PairBound, Error> {
    if row == 0 {
        return Err(Error::Shape("weight rows of length 0".to_string()));
    }
    check_len("weights in whole rows", weights.len().div_ceil(row).saturating_mul(row), weights.len())?;
    let mut out = PairBound::default();
    let a = i32::from(max_activation);
    for pair in weights.chunks_exact(row).flat_map(|r| r.chunks(2)) {
        let sum = |f: fn(i32) -> i32| pair.iter().map(|w| a * f(i32::from(*w))).sum::<i32>();
        let (least, greatest) = (sum(|w| w.min(0)), sum(|w| w.max(0)));
        out.pairs += 1;
        out.can_saturate += u64::from(least < i32::from(i16::MIN) || greatest > i32::from(i16::MAX));
        out.least = out.least.min(least);
        out.greatest = out.greatest.max(greatest);
    }
    Ok(out)
}

/// The dot product as `pmaddubsw` and 32-bit addition give it.
pub fn dot_saturating(activations: &[u8], weights: &[i8]) -> i32 {
    let pairs = activations.chunks(2).zip(weights.chunks(2));
    let product = |(a, w): (&u8, &i8)| i32::from(*a) * i32::from(*w);
    pairs.fold(0i32, |sum, (a, w)| {
        let pair: i32 = a.iter().zip(w).map(product).sum();
        sum.wrapping_add(pair.clamp(i32::from(i16::MIN), i32::from(i16::MAX)))
    })
}

/// The dot product as VNNI and Arm give it.
pub fn dot(activations: &[u8], weights: &[i8]) -> i32 {
    activations.iter().zip(weights).fold(0i32, |s, (a, w)| s.wrapping_add(i32::from(*a) * i32::from(*w)))
}

/// What saturation does to real activations.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Effect {
    /// Dot products computed.
    pub dots: u64,
    /// Those that saturation changes.
    pub changed: u64,
    /// Largest change, in accumulator units (multiply by s_x·s_w).
    pub max_change: i64,
    /// Σ of squared changes.
    pub noise: f64,
    /// Σ of squares of the right results, less the activation zero point's part.
    pub signal: f64,
}

impl Effect {
    /// Signal to noise in dB (200: no change).
    pub fn sqnr_db(&self) -> f64 {
        crate::range::density::decibels(self.signal, self.noise)
    }
}

/// Runs every activation row against every weight row, both ways. `zero_point` is the activations', used for the signal
/// only.
///
/// # Errors
/// A row length of 0, or rows that are not whole.
pub fn effect(activations: &[u8], weights: &[i8], row: usize, zero_point: u8) -> Result<Effect, Error> {
    bound(weights, row, 255)?;
    check_len(
        "activations in whole rows",
        activations.len().div_ceil(row).saturating_mul(row),
        activations.len(),
    )?;
    let mut out = Effect::default();
    for w in weights.chunks_exact(row) {
        let offset = i64::from(zero_point) * w.iter().map(|w| i64::from(*w)).sum::<i64>();
        for a in activations.chunks_exact(row) {
            let right = i64::from(dot(a, w));
            let change = (i64::from(dot_saturating(a, w)) - right).abs();
            out.dots += 1;
            out.changed += u64::from(change != 0);
            out.max_change = out.max_change.max(change);
            out.noise += (change as f64).powi(2);
            out.signal += ((right - offset) as f64).powi(2);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_are_reached_and_seven_bits_are_safe() {
        let b = bound(&[127, 127, -128, -128, 5, -5], 6, 255).unwrap();
        assert_eq!((b.pairs, b.can_saturate, b.least, b.greatest), (3, 2, -65280, 64770));
        assert_eq!(bound(&[64; 8], 4, 255).unwrap().can_saturate, 0);
        assert_eq!(bound(&[-64; 8], 4, 255).unwrap().can_saturate, 0);
        assert_eq!(bound(&[65; 8], 4, 255).unwrap().can_saturate, 4);
        // pairs do not cross rows
        assert_eq!(bound(&[1, 127, 127, 1, 1, 127], 3, 255).unwrap().can_saturate, 0);
        assert_eq!(bound(&[127; 4], 2, 100).unwrap().can_saturate, 0, "small activations are safe");
        assert!(bound(&[1; 5], 2, 255).is_err() && bound(&[], 0, 255).is_err());
    }

    #[test]
    fn saturation_is_simulated() {
        assert_eq!(dot_saturating(&[255, 255, 1], &[127, 127, 3]), 32767 + 3);
        assert_eq!(dot_saturating(&[255, 255], &[-128, -128]), -32768);
        let e = effect(&[255, 255, 0, 1], &[127, 127], 2, 0).unwrap();
        assert_eq!((e.dots, e.changed, e.max_change), (2, 1, 64770 - 32767));
        assert_eq!(effect(&[1, 2], &[3, 4], 2, 0).unwrap().sqnr_db(), 200.0);
    }

    proptest! {
        #[test]
        fn safe_by_bound_is_safe_in_fact(
            (a, w) in (1usize..20).prop_flat_map(|n| (
                prop::collection::vec(any::<u8>(), n), prop::collection::vec(-90i8..=90, n))),
        ) {
            let most = a.iter().copied().max().unwrap_or(0);
            if bound(&w, w.len(), most).unwrap().can_saturate == 0 {
                prop_assert_eq!(dot(&a, &w), dot_saturating(&a, &w));
            }
        }
    }
}
