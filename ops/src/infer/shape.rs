//! Shapes: broadcasting, axes, merging two opinions about one value.

use ir::{Dim, Shape, TensorType, Type, TypeKind, TypeParts};

use crate::infer::CONTENTS_LIMIT;
use crate::kernel::broadcast;

/// The size of a dimension that both sizes broadcast to; none if they cannot.
///
/// One of two unequal sizes must be 1: where one is a number other than 1, the result is that number. Where neither is a
/// number nothing can be said, unless they are equal.
pub fn broadcast_dim(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a, b) {
        (Dim::Known(1), other) | (other, Dim::Known(1)) => Some(other.clone()),
        (Dim::Known(x), Dim::Known(y)) => (x == y).then_some(Dim::Known(*x)),
        (Dim::Known(x), _) | (_, Dim::Known(x)) => Some(Dim::Known(*x)),
        (a, b) if a == b => Some(a.clone()),
        _ => Some(Dim::Unknown),
    }
}

/// Numpy broadcasting; none if the shapes do not broadcast.
pub fn broadcast(a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let gap = long.len() - short.len();
    let mut dims: Vec<Dim> = long[..gap].to_vec();
    for (x, y) in long[gap..].iter().zip(short) {
        dims.push(broadcast_dim(x, y)?);
    }
    Some(dims)
}

/// Numpy broadcasting of sizes; none if they do not broadcast.
pub fn broadcast_sizes(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let mut dims = long.to_vec();
    for (x, &y) in dims[long.len() - short.len()..].iter_mut().zip(short) {
        match (*x, y) {
            (x, y) if x == y => {}
            (1, y) => *x = y,
            (_, 1) => {}
            _ => return None,
        }
    }
    Some(dims)
}

/// The contents of a small tensor of sizes `from`, broadcast to `dims`; none if that does not fit or is not small.
pub fn spread(contents: &[Dim], from: &[usize], dims: &[usize]) -> Option<Vec<Dim>> {
    let small = ir::checked_elements(dims).is_ok_and(|elements| elements <= CONTENTS_LIMIT);
    if !small || broadcast_sizes(from, dims)? != dims {
        return None;
    }
    broadcast::sources(from, dims).into_iter().map(|at| contents.get(at).cloned()).collect()
}

/// An axis that may be negative, as an index below `rank`.
pub fn axis(axis: i64, rank: usize) -> Option<usize> {
    let rank_i64 = i64::try_from(rank).ok()?;
    let axis = if axis < 0 { axis.checked_add(rank_i64)? } else { axis };
    usize::try_from(axis).ok().filter(|&axis| axis < rank)
}

/// `[2, seq, ?]`.
pub fn show(dims: &[Dim]) -> String {
    format!("[{}]", dims.iter().map(Dim::to_string).collect::<Vec<_>>().join(", "))
}

/// A type for messages.
pub fn show_type(ty: &Type) -> String {
    match &ty.kind {
        TypeKind::Tensor(tensor) => show_tensor(tensor),
        TypeKind::Sparse(tensor) => format!("a sparse {}", show_tensor(tensor)),
        TypeKind::Sequence(inner) => format!("a sequence of {}", show_type(inner)),
        TypeKind::Optional(inner) => format!("an optional {}", show_type(inner)),
        TypeKind::Map { value, .. } => format!("a map to {}", show_type(value)),
        TypeKind::Opaque { domain, name } => format!("opaque {domain}.{name}"),
        TypeKind::None => "an unknown type".to_string(),
    }
}

fn show_tensor(tensor: &TensorType) -> String {
    let dtype = tensor.dtype.map_or("tensor".to_string(), |dtype| dtype.to_string());
    format!(
        "{dtype} {}",
        tensor.shape.as_ref().map_or("of unknown rank".to_string(), |shape| show(&shape.dims))
    )
}

/// Both opinions about one size hold: the better one; none if they contradict each other.
pub fn merge_dim(inferred: &Dim, declared: &Dim) -> Option<Dim> {
    match (inferred, declared) {
        (Dim::Known(a), Dim::Known(b)) => (a == b).then_some(Dim::Known(*a)),
        (Dim::Known(_), _) | (Dim::Symbol(_), Dim::Symbol(_) | Dim::Unknown) => Some(inferred.clone()),
        _ => Some(declared.clone()),
    }
}

/// Both opinions about one type hold: the better one of every part; none if they contradict each other.
pub fn merge(inferred: &Type, declared: &Type) -> Option<Type> {
    let kind = match (&inferred.kind, &declared.kind) {
        (TypeKind::None, other) | (other, TypeKind::None) => other.clone(),
        (TypeKind::Tensor(a), TypeKind::Tensor(b)) => TypeKind::Tensor(merge_tensor(a, b)?),
        (TypeKind::Sparse(a), TypeKind::Sparse(b)) => TypeKind::Sparse(merge_tensor(a, b)?),
        (TypeKind::Sequence(a), TypeKind::Sequence(b)) => TypeKind::Sequence(Box::new(merge(a, b)?)),
        (TypeKind::Optional(a), TypeKind::Optional(b)) => TypeKind::Optional(Box::new(merge(a, b)?)),
        (a, b) if a == b => a.clone(),
        (TypeKind::Map { .. }, TypeKind::Map { .. }) => declared.kind.clone(),
        _ => return None,
    };
    if kind == declared.kind {
        return Some(declared.clone());
    }
    Some(TypeParts { kind, denotation: declared.denotation.clone(), spelling: declared.spelling }.into())
}

fn merge_tensor(a: &TensorType, b: &TensorType) -> Option<TensorType> {
    let dtype = match (a.dtype, b.dtype) {
        (Some(a), Some(b)) if a != b => return None,
        (a, b) => a.or(b),
    };
    let shape = match (&a.shape, &b.shape) {
        (Some(a), Some(b)) => {
            if a.rank() != b.rank() {
                return None;
            }
            let dims: Option<_> = a.dims.iter().zip(&b.dims).map(|(a, b)| merge_dim(a, b)).collect();
            Some(Shape { dims: dims?, denotations: b.denotations.clone() })
        }
        (a, b) => a.clone().or_else(|| b.clone()),
    };
    Some(TensorType { dtype, shape })
}

/// What holds whichever of two opinions is true (branches of a condition); none where they share nothing.
pub fn join(a: &Type, b: &Type) -> Option<Type> {
    let kind = match (&a.kind, &b.kind) {
        (TypeKind::Tensor(a), TypeKind::Tensor(b)) => TypeKind::Tensor(join_tensor(a, b)),
        (TypeKind::Sparse(a), TypeKind::Sparse(b)) => TypeKind::Sparse(join_tensor(a, b)),
        (TypeKind::Sequence(a), TypeKind::Sequence(b)) => TypeKind::Sequence(Box::new(join(a, b)?)),
        (TypeKind::Optional(a), TypeKind::Optional(b)) => TypeKind::Optional(Box::new(join(a, b)?)),
        (a, b) if a == b => a.clone(),
        _ => return None,
    };
    Some(Type::new(kind))
}

fn join_tensor(a: &TensorType, b: &TensorType) -> TensorType {
    let shape = match (&a.shape, &b.shape) {
        (Some(a), Some(b)) if a.rank() == b.rank() => Some(Shape::new(
            a.dims.iter().zip(&b.dims).map(|(a, b)| if a == b { a.clone() } else { Dim::Unknown }),
        )),
        _ => None,
    };
    TensorType { dtype: a.dtype.filter(|_| a.dtype == b.dtype), shape }
}
