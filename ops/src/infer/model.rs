//! Inference through a whole model: main graph, bodies of control flow, calls of functions.
//!
//! The result is a table beside the model; nothing is written. Declared types are opinions: where they contradict what
//! the rules find, that is an [`Issue`] and the rules win.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use ir::{Attrs, Function, Graph, GraphId, Model, Op, OpId, Role, Shape, Type, ValueId};
use smallvec::SmallVec;

use crate::error::{OpError, Result};
use crate::eval::{Budget, EvalCx};
use crate::infer::sizes::{self, MAIN, SOLVED_LIMIT, Sizes};
use crate::infer::{Bodies, CONTENTS_LIMIT, InferCx, Known, shape};
use crate::rule::{self, OpRule};
use crate::sym;
use crate::value::Value;

/// How deep bodies and calls may nest.
const DEPTH_LIMIT: usize = 64;

/// Up to IR version 3 every constant had to be listed as an input too; since then such an input is one with a default.
const DEFAULTS_SINCE: i64 = 4;

/// What inference is told beside the model.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Types of inputs of the main graph that replace what the file declares, by name.
    pub inputs: BTreeMap<String, Type>,
}

/// Where an [`Issue`] stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Name of the graph.
    pub graph: String,
    /// The operator as errors cite it; empty where the issue is about an input.
    pub op: String,
    /// The value's name; empty where the issue is about the operator.
    pub value: String,
}

/// What inference could not make sense of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Issue {
    /// The model is wrong here.
    Wrong(Place, String),
    /// The declared type contradicts the inferred one, which was kept.
    Contradiction(Place, String),
    /// The operator, or this form of it, has no rule.
    Unsupported(Place, String),
}

/// What is known about the values of a model.
#[derive(Clone, Debug, Default)]
pub struct Inferred {
    graphs: BTreeMap<GraphId, Vec<Known>>,
    /// What did not fit, in the order of the graphs.
    pub issues: Vec<Issue>,
}

impl Inferred {
    /// What is known about a value. Values of function bodies are not recorded: they differ from call to call.
    pub fn known(&self, graph: GraphId, value: ValueId) -> Option<&Known> {
        self.graphs.get(&graph)?.get(value.index())
    }

    /// The inferred type of a value as a file writes it: a size that is a name alone is that name.
    pub fn written_type(&self, graph: GraphId, value: ValueId) -> Option<Type> {
        self.ty(graph, value).map(|ty| sizes::map(ty, &sym::plain))
    }

    /// The inferred type of a value.
    pub fn ty(&self, graph: GraphId, value: ValueId) -> Option<&Type> {
        self.known(graph, value)?.ty.as_ref()
    }
}

/// Infers everything that the rules can tell. Never fails: what is wrong is listed in the result.
///
/// A size that only a run tells has a name of its own; where the file promises a number for an expression of it
/// (`3*name` is 672), that is an equation, and the whole is inferred again with its solution.
pub fn infer_model(model: &Model, options: &Options) -> Inferred {
    let mut solved = HashMap::new();
    loop {
        let (inferred, found) = infer_once(model, options, &solved);
        // Names that were solved no longer occur, so each round solves others.
        let before = solved.len();
        solved.extend(found);
        if solved.len() == before || before >= SOLVED_LIMIT {
            return inferred;
        }
    }
}

fn infer_once(
    model: &Model,
    options: &Options,
    solved: &HashMap<String, i64>,
) -> (Inferred, BTreeMap<String, i64>) {
    let ops: usize = model.graph_ids().into_iter().map(|id| model.graph(id).op_count()).sum();
    let mut walker = Walker {
        model,
        options,
        inferred: Inferred::default(),
        seen: BTreeSet::new(),
        captured: HashMap::new(),
        sizes: Sizes::new(solved),
        types: HashSet::new(),
        functions: functions(model),
        calls: Vec::new(),
        paths: HashMap::new(),
        path: MAIN,
        unreached: 0,
        depth: 0,
        steps: ops.saturating_mul(20).saturating_add(1_000_000),
    };
    let main = model.main();
    for &input in main.inputs() {
        walker.sizes.claim(main.value(input).ty.as_ref());
    }
    let inputs = vec![Known::default(); main.inputs().len()];
    if let Err(error) = walker.graph(model.main_id(), inputs) {
        walker.issue(model.main_id(), "", "", |place| Issue::Wrong(place, error.to_string()));
    }
    (walker.inferred, walker.sizes.into_found())
}

