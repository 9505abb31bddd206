//! Matrix products of 8-bit integers with a 32-bit sum: MatMulInteger and QLinearMatMul (10), and of com.microsoft QGemm,
//! MatMulIntegerToFloat and DynamicQuantizeMatMul.
//!
//! A scale or zero point is one for the tensor, one for each row of the left or column of the right side (1-D), or has the
//! operand's rank. The sum is exact (f64 holds it) and reduced to 32 bits; a quantized result is the sum times
//! `a_scale * b_scale / y_scale` in f32, rounded half to even. DynamicQuantizeMatMul puts the left side on the 8-bit grid
//! of its own range first.

use ir::{DType, Tensor};

use super::matmul::{Product, product_dims, real_product};
use super::quantized::{accumulator, coded};
use super::reals::{opt_reals_of, stretch};
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::quantize::{code_range, dynamic_grid, saturate};
use crate::rule::{OpRule, Table};

/// Which side of the product an operand is on: a 1-D scale of the left side counts rows.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Left,
    Right,
}

/// The numbers of a scale or zero point (input `at`), one for each element of a tensor of sizes `dims`.
fn spread(cx: &EvalCx, at: usize, side: Side, dims: &[usize]) -> Result<Vec<f64>> {
    let numbers = cx.f64s(at)?;
    let own = cx.tensor(at)?.dims();
    let elements = dims.iter().product();
    if let &[one] = numbers.as_slice() {
        return Ok(vec![one; elements]);
    }
    let column = [own.first().copied().unwrap_or(0), 1];
    let own = if side == Side::Left && own.len() == 1 && dims.len() > 1 { &column[..] } else { own };
    let wrong = || cx.wrong_input(at, &format!("one number, or one for each row or column of {dims:?}"));
    stretch(&numbers, own, dims).ok_or_else(wrong)
}

/// The integers of input `at` minus their zero points (0 if omitted).
fn centered(cx: &EvalCx, at: usize, zero: usize, side: Side) -> Result<Vec<f64>> {
    let tensor = cx.tensor(at)?;
    if !matches!(tensor.dtype(), DType::I8 | DType::U8) {
        return Err(cx.unsupported_dtype(at));
    }
    let mut numbers = cx.f64s(at)?;
    if cx.has(zero) {
        if cx.tensor(zero)?.dtype() != tensor.dtype() {
            return Err(cx.wrong_input(zero, &format!("element type {}", tensor.dtype())));
        }
        let zeros = spread(cx, zero, side, tensor.dims())?;
        numbers.iter_mut().zip(zeros).for_each(|(number, zero)| *number -= zero);
    }
    Ok(numbers)
}

/// The exact sums of products and their sizes.
fn sums(cx: &EvalCx, a: (&[f64], &[usize]), b: (&[f64], &[usize])) -> Result<(Vec<usize>, Vec<f64>)> {
    let plan =
        Product::of(a.1, b.1).ok_or_else(|| cx.invalid(format!("{:?} does not multiply {:?}", a.1, b.1)))?;
    let elements = cx.reserve(DType::F64, &plan.dims)?;
    let plan = plan.placed(a.1, b.1);
    let sums = real_product(&plan, a.0, b.0, elements);
    Ok((plan.dims, sums))
}

fn infer_integer(cx: &mut InferCx) -> Result<()> {
    let dims = product_dims(cx, 0, 1)?;
    cx.set(0, Some(DType::I32), dims);
    Ok(())
}

fn eval_integer(cx: &EvalCx) -> Result<Outputs> {
    let (a, b) = (centered(cx, 0, 2, Side::Left)?, centered(cx, 1, 3, Side::Right)?);
    let (dims, sums) = sums(cx, (&a, cx.tensor(0)?.dims()), (&b, cx.tensor(1)?.dims()))?;
    cx.make(&dims, &sums.into_iter().map(accumulator).collect::<Vec<i32>>())
}

fn infer_qlinear(cx: &mut InferCx) -> Result<()> {
    let dims = product_dims(cx, 0, 3)?;
    cx.set(0, cx.dtype(7), dims);
    Ok(())
}

