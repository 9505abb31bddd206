//! Cross moments Σ a·bᵀ of two values seen on the same tokens, and what they are for: new targets for weights whose
//! inputs come from layers that are quantized already.
//!
//! A layer that is asked for W·x receives x̂ instead. Rounding W as if nothing had happened keeps the error of the layers
//! before; the weight that gives the wanted output best is, in closed form and damped towards W,
//!
//! ```text
//! W* = W + (W·Σ(x − x̂)x̂ᵀ + Σ r·x̂ᵀ)·(H + λ·mean(diag H)·I)⁻¹,   H = Σ x̂·x̂ᵀ
//! ```
//!
//! r is a wish beyond W·x: where a residual stream is added to the layer's output, r = its error so far (float minus
//! quantized), and the layer takes that back too. W* is then rounded with the same H ([`super::gptq`]).
//!
//! Drift is less regular than inputs are: on few samples W* fits what it has seen and is wrong elsewhere. So it is judged by
//! rows that were held back ([`borne_out`]), and only the part of W* − W that they bear out is taken.

use rayon::prelude::*;

use super::gemm::{Out, View, sgemm};
use super::gram::Gram;
use super::tiles::Tiles;
use super::{Note, Weight, WeightError, check_len};

/// Tokens summed in f32.
const CHUNK: usize = 1024;
/// Rows of one parallel piece.
const ROWS: usize = 64;

/// Σ a·bᵀ over tokens, `[rows, cols]` row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Cross {
    rows: usize,
    cols: usize,
    matrix: Vec<f64>,
}

impl Cross {
    /// Nothing seen yet; `rows` is the length of a, `cols` that of b. An error if their product overflows or is 0.
    pub fn new(rows: usize, cols: usize) -> Result<Self, WeightError> {
        let count = rows.checked_mul(cols).filter(|c| *c > 0);
        let count = count.ok_or(WeightError::Shape { rows, cols, found: 0 })?;
        Ok(Self { rows, cols, matrix: vec![0.0; count] })
    }

    /// A matrix made elsewhere.
    pub fn from_matrix(matrix: Vec<f64>, rows: usize, cols: usize) -> Result<Self, WeightError> {
        check_len("cross moments", rows.saturating_mul(cols), matrix.len())?;
        if let Some(index) = matrix.iter().position(|v| !v.is_finite()) {
            return Err(WeightError::Value { what: "cross moments", index, value: matrix[index] });
        }
        Ok(Self { rows, cols, matrix })
    }

    /// Adds tokens: `a` is `[T, rows]`, `b` `[T, cols]`. NaN and infinities are an error, and nothing is added.
    pub fn add(&mut self, a: &[f32], b: &[f32]) -> Result<(), WeightError> {
        let (rows, cols) = (self.rows, self.cols);
        let tokens = b.len() / cols;
        check_len("second of the crossed values", tokens * cols, b.len())?;
        check_len("first of the crossed values", tokens * rows, a.len())?;
        for values in [a, b] {
            if let Some(index) = values.iter().position(|v| !v.is_finite()) {
                let value = f64::from(values[index]);
                return Err(WeightError::Value { what: "crossed value", index, value });
            }
        }
        for (a, b) in a.chunks(CHUNK * rows).zip(b.chunks(CHUNK * cols)) {
            let tokens = b.len() / cols;
            self.matrix.par_chunks_mut(ROWS * cols).enumerate().for_each(|(p, out)| {
                let n = out.len() / cols;
                let mut product = vec![0.0f32; out.len()];
                let a = View { data: &a[p * ROWS..], rows: tokens, cols: n, row: rows, col: 1 };
                sgemm(1.0, a.t(), View::rows(b, tokens, cols), 0.0, Out::rows(&mut product, n, cols));
                out.iter_mut().zip(product).for_each(|(o, p)| *o += f64::from(p));
            });
        }
        Ok(())
    }

    /// Element (i, j).
    pub fn at(&self, i: usize, j: usize) -> f64 {
        self.matrix[i * self.cols + j]
    }
}

/// A weight with new targets.
#[derive(Debug, Clone, PartialEq)]
pub struct Retargeted {
    /// `[N, K]` row-major.
    pub weight: Vec<f32>,
    /// Damping that had to be raised.
    pub notes: Vec<Note>,
}

