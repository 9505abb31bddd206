//! Parts of a tensor by position: Trilu (a triangle of each matrix), ReverseSequence (the first entries of each batch
//! reversed).

use ir::Tensor;

use super::select::around;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::movement;
use crate::rule::{OpRule, Table};

fn copy_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.copy_type(0, 0);
    Ok(())
}

fn trilu(cx: &EvalCx) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let Some(&[rows, columns]) = input.dims().last_chunk::<2>() else {
        return Err(cx.wrong_input(0, "matrices"));
    };
    let upper = cx.attrs().flag("upper", true)?;
    let k = if cx.has(1) { cx.ints(1)?.first().copied().unwrap_or(0) } else { 0 };
    cx.reserve(input.dtype(), input.dims())?;
    if input.dtype().bits() == 0 {
        return Err(cx.unsupported_dtype(0));
    }
    let zero = vec![0u8; input.dtype().storage_bytes(1).unwrap_or(0)];
    let zero =
        Tensor::new(input.dtype(), [1usize].as_slice(), zero).map_err(|error| cx.tensor_error(error))?;
    let picks = (0..input.elements()).map(|at| {
        let (row, column) = ((at / columns % rows) as i64, (at % columns) as i64);
        let kept = if upper { column - row >= k } else { column - row <= k };
        if kept { (0, at) } else { (1, 0) }
    });
    cx.give(movement::pick(&[input, &zero], input.dims(), picks))
}

fn reverse_sequence(cx: &EvalCx) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let (time, batch) = (cx.attrs().int("time_axis", 0)?, cx.attrs().int("batch_axis", 1)?);
    let (time, batch) = (cx.axis(time, input.rank())?, cx.axis(batch, input.rank())?);
    let (steps, batches) = (input.dims()[time], input.dims()[batch]);
    let lengths: Option<Vec<usize>> =
        cx.ints(1)?.into_iter().map(|length| usize::try_from(length).ok()).collect();
    let lengths = lengths.filter(|all| all.len() == batches && all.iter().all(|length| *length <= steps));
    let lengths = lengths.ok_or_else(|| cx.wrong_input(1, &format!("{batches} lengths up to {steps}")))?;
    cx.reserve(input.dtype(), input.dims())?;
    let (_, _, time_stride) = around(input.dims(), time);
    let (_, _, batch_stride) = around(input.dims(), batch);
    let picks = (0..input.elements()).map(|at| {
        let step = at / time_stride % steps;
        let length = lengths[at / batch_stride % batches];
        if step < length { at - step * time_stride + (length - 1 - step) * time_stride } else { at }
    });
    cx.give(movement::take(input, input.dims(), picks))
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("Trilu", 14, copy_infer).eval(trilu),
    &Table::new("ReverseSequence", 10, copy_infer).eval(reverse_sequence),
];
