//! What calibration remembers of one value, in bounded size, whatever the number of samples.
//!
//! **Merging is exact.** A sketch is a function of the *set* of observations (sample index, slice): observing them in
//! any order, on any number of threads or machines, and merging, gives the same bits. Counts are integers, extrema are
//! order-free, the histogram grows exactly ([`super::histogram`]), sums are exact over observations
//! ([`super::exact_sum`]; within one slice they are f64 sums in a fixed order), and of the per-sample extrema a
//! subset is kept that depends only on the sample indices ([`super::extrema`]).

use std::cell::RefCell;

use serde::{Deserialize, Serialize};

use super::channels::{Channels, split};
use super::exact_sum::ExactSum;
use super::extrema::Extrema;
use super::histogram::Histogram;
use super::observe::{Columns, Observed, Split, observe, observe_ref};
use crate::error::{Error, check_len};
use crate::quantize::Layout;

/// Version of the stored form.
pub const VERSION: u32 = 1;

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sketch {
    #[serde(deserialize_with = "version")]
    version: u32,
    count: u64,
    nan: u64,
    pos_inf: u64,
    neg_inf: u64,
    zeros: u64,
    /// Least and greatest finite number.
    #[serde(deserialize_with = "extent")]
    extent: Option<(f32, f32)>,
    sum: ExactSum,
    sum_sq: ExactSum,
    histogram: Histogram,
    extrema: Extrema,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    channels: Option<Channels>,
}

thread_local! {
    static COLUMNS: RefCell<Columns> = RefCell::default();
}

fn version<'de, D: serde::Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    let found = u32::deserialize(d)?;
    if found == VERSION {
        Ok(found)
    } else {
        Err(serde::de::Error::custom(format!("sketch version {found}; this program reads version {VERSION}")))
    }
}

fn extent<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<(f32, f32)>, D::Error> {
    let found = Option::<(f32, f32)>::deserialize(d)?;
    match found {
        Some((lo, hi)) if !(lo.is_finite() && hi.is_finite() && lo <= hi) => {
            Err(serde::de::Error::custom(format!("[{lo}, {hi}] is not a finite range")))
        }
        _ => Ok(found),
    }
}

impl Default for Sketch {
    fn default() -> Self {
        Self {
            version: VERSION,
            count: 0,
            nan: 0,
            pos_inf: 0,
            neg_inf: 0,
            zeros: 0,
            extent: None,
            sum: ExactSum::default(),
            sum_sq: ExactSum::default(),
            histogram: Histogram::default(),
            extrema: Extrema::default(),
            channels: None,
        }
    }
}

impl Sketch {
    /// Of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A sketch of one slice, as sample 0.
    pub fn of(x: &[f32]) -> Self {
        let mut s = Self::default();
        s.observe(0, x);
        s
    }

    /// Adds the numbers of `x`, seen in sample `sample`. Several slices of one sample (a loop's iterations) count as
    /// one sample for the per-sample extrema.
    pub fn observe(&mut self, sample: u64, x: &[f32]) {
        COLUMNS.with_borrow_mut(|columns| {
            let seen = observe(x, Split::whole(x.len()), &mut self.histogram, columns);
            self.take(sample, x.len(), &seen);
        });
    }

    /// Plain reference for [`Self::observe`]: equal to the bit.
    pub fn observe_ref(&mut self, sample: u64, x: &[f32]) {
        let seen = observe_ref(x, Split::whole(x.len()), &mut self.histogram, &mut Columns::default());
        self.take(sample, x.len(), &seen);
    }

    /// [`Self::observe`], and extrema and sums for each position on the layout's axis. Sums of the whole are those of the
    /// channels together.
    ///
    /// # Errors
    /// A slice that does not fit the layout, a layout by blocks, or another number of channels than before. Nothing is
    /// counted then.
    pub fn observe_channels(&mut self, sample: u64, x: &[f32], layout: &Layout) -> Result<(), Error> {
        self.observe_split(sample, x, layout, observe)
    }

    /// Plain reference for [`Self::observe_channels`]: equal to the bit.
    ///
    /// # Errors
    /// The same.
    pub fn observe_channels_ref(&mut self, sample: u64, x: &[f32], layout: &Layout) -> Result<(), Error> {
        self.observe_split(sample, x, layout, observe_ref)
    }

    fn observe_split(
        &mut self,
        sample: u64,
        x: &[f32],
        layout: &Layout,
        observe: fn(&[f32], Split, &mut Histogram, &mut Columns) -> Observed,
    ) -> Result<(), Error> {
        let split = split(x, layout)?;
        let channels = self.channels.get_or_insert_with(|| Channels::new(split.channels));
        check_len("channels", channels.len(), split.channels)?;
        let seen = COLUMNS.with_borrow_mut(|columns| {
            let seen = observe(x, split, &mut self.histogram, columns);
            channels.add(split, columns);
            seen
        });
        self.take(sample, x.len(), &seen);
        Ok(())
    }

