//! One graph: operators and values on petgraph, slot order in the edges.
//!
//! This is the only file that names petgraph. It gives storage, stable indices and edge lists; [`Graph`] adds what a
//! dataflow graph of ONNX needs and petgraph has not: the order of slots, gaps for omitted optional inputs, uses in
//! schedule order, unique value names, and a topological order that keeps the file's.
//!
//! Removed nodes stay as tombstones until [`Graph::sweep`], so an id is never reused within a pass.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use petgraph::Direction;
use petgraph::stable_graph::{EdgeIndex, NodeIndex, StableDiGraph};
use petgraph::visit::{EdgeRef, IntoEdgeReferences};
use smallvec::SmallVec;
use thiserror::Error;

use crate::{Op, SparseTensor, Spelling, Stray, Tensor, Type, Value, value::Role};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GraphId(pub(crate) u32);

#[derive(Clone, Debug)]
enum Node {
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
    /// Beside this operator.
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
    dag: StableDiGraph<Node, Slot, u32>,
    by_name: HashMap<Arc<str>, ValueId>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    parent: Option<(GraphId, OpId)>,
    next_order: u64,
    next_fresh: HashMap<Arc<str>, u64>,
    dead: Vec<NodeIndex<u32>>,
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

// ---- reading ---------------------------------------------------------------------------------------------------

impl Graph {
    /// An empty graph.
    pub fn new(name: &str) -> Graph {
        Graph { name: name.to_string(), ..Graph::default() }
    }

    /// The operator. The id must come from this graph and be alive; a dead or foreign id is a bug in the caller.
    pub fn op(&self, id: OpId) -> &Op {
        match &self.dag[id.0] {
            Node::Op(op) => op,
            _ => panic!("not a live operator: {id:?}"),
        }
    }

    /// The operator, to change its kind, attributes and notes.
    pub fn op_mut(&mut self, id: OpId) -> &mut Op {
        match &mut self.dag[id.0] {
            Node::Op(op) => op,
            _ => panic!("not a live operator: {id:?}"),
        }
    }

    /// The value. The id must come from this graph and be alive.
    pub fn value(&self, id: ValueId) -> &Value {
        match &self.dag[id.0] {
            Node::Value(value) => value,
            _ => panic!("not a live value: {id:?}"),
        }
    }

    /// The value, to change its type, data and notes.
    pub fn value_mut(&mut self, id: ValueId) -> &mut Value {
        match &mut self.dag[id.0] {
            Node::Value(value) => value,
            _ => panic!("not a live value: {id:?}"),
        }
    }

    /// The operator has not been removed.
    pub fn is_live(&self, id: OpId) -> bool {
        matches!(self.dag.node_weight(id.0), Some(Node::Op(_)))
    }

    /// The value has not been removed.
    pub fn is_live_value(&self, id: ValueId) -> bool {
        matches!(self.dag.node_weight(id.0), Some(Node::Value(_)))
    }

    /// One more than the largest `index()` of an id: the length of a side table.
    pub fn bound(&self) -> usize {
        self.dag.node_indices().next_back().map_or(0, |node| node.index() + 1)
    }

    /// The graph's inputs in order.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// The graph's outputs in order; a value may stand there twice.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// The value is an output of the graph.
    pub fn is_output(&self, value: ValueId) -> bool {
        self.value(value).listed > 0
    }

    /// The operator whose attribute holds this graph, and that operator's graph; none for main and function graphs.
    pub fn parent(&self) -> Option<(GraphId, OpId)> {
        self.parent
    }

    /// The value of this name in this graph's own scope (captured values included).
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.by_name.get(name).copied()
    }

