//! Matrix products: MatMul (numpy's, with broadcasting), Gemm (`alpha a b + beta c`), Det.
//!
//! Floats are multiplied in f32 (f64 for f64) and rounded once; integers wrap.

use ir::{DType, Dim};
use ndarray::ArrayView2;
use num_traits::Zero;

use super::reals::{for_real, reals, value};
use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::{InferCx, shape};
use crate::kernel::broadcast::{broadcast_strides, zip};
use crate::kernel::movement;
use crate::kernel::real::{Real, multiply};
use crate::rule::{OpRule, Table};

// ---- MatMul ----------------------------------------------------------------------------------------------------

/// The sizes of a numpy matrix product of inputs `a` and `b`.
pub(super) fn product_dims(cx: &InferCx, a: usize, b: usize) -> Result<Option<Vec<Dim>>> {
    let (Some(x), Some(y)) = (cx.dims(a), cx.dims(b)) else { return Ok(None) };
    if x.is_empty() || y.is_empty() {
        return Err(cx.wrong_input(if x.is_empty() { a } else { b }, "a vector or matrices"));
    }
    let inner = (&x[x.len() - 1], &y[y.len().saturating_sub(2)]);
    if shape::merge_dim(inner.0, inner.1).is_none() {
        return Err(cx.wrong_input(b, &format!("{} rows", inner.0)));
    }
    let batch = shape::broadcast(&x[..x.len().saturating_sub(2)], &y[..y.len().saturating_sub(2)]);
    let mut dims =
        batch.ok_or_else(|| cx.wrong_input(b, &format!("batches that broadcast with {}", shape::show(x))))?;
    dims.extend(x.len().checked_sub(2).map(|at| x[at].clone()));
    dims.extend((y.len() > 1).then(|| y[y.len() - 1].clone()));
    Ok(Some(dims))
}

fn matmul_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.need(1)?;
    let dtype = cx.same_dtype(0..2)?;
    let dims = product_dims(cx, 0, 1)?;
    cx.set(0, dtype, dims);
    Ok(())
}

/// The plan of a batched product: sizes of one, result sizes, and where each one's operands begin.
pub(super) struct Product {
    /// Rows, inner size, columns.
    pub m: usize,
    pub k: usize,
    pub n: usize,
    /// Sizes of the result, of which the first `batch` number the products.
    pub dims: Vec<usize>,
    batch: usize,
    /// Offsets of the operands of each product, in elements.
    pub starts: Vec<(usize, usize)>,
}

impl Product {
    /// The plan for operands of these sizes; none if they do not fit.
    pub(super) fn of(a: &[usize], b: &[usize]) -> Option<Product> {
        let (&k, a_outer) = a.split_last()?;
        let (m, a_batch) = a_outer.split_last().map_or((1, a_outer), |(&m, batch)| (m, batch));
        let (rows, n, b_batch) = match b {
            [] => return None,
            [rows] => (*rows, 1, &b[..0]),
            [batch @ .., rows, n] => (*rows, *n, batch),
        };
        if rows != k {
            return None;
        }
        let mut dims = shape::broadcast_sizes(a_batch, b_batch)?;
        let batch = dims.len();
        dims.extend((a.len() > 1).then_some(m));
        dims.extend((b.len() > 1).then_some(n));
        Some(Product { m, k, n, dims, batch, starts: Vec::new() })
    }

    /// The same with the starts, which the caller has room for: one for each product, none where the result is empty.
    pub(super) fn placed(mut self, a: &[usize], b: &[usize]) -> Product {
        if self.dims.contains(&0) {
            return self;
        }
        let (m, k, n) = (self.m, self.k, self.n);
        let batch = &self.dims[..self.batch];
        let (a, b) = (&a[..a.len().saturating_sub(2)], &b[..b.len().saturating_sub(2)]);
        let offsets = |dims: &[usize], block: usize| {
            let strides: Vec<isize> =
                broadcast_strides(dims, batch).iter().map(|&s| (s * block) as isize).collect();
            movement::strided(batch, 0, &strides)
        };
        let starts = offsets(a, m * k).zip(offsets(b, k * n)).collect();
        self.starts = starts;
        self
    }
}

