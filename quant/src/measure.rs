//! How far one result is from another: streaming, mergeable, in f64.
//!
//! Within one call sums run in order; over calls they are exact ([`ExactSum`]), so the result does not depend on the
//! order of samples or on threads. A number that is not finite on one side only is *broken*: it is counted, and a
//! comparison with broken numbers has an SQNR of -200 dB, so that no average can hide it.

use crate::error::{Error, check_len};
use crate::range::density::{MAX_DB, decibels};
use crate::range::exact_sum::ExactSum;

/// Elementwise distance between a reference and another result.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Distance {
    count: u64,
    broken: u64,
    reference: ExactSum,
    other: ExactSum,
    product: ExactSum,
    squared_error: ExactSum,
    absolute_error: ExactSum,
    max_error: f64,
    max_reference: f64,
}

impl Distance {
    /// Adds a pair of slices of equal length.
    pub fn add(&mut self, reference: &[f32], other: &[f32]) -> Result<(), Error> {
        check_len("result to compare", reference.len(), other.len())?;
        let mut sums = [0.0f64; 5];
        for (&r, &o) in reference.iter().zip(other) {
            if !(r.is_finite() && o.is_finite()) {
                let alike = (r.is_nan() && o.is_nan()) || r == o;
                self.broken += u64::from(!alike);
                continue;
            }
            let (r, o) = (f64::from(r), f64::from(o));
            let e = (r - o).abs();
            for (sum, term) in sums.iter_mut().zip([r * r, o * o, r * o, e * e, e]) {
                *sum += term;
            }
            self.max_error = self.max_error.max(e);
            self.max_reference = self.max_reference.max(r.abs());
        }
        self.count += reference.len() as u64;
        for (total, sum) in self.sums_mut().into_iter().zip(sums) {
            total.add(sum);
        }
        Ok(())
    }

    fn sums_mut(&mut self) -> [&mut ExactSum; 5] {
        [
            &mut self.reference,
            &mut self.other,
            &mut self.product,
            &mut self.squared_error,
            &mut self.absolute_error,
        ]
    }

    /// Adds what another one measured.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.broken += other.broken;
        self.max_error = self.max_error.max(other.max_error);
        self.max_reference = self.max_reference.max(other.max_reference);
        let theirs =
            [&other.reference, &other.other, &other.product, &other.squared_error, &other.absolute_error];
        for (a, b) in self.sums_mut().into_iter().zip(theirs) {
            a.merge(b);
        }
    }

    /// Pairs compared.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Pairs of which one only is NaN or Inf, or that are unlike ones.
    pub fn broken(&self) -> u64 {
        self.broken
    }

    /// 10·log10(Σ r² / Σ (r - o)²); 200 for equal results, -200 if anything is broken.
    pub fn sqnr_db(&self) -> f64 {
        if self.broken > 0 { -MAX_DB } else { decibels(self.reference.value(), self.squared_error.value()) }
    }

    /// Cosine of the angle between the two; 1 if both are zero, 0 if one is.
    pub fn cosine(&self) -> f64 {
        let (r, o) = (self.reference.value(), self.other.value());
        if r == 0.0 && o == 0.0 {
            return 1.0;
        }
        if r == 0.0 || o == 0.0 {
            return 0.0;
        }
        (self.product.value() / (r.sqrt() * o.sqrt())).clamp(-1.0, 1.0)
    }

    /// √(Σ (r - o)² / Σ r²); 0 for equal results, Inf if only the reference is zero.
    pub fn relative_l2(&self) -> f64 {
        let e = self.squared_error.value();
        if e == 0.0 { 0.0 } else { (e / self.reference.value()).sqrt() }
    }

    /// Largest |r - o|.
    pub fn max_abs(&self) -> f64 {
        self.max_error
    }

    /// Largest |r|.
    pub fn max_reference(&self) -> f64 {
        self.max_reference
    }

    /// Mean |r - o|.
    pub fn mean_abs(&self) -> f64 {
        self.absolute_error.value() / self.count.saturating_sub(self.broken).max(1) as f64
    }

    /// Mean (r - o)².
    pub fn mean_square(&self) -> f64 {
        self.squared_error.value() / self.count.saturating_sub(self.broken).max(1) as f64
    }
}

/// What the rows of a [`Divergence`] hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Inputs of a softmax.
    Logits,
    /// Outputs of one: not negative, adding up to 1. Scaled so that they do.
    Probabilities,
}

/// Kullback-Leibler divergence between rows of probabilities, in nats: Σ p·ln(p/q), p the reference's.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Divergence {
    rows: u64,
    broken: u64,
    sum: ExactSum,
    max: f64,
}

/// Probabilities below this count as this: a quantized softmax gives exact zeros.
const FLOOR: f64 = 1e-12;

