//! The quantized element-by-element operators of com.microsoft: QLinearAdd, QLinearMul, QLinearSigmoid,
//! QLinearLeakyRelu, QLinearSoftmax, QLinearWhere, QLinearConcat, QLinearReduceMean.
//!
//! Each dequantizes with one scale a tensor, computes in f32 and quantizes. ONNX Runtime orders the factors of Add and
//! Mul differently on some machines: its results may differ by one step where a number lies within rounding of a half.

use ir::{DType, Dim, Tensor};

use super::quantized::{Grid, coded, grid, numbers};
use super::reals::stretch;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::shape::broadcast_sizes;
use crate::infer::{InferCx, shape};
use crate::rule::{OpRule, Table};
use crate::sym;

// ---- two operands ----------------------------------------------------------------------------------------------

fn infer_binary(cx: &mut InferCx) -> Result<()> {
    let dims = cx.broadcast([0, 3])?;
    cx.set(0, cx.dtype(0), dims);
    Ok(())
}

/// `of(a - a_zero, b - b_zero, scales of a, b, c)` in steps of the output.
fn binary(cx: &EvalCx, of: fn(f32, f32, [f32; 3]) -> f32) -> Result<Outputs> {
    let (a, b) = (cx.tensor(0)?, cx.tensor(3)?);
    let dims =
        broadcast_sizes(a.dims(), b.dims()).ok_or_else(|| cx.wrong_input(3, "a shape that broadcasts"))?;
    cx.reserve(DType::I64, &dims)?;
    let (a_grid, b_grid, c_grid) = (grid(cx, 1, 2)?, grid(cx, 4, 5)?, grid(cx, 6, 7)?);
    let wide = |at: usize, own: &Tensor| {
        stretch(&cx.ints(at)?, own.dims(), &dims).ok_or_else(|| cx.wrong_input(at, "a shape that broadcasts"))
    };
    let scales = [a_grid.scale, b_grid.scale, c_grid.scale];
    let steps: Vec<f32> = wide(0, a)?
        .into_iter()
        .zip(wide(3, b)?)
        .map(|(x, y)| of(x.saturating_sub(a_grid.zero) as f32, y.saturating_sub(b_grid.zero) as f32, scales))
        .collect();
    Ok(vec![coded(cx, a.dtype(), &dims, &steps, c_grid.zero)?])
}

fn eval_add(cx: &EvalCx) -> Result<Outputs> {
    binary(cx, |a, b, [sa, sb, sc]| (a * sa + b * sb) / sc)
}

fn eval_mul(cx: &EvalCx) -> Result<Outputs> {
    binary(cx, |a, b, [sa, sb, sc]| a * b * (sa * sb / sc))
}

fn infer_where(cx: &mut InferCx) -> Result<()> {
    let dims = cx.broadcast([0, 1, 4])?;
    cx.set(0, cx.dtype(1), dims);
    Ok(())
}

fn eval_where(cx: &EvalCx) -> Result<Outputs> {
    let [condition, x, y] = [cx.tensor(0)?, cx.tensor(1)?, cx.tensor(4)?];
    let dims = broadcast_sizes(x.dims(), y.dims()).and_then(|dims| broadcast_sizes(&dims, condition.dims()));
    let dims = dims.ok_or_else(|| cx.invalid("the shapes do not broadcast"))?;
    cx.reserve(DType::I64, &dims)?;
    let out = grid(cx, 7, 8)?;
    let misfit = || cx.invalid("the shapes do not broadcast");
    let chosen = stretch(&cx.ints(0)?, condition.dims(), &dims).ok_or_else(misfit)?;
    let (x_numbers, y_numbers) = (numbers(cx, 1, grid(cx, 2, 3)?)?, numbers(cx, 4, grid(cx, 5, 6)?)?);
    let xs = stretch(&x_numbers, x.dims(), &dims).ok_or_else(misfit)?;
    let ys = stretch(&y_numbers, y.dims(), &dims).ok_or_else(misfit)?;
    let steps: Vec<f32> = chosen
        .into_iter()
        .zip(xs.into_iter().zip(ys))
        .map(|(chosen, (x, y))| if chosen != 0 { x / out.scale } else { y / out.scale })
        .collect();
    Ok(vec![coded(cx, x.dtype(), &dims, &steps, out.zero)?])
}