/// What a weight should be, given how its input and the residual stream have drifted (head of this file).
///
/// `gram` is H of the inputs as they are now, `input` Σ(x − x̂)x̂ᵀ `[K, K]`, `residual` Σ r·x̂ᵀ `[N, K]`, `damping` λ. An
/// all-zero H changes nothing.
pub fn retarget(
    weight: &Weight<'_>,
    gram: &Gram,
    input: Option<&Cross>,
    residual: Option<&Cross>,
    damping: f64,
) -> Result<Retargeted, WeightError> {
    let (rows, cols) = (weight.rows(), weight.cols());
    check_len("Gram matrix", cols, gram.cols())?;
    if !(damping.is_finite() && damping >= 0.0) {
        return Err(WeightError::Option {
            what: "damping",
            must: "a number ≥ 0",
            found: damping.to_string(),
        });
    }
    let mut w = weight.to_f32()?;
    let mean = gram.diagonal().iter().sum::<f64>() / cols as f64;
    if mean.is_nan() || mean <= 0.0 {
        return Ok(Retargeted { weight: w, notes: Vec::new() });
    }
    // The right-hand side, [N, K].
    let mut wish = vec![0.0f64; rows * cols];
    if let Some(input) = input {
        check_len("input drift", cols * cols, input.matrix.len())?;
        let exact: Vec<f64> = w.iter().map(|v| f64::from(*v)).collect();
        wish.par_chunks_mut(ROWS * cols).zip(exact.par_chunks(ROWS * cols)).for_each(|(out, w)| {
            let n = out.len() / cols;
            let drift = View::rows(&input.matrix, cols, cols);
            super::gemm::dgemm(1.0, View::rows(w, n, cols), drift, 0.0, Out::rows(out, n, cols));
        });
    }
    if let Some(residual) = residual {
        check_len("residual drift", rows * cols, residual.matrix.len())?;
        wish.iter_mut().zip(&residual.matrix).for_each(|(w, r)| *w += r);
    }
    let (factor, used) = factor(gram, mean, damping)?;
    wish.par_chunks_mut(ROWS * cols).for_each(|rows| factor.solve_rows(rows));
    w.iter_mut().zip(&wish).for_each(|(w, d)| *w = (f64::from(*w) + d) as f32);
    // A change beyond f32 can only come from moments that do not belong to this Gram matrix.
    if let Some(at) = w.iter().position(|v| !v.is_finite()) {
        return Err(WeightError::NotFinite { row: at / cols, col: at % cols, value: w[at] });
    }
    let notes = (used > damping).then_some(Note::DampingRaised { asked: damping, used });
    Ok(Retargeted { weight: w, notes: notes.into_iter().collect() })
}

/// How far a change of a weight is borne out by rows that it was not fitted to: (Σ a·g, Σ a²) with a = Δ·x̂ what the change
/// adds to the output and g = W·(x − x̂) + r what it should add. The part α = Σ a·g / Σ a² of the change is the best there.
///
/// `weight` and `change` are `[N, K]`, `inputs` x̂ and `gap` x − x̂ `[T, K]`, `residual` r `[T, N]`.
pub fn borne_out(
    weight: &[f32],
    change: &[f32],
    cols: usize,
    inputs: &[f32],
    gap: &[f32],
    residual: Option<&[f32]>,
) -> Result<(f64, f64), WeightError> {
    let (rows, tokens) = (weight.len() / cols.max(1), inputs.len() / cols.max(1));
    check_len("weight", rows * cols, weight.len())?;
    check_len("change of a weight", weight.len(), change.len())?;
    check_len("layer inputs", tokens * cols, inputs.len())?;
    check_len("input drift", inputs.len(), gap.len())?;
    if let Some(residual) = residual {
        check_len("residual drift", tokens * rows, residual.len())?;
    }
    let (mut added, mut wanted) = (vec![0.0f32; tokens * rows], vec![0.0f32; tokens * rows]);
    if let Some(residual) = residual {
        wanted.copy_from_slice(residual);
    }
    // Fixed pieces of rows, so that the sums do not depend on threads.
    let parts: Vec<(f64, f64)> = added
        .par_chunks_mut(CHUNK * rows.max(1))
        .zip(wanted.par_chunks_mut(CHUNK * rows.max(1)))
        .enumerate()
        .map(|(at, (added, wanted))| {
            let n = added.len() / rows.max(1);
            let (x, d) = (&inputs[at * CHUNK * cols..][..n * cols], &gap[at * CHUNK * cols..][..n * cols]);
            let (w, c) = (View::rows(weight, rows, cols), View::rows(change, rows, cols));
            sgemm(1.0, View::rows(x, n, cols), c.t(), 0.0, Out::rows(added, n, rows));
            sgemm(1.0, View::rows(d, n, cols), w.t(), 1.0, Out::rows(wanted, n, rows));
            let terms = added.iter().zip(wanted.iter()).map(|(a, g)| (f64::from(*a), f64::from(*g)));
            terms.fold((0.0, 0.0), |sum, (a, g)| (sum.0 + a * g, sum.1 + a * a))
        })
        .collect();
    Ok(parts.iter().fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1)))
}

