//! Building models in tests.
//!
//! ```
//! use onnxq_ir::{Builder, Op, Tensor};
//!
//! let mut b = Builder::new(21);
//! let x = b.input("x", "float[n,3]");
//! let w = b.constant("w", Tensor::scalar(2f32));
//! let scaled = b.op("Mul", &[x, w]);
//! let then = b.body("then", |b| {
//!     let inner = b.capture(scaled);
//!     let y = b.op("Relu", &[inner]);
//!     b.output(y);
//! });
//! let flag = b.input("flag", "bool");
//! let y = b.add(Op::new("If").with("then_branch", then), &[Some(flag)], 1)[0];
//! b.output_as("y", y);
//! let model = b.build();
//! assert_eq!(model.main().op_count(), 2);
//! ```
//!
//! Mistakes panic. A model that is easier to write down than to compute is better given to [`crate::text::parse`].

use std::collections::HashMap;

use crate::{Graph, GraphId, Model, Op, OpId, Place, Tensor, Type, ValueId, text};

/// The IR version of built models: the newest that onnxruntime 1.16 and everything later reads.
const IR_VERSION: i64 = 9;

/// Builds a model from the inputs on. Values get the names `v`, `v_1`, … unless they are given one.
#[derive(Debug)]
pub struct Builder {
    model: Model,
    /// The graph being built, innermost last, with what it captures: inner and outer value.
    scopes: Vec<(GraphId, Vec<(ValueId, ValueId)>)>,
    /// Captures of finished bodies that no operator holds yet.
    bodies: HashMap<GraphId, Vec<(ValueId, ValueId)>>,
}

impl Builder {
    /// A model with a version of ONNX's own operator set.
    pub fn new(opset: i64) -> Builder {
        let model = Model::new(IR_VERSION, opset, Graph::new("main"));
        let scopes = vec![(model.main_id(), Vec::new())];
        Builder { model, scopes, bodies: HashMap::new() }
    }

    fn id(&self) -> GraphId {
        self.scopes.last().expect("the main scope is never closed").0
    }

    /// The graph that is being built.
    pub fn graph(&mut self) -> &mut Graph {
        let id = self.id();
        self.model.graph_mut(id)
    }

    /// Imports another operator set.
    pub fn opset(&mut self, domain: &str, version: i64) {
        self.model.opsets.push((domain.to_string(), version));
    }

    /// An input. The type is written as in the text form, for example `float[1,3,n]`; empty for none.
    pub fn input(&mut self, name: &str, ty: &str) -> ValueId {
        let ty = (!ty.is_empty()).then(|| parse_type(ty));
        self.graph().add_input(name, ty).unwrap_or_else(|error| panic!("input {name:?}: {error}"))
    }

    /// A constant.
    pub fn constant(&mut self, name: &str, data: Tensor) -> ValueId {
        self.graph().add_initializer(name, data).unwrap_or_else(|error| panic!("constant {name:?}: {error}"))
    }

    /// An operator of ONNX's own domain without attributes and with one output.
    pub fn op(&mut self, kind: &str, inputs: &[ValueId]) -> ValueId {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.add(Op::new(kind), &inputs, 1)[0]
    }

    /// Any operator with `outputs` new values; graphs in its attributes come from [`Builder::body`].
    pub fn add(&mut self, op: Op, inputs: &[Option<ValueId>], outputs: usize) -> Vec<ValueId> {
        let held: Vec<GraphId> = op.attrs.graphs().collect();
        let outputs: Vec<ValueId> = (0..outputs).map(|_| self.graph().new_value("v", None)).collect();
        let slots: Vec<_> = outputs.iter().copied().map(Some).collect();
        let op = self.graph().add_op(op, inputs, &slots, Place::End).expect("the outputs are new");
        for graph in held {
            self.adopt(graph, op);
        }
        outputs
    }

    fn adopt(&mut self, graph: GraphId, op: OpId) {
        let captures =
            self.bodies.remove(&graph).expect("a body of this builder that no other operator holds");
        let id = self.id();
        self.model.set_parent(graph, Some((id, op)));
        for (inner, outer) in captures {
            self.graph().add_capture(op, graph, inner, outer);
        }
    }

    /// A graph for an attribute of an operator that the current graph is going to have.
    pub fn body(&mut self, name: &str, fill: impl FnOnce(&mut Builder)) -> GraphId {
        let id = self.model.add_graph(Graph::new(name), None);
        self.scopes.push((id, Vec::new()));
        fill(self);
        let (_, captures) = self.scopes.pop().expect("the scope that was just opened");
        self.bodies.insert(id, captures);
        id
    }

    /// In a body: the value that stands there for `outer` of the graph around it.
    pub fn capture(&mut self, outer: ValueId) -> ValueId {
        let [.., (around, _), (id, captures)] = &mut self.scopes[..] else {
            panic!("the main graph captures nothing")
        };
        if let Some((inner, _)) = captures.iter().find(|(_, known)| *known == outer) {
            return *inner;
        }
        let name = self.model.graph(*around).value(outer).name().clone();
        let inner = self.model.graph_mut(*id).add_captured(&name);
        let inner = inner.unwrap_or_else(|error| panic!("capture of {name:?}: {error}"));
        captures.push((inner, outer));
        inner
    }

    /// Lists an output.
    pub fn output(&mut self, value: ValueId) {
        self.graph().add_output(value);
    }

    /// Names a value and lists it as an output.
    pub fn output_as(&mut self, name: &str, value: ValueId) {
        self.graph().rename(value, name).unwrap_or_else(|error| panic!("output {name:?}: {error}"));
        self.output(value);
    }

    /// The model.
    pub fn build(self) -> Model {
        assert!(self.bodies.is_empty(), "a body that no operator holds");
        self.model
    }
}

fn parse_type(ty: &str) -> Type {
    text::parse_type(ty).unwrap_or_else(|error| panic!("type {ty:?}: {error}"))
}