struct Walker<'a> {
    model: &'a Model,
    options: &'a Options,
    inferred: Inferred,
    seen: BTreeSet<Issue>,
    /// What is known about captured values of the bodies that are being walked.
    captured: HashMap<(GraphId, ValueId), Known>,
    sizes: Sizes<'a>,
    /// Every type found, once: many values have the same.
    types: HashSet<Type>,
    functions: HashMap<(&'a str, &'a str, &'a str), &'a Function>,
    /// Attributes of the function calls that lead here, innermost last.
    calls: Vec<Attrs>,
    /// Numbers of the chains of function calls: a size in a function's body is another one in each call.
    paths: HashMap<(usize, GraphId, OpId), usize>,
    path: usize,
    /// Graphs around the walk that no run reaches.
    unreached: usize,
    depth: usize,
    /// Operators that may still be visited: calls of functions that call functions can grow exponentially.
    steps: usize,
}

impl Walker<'_> {
    fn issue(&mut self, graph: GraphId, op: &str, value: &str, make: impl FnOnce(Place) -> Issue) {
        if self.unreached > 0 {
            return;
        }
        let graph = self.model.graph(graph).name.clone();
        let issue = make(Place { graph, op: op.to_string(), value: value.to_string() });
        if self.seen.insert(issue.clone()) {
            self.inferred.issues.push(issue);
        }
    }

    fn graph(&mut self, id: GraphId, mut inputs: Vec<Known>) -> Result<Vec<Known>> {
        let graph = self.model.graph(id);
        let nested =
            |why: &str| OpError::Invalid { op: format!("graph {:?}", graph.name), why: why.to_string() };
        if self.depth >= DEPTH_LIMIT {
            return Err(nested("bodies nest too deeply"));
        }
        let schedule = graph.schedule().map_err(|error| nested(&error.to_string()))?;
        let opsets = self.model.opsets_of(id).to_vec();
        let mut table = vec![Known::default(); graph.bound()];
        inputs.resize(graph.inputs().len(), Known::default());
        for value in graph.values() {
            let held = graph.value(value);
            let mut known = match held.role() {
                Role::Initializer => initializer(held),
                Role::Captured => self.captured.get(&(id, value)).cloned().unwrap_or_default(),
                Role::Input | Role::Computed => continue,
            };
            self.share(&mut known);
            table[value.index()] = known;
        }
        for (&value, known) in graph.inputs().iter().zip(inputs) {
            table[value.index()] = self.declared_input(id, value, known);
        }
        self.depth += 1;
        let result = self.ops(id, graph, &opsets, schedule, &mut table);
        self.depth -= 1;
        result?;
        let outputs = graph.outputs().iter().map(|output| table[output.index()].clone()).collect();
        if self.path == MAIN {
            self.inferred.graphs.insert(id, table);
        }
        Ok(outputs)
    }

    fn declared_input(&mut self, id: GraphId, value: ValueId, mut known: Known) -> Known {
        let main = id == self.model.main_id();
        let held = self.model.graph(id).value(value);
        if main && held.data.is_some() && self.model.ir_version < DEFAULTS_SINCE {
            return initializer(held);
        }
        let given = self.options.inputs.get(&**held.name()).filter(|_| main);
        let declared = given.or(held.ty.as_ref()).map(|ty| if main { ty.clone() } else { sizes::forget(ty) });
        // A default of an input may be replaced in any run: only its type is sure, and not even its shape's symbols.
        let Some(declared) = declared.map(|ty| sizes::quote(&ty)) else { return known };
        known.ty = self.settle(id, None, value, known.ty.take(), Some(declared));
        if main {
            self.name_sizes(id, value, &mut known);
        }
        self.share(&mut known);
        known
    }

    /// The better of an inferred and a declared type; lists a contradiction.
    fn settle<'o>(
        &mut self,
        id: GraphId,
        op: impl Into<Option<&'o Op>>,
        value: ValueId,
        inferred: Option<Type>,
        declared: Option<Type>,
    ) -> Option<Type> {
        let (inferred, declared) = match (inferred, declared) {
            (Some(inferred), Some(declared)) => (inferred, declared),
            (inferred, declared) => return inferred.or(declared),
        };
        let merged = shape::merge(&inferred, &declared);
        if merged.is_none() {
            let what =
                format!("declared {}, inferred {}", shape::show_type(&declared), shape::show_type(&inferred));
            let name = self.model.graph(id).value(value).name().to_string();
            let op = op.into().map(Op::to_string).unwrap_or_default();
            self.issue(id, &op, &name, |place| Issue::Contradiction(place, what));
        }
        Some(merged.unwrap_or(inferred))
    }

    fn name_sizes(&mut self, id: GraphId, value: ValueId, known: &mut Known) {
        self.sizes.name(self.model.graph(id), (self.path, id, value), known);
    }

    /// Holds the type once for all values that have it. Types with notes of a file stay their own.
    fn share(&mut self, known: &mut Known) {
        let Some(ty) = known.ty.as_mut().filter(|ty| ty.spelling.0 == 0) else { return };
        match self.types.get(ty) {
            Some(shared) => *ty = shared.clone(),
            None => {
                self.types.insert(ty.clone());
            }
        }
    }

    fn ops(
        &mut self,
        id: GraphId,
        graph: &Graph,
        opsets: &[(String, i64)],
        schedule: Vec<OpId>,
        table: &mut [Known],
    ) -> Result<()> {
        for at in schedule {
            let op = graph.op(at);
            let Some(steps) = self.steps.checked_sub(1) else {
                return Err(OpError::Invalid {
                    op: op.to_string(),
                    why: "calls of functions grow too large".into(),
                });
            };
            self.steps = steps;
            let outputs = graph.op_outputs(at);
            let found = match self.op(id, graph, opsets, at, table) {
                Ok(found) => found,
                Err(error) => {
                    let unsupported = error.is_unsupported();
                    let make = if unsupported { Issue::Unsupported } else { Issue::Wrong };
                    self.issue(id, &op.to_string(), "", |place| make(place, error.to_string()));
                    Vec::new()
                }
            };
            let mut found = found.into_iter();
            for value in outputs {
                let mut known = found.next().unwrap_or_default();
                let Some(value) = value else { continue };
                let declared = graph.value(value).ty.as_ref();
                let declared =
                    if self.depth > 1 { declared.map(sizes::forget) } else { declared.map(sizes::quote) };
                self.sizes.substitute(&mut known);
                if id == self.model.main_id() {
                    self.sizes.solve(self.model, known.ty.as_ref(), declared.as_ref());
                }
                known.ty = self.settle(id, op, value, known.ty.take(), declared);
                self.name_sizes(id, value, &mut known);
                self.share(&mut known);
                table[value.index()] = known;
            }
        }
        Ok(())
    }

    fn op(
        &mut self,
        id: GraphId,
        graph: &Graph,
        opsets: &[(String, i64)],
        at: OpId,
        table: &[Known],
    ) -> Result<Vec<Known>> {
        let op = graph.op(at);
        let resolved = self.resolve(op);
        let op = resolved.as_ref().unwrap_or(op);
        let slots = graph.op_inputs(at);
        let inputs: SmallVec<[Option<&Known>; 4]> =
            slots.iter().map(|slot| slot.map(|value| &table[value.index()])).collect();
        if op.attrs.graphs().next().is_some() {
            for (inner, value, outer) in graph.captures(at) {
                self.captured.insert((inner, value), table[outer.index()].clone());
            }
        }
        let key = (op.kind.domain(), &*op.kind.name, &*op.kind.overload);
        if let Some(&function) = self.functions.get(&key) {
            let mut attrs = function.defaults.clone();
            op.attrs.iter().for_each(|attr| attrs.set(&attr.name, attr.value.clone()));
            self.calls.push(attrs);
            let known = inputs.iter().map(|known| known.cloned().unwrap_or_default()).collect();
            let next = self.paths.len() + 1;
            let path = *self.paths.entry((self.path, id, at)).or_insert(next);
            let outer = std::mem::replace(&mut self.path, path);
            let result = self.graph(function.graph, known);
            self.path = outer;
            self.calls.pop();
            return result.map_err(|source| OpError::Body { op: op.to_string(), source: Box::new(source) });
        }
        let rule = rule::rule(&op.kind, ir::version(opsets, &op.kind.domain))?;
        let opset = ir::version(opsets, &op.kind.domain).unwrap_or(1);
        let outputs = graph.op_outputs(at);
        let first = outputs.iter().flatten().next();
        let owner = first.map(|&value| (self.path, id, value));
        let unique = owner.map_or_else(String::new, |owner| self.sizes.prefix(graph, owner));
        // Names are given inside of bodies before it is known whether the operator gives some itself.
        if let Some(owner) = owner.filter(|_| op.attrs.graphs().next().is_some()) {
            self.sizes.unique(graph, owner);
        }
        let (mut outputs, named) = {
            let mut cx = InferCx {
                op,
                opset,
                inputs: inputs.iter().copied().collect(),
                outputs: vec![Known::default(); outputs.len()],
                unique: &unique,
                named: Cell::new(false),
                bodies: Some(self),
            };
            rule.infer(&mut cx)?;
            (cx.outputs, cx.named.get())
        };
        if let Some(owner) = owner.filter(|_| named) {
            self.sizes.unique(graph, owner);
        }
        evaluate_small(rule, op, opset, &inputs, &mut outputs);
        Ok(outputs)
    }

    /// The operator with the attributes of the call put in where it refers to them; none if it refers to none.
    fn resolve(&self, op: &Op) -> Option<Op> {
        let call = self.calls.last()?;
        crate::eval::resolve_references(op, call)
    }
}

