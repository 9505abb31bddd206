//! The lower half of a symmetric matrix in square tiles, and its Cholesky factor, in f64.
//!
//! Tiles make the half-storage cheap to update (each tile is one small matrix product) and to share out among threads
//! without overlap; the result is the same for any number of threads.

use rayon::prelude::*;

use super::gemm::{Out, View, dgemm};

/// Rows and columns of a tile (fewer at the lower and right edge).
pub(crate) const TILE: usize = 256;

/// Lower triangle of an n × n matrix: tile (i, j), j ≤ i, at index i(i+1)/2 + j, each full and row-major.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tiles {
    n: usize,
    data: Vec<Vec<f64>>,
}

/// Cholesky met a pivot that is not positive: the matrix is not positive definite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotPositive;

fn index(i: usize, j: usize) -> usize {
    i * (i + 1) / 2 + j
}

/// Tile row of each index.
fn coordinates(count: usize) -> Vec<(usize, usize)> {
    (0..count).flat_map(|i| (0..=i).map(move |j| (i, j))).collect()
}

impl Tiles {
    pub fn zeros(n: usize) -> Self {
        let count = n.div_ceil(TILE);
        let mut tiles = Self { n, data: Vec::new() };
        tiles.data =
            coordinates(count).iter().map(|&(i, j)| vec![0.0; tiles.size(i) * tiles.size(j)]).collect();
        tiles
    }

    /// A matrix from its elements; `element(i, j)` is asked for j ≤ i (and the upper half of diagonal tiles).
    pub fn from_fn(n: usize, element: impl Fn(usize, usize) -> f64 + Sync) -> Self {
        let mut tiles = Self::zeros(n);
        tiles.for_each(|(ti, tj), (rows, cols), tile| {
            for r in 0..rows {
                for c in 0..cols {
                    tile[r * cols + c] = element(ti * TILE + r, tj * TILE + c);
                }
            }
        });
        tiles
    }

    pub fn n(&self) -> usize {
        self.n
    }

    /// Rows of tile row `i`.
    pub fn size(&self, i: usize) -> usize {
        (self.n - i * TILE).min(TILE)
    }

    /// Element (i, j) or its mirror image.
    pub fn at(&self, i: usize, j: usize) -> f64 {
        let (i, j) = if i >= j { (i, j) } else { (j, i) };
        self.data[index(i / TILE, j / TILE)][(i % TILE) * self.size(j / TILE) + j % TILE]
    }

    /// Tile (i, j), j ≤ i, row-major.
    pub fn tile(&self, i: usize, j: usize) -> &[f64] {
        &self.data[index(i, j)]
    }

    /// Runs `f((i, j), (rows, cols), tile)` for every tile, in parallel.
    pub fn for_each(&mut self, f: impl Fn((usize, usize), (usize, usize), &mut [f64]) + Sync) {
        let n = self.n;
        let size = |i: usize| (n - i * TILE).min(TILE);
        let at = coordinates(n.div_ceil(TILE));
        self.data.par_iter_mut().zip(at).for_each(|(tile, (i, j))| f((i, j), (size(i), size(j)), tile));
    }

    /// Replaces the matrix by its lower Cholesky factor L, L·Lᵀ = A. The upper half of diagonal tiles becomes zero.
    pub fn cholesky(&mut self) -> Result<(), NotPositive> {
        let count = self.n.div_ceil(TILE);
        for k in 0..count {
            let nk = self.size(k);
            cholesky_tile(&mut self.data[index(k, k)], nk)?;
            let inverse = invert_lower(&self.data[index(k, k)], nk);
            // Below: L_ik = A_ik · L_kk⁻ᵀ.
            let below: Vec<usize> = (k + 1..count).collect();
            let solved: Vec<Vec<f64>> = below
                .par_iter()
                .map(|&i| {
                    let ni = self.size(i);
                    let mut out = vec![0.0; ni * nk];
                    let a = View::rows(&self.data[index(i, k)], ni, nk);
                    dgemm(1.0, a, View::rows(&inverse, nk, nk).t(), 0.0, Out::rows(&mut out, ni, nk));
                    out
                })
                .collect();
            // To the right: A_ij −= L_ik · L_jkᵀ.
            self.for_each_from(k + 1, |(i, j), (ni, nj), tile| {
                let (a, b) = (&solved[i - k - 1], &solved[j - k - 1]);
                dgemm(-1.0, View::rows(a, ni, nk), View::rows(b, nj, nk).t(), 1.0, Out::rows(tile, ni, nj));
            });
            for (i, tile) in below.into_iter().zip(solved) {
                self.data[index(i, k)] = tile;
            }
        }
        Ok(())
    }