fn matmul(cx: &EvalCx) -> Result<Outputs> {
    let (a, b) = (cx.tensor(0)?, cx.tensor(1)?);
    let plan = Product::of(a.dims(), b.dims())
        .ok_or_else(|| cx.wrong_input(1, &format!("a matrix that {:?} multiplies", a.dims())))?;
    let elements = cx.reserve(a.dtype(), &plan.dims)?;
    let plan = plan.placed(a.dims(), b.dims());
    if a.dtype() != b.dtype() {
        return Err(cx.wrong_input(1, &format!("element type {}", a.dtype())));
    }
    if a.dtype().is_int() {
        let (x, y) = (cx.ints(0)?, cx.ints(1)?);
        return cx.give(array::from_i64s(a.dtype(), &plan.dims, &int_product(&plan, &x, &y)));
    }
    for_real!(cx, 0, T => {
        let (x, y) = (reals::<T>(cx, 0)?, reals::<T>(cx, 1)?);
        let out = real_product(&plan, &x, &y, elements);
        Ok(vec![value(cx, a.dtype(), &plan.dims, &out)?])
    })
}

/// The products one after the other, in the type of the operands.
pub(super) fn real_product<T: Real>(plan: &Product, x: &[T], y: &[T], elements: usize) -> Vec<T> {
    let mut out = vec![T::zero(); elements];
    let size = plan.m * plan.n;
    if size == 0 || plan.k == 0 {
        return out;
    }
    for (chunk, &(a, b)) in out.chunks_mut(size).zip(&plan.starts) {
        let left = ArrayView2::from_shape((plan.m, plan.k), &x[a..a + plan.m * plan.k]);
        let right = ArrayView2::from_shape((plan.k, plan.n), &y[b..b + plan.k * plan.n]);
        if let (Ok(left), Ok(right)) = (left, right) {
            multiply(left, right, T::zero(), chunk);
        }
    }
    out
}

fn int_product(plan: &Product, x: &[i64], y: &[i64]) -> Vec<i64> {
    let (m, k, n) = (plan.m, plan.k, plan.n);
    let mut out = Vec::with_capacity(plan.starts.len() * m * n);
    for &(a, b) in &plan.starts {
        for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
            let term = |l: usize| x[a + i * k + l].wrapping_mul(y[b + l * n + j]);
            out.push((0..k).map(term).fold(0i64, i64::wrapping_add));
        }
    }
    out
}

// ---- Gemm ------------------------------------------------------------------------------------------------------

pub(super) fn gemm_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.need(1)?;
    let dtype = cx.same_dtype((0..3).filter(|&at| cx.has(at)).collect::<Vec<_>>())?;
    let (trans_a, trans_b) = (cx.attrs().flag("transA", false)?, cx.attrs().flag("transB", false)?);
    let (a, b) = (cx.need_rank(0, 2)?, cx.need_rank(1, 2)?);
    let size = |dims: Option<&[Dim]>, at: usize| dims.map_or(Dim::Unknown, |dims| dims[at].clone());
    let inner = (size(a, usize::from(!trans_a)), size(b, usize::from(trans_b)));
    if shape::merge_dim(&inner.0, &inner.1).is_none() {
        return Err(cx.wrong_input(1, &format!("{} rows", inner.0)));
    }
    let dims = vec![size(a, usize::from(trans_a)), size(b, usize::from(!trans_b))];
    if let Some(c) = cx.dims(2)
        && shape::broadcast(&dims, c).is_none_or(|joined| joined.len() > 2)
    {
        return Err(cx.wrong_input(2, &format!("sizes that broadcast to {}", shape::show(&dims))));
    }
    cx.set(0, dtype, Some(dims));
    Ok(())
}

pub(super) fn gemm(cx: &EvalCx) -> Result<Outputs> {
    let (a, b) = (cx.tensor(0)?, cx.tensor(1)?);
    let (&[a0, a1], &[b0, b1]) = (a.dims(), b.dims()) else { return Err(cx.wrong_input(0, "matrices")) };
    let (trans_a, trans_b) = (cx.attrs().flag("transA", false)?, cx.attrs().flag("transB", false)?);
    let (m, k) = if trans_a { (a1, a0) } else { (a0, a1) };
    let (rows, n) = if trans_b { (b1, b0) } else { (b0, b1) };
    if rows != k {
        return Err(cx.wrong_input(1, &format!("{k} rows")));
    }
    let (alpha, beta) = (cx.attrs().float("alpha", 1.0)?, cx.attrs().float("beta", 1.0)?);
    let elements = cx.reserve(a.dtype(), &[m, n])?;
    if a.dtype().is_int() {
        return gemm_ints(cx, [m, k, n], [trans_a, trans_b], [alpha, beta]);
    }
    for_real!(cx, 0, T => {
        let (x, y) = (reals::<T>(cx, 0)?, reals::<T>(cx, 1)?);
        let mut out = vec![T::zero(); elements];
        let views = (ArrayView2::from_shape((a0, a1), &x), ArrayView2::from_shape((b0, b1), &y));
        if let (Ok(left), Ok(right)) = views {
            let left = if trans_a { left.reversed_axes() } else { left };
            let right = if trans_b { right.reversed_axes() } else { right };
            multiply(left, right, T::zero(), &mut out);
        }
        let alpha = T::of(f64::from(alpha));
        out.iter_mut().for_each(|v| *v *= alpha);
        if cx.has(2) {
            let (c, beta) = (reals::<T>(cx, 2)?, T::of(f64::from(beta)));
            let sizes = cx.tensor(2)?.dims();
            if shape::broadcast_sizes(sizes, &[m, n]).is_none_or(|dims| dims != [m, n]) {
                return Err(cx.wrong_input(2, &format!("sizes that broadcast to [{m}, {n}]")));
            }
            out = zip((&out, &[m, n]), (&c, sizes), &[m, n], |a, c| a + beta * c);
        }
        Ok(vec![value(cx, a.dtype(), &[m, n], &out)?])
    })
}

