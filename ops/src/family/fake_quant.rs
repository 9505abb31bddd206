//! `onnxq.FakeQuant`, the rounding that lowered models hold: see [`crate::FakeQuant`].

use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::fake_quant::FakeQuant;
use crate::infer::InferCx;
use crate::rule::{OpRule, Table};

fn infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.copy_type(0, 0);
    Ok(())
}

fn eval(cx: &EvalCx) -> Result<Outputs> {
    let x = cx.tensor(0)?;
    let grid = FakeQuant::from_attrs(&cx.op().attrs).ok_or_else(|| cx.invalid("its grid is incomplete"))?;
    cx.reserve(ir::DType::F32, x.dims())?;
    let mut numbers = cx.f32s(0)?;
    grid.apply(x.dims(), &mut numbers).map_err(|error| cx.invalid(error.to_string()))?;
    cx.give(crate::array::from_f32s(x.dtype(), x.dims(), &numbers))
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[&Table::new("FakeQuant", 1, infer).domain("onnxq", 1).eval(eval)];
