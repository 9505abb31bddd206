//! A proposed change of one graph, and the one place that carries changes out.
//!
//! A rule looks and writes a [`Patch`]; [`apply`] checks it, edits, and removes what nothing reads any more. Values keep
//! their names: a new operator writes the value that the old one wrote.

use std::sync::Arc;

use ir::{
    AttrValue, Graph, GraphId, Model, Op, OpId, OpKind, Place, Role, Shape, Slot, Tensor, Type, ValueId,
};
use ops::infer::shape;

use super::inline::fresh_name;

/// A value that a patch reads: one of the graph, or one that the patch itself makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ref {
    /// A value of the graph.
    Old(ValueId),
    /// The patch's new value of this number.
    New(usize),
}

impl From<ValueId> for Ref {
    fn from(value: ValueId) -> Ref {
        Ref::Old(value)
    }
}

#[derive(Clone, Debug)]
enum Output {
    Gap,
    Old(ValueId),
    New { hint: String, ty: Option<Type> },
}

#[derive(Clone, Debug)]
enum Edit {
    Constant { hint: String, data: Tensor },
    Insert { near: OpId, op: Box<Op>, inputs: Vec<Option<Ref>>, outputs: Vec<Output> },
    Redirect { old: ValueId, new: Ref },
    Fold { value: ValueId, data: Tensor },
    Inputs { op: OpId, inputs: Vec<Option<Ref>> },
    Kind { op: OpId, kind: OpKind },
    Attr { op: OpId, name: &'static str, value: Option<AttrValue> },
    Retype { value: ValueId, ty: Option<Type> },
    Rename { op: OpId, name: String },
    Remove { op: OpId },
    Drop { value: ValueId },
}

/// A proposed change. Edits happen in the order in which they are written.
#[derive(Clone, Debug, Default)]
pub struct Patch {
    edits: Vec<Edit>,
    made: usize,
    stands_for: Vec<OpId>,
}

impl Patch {
    /// An empty patch whose new operators stand for these operators of the graph: the first gives them its name.
    pub fn instead_of(ops: &[OpId]) -> Patch {
        Patch { stands_for: ops.to_vec(), ..Patch::default() }
    }

    /// A new constant.
    pub fn constant(&mut self, hint: &str, data: Tensor) -> Ref {
        self.edits.push(Edit::Constant { hint: hint.to_string(), data });
        self.made += 1;
        Ref::New(self.made - 1)
    }

    /// A new operator with one new output.
    pub fn insert(
        &mut self,
        near: OpId,
        op: Op,
        inputs: &[Option<Ref>],
        hint: &str,
        ty: Option<Type>,
    ) -> Ref {
        let outputs = vec![Output::New { hint: hint.to_string(), ty }];
        self.edits.push(Edit::Insert { near, op: Box::new(op), inputs: inputs.to_vec(), outputs });
        self.made += 1;
        Ref::New(self.made - 1)
    }

    /// A new operator that writes values of the graph in the place of those that write them now.
    pub fn produce(&mut self, near: OpId, op: Op, inputs: &[Option<Ref>], outputs: &[Option<ValueId>]) {
        let outputs = outputs.iter().map(|output| output.map_or(Output::Gap, Output::Old)).collect();
        self.edits.push(Edit::Insert { near, op: Box::new(op), inputs: inputs.to_vec(), outputs });
    }

    /// Readers of `old` read `new` from now on; see [`Graph::redirect`] for outputs of the graph.
    pub fn redirect(&mut self, old: ValueId, new: impl Into<Ref>) {
        self.edits.push(Edit::Redirect { old, new: new.into() });
    }

    /// The computed value becomes a constant.
    pub fn fold(&mut self, value: ValueId, data: Tensor) {
        self.edits.push(Edit::Fold { value, data });
    }

    /// Gives an operator other inputs.
    pub fn inputs(&mut self, op: OpId, inputs: &[Option<Ref>]) {
        self.edits.push(Edit::Inputs { op, inputs: inputs.to_vec() });
    }

    /// Makes an operator another one.
    pub fn kind(&mut self, op: OpId, kind: OpKind) {
        self.edits.push(Edit::Kind { op, kind });
    }

