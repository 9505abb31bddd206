//! The order of operators.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use petgraph::Direction;

use super::{Body, Graph, GraphError, OpId, ValueId};

impl Graph {
    /// All live operators in the file's order (not necessarily topological: see [`Graph::schedule`]).
    pub fn ops(&self) -> Vec<OpId> {
        let live = self.dag.node_indices().filter(|&n| matches!(self.dag[n].body, Body::Op(_)));
        let mut ops: Vec<OpId> = live.map(OpId).collect();
        ops.sort_unstable_by_key(|&id| self.op(id).order);
        ops
    }

    /// Makes the order of the operators one in which each stands after the producers of what it reads: for a pass that has
    /// moved whole graphs into others.
    ///
    /// # Errors
    /// As [`Graph::schedule`].
    pub fn settle_order(&mut self) -> Result<(), GraphError> {
        for (at, op) in self.schedule()?.into_iter().enumerate() {
            self.op_mut(op).order = (at as u64, 0);
        }
        Ok(())
    }

    /// The operators such that each stands after the producers of what it reads, as close to the file's order as that
    /// allows. The same graph always gives the same order.
    pub fn schedule(&self) -> Result<Vec<OpId>, GraphError> {
        let ops = self.ops();
        let mut waiting = vec![0u32; self.bound()];
        for &op in &ops {
            let reads = self.live_edges(op.0, Direction::Incoming);
            waiting[op.index()] =
                reads.filter(|edge| self.producer(ValueId(edge.source)).is_some()).count() as u32;
        }
        let ready = ops.iter().filter(|op| waiting[op.index()] == 0);
        let mut heap: BinaryHeap<_> = ready.map(|&op| Reverse((self.op(op).order, op))).collect();
        let mut schedule = Vec::with_capacity(ops.len());
        while let Some(Reverse((_, op))) = heap.pop() {
            schedule.push(op);
            for written in self.live_edges(op.0, Direction::Outgoing) {
                for read in self.live_edges(written.target, Direction::Outgoing) {
                    let reader = OpId(read.target);
                    waiting[reader.index()] -= 1;
                    if waiting[reader.index()] == 0 {
                        heap.push(Reverse((self.op(reader).order, reader)));
                    }
                }
            }
        }
        if schedule.len() == ops.len() {
            return Ok(schedule);
        }
        Err(GraphError::Cycle(self.on_cycle(&ops, &waiting)))
    }

    /// An operator that lies on a cycle, not just behind one: walk producers that wait until one comes back.
    fn on_cycle(&self, ops: &[OpId], waiting: &[u32]) -> String {
        let Some(&start) = ops.iter().find(|op| waiting[op.index()] > 0) else { return String::new() };
        let mut seen = vec![false; self.bound()];
        let mut at = start;
        while !std::mem::replace(&mut seen[at.index()], true) {
            let producers = self.live_edges(at.0, Direction::Incoming);
            let mut stuck = producers
                .filter_map(|edge| self.producer(ValueId(edge.source)))
                .map(|(producer, _)| producer)
                .filter(|producer| waiting[producer.index()] > 0);
            let Some(next) = stuck.next() else { break };
            at = next;
        }
        self.op(at).to_string()
    }
}
