//! Dense matrix products behind a safe face, on the `matrixmultiply` crate.
//!
//! Why that crate: it is small (two seconds to build; `faer` takes two and a half minutes on two cores), it picks
//! AVX-512, AVX2+FMA or NEON kernels at run time, and it reaches 170 GFLOP/s (f32) and 70 GFLOP/s (f64) per core where
//! OpenBLAS reaches 190 and 95. It is used single-threaded; callers share out tiles with rayon, so results do not depend
//! on the thread count. They do depend, in the last bits, on the CPU's kernel (fused multiply-add).

/// A matrix in a slice: element (i, j) at `i * row + j * col`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a, T> {
    pub data: &'a [T],
    pub rows: usize,
    pub cols: usize,
    pub row: usize,
    pub col: usize,
}

impl<'a, T> View<'a, T> {
    /// Row-major, `cols` elements a row.
    pub fn rows(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, row: cols, col: 1 }
    }

    /// The transpose; no data moves.
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row: self.col, col: self.row, ..self }
    }

    fn check(&self) {
        if self.rows > 0 && self.cols > 0 {
            assert!((self.rows - 1) * self.row + (self.cols - 1) * self.col < self.data.len());
        }
    }
}

/// A matrix to write: row-major with `stride` elements from row to row.
pub(crate) struct Out<'a, T> {
    pub data: &'a mut [T],
    pub rows: usize,
    pub cols: usize,
    pub stride: usize,
}

impl<'a, T> Out<'a, T> {
    /// Row-major without gaps.
    pub fn rows(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, stride: cols }
    }

    fn check(&self) {
        assert!(self.cols <= self.stride || self.rows <= 1);
        if self.rows > 0 && self.cols > 0 {
            assert!((self.rows - 1) * self.stride + self.cols <= self.data.len());
        }
    }
}

macro_rules! product {
    ($(#[$doc:meta])* $name:ident, $float:ty, $kernel:path) => {
        $(#[$doc])*
        pub(crate) fn $name(alpha: $float, a: View<'_, $float>, b: View<'_, $float>, beta: $float, out: Out<'_, $float>) {
            a.check();
            b.check();
            out.check();
            assert!(a.cols == b.rows && a.rows == out.rows && b.cols == out.cols);
            // SAFETY: all three views were just checked to lie within their slices; `out` is exclusive and its rows
            // do not overlap.
            unsafe {
                $kernel(
                    a.rows, a.cols, b.cols, alpha,
                    a.data.as_ptr(), a.row as isize, a.col as isize,
                    b.data.as_ptr(), b.row as isize, b.col as isize,
                    beta, out.data.as_mut_ptr(), out.stride as isize, 1,
                );
            }
        }
    };
}

product! {
    /// out = alpha·a·b + beta·out in f32.
    sgemm, f32, matrixmultiply::sgemm
}
product! {
    /// out = alpha·a·b + beta·out in f64.
    dgemm, f64, matrixmultiply::dgemm
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::testing::gaussian;

    #[test]
    fn equals_the_definition() {
        for (m, k, n) in [(1, 1, 1), (3, 5, 2), (17, 33, 9), (8, 0, 4)] {
            let (a, b) = (gaussian(m * k, 1), gaussian(k * n, 2));
            let mut out = vec![1.0; m * n];
            sgemm(2.0, View::rows(&a, m, k), View::rows(&b, k, n), 1.0, Out::rows(&mut out, m, n));
            for i in 0..m {
                for j in 0..n {
                    let dot: f64 = (0..k).map(|p| f64::from(a[i * k + p]) * f64::from(b[p * n + j])).sum();
                    // 33 products of unit normals in f32
                    assert!((f64::from(out[i * n + j]) - 1.0 - 2.0 * dot).abs() < 1e-4);
                }
            }
            let mut symmetric = vec![0.0; k * k];
            let a = View::rows(&a, m, k);
            sgemm(1.0, a.t(), a, 0.0, Out::rows(&mut symmetric, k, k));
            assert!((0..k).all(|i| (0..k).all(|j| symmetric[i * k + j] == symmetric[j * k + i])));
        }
    }

    #[test]
    #[should_panic]
    fn a_view_outside_its_slice_panics() {
        let mut out = [0.0; 4];
        sgemm(1.0, View::rows(&[1.0; 3], 2, 2), View::rows(&[1.0; 4], 2, 2), 0.0, Out::rows(&mut out, 2, 2));
    }
}
