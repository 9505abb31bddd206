//! LayerNormalization, RMSNormalization and the forms that ONNX Runtime adds: rows (all axes from `axis` on) are brought
//! to mean 0 and variance 1, or only to mean square 1, then scaled and shifted.
//!
//! - LayerNormalization (17; ONNX Runtime's own before): `x, scale, bias?` gives `y, mean?, 1/std?`; the statistics have
//!   the type `stash_type`
//! - RMSNormalization (23), SimplifiedLayerNormalization (both domains): `x, scale`; the latter gives `1/rms` too
//! - SkipLayerNormalization `x, skip, gamma, beta?, bias?` and SkipSimplifiedLayerNormalization `x, skip, gamma, bias?`
//!   of com.microsoft: the row is `x + skip + bias`, given as output 3; skip broadcasts over the batch

use ir::{DType, Dim};

use super::reals::{for_real, opt_reals_of, reals, stretched, value};
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::real::Real;
use crate::rule::{OpRule, Table};

/// What is taken out of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Mean and deviation.
    Standard,
    /// The root mean square.
    RootMeanSquare,
}

/// Rows brought to mean 0 and variance 1, their means and inverse deviations.
pub(super) struct Normalized<T> {
    pub rows: Vec<T>,
    pub means: Vec<f64>,
    pub inverses: Vec<f64>,
}

pub(super) fn normalize<T: Real>(x: &[T], size: usize, form: Form, epsilon: f64) -> Normalized<T> {
    let mut out = Normalized { rows: Vec::with_capacity(x.len()), means: vec![], inverses: vec![] };
    for row in x.chunks_exact(size.max(1)) {
        let mean = match form {
            Form::Standard => row.iter().map(|x| x.wide()).sum::<f64>() / size as f64,
            Form::RootMeanSquare => 0.0,
        };
        let variance = row.iter().map(|x| (x.wide() - mean) * (x.wide() - mean)).sum::<f64>() / size as f64;
        let inverse = 1.0 / (variance + epsilon).sqrt();
        out.rows.extend(row.iter().map(|x| T::of((x.wide() - mean) * inverse)));
        out.means.push(mean);
        out.inverses.push(inverse);
    }
    out
}

fn stash(cx_dtype: Option<DType>) -> DType {
    cx_dtype.unwrap_or(DType::F32)
}

fn infer_as(cx: &mut InferCx, form: Form) -> Result<()> {
    cx.need(0)?;
    let statistics = match cx.dims(0) {
        Some(dims) => {
            let axis = cx.axis(cx.attrs().int("axis", -1)?, dims.len())?;
            let kept = dims.iter().enumerate();
            Some(
                kept.map(|(at, dim)| if at < axis { dim.clone() } else { Dim::Known(1) }).collect::<Vec<_>>(),
            )
        }
        None => None,
    };
    let stash = stash(cx.attrs().dtype("stash_type")?);
    match form {
        Form::Standard => cx.copy_type(0, 0),
        // The result has the scale's type.
        Form::RootMeanSquare => cx.set(0, cx.dtype(1), cx.dims(0).map(<[Dim]>::to_vec)),
    }
    cx.set(1, Some(stash), statistics.clone());
    cx.set(2, Some(stash), statistics);
    Ok(())
}

fn infer_standard(cx: &mut InferCx) -> Result<()> {
    infer_as(cx, Form::Standard)
}

fn infer_rms(cx: &mut InferCx) -> Result<()> {
    infer_as(cx, Form::RootMeanSquare)
}

fn eval_standard(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => run::<T>(cx, Form::Standard))
}

fn eval_rms(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => run::<T>(cx, Form::RootMeanSquare))
}

