//! `percentile`, `percentile-asymmetric`, `percentile-best`: ranges that leave out a stated share of the numbers.
//!
//! Zeros and repeats count as often as they occur, as in `numpy.percentile`; the answer is off by at most a bin width
//! of the sketch (1/1024 of the largest magnitude or less).

use super::Interval;
use super::density::Density;
use super::sketch::Sketch;
use crate::grid::{Grid, Params, Policy};

/// What `percentile-best` tries.
pub const TRIED: [f64; 3] = [99.9, 99.99, 99.999];

/// ±t, where `percent` of the magnitudes are at most t; cut to what was seen, so one-signed values get one-sided ranges.
pub fn symmetric(sketch: &Sketch, percent: f64) -> Option<Interval> {
    let (lo, hi) = sketch.extent()?;
    let t = Density::of_magnitudes(sketch).quantile(percent / 100.0) as f32;
    Some((lo.clamp(-t, t), hi.clamp(-t, t)))
}

/// Cuts half of the rest at each end; for one-signed values, all of it at the end away from zero.
pub fn asymmetric(sketch: &Sketch, percent: f64) -> Option<Interval> {
    let (lo, hi) = sketch.extent()?;
    let density = Density::of(sketch);
    let rest = 1.0 - percent / 100.0;
    Some(if lo >= 0.0 {
        (lo, density.quantile(1.0 - rest) as f32)
    } else if hi <= 0.0 {
        (density.quantile(rest) as f32, hi)
    } else {
        (density.quantile(rest / 2.0) as f32, density.quantile(1.0 - rest / 2.0) as f32)
    })
}

/// The one of [`TRIED`] with the least expected error on this grid (asymmetric cuts where the grid is asymmetric), and
/// its percentage. The larger percentage wins a tie.
pub fn best(sketch: &Sketch, grid: Grid, policy: &Policy) -> Option<(Interval, f64)> {
    let density = Density::of(sketch);
    let mut best: Option<(f64, Interval, f64)> = None;
    for percent in TRIED.into_iter().rev() {
        let span = if grid.symmetric { symmetric(sketch, percent)? } else { asymmetric(sketch, percent)? };
        let (params, _) = Params::from_range(span.0, span.1, grid, policy);
        let noise = density.noise(params, grid, 1.0);
        if best.is_none_or(|(least, ..)| noise < least) {
            best = Some((noise, span, percent));
        }
    }
    best.map(|(_, span, percent)| (span, percent))
}
