//! Running a graph: operators in schedule order, values freed after their last use, bodies and functions inside.

use std::cell::RefCell;
use std::collections::HashMap;

use ir::{AttrValue, Attrs, Graph, GraphId, Model, Op, OpId, Role, Tensor, ValueId};

use crate::array;
use crate::error::{OpError, Result};
use crate::eval::{Budget, EvalCx, Host};
use crate::rule;
use crate::value::Value;

/// How deep bodies and calls may nest.
const DEPTH_LIMIT: usize = 64;

/// Limits of a run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of all values held at a time.
    pub max_bytes: usize,
    /// Operators run, those of loops counted each time.
    pub max_steps: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { max_bytes: 8 << 30, max_steps: 100_000_000 }
    }
}

/// Sees every value as soon as it is there (inputs and constants excepted), and may replace it.
pub type Sink<'s> = dyn FnMut(GraphId, ValueId, &mut Value) + 's;

/// Runs the main graph. `inputs` are in the order of its inputs; none takes the input's default. Gives its outputs.
pub fn run(
    model: &Model,
    inputs: Vec<Option<Value>>,
    options: &Options,
    sink: Option<&mut Sink>,
) -> Result<Vec<Value>> {
    let budget = Budget::new(options.max_bytes, options.max_steps);
    let machine = Machine { model, budget: &budget, sink: RefCell::new(sink) };
    machine.graph(model.main_id(), inputs, &HashMap::new(), None, 0)
}

/// Runs one operator of a graph. `captured` gives the values of this graph that bodies inside the operator read.
pub fn eval_op(
    model: &Model,
    graph: GraphId,
    op: OpId,
    inputs: &[Option<Value>],
    captured: &dyn Fn(ValueId) -> Option<Value>,
    budget: &Budget,
) -> Result<Vec<Value>> {
    let machine = Machine { model, budget, sink: RefCell::new(None) };
    machine.op(graph, op, inputs, captured, None, 0)
}

/// The operator with the attributes of a function call put in where it refers to them; none if it refers to none.
/// A reference to an attribute that the call does not give is dropped, as if it were absent.
pub fn resolve_references(op: &Op, call: &Attrs) -> Option<Op> {
    let refers = |value: &AttrValue| matches!(value, AttrValue::Reference { .. });
    if !op.attrs.iter().any(|attr| refers(&attr.value)) {
        return None;
    }
    let mut resolved = op.clone();
    resolved.attrs = Attrs::default();
    for attr in op.attrs.iter() {
        let value = match &attr.value {
            AttrValue::Reference { name, .. } => call.get(name).cloned(),
            other => Some(other.clone()),
        };
        if let Some(value) = value {
            resolved.attrs.set(&attr.name, value);
        }
    }
    Some(resolved)
}

struct Machine<'a, 's> {
    model: &'a Model,
    budget: &'a Budget,
    sink: RefCell<Option<&'a mut Sink<'s>>>,
}

type Captured = HashMap<ValueId, Value>;

/// The values of a graph that is running, each with the number of reads still to come.
struct Frame {
    values: Vec<Option<Value>>,
    reads: Vec<usize>,
}

impl Machine<'_, '_> {
    fn graph(
        &self,
        id: GraphId,
        inputs: Vec<Option<Value>>,
        captured: &Captured,
        call: Option<&Attrs>,
        depth: usize,
    ) -> Result<Vec<Value>> {
        let graph = self.model.graph(id);
        let wrong = |why: String| OpError::Invalid { op: format!("graph {:?}", graph.name), why };
        if depth > DEPTH_LIMIT {
            return Err(wrong("bodies nest too deeply".to_string()));
        }
        let mut frame = Frame { values: vec![None; graph.bound()], reads: vec![0; graph.bound()] };
        for value in graph.values() {
            let held = graph.value(value);
            frame.reads[value.index()] = graph.use_count(value) + usize::from(graph.is_output(value));
            frame.values[value.index()] = match held.role() {
                Role::Initializer => Some(Value::Tensor(self.initializer(held)?)),
                Role::Captured => captured.get(&value).cloned(),
                _ => held.data.clone().map(Value::Tensor),
            };
        }
        for (&value, input) in graph.inputs().iter().zip(inputs) {
            if input.is_some() {
                frame.values[value.index()] = input;
            }
        }
        let schedule = graph.schedule().map_err(|error| wrong(error.to_string()))?;
        for op in schedule {
            self.step(id, graph, op, &mut frame, call, depth)?;
        }
        let outputs = graph.outputs().iter().map(|output| {
            let value = frame.values[output.index()].clone();
            value.ok_or_else(|| wrong(format!("no value for output {:?}", graph.value(*output).name())))
        });
        let outputs: Result<Vec<Value>> = outputs.collect();
        for value in graph.values().filter(|&value| graph.value(value).role() == Role::Computed) {
            if let Some(held) = &frame.values[value.index()] {
                self.budget.give(held.bytes());
            }
        }
        outputs
    }

