//! AveragePool, MaxPool, LpPool and their global forms over `x [N, C, spatial…]`.
//!
//! The output of `ceil_mode` may have a last window that hangs over the pads; positions there count for no mean, and a
//! window that would start behind the input is dropped. MaxPool takes 8-bit integers from opset 12 and gives, on request,
//! indices into the whole flat input (column-major within an image if `storage_order` is 1).

use ir::{DType, Dim, Element};

use super::reals::{for_real, reals, value, window_dims};
use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::pool::{Divisor, average, maximum, norm};
use crate::kernel::window::{Axis, WindowAttrs};
use crate::rule::{OpRule, Table};
use crate::value::Value;

fn kernel(attrs: crate::attrs::Attributes<'_>) -> Result<Vec<usize>> {
    let given = attrs.need_ints("kernel_shape")?;
    let sizes: Option<Vec<usize>> = given.iter().map(|&size| usize::try_from(size).ok()).collect();
    sizes.ok_or_else(|| attrs.wrong("kernel_shape", "positive sizes", &format!("{given:?}")))
}

/// The sizes of a pool over input `at`; none if its rank is not known.
pub(super) fn pooled(cx: &InferCx, at: usize) -> Result<Option<Vec<Dim>>> {
    let window = WindowAttrs::read(cx.attrs(), &kernel(cx.attrs())?)?;
    let Some(dims) = cx.need_rank(at, window.kernel.len() + 2)? else { return Ok(None) };
    let mut out = dims[..2].to_vec();
    out.extend(window_dims(cx, &window, &dims[2..])?);
    Ok(Some(out))
}

/// The sizes of a global pool over input `at`.
pub(super) fn collapsed(cx: &InferCx, at: usize) -> Option<Vec<Dim>> {
    let dims = cx.dims(at)?;
    Some(dims.iter().enumerate().map(|(i, dim)| if i < 2 { dim.clone() } else { Dim::Known(1) }).collect())
}

/// Images, their geometry, and the output's sizes.
pub(super) struct Pool {
    pub planes: usize,
    pub axes: Vec<Axis>,
    pub dims: Vec<usize>,
}

/// The geometry of a pool over a tensor of sizes `x`.
pub(super) fn geometry(cx: &EvalCx, x: &[usize], dtype: DType) -> Result<Pool> {
    let window = WindowAttrs::read(cx.attrs(), &kernel(cx.attrs())?)?;
    let &[batch, channels, ref sizes @ ..] = x else { return Err(cx.wrong_input(0, "images with channels")) };
    let axes = window.axes(sizes).map_err(|why| cx.invalid(why))?;
    let dims: Vec<usize> = [batch, channels].into_iter().chain(axes.iter().map(|axis| axis.output)).collect();
    cx.reserve(dtype, &dims)?;
    Ok(Pool { planes: batch * channels, axes, dims })
}

/// The geometry of one window over everything.
pub(super) fn global_geometry(cx: &EvalCx, x: &[usize]) -> Result<Pool> {
    let &[batch, channels, ref sizes @ ..] = x else { return Err(cx.wrong_input(0, "images with channels")) };
    let whole = |&size: &usize| Axis {
        input: size,
        output: 1,
        kernel: size,
        stride: 1,
        dilation: 1,
        before: 0,
        after: 0,
    };
    let dims = [batch, channels].into_iter().chain(sizes.iter().map(|_| 1)).collect();
    Ok(Pool { planes: batch * channels, axes: sizes.iter().map(whole).collect(), dims })
}

fn infer(cx: &mut InferCx) -> Result<()> {
    let dims = pooled(cx, 0)?;
    cx.set(1, Some(DType::I64), dims.clone());
    cx.set(0, cx.dtype(0), dims);
    Ok(())
}

fn infer_global(cx: &mut InferCx) -> Result<()> {
    let dims = collapsed(cx, 0);
    cx.set(0, cx.dtype(0), dims);
    Ok(())
}

/// What the mean of an AveragePool divides by.
pub(super) fn divisor(cx: &EvalCx) -> Result<Divisor> {
    Ok(if cx.attrs().flag("count_include_pad", false)? { Divisor::Padded } else { Divisor::Inside })
}

fn eval_average(cx: &EvalCx) -> Result<Outputs> {
    let x = cx.tensor(0)?;
    let (pool, divisor) = (geometry(cx, x.dims(), x.dtype())?, divisor(cx)?);
    for_real!(cx, 0, T => {
        let y = average::<T>(&reals(cx, 0)?, pool.planes, &pool.axes, divisor);
        Ok(vec![value(cx, x.dtype(), &pool.dims, &y)?])
    })
}

fn eval_norm(cx: &EvalCx) -> Result<Outputs> {
    let x = cx.tensor(0)?;
    let pool = geometry(cx, x.dims(), x.dtype())?;
    give_norm(cx, &pool)
}

