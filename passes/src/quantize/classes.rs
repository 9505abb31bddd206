//! Classes of values that must share scale and zero point: union-find over value names.

use std::collections::BTreeMap;

/// Disjoint sets of values.
#[derive(Debug, Default)]
pub(super) struct Classes {
    index: BTreeMap<String, usize>,
    parent: Vec<usize>,
}

impl Classes {
    fn id(&mut self, name: &str) -> usize {
        if let Some(&id) = self.index.get(name) {
            return id;
        }
        let id = self.parent.len();
        self.parent.push(id);
        self.index.insert(name.to_string(), id);
        id
    }

    fn root(&mut self, mut id: usize) -> usize {
        while self.parent[id] != id {
            self.parent[id] = self.parent[self.parent[id]];
            id = self.parent[id];
        }
        id
    }

    /// Both values share their parameters from now on.
    pub(super) fn unite(&mut self, a: &str, b: &str) {
        let (a, b) = (self.id(a), self.id(b));
        let (a, b) = (self.root(a), self.root(b));
        // The older root stays, so that numbers follow the order of the model.
        let (old, new) = (a.min(b), a.max(b));
        self.parent[new] = old;
    }

    /// The class of a value.
    pub(super) fn class(&mut self, name: &str) -> usize {
        let id = self.id(name);
        self.root(id)
    }
}
