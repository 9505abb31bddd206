//! `outliers`: the LLM.int8 split (Dettmers et al. 2022) as a static choice.
//!
//! A few input columns carry values far beyond the rest and ruin the range of an 8-bit activation. They are chosen in
//! calibration and go through a small float product; the rest is quantized:
//!
//! ```text
//! y = Q8(x without O) · Q8(W without O)ᵀ + Gather(x, O) · W[:, O]ᵀ
//! ```
//!
//! The weight's outlier columns are zero on the 8-bit side, so that side may also read x as it is once its range is clipped.

use serde::{Deserialize, Serialize};

use super::rtn::rtn;
use super::{Bits, Block, Quantized, Spec, Weight, WeightError, Zero, check_len};
use crate::round::ScaleType;

/// Which columns count as outliers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutlierOptions {
    /// Columns whose largest |x| reaches this are outliers (6 in the paper, for layer-normalized inputs).
    pub threshold: f32,
    /// At most this part of the columns is split off; the largest are kept.
    pub most: f64,
}

impl Default for OutlierOptions {
    fn default() -> Self {
        Self { threshold: 6.0, most: 0.01 }
    }
}

/// The outlier columns, ascending, given the largest |x| per column. At least one column stays in the 8-bit part; of
/// `most` the ceiling counts, so that one outlier can be split off however small the layer.
pub fn choose_outliers(abs_max: &[f32], options: &OutlierOptions) -> Result<Vec<usize>, WeightError> {
    super::check_importance(Some(abs_max), abs_max.len())?;
    if !(options.threshold > 0.0 && (0.0..=1.0).contains(&options.most)) {
        return Err(WeightError::Option {
            what: "outlier options",
            must: "a threshold > 0 and a part of 0..=1",
            found: format!("{} and {}", options.threshold, options.most),
        });
    }
    let most = ((abs_max.len() as f64 * options.most).ceil() as usize).min(abs_max.len().saturating_sub(1));
    let mut columns: Vec<usize> = (0..abs_max.len()).filter(|&k| abs_max[k] >= options.threshold).collect();
    columns.sort_by(|a, b| abs_max[*b].total_cmp(&abs_max[*a])); // stable: the first of equals
    columns.truncate(most);
    columns.sort_unstable();
    Ok(columns)
}

/// A weight in two parts.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// The outlier columns, ascending.
    pub columns: Vec<usize>,
    /// Their weights as they are, `[N, O]` row-major.
    pub outliers: Vec<f32>,
    /// The others in 8 bits, symmetric, one scale a row; outlier columns hold zero.
    pub rest: Quantized,
}

impl Split {
    /// Both parts as one matrix, `[N, K]` row-major.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = self.rest.dequantize();
        let width = self.columns.len().max(1);
        for (row, outliers) in out.chunks_mut(self.rest.cols).zip(self.outliers.chunks(width)) {
            self.columns.iter().zip(outliers).for_each(|(&k, &v)| row[k] = v);
        }
        out
    }
}

/// Splits a weight. `columns` are distinct, ascending and within K.
pub fn split(weight: &Weight<'_>, columns: &[usize], scale: ScaleType) -> Result<Split, WeightError> {
    let (rows, cols) = (weight.rows(), weight.cols());
    let ascending = columns.windows(2).all(|w| w[0] < w[1]);
    if !ascending || columns.last().is_some_and(|&k| k >= cols) {
        return Err(WeightError::Option {
            what: "outlier columns",
            must: "ascending and within the weight",
            found: format!("{columns:?}"),
        });
    }
    let mut w = weight.to_f32()?;
    let mut outliers = Vec::with_capacity(rows * columns.len());
    for row in w.chunks_mut(cols) {
        for &k in columns {
            outliers.push(std::mem::take(&mut row[k]));
        }
    }
    check_len("outliers", rows * columns.len(), outliers.len())?;
    let spec = Spec { bits: Bits::Eight, block: Block::Row, zero: Zero::Center, scale };
    let rest = rtn(&Weight::from_rows(&w[..], rows, cols)?, &spec)?;
    Ok(Split { columns: columns.to_vec(), outliers, rest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::testing::gaussian;

    #[test]
    fn chooses_the_largest() {
        let x = [1.0, 7.0, 0.0, 9.0, 6.0, 7.0];
        let choose = |most| choose_outliers(&x, &OutlierOptions { most, ..Default::default() }).unwrap();
        assert_eq!(choose(1.0), [1, 3, 4, 5]);
        assert_eq!(choose(0.5), [1, 3, 5]);
        assert_eq!(choose(0.2), [1, 3]); // two of six; of equals the first
        assert_eq!(choose(0.01), [3]);
        assert!(choose(0.0).is_empty());
        assert!(choose_outliers(&[9.0], &OutlierOptions::default()).unwrap().is_empty()); // one column must stay
        assert!(choose_outliers(&[], &OutlierOptions::default()).unwrap().is_empty());
        assert!(choose_outliers(&[f32::NAN], &OutlierOptions::default()).is_err());
        assert!(choose_outliers(&x, &OutlierOptions { threshold: 0.0, most: 0.1 }).is_err());
    }

    #[test]
    fn outliers_are_exact_and_the_rest_is_finer() {
        let mut w = gaussian(4 * 50, 1);
        w.iter_mut().enumerate().for_each(|(i, v)| *v *= if i % 50 == 7 { 40.0 } else { 1.0 });
        let weight = Weight::from_kn(&w[..], 4, 50).unwrap();
        let exact = weight.to_f32().unwrap();
        let parts = split(&weight, &[7, 49], ScaleType::F32).unwrap();
        let back = parts.dequantize();
        for (i, (a, b)) in exact.iter().zip(&back).enumerate() {
            let step = parts.rest.scales[i / 50];
            let bound = if i % 50 == 7 || i % 50 == 49 { 0.0 } else { 0.501 * step }; // half a step, one f32 rounding
            assert!((a - b).abs() <= bound);
        }
        assert!(split(&weight, &[], ScaleType::F32).unwrap().outliers.is_empty());
        assert!(split(&weight, &[50], ScaleType::F32).is_err());
        assert!(split(&weight, &[3, 3], ScaleType::F32).is_err());
    }
}
