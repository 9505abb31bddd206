//! Extrema sample by sample, for the methods that average them (moving average, mean, median) and for the report of
//! how soon ranges settle.
//!
//! Bounded: up to [`KEPT`] samples all are kept; beyond that, those whose scrambled index is smallest, a pseudo-random
//! subset that depends on the indices alone, so that merging in any order keeps the same ones.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Samples kept.
pub const KEPT: usize = 1024;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "Raw", try_from = "Raw")]
pub struct Extrema {
    /// By scrambled index.
    kept: BTreeMap<u64, Sample>,
}

/// Least and greatest finite number of one sample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Its index in the data.
    pub index: u64,
    /// Least finite number.
    pub lo: f32,
    /// Greatest finite number.
    pub hi: f32,
}

/// A bijection that looks random (the finalizer of SplitMix64; Steele, Lea, Flood 2014).
pub(crate) fn scramble(index: u64) -> u64 {
    let z = index.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Extrema {
    /// Adds the extrema of (part of) a sample.
    pub fn add(&mut self, index: u64, lo: f32, hi: f32) {
        let key = scramble(index);
        if self.kept.len() >= KEPT && self.kept.last_key_value().is_some_and(|(last, _)| key > *last) {
            return;
        }
        let s = self.kept.entry(key).or_insert(Sample { index, lo, hi });
        (s.lo, s.hi) = (s.lo.min(lo), s.hi.max(hi));
        if self.kept.len() > KEPT {
            self.kept.pop_last();
        }
    }

    /// Adds all of another's.
    pub fn merge(&mut self, other: &Self) {
        other.kept.values().for_each(|s| self.add(s.index, s.lo, s.hi));
    }

    /// The samples kept, in the order of their indices.
    pub fn samples(&self) -> Vec<Sample> {
        let mut v: Vec<Sample> = self.kept.values().copied().collect();
        v.sort_by_key(|s| s.index);
        v
    }

    /// Samples kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether no sample had a finite number.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

/// As stored: columns in the order of the indices.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    index: Vec<u64>,
    lo: Vec<f32>,
    hi: Vec<f32>,
}

impl From<Extrema> for Raw {
    fn from(e: Extrema) -> Self {
        let s = e.samples();
        Self {
            index: s.iter().map(|s| s.index).collect(),
            lo: s.iter().map(|s| s.lo).collect(),
            hi: s.iter().map(|s| s.hi).collect(),
        }
    }
}

impl TryFrom<Raw> for Extrema {
    type Error = &'static str;
    fn try_from(raw: Raw) -> Result<Self, Self::Error> {
        if raw.index.len() != raw.lo.len() || raw.index.len() != raw.hi.len() {
            return Err("extrema columns differ in length");
        }
        let mut e = Self::default();
        for ((index, lo), hi) in raw.index.into_iter().zip(raw.lo).zip(raw.hi) {
            if !lo.is_finite() || !hi.is_finite() || lo > hi {
                return Err("extrema of a sample are not a finite range");
            }
            e.add(index, lo, hi);
        }
        Ok(e)
    }
}
