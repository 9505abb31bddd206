//! Adding, turning and removing values; the lists of inputs and outputs.

use petgraph::Direction;

use super::{Body, Graph, GraphError, ValueId};
use crate::{Role, SparseTensor, Tensor, Type};

impl Graph {
    /// Adds an input of the graph. Set its data to give it a default.
    pub fn add_input(&mut self, name: &str, ty: Option<Type>) -> Result<ValueId, GraphError> {
        let id = self.add_value(name, Role::Input)?;
        self.value_mut(id).ty = ty;
        self.inputs.push(id);
        Ok(id)
    }

    /// Adds a constant.
    pub fn add_initializer(&mut self, name: &str, data: Tensor) -> Result<ValueId, GraphError> {
        let id = self.add_value(name, Role::Initializer)?;
        self.value_mut(id).data = Some(data);
        Ok(id)
    }

    /// Adds a constant in sparse form.
    pub fn add_sparse(&mut self, name: &str, data: SparseTensor) -> Result<ValueId, GraphError> {
        let id = self.add_value(name, Role::Initializer)?;
        self.value_mut(id).sparse = Some(Box::new(data));
        Ok(id)
    }

    /// Adds a value that an operator is going to write.
    pub fn add_computed(&mut self, name: &str, ty: Option<Type>) -> Result<ValueId, GraphError> {
        let id = self.add_value(name, Role::Computed)?;
        self.value_mut(id).ty = ty;
        Ok(id)
    }

    /// Adds a value that stands for one of the surrounding scope; see [`Graph::add_capture`].
    pub fn add_captured(&mut self, name: &str) -> Result<ValueId, GraphError> {
        self.add_value(name, Role::Captured)
    }

    /// A new value under a fresh name, to be written by an operator.
    pub fn new_value(&mut self, hint: &str, ty: Option<Type>) -> ValueId {
        let name = self.fresh_name(hint);
        self.add_computed(&name, ty).expect("the name is fresh")
    }

    /// A new constant under a fresh name.
    pub fn new_constant(&mut self, hint: &str, data: Tensor) -> ValueId {
        let name = self.fresh_name(hint);
        self.add_initializer(&name, data).expect("the name is fresh")
    }

    /// Turns any value into a constant. Its producer, if any, keeps a gap in that output slot; an input leaves the
    /// inputs; a captured value stops reading the outer scope when the pass settles.
    pub fn make_constant(&mut self, value: ValueId, data: Tensor) {
        for edge in self.edge_ids(value.0, Direction::Incoming) {
            self.unlink(edge);
        }
        if self.role(value) == Role::Input {
            self.inputs.retain(|&input| input != value);
        }
        let value = self.value_mut(value);
        value.role = Role::Initializer;
        value.data = Some(data);
        value.sparse = None;
    }

    /// Removes a value that nothing reads, writes or lists. Returns whether it did; a value that is already gone is no
    /// error.
    pub fn remove_value(&mut self, value: ValueId) -> bool {
        if !self.is_live_value(value) {
            return false;
        }
        if self.is_used(value) || self.producer(value).is_some() || self.role(value) == Role::Input {
            return false;
        }
        let Body::Value(removed) = std::mem::replace(&mut self.dag[value.0].body, Body::Dead) else {
            return false;
        };
        self.by_name.remove(&removed.name);
        self.dead_nodes.push(value.0);
        true
    }

    /// Removes an input that nothing reads or lists from the graph's inputs, and the value with it.
    pub fn remove_input(&mut self, value: ValueId) -> bool {
        if self.role(value) != Role::Input || self.is_used(value) {
            return false;
        }
        self.inputs.retain(|&input| input != value);
        // Only for the moment in which `remove_value` looks.
        self.value_mut(value).role = Role::Initializer;
        self.remove_value(value)
    }

    /// Takes an initializer that is also an input off the inputs: from now on it is a constant.
    pub fn fix_input(&mut self, value: ValueId) {
        if self.role(value) == Role::Input && self.value(value).has_data() {
            self.inputs.retain(|&input| input != value);
            self.value_mut(value).role = Role::Initializer;
        }
    }

    /// [`Graph::fix_input`] for every input with a default: old files list all their weights, so one by one would take
    /// quadratic time. Returns how many there were.
    pub fn fix_inputs(&mut self) -> usize {
        let inputs = std::mem::take(&mut self.inputs);
        let (fixed, kept): (Vec<ValueId>, Vec<ValueId>) =
            inputs.into_iter().partition(|&input| self.value(input).has_data());
        for &input in &fixed {
            self.value_mut(input).role = Role::Initializer;
        }
        self.inputs = kept;
        fixed.len()
    }

    /// Appends an output of the graph.
    pub fn add_output(&mut self, value: ValueId) {
        self.outputs.push(value);
        self.value_mut(value).listed += 1;
    }

    /// Makes another value output `at` of the graph.
    pub fn set_output(&mut self, at: usize, value: ValueId) {
        let old = std::mem::replace(&mut self.outputs[at], value);
        self.value_mut(old).listed -= 1;
        self.value_mut(value).listed += 1;
    }

    /// Takes output `at` off the list.
    pub fn remove_output(&mut self, at: usize) {
        let old = self.outputs.remove(at);
        self.value_mut(old).listed -= 1;
    }
}