fn eval_qlinear(cx: &EvalCx) -> Result<Outputs> {
    let (a, b) = (centered(cx, 0, 2, Side::Left)?, centered(cx, 3, 5, Side::Right)?);
    let (dims, sums) = sums(cx, (&a, cx.tensor(0)?.dims()), (&b, cx.tensor(3)?.dims()))?;
    let scales =
        [(1, Side::Left), (4, Side::Right), (6, Side::Left)].map(|(at, side)| spread(cx, at, side, &dims));
    let [a_scales, b_scales, y_scales] = scales;
    let (a_scales, b_scales, y_scales) = (a_scales?, b_scales?, y_scales?);
    let zeros = spread(cx, 7, Side::Left, &dims)?;
    let dtype = cx.tensor(7)?.dtype();
    let range = code_range(dtype).ok_or_else(|| cx.unsupported_dtype(7))?;
    let code = |at: usize| {
        let factor = a_scales[at] as f32 * b_scales[at] as f32 / y_scales[at] as f32;
        saturate(accumulator(sums[at]) as f32 * factor, zeros[at] as i64, range)
    };
    let codes: Vec<i64> = (0..sums.len()).map(code).collect();
    cx.give(crate::array::from_i64s(dtype, &dims, &codes))
}

// ---- com.microsoft ---------------------------------------------------------------------------------------------

fn infer_gemm(cx: &mut InferCx) -> Result<()> {
    let (trans_a, trans_b) = (cx.attrs().flag("transA", false)?, cx.attrs().flag("transB", false)?);
    let (a, b) = (cx.need_rank(0, 2)?, cx.need_rank(3, 2)?);
    let size = |dims: Option<&[ir::Dim]>, at: usize| dims.map_or(ir::Dim::Unknown, |dims| dims[at].clone());
    let dims = vec![size(a, usize::from(trans_a)), size(b, usize::from(!trans_b))];
    let dtype = if cx.has(8) { cx.dtype(8) } else { Some(DType::F32) };
    cx.set(0, dtype, Some(dims));
    Ok(())
}

/// The transpose of a matrix and its sizes.
fn turned(x: Vec<f64>, dims: &[usize]) -> (Vec<f64>, Vec<usize>) {
    let &[rows, columns] = dims else { return (x, dims.to_vec()) };
    let places = (0..columns).flat_map(|j| (0..rows).map(move |i| i * columns + j));
    (places.map(|at| x[at]).collect(), vec![columns, rows])
}

fn eval_gemm(cx: &EvalCx) -> Result<Outputs> {
    let attrs = cx.attrs();
    let side = |at: usize, zero: usize, side: Side, flag: &str| -> Result<(Vec<f64>, Vec<usize>)> {
        let dims = cx.tensor(at)?.dims();
        if dims.len() != 2 {
            return Err(cx.wrong_input(at, "a matrix"));
        }
        // Zero points count the columns of the right side as it is multiplied.
        let flipped = attrs.flag(flag, false)?;
        if flipped && cx.has(zero) && cx.tensor(zero)?.elements() > 1 {
            let codes = cx.f64s(at)?;
            let (mut numbers, dims) = turned(codes, dims);
            let zeros = spread(cx, zero, side, &dims)?;
            numbers.iter_mut().zip(zeros).for_each(|(number, zero)| *number -= zero);
            return Ok((numbers, dims));
        }
        let numbers = centered(cx, at, zero, side)?;
        Ok(if flipped { turned(numbers, dims) } else { (numbers, dims.to_vec()) })
    };
    let (a, b) = (side(0, 2, Side::Left, "transA")?, side(3, 5, Side::Right, "transB")?);
    let (dims, mut sums) = sums(cx, (&a.0, &a.1), (&b.0, &b.1))?;
    if let Some(c) = cx.opt_tensor(6)? {
        let wide = stretch(&cx.f64s(6)?, c.dims(), &dims);
        let wide = wide.ok_or_else(|| cx.wrong_input(6, &format!("a shape that broadcasts to {dims:?}")))?;
        sums.iter_mut().zip(wide).for_each(|(sum, c)| *sum += c);
    }
    let alpha = attrs.float("alpha", 1.0)?;
    let (a_scales, b_scales) = (spread(cx, 1, Side::Left, &dims)?, spread(cx, 4, Side::Right, &dims)?);
    let factors = a_scales.iter().zip(&b_scales).map(|(&a, &b)| alpha * a as f32 * b as f32);
    let sums = sums.iter().map(|&sum| accumulator(sum) as f32).zip(factors);
    if !cx.has(7) {
        let y: Vec<f32> = sums.map(|(sum, factor)| sum * factor).collect();
        return cx.make(&dims, &y);
    }
    let y = super::quantized::grid(cx, 7, 8)?;
    let steps: Vec<f32> = sums.map(|(sum, factor)| sum * (factor / y.scale)).collect();
    let dtype = cx.opt_tensor(8)?.map_or(DType::U8, Tensor::dtype);
    Ok(vec![coded(cx, dtype, &dims, &steps, y.zero)?])
}

