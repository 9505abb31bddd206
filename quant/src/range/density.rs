//! A sketch seen as a density: pieces of constant density, in order, and an atom at zero. Every method that weighs
//! ranges works on this, and none needs the data again.
//!
//! **The error a grid would make** is integrated exactly over each piece. Within the codes the squared rounding error
//! is periodic with antiderivative s³·(n/12 + r³/3), where x = (n + r)·s and n is x/s rounded; beyond the last code it is
//! the squared distance to it. Zeros cost nothing: every grid here represents zero exactly. That is why the atom that
//! Relu leaves at zero is kept apart: spread over its bin, it would drown everything else.

use super::histogram::Histogram;
use super::sketch::Sketch;
use crate::grid::{Grid, Params};
use crate::minifloat::{MiniFloat, Overflow};

/// Decibels that stand for "no error at all".
pub const MAX_DB: f64 = 200.0;

/// 10·log10(signal / noise), kept within ±[`MAX_DB`]; without signal and noise, [`MAX_DB`].
pub fn decibels(signal: f64, noise: f64) -> f64 {
    if noise == 0.0 {
        return MAX_DB;
    }
    let ratio = signal / noise;
    if ratio > 0.0 { (10.0 * ratio.log10()).clamp(-MAX_DB, MAX_DB) } else { -MAX_DB }
}

/// See the module. Columns of equal length, ascending.
#[derive(Debug, Clone)]
pub struct Density {
    /// Lower and upper ends of the pieces; equal ends are an atom.
    from: Vec<f64>,
    to: Vec<f64>,
    /// Numbers in each piece.
    count: Vec<f64>,
    /// Numbers per unit of length; 0 for an atom.
    dense: Vec<f64>,
    /// The atoms other than zero: place and count.
    atoms: Vec<(f64, f64)>,
    zeros: f64,
    infinite: f64,
    extent: (f64, f64),
    power: f64,
    width: f64,
}

impl Density {
    /// The density of the finite numbers of a sketch.
    pub fn of(sketch: &Sketch) -> Self {
        let h = sketch.histogram();
        let neg = h.negative().iter().enumerate().rev().map(|(i, &c)| (!(i as i64), c));
        let pos = h.positive().iter().enumerate().map(|(i, &c)| (i as i64, c));
        let (lo, hi) = sketch.extent().unwrap_or((0.0, 0.0));
        Self::build(sketch, h, neg.chain(pos), (f64::from(lo), f64::from(hi)))
    }

    /// The density of the magnitudes.
    pub fn of_magnitudes(sketch: &Sketch) -> Self {
        let h = sketch.histogram();
        let n = h.negative().len().max(h.positive().len());
        let at = |bins: &[u64], i: usize| bins.get(i).copied().unwrap_or(0);
        let bins = (0..n).map(|i| (i as i64, at(h.negative(), i).saturating_add(at(h.positive(), i))));
        let least = match sketch.extent() {
            Some((lo, _)) if lo > 0.0 => lo,
            Some((_, hi)) if hi < 0.0 => -hi,
            _ => 0.0,
        };
        Self::build(sketch, h, bins, (f64::from(least), f64::from(sketch.abs_max())))
    }

    /// `bins`: place of the lower edge in units of the width, and count.
    fn build(
        sketch: &Sketch,
        h: &Histogram,
        bins: impl Iterator<Item = (i64, u64)>,
        extent: (f64, f64),
    ) -> Self {
        let width = h.width();
        let mut d = Self {
            from: Vec::new(),
            to: Vec::new(),
            count: Vec::new(),
            dense: Vec::new(),
            atoms: Vec::new(),
            zeros: sketch.zeros() as f64,
            infinite: sketch.infinite() as f64,
            extent,
            power: sketch.mean_square() * sketch.finite() as f64,
            width,
        };
        for (place, count) in bins.filter(|(_, c)| *c > 0) {
            // The extrema are known exactly: the bins that hold them end there.
            let (mut a, mut b) =
                ((place as f64 * width).max(extent.0), ((place + 1) as f64 * width).min(extent.1));
            if b - a <= 1e-9 * a.abs().max(b.abs()) {
                (a, b) = (0.5 * (a + b), 0.5 * (a + b));
            }
            let count = count as f64;
            d.from.push(a);
            d.to.push(b);
            d.count.push(count);
            d.dense.push(if b > a { count / (b - a) } else { 0.0 });
            if a == b {
                d.atoms.push((a, count));
            }
        }
        d
    }