impl Divergence {
    /// Adds rows of `row` numbers.
    pub fn add(&mut self, reference: &[f32], other: &[f32], row: usize, kind: Rows) -> Result<(), Error> {
        check_len("result to compare", reference.len(), other.len())?;
        whole_rows(reference, row)?;
        for (r, o) in reference.chunks_exact(row).zip(other.chunks_exact(row)) {
            self.rows += 1;
            match (probabilities(r, kind), probabilities(o, kind)) {
                (Some(p), Some(q)) => {
                    let terms = p
                        .iter()
                        .zip(&q)
                        .map(|(&p, &q)| if p > 0.0 { p * (p / q.max(FLOOR)).ln() } else { 0.0 });
                    let kl = terms.sum::<f64>().max(0.0);
                    self.sum.add(kl);
                    self.max = self.max.max(kl);
                }
                _ => self.broken += 1,
            }
        }
        Ok(())
    }

    /// Adds what another one measured.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.broken += other.broken;
        self.sum.merge(&other.sum);
        self.max = self.max.max(other.max);
    }

    /// Rows compared.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Rows that are no probabilities on one side: NaN, or nothing but zeros.
    pub fn broken(&self) -> u64 {
        self.broken
    }

    /// Mean over the rows.
    pub fn mean(&self) -> f64 {
        self.sum.value() / self.rows.saturating_sub(self.broken).max(1) as f64
    }

    /// The worst row.
    pub fn max(&self) -> f64 {
        self.max
    }
}

fn whole_rows(x: &[f32], row: usize) -> Result<(), Error> {
    if row == 0 {
        return Err(Error::Shape("rows of length 0".to_string()));
    }
    check_len("numbers in whole rows", x.len().div_ceil(row).saturating_mul(row), x.len())
}

fn probabilities(x: &[f32], kind: Rows) -> Option<Vec<f64>> {
    let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if x.iter().any(|v| v.is_nan()) || !most.is_finite() {
        return None;
    }
    let p: Vec<f64> = match kind {
        Rows::Logits => x.iter().map(|v| (f64::from(*v) - f64::from(most)).exp()).collect(),
        Rows::Probabilities => x.iter().map(|v| f64::from(*v).max(0.0)).collect(),
    };
    let sum: f64 = p.iter().sum();
    (sum > 0.0).then(|| p.iter().map(|p| p / sum).collect())
}

/// Agreement on the largest of each row, and accuracy where labels are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopK {
    rows: u64,
    first: u64,
    top5: u64,
    labelled: u64,
    right: u64,
    right5: u64,
}

impl TopK {
    /// Adds rows of `row` scores of a reference and another result. Of equal scores the first counts; NaN is least.
    pub fn add(&mut self, reference: &[f32], other: &[f32], row: usize) -> Result<(), Error> {
        check_len("result to compare", reference.len(), other.len())?;
        whole_rows(reference, row)?;
        for (r, o) in reference.chunks_exact(row).zip(other.chunks_exact(row)) {
            let (Some(&best), top) = (top(r, 1).first(), top(o, 5)) else { continue };
            self.rows += 1;
            self.first += u64::from(top.first() == Some(&best));
            self.top5 += u64::from(top.contains(&best));
        }
        Ok(())
    }

    /// Adds one row of scores whose right answer is known.
    pub fn add_labelled(&mut self, scores: &[f32], label: usize) {
        let top = top(scores, 5);
        self.labelled += 1;
        self.right += u64::from(top.first() == Some(&label));
        self.right5 += u64::from(top.contains(&label));
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.first += other.first;
        self.top5 += other.top5;
        self.labelled += other.labelled;
        self.right += other.right;
        self.right5 += other.right5;
    }

    /// Rows compared.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Share of rows with the same first place; `None` if there were no rows.
    pub fn top1_agreement(&self) -> Option<f64> {
        share(self.first, self.rows)
    }

    /// Share of rows where the reference's first place is among the other's first five.
    pub fn top5_agreement(&self) -> Option<f64> {
        share(self.top5, self.rows)
    }

    /// Share of labelled rows with the label in first place.
    pub fn accuracy(&self) -> Option<f64> {
        share(self.right, self.labelled)
    }

    /// Share of labelled rows with the label among the first five.
    pub fn accuracy5(&self) -> Option<f64> {
        share(self.right5, self.labelled)
    }
}

fn share(part: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| part as f64 / all as f64)
}

