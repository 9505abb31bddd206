//! Puts the chosen branch of an `If` with a constant condition in its place.
//!
//! ```text
//! <bool c = {1}>
//! y = If (c) <then_branch = { t = Relu(x) }, else_branch = { e = Exp(x) }>   =>   y = Relu(x)
//! ```
//!
//! A branch that only passes a value on becomes an `Identity`, which `eliminate_identity` removes where the graph's
//! interface allows it. The other branch disappears, with what only it read.
//!
//! Declines: a condition that is not constant or not one element; a branch that holds sparse constants.
//!
//! Stands behind `fold_constants` and `fold_shapes`, which find out conditions, and before them in the next round,
//! since the branch can now be folded with what surrounds it.

use ir::{DType, GraphId, Model, Op, OpId};
use serde::Deserialize;

use crate::driver::{Changes, Cx, Pass, PassError, Scope, inline_body};

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InlineIf {}

impl Pass for InlineIf {
    fn name(&self) -> &'static str {
        "inline_if"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        let mut changes = Changes::default();
        // A branch that is inlined may hold another one: its operators are visited with those of the outer graph.
        let mut again = true;
        while again {
            again = false;
            for graph in model.graph_ids() {
                // Not a branch of one that was just replaced.
                let held = model.graph(graph).parent();
                if held.is_some_and(|(outer, op)| !model.graph(outer).is_live(op)) {
                    continue;
                }
                for op in model.graph(graph).ops() {
                    if model.graph(graph).is_live(op) && model.graph(graph).op(op).kind.is("If") {
                        again |= choose(model, graph, op, cx, &mut changes)?;
                    }
                }
            }
            model.settle();
        }
        Ok(changes)
    }
}

fn choose(
    model: &mut Model,
    graph: GraphId,
    op: OpId,
    cx: &mut Cx,
    changes: &mut Changes,
) -> Result<bool, PassError> {
    let scope = Scope { model, id: graph };
    let at = scope.location(op);
    let Some(branch) = branch(scope, op) else {
        cx.decline("constant_condition", "the condition is not constant", at);
        return Ok(false);
    };
    let body = model.graph(branch);
    let sparse = body.values().any(|value| body.value(value).sparse.is_some());
    if sparse || !body.inputs().is_empty() || body.outputs().len() != model.graph(graph).op(op).output_count()
    {
        cx.decline("constant_condition", "the branch has another form than the operator", at);
        return Ok(false);
    }
    if model.is_function_body(graph) && body.values().any(|value| body.value(value).has_data()) {
        cx.decline(
            "constant_condition",
            "the body of a function has no place for the branch's constants",
            at,
        );
        return Ok(false);
    }
    if !cx.spend("constant_condition", at.clone()) {
        return Ok(false);
    }
    changes.count("constant_condition");
    let failed = |why| PassError::Model { pass: "inline_if", at: Box::new(at), why };
    inline_body(model, graph, op, branch, &[], || Op::new("Identity")).map_err(failed)?;
    Ok(true)
}

fn branch(scope: Scope, op: OpId) -> Option<GraphId> {
    let condition = scope.constant_input(op, 0).filter(|c| c.dtype() == DType::Bool && c.elements() == 1)?;
    let chosen = condition.to_vec::<bool>().ok()?.first().copied()?;
    scope.graph().op(op).attrs.graph(if chosen { "then_branch" } else { "else_branch" })
}
