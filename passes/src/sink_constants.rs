//! Moves constants into the only body that reads them.
//!
//! ```text
//! w = constant; y = If(c) { Conv(x, w) } else { … }   =>   y = If(c) { w = constant; Conv(x, w) } else { … }
//! ```
//!
//! A weight that stands beside the operator that reads it can be quantized there. Declines constants with more than one
//! reader: copies would grow the file. Exporters write both forms; this is the one that runtimes write too.

use ir::{GraphId, Model, OpId, Role, Slot, Tensor, ValueId};
use serde::Deserialize;

use crate::driver::{Changes, Cx, Pass, PassError, value_place};

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkConstants {}

impl Pass for SinkConstants {
    fn name(&self) -> &'static str {
        "sink_constants"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        let mut changes = Changes::default();
        // Each round moves a constant one body inwards; bodies are rarely nested more than a few deep.
        loop {
            let before = changes.rewrites();
            for graph in model.graph_ids() {
                for op in model.graph(graph).ops() {
                    for (body, inner, outer) in model.graph(graph).captures(op) {
                        let Some(tensor) = sole(model, graph, outer, op) else { continue };
                        if cx.spend("sink", value_place(model, graph, outer)) {
                            model.graph_mut(body).make_constant(inner, tensor);
                            model.graph_mut(graph).remove_capture(op, body, inner);
                            model.graph_mut(graph).remove_value(outer);
                            changes.count("sink");
                        }
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

/// The constant, if this operator's body is all that reads it.
fn sole(model: &Model, graph: GraphId, value: ValueId, op: OpId) -> Option<Tensor> {
    let g = model.graph(graph);
    if g.value(value).role() != Role::Initializer || g.is_output(value) {
        return None;
    }
    let tensor = g.constant(value)?;
    match g.uses(value)[..] {
        [reader] if reader.op == op && matches!(reader.slot, Slot::Capture { .. }) => Some(tensor.clone()),
        _ => None,
    }
}
