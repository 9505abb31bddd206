//! Ranges: what was seen of a value ([`Sketch`]) and which part of the real line its grid should cover ([`choose`]).
//!
//! One pass over the data fills the sketches; every method is then evaluated offline, so trying another one never runs
//! the model again. A method is a file: [`minmax`], [`extremal`], [`percentile`], [`entropy`], [`mse`], [`auto`].

pub mod after;
pub mod auto;
pub mod channels;
pub mod density;
pub mod entropy;
pub mod exact_sum;
pub mod extrema;
pub mod extremal;
pub mod histogram;
pub mod method;
pub mod minmax;
pub mod mse;
mod observe;
pub mod percentile;
pub mod reservoir;
pub mod sketch;

pub use channels::Channels;
pub use density::Density;
pub use method::{METHODS, Method};
pub use reservoir::Reservoir;
pub use sketch::Sketch;

use serde::{Deserialize, Serialize};

use crate::grid::{Grid, Params, Policy, RangeNote};

/// Least and greatest real value that a grid should cover. Need not contain zero: [`Params::from_range`] adds it.
pub type Interval = (f32, f32);

/// A range with its evidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The method that gave the range: for `auto` and `percentile-best` the one they settled on.
    pub method: Method,
    /// Lower end.
    pub lo: f32,
    /// Upper end.
    pub hi: f32,
    /// The scale and zero point it leads to.
    pub params: Params,
    /// What was out of the ordinary about the range.
    pub note: RangeNote,
    /// Expected ratio of signal to quantization error, in dB ([`density::MAX_DB`]: no error).
    pub sqnr_db: f64,
    /// Share of the numbers that are clipped, ±Inf among them.
    pub clipped: f64,
}

/// The range that `method` gives for `grid`. Never fails: a value of which no finite number was seen gets the range
/// [0, 0] and the note [`RangeNote::Empty`].
pub fn choose(method: Method, sketch: &Sketch, grid: Grid, policy: &Policy) -> Choice {
    let mut settled = method;
    let span = match method {
        Method::MinMax => minmax::range(sketch),
        Method::MovingAverage(weight) => extremal::moving_average(sketch, weight),
        Method::MeanExtrema => extremal::mean(sketch),
        Method::MedianExtrema => extremal::median(sketch),
        Method::Percentile(p) => percentile::symmetric(sketch, p),
        Method::PercentileAsymmetric(p) => percentile::asymmetric(sketch, p),
        Method::PercentileBest => percentile::best(sketch, grid, policy).map(|(span, percent)| {
            settled = if grid.symmetric {
                Method::Percentile(percent)
            } else {
                Method::PercentileAsymmetric(percent)
            };
            span
        }),
        Method::Entropy => entropy::range(sketch, grid, policy),
        Method::Mse => mse::range(sketch, grid, policy, 1.0),
        Method::TfEnhanced => mse::range(sketch, grid, policy, 3.0),
        Method::Auto => {
            return auto::range(sketch, grid, policy).unwrap_or_else(|| nothing(method, grid, policy));
        }
    };
    match span {
        Some(span) => weigh(settled, span, sketch, grid, policy),
        None => nothing(settled, grid, policy),
    }
}

/// The evidence for a range from elsewhere (a user's, a fixed one such as a softmax's [0, 1]).
pub fn weigh(method: Method, (lo, hi): Interval, sketch: &Sketch, grid: Grid, policy: &Policy) -> Choice {
    let (params, note) = Params::from_range(lo, hi, grid, policy);
    let density = Density::of(sketch);
    let sqnr_db = density::decibels(density.power(), density.noise(params, grid, 1.0));
    Choice { method, lo, hi, params, note, sqnr_db, clipped: density.clipped(params, grid) }
}

fn nothing(method: Method, grid: Grid, policy: &Policy) -> Choice {
    let (params, note) = Params::from_range(1.0, -1.0, grid, policy); // empty
    Choice { method, lo: 0.0, hi: 0.0, params, note, sqnr_db: density::MAX_DB, clipped: 0.0 }
}
