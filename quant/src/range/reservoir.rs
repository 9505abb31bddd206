//! A few whole rows of an activation (tokens of a linear layer's input), for what statistics by channel cannot answer:
//! the best α of [`crate::smooth`], scale estimation, second moments.
//!
//! Kept are the rows whose scrambled (sample, row) is smallest: a pseudo-random subset of all rows seen, fixed by their
//! indices alone, so that merging in any order keeps the same ones.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::extrema::scramble;
use crate::error::{Error, check_len};

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "Raw", try_from = "Raw")]
pub struct Reservoir {
    limit: usize,
    width: usize,
    /// By (scrambled, sample, row).
    rows: BTreeMap<(u64, u64, u64), Vec<f32>>,
}

impl Reservoir {
    /// Keeps up to `limit` rows of `width` numbers.
    pub fn new(limit: usize, width: usize) -> Self {
        Self { limit, width, rows: BTreeMap::new() }
    }

    /// Looks at the rows of `x`, whole ones of the reservoir's width. Rows that hold a NaN or Inf are passed over. A
    /// sample's rows are told apart by their place in the slice: give each sample once.
    pub fn observe(&mut self, sample: u64, x: &[f32]) -> Result<(), Error> {
        if self.width == 0 {
            return Err(Error::Shape("a reservoir of rows without numbers".to_string()));
        }
        check_len("numbers in whole rows", x.len().div_ceil(self.width).saturating_mul(self.width), x.len())?;
        for (row, values) in (0u64..).zip(x.chunks_exact(self.width)) {
            self.offer((scramble(scramble(sample) ^ row), sample, row), values);
        }
        Ok(())
    }

    fn offer(&mut self, key: (u64, u64, u64), values: &[f32]) {
        let full = self.rows.len() >= self.limit;
        if full && self.rows.last_key_value().is_none_or(|(last, _)| key >= *last) {
            return;
        }
        if values.iter().all(|v| v.is_finite()) {
            self.rows.insert(key, values.to_vec());
            if self.rows.len() > self.limit {
                self.rows.pop_last();
            }
        }
    }

    /// Adds what another one kept.
    ///
    /// # Errors
    /// Another width or limit.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        check_len("row of the reservoir", self.width, other.width)?;
        check_len("limit of the reservoir", self.limit, other.limit)?;
        other.rows.iter().for_each(|(key, values)| self.offer(*key, values));
        Ok(())
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows kept.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether no row is kept.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows kept, one after the other, in the order of sample and row.
    pub fn rows(&self) -> Vec<f32> {
        let mut order: Vec<_> = self.rows.iter().map(|((_, sample, row), v)| (*sample, *row, v)).collect();
        order.sort_by_key(|(sample, row, _)| (*sample, *row));
        order.into_iter().flat_map(|(_, _, v)| v.iter().copied()).collect()
    }
}

/// As stored: rows in the order of sample and row, their numbers as the hexadecimal digits of their bits.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    limit: usize,
    width: usize,
    rows: Vec<(u64, u64, String)>,
}

impl From<Reservoir> for Raw {
    fn from(r: Reservoir) -> Self {
        let digits = |v: &[f32]| v.iter().map(|v| format!("{:08x}", v.to_bits())).collect::<String>();
        let mut rows: Vec<_> =
            r.rows.iter().map(|((_, sample, row), v)| (*sample, *row, digits(v))).collect();
        rows.sort();
        Self { limit: r.limit, width: r.width, rows }
    }
}

impl TryFrom<Raw> for Reservoir {
    type Error = &'static str;
    fn try_from(raw: Raw) -> Result<Self, Self::Error> {
        let mut r = Self::new(raw.limit, raw.width);
        if raw.rows.len() > raw.limit {
            return Err("reservoir with more rows than its limit");
        }
        for (sample, row, digits) in raw.rows {
            let (words, rest) = digits.as_bytes().as_chunks::<8>();
            let number = |w: &[u8; 8]| {
                let text = std::str::from_utf8(w).ok()?;
                u32::from_str_radix(text, 16).ok().map(f32::from_bits).filter(|v| v.is_finite())
            };
            let values = words.iter().map(number).collect::<Option<Vec<f32>>>();
            let values = values.filter(|v| rest.is_empty() && v.len() == raw.width);
            r.offer(
                (scramble(scramble(sample) ^ row), sample, row),
                &values.ok_or("reservoir row is damaged")?,
            );
        }
        Ok(r)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rows_are_kept_whole_and_in_order() {
        let mut r = Reservoir::new(10, 2);
        r.observe(3, &[1.0, 2.0, f32::NAN, 4.0, 5.0, 6.0]).unwrap();
        r.observe(1, &[7.0, 8.0]).unwrap();
        assert_eq!(r.rows(), [7.0, 8.0, 1.0, 2.0, 5.0, 6.0]);
        assert!(r.observe(4, &[1.0]).is_err());
        assert!(r.merge(&Reservoir::new(10, 3)).is_err() && r.merge(&Reservoir::new(9, 2)).is_err());
        assert!(Reservoir::new(1, 0).observe(0, &[]).is_err());
        let text = serde_json::to_string(&r).unwrap();
        assert_eq!(serde_json::from_str::<Reservoir>(&text).unwrap(), r);
        for bad in [
            text.replace("3f8", "7f8"),
            text.replace("3f8", "zzz"),
            text.replace("\"width\":2", "\"width\":3"),
        ] {
            assert!(bad != text && serde_json::from_str::<Reservoir>(&bad).is_err(), "{bad}");
        }
        let mut none = Reservoir::new(0, 2);
        none.observe(0, &[1.0, 2.0]).unwrap();
        assert!(none.is_empty());
    }

    proptest! {
        #[test]
        fn merging_is_exact(shard in prop::collection::vec(0usize..3, 30), limit in 1usize..40) {
            let x = |i: u64| -> Vec<f32> { (0..12).map(|j| (i * 12 + j) as f32).collect() };
            let mut whole = Reservoir::new(limit, 3);
            let mut parts = vec![Reservoir::new(limit, 3); 3];
            for (i, &s) in shard.iter().enumerate() {
                whole.observe(i as u64, &x(i as u64)).unwrap();
                parts[s].observe(i as u64, &x(i as u64)).unwrap();
            }
            let mut merged = Reservoir::new(limit, 3);
            parts.iter().rev().for_each(|p| merged.merge(p).unwrap());
            prop_assert_eq!(merged.len(), limit.min(120));
            prop_assert_eq!(merged, whole);
        }
    }
}
