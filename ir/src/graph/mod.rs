//! One graph: operators and values on petgraph, slot order in the edges.
//!
//! This folder is the only place that names petgraph. petgraph gives storage, stable indices and edge lists; [`Graph`]
//! adds what a dataflow graph of ONNX needs and petgraph has not: the order of slots, gaps for omitted optional inputs,
//! uses in schedule order, unique value names, and a topological order that keeps the file's.
//!
//! | file        | what it holds                                             |
//! |-------------|-----------------------------------------------------------|
//! | `read.rs`   | everything that looks and does not touch                  |
//! | `order.rs`  | the file's order and the topological one                  |
//! | `names.rs`  | names of values: look-up, fresh ones, renaming            |
//! | `values.rs` | adding, turning and removing values, inputs and outputs   |
//! | `ops.rs`    | adding, rewiring and removing operators                   |
//! | `links.rs`  | edges: the only code that adds, removes or sweeps them    |
//!
//! Held by construction, whatever a caller does: value names are unique in a graph and not empty; a value has at most
//! one producer, and only a [`Role::Computed`] one has any; a slot holds at most one value. The verifier checks the rest.
//!
//! Removed nodes stay as tombstones until [`Graph::sweep`], so an id is never reused within a pass. Ids of another graph
//! or of a removed node are bugs of the caller: looking one up panics.

mod links;
mod names;
mod ops;
mod order;
mod read;
mod values;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use petgraph::stable_graph::{EdgeIndex, NodeIndex, StableDiGraph};
use smallvec::SmallVec;
use thiserror::Error;

use crate::{Op, Role, Spelling, Stray, Value};

/// An operator of one graph. Valid until the graph is swept at the end of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(NodeIndex<u32>);

/// A value of one graph. Valid until the graph is swept at the end of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(NodeIndex<u32>);

impl OpId {
    /// Position in the graph's storage: dense enough for a side table.
    pub fn index(self) -> usize {
        self.0.index()
    }
}

impl ValueId {
    /// Position in the graph's storage: dense enough for a side table.
    pub fn index(self) -> usize {
        self.0.index()
    }
}

/// A graph of the model's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GraphId(pub(crate) u32);

/// What petgraph stores at a node.
#[derive(Clone, Debug)]
struct Node {
    body: Body,
    /// Length of petgraph's list of outgoing edges, dead ones included.
    outgoing: u32,
    /// Length of petgraph's list of incoming edges, dead ones included.
    incoming: u32,
    /// How many of `outgoing` are dead.
    dead_outgoing: u32,
}

#[derive(Clone, Debug)]
enum Body {
    Op(Box<Op>),
    Value(Box<Value>),
    /// A removed node, until the sweep.
    Dead,
}

/// Where an edge meets an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The value is input `.0`.
    In(u32),
    /// The value is output `.0`.
    Out(u32),
    /// A graph in an attribute of the operator reads the value from its scope, as its own value `inner`.
    Capture {
        /// The inner graph.
        graph: GraphId,
        /// The [`Role::Captured`] value of the inner graph.
        inner: ValueId,
    },
}

/// One reader of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// The reader.
    pub op: OpId,
    /// [`Slot::In`] or [`Slot::Capture`].
    pub slot: Slot,
}

/// Values in slot order; none where an optional one is omitted.
pub type Slots = SmallVec<[Option<ValueId>; 4]>;

/// Where a new operator stands among those that no data dependency orders.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// After all others.
    End,
    /// Right after this operator and those already placed beside it.
    Near(OpId),
}

/// Why a graph cannot be changed as asked.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GraphError {
    /// Two values of one graph would share a name.
    #[error("the value name {0:?} is used twice in one graph")]
    DuplicateName(Arc<str>),
    /// A value name is empty, which ONNX keeps for omitted values.
    #[error("a value has no name")]
    EmptyName,
    /// Two operators would write one value, or one would write an input or initializer.
    #[error("the value {0:?} cannot be an output of {1:?}: it is already defined")]
    Defined(Arc<str>, String),
    /// Operators read each other's outputs in a circle.
    #[error("the graph has a cycle through {0}")]
    Cycle(String),
}

/// A graph. All edits go through its methods, which keep names unique and slots consistent.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// An edge is none once it is cut and not yet swept.
    dag: StableDiGraph<Node, Option<Slot>, u32>,
    by_name: HashMap<Arc<str>, ValueId>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    parent: Option<(GraphId, OpId)>,
    next_order: u64,
    next_fresh: HashMap<Arc<str>, u64>,
    /// Names in the model's other graphs as of the last settling; see [`Graph::fresh_name`].
    taken: Option<Arc<HashSet<Arc<str>>>>,
    /// The edge of each captured value of an inner graph.
    captures: HashMap<(GraphId, ValueId), EdgeIndex<u32>>,
    dead_nodes: Vec<NodeIndex<u32>>,
    dead_edges: Vec<EdgeIndex<u32>>,
    /// Name of the graph.
    pub name: String,
    /// Documentation.
    pub doc: String,
    /// `metadata_props`.
    pub metadata: Vec<(String, String)>,
    /// `quantization_annotation`: tensor name and the parameters' names.
    pub annotations: Vec<Annotation>,
    /// Entries of the file's value lists that no value can hold.
    pub strays: Vec<Stray>,
    /// How the file wrote it.
    pub spelling: Spelling,
}

/// `TensorAnnotation`: names of the tensors that hold a tensor's quantization parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotation {
    /// The annotated tensor.
    pub tensor: String,
    /// `SCALE_TENSOR`, `ZERO_POINT_TENSOR`, …
    pub parameters: Vec<(String, String)>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: &str) -> Graph {
        Graph { name: name.to_string(), ..Graph::default() }
    }

    /// The operator. The id must come from this graph and be alive; a dead or foreign id is a bug in the caller.
    pub fn op(&self, id: OpId) -> &Op {
        match &self.dag[id.0].body {
            Body::Op(op) => op,
            _ => panic!("not a live operator: {id:?}"),
        }
    }

    /// The operator, to change its kind, attributes and notes.
    pub fn op_mut(&mut self, id: OpId) -> &mut Op {
        match &mut self.dag[id.0].body {
            Body::Op(op) => op,
            _ => panic!("not a live operator: {id:?}"),
        }
    }

    /// The value. The id must come from this graph and be alive.
    pub fn value(&self, id: ValueId) -> &Value {
        match &self.dag[id.0].body {
            Body::Value(value) => value,
            _ => panic!("not a live value: {id:?}"),
        }
    }

    /// The value, to change its type, data and notes.
    pub fn value_mut(&mut self, id: ValueId) -> &mut Value {
        match &mut self.dag[id.0].body {
            Body::Value(value) => value,
            _ => panic!("not a live value: {id:?}"),
        }
    }

    /// The graph's inputs in order.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// The graph's outputs in order; a value may stand there twice.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// The operator whose attribute holds this graph, and that operator's graph; none for main and function graphs.
    pub fn parent(&self) -> Option<(GraphId, OpId)> {
        self.parent
    }

    pub(crate) fn set_parent(&mut self, parent: Option<(GraphId, OpId)>) {
        self.parent = parent;
    }

    fn role(&self, value: ValueId) -> Role {
        self.value(value).role
    }
}