fn infer_to_float(cx: &mut InferCx) -> Result<()> {
    let dims = product_dims(cx, 0, 1)?;
    cx.set(0, cx.dtype(2), dims);
    Ok(())
}

/// `sum * scale + bias`, the bias being one for each column.
fn scaled(cx: &EvalCx, dims: &[usize], sums: &[f64], scales: &[f32], bias: usize) -> Result<Vec<f32>> {
    let columns = dims.last().copied().unwrap_or(1);
    let bias = opt_reals_of::<f32>(cx, bias, &[columns])?;
    let number = |at: usize| {
        let product = accumulator(sums[at]) as f32 * scales[at];
        bias.as_ref().map_or(product, |bias| product + bias[at % columns])
    };
    Ok((0..sums.len()).map(number).collect())
}

fn eval_to_float(cx: &EvalCx) -> Result<Outputs> {
    let (a, b) = (centered(cx, 0, 4, Side::Left)?, centered(cx, 1, 5, Side::Right)?);
    let (dims, sums) = sums(cx, (&a, cx.tensor(0)?.dims()), (&b, cx.tensor(1)?.dims()))?;
    let (a_scales, b_scales) = (spread(cx, 2, Side::Left, &dims)?, spread(cx, 3, Side::Right, &dims)?);
    let scales: Vec<f32> = a_scales.iter().zip(&b_scales).map(|(&a, &b)| a as f32 * b as f32).collect();
    let y = scaled(cx, &dims, &sums, &scales, 6)?;
    cx.give(crate::array::from_f32s(cx.tensor(2)?.dtype(), &dims, &y))
}

fn infer_dynamic(cx: &mut InferCx) -> Result<()> {
    let dims = product_dims(cx, 0, 1)?;
    cx.set(0, cx.dtype(0), dims);
    Ok(())
}

fn eval_dynamic(cx: &EvalCx) -> Result<Outputs> {
    let (a, b) = (cx.f32s(0)?, centered(cx, 1, 3, Side::Right)?);
    if cx.tensor(0)?.dtype() != DType::F32 {
        return Err(cx.unsupported_dtype(0));
    }
    let (scale, zero) = dynamic_grid(&a);
    let code = |&a: &f32| saturate(a / scale, i64::from(zero), (0, 255)) - i64::from(zero);
    let a: Vec<f64> = a.iter().map(|a| code(a) as f64).collect();
    let (dims, sums) = sums(cx, (&a, cx.tensor(0)?.dims()), (&b, cx.tensor(1)?.dims()))?;
    let scales: Vec<f32> = spread(cx, 2, Side::Right, &dims)?.iter().map(|&b| scale * b as f32).collect();
    cx.make(&dims, &scaled(cx, &dims, &sums, &scales, 4)?)
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("MatMulInteger", 10, infer_integer).eval(eval_integer),
    &Table::new("QLinearMatMul", 10, infer_qlinear).eval(eval_qlinear),
    &Table::new("QGemm", 1, infer_gemm).domain("com.microsoft", 1).eval(eval_gemm),
    &Table::new("MatMulIntegerToFloat", 1, infer_to_float).domain("com.microsoft", 1).eval(eval_to_float),
    &Table::new("DynamicQuantizeMatMul", 1, infer_dynamic).domain("com.microsoft", 1).eval(eval_dynamic),
];
