//! What is tried for a block, and how a trial is judged.

use crate::weight::{Bits, Spec, Zero};

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
pub(super) const POLISH: usize = 3;

/// The larger, where neither is NaN: `f32::max` also looks for NaN.
#[inline(always)]
pub(super) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The smaller, where neither is NaN.
#[inline(always)]
pub(super) fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// Σ d², Σ d·r, Σ r² of a trial, all in units of the scale.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sums {
    pub(super) dd: f32,
    pub(super) dr: f32,
    pub(super) rr: f32,
}

impl Sums {
    pub(super) const ZERO: Self = Self { dd: 0.0, dr: 0.0, rr: 0.0 };

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
pub(super) struct Best {
    pub(super) error: f32,
    pub(super) scale: f32,
    pub(super) zero: f32,
}

impl Best {
    /// The better of this and the trial; the trial only if it loses less.
    #[inline(always)]
    pub(super) fn or(self, sums: Sums, scale: f32, zero: f32) -> Best {
        let trial = Best { error: sums.error(scale), scale: sums.best_scale(scale), zero };
        if trial.error < self.error { trial } else { self }
    }
}

/// What the search of one kind of spec goes through.
#[derive(Clone, Copy)]
pub(super) struct Ladder {
    pub(super) top: f32,
    pub(super) center: f32,
    /// Zero points per block.
    pub(super) free: bool,
    pub(super) first: f32,
    pub(super) step: f32,
    pub(super) steps: usize,
}

impl Ladder {
    pub(super) fn new(spec: &Spec) -> Ladder {
        let (first, last, steps) = ladder(spec.bits);
        let (top, center) = (f32::from(spec.bits.max_code()), f32::from(spec.bits.center()));
        let step = (last - first) / (steps - 1) as f32;
        Ladder { top, center, free: spec.zero == Zero::PerBlock, first, step, steps }
    }

    /// The min/max scale of a block; 1 for a block of zeros, whose search finds nothing.
    #[inline(always)]
    pub(super) fn base(&self, lo: f32, hi: f32) -> f32 {
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
    pub(super) fn zero(&self, lo: f32, hi: f32, scale: f32) -> f32 {
        if !self.free {
            return self.center;
        }
        smaller(larger(((self.top - (hi + lo) / scale) * 0.5).floor(), 0.0), self.top - 1.0)
    }
}
