//! Dropout: at inference the identity, with a mask of ones.
//!
//! Opset 1 says with `is_test` that it is inference; 7 knows nothing else; 12 has `training_mode` as input 2, and a ratio
//! as input 1. The mask has the type of the data up to opset 9, bool since 10. In training with a ratio the result is
//! random and not computed.

use ir::{DType, Tensor};

use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::rule::{OpRule, Table};

fn infer(cx: &mut InferCx) -> Result<()> {
    let known = cx.need(0)?;
    let training = cx.opset() >= 12 && cx.has(2) && cx.ints(2).is_none_or(|mode| mode.first() != Some(&0));
    match training {
        true => cx.copy_type(0, 0),
        false => cx.set_known(0, known.clone()),
    }
    let mask = if cx.opset() < 10 { cx.dtype(0) } else { Some(DType::Bool) };
    cx.set(1, mask, cx.dims(0).map(<[_]>::to_vec));
    Ok(())
}

fn eval(cx: &EvalCx) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let training = match cx.opset() {
        ..7 => !cx.attrs().flag("is_test", false)?,
        7..12 => false,
        _ => cx.has(2) && cx.vec::<bool>(2)?.first() == Some(&true),
    };
    let ratio = match cx.opset() {
        ..12 => f64::from(cx.attrs().float("ratio", 0.5)?),
        _ if cx.has(1) => cx.f64s(1)?.first().copied().unwrap_or(0.5),
        _ => 0.5,
    };
    if training && ratio != 0.0 {
        return Err(cx.unsupported("training with a ratio is random"));
    }
    let mut outputs = cx.give(Ok(input.clone()))?;
    if cx.wanted() > 1 {
        let elements = cx.reserve(DType::F64, input.dims())?;
        let mask = match cx.opset() < 10 {
            true => array::from_f64s(input.dtype(), input.dims(), &vec![1.0; elements]),
            false => Tensor::from_slice(input.dims(), &vec![true; elements]),
        };
        outputs.extend(cx.give(mask)?);
    }
    Ok(outputs)
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[&Table::new("Dropout", 1, infer).eval(eval)];
