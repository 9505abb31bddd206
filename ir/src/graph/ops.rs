//! Adding, rewiring and removing operators.

use petgraph::Direction;

use super::{Body, Graph, GraphError, GraphId, Node, OpId, Place, Slot, ValueId};
use crate::{Op, Role};

impl Graph {
    /// Adds an operator. Outputs must be computed values without a producer.
    pub fn add_op(
        &mut self,
        mut op: Op,
        inputs: &[Option<ValueId>],
        outputs: &[Option<ValueId>],
        place: Place,
    ) -> Result<OpId, GraphError> {
        for &output in outputs.iter().flatten() {
            self.check_free(output, &op)?;
        }
        let sequence = self.next_order;
        self.next_order += 1;
        op.order = match place {
            Place::End => (sequence, sequence),
            Place::Near(other) => (self.op(other).order.0, sequence),
        };
        op.arity = (inputs.len() as u32, outputs.len() as u32);
        let body = Body::Op(Box::new(op));
        let id = OpId(self.dag.add_node(Node { body, outgoing: 0, incoming: 0, dead_outgoing: 0 }));
        for (at, input) in inputs.iter().enumerate() {
            if let Some(input) = input {
                self.link(*input, id, Slot::In(at as u32));
            }
        }
        for (at, output) in outputs.iter().enumerate() {
            let Some(output) = output else { continue };
            // The list may name one value twice.
            if let Err(error) = self.check_free(*output, self.op(id)) {
                self.remove_op(id);
                return Err(error);
            }
            self.link(*output, id, Slot::Out(at as u32));
        }
        Ok(id)
    }

    fn check_free(&self, output: ValueId, op: &Op) -> Result<(), GraphError> {
        if self.role(output) == Role::Computed && self.producer(output).is_none() {
            return Ok(());
        }
        Err(GraphError::Defined(self.value(output).name.clone(), op.to_string()))
    }

    /// Records that `inner`, a [`Role::Captured`] value of `graph` inside `op`, stands for `outer` of this graph.
    pub fn add_capture(&mut self, op: OpId, graph: GraphId, inner: ValueId, outer: ValueId) {
        self.link(outer, op, Slot::Capture { graph, inner });
    }

    /// Removes the record that [`Graph::add_capture`] made.
    pub fn remove_capture(&mut self, op: OpId, graph: GraphId, inner: ValueId) {
        if self.captured(op, graph, inner).is_some()
            && let Some(&edge) = self.captures.get(&(graph, inner))
        {
            self.unlink(edge);
        }
    }

    /// Makes `value` input `at`; none leaves a gap. The list of inputs grows as needed.
    pub fn set_input(&mut self, op: OpId, at: usize, value: Option<ValueId>) {
        self.cut(op, Direction::Incoming, Slot::In(at as u32));
        let arity = &mut self.op_mut(op).arity.0;
        *arity = (*arity).max(at as u32 + 1);
        if let Some(value) = value {
            self.link(value, op, Slot::In(at as u32));
        }
    }

    /// Makes `value`, computed and without a producer, output `at`; none leaves a gap.
    pub fn set_op_output(&mut self, op: OpId, at: usize, value: Option<ValueId>) -> Result<(), GraphError> {
        if value.is_some() && self.output(op, at) == value {
            return Ok(());
        }
        if let Some(value) = value {
            self.check_free(value, self.op(op))?;
        }
        self.cut(op, Direction::Outgoing, Slot::Out(at as u32));
        let arity = &mut self.op_mut(op).arity.1;
        *arity = (*arity).max(at as u32 + 1);
        if let Some(value) = value {
            self.link(value, op, Slot::Out(at as u32));
        }
        Ok(())
    }

    /// Drops inputs from `count` on.
    pub fn truncate_inputs(&mut self, op: OpId, count: usize) {
        for edge in self.edge_ids(op.0, Direction::Incoming) {
            if matches!(self.dag.edge_weight(edge), Some(Some(Slot::In(at))) if *at as usize >= count) {
                self.unlink(edge);
            }
        }
        let arity = &mut self.op_mut(op).arity.0;
        *arity = (*arity).min(count as u32);
    }

    /// Drops outputs from `count` on.
    pub fn truncate_outputs(&mut self, op: OpId, count: usize) {
        for edge in self.edge_ids(op.0, Direction::Outgoing) {
            if matches!(self.dag.edge_weight(edge), Some(Some(Slot::Out(at))) if *at as usize >= count) {
                self.unlink(edge);
            }
        }
        let arity = &mut self.op_mut(op).arity.1;
        *arity = (*arity).min(count as u32);
    }

    /// Moves every reader of `old`, inner graphs included, to `new`. Graph outputs stay: see [`Graph::redirect`].
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        if old == new {
            return;
        }
        while let Some((reader, slot)) = self.take_reader(old) {
            self.link(new, reader, slot);
        }
    }

    /// Puts `keep`, which may have any role, in the place of `value` for readers and in the list of outputs.
    pub(crate) fn merge(&mut self, value: ValueId, keep: ValueId) {
        self.replace_uses(value, keep);
        if self.is_output(value) {
            for at in 0..self.outputs.len() {
                if self.outputs[at] == value {
                    self.set_output(at, keep);
                }
            }
        }
    }

    /// Puts `new` in the place of `old` everywhere. Where `old` is an output of the graph its name is part of the
    /// model's interface: `new` then takes over the name, the declared type and the notes. That works only if `new` is
    /// computed and not an output itself; otherwise nothing changes and the answer is false.
    #[must_use]
    pub fn redirect(&mut self, old: ValueId, new: ValueId) -> bool {
        if old == new {
            return true;
        }
        if self.is_output(old) {
            if self.role(new) != Role::Computed || self.is_output(new) {
                return false;
            }
            self.take_over(old, new);
        } else {
            self.replace_uses(old, new);
        }
        true
    }

    fn take_over(&mut self, old: ValueId, new: ValueId) {
        let name = self.value(old).name.clone();
        let spare = self.fresh_name(&format!("{name}_old"));
        self.rename(old, &spare).expect("the name is fresh");
        self.rename(new, &name).expect("the name was just freed");
        let from = self.value_mut(old);
        let notes = from.notes.take();
        let (ty, listing, spelling) = (from.ty.clone(), from.listing, from.spelling);
        let to = self.value_mut(new);
        to.ty = ty.or(to.ty.take());
        (to.notes, to.listing, to.spelling) = (notes, listing, spelling);
        self.merge(old, new);
    }

    /// Removes an operator and its edges, and those of its outputs that nothing reads or lists. Returns it, with its
    /// attributes: graphs in them are unreachable from now on.
    pub fn remove_op(&mut self, op: OpId) -> Op {
        let outputs = self.op_outputs(op);
        for direction in [Direction::Incoming, Direction::Outgoing] {
            for edge in self.edge_ids(op.0, direction) {
                self.unlink(edge);
            }
        }
        for output in outputs.into_iter().flatten() {
            self.remove_value(output);
        }
        self.dead_nodes.push(op.0);
        match std::mem::replace(&mut self.dag[op.0].body, Body::Dead) {
            Body::Op(op) => *op,
            _ => panic!("not a live operator: {op:?}"),
        }
    }
}
