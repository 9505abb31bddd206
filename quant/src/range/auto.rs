//! `auto`: tensor by tensor the range with the least expected squared error on the grid, of all methods.
//!
//! Among ranges within [`CLOSE_DB`] of the best the widest wins: a difference that small is below what a histogram of
//! some calibration samples can tell, and a wider range clips less of what they did not show.

use super::{Choice, Method, choose};
use crate::grid::{Grid, Policy};
use crate::range::sketch::Sketch;

/// Differences in expected error that do not count, in dB.
pub const CLOSE_DB: f64 = 0.1;

/// What is compared.
pub const CANDIDATES: &[Method] = &[
    Method::MinMax,
    Method::MeanExtrema,
    Method::Percentile(99.999),
    Method::PercentileBest,
    Method::Entropy,
    Method::TfEnhanced,
    Method::Mse,
];

/// The best choice; its `method` says which candidate it was.
pub fn range(sketch: &Sketch, grid: Grid, policy: &Policy) -> Option<Choice> {
    let choices: Vec<Choice> = CANDIDATES.iter().map(|&m| choose(m, sketch, grid, policy)).collect();
    let best = choices.iter().map(|c| c.sqnr_db).fold(f64::NEG_INFINITY, f64::max);
    let width = |c: &Choice| f64::from(c.hi) - f64::from(c.lo);
    choices
        .into_iter()
        .filter(|c| c.sqnr_db >= best - CLOSE_DB)
        .reduce(|a, b| if width(&b) > width(&a) { b } else { a })
}