    /// Sets an attribute.
    pub fn attr(&mut self, op: OpId, name: &'static str, value: impl Into<AttrValue>) {
        self.edits.push(Edit::Attr { op, name, value: Some(value.into()) });
    }

    /// Removes an attribute.
    pub fn drop_attr(&mut self, op: OpId, name: &'static str) {
        self.edits.push(Edit::Attr { op, name, value: None });
    }

    /// Gives a value another type.
    pub fn retype(&mut self, value: ValueId, ty: Option<Type>) {
        self.edits.push(Edit::Retype { value, ty });
    }

    /// Names an operator.
    pub fn rename(&mut self, op: OpId, name: &str) {
        self.edits.push(Edit::Rename { op, name: name.to_string() });
    }

    /// Removes an operator that nothing needs.
    pub fn remove(&mut self, op: OpId) {
        self.edits.push(Edit::Remove { op });
    }

    /// Removes a constant that nothing reads.
    pub fn drop_value(&mut self, value: ValueId) {
        self.edits.push(Edit::Drop { value });
    }

    /// The constant that it makes of a computed value.
    pub fn folded(&self, value: ValueId) -> Option<Tensor> {
        self.edits.iter().find_map(|edit| match edit {
            Edit::Fold { value: found, data } if *found == value => Some(data.clone()),
            _ => None,
        })
    }

    /// Bytes of the constants that it brings.
    pub(super) fn constant_bytes(&self) -> usize {
        let bytes = |edit: &Edit| match edit {
            Edit::Constant { data, .. } | Edit::Fold { data, .. } => data.bytes().len(),
            _ => 0,
        };
        self.edits.iter().map(bytes).fold(0, usize::saturating_add)
    }

    /// Nothing would change.
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }
}

/// What a patch touched: where to look next.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// New and changed operators.
    pub ops: Vec<OpId>,
    /// Values that changed or have other readers now.
    pub values: Vec<ValueId>,
    /// Values that lost a reader or their producer's only reason to exist.
    loose: Vec<ValueId>,
    /// Operators that lost an output.
    idle: Vec<OpId>,
}

/// Carries the patch out, or says why it cannot be and changes nothing.
pub(super) fn apply(model: &mut Model, graph: GraphId, patch: Patch) -> Result<Touched, String> {
    let brings_constants =
        patch.edits.iter().any(|edit| matches!(edit, Edit::Constant { .. } | Edit::Fold { .. }));
    if brings_constants && model.is_function_body(graph) {
        return Err("a file has no place for a constant in the body of a function".to_string());
    }
    check(model.graph(graph), &patch)?;
    let mut work = Work { model, graph, made: Vec::with_capacity(patch.made), touched: Touched::default() };
    let names = Names::of(work.graph(), &patch.stands_for);
    for edit in patch.edits {
        work.edit(edit, &names)?;
    }
    let Work { model, mut touched, .. } = work;
    clean(model.graph_mut(graph), &mut touched);
    Ok(touched)
}

