//! Adagrad, Adam and Momentum (ai.onnx.preview.training 1): only types and shapes, since training is not run here.
//!
//! `R, T, X…, G…, S…` give new `X…` and `S…`, where the states `S` are one value for each tensor (`H` of Adagrad, `V` of
//! Momentum) or two (`V` and `H` of Adam). `Gradient` stays without a rule: its outputs depend on names.

use crate::error::Result;
use crate::infer::InferCx;
use crate::rule::{OpRule, Table};

/// New tensors and new states are as the old ones.
fn infer(cx: &mut InferCx, states: usize) -> Result<()> {
    let lists = cx.input_count().checked_sub(2).filter(|rest| rest.is_multiple_of(2 + states));
    let Some(rest) = lists else { return Err(cx.invalid("its lists of inputs have different lengths")) };
    let count = rest / (2 + states);
    for at in 0..cx.output_count() {
        // Gradients have no output: what comes behind the tensors is found behind the gradients.
        let from = if at < count { 2 + at } else { 2 + count + at };
        if from < cx.input_count() {
            cx.copy_type(at, from);
        }
    }
    Ok(())
}

fn infer_one_state(cx: &mut InferCx) -> Result<()> {
    infer(cx, 1)
}

fn infer_two_states(cx: &mut InferCx) -> Result<()> {
    infer(cx, 2)
}

const DOMAIN: &str = "ai.onnx.preview.training";

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("Adagrad", 1, infer_one_state).domain(DOMAIN, 1),
    &Table::new("Adam", 1, infer_two_states).domain(DOMAIN, 1),
    &Table::new("Momentum", 1, infer_one_state).domain(DOMAIN, 1),
];
