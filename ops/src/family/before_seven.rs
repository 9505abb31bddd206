//! Forms from before operator set 7 (8 for Max, Mean, Min and Sum): only types and shapes.
//!
//! Arithmetic and comparisons stretch the right side to the left one, where the attribute `broadcast` says so, from `axis`
//! on: the result always has the left side's shape. Max, Mean, Min and Sum take equal shapes. Gemm adds C under the same
//! rule; BatchNormalization has the sizes of its input, and in training those of its statistics.

use ir::{DType, Dim};

use crate::error::Result;
use crate::infer::InferCx;
use crate::rule::{OpRule, Table};

fn as_left(cx: &mut InferCx) -> Result<()> {
    let dtype = cx.same_dtype([0, 1])?;
    cx.set(0, dtype, cx.dims(0).map(<[Dim]>::to_vec));
    Ok(())
}

fn compared(cx: &mut InferCx) -> Result<()> {
    cx.same_dtype([0, 1])?;
    cx.set(0, Some(DType::Bool), cx.dims(0).map(<[Dim]>::to_vec));
    Ok(())
}

fn equal_shapes(cx: &mut InferCx) -> Result<()> {
    let dtype = cx.same_dtype(0..cx.input_count())?;
    let dims = (0..cx.input_count()).find_map(|at| cx.dims(at)).map(<[Dim]>::to_vec);
    cx.set(0, dtype, dims);
    Ok(())
}

fn gemm(cx: &mut InferCx) -> Result<()> {
    let dtype = cx.same_dtype(0..3)?;
    let (turn_a, turn_b) = (cx.attrs().flag("transA", false)?, cx.attrs().flag("transB", false)?);
    let side = |dims: Option<&[Dim]>, at: usize| dims.map_or(Dim::Unknown, |dims| dims[at].clone());
    let rows = side(cx.need_rank(0, 2)?, usize::from(turn_a));
    let columns = side(cx.need_rank(1, 2)?, usize::from(!turn_b));
    cx.set(0, dtype, Some(vec![rows, columns]));
    Ok(())
}

fn batch_normalization(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.copy_type(0, 0);
    // Running mean and variance, then those of the batch.
    for at in 1..cx.output_count() {
        cx.copy_type(at, if at % 2 == 1 { 3 } else { 4 });
    }
    Ok(())
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("Add", 1, as_left).until(6),
    &Table::new("Sub", 1, as_left).until(6),
    &Table::new("Mul", 1, as_left).until(6),
    &Table::new("Div", 1, as_left).until(6),
    &Table::new("Pow", 1, as_left).until(6),
    &Table::new("And", 1, as_left).until(6),
    &Table::new("Or", 1, as_left).until(6),
    &Table::new("Xor", 1, as_left).until(6),
    &Table::new("Equal", 1, compared).until(6),
    &Table::new("Greater", 1, compared).until(6),
    &Table::new("Less", 1, compared).until(6),
    &Table::new("Max", 1, equal_shapes).until(7),
    &Table::new("Mean", 1, equal_shapes).until(7),
    &Table::new("Min", 1, equal_shapes).until(7),
    &Table::new("Sum", 1, equal_shapes).until(7),
    &Table::new("Gemm", 1, gemm).until(6),
    &Table::new("BatchNormalization", 1, batch_normalization).until(6),
];
