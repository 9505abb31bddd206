//! Gram matrices: G = Σ x·xᵀ over the tokens at a linear layer's input. What every calibrated method works from.
//!
//! Only the lower half is stored and computed. Products are f32 over chunks of `CHUNK` tokens, chunks are summed in
//! f64: 16k tokens cost no accuracy, and a token count enters nowhere. Tiles are computed in parallel; the sum order
//! is that of the tokens, so the result does not depend on the thread count.

use super::gemm::{Out, View, sgemm};
use super::tiles::{TILE, Tiles};
use super::{WeightError, check_len};

/// Tokens summed in f32.
const CHUNK: usize = 1024;

/// Σ x·xᵀ, and how many tokens it saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Gram {
    tiles: Tiles,
    tokens: u64,
}

impl Gram {
    /// Nothing seen yet; `cols` is K.
    pub fn new(cols: usize) -> Self {
        Self { tiles: Tiles::zeros(cols), tokens: 0 }
    }

    /// A matrix made elsewhere: `[K, K]` row-major, of which the lower half is read.
    pub fn from_matrix(matrix: &[f64], cols: usize, tokens: u64) -> Result<Self, WeightError> {
        check_len("Gram matrix", cols.saturating_mul(cols), matrix.len())?;
        if let Some(index) = matrix.iter().position(|v| !v.is_finite()) {
            return Err(WeightError::Value { what: "Gram matrix", index, value: matrix[index] });
        }
        Ok(Self { tiles: Tiles::from_fn(cols, |i, j| matrix[i.max(j) * cols + i.min(j)]), tokens })
    }

    /// K
    pub fn cols(&self) -> usize {
        self.tiles.n()
    }

    /// Tokens seen.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Adds tokens: `inputs` is `[T, K]` row-major. NaN or infinite inputs are an error, and nothing is added.
    pub fn add(&mut self, inputs: &[f32]) -> Result<(), WeightError> {
        let cols = self.cols();
        if cols == 0 || !inputs.len().is_multiple_of(cols) {
            return Err(WeightError::Length {
                what: "layer inputs",
                expected: inputs.len().next_multiple_of(cols.max(1)),
                found: inputs.len(),
            });
        }
        if let Some(index) = inputs.iter().position(|v| !v.is_finite()) {
            return Err(WeightError::Value { what: "layer input", index, value: f64::from(inputs[index]) });
        }
        for chunk in inputs.chunks(CHUNK * cols) {
            let tokens = chunk.len() / cols;
            self.tiles.for_each(|(i, j), (rows, width), tile| {
                let columns = |t: usize, n: usize| View {
                    data: &chunk[t * TILE..],
                    rows: tokens,
                    cols: n,
                    row: cols,
                    col: 1,
                };
                let mut product = vec![0.0f32; rows * width];
                let (a, b) = (columns(i, rows), columns(j, width));
                sgemm(1.0, a.t(), b, 0.0, Out::rows(&mut product, rows, width));
                tile.iter_mut().zip(product).for_each(|(t, p)| *t += f64::from(p));
            });
            self.tokens += tokens as u64;
        }
        Ok(())
    }

    /// Adds another matrix of the same size (an error otherwise).
    pub fn merge(&mut self, other: &Self) -> Result<(), WeightError> {
        check_len("Gram matrix", self.cols(), other.cols())?;
        let source = &other.tiles;
        self.tiles.for_each(|(i, j), _, tile| {
            tile.iter_mut().zip(source.tile(i, j)).for_each(|(a, b)| *a += b);
        });
        self.tokens += other.tokens;
        Ok(())
    }

    /// The matrix of inputs that are divided by `scales` (positive, one per column): G_ij / (s_i·s_j).
    pub fn scaled(&self, scales: &[f32]) -> Result<Self, WeightError> {
        check_len("scales", self.cols(), scales.len())?;
        if let Some(index) = scales.iter().position(|s| !(s.is_normal() && *s > 0.0)) {
            return Err(WeightError::Value { what: "scale", index, value: f64::from(scales[index]) });
        }
        let s = |i: usize| f64::from(scales[i]);
        Ok(Self {
            tiles: Tiles::from_fn(self.cols(), |i, j| self.at(i, j) / (s(i) * s(j))),
            tokens: self.tokens,
        })
    }

    /// Element (i, j) of the symmetric matrix.
    pub fn at(&self, i: usize, j: usize) -> f64 {
        self.tiles.at(i, j)
    }

    /// Σ x_k² per column: an imatrix times the token count.
    pub fn diagonal(&self) -> Vec<f64> {
        (0..self.cols()).map(|k| self.at(k, k)).collect()
    }

    /// The diagonal as an importance vector: scaled so that its mean is 1 (all zero if it is).
    pub fn importance(&self) -> Vec<f32> {
        let diagonal = self.diagonal();
        let mean = diagonal.iter().sum::<f64>() / diagonal.len().max(1) as f64;
        diagonal.iter().map(|d| if mean > 0.0 { (d / mean) as f32 } else { 0.0 }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::testing::gaussian;

    #[test]
    fn equals_the_definition() {
        for (tokens, cols) in [(1, 1), (5, 3), (1030, 20), (40, 300)] {
            let x = gaussian(tokens * cols, 4);
            let mut gram = Gram::new(cols);
            let (a, b) = x.split_at(tokens / 2 * cols);
            gram.add(a).unwrap();
            let mut rest = Gram::new(cols);
            rest.add(b).unwrap();
            gram.merge(&rest).unwrap();
            assert_eq!(gram.tokens(), tokens as u64);
            for i in 0..cols {
                for j in 0..cols {
                    let x = |t: usize, k: usize| f64::from(x[t * cols + k]);
                    let exact: f64 = (0..tokens).map(|t| x(t, i) * x(t, j)).sum();
                    // f32 sums of ≤ 1024 unit products: √tokens · 2⁻²⁴ · a few
                    assert!((gram.at(i, j) - exact).abs() < 1e-6 * tokens as f64 + 1e-6);
                    assert_eq!(gram.at(i, j), gram.at(j, i));
                }
            }
        }
    }

    #[test]
    fn ugly_inputs() {
        let mut gram = Gram::new(4);
        assert!(gram.add(&[0.0; 7]).is_err());
        assert!(gram.add(&[1.0, f32::NAN, 0.0, 0.0]).is_err());
        assert_eq!(gram, Gram::new(4));
        gram.add(&[]).unwrap();
        gram.add(&[0.0; 8]).unwrap();
        assert_eq!((gram.tokens(), gram.importance()), (2, vec![0.0; 4]));
        assert!(gram.merge(&Gram::new(5)).is_err());
        assert!(Gram::from_matrix(&[1.0; 9], 3, 1).is_ok());
        assert!(Gram::from_matrix(&[f64::NAN; 9], 3, 1).is_err());
        assert!(Gram::from_matrix(&[1.0; 8], 3, 1).is_err());
        assert!(Gram::new(0).add(&[]).is_err());
    }

    #[test]
    fn the_same_bits_for_any_thread_count() {
        let x = gaussian(50 * 600, 9);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut gram = Gram::new(600);
                gram.add(&x).unwrap();
                gram
            })
        };
        assert_eq!(run(1), run(3));
    }
}
