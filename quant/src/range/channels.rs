//! Extrema and sums channel by channel: what SmoothQuant, equalization and bias correction ask for.

use serde::{Deserialize, Serialize};

use super::exact_sum::ExactSum;
use crate::error::{Error, check_len};
use crate::quantize::{Layout, Run};

/// Statistics of each position on one axis. NaN and Inf are not counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Raw")]
pub struct Channels {
    count: u64,
    /// Least finite number; `lo > hi` where there was none.
    lo: Vec<f32>,
    hi: Vec<f32>,
    sum: Vec<ExactSum>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    count: u64,
    lo: Vec<f32>,
    hi: Vec<f32>,
    sum: Vec<ExactSum>,
}

impl TryFrom<Raw> for Channels {
    type Error = &'static str;
    fn try_from(r: Raw) -> Result<Self, Self::Error> {
        if r.lo.len() != r.hi.len() || r.lo.len() != r.sum.len() {
            return Err("channel columns differ in length");
        }
        if r.lo.iter().chain(&r.hi).any(|v| !v.is_finite()) {
            return Err("channel extrema are not finite");
        }
        Ok(Self { count: r.count, lo: r.lo, hi: r.hi, sum: r.sum })
    }
}

/// Stands for "none seen": finite, so that it can be stored, and neutral in min and max.
const NONE: (f32, f32) = (f32::MAX, f32::MIN);

impl Channels {
    /// Statistics of `x` under the layout's axis (one entry for each of its scales).
    pub fn observe(x: &[f32], layout: &Layout) -> Result<Self, Error> {
        check_len("elements of the layout", layout.len(), x.len())?;
        let n = layout.params_len();
        let (mut lo, mut hi, mut sum) = (vec![NONE.0; n], vec![NONE.1; n], vec![0.0f64; n]);
        layout.for_each_run(|start, len, run| {
            let x = &x[start..start + len];
            match run {
                Run::One(p) => {
                    let (a, b, s) = stretch(x);
                    (lo[p], hi[p]) = (lo[p].min(a), hi[p].max(b));
                    sum[p] += s;
                }
                Run::Zip(p) => {
                    side_by_side(x, &mut lo[p..p + len], &mut hi[p..p + len], &mut sum[p..p + len]);
                }
            }
        });
        let exact = |s: f64| {
            let mut e = ExactSum::default();
            e.add(s);
            e
        };
        let plain = |v: f32| v + 0.0; // one zero
        Ok(Self {
            count: x.len().checked_div(n).unwrap_or(0) as u64,
            lo: lo.into_iter().map(plain).collect(),
            hi: hi.into_iter().map(plain).collect(),
            sum: sum.into_iter().map(exact).collect(),
        })
    }

    /// Adds another's statistics.
    ///
    /// # Errors
    /// Different numbers of channels.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        check_len("channels", self.lo.len(), other.lo.len())?;
        self.count = self.count.saturating_add(other.count);
        self.lo.iter_mut().zip(&other.lo).for_each(|(a, b)| *a = a.min(*b));
        self.hi.iter_mut().zip(&other.hi).for_each(|(a, b)| *a = a.max(*b));
        self.sum.iter_mut().zip(&other.sum).for_each(|(a, b)| a.merge(b));
        Ok(())
    }

    /// Number of channels.
    pub fn len(&self) -> usize {
        self.lo.len()
    }

    /// Whether there is no channel.
    pub fn is_empty(&self) -> bool {
        self.lo.is_empty()
    }

    /// Least and greatest finite number of a channel; `None` if it had none.
    pub fn extent(&self, channel: usize) -> Option<(f32, f32)> {
        let (lo, hi) = (*self.lo.get(channel)?, *self.hi.get(channel)?);
        (lo <= hi).then_some((lo, hi))
    }

    /// Ranges of all channels; (0, 0) for one without a finite number.
    pub fn ranges(&self) -> Vec<(f32, f32)> {
        (0..self.len()).map(|c| self.extent(c).unwrap_or((0.0, 0.0))).collect()
    }

    /// Largest magnitude in each channel.
    pub fn abs_max(&self) -> Vec<f32> {
        self.ranges().into_iter().map(|(lo, hi)| lo.abs().max(hi.abs())).collect()
    }

    /// Mean of each channel (NaN and Inf count as 0).
    pub fn mean(&self) -> Vec<f64> {
        self.sum.iter().map(|s| s.value() / self.count.max(1) as f64).collect()
    }
}

crate::dispatch! {
    /// Extrema and sum of the finite numbers of a contiguous stretch, the sum in sixteen lanes by position.
    fn stretch, stretch_avx2 = stretch_body(x: &[f32]) -> (f32, f32, f64)
}
crate::dispatch! {
    /// Adds one number to each of as many channels.
    fn side_by_side, side_by_side_avx2 =
        side_by_side_body(x: &[f32], lo: &mut [f32], hi: &mut [f32], sum: &mut [f64])
}

const LANES: usize = 16;

#[inline(always)]
fn stretch_body(x: &[f32]) -> (f32, f32, f64) {
    let (mut lo, mut hi, mut sum) = ([NONE.0; LANES], [NONE.1; LANES], [0.0f64; LANES]);
    let (chunks, rest) = x.as_chunks::<LANES>();
    for c in chunks {
        for i in 0..LANES {
            take(c[i], &mut lo[i], &mut hi[i], &mut sum[i]);
        }
    }
    for (i, &v) in rest.iter().enumerate() {
        take(v, &mut lo[i], &mut hi[i], &mut sum[i]);
    }
    (lo.into_iter().fold(NONE.0, f32::min), hi.into_iter().fold(NONE.1, f32::max), sum.iter().sum())
}

#[inline(always)]
fn side_by_side_body(x: &[f32], lo: &mut [f32], hi: &mut [f32], sum: &mut [f64]) {
    for (((&v, lo), hi), sum) in x.iter().zip(lo).zip(hi).zip(sum) {
        take(v, lo, hi, sum);
    }
}

/// Passes over NaN and Inf without a branch.
#[inline(always)]
fn take(v: f32, lo: &mut f32, hi: &mut f32, sum: &mut f64) {
    let ok = v.abs() < f32::INFINITY;
    *lo = if ok & (v < *lo) { v } else { *lo };
    *hi = if ok & (v > *hi) { v } else { *hi };
    *sum += f64::from(if ok { v } else { 0.0 });
}