    fn initializer(&self, value: &ir::Value) -> Result<Tensor> {
        let name = || format!("initializer {:?}", value.name());
        match (&value.data, &value.sparse) {
            (Some(data), _) => Ok(data.clone()),
            (None, Some(sparse)) => {
                let needed = sparse
                    .values
                    .dtype()
                    .storage_bytes(ir::checked_elements(&sparse.dims).unwrap_or(usize::MAX));
                let (needed, left) = (needed.unwrap_or(usize::MAX), self.budget.left());
                if needed > left {
                    return Err(OpError::Budget { op: name(), needed, left });
                }
                array::densify(sparse).map_err(|source| OpError::Tensor { op: name(), source })
            }
            (None, None) => Err(OpError::Invalid { op: name(), why: "it has no data".to_string() }),
        }
    }

    fn step(
        &self,
        id: GraphId,
        graph: &Graph,
        at: OpId,
        frame: &mut Frame,
        call: Option<&Attrs>,
        depth: usize,
    ) -> Result<()> {
        let slots = graph.op_inputs(at);
        let mut inputs = Vec::with_capacity(slots.len());
        for slot in &slots {
            inputs.push(match slot {
                None => None,
                // An input of a function that the call omits is an omitted input of what reads it.
                Some(value) => frame.values[value.index()].clone(),
            });
        }
        let results = self.op(id, at, &inputs, &|value| frame.values[value.index()].clone(), call, depth)?;
        drop(inputs);
        let mut results = results.into_iter();
        for output in graph.op_outputs(at) {
            let (Some(value), Some(mut result)) = (output, results.next()) else { continue };
            if let Some(sink) = self.sink.borrow_mut().as_mut() {
                sink(id, value, &mut result);
            }
            if frame.reads[value.index()] > 0 {
                self.budget.take(result.bytes());
                frame.values[value.index()] = Some(result);
            }
        }
        let captures = graph.captures(at).into_iter().map(|(_, _, outer)| outer);
        for value in slots.into_iter().flatten().chain(captures) {
            let reads = &mut frame.reads[value.index()];
            *reads = reads.saturating_sub(1);
            if *reads == 0
                && let Some(freed) = frame.values[value.index()].take()
                && graph.value(value).role() == Role::Computed
            {
                self.budget.give(freed.bytes());
            }
        }
        Ok(())
    }

    fn op(
        &self,
        id: GraphId,
        at: OpId,
        inputs: &[Option<Value>],
        outer: &dyn Fn(ValueId) -> Option<Value>,
        call: Option<&Attrs>,
        depth: usize,
    ) -> Result<Vec<Value>> {
        let graph = self.model.graph(id);
        let op = graph.op(at);
        if !self.budget.step() {
            return Err(OpError::Invalid { op: op.to_string(), why: "too many steps".to_string() });
        }
        let resolved = call.and_then(|call| resolve_references(op, call));
        let op = resolved.as_ref().unwrap_or(op);
        if let Some(function) = self.model.function(&op.kind.domain, &op.kind.name, &op.kind.overload) {
            let mut attrs = function.defaults.clone();
            op.attrs.iter().for_each(|attr| attrs.set(&attr.name, attr.value.clone()));
            let result =
                self.graph(function.graph, inputs.to_vec(), &HashMap::new(), Some(&attrs), depth + 1);
            return result.map_err(|source| OpError::Body { op: op.to_string(), source: Box::new(source) });
        }
        let opset = ir::version(self.model.opsets_of(id), &op.kind.domain);
        let rule = rule::rule(&op.kind, opset)?;
        let host = Inside { machine: self, graph, at, outer, call, depth };
        let mut cx = EvalCx::new(op, opset.unwrap_or(1), inputs, graph.op(at).output_count(), self.budget);
        cx.host = Some(&host);
        rule.eval(&cx)
    }
}

/// Runs the bodies of one operator.
struct Inside<'m, 'a, 's> {
    machine: &'m Machine<'a, 's>,
    graph: &'m Graph,
    at: OpId,
    outer: &'m dyn Fn(ValueId) -> Option<Value>,
    call: Option<&'m Attrs>,
    depth: usize,
}

impl Host for Inside<'_, '_, '_> {
    fn declared_input(&self, graph: GraphId, input: usize) -> Option<ir::Type> {
        let graph = self.machine.model.graph(graph);
        graph.value(*graph.inputs().get(input)?).ty.clone()
    }

    fn declared_output(&self, graph: GraphId, output: usize) -> Option<(ir::DType, Vec<ir::Dim>)> {
        let graph = self.machine.model.graph(graph);
        let ty = graph.value(*graph.outputs().get(output)?).ty.as_ref()?;
        Some((ty.dtype()?, ty.shape()?.dims.to_vec()))
    }

    fn run(&self, body: GraphId, inputs: Vec<Value>) -> Result<Vec<Value>> {
        let mut captured = Captured::new();
        for (graph, inner, outer) in self.graph.captures(self.at) {
            if graph == body
                && let Some(value) = (self.outer)(outer)
            {
                captured.insert(inner, value);
            }
        }
        let inputs = inputs.into_iter().map(Some).collect();
        self.machine.graph(body, inputs, &captured, self.call, self.depth + 1)
    }
}