    /// All live values in the order of creation.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.dag.node_indices().filter(|&n| matches!(self.dag[n], Node::Value(_))).map(ValueId)
    }

    /// Number of live operators.
    pub fn op_count(&self) -> usize {
        self.dag.node_weights().filter(|node| matches!(node, Node::Op(_))).count()
    }

    /// All live operators in the file's order (not necessarily topological: see [`Graph::schedule`]).
    pub fn ops(&self) -> Vec<OpId> {
        let live = self.dag.node_indices().filter(|&n| matches!(self.dag[n], Node::Op(_)));
        let mut ops: Vec<OpId> = live.map(OpId).collect();
        ops.sort_unstable_by_key(|&id| self.op(id).order);
        ops
    }

    /// The operators such that each stands after the producers of what it reads, as close to the file's order as that
    /// allows. The same graph always gives the same order.
    pub fn schedule(&self) -> Result<Vec<OpId>, GraphError> {
        let ops = self.ops();
        let mut waiting = vec![0u32; self.bound()];
        for &op in &ops {
            let reads = self.dag.edges_directed(op.0, Direction::Incoming);
            waiting[op.index()] =
                reads.filter(|edge| self.producer(ValueId(edge.source())).is_some()).count() as u32;
        }
        let ready = ops.iter().filter(|op| waiting[op.index()] == 0);
        let mut heap: BinaryHeap<_> = ready.map(|&op| Reverse((self.op(op).order, op))).collect();
        let mut schedule = Vec::with_capacity(ops.len());
        while let Some(Reverse((_, op))) = heap.pop() {
            schedule.push(op);
            for value in self.dag.neighbors_directed(op.0, Direction::Outgoing) {
                for reader in self.dag.neighbors_directed(value, Direction::Outgoing) {
                    waiting[reader.index()] -= 1;
                    if waiting[reader.index()] == 0 {
                        heap.push(Reverse((self.op(OpId(reader)).order, OpId(reader))));
                    }
                }
            }
        }
        if schedule.len() == ops.len() {
            return Ok(schedule);
        }
        let stuck = ops.iter().find(|op| waiting[op.index()] > 0);
        Err(GraphError::Cycle(stuck.map_or_else(String::new, |&op| self.op(op).to_string())))
    }

    fn slots(&self, op: OpId, direction: Direction, count: usize) -> Slots {
        let mut slots: Slots = SmallVec::from_elem(None, count);
        for edge in self.dag.edges_directed(op.0, direction) {
            let (at, other) = match *edge.weight() {
                Slot::In(at) => (at, edge.source()),
                Slot::Out(at) => (at, edge.target()),
                Slot::Capture { .. } => continue,
            };
            slots[at as usize] = Some(ValueId(other));
        }
        slots
    }

    /// The operator's inputs in slot order.
    pub fn op_inputs(&self, op: OpId) -> Slots {
        self.slots(op, Direction::Incoming, self.op(op).arity.0 as usize)
    }

    /// The operator's outputs in slot order.
    pub fn op_outputs(&self, op: OpId) -> Slots {
        self.slots(op, Direction::Outgoing, self.op(op).arity.1 as usize)
    }

    /// Input `at` of the operator; none if omitted.
    pub fn input(&self, op: OpId, at: usize) -> Option<ValueId> {
        let mut edges = self.dag.edges_directed(op.0, Direction::Incoming);
        edges.find(|e| *e.weight() == Slot::In(at as u32)).map(|e| ValueId(e.source()))
    }

    /// Output `at` of the operator; none if omitted.
    pub fn output(&self, op: OpId, at: usize) -> Option<ValueId> {
        let mut edges = self.dag.edges_directed(op.0, Direction::Outgoing);
        edges.find(|e| *e.weight() == Slot::Out(at as u32)).map(|e| ValueId(e.target()))
    }

    /// The operator that writes the value, and in which output slot.
    pub fn producer(&self, value: ValueId) -> Option<(OpId, usize)> {
        let edge = self.dag.edges_directed(value.0, Direction::Incoming).next()?;
        match *edge.weight() {
            Slot::Out(at) => Some((OpId(edge.source()), at as usize)),
            _ => None,
        }
    }

    /// The readers of the value in schedule order of the file, then by slot. An operator that reads it twice is there twice.
    pub fn uses(&self, value: ValueId) -> Vec<Use> {
        let edges = self.dag.edges_directed(value.0, Direction::Outgoing);
        let mut uses: Vec<Use> = edges.map(|e| Use { op: OpId(e.target()), slot: *e.weight() }).collect();
        uses.sort_unstable_by_key(|u| (self.op(u.op).order, u.slot));
        uses
    }

    /// Number of readers (graph outputs not counted).
    pub fn use_count(&self, value: ValueId) -> usize {
        self.dag.edges_directed(value.0, Direction::Outgoing).count()
    }

    /// The only reader of a value that is not an output of the graph; none if there are several or none. Takes constant
    /// time however many readers there are.
    pub fn sole_use(&self, value: ValueId) -> Option<Use> {
        let mut edges = self.dag.edges_directed(value.0, Direction::Outgoing);
        let edge = edges.next()?;
        let sole = edges.next().is_none() && !self.is_output(value);
        sole.then(|| Use { op: OpId(edge.target()), slot: *edge.weight() })
    }

    /// Up to `limit` readers of the value, in no particular but always the same order.
    pub fn some_uses(&self, value: ValueId, limit: usize) -> Vec<Use> {
        let edges = self.dag.edges_directed(value.0, Direction::Outgoing).take(limit);
        edges.map(|e| Use { op: OpId(e.target()), slot: *e.weight() }).collect()
    }

    /// Some operator reads the value, or it is an output of the graph. Takes constant time.
    pub fn is_used(&self, value: ValueId) -> bool {
        self.is_output(value) || self.dag.edges_directed(value.0, Direction::Outgoing).next().is_some()
    }

    /// The value of this scope that the captured value `inner` of a `graph` inside this operator stands for.
    pub fn captured(&self, op: OpId, graph: GraphId, inner: ValueId) -> Option<ValueId> {
        let mut edges = self.dag.edges_directed(op.0, Direction::Incoming);
        edges.find(|edge| *edge.weight() == Slot::Capture { graph, inner }).map(|edge| ValueId(edge.source()))
    }

    /// What the graphs inside this operator read from this scope: `(inner graph, inner value, outer value)`.
    pub fn captures(&self, op: OpId) -> Vec<(GraphId, ValueId, ValueId)> {
        let edges = self.dag.edges_directed(op.0, Direction::Incoming);
        let mut captures: Vec<_> = edges
            .filter_map(|edge| match *edge.weight() {
                Slot::Capture { graph, inner } => Some((graph, inner, ValueId(edge.source()))),
                _ => None,
            })
            .collect();
        captures.sort_unstable();
        captures
    }

    /// The constant that the value holds whatever the model is fed: an initializer that is not also an input.
    pub fn constant(&self, value: ValueId) -> Option<&Tensor> {
        let value = self.value(value);
        if value.role == Role::Initializer { value.data.as_ref() } else { None }
    }

    /// Every edge as `(value, op, slot)`: for the verifier.
    pub fn edges(&self) -> impl Iterator<Item = (ValueId, OpId, Slot)> + '_ {
        self.dag.edge_references().map(|edge| match edge.weight() {
            Slot::Out(_) => (ValueId(edge.target()), OpId(edge.source()), *edge.weight()),
            slot => (ValueId(edge.source()), OpId(edge.target()), *slot),
        })
    }
}

