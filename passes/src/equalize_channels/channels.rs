//! Channels of values, as numbers of a union-find: channels that are united have one factor, frozen ones have 1.

use std::collections::BTreeMap;

use ir::{Graph, ValueId};

use super::Analysis;
use crate::driver::Scope;

/// The channels of a value as numbers of a union-find.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) axis: usize,
    pub(super) count: usize,
    pub(super) base: usize,
}

impl<'a> Analysis<'a> {
    pub(super) fn new(scope: Scope<'a>) -> Analysis<'a> {
        Analysis {
            scope,
            spans: BTreeMap::new(),
            parent: Vec::new(),
            frozen: Vec::new(),
            products: Vec::new(),
            divided: Vec::new(),
            bounds: Vec::new(),
        }
    }

    pub(super) fn graph(&self) -> &'a Graph {
        self.scope.graph()
    }

    pub(super) fn size(&self, value: ValueId, axis: usize) -> Option<usize> {
        self.graph().value(value).shape()?.dims.get(axis)?.known()
    }

    pub(super) fn fresh(&mut self, axis: usize, count: usize, frozen: bool) -> Span {
        let span = Span { axis, count, base: self.parent.len() };
        self.parent.extend(span.base..span.base + count);
        self.frozen.extend(std::iter::repeat_n(frozen, count));
        span
    }

    /// New channels for a value that an operator writes.
    pub(super) fn write(&mut self, value: ValueId, axis: usize, count: usize) -> Span {
        let span = self.fresh(axis, count, self.graph().is_output(value));
        self.spans.insert(value, span);
        span
    }

    pub(super) fn freeze(&mut self, span: Span) {
        for at in span.base..span.base + span.count {
            let root = self.root(at);
            self.frozen[root] = true;
        }
    }

    pub(super) fn freeze_value(&mut self, value: Option<ValueId>) {
        if let Some(&span) = value.and_then(|value| self.spans.get(&value)) {
            self.freeze(span);
        }
    }

    /// The channels of a value that an operator reads along this axis; frozen where nobody knows how to divide them.
    pub(super) fn read(&mut self, value: ValueId, axis: usize, count: usize) -> Span {
        match self.spans.get(&value).copied() {
            Some(span) if span.axis == axis && span.count == count => span,
            Some(other) => {
                self.freeze(other);
                self.fresh(axis, count, true)
            }
            None => {
                let span = self.fresh(axis, count, true);
                self.spans.insert(value, span);
                span
            }
        }
    }

    pub(super) fn root(&mut self, mut at: usize) -> usize {
        while self.parent[at] != at {
            self.parent[at] = self.parent[self.parent[at]];
            at = self.parent[at];
        }
        at
    }

    pub(super) fn unite(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        let (old, new) = (a.min(b), a.max(b));
        self.parent[new] = old;
        self.frozen[old] |= self.frozen[new];
    }

    pub(super) fn unite_spans(&mut self, a: Span, b: Span) {
        (0..a.count.min(b.count)).for_each(|at| self.unite(a.base + at, b.base + at));
    }
}
