//! The two float types that kernels compute in, and matrix products over slices.
//!
//! f32 models compute in `f32`, f64 models in `f64`; f16 and bf16 are widened to `f32` and rounded once at the end.

use ir::{DType, Tensor, TensorError};
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, LinalgScalar};
use num_traits::Float;

use crate::array;

/// `f32` or `f64`.
pub trait Real: Float + LinalgScalar + Send + Sync + std::iter::Sum + std::fmt::Debug {
    /// Rounds to nearest.
    fn of(value: f64) -> Self;
    /// Exact.
    fn wide(self) -> f64;
    /// The elements of a tensor of numbers; none for strings and complex numbers.
    fn read(tensor: &Tensor) -> Option<Vec<Self>>;
    /// A tensor of a float type, each number rounded once.
    fn write(dtype: DType, dims: &[usize], numbers: &[Self]) -> Result<Tensor, TensorError>;
}

impl Real for f32 {
    fn read(tensor: &Tensor) -> Option<Vec<f32>> {
        array::to_f32s(tensor)
    }
    fn write(dtype: DType, dims: &[usize], numbers: &[f32]) -> Result<Tensor, TensorError> {
        array::from_f32s(dtype, dims, numbers)
    }
    fn of(value: f64) -> f32 {
        value as f32
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    fn read(tensor: &Tensor) -> Option<Vec<f64>> {
        array::to_f64s(tensor)
    }
    fn write(dtype: DType, dims: &[usize], numbers: &[f64]) -> Result<Tensor, TensorError> {
        array::from_f64s(dtype, dims, numbers)
    }
    fn of(value: f64) -> f64 {
        value
    }
    fn wide(self) -> f64 {
        self
    }
}

/// A matrix over the start of a slice, of which the caller has checked that it holds `rows * columns` elements.
pub fn matrix<T>(data: &[T], rows: usize, columns: usize) -> ArrayView2<'_, T> {
    ArrayView2::from_shape((rows, columns), &data[..rows * columns]).expect("the slice has this length")
}

/// `c = a b + beta c`, where `c` is row-major of `[a.rows, b.columns]`.
pub fn multiply<T: Real>(a: ArrayView2<'_, T>, b: ArrayView2<'_, T>, beta: T, c: &mut [T]) {
    let shape = (a.nrows(), b.ncols());
    let mut c = ArrayViewMut2::from_shape(shape, c).expect("the output has the size of the product");
    general_mat_mul(T::one(), &a, &b, beta, &mut c);
}

/// The inner product, summed in `f64`.
pub fn dot<T: Real>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| a.wide() * b.wide()).sum()
}