fn run<T: Real>(cx: &EvalCx, form: Form) -> Result<Outputs> {
    let x = cx.tensor(0)?;
    let dims = x.dims();
    let axis = cx.axis(cx.attrs().int("axis", -1)?, dims.len())?;
    let epsilon = f64::from(cx.attrs().float("epsilon", 1e-5)?);
    let dtype = if form == Form::RootMeanSquare { cx.tensor(1)?.dtype() } else { x.dtype() };
    cx.reserve(dtype, dims)?;
    let size = dims[axis..].iter().product();
    let Normalized { mut rows, means, inverses } = normalize(&reals::<T>(cx, 0)?, size, form, epsilon);
    let scale = stretched::<T>(cx, 1, dims)?;
    rows.iter_mut().zip(&scale).for_each(|(y, &scale)| *y = *y * scale);
    if form == Form::Standard && cx.has(2) {
        let bias = stretched::<T>(cx, 2, dims)?;
        rows.iter_mut().zip(&bias).for_each(|(y, &bias)| *y = *y + bias);
    }
    let stash = stash(cx.attrs().dtype("stash_type")?);
    let mut small = dims.to_vec();
    small[axis..].fill(1);
    let mut outputs = vec![value(cx, dtype, dims, &rows)?];
    if form == Form::Standard {
        outputs.push(value(cx, stash, &small, &means)?);
    }
    outputs.push(value(cx, stash, &small, &inverses)?);
    Ok(outputs)
}

fn infer_skip(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let statistics = cx.dims(0).map(|dims| {
        let last = dims.len().saturating_sub(1);
        dims.iter().enumerate().map(|(at, dim)| if at < last { dim.clone() } else { Dim::Known(1) }).collect()
    });
    cx.copy_type(0, 0);
    cx.set(1, Some(DType::F32), statistics.clone());
    cx.set(2, Some(DType::F32), statistics);
    cx.copy_type(3, 0);
    Ok(())
}

fn eval_skip(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => run_skip::<T>(cx, Form::Standard))
}

fn eval_skip_simplified(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => run_skip::<T>(cx, Form::RootMeanSquare))
}

fn run_skip<T: Real>(cx: &EvalCx, form: Form) -> Result<Outputs> {
    let x = cx.tensor(0)?;
    let (dims, dtype) = (x.dims(), x.dtype());
    cx.reserve(dtype, dims)?;
    let size = *dims.last().ok_or_else(|| cx.wrong_input(0, "rows"))?;
    let epsilon = f64::from(cx.attrs().float("epsilon", 1e-12)?);
    let (shift, bias) = if form == Form::Standard { (3, 4) } else { (usize::MAX, 3) };
    let mut sum = reals::<T>(cx, 0)?;
    // A skip of rank 2 or of batch 1 serves every item of the batch.
    let skip = stretched::<T>(cx, 1, dims)?;
    sum.iter_mut().zip(&skip).for_each(|(x, &skip)| *x = *x + skip);
    if let Some(bias) = opt_reals_of::<T>(cx, bias, &[size])? {
        sum.iter_mut().zip(bias.iter().cycle()).for_each(|(x, &bias)| *x = *x + bias);
    }
    let Normalized { mut rows, means, inverses } = normalize(&sum, size, form, epsilon);
    let gamma = opt_reals_of::<T>(cx, 2, &[size])?.ok_or_else(|| cx.wrong_input(2, "a scale"))?;
    rows.iter_mut().zip(gamma.iter().cycle()).for_each(|(y, &gamma)| *y = *y * gamma);
    if let Some(shift) = opt_reals_of::<T>(cx, shift, &[size])? {
        rows.iter_mut().zip(shift.iter().cycle()).for_each(|(y, &shift)| *y = *y + shift);
    }
    let small: Vec<usize> = dims[..dims.len() - 1].iter().copied().chain([1]).collect();
    Ok(vec![
        value(cx, dtype, dims, &rows)?,
        value(cx, DType::F32, &small, &means)?,
        value(cx, DType::F32, &small, &inverses)?,
        value(cx, dtype, dims, &sum)?,
    ])
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("LayerNormalization", 1, infer_standard).eval(eval_standard),
    &Table::new("RMSNormalization", 23, infer_rms).eval(eval_rms),
    &Table::new("SimplifiedLayerNormalization", 1, infer_rms).eval(eval_rms),
    &Table::new("SimplifiedLayerNormalization", 1, infer_rms).domain("com.microsoft", 1).eval(eval_rms),
    &Table::new("SkipLayerNormalization", 1, infer_skip).domain("com.microsoft", 1).eval(eval_skip),
    &Table::new("SkipSimplifiedLayerNormalization", 1, infer_skip)
        .domain("com.microsoft", 1)
        .eval(eval_skip_simplified),
];