fn give_norm(cx: &EvalCx, pool: &Pool) -> Result<Outputs> {
    let p = cx.attrs().int("p", 2)?;
    if p < 1 {
        return Err(cx.attrs().wrong("p", "a positive power", &p.to_string()));
    }
    for_real!(cx, 0, T => {
        let y = norm::<T>(&reals(cx, 0)?, pool.planes, &pool.axes, p as f64);
        Ok(vec![value(cx, cx.tensor(0)?.dtype(), &pool.dims, &y)?])
    })
}

fn eval_maximum(cx: &EvalCx) -> Result<Outputs> {
    let x = cx.tensor(0)?;
    let pool = geometry(cx, x.dims(), DType::I64)?;
    let column_major = cx.attrs().int("storage_order", 0)? != 0;
    let mut outputs = give_maximum(cx, &pool)?;
    if cx.wanted() < 2 {
        outputs.truncate(1);
    } else if column_major && let Some(Value::Tensor(indices)) = outputs.get_mut(1) {
        let sizes: Vec<usize> = pool.axes.iter().map(|axis| axis.input).collect();
        let image = sizes.iter().product::<usize>().max(1);
        let turned = |index: i64| {
            // The coordinates again, the first axis fastest.
            let (mut rest, mut place) = (index as usize % image, image);
            let mut turned = index as usize / image * image;
            for &size in sizes.iter().rev() {
                place /= size.max(1);
                turned += rest % size.max(1) * place;
                rest /= size.max(1);
            }
            turned as i64
        };
        let all: Vec<i64> = array::to_i64s(indices).unwrap_or_default().into_iter().map(turned).collect();
        outputs[1] = array::from_i64s(DType::I64, &pool.dims, &all).map_err(|e| cx.tensor_error(e))?.into();
    }
    Ok(outputs)
}

/// The maxima and their flat indices.
fn give_maximum(cx: &EvalCx, pool: &Pool) -> Result<Outputs> {
    fn give<T: Element + PartialOrd>(cx: &EvalCx, pool: &Pool, least: T) -> Result<Outputs> {
        let image: usize = pool.axes.iter().map(|axis| axis.input).product();
        let per_plane: usize = pool.axes.iter().map(|axis| axis.output).product();
        let best = maximum(&cx.vec::<T>(0)?, pool.planes, &pool.axes);
        let y: Vec<T> = best.iter().map(|best| best.map_or(least, |(value, _)| value)).collect();
        let index = |(at, best): (usize, &Option<(T, usize)>)| {
            (at / per_plane.max(1) * image + best.map_or(0, |(_, tap)| tap)) as i64
        };
        let indices: Vec<i64> = best.iter().enumerate().map(index).collect();
        let mut outputs = cx.make(&pool.dims, &y)?;
        outputs.extend(cx.make(&pool.dims, &indices)?);
        Ok(outputs)
    }
    match cx.tensor(0)?.dtype() {
        DType::F32 => give(cx, pool, f32::NEG_INFINITY),
        DType::F64 => give(cx, pool, f64::NEG_INFINITY),
        DType::F16 => give(cx, pool, half::f16::NEG_INFINITY),
        DType::BF16 => give(cx, pool, half::bf16::NEG_INFINITY),
        DType::I8 => give(cx, pool, i8::MIN),
        DType::U8 => give(cx, pool, u8::MIN),
        _ => Err(cx.unsupported_dtype(0)),
    }
}

fn eval_global_average(cx: &EvalCx) -> Result<Outputs> {
    let x = cx.tensor(0)?;
    let pool = global_geometry(cx, x.dims())?;
    for_real!(cx, 0, T => {
        let y = average::<T>(&reals(cx, 0)?, pool.planes, &pool.axes, Divisor::Inside);
        Ok(vec![value(cx, x.dtype(), &pool.dims, &y)?])
    })
}

fn eval_global_norm(cx: &EvalCx) -> Result<Outputs> {
    give_norm(cx, &global_geometry(cx, cx.tensor(0)?.dims())?)
}

fn eval_global_maximum(cx: &EvalCx) -> Result<Outputs> {
    give_maximum(cx, &global_geometry(cx, cx.tensor(0)?.dims())?)
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("AveragePool", 1, infer).eval(eval_average),
    &Table::new("MaxPool", 1, infer).eval(eval_maximum),
    &Table::new("LpPool", 2, infer).eval(eval_norm),
    &Table::new("GlobalAveragePool", 1, infer_global).eval(eval_global_average),
    &Table::new("GlobalLpPool", 2, infer_global).eval(eval_global_norm),
    &Table::new("GlobalMaxPool", 1, infer_global).eval(eval_global_maximum),
];
