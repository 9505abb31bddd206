//! What happens between two passes: [`Model::settle`].
//!
//! Within a pass graphs may hold captures that nothing reads any more, two captures of one value, names that an outer
//! scope has too, and tombstones. Settling ends that. Names are final once it has run:
//!
//! - a captured value has the name of what it stands for;
//! - no value of an inner graph has the name of a value of a surrounding one. ONNX forbids an inner operator to write a
//!   name that is visible from outside. The inner value gives way: its name is not part of the model's interface.
//!
//! The work is linear in the size of the model; a model without inner graphs and functions has next to none.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::{Graph, GraphId, Model, OpId, Role, ValueId};

impl Model {
    /// Ends a pass: drops graphs that no operator or function holds, merges captures of one value, drops captures that
    /// no inner operator reads, gives captured values the names of what they stand for, renames inner values that hide
    /// an outer name, and frees tombstones.
    pub fn settle(&mut self) {
        let order = self.drop_unreachable();
        self.graphs.iter_mut().flatten().for_each(|graph| graph.strays.clear());
        // Merging here may leave an inner graph two captures of one value; dropping here may end an outer one's last use.
        for &id in &order {
            self.drop_stale_captures(id);
            self.merge_captures(id);
        }
        for &id in order.iter().rev() {
            self.drop_unused_captures(id);
        }
        for &id in &order {
            self.name_captures(id);
            self.end_shadowing(id);
        }
        self.share_names();
        self.graphs.iter_mut().flatten().for_each(Graph::sweep);
    }

    /// Drops graphs that nothing holds and tells the others who holds them. The result lists outer graphs before inner
    /// ones.
    fn drop_unreachable(&mut self) -> Vec<GraphId> {
        let mut reached = vec![false; self.graphs.len()];
        let mut order = Vec::new();
        let functions = self.functions.iter();
        let functions =
            functions.flat_map(|f| std::iter::once(f.graph).chain(f.defaults.graphs())).map(|id| (id, None));
        let mut found: Vec<(GraphId, Option<(GraphId, OpId)>)> = vec![(self.main, None)];
        found.extend(functions);
        let mut next = 0;
        while let Some(&(id, parent)) = found.get(next) {
            next += 1;
            let slot = reached.get_mut(id.0 as usize);
            // An id that is not in the table is the verifier's to report.
            if slot.is_none_or(|reached| std::mem::replace(reached, true)) {
                continue;
            }
            let Some(Some(graph)) = self.graphs.get_mut(id.0 as usize) else { continue };
            graph.set_parent(parent);
            order.push(id);
            found.extend(graph.held().map(|(op, inner)| (inner, Some((id, op)))));
        }
        for (graph, reached) in self.graphs.iter_mut().zip(reached) {
            if !reached {
                *graph = None;
            }
        }
        order
    }

    /// Captures recorded here for graphs that their operator no longer holds, or for values that are gone or have
    /// become something else.
    fn drop_stale_captures(&mut self, id: GraphId) {
        let graph = self.graph(id);
        let stale: Vec<_> = graph
            .all_captures()
            .into_iter()
            .filter(|&(op, inner, value)| !self.is_capture(id, op, inner, value))
            .collect();
        for (op, inner, value) in stale {
            self.graph_mut(id).remove_capture(op, inner, value);
        }
    }

    fn is_capture(&self, id: GraphId, op: OpId, inner: GraphId, value: ValueId) -> bool {
        let Some(Some(graph)) = self.graphs.get(inner.0 as usize) else { return false };
        graph.parent() == Some((id, op))
            && graph.is_live_value(value)
            && graph.value(value).role == Role::Captured
    }

    /// After a redirection outside, two captured values may stand for one.
    fn merge_captures(&mut self, id: GraphId) {
        let Some((parent, op)) = self.graph(id).parent() else { return };
        let mut first: HashMap<ValueId, ValueId> = HashMap::new();
        for value in self.captured_values(id) {
            let Some(outer) = self.graph(parent).captured(op, id, value) else { continue };
            let keep = *first.entry(outer).or_insert(value);
            if keep != value {
                self.graph_mut(id).merge(value, keep);
                self.graph_mut(parent).remove_capture(op, id, value);
                self.graph_mut(id).remove_value(value);
            }
        }
    }

    fn drop_unused_captures(&mut self, id: GraphId) {
        let Some((parent, op)) = self.graph(id).parent() else { return };
        for value in self.captured_values(id) {
            if self.graph_mut(id).remove_value(value) {
                self.graph_mut(parent).remove_capture(op, id, value);
            }
        }
    }

    fn captured_values(&self, id: GraphId) -> Vec<ValueId> {
        let graph = self.graph(id);
        graph.values().filter(|&value| graph.value(value).role == Role::Captured).collect()
    }

    fn name_captures(&mut self, id: GraphId) {
        let Some((parent, op)) = self.graph(id).parent() else { return };
        for value in self.captured_values(id) {
            let outer = self.graph(parent);
            let Some(name) = outer.captured(op, id, value).map(|value| outer.value(value).name.clone())
            else {
                continue;
            };
            // Two outer values may have swapped names: make room first. Each captured value gets its own name in turn.
            if let Some(other) = self.graph(id).find(&name).filter(|&other| other != value) {
                self.rename_inner(id, other);
            }
            let renamed = self.graph_mut(id).rename(value, &name);
            debug_assert!(renamed.is_ok(), "room was made for {name:?}");
        }
    }

    fn end_shadowing(&mut self, id: GraphId) {
        if self.graph(id).parent().is_none() {
            return;
        }
        let graph = self.graph(id);
        let own = graph.values().filter(|&value| graph.value(value).role != Role::Captured);
        let hiding: Vec<ValueId> =
            own.filter(|&value| self.is_named_outside(id, &graph.value(value).name)).collect();
        for value in hiding {
            self.rename_inner(id, value);
        }
    }

    /// A value of a surrounding graph has this name.
    pub(crate) fn is_named_outside(&self, id: GraphId, name: &str) -> bool {
        self.surrounding(id).any(|outer| self.graph(outer).find(name).is_some())
    }

    /// The graphs around this one, innermost first.
    pub(crate) fn surrounding(&self, id: GraphId) -> impl Iterator<Item = GraphId> + '_ {
        // A chain longer than the table is a circle; the verifier reports it.
        let parents = std::iter::successors(Some(id), |&at| {
            Some(self.graphs.get(at.0 as usize)?.as_ref()?.parent()?.0)
        });
        parents.skip(1).take(self.graphs.len())
    }

    fn rename_inner(&mut self, id: GraphId, value: ValueId) {
        let hint = self.graph(id).value(value).name.clone();
        loop {
            let name = self.graph_mut(id).fresh_name(&hint);
            if !self.is_named_outside(id, &name) && self.graph_mut(id).rename(value, &name).is_ok() {
                return;
            }
        }
    }

    /// Tells every graph the names of all, so that fresh names of the next pass collide with none of them.
    fn share_names(&mut self) {
        let taken = if self.graphs.iter().flatten().count() > 1 {
            let names: HashSet<Arc<str>> =
                self.graphs.iter().flatten().flat_map(Graph::names).cloned().collect();
            Some(Arc::new(names))
        } else {
            None
        };
        self.graphs.iter_mut().flatten().for_each(|graph| graph.set_taken(taken.clone()));
    }
}
