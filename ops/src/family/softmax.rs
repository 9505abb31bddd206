//! Softmax, LogSoftmax, Hardmax along an axis.
//!
//! Since opset 13 along one axis (the last by default); before, the shape is flattened to two dimensions at `axis` (1 by
//! default) and the function runs along the second. Computed in f64 with the maximum taken off.

use super::select::around;
use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::rule::{OpRule, Table};

fn softmax_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    if let Some(rank) = cx.rank(0).filter(|rank| *rank > 0) {
        cx.axis(
            cx.attrs().int("axis", if cx.opset() < 13 { 1 } else { -1 })?,
            rank + usize::from(cx.opset() < 13),
        )?;
    }
    cx.copy_type(0, 0);
    Ok(())
}

/// Runs `f` over each line of numbers.
fn lines(cx: &EvalCx, f: fn(&mut [f64])) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let dims = input.dims();
    cx.reserve(ir::DType::F64, dims)?;
    let (outer, size, inner) = if cx.opset() < 13 {
        let axis = cx.attrs().int("axis", 1)?;
        let axis = if axis < 0 { axis.saturating_add(dims.len() as i64) } else { axis };
        let axis = usize::try_from(axis).ok().filter(|axis| *axis <= dims.len());
        let axis = axis.ok_or_else(|| cx.wrong_input(0, "a tensor that has the axis"))?;
        (dims[..axis].iter().product(), dims[axis..].iter().product(), 1)
    } else if dims.is_empty() {
        (1, 1, 1)
    } else {
        around(dims, cx.axis(cx.attrs().int("axis", -1)?, dims.len())?)
    };
    let mut numbers = cx.f64s(0)?;
    if numbers.is_empty() {
        return cx.give(Ok(input.clone()));
    }
    let mut line = vec![0.0; size];
    for (row, column) in (0..outer).flat_map(|row: usize| (0..inner).map(move |column| (row, column))) {
        let at = |i: usize| (row * size + i) * inner + column;
        line.iter_mut().enumerate().for_each(|(i, value)| *value = numbers[at(i)]);
        f(&mut line);
        line.iter().enumerate().for_each(|(i, value)| numbers[at(i)] = *value);
    }
    match input.dtype().is_compute_float() {
        true => cx.give(array::from_f64s(input.dtype(), dims, &numbers)),
        false => Err(cx.unsupported_dtype(0)),
    }
}

fn top(line: &[f64]) -> f64 {
    line.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

fn soft(line: &mut [f64]) {
    let top = top(line);
    line.iter_mut().for_each(|value| *value = (*value - top).exp());
    let sum: f64 = line.iter().sum();
    line.iter_mut().for_each(|value| *value /= sum);
}

fn log_soft(line: &mut [f64]) {
    let top = top(line);
    let log = line.iter().map(|value| (value - top).exp()).sum::<f64>().ln();
    line.iter_mut().for_each(|value| *value -= top + log);
}

/// 1 at the first largest element, 0 elsewhere.
fn hard(line: &mut [f64]) {
    let top = top(line);
    let first = line.iter().position(|&value| value == top);
    line.iter_mut().enumerate().for_each(|(i, value)| *value = f64::from(u8::from(Some(i) == first)));
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("Softmax", 1, softmax_infer).eval(|cx| lines(cx, soft)),
    &Table::new("LogSoftmax", 1, softmax_infer).eval(|cx| lines(cx, log_soft)),
    &Table::new("Hardmax", 1, softmax_infer).eval(|cx| lines(cx, hard)),
];
