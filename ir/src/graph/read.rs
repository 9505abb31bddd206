//! Looking at a graph.

use petgraph::Direction;
use petgraph::visit::{EdgeRef, NodeIndexable};
use smallvec::SmallVec;

use super::{Body, Graph, OpId, Slot, Slots, Use, ValueId};
use crate::{GraphId, Role, Tensor};

impl Graph {
    /// The operator has not been removed.
    pub fn is_live(&self, id: OpId) -> bool {
        self.dag.node_weight(id.0).is_some_and(|node| matches!(node.body, Body::Op(_)))
    }

    /// The value has not been removed.
    pub fn is_live_value(&self, id: ValueId) -> bool {
        self.dag.node_weight(id.0).is_some_and(|node| matches!(node.body, Body::Value(_)))
    }

    /// One more than the largest `index()` of an id: the length of a side table.
    pub fn bound(&self) -> usize {
        self.dag.node_bound()
    }

    /// The value is an output of the graph.
    pub fn is_output(&self, value: ValueId) -> bool {
        self.value(value).listed > 0
    }

    /// All live values in the order of creation.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.dag.node_indices().filter(|&n| matches!(self.dag[n].body, Body::Value(_))).map(ValueId)
    }

    /// Number of live operators.
    pub fn op_count(&self) -> usize {
        self.dag.node_weights().filter(|node| matches!(node.body, Body::Op(_))).count()
    }

    fn slots(&self, op: OpId, direction: Direction, count: usize) -> Slots {
        let mut slots: Slots = SmallVec::from_elem(None, count);
        for edge in self.live_edges(op.0, direction) {
            let (at, other) = match edge.slot {
                Slot::In(at) => (at, edge.source),
                Slot::Out(at) => (at, edge.target),
                Slot::Capture { .. } => continue,
            };
            slots[at as usize] = Some(ValueId(other));
        }
        slots
    }

    /// The operator's inputs in slot order.
    pub fn op_inputs(&self, op: OpId) -> Slots {
        self.slots(op, Direction::Incoming, self.op(op).arity.0 as usize)
    }

    /// The operator's outputs in slot order.
    pub fn op_outputs(&self, op: OpId) -> Slots {
        self.slots(op, Direction::Outgoing, self.op(op).arity.1 as usize)
    }

    /// Input `at` of the operator; none if omitted.
    pub fn input(&self, op: OpId, at: usize) -> Option<ValueId> {
        let slot = Slot::In(u32::try_from(at).ok()?);
        self.live_edges(op.0, Direction::Incoming).find(|e| e.slot == slot).map(|e| ValueId(e.source))
    }

    /// Output `at` of the operator; none if omitted.
    pub fn output(&self, op: OpId, at: usize) -> Option<ValueId> {
        let slot = Slot::Out(u32::try_from(at).ok()?);
        self.live_edges(op.0, Direction::Outgoing).find(|e| e.slot == slot).map(|e| ValueId(e.target))
    }

    /// The operator that writes the value, and in which output slot.
    pub fn producer(&self, value: ValueId) -> Option<(OpId, usize)> {
        let edge = self.live_edges(value.0, Direction::Incoming).next()?;
        match edge.slot {
            Slot::Out(at) => Some((OpId(edge.source), at as usize)),
            _ => None,
        }
    }

    /// The readers of the value in the file's order, then by slot. An operator that reads it twice is there twice.
    pub fn uses(&self, value: ValueId) -> Vec<Use> {
        let edges = self.live_edges(value.0, Direction::Outgoing);
        let mut uses: Vec<Use> = edges.map(|e| Use { op: OpId(e.target), slot: e.slot }).collect();
        uses.sort_unstable_by_key(|u| (self.op(u.op).order, u.slot));
        uses
    }

    /// Number of readers (graph outputs not counted), in constant time.
    pub fn use_count(&self, value: ValueId) -> usize {
        let node = &self.dag[value.0];
        (node.outgoing - node.dead_outgoing) as usize
    }

    /// Up to `limit` readers of the value, in no particular but always the same order.
    pub fn some_uses(&self, value: ValueId, limit: usize) -> Vec<Use> {
        let edges = self.live_edges(value.0, Direction::Outgoing).take(limit);
        edges.map(|e| Use { op: OpId(e.target), slot: e.slot }).collect()
    }

    /// Some operator reads the value, or it is an output of the graph. Takes constant time.
    pub fn is_used(&self, value: ValueId) -> bool {
        self.use_count(value) > 0 || self.is_output(value)
    }

    /// The only reader of a value that is not an output of the graph; none if there are several or none.
    pub fn sole_use(&self, value: ValueId) -> Option<Use> {
        if self.use_count(value) != 1 || self.is_output(value) {
            return None;
        }
        let edge = self.live_edges(value.0, Direction::Outgoing).next()?;
        Some(Use { op: OpId(edge.target), slot: edge.slot })
    }

    /// What the graphs inside this operator read from this scope: `(inner graph, inner value, outer value)`.
    pub fn captures(&self, op: OpId) -> Vec<(GraphId, ValueId, ValueId)> {
        let edges = self.live_edges(op.0, Direction::Incoming);
        let mut captures: Vec<_> = edges
            .filter_map(|edge| match edge.slot {
                Slot::Capture { graph, inner } => Some((graph, inner, ValueId(edge.source))),
                _ => None,
            })
            .collect();
        captures.sort_unstable();
        captures
    }

    /// The graphs in attributes of operators, in the order in which the operators were created: cheaper than
    /// [`Graph::ops`].
    pub(crate) fn held(&self) -> impl Iterator<Item = (OpId, GraphId)> + '_ {
        self.dag.node_indices().flat_map(|node| {
            let op = match &self.dag[node].body {
                Body::Op(op) => Some(op),
                _ => None,
            };
            op.into_iter().flat_map(move |op| op.attrs.graphs().map(move |graph| (OpId(node), graph)))
        })
    }

    /// [`Graph::captures`] of all operators, as `(operator, inner graph, inner value)`.
    pub(crate) fn all_captures(&self) -> Vec<(OpId, GraphId, ValueId)> {
        let ends = self.captures.iter().filter_map(|(&(graph, inner), &edge)| {
            let (_, reader) = self.dag.edge_endpoints(edge)?;
            Some((OpId(reader), graph, inner))
        });
        let mut captures: Vec<_> = ends.collect();
        captures.sort_unstable();
        captures
    }

    /// The value of this scope that the captured value `inner` of a `graph` inside `op` stands for, in constant time.
    pub fn captured(&self, op: OpId, graph: GraphId, inner: ValueId) -> Option<ValueId> {
        let (outer, reader) = self.dag.edge_endpoints(*self.captures.get(&(graph, inner))?)?;
        (reader == op.0).then_some(ValueId(outer))
    }

    /// The constant that the value holds whatever the model is fed: an initializer that is not also an input.
    pub fn constant(&self, value: ValueId) -> Option<&Tensor> {
        let value = self.value(value);
        if value.role == Role::Initializer { value.data.as_ref() } else { None }
    }

    /// Every edge as `(value, op, slot)`: for the verifier.
    pub fn edges(&self) -> impl Iterator<Item = (ValueId, OpId, Slot)> + '_ {
        use petgraph::visit::IntoEdgeReferences;
        self.dag.edge_references().filter_map(|edge| {
            let slot = (*edge.weight())?;
            Some(match slot {
                Slot::Out(_) => (ValueId(edge.target()), OpId(edge.source()), slot),
                _ => (ValueId(edge.source()), OpId(edge.target()), slot),
            })
        })
    }
}
