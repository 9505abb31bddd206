//! `mse` and `tf-enhanced`: the range with the least expected squared error for the grid.
//!
//! The error of a candidate is integrated over the sketch's density on the very grid the candidate leads to, rounded
//! zero point included ([`super::density`]). Symmetric grids and one-signed values have one free end; else both ends are
//! searched: first shrunk together, then one at a time until neither moves. Candidates are spaced by a constant ratio, so
//! that ranges a thousand times smaller than an outlier are found too.
//!
//! `tf-enhanced` weighs clipping threefold (AIMET's and the SNPE SDK's "TF-enhanced" scheme, gamma = 3): clipped values
//! tend to be the ones that matter.

use super::Interval;
use super::density::Density;
use super::sketch::Sketch;
use crate::grid::{Grid, Params, Policy};

/// Coarse candidates per factor of two, and factors of two searched.
const PER_OCTAVE: f64 = 4.0;
const OCTAVES: f64 = 12.0;
/// Then, twice, this many candidates on either side of the best, at a quarter of the distance.
const FINER: i32 = 3;
/// Most alternations between the two ends; each lowers the error, few are needed.
const ROUNDS: usize = 4;

/// The best range; `None` if no finite number was seen. `clip_weight` 1 is the plain squared error.
pub fn range(sketch: &Sketch, grid: Grid, policy: &Policy, clip_weight: f64) -> Option<Interval> {
    let (lo, hi) = sketch.extent()?;
    let density = Density::of(sketch);
    let noise = |lo: f32, hi: f32| {
        let (params, _) = Params::from_range(lo, hi, grid, policy);
        density.noise(params, grid, clip_weight)
    };
    let one_ended = grid.symmetric || grid.code.is_float() || lo >= 0.0 || hi <= 0.0;
    Some(search((lo, hi), one_ended, noise))
}

/// The range within `lo..hi` with the least `noise`: both ends shrunk together, then, unless one free end says all, one at a
/// time until neither moves.
pub(super) fn search((lo, hi): Interval, one_ended: bool, noise: impl Fn(f32, f32) -> f64) -> Interval {
    let magnitude = lo.abs().max(hi.abs());
    let shrunk = |t: f32| {
        if one_ended {
            (lo.clamp(-t, t), hi.clamp(-t, t))
        } else {
            (lo * (t / magnitude), hi * (t / magnitude))
        }
    };
    let (t, mut least) = line(magnitude, 0.0, true, |t| {
        let (a, b) = shrunk(t);
        noise(a, b)
    });
    let (mut a, mut b) = if t == magnitude { (lo, hi) } else { shrunk(t) };
    if one_ended {
        return (a, b);
    }
    for round in 0..ROUNDS {
        let before = least;
        let steps = |most: f32, now: f32| (f64::from(most) / f64::from(now)).log2() * PER_OCTAVE;
        let (t, n) = line(hi, steps(hi, b), round == 0, |t| noise(a, t));
        if n < least {
            (b, least) = (t, n);
        }
        let (t, n) = line(-lo, steps(lo, a), round == 0, |t| noise(-t, b));
        if n < least {
            (a, least) = (-t, n);
        }
        if least >= before {
            break;
        }
    }
    (a, b)
}

/// Minimizes `f` over (0, most] on a scale of constant ratios: over all of it in coarse steps if `all`, else starting
/// `start` coarse steps below `most`; then in finer steps around the best. On a tie the larger argument wins. Returns
/// the argument and the value.
fn line(most: f32, start: f64, all: bool, f: impl Fn(f32) -> f64) -> (f32, f64) {
    let at = |steps: f64| {
        if steps <= 0.0 { most } else { (f64::from(most) * (-steps / PER_OCTAVE).exp2()) as f32 }
    };
    let start = if start.is_finite() { start.max(0.0) } else { 0.0 };
    let mut best = (start, f(at(start)));
    let consider = |steps: f64, best: &mut (f64, f64)| {
        let value = f(at(steps));
        if value < best.1 || (value == best.1 && steps < best.0) {
            *best = (steps, value);
        }
    };
    if all {
        for i in 0..=(PER_OCTAVE * OCTAVES) as i32 {
            consider(f64::from(i), &mut best);
        }
    }
    for distance in [0.25, 0.0625] {
        let around = best.0;
        for i in -FINER..=FINER {
            let steps = around + f64::from(i) * distance;
            if i != 0 && steps >= 0.0 {
                consider(steps, &mut best);
            }
        }
    }
    (at(best.0), best.1)
}