    /// Replaces X by X·A⁻¹, where `self` is the Cholesky factor of A and X has rows of n elements.
    pub fn solve_rows(&self, x: &mut [f64]) {
        let n = self.n;
        let rows = x.len() / n;
        let count = n.div_ceil(TILE);
        let inverses: Vec<Vec<f64>> =
            (0..count).map(|k| invert_lower(&self.data[index(k, k)], self.size(k))).collect();
        let read = |x: &[f64], k: usize| -> Vec<f64> {
            x.chunks(n).flat_map(|r| r[k * TILE..k * TILE + self.size(k)].iter().copied()).collect()
        };
        // Y·Lᵀ = X, forwards; then Z·L = Y, backwards. Both a column of tiles at a time.
        for (forwards, k) in (0..count).map(|k| (true, k)).chain((0..count).rev().map(|k| (false, k))) {
            let nk = self.size(k);
            let mut part = read(x, k);
            let others = if forwards { 0..k } else { k + 1..count };
            for i in others {
                let ni = self.size(i);
                let known = View { data: &x[i * TILE..], rows, cols: ni, row: n, col: 1 };
                let l = if forwards {
                    View::rows(&self.data[index(k, i)], nk, ni).t()
                } else {
                    View::rows(&self.data[index(i, k)], ni, nk)
                };
                dgemm(-1.0, known, l, 1.0, Out::rows(&mut part, rows, nk));
            }
            let inverse = View::rows(&inverses[k], nk, nk);
            let inverse = if forwards { inverse.t() } else { inverse };
            let out = Out { data: &mut x[k * TILE..], rows, cols: nk, stride: n };
            dgemm(1.0, View::rows(&part, rows, nk), inverse, 0.0, out);
        }
    }

    /// [`Self::for_each`] over tiles with i ≥ j ≥ first.
    fn for_each_from(&mut self, first: usize, f: impl Fn((usize, usize), (usize, usize), &mut [f64]) + Sync) {
        self.for_each(|(i, j), size, tile| {
            if j >= first {
                f((i, j), size, tile);
            }
        });
    }
}

/// Cholesky of one row-major n × n tile in place, upper half zeroed.
fn cholesky_tile(a: &mut [f64], n: usize) -> Result<(), NotPositive> {
    for i in 0..n {
        let (above, row) = a.split_at_mut(i * n);
        let row = &mut row[..n];
        for j in 0..i {
            let other = &above[j * n..j * n + j + 1];
            let dot = dot(&row[..j], &other[..j]);
            row[j] = (row[j] - dot) / other[j];
        }
        let pivot = row[i] - dot(&row[..i], &row[..i]);
        // Also refuses NaN.
        if !(pivot > 0.0 && pivot.is_finite()) {
            return Err(NotPositive);
        }
        row[i] = pivot.sqrt();
        row[i + 1..].fill(0.0);
    }
    Ok(())
}

