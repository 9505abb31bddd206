//! Kullback-Leibler divergence of rows of probabilities.

use super::whole_rows;
use crate::error::{Error, check_len};
use crate::range::exact_sum::ExactSum;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