    /// Lower ends, upper ends and counts of the pieces.
    pub fn pieces(&self) -> (&[f64], &[f64], &[f64]) {
        (&self.from, &self.to, &self.count)
    }

    /// Numbers that are zero.
    pub fn zeros(&self) -> f64 {
        self.zeros
    }

    /// The bin width of the sketch.
    pub fn width(&self) -> f64 {
        self.width
    }

    /// Least and greatest number.
    pub fn extent(&self) -> (f64, f64) {
        self.extent
    }

    /// Finite numbers, zeros included.
    pub fn total(&self) -> f64 {
        self.count.iter().sum::<f64>() + self.zeros
    }

    /// Σ of squares.
    pub fn power(&self) -> f64 {
        self.power
    }

    /// The number below which the share `q` (0 to 1) of all numbers lies: the order statistic at rank q·(n-1), taken to
    /// lie evenly within its bin. Off by at most a bin width; exact at 0 and 1.
    pub fn quantile(&self, q: f64) -> f64 {
        let last = self.total() - 1.0;
        let rank = q * last;
        if last < 0.0 || rank <= 0.0 {
            return self.extent.0;
        }
        if rank >= last {
            return self.extent.1;
        }
        let split = self.from.partition_point(|a| *a < 0.0);
        let piece = |i: usize| (self.from[i], self.to[i], self.count[i]);
        let below = (0..split).map(piece);
        let above = (split..self.from.len()).map(piece);
        let mut seen = 0.0;
        for (a, b, n) in below.chain(std::iter::once((0.0, 0.0, self.zeros))).chain(above) {
            if rank < seen + n {
                return a + (b - a) * ((rank - seen + 0.5) / n).min(1.0);
            }
            seen += n;
        }
        self.extent.1
    }

    /// Expected Σ of squared errors on this grid. `clip_weight` multiplies the part from clipping (1: plain squared
    /// error).
    pub fn noise(&self, params: Params, grid: Grid, clip_weight: f64) -> f64 {
        match MiniFloat::of(grid.code) {
            Some(format) => self.float_noise(params, format),
            None => self.integer_noise(params, grid, clip_weight),
        }
    }

    /// Share of all numbers, ±Inf included, that lie beyond the codes by more than rounding reaches (half a step).
    pub fn clipped(&self, params: Params, grid: Grid) -> f64 {
        let (lo, hi) = params.interval(grid);
        let slack = if grid.code.is_float() { 0.0 } else { 0.5 * f64::from(params.scale()) };
        let (lo, hi) = (lo - slack, hi + slack);
        let all = self.total() + self.infinite;
        if all <= 0.0 {
            return 0.0;
        }
        let low: f64 = (0..self.from.partition_point(|a| *a < lo)).map(|i| self.beyond(i, lo, hi)).sum();
        let first_high = self.to.partition_point(|b| *b <= hi).max(self.from.partition_point(|a| *a < lo));
        let high: f64 = (first_high..self.from.len()).map(|i| self.beyond(i, lo, hi)).sum();
        (low + high + self.infinite) / all
    }

    /// Numbers of piece `i` outside `lo..=hi`.
    fn beyond(&self, i: usize, lo: f64, hi: f64) -> f64 {
        let (a, b, n) = (self.from[i], self.to[i], self.count[i]);
        if a == b {
            return if a < lo || a > hi { n } else { 0.0 };
        }
        n * (1.0 - (b.min(hi) - a.max(lo)).max(0.0) / (b - a))
    }

    fn integer_noise(&self, params: Params, grid: Grid, clip_weight: f64) -> f64 {
        let (lo, hi) = params.interval(grid);
        let scale = f64::from(params.scale());
        let k = Kernel { scale, inverse: 1.0 / scale, lo, hi, clip_weight };
        sum_noise(&self.from, &self.to, &self.dense, k)
            + self.atoms.iter().map(|&(x, n)| n * k.at(x)).sum::<f64>()
    }

