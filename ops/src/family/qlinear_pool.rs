//! QLinearAveragePool and QLinearGlobalAveragePool of com.microsoft: means of dequantized numbers, quantized again.
//!
//! `x, x_scale, x_zero?, y_scale, y_zero?`; with `channels_last` the channels stand behind the spatial axes.

use ir::{DType, Dim};

use super::pool::{Pool, collapsed, divisor, geometry, global_geometry, pooled};
use super::quantized::{coded, grid, numbers};
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::pool::{Divisor, average};
use crate::rule::{OpRule, Table};

fn infer_average(cx: &mut InferCx) -> Result<()> {
    let dims = match cx.attrs().flag("channels_last", false)? {
        false => pooled(cx, 0)?,
        true => cx.rank(0).map(|rank| super::reals::unknown(rank).collect()),
    };
    cx.set(0, cx.dtype(0), dims);
    Ok(())
}

fn infer_global(cx: &mut InferCx) -> Result<()> {
    let dims = match (cx.attrs().flag("channels_last", false)?, cx.dims(0)) {
        (false, _) => collapsed(cx, 0),
        (true, Some(dims)) => {
            let last = dims.len().saturating_sub(1);
            let kept =
                |(at, dim): (usize, &Dim)| if at == 0 || at == last { dim.clone() } else { Dim::Known(1) };
            Some(dims.iter().enumerate().map(kept).collect())
        }
        (true, None) => None,
    };
    cx.set(0, cx.dtype(0), dims);
    Ok(())
}

/// `[N, spatial…, C]` as `[N, C, spatial…]`, and back with `inner` and `outer` swapped.
fn turned<T: Copy>(x: &[T], batch: usize, outer: usize, inner: usize) -> Vec<T> {
    let at = |item: usize, i: usize, o: usize| x[(item * outer + o) * inner + i];
    let items = (0..batch).flat_map(|item| (0..inner).map(move |i| (item, i)));
    items.flat_map(|(item, i)| (0..outer).map(move |o| at(item, i, o))).collect()
}

/// The pool `of` over input 0, its sizes and numbers with the channels first.
fn run(cx: &EvalCx, of: fn(&EvalCx, &[usize]) -> Result<Pool>, divisor: Divisor) -> Result<Outputs> {
    let x = cx.tensor(0)?;
    let last = cx.attrs().flag("channels_last", false)?;
    cx.reserve(DType::I64, x.dims())?;
    let out = grid(cx, 3, 4)?;
    let mut data = numbers(cx, 0, grid(cx, 1, 2)?)?;
    let mut dims = x.dims().to_vec();
    if last && dims.len() > 2 {
        let channels = dims.remove(dims.len() - 1);
        data = turned(&data, dims[0], dims[1..].iter().product(), channels);
        dims.insert(1, channels);
    }
    let pool = of(cx, &dims)?;
    let mut means = average(&data, pool.planes, &pool.axes, divisor);
    means.iter_mut().for_each(|mean| *mean /= out.scale);
    let mut dims = pool.dims;
    if last && dims.len() > 2 {
        let channels = dims.remove(1);
        means = turned(&means, dims[0], channels, dims[1..].iter().product());
        dims.push(channels);
    }
    Ok(vec![coded(cx, x.dtype(), &dims, &means, out.zero)?])
}

fn eval_average(cx: &EvalCx) -> Result<Outputs> {
    run(cx, |cx, dims| geometry(cx, dims, DType::F32), divisor(cx)?)
}

fn eval_global(cx: &EvalCx) -> Result<Outputs> {
    run(cx, global_geometry, Divisor::Inside)
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("QLinearAveragePool", 1, infer_average).domain("com.microsoft", 1).eval(eval_average),
    &Table::new("QLinearGlobalAveragePool", 1, infer_global).domain("com.microsoft", 1).eval(eval_global),
];
