//! Edges: adding, cutting and sweeping them.
//!
//! petgraph keeps the edges of a node in singly linked lists, so to remove an edge it walks both ends' lists. A constant
//! that 100,000 operators read would make every removal walk 100,000 links. An edge at such a hub is therefore only
//! marked dead, and all dead edges are removed at the end of the pass: one by one where that is cheap, otherwise by
//! rebuilding the graph once. Everywhere else edges go at once, so no list grows by more than the hubs it touches.

use petgraph::Direction;
use petgraph::stable_graph::{EdgeIndex, NodeIndex};
use petgraph::visit::EdgeRef;

use super::{Body, Graph, OpId, Slot, ValueId};

/// A list longer than this is not walked to remove one edge.
const HUB: u32 = 64;

/// An edge that has not been cut.
pub(super) struct LiveEdge {
    pub source: NodeIndex<u32>,
    pub target: NodeIndex<u32>,
    pub slot: Slot,
}

impl Graph {
    pub(super) fn live_edges(
        &self,
        node: NodeIndex<u32>,
        direction: Direction,
    ) -> impl Iterator<Item = LiveEdge> + '_ {
        let edges = self.dag.edges_directed(node, direction);
        edges.filter_map(|e| Some(LiveEdge { source: e.source(), target: e.target(), slot: (*e.weight())? }))
    }

    /// The live edges of a node, to be cut.
    pub(super) fn edge_ids(&self, node: NodeIndex<u32>, direction: Direction) -> Vec<EdgeIndex<u32>> {
        let edges = self.dag.edges_directed(node, direction).filter(|edge| edge.weight().is_some());
        edges.map(|edge| edge.id()).collect()
    }

    pub(super) fn link(&mut self, value: ValueId, op: OpId, slot: Slot) {
        let (source, target) = match slot {
            Slot::Out(_) => (op.0, value.0),
            _ => (value.0, op.0),
        };
        let edge = self.dag.add_edge(source, target, Some(slot));
        self.dag[source].outgoing += 1;
        self.dag[target].incoming += 1;
        if let Slot::Capture { graph, inner } = slot {
            self.captures.insert((graph, inner), edge);
        }
    }

    /// Cuts a live edge.
    pub(super) fn unlink(&mut self, edge: EdgeIndex<u32>) {
        let Some((source, target)) = self.dag.edge_endpoints(edge) else { return };
        let Some(slot) = self.dag.edge_weight_mut(edge).and_then(Option::take) else { return };
        self.forget_capture(slot, edge);
        if self.dag[source].outgoing > HUB || self.dag[target].incoming > HUB {
            self.dag[source].dead_outgoing += 1;
            self.dead_edges.push(edge);
        } else {
            self.dag.remove_edge(edge);
            self.dag[source].outgoing -= 1;
            self.dag[target].incoming -= 1;
        }
    }

    fn forget_capture(&mut self, slot: Slot, edge: EdgeIndex<u32>) {
        if let Slot::Capture { graph, inner } = slot
            && self.captures.get(&(graph, inner)) == Some(&edge)
        {
            self.captures.remove(&(graph, inner));
        }
    }

    pub(super) fn cut(&mut self, op: OpId, direction: Direction, slot: Slot) {
        let mut edges = self.dag.edges_directed(op.0, direction);
        if let Some(edge) = edges.find(|edge| *edge.weight() == Some(slot)).map(|edge| edge.id()) {
            self.unlink(edge);
        }
    }

    /// Removes the edge to one reader of the value. Edges leave from the head of the value's list, which costs no walk
    /// there, so that a hub's readers can be moved again and again without leaving dead edges behind.
    pub(super) fn take_reader(&mut self, value: ValueId) -> Option<(OpId, Slot)> {
        loop {
            let edge = self.dag.edges_directed(value.0, Direction::Outgoing).next()?;
            let (edge, reader, slot) = (edge.id(), edge.target(), *edge.weight());
            if let Some(slot) = slot {
                self.forget_capture(slot, edge);
            } else {
                // `dead_edges` may still name it: the sweep asks whether an edge is dead before it removes it.
                self.dag[value.0].dead_outgoing -= 1;
            }
            self.dag.remove_edge(edge);
            self.dag[value.0].outgoing -= 1;
            self.dag[reader].incoming -= 1;
            if let Some(slot) = slot {
                return Some((OpId(reader), slot));
            }
        }
    }

    /// Frees the tombstones; [`crate::Model::settle`] does it for every graph. Ids of removed nodes may be reused
    /// afterwards.
    pub fn sweep(&mut self) {
        let dead = std::mem::take(&mut self.dead_edges);
        let dead: Vec<_> =
            dead.into_iter().filter(|&edge| matches!(self.dag.edge_weight(edge), Some(None))).collect();
        let walk: u64 = dead
            .iter()
            .filter_map(|&edge| self.dag.edge_endpoints(edge))
            .map(|(source, target)| {
                u64::from(self.dag[source].outgoing) + u64::from(self.dag[target].incoming)
            })
            .sum();
        if walk > 2 * (self.dag.node_count() + self.dag.edge_count()) as u64 {
            self.rebuild();
        } else {
            for edge in dead {
                // An edge index may be listed twice if it was reused: the second time there is nothing left to do.
                if let (Some((source, target)), Some(None)) =
                    (self.dag.edge_endpoints(edge), self.dag.edge_weight(edge))
                {
                    self.dag.remove_edge(edge);
                    self.dag[source].outgoing -= 1;
                    self.dag[source].dead_outgoing -= 1;
                    self.dag[target].incoming -= 1;
                }
            }
        }
        for node in std::mem::take(&mut self.dead_nodes) {
            if matches!(self.dag.node_weight(node).map(|node| &node.body), Some(Body::Dead)) {
                self.dag.remove_node(node);
            }
        }
    }

    /// Builds the lists anew without dead edges. Nodes and edges keep their indices.
    fn rebuild(&mut self) {
        let dag = std::mem::take(&mut self.dag);
        self.dag = dag.filter_map_owned(|_, node| Some(node), |_, slot| slot.map(Some));
        for node in self.dag.node_weights_mut() {
            (node.outgoing, node.incoming, node.dead_outgoing) = (0, 0, 0);
        }
        let edges: Vec<_> = self.dag.edge_indices().collect();
        for edge in edges {
            if let Some((source, target)) = self.dag.edge_endpoints(edge) {
                self.dag[source].outgoing += 1;
                self.dag[target].incoming += 1;
            }
        }
    }
}