    /// Float codes are not evenly spaced: each piece is sampled at four points.
    fn float_noise(&self, params: Params, format: MiniFloat) -> f64 {
        let s = params.scale();
        let mut noise = 0.0;
        for ((&a, &b), &count) in self.from.iter().zip(&self.to).zip(&self.count) {
            for part in [0.125, 0.375, 0.625, 0.875] {
                let x = a + (b - a) * part;
                let back = f64::from(
                    format.decode(format.encode((x / f64::from(s)) as f32, Overflow::Saturate)) * s,
                );
                noise += 0.25 * count * (back - x) * (back - x);
            }
        }
        noise
    }
}

/// The squared error of one integer grid.
#[derive(Clone, Copy)]
struct Kernel {
    scale: f64,
    inverse: f64,
    lo: f64,
    hi: f64,
    clip_weight: f64,
}

impl Kernel {
    /// x clamped to the codes, as a code and a remainder, in steps.
    #[inline(always)]
    fn split(self, x: f64) -> (f64, f64) {
        // Rounds to nearest for |u| < 2^51; codes are far below. Ties do not matter: r² is the same on both sides.
        const MAGIC: f64 = 6_755_399_441_055_744.0;
        let x = if x < self.lo { self.lo } else { x };
        let u = (if x > self.hi { self.hi } else { x }) * self.inverse;
        let n = (u + MAGIC) - MAGIC;
        (n, u - n)
    }

    /// Distance beyond the codes, signed.
    #[inline(always)]
    fn excess(self, x: f64) -> f64 {
        let over = if x > self.hi { x - self.hi } else { 0.0 };
        if x < self.lo { x - self.lo } else { over }
    }

    /// At one point.
    fn at(self, x: f64) -> f64 {
        let ((_, r), e) = (self.split(x), self.excess(x));
        self.scale * self.scale * r * r + self.clip_weight * e * e
    }

    /// Integrated from `a` to `b`.
    #[inline(always)]
    fn between(self, a: f64, b: f64) -> f64 {
        let cube = |x: f64| x * x * x;
        let ((na, ra), (nb, rb)) = (self.split(a), self.split(b));
        let inside = (nb - na) * (1.0 / 12.0) + (cube(rb) - cube(ra)) * (1.0 / 3.0);
        let outside = (cube(self.excess(b)) - cube(self.excess(a))) * (1.0 / 3.0);
        cube(self.scale) * inside + self.clip_weight * outside
    }
}

crate::dispatch! {
    fn sum_noise, sum_noise_avx2 = sum_noise_body(from: &[f64], to: &[f64], dense: &[f64], k: Kernel) -> f64
}

/// Four sums by position, folded in order: the same result for every vector width.
#[inline(always)]
fn sum_noise_body(from: &[f64], to: &[f64], dense: &[f64], k: Kernel) -> f64 {
    let ((from, a), (to, b), (dense, n)) =
        (from.as_chunks::<4>(), to.as_chunks::<4>(), dense.as_chunks::<4>());
    let mut sum = [0.0f64; 4];
    for ((a, b), n) in from.iter().zip(to).zip(dense) {
        for i in 0..4 {
            sum[i] += n[i] * k.between(a[i], b[i]);
        }
    }
    let rest: f64 = a.iter().zip(b).zip(n).map(|((a, b), n)| n * k.between(*a, *b)).sum();
    sum.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What processors without AVX2 run gives the same bits.
    #[test]
    fn both_compilations_agree() {
        let from: Vec<f64> = (0..103).map(|i| f64::from(i) * 0.0371 - 2.0).collect();
        let to: Vec<f64> = from.iter().map(|a| a + 0.0371).collect();
        let dense: Vec<f64> = (0..103).map(|i| f64::from(i * 37 % 11)).collect();
        let k = Kernel { scale: 0.013, inverse: 1.0 / 0.013, lo: -1.3, hi: 1.2, clip_weight: 3.0 };
        assert_eq!(
            sum_noise(&from, &to, &dense, k).to_bits(),
            sum_noise_body(&from, &to, &dense, k).to_bits()
        );
    }

    #[test]
    fn decibels_never_are_nan() {
        assert_eq!([decibels(0.0, 0.0), decibels(1.0, 0.0), decibels(0.0, 1.0)], [200.0, 200.0, -200.0]);
        assert_eq!([decibels(-1.0, 1.0), decibels(f64::NAN, 1.0), decibels(1.0, f64::INFINITY)], [-200.0; 3]);
        assert_eq!(decibels(100.0, 1.0), 20.0);
    }
}