    fn take(&mut self, sample: u64, len: usize, seen: &Observed) {
        self.count = self.count.saturating_add(len as u64);
        self.nan = self.nan.saturating_add(seen.nan);
        self.pos_inf = self.pos_inf.saturating_add(seen.pos_inf);
        self.neg_inf = self.neg_inf.saturating_add(seen.neg_inf);
        self.zeros = self.zeros.saturating_add(seen.zeros);
        self.sum.add(seen.sum);
        self.sum_sq.add(seen.sum_sq);
        if seen.lo <= seen.hi {
            self.widen(seen.lo, seen.hi);
            self.extrema.add(sample, seen.lo, seen.hi);
        }
    }

    fn widen(&mut self, lo: f32, hi: f32) {
        let (a, b) = self.extent.unwrap_or((lo, hi));
        self.extent = Some((a.min(lo), b.max(hi)));
    }

    /// Adds what another sketch saw.
    ///
    /// # Errors
    /// Different numbers of channels. Nothing is merged then.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        match (&mut self.channels, &other.channels) {
            (Some(a), Some(b)) => a.merge(b)?,
            (none @ None, Some(b)) => *none = Some(b.clone()),
            (_, None) => {}
        }
        self.count = self.count.saturating_add(other.count);
        self.nan = self.nan.saturating_add(other.nan);
        self.pos_inf = self.pos_inf.saturating_add(other.pos_inf);
        self.neg_inf = self.neg_inf.saturating_add(other.neg_inf);
        self.zeros = self.zeros.saturating_add(other.zeros);
        self.sum.merge(&other.sum);
        self.sum_sq.merge(&other.sum_sq);
        self.histogram.merge(&other.histogram);
        self.extrema.merge(&other.extrema);
        if let Some((lo, hi)) = other.extent {
            self.widen(lo, hi);
        }
        Ok(())
    }

    /// What a value that is made of these values, each number once, would have shown: a concatenation, a reshaped or
    /// transposed value. `stacked`: its channels are theirs, one after the other; else they are the same channels.
    /// Equal to observing the value except for the last bits of sums, whose order is that of the parts.
    ///
    /// # Errors
    /// Parts whose channels do not fit together.
    pub fn joined<'a>(parts: impl IntoIterator<Item = &'a Self>, stacked: bool) -> Result<Self, Error> {
        let mut parts = parts.into_iter();
        let mut whole = parts.next().cloned().unwrap_or_default();
        for part in parts {
            let channels = whole.channels.take();
            let mut rest = part.clone();
            let more = rest.channels.take();
            whole.merge(&rest)?;
            whole.channels = match (channels, more) {
                (Some(mut a), Some(b)) => {
                    if stacked { a.append(&b) } else { a.merge(&b) }?;
                    Some(a)
                }
                _ => None,
            };
        }
        Ok(whole)
    }

    /// Numbers seen, of every kind.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Finite numbers seen.
    pub fn finite(&self) -> u64 {
        self.count.saturating_sub(self.nan).saturating_sub(self.infinite())
    }

    /// NaN seen.
    pub fn nan(&self) -> u64 {
        self.nan
    }

    /// +Inf and -Inf seen.
    pub fn infinite(&self) -> u64 {
        self.pos_inf.saturating_add(self.neg_inf)
    }

    /// +Inf seen.
    pub fn pos_inf(&self) -> u64 {
        self.pos_inf
    }

    /// -Inf seen.
    pub fn neg_inf(&self) -> u64 {
        self.neg_inf
    }

    /// Zeros seen.
    pub fn zeros(&self) -> u64 {
        self.zeros
    }

    /// Least and greatest finite number seen, exactly; `None` if there was none.
    pub fn extent(&self) -> Option<(f32, f32)> {
        self.extent
    }

    /// Largest magnitude of a finite number seen; 0 if there was none.
    pub fn abs_max(&self) -> f32 {
        self.extent.map_or(0.0, |(lo, hi)| lo.abs().max(hi.abs()))
    }

    /// Mean of the finite numbers; 0 if there was none.
    pub fn mean(&self) -> f64 {
        self.sum.value() / self.finite().max(1) as f64
    }

    /// Mean square of the finite numbers: their power.
    pub fn mean_square(&self) -> f64 {
        self.sum_sq.value() / self.finite().max(1) as f64
    }

    /// Standard deviation of the finite numbers.
    pub fn std(&self) -> f64 {
        let mean = self.mean();
        (self.mean_square() - mean * mean).max(0.0).sqrt()
    }

    /// Counts of the finite numbers other than zero.
    pub fn histogram(&self) -> &Histogram {
        &self.histogram
    }

    /// Extrema sample by sample.
    pub fn extrema(&self) -> &Extrema {
        &self.extrema
    }

    /// The same without per-channel extrema, so that it merges with sketches of other shapes.
    pub fn without_channels(mut self) -> Self {
        self.channels = None;
        self
    }

    /// Extrema and sums channel by channel, where they were asked for.
    pub fn channels(&self) -> Option<&Channels> {
        self.channels.as_ref()
    }
}
