//! Names of values.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Body, Graph, GraphError, Node, ValueId};
use crate::{Role, Value};

impl Graph {
    /// The value of this name in this graph's own scope (captured values included).
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.by_name.get(name).copied()
    }

    pub(super) fn add_value(&mut self, name: &str, role: Role) -> Result<ValueId, GraphError> {
        if name.is_empty() {
            return Err(GraphError::EmptyName);
        }
        let name: Arc<str> = Arc::from(name);
        if self.by_name.contains_key(&name) {
            return Err(GraphError::DuplicateName(name));
        }
        let body = Body::Value(Box::new(Value::new(name.clone(), role)));
        let node = Node { body, outgoing: 0, incoming: 0, dead_outgoing: 0 };
        let id = ValueId(self.dag.add_node(node));
        self.by_name.insert(name, id);
        Ok(id)
    }

    /// A name that no value of this graph has, nor, as far as known, one of the model's other graphs: the hint, or the
    /// hint and a number. What the others hold is known as of the last [`crate::Model::settle`]; two graphs that take
    /// the same name within one pass are told apart by the next one, which renames in the inner graph.
    pub fn fresh_name(&mut self, hint: &str) -> Arc<str> {
        let hint = if hint.is_empty() { "value" } else { hint };
        if self.is_free(hint) {
            return Arc::from(hint);
        }
        let hint: Arc<str> = Arc::from(hint);
        let mut next = self.next_fresh.get(&hint).copied().unwrap_or(1);
        let name = loop {
            let name = format!("{hint}_{next}");
            next += 1;
            if self.is_free(&name) {
                break Arc::from(name);
            }
        };
        self.next_fresh.insert(hint, next);
        name
    }

    fn is_free(&self, name: &str) -> bool {
        !self.by_name.contains_key(name) && !self.taken.as_ref().is_some_and(|taken| taken.contains(name))
    }

    /// The names of all live values.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_name.keys()
    }

    pub(crate) fn set_taken(&mut self, taken: Option<Arc<HashSet<Arc<str>>>>) {
        self.taken = taken;
    }

    /// Gives the value another name.
    pub fn rename(&mut self, value: ValueId, name: &str) -> Result<(), GraphError> {
        if name.is_empty() {
            return Err(GraphError::EmptyName);
        }
        let name: Arc<str> = Arc::from(name);
        match self.by_name.get(&name) {
            Some(&other) if other == value => return Ok(()),
            Some(_) => return Err(GraphError::DuplicateName(name)),
            None => {}
        }
        let old = std::mem::replace(&mut self.value_mut(value).name, name.clone());
        self.by_name.remove(&old);
        self.by_name.insert(name, value);
        Ok(())
    }
}