fn functions(model: &Model) -> HashMap<(&str, &str, &str), &Function> {
    // Of two functions of one name the first counts.
    model
        .functions
        .iter()
        .rev()
        .map(|function| {
            let domain = ir::canonical_domain(&function.domain);
            ((domain, function.name.as_str(), function.overload.as_str()), function)
        })
        .collect()
}

impl Bodies for Walker<'_> {
    fn declared_input(&self, graph: GraphId, input: usize) -> Option<Type> {
        let graph = self.model.graph(graph);
        graph.value(*graph.inputs().get(input)?).ty.clone()
    }

    fn infer(&mut self, graph: GraphId, inputs: Vec<Known>) -> Result<Vec<Known>> {
        self.graph(graph, inputs)
    }

    fn infer_unreached(&mut self, graph: GraphId, inputs: Vec<Known>) -> Result<Vec<Known>> {
        self.unreached += 1;
        let result = self.graph(graph, inputs);
        self.unreached -= 1;
        result
    }
}

fn initializer(value: &ir::Value) -> Known {
    match (&value.data, &value.sparse) {
        (Some(data), _) => Known::of_constant(data.clone()),
        (None, Some(sparse)) => {
            Known::of_type(Type::tensor(sparse.values.dtype(), Some(Shape::fixed(&sparse.dims))))
        }
        (None, None) => Known { ty: value.ty.clone(), ..Known::default() },
    }
}

