//! What quantized operators share: reading scales and zero points, and going to numbers and back.

use ir::DType;

use crate::array;
use crate::error::Result;
use crate::eval::EvalCx;
use crate::kernel::quantize::{code_range, saturate};
use crate::value::Value;

/// The grid of a whole tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub scale: f32,
    pub zero: i64,
}

/// The grid at inputs `scale` and `zero` (0 if omitted).
pub(super) fn grid(cx: &EvalCx, scale: usize, zero: usize) -> Result<Grid> {
    let &[number] = cx.f32s(scale)?.as_slice() else { return Err(cx.wrong_input(scale, "one scale")) };
    let zero = match cx.opt_ints(zero)?.as_deref() {
        None => 0,
        Some(&[point]) => point,
        Some(_) => return Err(cx.wrong_input(zero, "one zero point")),
    };
    Ok(Grid { scale: number, zero })
}

/// The integers of input `at` minus zero points: one, or `count` of them that `of` tells apart by element.
pub(super) fn centered(
    cx: &EvalCx,
    at: usize,
    zero: usize,
    count: usize,
    of: impl Fn(usize) -> usize,
) -> Result<Vec<f64>> {
    let codes = cx.ints(at)?;
    let zeros = cx.opt_ints(zero)?.unwrap_or_else(|| vec![0]);
    if cx.has(zero) && cx.tensor(zero)?.dtype() != cx.tensor(at)?.dtype() {
        return Err(cx.wrong_input(zero, &format!("element type {}", cx.tensor(at)?.dtype())));
    }
    match zeros.len() {
        1 => Ok(codes.into_iter().map(|code| code.saturating_sub(zeros[0]) as f64).collect()),
        len if len == count => Ok(codes
            .into_iter()
            .enumerate()
            .map(|(at, code)| code.saturating_sub(zeros[of(at)]) as f64)
            .collect()),
        _ => Err(cx.wrong_input(zero, &format!("1 or {count} zero points"))),
    }
}

/// The numbers that the integers at input `at` stand for.
pub(super) fn numbers(cx: &EvalCx, at: usize, grid: Grid) -> Result<Vec<f32>> {
    Ok(cx.ints(at)?.into_iter().map(|code| code.saturating_sub(grid.zero) as f32 * grid.scale).collect())
}

/// Integers of the given type for numbers in units of the output's scale.
pub(super) fn coded(cx: &EvalCx, dtype: DType, dims: &[usize], steps: &[f32], zero: i64) -> Result<Value> {
    let range = code_range(dtype).ok_or_else(|| cx.unsupported(format!("an output of {dtype}")))?;
    let codes: Vec<i64> = steps.iter().map(|&step| saturate(step, zero, range)).collect();
    array::from_i64s(dtype, dims, &codes).map(Value::Tensor).map_err(|error| cx.tensor_error(error))
}

/// Scales at input `at`: one, or `count` of them. The answer has `count`.
pub(super) fn scales(cx: &EvalCx, at: usize, count: usize) -> Result<Vec<f32>> {
    let scales = cx.f32s(at)?;
    match scales.len() {
        1 => Ok(vec![scales[0]; count]),
        len if len == count => Ok(scales),
        _ => Err(cx.wrong_input(at, &format!("1 or {count} scales"))),
    }
}

/// A sum of products as the 32-bit accumulator of a runtime holds it: it wraps.
pub(super) fn accumulator(sum: f64) -> i32 {
    sum as i64 as i32
}
