//! Extrema and sums channel by channel: what SmoothQuant, equalization and bias correction ask for.

use serde::{Deserialize, Serialize};

use super::exact_sum::ExactSum;
use super::histogram::Histogram;
use super::observe::{Columns, Split, observe};
use crate::error::{Error, check_len};
use crate::quantize::Layout;

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
    /// Of nothing, for this many channels.
    pub fn new(channels: usize) -> Self {
        let (lo, hi) = (vec![NONE.0; channels], vec![NONE.1; channels]);
        Self { count: 0, lo, hi, sum: vec![ExactSum::default(); channels] }
    }

    /// Statistics of `x` under the layout's axis.
    ///
    /// # Errors
    /// A slice that does not fit the layout, or a layout by blocks.
    pub fn observe(x: &[f32], layout: &Layout) -> Result<Self, Error> {
        let split = split(x, layout)?;
        let (mut channels, mut columns) = (Self::new(split.channels), Columns::default());
        observe(x, split, &mut Histogram::default(), &mut columns);
        channels.add(split, &columns);
        Ok(channels)
    }

    /// Adds what one slice of as many channels held.
    pub(super) fn add(&mut self, split: Split, columns: &Columns) {
        self.count = self.count.saturating_add((split.outer * split.inner) as u64);
        self.lo.iter_mut().zip(&columns.lo).for_each(|(a, b)| *a = a.min(*b));
        self.hi.iter_mut().zip(&columns.hi).for_each(|(a, b)| *a = a.max(*b));
        self.sum.iter_mut().zip(&columns.sum).for_each(|(a, b)| a.add(*b));
    }

    /// Puts the channels of another behind these.
    ///
    /// # Errors
    /// Another count of numbers in a channel.
    pub fn append(&mut self, other: &Self) -> Result<(), Error> {
        check_len("numbers in a channel", self.count as usize, other.count as usize)?;
        self.lo.extend(&other.lo);
        self.hi.extend(&other.hi);
        self.sum.extend(other.sum.iter().cloned());
        Ok(())
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

/// How the layout divides the slice.
///
/// # Errors
/// A slice that does not fit the layout, or a layout by blocks.
pub(super) fn split(x: &[f32], layout: &Layout) -> Result<Split, Error> {
    check_len("elements of the layout", layout.len(), x.len())?;
    let (outer, channels, inner) =
        layout.axis().ok_or_else(|| Error::Shape("statistics by block".to_string()))?;
    Ok(Split { outer, channels, inner })
}