/// Everything that could refuse later is looked at here, before the first edit.
fn check(graph: &Graph, patch: &Patch) -> Result<(), String> {
    let computed: Vec<bool> = (patch.edits.iter())
        .filter_map(|edit| match edit {
            Edit::Constant { .. } => Some(false),
            Edit::Insert { outputs, .. } => {
                matches!(outputs.first(), Some(Output::New { .. })).then_some(true)
            }
            _ => None,
        })
        .collect();
    for edit in &patch.edits {
        match edit {
            Edit::Redirect { old, new } if graph.is_output(*old) => {
                let fits = match new {
                    Ref::Old(new) => graph.value(*new).role() == Role::Computed && !graph.is_output(*new),
                    Ref::New(at) => computed.get(*at) == Some(&true),
                };
                if !fits {
                    return Err(format!("{:?} is an output of the graph", graph.value(*old).name()));
                }
            }
            Edit::Fold { value, data } if graph.is_output(*value) => {
                let found = Type::tensor(data.dtype(), Some(Shape::fixed(data.dims())));
                if let Some(promised) = &graph.value(*value).ty
                    && shape::merge(&found, promised).is_none()
                {
                    let (found, promised) = (shape::show_type(&found), shape::show_type(promised));
                    return Err(format!("the result is {found}, and the model promises {promised}"));
                }
            }
            Edit::Insert { outputs, .. } => {
                for output in outputs {
                    if let Output::Old(value) = output
                        && graph.value(*value).role() != Role::Computed
                    {
                        return Err(format!("{:?} is not computed", graph.value(*value).name()));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Names of the operators that the patch's new operators stand for.
struct Names {
    first: String,
    origin: Vec<Arc<str>>,
}

impl Names {
    fn of(graph: &Graph, ops: &[OpId]) -> Names {
        let mut origin: Vec<Arc<str>> = Vec::new();
        for &op in ops {
            let op = graph.op(op);
            let own =
                (op.notes.origin.is_empty() && !op.name.is_empty()).then(|| Arc::from(op.name.as_str()));
            for name in own.into_iter().chain(op.notes.origin.iter().cloned()) {
                if !origin.contains(&name) {
                    origin.push(name);
                }
            }
        }
        Names { first: ops.first().map_or_else(String::new, |&op| graph.op(op).name.clone()), origin }
    }
}

struct Work<'a> {
    model: &'a mut Model,
    graph: GraphId,
    made: Vec<ValueId>,
    touched: Touched,
}

impl Work<'_> {
    fn graph(&self) -> &Graph {
        self.model.graph(self.graph)
    }

    fn graph_mut(&mut self) -> &mut Graph {
        self.model.graph_mut(self.graph)
    }

    fn value(&self, reference: Ref) -> Result<ValueId, String> {
        match reference {
            Ref::Old(value) => Ok(value),
            Ref::New(at) => {
                self.made.get(at).copied().ok_or_else(|| "a value is read before it is made".into())
            }
        }
    }

    fn values(&self, references: &[Option<Ref>]) -> Result<Vec<Option<ValueId>>, String> {
        references.iter().map(|slot| slot.map(|r| self.value(r)).transpose()).collect()
    }

    fn fresh(&mut self, hint: &str) -> Arc<str> {
        fresh_name(self.model, self.graph, hint)
    }

    fn edit(&mut self, edit: Edit, names: &Names) -> Result<(), String> {
        match edit {
            Edit::Constant { hint, data } => {
                let name = self.fresh(&hint);
                let value = self.graph_mut().add_initializer(&name, data).map_err(|e| e.to_string())?;
                self.made.push(value);
            }
            Edit::Insert { near, op, inputs, outputs } => self.insert(near, *op, &inputs, outputs, names)?,
            Edit::Redirect { old, new } => {
                let new = self.value(new)?;
                if !self.graph_mut().redirect(old, new) {
                    return Err("an output of the graph cannot be redirected".to_string());
                }
                self.touched.values.push(new);
                self.touched.loose.push(old);
            }
            Edit::Fold { value, data } => {
                self.touched.idle.extend(self.graph().producer(value).map(|(op, _)| op));
                let graph = self.graph_mut();
                graph.make_constant(value, data);
                if !graph.is_output(value) {
                    // A constant's data say all that its type could.
                    graph.value_mut(value).ty = None;
                }
                self.touched.values.push(value);
            }
            Edit::Inputs { op, inputs } => {
                let inputs = self.values(&inputs)?;
                let old = self.graph().op_inputs(op);
                self.touched.loose.extend(old.iter().flatten());
                let graph = self.graph_mut();
                for (at, &input) in inputs.iter().enumerate() {
                    if old.get(at).copied() != Some(input) {
                        graph.set_input(op, at, input);
                    }
                }
                graph.truncate_inputs(op, inputs.len());
                self.touched.ops.push(op);
            }
            Edit::Kind { op, kind } => {
                self.graph_mut().op_mut(op).kind = kind;
                self.touched.ops.push(op);
            }
            Edit::Attr { op, name, value } => {
                let attrs = &mut self.graph_mut().op_mut(op).attrs;
                match value {
                    Some(value) => attrs.set(name, value),
                    None => drop(attrs.remove(name)),
                }
                self.touched.ops.push(op);
            }
            Edit::Retype { value, ty } => {
                self.graph_mut().value_mut(value).ty = ty;
                self.touched.values.push(value);
            }
            Edit::Rename { op, name } => self.graph_mut().op_mut(op).name = name,
            Edit::Remove { op } => self.touched.idle.push(op),
            Edit::Drop { value } => self.touched.loose.push(value),
        }
        Ok(())
    }

    fn insert(
        &mut self,
        near: OpId,
        mut op: Op,
        inputs: &[Option<Ref>],
        outputs: Vec<Output>,
        names: &Names,
    ) -> Result<(), String> {
        let inputs = self.values(inputs)?;
        let mut slots = Vec::with_capacity(outputs.len());
        let mut fresh = None;
        for output in outputs {
            slots.push(match output {
                Output::Gap => None,
                Output::Old(value) => {
                    if let Some((producer, at)) = self.graph().producer(value) {
                        self.graph_mut().set_op_output(producer, at, None).map_err(|e| e.to_string())?;
                        self.touched.idle.push(producer);
                    }
                    self.touched.values.push(value);
                    Some(value)
                }
                Output::New { hint, ty } => {
                    let name = self.fresh(&hint);
                    let value = self.graph_mut().add_computed(&name, ty).map_err(|e| e.to_string())?;
                    self.made.push(value);
                    fresh = Some(name);
                    Some(value)
                }
            });
        }
        if op.name.is_empty() {
            // The operator that writes the old value takes the old name; helpers are named after what they write.
            op.name = fresh.map_or_else(|| names.first.clone(), |name| name.to_string());
        }
        if op.notes.origin != names.origin {
            op.notes.origin = names.origin.clone();
        }
        let id =
            self.graph_mut().add_op(op, &inputs, &slots, Place::Near(near)).map_err(|e| e.to_string())?;
        self.touched.ops.push(id);
        Ok(())
    }
}

/// Removes operators and constants that the patch left without a reader, and what only they needed.
fn clean(graph: &mut Graph, touched: &mut Touched) {
    loop {
        if let Some(value) = touched.loose.pop() {
            if !graph.is_live_value(value) || graph.is_used(value) {
                continue;
            }
            match graph.producer(value) {
                Some((op, _)) => touched.idle.push(op),
                None if graph.value(value).role() == Role::Initializer
                    || graph.value(value).role() == Role::Computed =>
                {
                    graph.remove_value(value);
                }
                None => {}
            }
        } else if let Some(op) = touched.idle.pop() {
            if !graph.is_live(op) || graph.op_outputs(op).iter().flatten().any(|&v| graph.is_used(v)) {
                continue;
            }
            remove(graph, op, touched);
        } else {
            return;
        }
    }
}

fn remove(graph: &mut Graph, op: OpId, touched: &mut Touched) {
    let mut read: Vec<ValueId> = graph.op_inputs(op).into_iter().flatten().collect();
    read.extend(graph.captures(op).into_iter().map(|(_, _, outer)| outer));
    graph.remove_op(op);
    for value in read {
        touched.loose.push(value);
        // A value that lost a reader may now have a single one: whoever makes it or reads it may look again.
        touched.values.push(value);
    }
}

/// The operators that may be worth another look after a patch: writers and readers of what it touched.
pub(super) fn neighbours(graph: &Graph, touched: &Touched) -> Vec<OpId> {
    const MANY: usize = 16;
    let mut around: Vec<OpId> = touched.ops.iter().copied().filter(|&op| graph.is_live(op)).collect();
    let mut values: Vec<ValueId> = touched.values.clone();
    for &op in &around {
        values.extend(graph.op_outputs(op).into_iter().flatten());
        values.extend(graph.op_inputs(op).into_iter().flatten());
    }
    for value in values {
        if !graph.is_live_value(value) {
            continue;
        }
        around.extend(graph.producer(value).map(|(op, _)| op));
        // A constant shared by thousands of operators would make every patch visit all of them.
        around.extend(
            graph.some_uses(value, MANY).into_iter().filter(|u| matches!(u.slot, Slot::In(_))).map(|u| u.op),
        );
    }
    around.sort_unstable();
    around.dedup();
    around
}
