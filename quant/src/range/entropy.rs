//! `entropy`: the threshold whose grid keeps the distribution closest, by Kullback-Leibler divergence.
//!
//! The method of TensorRT's calibrator (Migacz, GTC 2017) with what its copies get wrong put right. For *every* bin
//! edge t as threshold (not one in a hundred, not only the full range):
//! - the grid is the one that the range [max(-t, min), min(t, max)] leads to, so one-signed values get one-sided ranges
//!   and an asymmetric grid its own zero point;
//! - P is the histogram within the range, with everything beyond added to the bins at its ends;
//! - Q is the histogram within the range, without what is beyond, as the grid would show it: what falls to one code is
//!   spread evenly over those bins of the code where P is not empty;
//! - the divergence is Σ p·ln(p/q) over the bins with p > 0, where p and q are shares of *all* numbers. Q is not scaled
//!   up for what was cut off: scaled, a range that holds next to nothing (two bins, or the valley between two modes)
//!   would look perfect, since the tails fill the end bins of P and those of Q alike. A code that got its numbers only
//!   from beyond the range counts as holding half a number.
//!
//! Zeros are left out on both sides: every grid shows them exactly, and Relu's atom at zero would otherwise be smeared
//! over the first code and decide everything. With at least twice as many codes as bins the divergence measures
//! nothing but clipping, and the answer is the full range. On a tie the wider range wins.

use super::Interval;
use super::sketch::Sketch;
use crate::grid::{Grid, Params, Policy};

/// The best range; `None` if no finite number was seen. Float codes get the full range: the method is about even grids.
pub fn range(sketch: &Sketch, grid: Grid, policy: &Policy) -> Option<Interval> {
    let (lo, hi) = sketch.extent()?;
    let h = sketch.histogram();
    let n = h.negative().len().max(h.positive().len());
    if grid.code.is_float() || grid.steps() >= 4.0 * n as f64 {
        return Some((lo, hi));
    }
    let bins = Bins::new(h.negative(), h.positive());
    let width = h.width();
    let mut best = (f64::INFINITY, (lo, hi));
    let mut codes = Codes::default();
    for t in (1..=n).rev() {
        let edge = (t as f64 * width) as f32;
        let span = (lo.clamp(-edge, edge), hi.clamp(-edge, edge));
        let (params, _) = Params::from_range(span.0, span.1, grid, policy);
        let divergence = bins.divergence(t, params, grid, width, &mut codes);
        if divergence < best.0 {
            best = (divergence, span);
        }
    }
    Some(best.1)
}

/// Prefix sums over the bins of both sides in order, so that a code's share costs the same however many bins it has.
struct Bins {
    /// Bins below zero.
    below: usize,
    /// Bin counts.
    count: Vec<f64>,
    /// Sums of the counts, of count·ln count, and of bins not empty, up to each bin.
    sum: Vec<f64>,
    log: Vec<f64>,
    filled: Vec<f64>,
}

/// What falls to each code that is not empty, for one threshold: numbers of P, and numbers of Q in each bin.
#[derive(Default)]
struct Codes {
    p: Vec<f64>,
    q: Vec<f64>,
}

fn x_ln_x(x: f64) -> f64 {
    if x > 0.0 { x * ln(x) } else { 0.0 }
}

/// Natural logarithm of a positive normal number, within 1e-14: x = 2^e·m, ln m = 2·artanh((m - 1)/(m + 1)) as a series.
/// Unlike the C library's it is the same everywhere and vectorizes.
#[inline(always)]
fn ln(x: f64) -> f64 {
    // m in [√½, √2)
    const ROOT: u64 = 0x3fe6_a09e_667f_3bcd;
    let shifted = x.to_bits().wrapping_sub(ROOT);
    let m = f64::from_bits((shifted & ((1 << 52) - 1)).wrapping_add(ROOT));
    // The exponent as a float by way of the bits of 2^52 + 1024 + e.
    let e = f64::from_bits(0x4330_0000_0000_0000 | (shifted.wrapping_add(1024 << 52) >> 52))
        - (4_503_599_627_370_496.0 + 1024.0);
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut series = 1.0 / 17.0;
    for k in [15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        series = series * z + 1.0 / k;
    }
    e * std::f64::consts::LN_2 + 2.0 * s * series
}

