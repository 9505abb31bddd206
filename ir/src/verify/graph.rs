//! Checks inside one graph: V01 to V10.

use std::collections::HashSet;

use super::{Findings, Invariant};
use crate::op::canonical_domain;
use crate::{
    AttrValue, DType, Dim, Element, Graph, GraphError, GraphId, Location, Role, SparseTensor, TensorType,
    Type, TypeKind, Value, ValueId, version,
};

pub(super) fn values(found: &mut Findings<'_>, id: GraphId) {
    let graph = found.model.graph(id);
    if let Err(GraphError::Cycle(through)) = graph.schedule() {
        found.report_in(id, Invariant::NoCycle, Location::graph(graph), format!("a cycle through {through}"));
    }
    for value_id in graph.values() {
        let value = graph.value(value_id);
        let at = || Location::value(graph, value_id);
        if is_dangling(graph, value_id) {
            let whom = match graph.uses(value_id).first() {
                Some(reader) => format!("it is read at {}", Location::op(graph, reader.op)),
                None => "it is an output of the graph".to_string(),
            };
            found.report_in(id, Invariant::Defined, at(), format!("nothing defines it, and {whom}"));
        }
        if let Some(what) = holds_wrong(value) {
            found.report_in(id, Invariant::Holds, at(), what);
        }
        if let Some(what) = value.ty.as_ref().and_then(|ty| disagreement(value, ty)) {
            found.report_in(id, Invariant::ConstantType, at(), what);
        }
        if let Some(size) = value.ty.as_ref().and_then(negative_size) {
            found.report_in(id, Invariant::Sizes, at(), format!("its type has the size {size}"));
        }
        if let Some(what) = value.sparse.as_deref().and_then(sparse_problem) {
            found.report_in(id, Invariant::Sparse, at(), what);
        }
    }
}

fn is_dangling(graph: &Graph, value: ValueId) -> bool {
    graph.value(value).role() == Role::Computed && graph.producer(value).is_none() && graph.is_used(value)
}

fn holds_wrong(value: &Value) -> Option<&'static str> {
    match (value.role(), value.data.is_some(), value.sparse.is_some()) {
        (Role::Initializer, false, false) => Some("a constant without elements"),
        (_, true, true) => Some("dense and sparse elements at once"),
        (Role::Computed, data, sparse) if data || sparse => Some("a computed value with elements of its own"),
        (Role::Captured, data, sparse) if data || sparse => Some("a captured value with elements of its own"),
        _ => None,
    }
}

/// How the declared type contradicts the elements.
fn disagreement(value: &Value, ty: &Type) -> Option<String> {
    let (dtype, dims): (DType, &[usize]) = match (&value.data, &value.sparse) {
        (Some(data), _) => (data.dtype(), data.dims()),
        (None, Some(sparse)) => (sparse.values.dtype(), &sparse.dims),
        (None, None) => return None,
    };
    let declared = match &ty.kind {
        TypeKind::Tensor(tensor) | TypeKind::Sparse(tensor) => tensor,
        TypeKind::None => return None,
        _ => return Some("it holds a tensor and is declared as something else".to_string()),
    };
    if declared.dtype.is_some_and(|declared| declared != dtype) {
        return Some(format!("it holds {dtype} and is declared {}", crate::text::print_type(ty)));
    }
    let fits = declared.shape.as_ref().is_none_or(|shape| {
        shape.rank() == dims.len()
            && shape.dims.iter().zip(dims).all(|(declared, &size)| match declared {
                Dim::Known(declared) => usize::try_from(*declared) == Ok(size),
                _ => true,
            })
    });
    (!fits).then(|| format!("it holds {dtype}{dims:?} and is declared {}", crate::text::print_type(ty)))
}

fn negative_size(ty: &Type) -> Option<i64> {
    let in_tensor = |tensor: &TensorType| {
        tensor.shape.as_ref()?.dims.iter().find_map(|dim| match dim {
            Dim::Known(size) if *size < 0 => Some(*size),
            _ => None,
        })
    };
    match &ty.kind {
        TypeKind::Tensor(tensor) | TypeKind::Sparse(tensor) => in_tensor(tensor),
        TypeKind::Sequence(inner) | TypeKind::Optional(inner) => negative_size(inner),
        TypeKind::Map { value, .. } => negative_size(value),
        TypeKind::Opaque { .. } | TypeKind::None => None,
    }
}

/// Values `[count]`; indices `[count]`, linear, or `[count, rank]`, one a dimension.
fn sparse_problem(sparse: &SparseTensor) -> Option<String> {
    let SparseTensor { dims, values, indices } = sparse;
    if indices.dtype() != DType::I64 {
        return Some(format!("its indices are {}", indices.dtype()));
    }
    let Some(elements) = dims.iter().try_fold(1usize, |product, &size| product.checked_mul(size)) else {
        return Some(format!("its sizes {dims:?} overflow"));
    };
    let &[count] = values.dims() else {
        return Some(format!("its values have {} dimensions", values.rank()));
    };
    let limits: Vec<usize> = match *indices.dims() {
        [found] if found == count => vec![elements],
        [found, rank] if found == count && rank == dims.len() => dims.to_vec(),
        _ => return Some(format!("{count} values and indices of sizes {:?}", indices.dims())),
    };
    let mut numbers = indices.bytes().chunks_exact(size_of::<i64>()).map(i64::read);
    let inside = |(index, &limit): (i64, &usize)| usize::try_from(index).is_ok_and(|index| index < limit);
    let all_inside = limits.is_empty() || numbers.by_ref().zip(limits.iter().cycle()).all(inside);
    (!all_inside).then(|| format!("an index is outside of {dims:?}"))
}

pub(super) fn ops(found: &mut Findings<'_>, id: GraphId) {
    let graph = found.model.graph(id);
    let function = found.model.function_of(id);
    for op in graph.ops() {
        let attrs = &graph.op(op).attrs;
        if graph.op(op).kind.name.is_empty() {
            found.report_in(id, Invariant::OpName, Location::op(graph, op), "it has no operator type");
        }
        let mut names = HashSet::new();
        for attr in attrs.iter() {
            let at = || Location::attr(graph, op, &attr.name);
            if attr.name.is_empty() {
                found.report_in(id, Invariant::AttrNames, at(), "it has no name");
            } else if !names.insert(&attr.name) {
                found.report_in(id, Invariant::AttrNames, at(), "it is there twice");
            }
            let AttrValue::Reference { name, .. } = &attr.value else { continue };
            match function {
                None => {
                    found.report_in(id, Invariant::Reference, at(), format!("@{name} outside of a function"))
                }
                Some(f) if !f.attrs.contains(name) && f.defaults.get(name).is_none() => {
                    found.report_in(
                        id,
                        Invariant::Reference,
                        at(),
                        format!("the function has no attribute {name:?}"),
                    );
                }
                Some(_) => {}
            }
        }
    }
}

/// V09, where the scope is known.
pub(super) fn imports(found: &mut Findings<'_>, id: GraphId) {
    let graph = found.model.graph(id);
    let opsets = found.model.opsets_of(id);
    let mut missing: HashSet<&str> = HashSet::new();
    for op in graph.ops() {
        let domain = canonical_domain(&graph.op(op).kind.domain);
        if version(opsets, domain).is_none() && missing.insert(domain) {
            let what = format!("no operator set of the domain {domain:?} is imported");
            found.report_in(id, Invariant::Import, Location::op(graph, op), what);
        }
    }
}