// ---- values ----------------------------------------------------------------------------------------------------

impl Graph {
    fn add_value(&mut self, name: &str, role: Role) -> Result<ValueId, GraphError> {
        if name.is_empty() {
            return Err(GraphError::EmptyName);
        }
        let name: Arc<str> = Arc::from(name);
        if self.by_name.contains_key(&name) {
            return Err(GraphError::DuplicateName(name));
        }
        let id = ValueId(self.dag.add_node(Node::Value(Box::new(Value::new(name.clone(), role)))));
        self.by_name.insert(name, id);
        Ok(id)
    }

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

    /// A name that no value of this graph has: the hint, or the hint and a number.
    pub fn fresh_name(&mut self, hint: &str) -> Arc<str> {
        let hint = if hint.is_empty() { "value" } else { hint };
        if !self.by_name.contains_key(hint) {
            return Arc::from(hint);
        }
        let next = self.next_fresh.entry(Arc::from(hint)).or_insert(1);
        loop {
            let name = format!("{hint}_{next}");
            *next += 1;
            if !self.by_name.contains_key(name.as_str()) {
                return Arc::from(name);
            }
        }
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
        self.by_name.remove(&self.value(value).name.clone());
        self.by_name.insert(name.clone(), value);
        self.value_mut(value).name = name;
        Ok(())
    }

