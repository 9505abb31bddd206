//! What operators go by in a plan, and names for new ones.
//!
//! An operator of the main graph goes by the name of its first output. In a body (of an If, a Loop, a Scan) names may repeat
//! from branch to branch: there the key starts with the key of the operator that holds the body and the attribute it is in,
//! as in `mask/then_branch/scores`.

use std::collections::{BTreeMap, BTreeSet};

use ir::{Graph, GraphId, Model, OpId};

/// The name that an operator goes by within its graph: its first output's.
pub fn key_of(graph: &Graph, op: OpId) -> String {
    let first = graph.op_outputs(op).into_iter().flatten().next();
    first.map_or_else(|| graph.op(op).name.clone(), |value| graph.value(value).name().to_string())
}

/// The bodies of the main graph, outer ones first, each with the start of its operators' keys. Functions are not among them.
pub(super) fn bodies(model: &Model) -> Vec<(GraphId, String)> {
    let mut found = Vec::new();
    let mut open = vec![(model.main_id(), String::new())];
    while let Some((id, prefix)) = open.pop() {
        let graph = model.graph(id);
        for op in graph.ops() {
            let attrs = &graph.op(op).attrs;
            for attr in attrs.iter() {
                let held: Vec<GraphId> = match &attr.value {
                    ir::AttrValue::Graph(body) => vec![*body],
                    ir::AttrValue::Graphs(bodies) => bodies.clone(),
                    _ => continue,
                };
                for (at, body) in held.iter().enumerate() {
                    let number = if held.len() > 1 { format!("{at}/") } else { String::new() };
                    let prefix = format!("{prefix}{}/{}/{number}", key_of(graph, op), attr.name);
                    found.push((*body, prefix.clone()));
                    open.push((*body, prefix));
                }
            }
        }
    }
    found
}

/// Every operator outside of functions by its key.
pub fn places(model: &Model) -> BTreeMap<String, (GraphId, OpId)> {
    let mut places = BTreeMap::new();
    for (id, prefix) in std::iter::once((model.main_id(), String::new())).chain(bodies(model)) {
        let graph = model.graph(id);
        places.extend(graph.ops().into_iter().map(|op| (format!("{prefix}{}", key_of(graph, op)), (id, op))));
    }
    places
}

/// Names of operators that are taken: onnxruntime refuses two nodes of one name.
pub(super) struct OpNames(BTreeSet<String>);

impl OpNames {
    pub(super) fn new(model: &Model) -> OpNames {
        let graphs = model.graph_ids().into_iter().map(|id| model.graph(id));
        OpNames(graphs.flat_map(|g| g.ops().into_iter().map(|op| g.op(op).name.clone())).collect())
    }

    /// The hint, or the hint with a number.
    pub(super) fn fresh(&mut self, hint: &str) -> String {
        let mut name = hint.to_string();
        let mut number = 1;
        while !self.0.insert(name.clone()) {
            number += 1;
            name = format!("{hint}_{number}");
        }
        name
    }
}