/// Cholesky of H + λ·mean·I, with λ raised until it succeeds.
fn factor(gram: &Gram, mean: f64, asked: f64) -> Result<(Tiles, f64), WeightError> {
    let mut damping = asked;
    while damping <= asked.max(1e3) {
        let mut tiles =
            Tiles::from_fn(gram.cols(), |i, j| gram.at(i, j) + if i == j { damping * mean } else { 0.0 });
        if tiles.cholesky().is_ok() {
            return Ok((tiles, damping));
        }
        damping = (damping * 10.0).max(1e-6);
    }
    Err(WeightError::Option {
        what: "Gram matrix",
        must: "positive semidefinite",
        found: "one that is not, at any damping".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::testing::gaussian;

    /// With enough tokens the drift is undone: W*·x̂ = W·x + r for x̂ = A·x, r = B·x̂.
    #[test]
    fn undoes_a_linear_drift() {
        let (tokens, rows, cols) = (3000, 5, 40);
        let x = gaussian(tokens * cols, 1);
        let mix: Vec<f32> = gaussian(cols * cols, 2).iter().map(|v| v * 0.02).collect();
        let extra = gaussian(rows * cols, 3);
        let w = gaussian(rows * cols, 4);
        let product = |t: &[f32], m: &[f32]| -> Vec<f32> {
            m.chunks(cols).map(|r| r.iter().zip(t).map(|(a, b)| a * b).sum()).collect()
        };
        let drifted: Vec<f32> = x
            .chunks(cols)
            .flat_map(|t| product(t, &mix).into_iter().zip(t).map(|(d, x)| x + d).collect::<Vec<_>>())
            .collect();
        let wish: Vec<f32> = drifted.chunks(cols).flat_map(|t| product(t, &extra)).collect();
        let mut gram = Gram::new(cols);
        gram.add(&drifted).unwrap();
        let mut input = Cross::new(cols, cols).unwrap();
        let change: Vec<f32> = x.iter().zip(&drifted).map(|(a, b)| a - b).collect();
        input.add(&change, &drifted).unwrap();
        let mut residual = Cross::new(rows, cols).unwrap();
        residual.add(&wish, &drifted).unwrap();
        let weight = Weight::from_rows(&w[..], rows, cols).unwrap();
        let new = retarget(&weight, &gram, Some(&input), Some(&residual), 0.0).unwrap();
        assert_eq!(new.notes, []);
        for (t, d) in x.chunks(cols).zip(drifted.chunks(cols)).take(20) {
            let (wanted, more, got) = (product(t, &w), product(d, &extra), product(d, &new.weight));
            for n in 0..rows {
                // Exact up to f32 sums of 40 products and f32 moments.
                assert!((wanted[n] + more[n] - got[n]).abs() < 2e-3, "{} {}", wanted[n] + more[n], got[n]);
            }
        }
        assert_eq!(retarget(&weight, &gram, None, None, 0.01).unwrap().weight, w);
    }

    #[test]
    fn a_change_is_judged_by_other_rows() {
        let (tokens, rows, cols) = (300, 6, 20);
        let (x, w, change) = (gaussian(tokens * cols, 1), gaussian(rows * cols, 2), gaussian(rows * cols, 3));
        let gap: Vec<f32> = gaussian(tokens * cols, 4).iter().map(|v| v * 0.1).collect();
        let product = |t: &[f32], m: &[f32]| -> Vec<f32> {
            m.chunks(cols).map(|r| r.iter().zip(t).map(|(a, b)| a * b).sum()).collect()
        };
        // What is wanted beside W·(x − x̂) is 0.3 of what the change adds, less what W·(x − x̂) is.
        let residual: Vec<f32> = x
            .chunks(cols)
            .zip(gap.chunks(cols))
            .flat_map(|(x, d)| {
                let (a, b) = (product(x, &change), product(d, &w));
                a.iter().zip(&b).map(|(a, b)| 0.3 * a - b).collect::<Vec<_>>()
            })
            .collect();
        let (fits, size) = borne_out(&w, &change, cols, &x, &gap, Some(&residual)).unwrap();
        assert!((fits / size - 0.3).abs() < 1e-4, "{fits} {size}"); // f32 products of 20 terms
        assert_eq!(borne_out(&w, &change, cols, &[], &[], None).unwrap(), (0.0, 0.0));
        assert!(borne_out(&w, &change[1..], cols, &x, &gap, None).is_err());
        assert!(borne_out(&w, &change, cols, &x, &gap[1..], None).is_err());
    }

    #[test]
    fn ugly_moments() {
        let w = gaussian(8, 1);
        let weight = Weight::from_rows(&w[..], 2, 4).unwrap();
        assert_eq!(retarget(&weight, &Gram::new(4), None, None, 0.0).unwrap().weight, w);
        assert!(retarget(&weight, &Gram::new(5), None, None, 0.0).is_err());
        assert!(retarget(&weight, &Gram::new(4), None, None, -1.0).is_err());
        let mut one = Gram::new(4);
        one.add(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        let drift = Cross::from_matrix(vec![0.1; 16], 4, 4).unwrap();
        let new = retarget(&weight, &one, Some(&drift), None, 0.0).unwrap(); // rank one, undamped
        assert!(matches!(new.notes[..], [Note::DampingRaised { .. }]));
        assert!(retarget(&weight, &one, Some(&Cross::new(4, 5).unwrap()), None, 0.1).is_err());
        assert!(Cross::new(0, 5).is_err());
        assert!(Cross::new(usize::MAX, 5).is_err());
        assert!(Cross::new(2, 2).unwrap().add(&[1.0; 3], &[1.0; 4]).is_err());
        assert!(Cross::new(1, 1).unwrap().add(&[f32::NAN], &[1.0]).is_err());
    }
}