    /// Turns a computed value or an input into a constant. Its producer, if any, keeps a gap in that output slot.
    pub fn make_constant(&mut self, value: ValueId, data: Tensor) {
        let producers: Vec<EdgeIndex<u32>> =
            self.dag.edges_directed(value.0, Direction::Incoming).map(|edge| edge.id()).collect();
        producers.into_iter().for_each(|edge| {
            self.dag.remove_edge(edge);
        });
        self.inputs.retain(|&input| input != value);
        let value = self.value_mut(value);
        value.role = Role::Initializer;
        value.data = Some(data);
    }

    /// Removes a value that nothing reads, writes or lists. Returns whether it did.
    pub fn remove_value(&mut self, value: ValueId) -> bool {
        let free = self.dag.neighbors_undirected(value.0).next().is_none();
        if !free || self.value(value).listed > 0 || self.inputs.contains(&value) {
            return false;
        }
        self.by_name.remove(&self.value(value).name.clone());
        self.dag[value.0] = Node::Dead;
        self.dead.push(value.0);
        true
    }

    /// Removes an input that nothing reads or lists from the graph's inputs, and the value with it.
    pub fn remove_input(&mut self, value: ValueId) -> bool {
        let at = self.inputs.iter().position(|&input| input == value);
        match at {
            Some(at) if self.use_count(value) == 0 && !self.is_output(value) => {
                self.inputs.remove(at);
                self.remove_value(value)
            }
            _ => false,
        }
    }

