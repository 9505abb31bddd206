//! Takes the other branch of an `If` where one of them cannot run.
//!
//! ```text
//! (bool c, float[1, 576] x)                                  (bool c, float[1, 576] x)
//! y = If (c) <then_branch = { 576 values are reshaped to     y = If (<true>) <...>
//!             [4, 144] }, else_branch = { to [4, 72] }>
//! ```
//!
//! Models for several input sizes ask for the size, or are told, and branch; with one size fixed, a branch for another can
//! only fail. Runtimes refuse to load it then, whichever is taken. What the model computes where it computes anything stays
//! the same: a run that would have failed computes the other branch instead. `inline_if` puts that in the operator's place.
//!
//! Declines: an `If` of which neither branch or both cannot run, or whose condition is constant; a branch whose name another
//! graph has, because what is wrong is known by the name of the graph.
//!
//! Not in the preset: it is for sizes that a target wants fixed, behind folding that shows what they do.

use ir::{GraphId, Model, OpId, Tensor};
use ops::infer::{Issue, infer_model};
use serde::Deserialize;

use crate::driver::{Changes, Cx, Pass, PassError, Scope};

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EliminateFailingBranches {}

impl Pass for EliminateFailingBranches {
    fn name(&self) -> &'static str {
        "eliminate_failing_branches"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        let mut changes = Changes::default();
        let failing = failing(model);
        if failing.is_empty() {
            return Ok(changes);
        }
        for graph in model.graph_ids() {
            for op in model.graph(graph).ops() {
                let Some(taken) = other_branch(model, graph, op, &failing) else { continue };
                let at = Scope { model, id: graph }.location(op);
                if !cx.spend("failing_branch", at) {
                    continue;
                }
                changes.count("failing_branch");
                let graph = model.graph_mut(graph);
                let name = format!("{}_taken", crate::quantize::keys::key_of(graph, op));
                let Ok(condition) = Tensor::from_slice(&[], &[taken]) else { continue };
                let condition = graph.new_constant(&name, condition);
                graph.set_input(op, 0, Some(condition));
            }
        }
        Ok(changes)
    }
}

/// Graphs in which some operator cannot run: the only ones of their names.
fn failing(model: &Model) -> Vec<GraphId> {
    let wrong: Vec<String> = infer_model(model, &ops::infer::Options::default())
        .issues
        .into_iter()
        .filter_map(|issue| match issue {
            Issue::Wrong(place, _) => Some(place.graph),
            _ => None,
        })
        .collect();
    let named = |id: &GraphId| model.graph(*id).name.clone();
    let ids = model.graph_ids();
    let only = |name: &String| ids.iter().filter(|id| named(id) == *name).count() == 1;
    ids.iter().copied().filter(|id| wrong.contains(&named(id)) && only(&named(id))).collect()
}

/// Whether the condition should be true, if one branch alone cannot run.
fn other_branch(model: &Model, graph: GraphId, op: OpId, failing: &[GraphId]) -> Option<bool> {
    let scope = Scope { model, id: graph };
    let node = scope.graph().op(op);
    if !node.kind.is("If") || scope.constant_input(op, 0).is_some() {
        return None;
    }
    let fails = |name: &str| Some(failing.contains(&node.attrs.graph(name)?));
    match (fails("then_branch")?, fails("else_branch")?) {
        (true, false) => Some(false),
        (false, true) => Some(true),
        _ => None,
    }
}
