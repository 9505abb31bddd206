//! A histogram that grows exactly: the bin width is a power of two and bin edges are multiples of it, so doubling the
//! width merges pairs of bins and the result depends only on the numbers counted, never on their order.
//!
//! Bins are kept by sign and magnitude: bin i of the positive side counts i·w ≤ x < (i+1)·w, bin i of the negative side
//! counts i·w ≤ -x < (i+1)·w. So a histogram of |x| is the sum of both sides. Zeros are not counted here (see
//! [`super::Sketch`]): they are an atom that every grid represents exactly.

use serde::{Deserialize, Serialize};

/// Bins on each side of zero. The width is the least power of two with which they reach the largest magnitude, so
/// between half and all of them are in use on its side.
pub const HALF: usize = 1 << HALF_BITS;
const HALF_BITS: i32 = 11;
/// Least exponent of the width: widths and their reciprocals stay normal floats.
const MIN_EXPONENT: i32 = -126;
/// The exponent that reaches f32::MAX.
const MAX_EXPONENT: i32 = 128 - HALF_BITS;

/// See the module.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(into = "Raw", try_from = "Raw")]
pub struct Histogram {
    exponent: i32,
    negative: Vec<u64>,
    positive: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { exponent: MIN_EXPONENT, negative: Vec::new(), positive: Vec::new() }
    }
}

fn trimmed(bins: &[u64]) -> &[u64] {
    bins.iter().rposition(|c| *c != 0).map_or(&[], |last| &bins[..=last])
}

fn first_mut(bins: &mut Vec<u64>, used: usize) -> &mut [u64] {
    let used = used.min(HALF);
    if bins.len() < used {
        bins.resize(used, 0);
    }
    &mut bins[..used]
}

impl PartialEq for Histogram {
    fn eq(&self, other: &Self) -> bool {
        self.exponent == other.exponent
            && trimmed(&self.negative) == trimmed(&other.negative)
            && trimmed(&self.positive) == trimmed(&other.positive)
    }
}

impl Histogram {
    /// The exponent of the least bin width whose bins reach `magnitude` (finite).
    pub fn exponent_for(magnitude: f32) -> i32 {
        let binade = (magnitude.to_bits() >> 23 & 0xff) as i32 - 126; // magnitude < 2^binade
        (binade - HALF_BITS).max(MIN_EXPONENT)
    }

    /// log2 of the bin width.
    pub fn exponent(&self) -> i32 {
        self.exponent
    }

    /// The bin width.
    pub fn width(&self) -> f64 {
        2f64.powi(self.exponent)
    }

    /// Counts of negative numbers by magnitude; trailing zero bins are left out.
    pub fn negative(&self) -> &[u64] {
        trimmed(&self.negative)
    }

    /// Counts of positive numbers by magnitude; trailing zero bins are left out.
    pub fn positive(&self) -> &[u64] {
        trimmed(&self.positive)
    }

    /// Numbers counted.
    pub fn total(&self) -> u64 {
        self.negative.iter().chain(&self.positive).fold(0, |n, c| n.saturating_add(*c))
    }

    /// The key of a number: its bin i on the positive side, -1 - i on the negative side. `x` must be finite.
    pub fn key(x: f32, exponent: i32) -> i32 {
        let places = (f64::from(x) * 2f64.powi(-exponent)) as i32; // towards zero
        places - i32::from(x.is_sign_negative())
    }

    /// Widens the bins until their width is at least 2^exponent.
    pub fn grow(&mut self, exponent: i32) {
        let Ok(shift @ 1..) = u32::try_from(exponent - self.exponent) else { return };
        self.exponent = exponent;
        for bins in [&mut self.negative, &mut self.positive] {
            if shift >= 32 {
                let all = bins.iter().fold(0u64, |n, c| n.saturating_add(*c));
                bins.clear();
                bins.push(all);
                continue;
            }
            for i in 0..bins.len() {
                let count = std::mem::take(&mut bins[i]);
                bins[i >> shift] = bins[i >> shift].saturating_add(count);
            }
            bins.truncate(bins.len().div_ceil(1 << shift));
        }
    }

    /// The first bins of the positive side, at the present width, to be added to; at most [`HALF`].
    pub(super) fn positive_mut(&mut self, used: usize) -> &mut [u64] {
        first_mut(&mut self.positive, used)
    }

    /// The first bins of the negative side, likewise.
    pub(super) fn negative_mut(&mut self, used: usize) -> &mut [u64] {
        first_mut(&mut self.negative, used)
    }

    /// Adds `count` numbers of one key at the present width.
    #[inline]
    pub fn add(&mut self, key: i32, count: u64) {
        let (bins, i) =
            if key < 0 { (&mut self.negative, !key as usize) } else { (&mut self.positive, key as usize) };
        let i = i.min(HALF - 1);
        if bins.len() <= i {
            bins.resize(i + 1, 0);
        }
        bins[i] = bins[i].saturating_add(count);
    }

    /// Adds another histogram.
    pub fn merge(&mut self, other: &Self) {
        self.grow(other.exponent);
        let shift = (self.exponent - other.exponent).min(31);
        for (own, bins) in [(&mut self.negative, other.negative()), (&mut self.positive, other.positive())] {
            let used = bins.len().saturating_sub(1).checked_shr(shift as u32).unwrap_or(0) + 1;
            let own = first_mut(own, used.min(bins.len()));
            if shift == 0 {
                own.iter_mut().zip(bins).for_each(|(own, count)| *own = own.saturating_add(*count));
                continue;
            }
            for (i, &count) in bins.iter().enumerate() {
                own[i >> shift] = own[i >> shift].saturating_add(count);
            }
        }
    }
}

/// As stored: counts as integers, a run of n empty bins as -n.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    width_exponent: i32,
    negative: Vec<i64>,
    positive: Vec<i64>,
}

impl From<Histogram> for Raw {
    fn from(h: Histogram) -> Self {
        let runs = |bins: &[u64]| {
            let mut out: Vec<i64> = Vec::new();
            for &c in bins {
                match out.last_mut() {
                    Some(run) if c == 0 && *run < 0 => *run -= 1,
                    _ if c == 0 => out.push(-1),
                    _ => out.push(c.min(i64::MAX as u64) as i64),
                }
            }
            out
        };
        Self { width_exponent: h.exponent, negative: runs(h.negative()), positive: runs(h.positive()) }
    }
}

impl TryFrom<Raw> for Histogram {
    type Error = String;
    fn try_from(raw: Raw) -> Result<Self, String> {
        if !(MIN_EXPONENT..=MAX_EXPONENT).contains(&raw.width_exponent) {
            return Err(format!("histogram width 2^{} is out of range", raw.width_exponent));
        }
        let bins = |runs: &[i64]| {
            let mut out = Vec::new();
            let mut total = 0u64;
            for &r in runs {
                if r < 0 {
                    let n = out.len().saturating_add(r.unsigned_abs() as usize);
                    out.resize(n.min(HALF + 1), 0);
                } else {
                    out.push(r as u64);
                }
                total =
                    total.checked_add(r.max(0) as u64).filter(|t| *t <= 1 << 62).ok_or("counts overflow")?;
                if out.len() > HALF {
                    return Err(format!("histogram with more than {HALF} bins on a side"));
                }
            }
            Ok(out)
        };
        Ok(Self {
            exponent: raw.width_exponent,
            negative: bins(&raw.negative)?,
            positive: bins(&raw.positive)?,
        })
    }
}