fn gemm_ints(
    cx: &EvalCx,
    [m, k, n]: [usize; 3],
    [ta, tb]: [bool; 2],
    [alpha, beta]: [f32; 2],
) -> Result<Outputs> {
    if alpha.fract() != 0.0 || beta.fract() != 0.0 {
        return Err(cx.unsupported("integers with fractional factors"));
    }
    let (x, y) = (cx.ints(0)?, cx.ints(1)?);
    let sizes = cx.opt_tensor(2)?.map(ir::Tensor::dims);
    let c = cx.opt_ints(2)?.unwrap_or_else(|| vec![0]);
    let sizes = sizes.unwrap_or(&[]);
    if shape::broadcast_sizes(sizes, &[m, n]).is_none_or(|dims| dims != [m, n]) {
        return Err(cx.wrong_input(2, &format!("sizes that broadcast to [{m}, {n}]")));
    }
    let mut out = Vec::with_capacity(m * n);
    for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
        let term = |l: usize| {
            let a = if ta { x[l * m + i] } else { x[i * k + l] };
            a.wrapping_mul(if tb { y[j * k + l] } else { y[l * n + j] })
        };
        out.push((0..k).map(term).fold(0i64, i64::wrapping_add).wrapping_mul(alpha as i64));
    }
    let out = zip((&out, &[m, n]), (&c, sizes), &[m, n], |a: i64, c: i64| {
        a.wrapping_add(c.wrapping_mul(beta as i64))
    });
    cx.give(array::from_i64s(cx.tensor(0)?.dtype(), &[m, n], &out))
}

// ---- Det: of the last two axes ---------------------------------------------------------------------------------

fn det_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let dims = match cx.dims(0) {
        None => None,
        Some([batch @ .., a, b]) if shape::merge_dim(a, b).is_some() => Some(batch.to_vec()),
        Some(_) => return Err(cx.wrong_input(0, "square matrices")),
    };
    cx.set(0, cx.dtype(0), dims);
    Ok(())
}

fn det(cx: &EvalCx) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let (batch, size) = match input.dims() {
        [batch @ .., a, b] if a == b => (batch, *a),
        _ => return Err(cx.wrong_input(0, "square matrices")),
    };
    let count = cx.reserve(DType::F64, batch)?;
    let numbers = cx.f64s(0)?;
    let out: Vec<f64> = match size {
        0 => vec![1.0; count],
        size => numbers.chunks_exact(size * size).map(|matrix| determinant(matrix.to_vec(), size)).collect(),
    };
    cx.give(array::from_f64s(input.dtype(), batch, &out))
}

/// By elimination with partial pivoting.
fn determinant(mut a: Vec<f64>, size: usize) -> f64 {
    let mut product = 1.0;
    for column in 0..size {
        let pivot =
            (column..size).max_by(|&x, &y| a[x * size + column].abs().total_cmp(&a[y * size + column].abs()));
        let pivot = pivot.unwrap_or(column);
        if a[pivot * size + column] == 0.0 {
            return 0.0;
        }
        if pivot != column {
            (0..size).for_each(|j| a.swap(pivot * size + j, column * size + j));
            product = -product;
        }
        product *= a[column * size + column];
        for row in column + 1..size {
            let factor = a[row * size + column] / a[column * size + column];
            for j in column..size {
                a[row * size + j] -= factor * a[column * size + j];
            }
        }
    }
    product
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("MatMul", 1, matmul_infer).eval(matmul),
    &Table::new("Gemm", 7, gemm_infer).eval(gemm),
    &Table::new("Det", 11, det_infer).eval(det),
];
