//! Counting a slice of activations: what [`Sketch::observe`](super::Sketch::observe) does, plainly and fast.
//!
//! **What is computed.** A slice is read as `outer × channels × inner` numbers ([`Split`]; without channels, as one channel
//! of all). Extrema and sums are collected for each channel, and those of the whole slice are their folds in the order of
//! the channels: statistics by channel cost nothing beside those of the whole. A contiguous stretch of a channel is summed
//! in sixteen lanes by position, which are folded by halves ([`lanes`]); where channels lie side by side (`inner` is 1) each
//! is summed by itself, row after row. That order is the definition, so the result is the same for every vector width.
//!
//! **How.** [`plain`] says it number by number. [`fast`] works on pieces that stay in the first-level cache: one pass for
//! extrema and moments, which also tell whether a piece has NaN or Inf (such a piece is counted plainly), one that turns
//! numbers into bin keys and one that counts the keys ([`tally`]).

mod fast;
mod lanes;
mod plain;
mod tally;

pub use fast::observe;
pub use plain::observe_ref;

use super::histogram::Histogram;
use lanes::Sums;

/// What one slice adds to a sketch, apart from the histogram and the channels, which are updated in place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observed {
    /// NaN seen.
    pub nan: u64,
    /// +Inf seen.
    pub pos_inf: u64,
    /// -Inf seen.
    pub neg_inf: u64,
    /// Zeros of either sign seen.
    pub zeros: u64,
    /// Least finite number; +Inf if none.
    pub lo: f32,
    /// Greatest finite number; -Inf if none.
    pub hi: f32,
    /// Sum of the finite numbers, in f64, in a fixed order.
    pub sum: f64,
    /// Sum of their squares, likewise.
    pub sum_sq: f64,
}

impl Observed {
    fn new() -> Self {
        let (lo, hi) = (f32::INFINITY, f32::NEG_INFINITY);
        Self { nan: 0, pos_inf: 0, neg_inf: 0, zeros: 0, lo, hi, sum: 0.0, sum_sq: 0.0 }
    }

    /// Takes in what the channels saw, in their order.
    fn fold(&mut self, columns: &mut Columns) {
        for i in 0..columns.lo.len() {
            // `+ 0.0` turns -0.0 into 0.0: which zero came first must not show.
            columns.lo[i] += 0.0;
            columns.hi[i] += 0.0;
            self.lo = self.lo.min(columns.lo[i]);
            self.hi = self.hi.max(columns.hi[i]);
            self.sum += columns.sum[i];
            self.sum_sq += columns.sum_sq[i];
        }
    }
}

/// How a slice is divided into channels: `[outer, channels, inner]`, in row-major order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Split {
    /// Positions before the axis of the channels.
    pub outer: usize,
    /// Channels.
    pub channels: usize,
    /// Numbers of a channel that follow one another.
    pub inner: usize,
}

impl Split {
    /// All numbers in one channel.
    pub fn whole(len: usize) -> Self {
        Self { outer: 1, channels: 1, inner: len }
    }

    /// Channels lie side by side.
    fn is_rows(self) -> bool {
        self.inner == 1 && self.channels > 1
    }
}

/// Extrema and sums of the finite numbers of each channel.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    /// Least number; +Inf if there is none.
    pub lo: Vec<f32>,
    /// Greatest number; -Inf if there is none.
    pub hi: Vec<f32>,
    /// Sum.
    pub sum: Vec<f64>,
    /// Sum of the squares.
    pub sum_sq: Vec<f64>,
}

impl Columns {
    fn reset(&mut self, channels: usize) {
        fn fill<T: Clone>(column: &mut Vec<T>, channels: usize, with: T) {
            column.clear();
            column.resize(channels, with);
        }
        fill(&mut self.lo, channels, f32::INFINITY);
        fill(&mut self.hi, channels, f32::NEG_INFINITY);
        fill(&mut self.sum, channels, 0.0);
        fill(&mut self.sum_sq, channels, 0.0);
    }

    /// Adds a stretch that is complete.
    fn add(&mut self, channel: usize, seen: &Sums) {
        self.lo[channel] = self.lo[channel].min(seen.lo);
        self.hi[channel] = self.hi[channel].max(seen.hi);
        self.sum[channel] += seen.sum;
        self.sum_sq[channel] += seen.sum_sq;
    }

    /// Adds one number of a channel.
    fn add_one(&mut self, channel: usize, v: f32) {
        let wide = f64::from(v);
        self.lo[channel] = self.lo[channel].min(v);
        self.hi[channel] = self.hi[channel].max(v);
        self.sum[channel] += wide;
        self.sum_sq[channel] += wide * wide;
    }
}
