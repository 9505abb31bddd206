//! Removes operators whose outputs nothing reads.
//!
//! ```text
//! y = Relu(x)            y = Relu(x)
//! unused = Exp(x)   =>
//! ```
//!
//! Works in every graph, inner ones included; what only a removed body read from outside goes with it. An operator
//! without any output is kept: it must be there for something that ONNX does not say.
//!
//! Stands after every pass that may leave something behind; rewrites themselves remove what they replace.

use ir::Model;
use serde::Deserialize;

use crate::driver::{Changes, Cx, Pass, PassError, Patch, op_place};

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EliminateDead {}

impl Pass for EliminateDead {
    fn name(&self) -> &'static str {
        "eliminate_dead"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        let mut changes = Changes::default();
        loop {
            let before = changes.rewrites();
            // Inner graphs stand behind outer ones, so a capture that falls away is seen outside in the same round,
            // except where settling has to drop it first.
            for graph in model.graph_ids().into_iter().rev() {
                for op in model.graph(graph).ops().into_iter().rev() {
                    let g = model.graph(graph);
                    if !g.is_live(op) {
                        continue;
                    }
                    let outputs = g.op_outputs(op);
                    if outputs.is_empty() || outputs.iter().flatten().any(|&value| g.is_used(value)) {
                        continue;
                    }
                    let mut patch = Patch::default();
                    patch.remove(op);
                    let at = op_place(model, graph, op);
                    if cx.rewrite(model, graph, "dead", at, patch) {
                        changes.count("dead");
                    }
                }
            }
            model.settle();
            if changes.rewrites() == before {
                return Ok(changes);
            }
        }
    }
}
