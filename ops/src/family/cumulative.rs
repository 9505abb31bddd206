//! Running sums and products along an axis: CumSum, CumProd. `exclusive` leaves the element itself out, `reverse` runs from
//! the end. Floats accumulate in f64.

use ir::DType;

use super::select::around;
use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::for_dtype;
use crate::infer::InferCx;
use crate::rule::{OpRule, Table};

fn cumulative_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.need(1)?;
    cx.copy_type(0, 0);
    Ok(())
}

/// Runs `f` along the axis of input 1 over row-major elements.
fn run<T: Copy>(cx: &EvalCx, elements: &[T], unit: T, f: impl Fn(T, T) -> T) -> Result<Vec<T>> {
    let input = cx.tensor(0)?;
    let axis = cx.ints(1)?.first().copied().ok_or_else(|| cx.wrong_input(1, "an axis"))?;
    let (outer, size, inner) = around(input.dims(), cx.axis(axis, input.rank())?);
    let (exclusive, reverse) = (cx.attrs().flag("exclusive", false)?, cx.attrs().flag("reverse", false)?);
    let mut out = elements.to_vec();
    if out.is_empty() {
        return Ok(out);
    }
    for (row, column) in (0..outer).flat_map(|row| (0..inner).map(move |column| (row, column))) {
        let mut sofar = unit;
        for step in 0..size {
            let at = if reverse { size - 1 - step } else { step };
            let at = (row * size + at) * inner + column;
            let next = f(sofar, elements[at]);
            out[at] = if exclusive { sofar } else { next };
            sofar = next;
        }
    }
    Ok(out)
}

fn cum_sum(cx: &EvalCx) -> Result<Outputs> {
    cumulative(cx, 0.0, |a, b| a + b, 0, i64::wrapping_add)
}

fn cum_prod(cx: &EvalCx) -> Result<Outputs> {
    cumulative(cx, 1.0, |a, b| a * b, 1, i64::wrapping_mul)
}

#[allow(clippy::unnecessary_cast)] // only for the widest of the types
fn cumulative(
    cx: &EvalCx,
    unit: f64,
    float: fn(f64, f64) -> f64,
    int_unit: i64,
    int: fn(i64, i64) -> i64,
) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    cx.reserve(DType::F64, input.dims())?;
    if input.dtype().is_compute_float() {
        let out = run(cx, &cx.f64s(0)?, unit, float)?;
        return cx.give(array::from_f64s(input.dtype(), input.dims(), &out));
    }
    for_dtype!(input.dtype(), T in [i8, i16, i32, i64, u8, u16, u32, u64] => {
        // Cut at the end: sums and products modulo a power of two.
        let wide: Vec<i64> = cx.vec::<T>(0)?.into_iter().map(|v| v as i64).collect();
        let out: Vec<T> = run(cx, &wide, int_unit, int)?.into_iter().map(|v| v as T).collect();
        cx.make(input.dims(), &out)
    }, else => Err(cx.unsupported_dtype(0)))
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("CumSum", 11, cumulative_infer).eval(cum_sum),
    &Table::new("CumProd", 26, cumulative_infer).eval(cum_prod),
];
