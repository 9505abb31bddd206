//! Operators of com.microsoft that add something to one of ONNX: FusedMatMul (TransposeMatMul), FusedConv, FusedGemm.
//!
//! FusedMatMul: `alpha * a' b'`, where `transBatchX` first moves axis 0 behind the other batch axes and `transX` swaps the
//! last two. FusedConv: Conv, then `+ z`, then an activation. FusedGemm: Gemm, then an activation.

use ir::Dim;

use super::conv::{convolve, output_dims};
use super::matmul::{Product, gemm, gemm_infer, real_product};
use super::reals::{for_real, reals, reals_of, value};
use crate::array;
use crate::attrs::Attributes;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::{InferCx, shape};
use crate::kernel::movement::strided;
use crate::kernel::real::Real;
use crate::rule::{OpRule, Table};

// ---- products --------------------------------------------------------------------------------------------------

/// The order in which the axes of an operand of this rank are read.
fn order(attrs: Attributes<'_>, rank: usize, last: &str, batch: &str) -> Result<Vec<usize>> {
    let mut order: Vec<usize> = (0..rank).collect();
    if attrs.flag(batch, false)? && rank > 2 {
        // Axis 0 goes behind the batch axes 1 to rank - 2.
        order[..rank - 1].rotate_left(1);
    }
    if attrs.flag(last, false)? && rank > 1 {
        order.swap(rank - 2, rank - 1);
    }
    Ok(order)
}

fn infer_matmul(cx: &mut InferCx) -> Result<()> {
    let attrs = cx.attrs();
    let turned = |at: usize, last: &str, batch: &str| -> Result<Option<Vec<Dim>>> {
        let Some(dims) = cx.dims(at) else { return Ok(None) };
        let order = order(attrs, dims.len(), last, batch)?;
        Ok(Some(order.into_iter().map(|axis| dims[axis].clone()).collect()))
    };
    let dims = match (turned(0, "transA", "transBatchA")?, turned(1, "transB", "transBatchB")?) {
        (Some(a), Some(b)) if a.len() > 1 && b.len() > 1 => {
            let (a_batch, b_batch) = (&a[..a.len() - 2], &b[..b.len() - 2]);
            let batch = shape::broadcast(a_batch, b_batch)
                .ok_or_else(|| cx.wrong_input(1, "batches that broadcast"))?;
            Some([batch, vec![a[a.len() - 2].clone(), b[b.len() - 1].clone()]].concat())
        }
        _ => None,
    };
    cx.set(0, cx.same_dtype([0, 1])?, dims);
    Ok(())
}

fn eval_matmul(cx: &EvalCx) -> Result<Outputs> {
    cx.same_dtype([0, 1])?;
    for_real!(cx, 0, T => product::<T>(cx))
}

/// An operand in the order of its axes.
fn turned<T: Real>(cx: &EvalCx, at: usize, last: &str, batch: &str) -> Result<(Vec<T>, Vec<usize>)> {
    let dims = cx.tensor(at)?.dims();
    let order = order(cx.attrs(), dims.len(), last, batch)?;
    let steps = array::strides(dims);
    let (new, steps): (Vec<usize>, Vec<isize>) =
        order.iter().map(|&axis| (dims[axis], steps[axis] as isize)).unzip();
    let numbers = reals::<T>(cx, at)?;
    Ok((strided(&new, 0, &steps).map(|at| numbers[at]).collect(), new))
}

fn product<T: Real>(cx: &EvalCx) -> Result<Outputs> {
    let (a, a_dims) = turned::<T>(cx, 0, "transA", "transBatchA")?;
    let (b, b_dims) = turned::<T>(cx, 1, "transB", "transBatchB")?;
    let plan = Product::of(&a_dims, &b_dims);
    let plan = plan.ok_or_else(|| cx.invalid(format!("{a_dims:?} does not multiply {b_dims:?}")))?;
    let dtype = cx.tensor(0)?.dtype();
    let elements = cx.reserve(dtype, &plan.dims)?;
    let plan = plan.placed(&a_dims, &b_dims);
    let alpha = T::of(f64::from(cx.attrs().float("alpha", 1.0)?));
    let mut y = real_product(&plan, &a, &b, elements);
    y.iter_mut().for_each(|y| *y = *y * alpha);
    Ok(vec![value(cx, dtype, &plan.dims, &y)?])
}

