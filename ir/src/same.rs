//! Structural equality of models: [`Model::same`].
//!
//! Two models are the same if they say the same: every field, every graph with its operators in order, every value by
//! its name. Ids, the order of constants and the order in which values were created do not matter, nor how a file
//! spelled things ([`crate::Spelling`], [`crate::Encoding`], [`crate::Listing`]), [`crate::Stray`]s, [`Op::origin`],
//! and captured values that nothing reads.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use thiserror::Error;

use crate::{
    AttrValue, Attrs, Function, Graph, GraphId, Location, Model, Op, OpId, Role, Shape, SparseTensor, Tensor,
    TensorNotes, TensorType, Type, TypeKind, Value, ValueId,
};

/// Where two models differ first, in the words of the left one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{at}{}{what}", if at.graph.is_some() { ": " } else { "" })]
pub struct Difference {
    /// The place in the left model.
    pub at: Location,
    /// What differs, and how.
    pub what: Box<str>,
}

type Result = std::result::Result<(), Difference>;

impl Model {
    /// The two models say the same; see the head of this file for what counts.
    pub fn same(&self, other: &Model) -> std::result::Result<(), Difference> {
        let at = Location::default;
        equal(at, "ir_version", &self.ir_version, &other.ir_version)?;
        equal(at, "opsets", &self.opsets, &other.opsets)?;
        equal(at, "producer_name", &self.producer_name, &other.producer_name)?;
        equal(at, "producer_version", &self.producer_version, &other.producer_version)?;
        equal(at, "domain", &self.domain, &other.domain)?;
        equal(at, "model_version", &self.model_version, &other.model_version)?;
        equal(at, "doc", &self.doc, &other.doc)?;
        equal(at, "metadata", &self.metadata, &other.metadata)?;
        equal(at, "opaque fields", &self.opaque, &other.opaque)?;
        let names = |model: &Model| -> Vec<(String, String, String)> {
            let key = |f: &Function| (f.domain.clone(), f.name.clone(), f.overload.clone());
            model.functions.iter().map(key).collect()
        };
        equal(at, "functions", &names(self), &names(other))?;
        Pair { left: self, right: other }.graphs(self.main, other.main, true)?;
        for (left, right) in self.functions.iter().zip(&other.functions) {
            Pair { left: self, right: other }.functions(left, right)?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Pair<'m> {
    left: &'m Model,
    right: &'m Model,
}

fn differ(at: Location, what: impl Into<Box<str>>) -> Result {
    Err(Difference { at, what: what.into() })
}

fn equal<T: PartialEq + Debug>(at: impl FnOnce() -> Location, what: &str, left: &T, right: &T) -> Result {
    if left == right { Ok(()) } else { differ(at(), format!("{what}: {} and {}", short(left), short(right))) }
}

fn short(value: &impl Debug) -> String {
    const LONGEST: usize = 200;
    let text = format!("{value:?}");
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl<'m> Pair<'m> {
    fn functions(self, left: &Function, right: &Function) -> Result {
        let at = || Location::graph(self.left.graph(left.graph));
        equal(at, "attributes", &left.attrs, &right.attrs)?;
        equal(at, "opsets", &left.opsets, &right.opsets)?;
        equal(at, "doc", &left.doc, &right.doc)?;
        equal(at, "metadata", &left.metadata, &right.metadata)?;
        self.attrs(at, &left.defaults, &right.defaults)?;
        // Name and notes of the body are the function's.
        self.graphs(left.graph, right.graph, false)
    }

    fn graphs(self, left: GraphId, right: GraphId, named: bool) -> Result {
        let sides = Sides {
            pair: self,
            ids: [left, right],
            graphs: [self.left.graph(left), self.right.graph(right)],
        };
        sides.compare(named)
    }

    fn attrs(self, at: impl Fn() -> Location + Copy, left: &Attrs, right: &Attrs) -> Result {
        let names = |attrs: &Attrs| attrs.iter().map(|attr| attr.name.clone()).collect::<Vec<_>>();
        equal(at, "attributes", &names(left), &names(right))?;
        for (left, right) in left.iter().zip(right.iter()) {
            let what = |part: &str| format!("{part}attribute {:?}", left.name);
            equal(at, &what("doc of "), &left.doc, &right.doc)?;
            match (&left.value, &right.value) {
                (AttrValue::Graph(l), AttrValue::Graph(r)) => self.graphs(*l, *r, true)?,
                (AttrValue::Graphs(l), AttrValue::Graphs(r)) if l.len() == r.len() => {
                    l.iter().zip(r).try_for_each(|(l, r)| self.graphs(*l, *r, true))?;
                }
                (l, r) if attr_values_equal(l, r) => {}
                (l, r) => return differ(at(), format!("{}: {} and {}", what(""), short(l), short(r))),
            }
        }
        Ok(())
    }
}

/// One graph of each model.
struct Sides<'m> {
    pair: Pair<'m>,
    ids: [GraphId; 2],
    graphs: [&'m Graph; 2],
}

impl<'m> Sides<'m> {
    fn at(&self) -> Location {
        Location::graph(self.graphs[0]).within(self.pair.left, self.ids[0])
    }

    fn compare(&self, named: bool) -> Result {
        let [left, right] = self.graphs;
        let at = || self.at();
        if named {
            equal(at, "graph name", &left.name, &right.name)?;
            equal(at, "doc", &left.doc, &right.doc)?;
            equal(at, "metadata", &left.metadata, &right.metadata)?;
        }
        equal(at, "annotations", &left.annotations, &right.annotations)?;
        self.lists("inputs", Graph::inputs)?;
        self.lists("outputs", Graph::outputs)?;
        self.values()?;
        let [mut left_ops, mut right_ops] = [left.ops().into_iter(), right.ops().into_iter()];
        loop {
            match (left_ops.next(), right_ops.next()) {
                (None, None) => return Ok(()),
                (Some(l), Some(r)) => self.ops(l, r)?,
                (Some(l), None) => {
                    return differ(Location::op(left, l), "an operator that the other has not");
                }
                (None, Some(r)) => {
                    return differ(
                        at(),
                        format!("the other has an operator more: {}", Location::op(right, r)),
                    );
                }
            }
        }
    }

    /// The outer name of a captured value, the value's own otherwise.
    fn name(&self, side: usize, value: ValueId) -> Arc<str> {
        let model = if side == 0 { self.pair.left } else { self.pair.right };
        let (mut id, mut value) = (self.ids[side], value);
        while model.graph(id).value(value).role() == Role::Captured {
            let Some(outer) = model.outer(id, value) else { break };
            (id, value) = outer;
        }
        model.graph(id).value(value).name().clone()
    }

    fn names(&self, side: usize, values: &[Option<ValueId>]) -> Vec<Arc<str>> {
        values.iter().map(|slot| slot.map_or_else(|| Arc::from(""), |value| self.name(side, value))).collect()
    }

    fn lists(&self, what: &str, list: fn(&Graph) -> &[ValueId]) -> Result {
        let [left, right] = [0, 1].map(|side| {
            let values: Vec<_> = list(self.graphs[side]).iter().copied().map(Some).collect();
            self.names(side, &values)
        });
        equal(|| self.at(), what, &left, &right)
    }

    fn by_name(&self, side: usize) -> BTreeMap<Arc<str>, ValueId> {
        let graph = self.graphs[side];
        let counts = |&value: &ValueId| graph.value(value).role() != Role::Captured || graph.is_used(value);
        graph.values().filter(counts).map(|value| (self.name(side, value), value)).collect()
    }

    fn values(&self) -> Result {
        let [left, right] = [self.by_name(0), self.by_name(1)];
        for (name, &l) in &left {
            let at = || Location::value(self.graphs[0], l).within(self.pair.left, self.ids[0]);
            match right.get(name) {
                Some(&r) => value(at, self.graphs[0].value(l), self.graphs[1].value(r))?,
                None => return differ(at(), "a value that the other has not"),
            }
        }
        match right.keys().find(|name| !left.contains_key(*name)) {
            Some(name) => differ(self.at(), format!("the other has the value {name:?} more")),
            None => Ok(()),
        }
    }

    fn ops(&self, left: OpId, right: OpId) -> Result {
        let at = || Location::op(self.graphs[0], left).within(self.pair.left, self.ids[0]);
        let [l, r]: [&Op; 2] = [self.graphs[0].op(left), self.graphs[1].op(right)];
        equal(at, "kind", &l.kind, &r.kind)?;
        equal(at, "node name", &l.name, &r.name)?;
        equal(at, "doc", &l.notes.doc, &r.notes.doc)?;
        equal(at, "metadata", &l.notes.metadata, &r.notes.metadata)?;
        equal(at, "opaque fields", &l.notes.opaque, &r.notes.opaque)?;
        let inputs = [(0, left), (1, right)].map(|(s, op)| self.names(s, &self.graphs[s].op_inputs(op)));
        equal(at, "inputs", &inputs[0], &inputs[1])?;
        let outputs = [(0, left), (1, right)].map(|(s, op)| self.names(s, &self.graphs[s].op_outputs(op)));
        equal(at, "outputs", &outputs[0], &outputs[1])?;
        self.pair.attrs(at, &l.attrs, &r.attrs)
    }
}

fn value(at: impl Fn() -> Location + Copy, left: &Value, right: &Value) -> Result {
    equal(at, "role", &left.role, &right.role)?;
    equal(at, "type", &left.ty.as_ref().map(normal_type), &right.ty.as_ref().map(normal_type))?;
    equal(at, "doc", &left.notes.doc, &right.notes.doc)?;
    equal(at, "metadata", &left.notes.metadata, &right.notes.metadata)?;
    if !option_equal(&left.data, &right.data, |l, r| tensors_equal(l, r, false)) {
        return differ(at(), format!("elements: {} and {}", short(&left.data), short(&right.data)));
    }
    if !option_equal(&left.sparse, &right.sparse, |l, r| sparse_equal(l, r)) {
        return differ(
            at(),
            format!("sparse elements: {} and {}", short(&left.sparse), short(&right.sparse)),
        );
    }
    Ok(())
}

/// Denotations that say nothing are none.
fn normal_type(ty: &Type) -> Type {
    let tensor = |tensor: &TensorType| {
        let shape = tensor.shape.as_ref().map(|shape| {
            let none = shape.denotations.iter().all(String::is_empty);
            Shape { denotations: if none { Vec::new() } else { shape.denotations.clone() }, ..shape.clone() }
        });
        TensorType { dtype: tensor.dtype, shape }
    };
    let kind = match &ty.kind {
        TypeKind::Tensor(inner) => TypeKind::Tensor(tensor(inner)),
        TypeKind::Sparse(inner) => TypeKind::Sparse(tensor(inner)),
        TypeKind::Sequence(inner) => TypeKind::Sequence(Box::new(normal_type(inner))),
        TypeKind::Optional(inner) => TypeKind::Optional(Box::new(normal_type(inner))),
        TypeKind::Map { key, value } => TypeKind::Map { key: *key, value: Box::new(normal_type(value)) },
        other => other.clone(),
    };
    let mut normal = Type::new(kind);
    normal.denotation = ty.denotation.clone();
    normal
}

fn option_equal<T>(left: &Option<T>, right: &Option<T>, equal: impl FnOnce(&T, &T) -> bool) -> bool {
    match (left, right) {
        (Some(left), Some(right)) => equal(left, right),
        (left, right) => left.is_none() && right.is_none(),
    }
}

/// An initializer's tensor is named by its value; only one in an attribute has a name of its own.
fn tensors_equal(left: &Tensor, right: &Tensor, named: bool) -> bool {
    let notes = |tensor: &Tensor| {
        let mut notes = tensor.notes.as_deref().cloned().unwrap_or_default();
        if !named {
            notes.name = TensorNotes::default().name;
        }
        notes
    };
    left.dtype() == right.dtype()
        && left.dims() == right.dims()
        && left.data() == right.data()
        && notes(left) == notes(right)
}

fn sparse_equal(left: &SparseTensor, right: &SparseTensor) -> bool {
    left.dims == right.dims
        && tensors_equal(&left.values, &right.values, true)
        && tensors_equal(&left.indices, &right.indices, true)
}

/// Floats by their bits: not-a-number is the same as itself, zero is not the same as minus zero.
fn attr_values_equal(left: &AttrValue, right: &AttrValue) -> bool {
    fn all<T>(left: &[T], right: &[T], equal: impl Fn(&T, &T) -> bool) -> bool {
        left.len() == right.len() && left.iter().zip(right).all(|(l, r)| equal(l, r))
    }
    let bits = |l: &f32, r: &f32| l.to_bits() == r.to_bits();
    let tensors = |l: &Tensor, r: &Tensor| tensors_equal(l, r, true);
    match (left, right) {
        (AttrValue::Float(l), AttrValue::Float(r)) => bits(l, r),
        (AttrValue::Floats(l), AttrValue::Floats(r)) => all(l, r, bits),
        (AttrValue::Tensor(l), AttrValue::Tensor(r)) => tensors(l, r),
        (AttrValue::Tensors(l), AttrValue::Tensors(r)) => all(l, r, tensors),
        (AttrValue::Sparse(l), AttrValue::Sparse(r)) => sparse_equal(l, r),
        (AttrValue::Sparses(l), AttrValue::Sparses(r)) => all(l, r, sparse_equal),
        (AttrValue::Type(l), AttrValue::Type(r)) => normal_type(l) == normal_type(r),
        (AttrValue::Types(l), AttrValue::Types(r)) => all(l, r, |l, r| normal_type(l) == normal_type(r)),
        (left, right) => left == right,
    }
}
