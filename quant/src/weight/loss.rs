//! The output error of a layer, tr(ΔW·H·ΔWᵀ) with ΔW = W − Ŵ and H = Σ x·xᵀ: what a change of the weights does to
//! Σ ‖y‖² over the calibration tokens, without running anything.

use rayon::prelude::*;

use super::gemm::{Out, View, sgemm};
use super::gram::Gram;
use super::{Weight, WeightError, check_len};

/// Rows of one parallel piece.
const ROWS: usize = 64;

/// A Gram matrix ready for many evaluations: f32, scaled to mean diagonal 1 so that it fits whatever the token count.
#[derive(Debug, Clone)]
pub struct Loss {
    cols: usize,
    dense: Vec<f32>,
    unit: f64,
}

impl Loss {
    /// Prepares a Gram matrix.
    pub fn new(gram: &Gram) -> Self {
        let cols = gram.cols();
        let mean = gram.diagonal().iter().sum::<f64>() / cols.max(1) as f64;
        let unit = if mean > 0.0 { mean } else { 1.0 };
        let mut dense = vec![0.0; cols * cols];
        dense.par_chunks_mut(cols.max(1)).enumerate().for_each(|(i, row)| {
            row.iter_mut().enumerate().for_each(|(j, v)| *v = (gram.at(i, j) / unit) as f32);
        });
        Self { cols, dense, unit }
    }

    /// tr(ΔW·H·ΔWᵀ) for ΔW `[N, K]` row-major. Rows are summed in order, so the bits do not depend on threads.
    pub fn of_difference(&self, difference: &[f32]) -> f64 {
        let cols = self.cols.max(1);
        let parts: Vec<f64> = difference
            .par_chunks(ROWS * cols)
            .map(|rows| {
                let n = rows.len() / cols;
                let mut product = vec![0.0f32; n * cols];
                let h = View::rows(&self.dense, cols, cols);
                sgemm(1.0, View::rows(&rows[..n * cols], n, cols), h, 0.0, Out::rows(&mut product, n, cols));
                rows.iter().zip(product).map(|(d, p)| f64::from(*d) * f64::from(p)).sum()
            })
            .collect();
        // H is positive semidefinite; below zero is rounding.
        (parts.iter().sum::<f64>() * self.unit).max(0.0)
    }

    /// tr((W − Ŵ)·H·(W − Ŵ)ᵀ) for Ŵ `[N, K]` row-major.
    pub fn of(&self, weight: &Weight<'_>, quantized: &[f32]) -> Result<f64, WeightError> {
        check_len("Gram matrix", weight.cols(), self.cols)?;
        let mut difference = weight.to_f32()?;
        check_len("quantized weight", difference.len(), quantized.len())?;
        difference.iter_mut().zip(quantized).for_each(|(w, q)| *w -= q);
        Ok(self.of_difference(&difference))
    }

    /// The output energy tr(W·H·Wᵀ), to put a loss in proportion.
    pub fn energy(&self, weight: &Weight<'_>) -> Result<f64, WeightError> {
        check_len("Gram matrix", weight.cols(), self.cols)?;
        Ok(self.of_difference(&weight.to_f32()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::testing::gaussian;

    #[test]
    fn equals_the_output_error() {
        let (tokens, rows, cols) = (50, 70, 33);
        let (x, w, q) = (gaussian(tokens * cols, 1), gaussian(rows * cols, 2), gaussian(rows * cols, 3));
        let mut gram = Gram::new(cols);
        gram.add(&x).unwrap();
        let mut exact = 0.0;
        for t in x.chunks(cols) {
            for (w, q) in w.chunks(cols).zip(q.chunks(cols)) {
                let y: f64 = (0..cols).map(|k| f64::from(t[k]) * f64::from(w[k] - q[k])).sum();
                exact += y * y;
            }
        }
        let loss = Loss::new(&gram);
        let got = loss.of(&Weight::from_rows(&w[..], rows, cols).unwrap(), &q).unwrap();
        assert!((got / exact - 1.0).abs() < 1e-5, "{got} {exact}"); // f32 products of 33 terms
        assert_eq!(loss.of(&Weight::from_rows(&w[..], rows, cols).unwrap(), &w).unwrap(), 0.0);
        assert!(loss.of(&Weight::from_rows(&w[..], cols, rows).unwrap(), &w).is_err());
        assert_eq!(Loss::new(&Gram::new(4)).of_difference(&[1.0; 8]), 0.0);
    }
}
