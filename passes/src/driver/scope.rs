//! One graph of a model, seen with the scopes around it: constants and types of outer values are visible inside.

use std::ops::Deref;

use ir::{DType, Graph, GraphId, Location, Model, OpId, Role, Shape, Tensor, Type, ValueId};

use super::pass::op_place;
use super::rule::Skip;

/// A graph and the model it stands in. Reads like a [`Graph`], with captured values looked up in their own scope.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// The model.
    pub model: &'a Model,
    /// The graph.
    pub id: GraphId,
}

impl Deref for Scope<'_> {
    type Target = Graph;

    fn deref(&self) -> &Graph {
        self.model.graph(self.id)
    }
}

impl<'a> Scope<'a> {
    /// The graph itself.
    pub fn graph(self) -> &'a Graph {
        self.model.graph(self.id)
    }

    /// Where the value is defined: itself, or what it stands for in an outer graph.
    pub fn defined(self, value: ValueId) -> (GraphId, ValueId) {
        let (mut graph, mut value) = (self.id, value);
        while self.model.graph(graph).value(value).role() == Role::Captured {
            match self.model.outer(graph, value) {
                Some(outer) => (graph, value) = outer,
                None => break,
            }
        }
        (graph, value)
    }

    /// The constant that the value always holds.
    pub fn constant(self, value: ValueId) -> Option<&'a Tensor> {
        let (graph, value) = match self.graph().value(value).role() {
            Role::Captured => self.defined(value),
            Role::Initializer => (self.id, value),
            _ => return None,
        };
        self.model.graph(graph).constant(value)
    }

    /// The constant in an input slot of an operator.
    pub fn constant_input(self, op: OpId, at: usize) -> Option<&'a Tensor> {
        self.constant(self.graph().input(op, at)?)
    }

    /// The value's type as its own scope knows it.
    pub fn ty(self, value: ValueId) -> Option<&'a Type> {
        let (graph, value) = self.defined(value);
        self.model.graph(graph).value(value).ty.as_ref()
    }

    /// Element type, if known.
    pub fn dtype(self, value: ValueId) -> Option<DType> {
        let (graph, value) = self.defined(value);
        self.model.graph(graph).value(value).dtype()
    }

    /// Shape, if at least the rank is known.
    pub fn shape(self, value: ValueId) -> Option<Shape> {
        let (graph, value) = self.defined(value);
        self.model.graph(graph).value(value).shape()
    }

    /// Number of dimensions, if known.
    pub fn rank(self, value: ValueId) -> Option<usize> {
        self.shape(value).map(|shape| shape.rank())
    }

    /// Version of ONNX's own operator set in this graph; 1 where the model names none.
    pub fn opset(self) -> i64 {
        ir::version(self.model.opsets_of(self.id), "").unwrap_or(1)
    }

    /// The producer of a value, if it is this operator of ONNX's own domain.
    pub fn producer_is(self, value: ValueId, kind: &str) -> Option<OpId> {
        let (op, _) = self.graph().producer(value)?;
        self.graph().op(op).kind.is(kind).then_some(op)
    }

    /// The name of an operator's place.
    pub fn location(self, op: OpId) -> Location {
        op_place(self.model, self.id, op)
    }

    /// A declined rewrite of this operator.
    pub fn because(self, op: OpId, why: impl Into<String>) -> Skip {
        Skip::Because { why: why.into(), at: Box::new(self.location(op)) }
    }

    /// Whether [`Graph::redirect`] can put `new` in the place of `old`; the reason if not.
    pub fn can_redirect(self, op: OpId, old: ValueId, new: ValueId) -> Result<(), Skip> {
        if self.is_output(old) && (self.value(new).role() != Role::Computed || self.is_output(new)) {
            let (old, new) = (self.value(old).name(), self.value(new).name());
            return Err(self.because(op, format!("the graph's output {old:?} cannot be {new:?} directly")));
        }
        Ok(())
    }
}
