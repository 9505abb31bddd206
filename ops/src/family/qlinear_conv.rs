//! QLinearConv and ConvInteger (10): convolutions of 8-bit integers with a 32-bit sum.
//!
//! QLinearConv: `x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias?`; the weight's scale and zero point are one
//! or one per filter, the bias is int32 with scale `x_scale * w_scale`. The sum, exact, times
//! `x_scale * w_scale / y_scale` in f32 is rounded half to even. ConvInteger: `x, w, x_zero?, w_zero?` gives the sum.
//!
//! The products are summed in f64, which holds them exactly, and reduced to 32 bits at the end.

use ir::{DType, Dim};

use super::conv::{output_dims, shape};
use super::quantized::{accumulator, centered, coded, grid, scales};
use super::reals::reals_of;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::conv::{ConvShape, conv};
use crate::rule::{OpRule, Table};

fn infer_qlinear(cx: &mut InferCx) -> Result<()> {
    let dims = output_dims(cx, 0, 3)?;
    let dtype = if cx.has(7) { cx.dtype(7) } else { cx.dtype(0) };
    cx.set(0, dtype, dims);
    Ok(())
}

fn infer_integer(cx: &mut InferCx) -> Result<()> {
    let dims: Option<Vec<Dim>> = output_dims(cx, 0, 1)?;
    cx.set(0, Some(DType::I32), dims);
    Ok(())
}

/// The exact sums, from operands at inputs `x` and `w` with zero points behind `x_zero` and `w_zero`.
fn sums(
    cx: &EvalCx,
    (x, x_zero): (usize, usize),
    (w, w_zero): (usize, usize),
    bias: Option<&[f64]>,
) -> Result<(ConvShape, Vec<f64>)> {
    for at in [x, w] {
        if !matches!(cx.tensor(at)?.dtype(), DType::I8 | DType::U8) {
            return Err(cx.unsupported_dtype(at));
        }
    }
    let shape = shape(cx, x, w)?;
    cx.reserve(DType::F64, &shape.output())?;
    let per_filter: usize = cx.tensor(w)?.elements() / shape.filters.max(1);
    let x = centered(cx, x, x_zero, 1, |_| 0)?;
    let w = centered(cx, w, w_zero, shape.filters, |at| at / per_filter)?;
    let sums = conv(&shape, &x, &w, bias);
    Ok((shape, sums))
}

fn eval_qlinear(cx: &EvalCx) -> Result<Outputs> {
    let filters = cx.tensor(3)?.dims().first().copied().unwrap_or(0);
    let bias = match cx.has(8) {
        true => Some(reals_of::<f64>(cx, 8, &[filters])?),
        false => None,
    };
    let (shape, mut sums) = sums(cx, (0, 2), (3, 5), bias.as_deref())?;
    let (x, y) = (grid(cx, 1, 2)?, grid(cx, 6, 7)?);
    let factors: Vec<f32> = scales(cx, 4, filters)?.into_iter().map(|w| x.scale * w / y.scale).collect();
    let dims = shape.output();
    let plane: usize = dims[2..].iter().product();
    let steps: Vec<f32> = sums
        .chunks_exact_mut(plane.max(1))
        .enumerate()
        .flat_map(|(row, sums)| {
            let factor = factors[row % filters];
            sums.iter().map(move |&sum| accumulator(sum) as f32 * factor)
        })
        .collect();
    let dtype = if cx.has(7) { cx.tensor(7)?.dtype() } else { cx.tensor(0)?.dtype() };
    Ok(vec![coded(cx, dtype, &dims, &steps, y.zero)?])
}

fn eval_integer(cx: &EvalCx) -> Result<Outputs> {
    let (shape, sums) = sums(cx, (0, 2), (1, 3), None)?;
    let sums: Vec<i32> = sums.into_iter().map(accumulator).collect();
    cx.make(&shape.output(), &sums)
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("QLinearConv", 10, infer_qlinear).eval(eval_qlinear),
    &Table::new("ConvInteger", 10, infer_integer).eval(eval_integer),
];