/// Indices of the `k` largest, largest first; the first of equal ones; NaN last.
pub fn top(scores: &[f32], k: usize) -> Vec<usize> {
    let mut best: Vec<usize> = Vec::with_capacity(k + 1);
    let above = |a: usize, b: usize| scores[a] > scores[b] || (scores[b].is_nan() && !scores[a].is_nan());
    for i in 0..scores.len() {
        if best.len() == k && !best.last().is_some_and(|&last| above(i, last)) {
            continue;
        }
        let at = best.iter().position(|&b| above(i, b)).unwrap_or(best.len());
        best.insert(at, i);
        best.truncate(k);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn distances_by_hand() {
        let mut d = Distance::default();
        d.add(&[3.0, 4.0], &[3.0, 3.5]).unwrap();
        assert!((d.sqnr_db() - 10.0 * (25.0f64 / 0.25).log10()).abs() < 1e-12);
        assert_eq!((d.max_abs(), d.mean_abs(), d.relative_l2()), (0.5, 0.25, 0.1));
        assert!((d.cosine() - 23.0 / (5.0 * 21.25f64.sqrt())).abs() < 1e-15);
        let mut same = Distance::default();
        same.add(&[1.0, f32::NAN, f32::INFINITY], &[1.0, f32::NAN, f32::INFINITY]).unwrap();
        assert_eq!((same.sqnr_db(), same.broken(), same.relative_l2()), (200.0, 0, 0.0));
        same.add(&[1.0], &[f32::NAN]).unwrap();
        same.add(&[f32::INFINITY], &[f32::NEG_INFINITY]).unwrap();
        assert_eq!((same.sqnr_db(), same.broken()), (-200.0, 2));
        let mut zero = Distance::default();
        zero.add(&[0.0], &[0.0]).unwrap();
        assert_eq!((zero.sqnr_db(), zero.cosine()), (200.0, 1.0));
        zero.add(&[0.0], &[1.0]).unwrap();
        assert_eq!((zero.sqnr_db(), zero.cosine(), zero.relative_l2()), (-200.0, 0.0, f64::INFINITY));
        assert!(zero.add(&[0.0], &[]).is_err());
        assert_eq!(Distance::default().mean_abs(), 0.0);
    }

    #[test]
    fn divergence_by_hand() {
        let mut d = Divergence::default();
        d.add(&[0.5, 0.5, 1.0, 0.0], &[0.25, 0.75, 1.0, 0.0], 2, Rows::Probabilities).unwrap();
        let kl = 0.5 * 2.0f64.ln() + 0.5 * (2.0f64 / 3.0).ln();
        assert!((d.mean() - kl / 2.0).abs() < 1e-15 && (d.max() - kl).abs() < 1e-15);
        let mut l = Divergence::default();
        l.add(&[7.0, 7.0], &[0.0, 3.0f32.ln()], 2, Rows::Logits).unwrap();
        assert!((l.mean() - kl).abs() < 1e-7, "float32 logarithm");
        l.add(&[1.0, f32::NAN], &[1.0, 2.0], 2, Rows::Logits).unwrap();
        assert_eq!((l.broken(), l.rows()), (1, 2));
        l.add(&[1.0, f32::NEG_INFINITY], &[1.0, 2.0], 2, Rows::Logits).unwrap(); // a masked score
        assert_eq!(l.broken(), 1);
        assert!(l.add(&[1.0; 3], &[1.0; 3], 2, Rows::Logits).is_err());
        assert!(l.add(&[], &[], 0, Rows::Logits).is_err());
    }

    #[test]
    fn top_places() {
        assert_eq!(top(&[1.0, 3.0, f32::NAN, 3.0, 2.0, -1.0], 5), [1, 3, 4, 0, 5]);
        assert_eq!(top(&[f32::NAN, 1.0], 1), [1]);
        assert_eq!(top(&[], 5), [] as [usize; 0]);
        let mut t = TopK::default();
        t.add(&[0.0, 1.0, 2.0, 9.0, 3.0, 4.0], &[0.0, 2.0, 1.0, 9.0, 3.0, 4.0], 3).unwrap();
        t.add_labelled(&[0.1, 0.9], 0);
        assert_eq!((t.top1_agreement(), t.top5_agreement()), (Some(0.5), Some(1.0)));
        assert_eq!((t.accuracy(), t.accuracy5()), (Some(0.0), Some(1.0)));
        assert_eq!(TopK::default().top1_agreement(), None);
    }

    proptest! {
        #[test]
        fn order_of_samples_does_not_matter(x in prop::collection::vec((any::<f32>(), any::<f32>()), 0..40), n in 1usize..6) {
            let parts: Vec<_> = x.chunks(n).collect();
            let measure = |parts: &mut dyn Iterator<Item = &&[(f32, f32)]>| {
                let mut all = Distance::default();
                for p in parts {
                    let mut d = Distance::default();
                    let (r, o): (Vec<f32>, Vec<f32>) = p.iter().copied().unzip();
                    d.add(&r, &o).unwrap();
                    all.merge(&d);
                }
                all
            };
            prop_assert_eq!(measure(&mut parts.iter()), measure(&mut parts.iter().rev()));
        }
    }
}