    /// Takes an initializer that is also an input off the inputs: from now on it is a constant.
    pub fn fix_input(&mut self, value: ValueId) {
        if self.value(value).data.is_some() {
            self.inputs.retain(|&input| input != value);
            self.value_mut(value).role = Role::Initializer;
        }
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

    pub(crate) fn set_parent(&mut self, parent: Option<(GraphId, OpId)>) {
        self.parent = parent;
    }
}

// ---- operators and edges ---------------------------------------------------------------------------------------

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
            if self.value(output).role != Role::Computed || self.producer(output).is_some() {
                return Err(GraphError::Defined(self.value(output).name.clone(), op.to_string()));
            }
        }
        let sequence = self.next_order;
        self.next_order += 1;
        op.order = match place {
            Place::End => (sequence, sequence),
            Place::Near(other) => (self.op(other).order.0, sequence),
        };
        op.arity = (inputs.len() as u32, outputs.len() as u32);
        let id = OpId(self.dag.add_node(Node::Op(Box::new(op))));
        for (at, input) in inputs.iter().enumerate() {
            if let Some(input) = input {
                self.dag.add_edge(input.0, id.0, Slot::In(at as u32));
            }
        }
        for (at, output) in outputs.iter().enumerate() {
            if let Some(output) = output {
                if self.producer(*output).is_some() {
                    let error =
                        GraphError::Defined(self.value(*output).name.clone(), self.op(id).to_string());
                    self.remove_op(id);
                    return Err(error);
                }
                self.dag.add_edge(id.0, output.0, Slot::Out(at as u32));
            }
        }
        Ok(id)
    }

    /// Records that `inner`, a [`Role::Captured`] value of `graph` inside `op`, stands for `outer` of this graph.
    pub fn add_capture(&mut self, op: OpId, graph: GraphId, inner: ValueId, outer: ValueId) {
        self.dag.add_edge(outer.0, op.0, Slot::Capture { graph, inner });
    }

    /// Removes the record that [`Graph::add_capture`] made.
    pub fn remove_capture(&mut self, op: OpId, graph: GraphId, inner: ValueId) {
        self.cut(op, Direction::Incoming, Slot::Capture { graph, inner });
    }

    fn first_edge(&self, node: NodeIndex<u32>, direction: Direction) -> Option<EdgeIndex<u32>> {
        self.dag.edges_directed(node, direction).next().map(|edge| edge.id())
    }

    fn cut(&mut self, op: OpId, direction: Direction, slot: Slot) {
        let edge = self.dag.edges_directed(op.0, direction).find(|e| *e.weight() == slot).map(|e| e.id());
        if let Some(edge) = edge {
            self.dag.remove_edge(edge);
        }
    }

    /// Makes `value` input `at`; none leaves a gap. The list of inputs grows as needed.
    pub fn set_input(&mut self, op: OpId, at: usize, value: Option<ValueId>) {
        self.cut(op, Direction::Incoming, Slot::In(at as u32));
        let arity = &mut self.op_mut(op).arity.0;
        *arity = (*arity).max(at as u32 + 1);
        if let Some(value) = value {
            self.dag.add_edge(value.0, op.0, Slot::In(at as u32));
        }
    }

    /// Makes `value`, computed and without a producer, output `at`; none leaves a gap.
    pub fn set_op_output(&mut self, op: OpId, at: usize, value: Option<ValueId>) -> Result<(), GraphError> {
        if let Some(value) = value
            && (self.value(value).role != Role::Computed || self.producer(value).is_some())
        {
            return Err(GraphError::Defined(self.value(value).name.clone(), self.op(op).to_string()));
        }
        self.cut(op, Direction::Outgoing, Slot::Out(at as u32));
        let arity = &mut self.op_mut(op).arity.1;
        *arity = (*arity).max(at as u32 + 1);
        if let Some(value) = value {
            self.dag.add_edge(op.0, value.0, Slot::Out(at as u32));
        }
        Ok(())
    }

    /// Drops inputs from `count` on.
    pub fn truncate_inputs(&mut self, op: OpId, count: usize) {
        for at in count..self.op(op).arity.0 as usize {
            self.cut(op, Direction::Incoming, Slot::In(at as u32));
        }
        let arity = &mut self.op_mut(op).arity.0;
        *arity = (*arity).min(count as u32);
    }

    /// Drops outputs from `count` on.
    pub fn truncate_outputs(&mut self, op: OpId, count: usize) {
        for at in count..self.op(op).arity.1 as usize {
            self.cut(op, Direction::Outgoing, Slot::Out(at as u32));
        }
        let arity = &mut self.op_mut(op).arity.1;
        *arity = (*arity).min(count as u32);
    }

    /// Moves every reader of `old`, inner graphs included, to `new`. Graph outputs stay: see [`Graph::redirect`].
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        if old == new {
            return;
        }
        while let Some(edge) = self.first_edge(old.0, Direction::Outgoing) {
            let (_, reader) = self.dag.edge_endpoints(edge).expect("the edge was just found");
            let slot = self.dag.remove_edge(edge).expect("the edge was just found");
            self.dag.add_edge(new.0, reader, slot);
        }
    }

    /// Puts `new` in the place of `old` everywhere. Where `old` is an output of the graph its name is part of the
    /// model's interface: `new` then takes the name over. That works only if `new` is computed and not an output
    /// itself; otherwise nothing changes and the answer is false.
    #[must_use]
    pub fn redirect(&mut self, old: ValueId, new: ValueId) -> bool {
        if old == new {
            return true;
        }
        if self.is_output(old) {
            if self.value(new).role != Role::Computed || self.is_output(new) {
                return false;
            }
            let name = self.value(old).name.clone();
            let spare = self.fresh_name(&format!("{name}_old"));
            self.rename(old, &spare).expect("the name is fresh");
            self.rename(new, &name).expect("the name was just freed");
            let ty = self.value(old).ty.clone();
            let value = self.value_mut(new);
            value.ty = ty.or(value.ty.take());
            for at in 0..self.outputs.len() {
                if self.outputs[at] == old {
                    self.set_output(at, new);
                }
            }
        }
        self.replace_uses(old, new);
        true
    }

    /// Removes an operator and its edges, and those of its outputs that nothing reads or lists. Returns it, with its
    /// attributes: graphs in them are unreachable from now on.
    pub fn remove_op(&mut self, op: OpId) -> Op {
        let outputs = self.op_outputs(op);
        while let Some(edge) = self.first_edge(op.0, Direction::Incoming) {
            self.dag.remove_edge(edge);
        }
        while let Some(edge) = self.first_edge(op.0, Direction::Outgoing) {
            self.dag.remove_edge(edge);
        }
        for output in outputs.into_iter().flatten() {
            self.remove_value(output);
        }
        self.dead.push(op.0);
        match std::mem::replace(&mut self.dag[op.0], Node::Dead) {
            Node::Op(op) => *op,
            _ => panic!("not a live operator: {op:?}"),
        }
    }

    /// Frees the tombstones. Ids of removed nodes may be reused afterwards.
    pub fn sweep(&mut self) {
        for node in std::mem::take(&mut self.dead) {
            if matches!(self.dag.node_weight(node), Some(Node::Dead)) {
                self.dag.remove_node(node);
            }
        }
    }
}