/// Inverse of a lower triangular row-major n × n matrix with positive diagonal.
fn invert_lower(l: &[f64], n: usize) -> Vec<f64> {
    let mut out = vec![0.0; n * n];
    for i in 0..n {
        let (done, row) = out.split_at_mut(i * n);
        let row = &mut row[..n];
        // Row i of the inverse: −(Σ_{k<i} l_ik · inverse_k) / l_ii, and 1 / l_ii on the diagonal.
        for k in 0..i {
            let factor = l[i * n + k];
            for (r, d) in row[..=k].iter_mut().zip(&done[k * n..k * n + k + 1]) {
                *r -= factor * d;
            }
        }
        let pivot = l[i * n + i];
        row[..i].iter_mut().for_each(|r| *r /= pivot);
        row[i] = 1.0 / pivot;
    }
    out
}

/// Σ a·b in eight fixed lanes.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (a8, a1) = a.as_chunks::<8>();
    let (b8, b1) = b.as_chunks::<8>();
    for (a, b) in a8.iter().zip(b8) {
        for l in 0..8 {
            lanes[l] += a[l] * b[l];
        }
    }
    lanes.iter().sum::<f64>() + a1.iter().zip(b1).map(|(a, b)| a * b).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::testing::Random;

    fn positive(n: usize, seed: u64) -> Vec<f64> {
        let mut random = Random::new(seed);
        let x: Vec<f64> = (0..(n + 3) * n).map(|_| random.normal()).collect();
        let mut a = vec![0.0; n * n];
        let x = View::rows(&x, n + 3, n);
        dgemm(1.0, x.t(), x, 0.0, Out::rows(&mut a, n, n));
        (0..n).for_each(|i| a[i * n + i] += 1.0);
        a
    }

    #[test]
    fn the_factor_multiplies_back() {
        for n in [1, 2, 7, 256, 257, 600] {
            let a = positive(n, n as u64);
            let mut l = Tiles::from_fn(n, |i, j| a[i * n + j]);
            l.cholesky().unwrap();
            let full: Vec<f64> =
                (0..n * n).map(|e| if e % n <= e / n { l.at(e / n, e % n) } else { 0.0 }).collect();
            let mut back = vec![0.0; n * n];
            let view = View::rows(&full, n, n);
            dgemm(1.0, view, view.t(), 0.0, Out::rows(&mut back, n, n));
            // Backward error of Cholesky: about n · 2⁻⁵³ of the largest element (≈ n).
            let worst = back.iter().zip(&a).map(|(b, a)| (b - a).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-15 * (n * n) as f64 * 8.0 + 1e-13, "{n}: {worst}");
        }
    }

    #[test]
    fn solving_inverts_multiplying() {
        for n in [1, 5, 256, 300, 530] {
            let a = positive(n, 7);
            let mut factor = Tiles::from_fn(n, |i, j| a[i * n + j]);
            factor.cholesky().unwrap();
            let mut random = Random::new(8);
            let x: Vec<f64> = (0..3 * n).map(|_| random.normal()).collect();
            let mut y = vec![0.0; 3 * n];
            dgemm(1.0, View::rows(&x, 3, n), View::rows(&a, n, n), 0.0, Out::rows(&mut y, 3, n));
            factor.solve_rows(&mut y);
            // Condition number of A (≈ 4n) times 2⁻⁵³, generously.
            assert!(x.iter().zip(&y).all(|(a, b)| (a - b).abs() < 1e-9), "{n}");
        }
    }

    #[test]
    fn what_is_not_positive_definite_is_refused() {
        assert_eq!(Tiles::from_fn(3, |_, _| 1.0).cholesky(), Err(NotPositive));
        assert_eq!(Tiles::from_fn(300, |i, j| if i == j { 0.0 } else { 1.0 }).cholesky(), Err(NotPositive));
        assert_eq!(Tiles::from_fn(2, |_, _| f64::NAN).cholesky(), Err(NotPositive));
    }

    #[test]
    fn elements_mirror() {
        let t = Tiles::from_fn(300, |i, j| (i * 1000 + j) as f64);
        assert_eq!((t.at(299, 3), t.at(3, 299), t.at(5, 4)), (299_003.0, 299_003.0, 5004.0));
    }
}