// ---- activations -----------------------------------------------------------------------------------------------

/// The activation named by the attribute, with parameters `p` in its order.
fn activate(attrs: Attributes<'_>, p: &[f32], y: &mut [f64]) -> Result<()> {
    let p = |at: usize, default: f32| f64::from(p.get(at).copied().unwrap_or(default));
    let of: Box<dyn Fn(f64) -> f64> = match attrs.str("activation", "")? {
        "" => return Ok(()),
        "Relu" => Box::new(|x| x.max(0.0)),
        "Tanh" => Box::new(f64::tanh),
        "Sigmoid" => Box::new(|x| 1.0 / (1.0 + (-x).exp())),
        "LeakyRelu" => {
            let alpha = p(0, 0.01);
            Box::new(move |x| if x < 0.0 { alpha * x } else { x })
        }
        "Clip" => {
            let (low, high) = (p(0, f32::MIN), p(1, f32::MAX));
            Box::new(move |x| x.max(low).min(high))
        }
        "HardSigmoid" => {
            let (alpha, beta) = (p(0, 0.2), p(1, 0.5));
            Box::new(move |x| (alpha * x + beta).clamp(0.0, 1.0))
        }
        other => return Err(attrs.wrong("activation", "a known one", other)),
    };
    y.iter_mut().for_each(|y| *y = of(*y));
    Ok(())
}

fn infer_conv(cx: &mut InferCx) -> Result<()> {
    let dims = output_dims(cx, 0, 1)?;
    cx.set(0, cx.same_dtype([0, 1])?, dims);
    Ok(())
}

fn eval_conv(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => activated_conv::<T>(cx))
}

fn activated_conv<T: Real>(cx: &EvalCx) -> Result<Outputs> {
    let dtype = cx.tensor(0)?.dtype();
    let (dims, mut y) = convolve::<T>(cx, dtype)?;
    if cx.has(3) {
        let z = reals_of::<T>(cx, 3, &dims)?;
        y.iter_mut().zip(&z).for_each(|(y, &z)| *y = *y + z);
    }
    let mut y: Vec<f64> = y.iter().map(|y| y.wide()).collect();
    activate(cx.attrs(), cx.attrs().opt_floats("activation_params")?.unwrap_or_default(), &mut y)?;
    Ok(vec![value(cx, dtype, &dims, &y)?])
}

fn eval_gemm(cx: &EvalCx) -> Result<Outputs> {
    let outputs = gemm(cx)?;
    let Some(tensor) = outputs.first().and_then(|output| output.as_tensor()) else { return Ok(outputs) };
    let mut y = array::to_f64s(tensor).ok_or_else(|| cx.unsupported_dtype(0))?;
    let attrs = cx.attrs();
    let parameters = ["activation_alpha", "activation_beta"].map(|name| attrs.opt_float(name));
    let [alpha, beta] = parameters;
    let parameters: Vec<f32> = [alpha?, beta?].into_iter().map_while(|p| p).collect();
    activate(attrs, &parameters, &mut y)?;
    Ok(vec![value(cx, tensor.dtype(), tensor.dims(), &y)?])
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("FusedMatMul", 1, infer_matmul).domain("com.microsoft", 1).eval(eval_matmul),
    &Table::new("TransposeMatMul", 1, infer_matmul).domain("com.microsoft", 1).eval(eval_matmul),
    &Table::new("FusedConv", 1, infer_conv).domain("com.microsoft", 1).eval(eval_conv),
    &Table::new("FusedGemm", 1, gemm_infer).domain("com.microsoft", 1).eval(eval_gemm),
];