crate::dispatch! {
    fn sum_p_ln_q, sum_p_ln_q_avx2 = sum_p_ln_q_body(p: &[f64], q: &[f64]) -> f64
}

/// Σ p·ln q, in four lanes by position.
#[inline(always)]
fn sum_p_ln_q_body(p: &[f64], q: &[f64]) -> f64 {
    let ((ps, p), (qs, q)) = (p.as_chunks::<4>(), q.as_chunks::<4>());
    let mut sum = [0.0f64; 4];
    for (p, q) in ps.iter().zip(qs) {
        for i in 0..4 {
            sum[i] += p[i] * ln(q[i]);
        }
    }
    sum.iter().sum::<f64>() + p.iter().zip(q).map(|(p, q)| p * ln(*q)).sum::<f64>()
}

impl Bins {
    fn new(negative: &[u64], positive: &[u64]) -> Self {
        let count: Vec<f64> = negative.iter().rev().chain(positive).map(|c| *c as f64).collect();
        let prefix = |f: &dyn Fn(f64) -> f64| {
            let mut total = 0.0;
            std::iter::once(0.0)
                .chain(count.iter().map(|c| {
                    total += f(*c);
                    total
                }))
                .collect::<Vec<f64>>()
        };
        let sum = prefix(&|c| c);
        let log = prefix(&x_ln_x);
        let filled = prefix(&|c| f64::from(u8::from(c > 0.0)));
        Self { below: negative.len(), count, sum, log, filled }
    }

    /// Divergence with the threshold at bin edge `t` (t ≥ 1 bins on each side, where there are that many).
    fn divergence(&self, t: usize, params: Params, grid: Grid, width: f64, codes: &mut Codes) -> f64 {
        let first = self.below.saturating_sub(t);
        let end = self.count.len().min(self.below + t);
        let all = self.sum[self.count.len()];
        let kept = self.sum[end] - self.sum[first];
        if all <= 0.0 || kept <= 0.0 || first >= end {
            return f64::INFINITY;
        }
        let (low_tail, high_tail) = (self.sum[first], all - self.sum[end]);
        // Σ P ln P: the end bins hold the tails as well. (A single bin is not empty: `kept` is the count in it.)
        let raise = |bin: usize, tail: f64| x_ln_x(self.count[bin] + tail) - x_ln_x(self.count[bin]);
        let mut p_log = self.log[end] - self.log[first];
        p_log += if first + 1 == end {
            raise(first, low_tail + high_tail)
        } else {
            raise(first, low_tail) + raise(end - 1, high_tail)
        };
        // Σ over codes of P·ln(spread count of Q).
        let step = f64::from(params.scale()) / width; // of the codes, in bins
        let (least, most) = grid.codes();
        let zero_point = params.zero_point();
        let below = self.below as f64;
        codes.p.clear();
        codes.q.clear();
        let mut from = first;
        for code in least..=most {
            // Bins whose centre lies below the border to the next code.
            let to = if code == most {
                end
            } else {
                let border = (f64::from(code - zero_point) + 0.5) * step - 0.5 + below;
                let whole = border.clamp(0.0, end as f64) as usize;
                (whole + usize::from((whole as f64) < border)).clamp(from, end)
            };
            if to > from {
                let q = self.sum[to] - self.sum[from];
                let mut p = q;
                let mut spread = self.filled[to] - self.filled[from];
                let ends = [(from == first, first, low_tail), (to == end, end - 1, high_tail)];
                for (here, bin, tail) in ends {
                    if here && tail > 0.0 {
                        p += tail;
                        spread += f64::from(u8::from(self.count[bin] == 0.0));
                    }
                }
                if p > 0.0 {
                    codes.p.push(p);
                    codes.q.push(q.max(0.5) / spread);
                }
            }
            from = to;
            if from >= end {
                break;
            }
        }
        (p_log - sum_p_ln_q(&codes.p, &codes.q)) / all
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn logarithm_is_right() {
        let mut x = 1e-9;
        while x < 1e19 {
            // Relative to the result or, near 1, to the distance from 1.
            let (got, want): (f64, f64) = (super::ln(x), f64::ln(x));
            assert!((got - want).abs() <= 1e-14 * want.abs().max(1.0), "{x} {got} {want}");
            x *= 1.0173;
        }
        assert_eq!(super::ln(1.0), 0.0);
    }
}