// ---- one operand -----------------------------------------------------------------------------------------------

fn infer_same(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.copy_type(0, 0);
    Ok(())
}

fn unary(cx: &EvalCx, of: impl Fn(f32) -> f32) -> Result<Outputs> {
    let x = cx.tensor(0)?;
    cx.reserve(DType::I64, x.dims())?;
    let out = grid(cx, 3, 4)?;
    let steps: Vec<f32> = numbers(cx, 0, grid(cx, 1, 2)?)?.into_iter().map(|x| of(x) / out.scale).collect();
    Ok(vec![coded(cx, x.dtype(), x.dims(), &steps, out.zero)?])
}

fn eval_sigmoid(cx: &EvalCx) -> Result<Outputs> {
    unary(cx, |x| 1.0 / (1.0 + (-x).exp()))
}

fn eval_leaky(cx: &EvalCx) -> Result<Outputs> {
    let alpha = cx.attrs().float("alpha", 0.01)?;
    unary(cx, |x| if x < 0.0 { alpha * x } else { x })
}

/// `axis` runs alone from opset 13 on (the attribute `opset` says); before, everything from it on is one row.
fn eval_softmax(cx: &EvalCx) -> Result<Outputs> {
    let x = cx.tensor(0)?;
    let dims = x.dims();
    let axis = cx.axis(cx.attrs().int("axis", -1)?, dims.len())?;
    let (size, inner) = match cx.attrs().need_int("opset")? {
        13.. => (dims[axis], dims[axis + 1..].iter().product::<usize>()),
        _ => (dims[axis..].iter().product(), 1),
    };
    cx.reserve(DType::I64, dims)?;
    let out = grid(cx, 3, 4)?;
    let mut numbers = numbers(cx, 0, grid(cx, 1, 2)?)?;
    for block in numbers.chunks_exact_mut((size * inner).max(1)) {
        for first in 0..inner {
            let line = || (0..size).map(|i| first + i * inner);
            let greatest = line().fold(f32::NEG_INFINITY, |greatest, at| greatest.max(block[at]));
            let sum: f64 = line().map(|at| f64::from(block[at] - greatest).exp()).sum();
            for at in line() {
                let share = f64::from(block[at] - greatest).exp() / sum;
                block[at] = share as f32 / out.scale;
            }
        }
    }
    Ok(vec![coded(cx, x.dtype(), dims, &numbers, out.zero)?])
}

fn reduced(attrs: crate::attrs::Attributes<'_>, rank: usize) -> Result<Vec<bool>> {
    let Some(axes) = attrs.opt_ints("axes")?.filter(|axes| !axes.is_empty()) else {
        return Ok(vec![true; rank]);
    };
    let mut reduced = vec![false; rank];
    for &axis in axes {
        let found = shape::axis(axis, rank);
        let wrong = || attrs.wrong("axes", &format!("axes of rank {rank}"), &axis.to_string());
        reduced[found.ok_or_else(wrong)?] = true;
    }
    Ok(reduced)
}

fn infer_mean(cx: &mut InferCx) -> Result<()> {
    let keep = cx.attrs().flag("keepdims", true)?;
    let dims = match cx.dims(0) {
        Some(dims) => {
            let reduced = reduced(cx.attrs(), dims.len())?;
            let kept = dims.iter().zip(reduced).filter(|(_, reduced)| keep || !reduced);
            Some(kept.map(|(dim, reduced)| if reduced { Dim::Known(1) } else { dim.clone() }).collect())
        }
        None => None,
    };
    cx.set(0, cx.dtype(0), dims);
    Ok(())
}

