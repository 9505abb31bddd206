//! FlexAttention (ai.onnx.preview 1): only its type, since the operator is a preview. `Q [B, H, L, E]` and
//! `V [B, Hv, S, Ev]` give `[B, H, L, Ev]`.

use crate::error::Result;
use crate::infer::InferCx;
use crate::rule::{OpRule, Table};

fn infer(cx: &mut InferCx) -> Result<()> {
    let (query, value) = (cx.need_rank(0, 4)?, cx.need_rank(2, 4)?);
    let dims = query.zip(value).map(|(query, value)| {
        let mut dims = query.to_vec();
        dims[3] = value[3].clone();
        dims
    });
    cx.set(0, cx.dtype(0), dims);
    Ok(())
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[&Table::new("FlexAttention", 1, infer).domain("ai.onnx.preview", 1)];