/// Evaluates an operator whose inputs are all small constants, where the result is small too: contents of any type then
/// travel on as constants.
fn evaluate_small(rule: &dyn OpRule, op: &Op, opset: i64, inputs: &[Option<&Known>], outputs: &mut [Known]) {
    if !rule.evaluates() || op.attrs.graphs().next().is_some() {
        return;
    }
    let small = |known: &Known| {
        known
            .ty
            .as_ref()
            .and_then(|ty| ty.shape()?.elements())
            .is_some_and(|elements| elements <= CONTENTS_LIMIT)
    };
    if outputs.iter().all(|known| known.constant.is_some()) || !outputs.iter().all(small) {
        return;
    }
    let constant =
        |known: &&Known| known.constant.clone().filter(|tensor| tensor.elements() <= CONTENTS_LIMIT);
    let mut values: Vec<Option<Value>> = Vec::with_capacity(inputs.len());
    for input in inputs {
        match input {
            None => values.push(None),
            Some(known) => match constant(known) {
                Some(tensor) => values.push(Some(Value::Tensor(tensor))),
                None => return,
            },
        }
    }
    let budget = Budget::new(1 << 20, 1);
    let Ok(results) = rule.eval(&EvalCx::new(op, opset, &values, outputs.len(), &budget)) else { return };
    for (known, value) in outputs.iter_mut().zip(results) {
        if let Value::Tensor(tensor) = value
            && known.dtype() == Some(tensor.dtype())
        {
            *known = Known::of_constant(tensor);
        }
    }
}