fn eval_mean(cx: &EvalCx) -> Result<Outputs> {
    let x = cx.tensor(0)?;
    let dims = x.dims();
    let reduced = reduced(cx.attrs(), dims.len())?;
    let keep = cx.attrs().flag("keepdims", true)?;
    let small: Vec<usize> =
        dims.iter().zip(&reduced).map(|(&size, &reduced)| if reduced { 1 } else { size }).collect();
    let count: usize =
        dims.iter().zip(&reduced).filter(|(_, reduced)| **reduced).map(|(&size, _)| size).product();
    cx.reserve(DType::F64, dims)?;
    let out = grid(cx, 3, 4)?;
    let mut sums = vec![0.0f64; small.iter().product()];
    for (number, to) in
        numbers(cx, 0, grid(cx, 1, 2)?)?.iter().zip(crate::kernel::broadcast::sources(&small, dims))
    {
        sums[to] += f64::from(*number);
    }
    let steps: Vec<f32> = sums.into_iter().map(|sum| (sum / count as f64) as f32 / out.scale).collect();
    let kept = small.iter().zip(&reduced).filter(|(_, reduced)| keep || !**reduced).map(|(&size, _)| size);
    Ok(vec![coded(cx, x.dtype(), &kept.collect::<Vec<usize>>(), &steps, out.zero)?])
}

// ---- many operands ---------------------------------------------------------------------------------------------

fn infer_concat(cx: &mut InferCx) -> Result<()> {
    let axis = cx.attrs().need_int("axis")?;
    let slots: Vec<usize> = (2..cx.input_count()).step_by(3).collect();
    let mut dims: Option<Vec<Dim>> = None;
    for &at in &slots {
        let Some(own) = cx.dims(at) else {
            dims = None;
            break;
        };
        let axis = cx.axis(axis, own.len())?;
        dims = match dims {
            None if at == 2 => Some(own.to_vec()),
            Some(mut sofar) if sofar.len() == own.len() => {
                sofar[axis] = sym::add(&sofar[axis], &own[axis]);
                Some(sofar)
            }
            _ => return Err(cx.wrong_input(at, "the rank of the other inputs")),
        };
    }
    cx.set(0, cx.dtype(1), dims);
    Ok(())
}

fn eval_concat(cx: &EvalCx) -> Result<Outputs> {
    let out = grid(cx, 0, 1)?;
    let first = cx.tensor(2)?;
    let axis = cx.axis(cx.attrs().need_int("axis")?, first.rank())?;
    let mut dims = first.dims().to_vec();
    dims[axis] = 0;
    let mut parts = Vec::new();
    for at in (2..cx.input_count()).step_by(3) {
        let x = cx.tensor(at)?;
        let fits = x.rank() == dims.len() && (0..dims.len()).all(|i| i == axis || x.dims()[i] == dims[i]);
        if !fits {
            return Err(cx.wrong_input(at, "the sizes of the other inputs"));
        }
        dims[axis] =
            dims[axis].checked_add(x.dims()[axis]).ok_or_else(|| cx.invalid("the sizes overflow"))?;
        let own: Grid = grid(cx, at + 1, at + 2)?;
        let row = x.dims()[axis..].iter().product::<usize>();
        let steps: Vec<f32> = numbers(cx, at, own)?.into_iter().map(|x| x / out.scale).collect();
        parts.push((row, steps));
    }
    cx.reserve(DType::I64, &dims)?;
    let outer: usize = dims[..axis].iter().product();
    let rows =
        (0..outer).flat_map(|at| parts.iter().flat_map(move |(row, steps)| &steps[at * row..][..*row]));
    let steps: Vec<f32> = rows.copied().collect();
    Ok(vec![coded(cx, cx.tensor(1)?.dtype(), &dims, &steps, out.zero)?])
}

const fn microsoft(name: &'static str, infer: fn(&mut InferCx) -> Result<()>) -> Table {
    Table::new(name, 1, infer).domain("com.microsoft", 1)
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &microsoft("QLinearAdd", infer_binary).eval(eval_add),
    &microsoft("QLinearMul", infer_binary).eval(eval_mul),
    &microsoft("QLinearWhere", infer_where).eval(eval_where),
    &microsoft("QLinearSigmoid", infer_same).eval(eval_sigmoid),
    &microsoft("QLinearLeakyRelu", infer_same).eval(eval_leaky),
    &microsoft("QLinearSoftmax", infer_same).eval(eval_softmax),
    &microsoft("QLinearReduceMean", infer_mean).eval(eval_mean),
    &microsoft("QLinearConcat", infer_concat).eval(eval_concat),
];
