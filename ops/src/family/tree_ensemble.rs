//! TreeEnsemble (ai.onnx.ml 5): only its type. `X [N, F]` gives `[N, n_targets]`.

use ir::Dim;

use crate::error::Result;
use crate::infer::InferCx;
use crate::rule::{OpRule, Table};

fn infer(cx: &mut InferCx) -> Result<()> {
    let batch = cx.need_rank(0, 2)?.map_or(Dim::Unknown, |dims| dims[0].clone());
    let targets = cx.attrs().opt_int("n_targets")?.map_or(Dim::Unknown, Dim::Known);
    cx.set(0, cx.dtype(0), Some(vec![batch, targets]));
    Ok(())
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[&Table::new("TreeEnsemble", 5, infer).domain("ai.onnx.ml", 5)];
