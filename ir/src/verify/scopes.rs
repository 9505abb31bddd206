//! Checks between graphs: V11 to V16.

use std::collections::HashMap;

use super::{Findings, Invariant};
use crate::{GraphId, Location, OpId, Role, Slot, ValueId};

type Holder = Option<(GraphId, OpId)>;

/// Who holds which graph (V11, V12, V16). Returns the graphs that something holds, in the order of the table.
pub(super) fn nesting(found: &mut Findings<'_>) -> Vec<GraphId> {
    let model = found.model;
    let mut holders: HashMap<GraphId, Holder> = HashMap::new();
    if model.has_graph(model.main) {
        holders.insert(model.main, None);
    } else {
        found.report(Invariant::GraphHeld, "the model has no main graph");
    }
    for function in &model.functions {
        for id in std::iter::once(function.graph).chain(function.defaults.graphs()) {
            if !model.has_graph(id) {
                found.report(Invariant::GraphHeld, format!("the function {:?} has no body", function.name));
            } else if holders.insert(id, None).is_some() {
                found.report(
                    Invariant::GraphHeld,
                    format!("the function {:?} shares its body", function.name),
                );
            }
        }
    }
    for id in model.graph_ids() {
        let graph = model.graph(id);
        for op in graph.ops() {
            for inner in graph.op(op).attrs.graphs() {
                let at = Location::op(graph, op);
                if !model.has_graph(inner) {
                    found.report_in(id, Invariant::GraphHeld, at, "it holds a graph that the model has not");
                } else if holders.insert(inner, Some((id, op))).is_some() {
                    let what = format!(
                        "it holds the graph {:?}, which is held elsewhere too",
                        model.graph(inner).name
                    );
                    found.report_in(id, Invariant::GraphHeld, at, what);
                }
            }
        }
    }
    let held: Vec<GraphId> = model.graph_ids().into_iter().filter(|id| holders.contains_key(id)).collect();
    let strangers =
        held.iter().filter(|id| !check_parent(found, **id, holders.get(id).copied().flatten())).count();
    found.nested = strangers == 0 && check_nesting(found, &held);
    held
}

fn check_parent(found: &mut Findings<'_>, id: GraphId, holder: Holder) -> bool {
    let graph = found.model.graph(id);
    if graph.parent() == holder {
        return true;
    }
    let holder = match holder {
        Some((outer, op)) => format!("an operator holds it, {}", Location::op(found.model.graph(outer), op)),
        None => "no operator holds it".to_string(),
    };
    found.report_in(
        id,
        Invariant::Parent,
        Location::graph(graph),
        format!("{holder}, and its parent says otherwise"),
    );
    false
}

/// Walks every graph's way outwards, each part of it once.
fn check_nesting(found: &mut Findings<'_>, held: &[GraphId]) -> bool {
    let model = found.model;
    let mut ends = vec![false; model.graphs.len()];
    for &id in held {
        let mut way = vec![id];
        way.extend(model.surrounding(id).take_while(|outer| !ends[outer.0 as usize]));
        if way.len() > model.graphs.len() {
            found.report_in(id, Invariant::Nesting, Location::graph(model.graph(id)), "it is inside itself");
            return false;
        }
        way.iter().for_each(|graph| ends[graph.0 as usize] = true);
    }
    true
}

/// V13 and V14, seen from both sides.
pub(super) fn captures(found: &mut Findings<'_>, id: GraphId) {
    let model = found.model;
    let graph = model.graph(id);
    for value in graph.values().filter(|&value| graph.value(value).role() == Role::Captured) {
        let at = Location::value(graph, value);
        let parent =
            graph.parent().filter(|&(parent, op)| model.has_graph(parent) && model.graph(parent).is_live(op));
        let outer = parent.and_then(|(parent, op)| {
            model.graph(parent).captured(op, id, value).map(|outer| (parent, outer))
        });
        match outer {
            None => {
                found.report_in(id, Invariant::Capture, at, "it stands for nothing in the surrounding graph")
            }
            Some((parent, outer)) => {
                let name = model.graph(parent).value(outer).name();
                if name != graph.value(value).name() {
                    found.report_in(id, Invariant::CaptureName, at, format!("it stands for {name:?}"));
                }
            }
        }
    }
    let mut seen: HashMap<(GraphId, ValueId), ValueId> = HashMap::new();
    for (outer, op, slot) in graph.edges() {
        let Slot::Capture { graph: inner, inner: value } = slot else { continue };
        let stands = model.has_graph(inner)
            && model.graph(inner).is_live_value(value)
            && model.graph(inner).value(value).role() == Role::Captured
            && graph.op(op).attrs.graphs().any(|held| held == inner);
        let at = || Location { value: Some(graph.value(outer).name().clone()), ..Location::op(graph, op) };
        if !stands {
            found.report_in(
                id,
                Invariant::Capture,
                at(),
                "it is captured by a graph or for a value that is not there",
            );
        } else if seen.insert((inner, value), outer).is_some() {
            found.report_in(id, Invariant::Capture, at(), "the captured value stands for another one too");
        }
    }
}

/// V15. Visible is what a surrounding graph defines before the operator that holds the inner one.
pub(super) fn names(found: &mut Findings<'_>, id: GraphId) {
    let model = found.model;
    let graph = model.graph(id);
    if graph.parent().is_none() {
        return;
    }
    let computed = graph.values().filter(|&value| graph.value(value).role() == Role::Computed);
    for value in computed {
        let name = graph.value(value).name();
        let mut inner = id;
        for outer in model.surrounding(id) {
            let holder = model.graph(inner).parent().map(|(_, op)| op);
            inner = outer;
            let Some(hidden) = model.graph(outer).find(name) else { continue };
            if holder.is_some_and(|holder| is_visible(found, outer, hidden, holder)) {
                let what = format!("it hides {}", Location::value(model.graph(outer), hidden));
                found.report_in(id, Invariant::Shadowing, Location::value(graph, value), what);
                break;
            }
        }
    }
}

fn is_visible(found: &mut Findings<'_>, id: GraphId, value: ValueId, from: OpId) -> bool {
    let graph = found.model.graph(id);
    let Some((producer, _)) = graph.producer(value) else { return true };
    // Few names collide: only then the order of the surrounding graph is computed.
    let positions = found.positions.entry(id).or_insert_with(|| {
        let mut positions = vec![usize::MAX; graph.bound()];
        for (at, op) in graph.schedule().ok()?.into_iter().enumerate() {
            positions[op.index()] = at;
        }
        Some(positions)
    });
    positions.as_ref().is_some_and(|positions| positions[producer.index()] < positions[from.index()])
}
