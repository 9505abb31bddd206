//! Merges chains of operators that only regroup elements into one `Reshape`.
//!
//! ```text
//! t = Unsqueeze(x, {1})
//! u = Reshape(t, {0, -1, 64})    =>   y = Reshape(x, {2, -1})
//! y = Flatten(u)
//! ```
//!
//! `Reshape`, `Flatten`, `Squeeze` and `Unsqueeze` keep the elements in order, and so does a `Transpose` that moves
//! dimensions of size 1 only, so only the last shape counts. It must be
//! known up to one dimension, which becomes -1. A dimension that the last shape shares, by expression, with the same
//! place of the first becomes 0 where a second one is not a number.
//!
//! The operator before must have no other reader, or the last be a `Reshape` already (then it costs no more).
//!
//! Declines: a last shape with two open dimensions; a dimension of zero beside an open one; results that are read by
//! others in between, where nothing would be saved.
//!
//! Stands behind `infer_shapes` and `merge_squeezes`, which needs no shapes.

use ir::{Dim, Model, Op, OpId, Shape};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{
    Changes, Cx, OrNoMatch, Pass, PassError, Patch, Rule, Scope, Skip, apply_rules, matches,
};
use crate::{forms, numbers};

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeReshapes {}

impl Pass for MergeReshapes {
    fn name(&self) -> &'static str {
        "merge_reshapes"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        apply_rules(self.name(), &[&Chain], model, cx)
    }
}

struct Chain;

const REGROUP: &[OpName] = &[
    OpName::onnx("Reshape"),
    OpName::onnx("Flatten"),
    OpName::onnx("Squeeze"),
    OpName::onnx("Unsqueeze"),
    OpName::onnx("Transpose"),
];

fn regroups(scope: Scope, op: OpId) -> bool {
    let kind = &scope.graph().op(op).kind;
    let key = kind.key();
    REGROUP.iter().any(|op| (op.domain, op.name) == key) && (!kind.is("Transpose") || keeps_order(scope, op))
}

/// The dimensions that the `Transpose` moves are of size 1.
fn keeps_order(scope: Scope, op: OpId) -> bool {
    let Some(shape) = scope.input(op, 0).and_then(|x| scope.shape(x)) else { return false };
    let Ok(perm) = forms::permutation(scope, op) else { return false };
    let real = |axis: &usize| shape.dims.get(*axis).is_some_and(|dim| *dim != Dim::Known(1));
    perm.len() == shape.rank() && perm.into_iter().filter(real).is_sorted()
}

impl Rule for Chain {
    fn name(&self) -> &'static str {
        "chain"
    }

    fn roots(&self) -> &'static [OpName] {
        REGROUP
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        matches(scope.opset() >= 5)?;
        let (middle, y) = (scope.input(at, 0).or_no_match()?, scope.output(at, 0).or_no_match()?);
        let (first, _) = scope.producer(middle).or_no_match()?;
        matches(regroups(scope, first) && regroups(scope, at))?;
        let x = scope.input(first, 0).or_no_match()?;
        // If the operator before stays, a Squeeze that became a Reshape would be no gain.
        if scope.sole_use(middle).is_none() && !scope.graph().op(at).kind.is("Reshape") {
            return Err(scope.because(at, "something else reads the value between"));
        }
        let to = scope.shape(y).ok_or_else(|| scope.because(at, "the shape of the result is not known"))?;
        let from = scope.shape(x);
        let target = target(from.as_ref(), &to).map_err(|why| scope.because(at, why))?;
        let mut patch = Patch::instead_of(&[at, first]);
        let hint = format!("{}_shape", scope.graph().value(y).name());
        let shape = patch.constant(&hint, numbers::vector(&target));
        patch.produce(at, Op::new("Reshape"), &[Some(x.into()), Some(shape)], &[Some(y)]);
        Ok(patch)
    }
}

/// The target of a `Reshape` from one shape to another.
fn target(from: Option<&Shape>, to: &Shape) -> Result<Vec<i64>, String> {
    let open = to.dims.iter().filter(|dim| dim.known().is_none()).count();
    if to.dims.contains(&Dim::Known(0)) {
        return Err("the result is empty".to_string());
    }
    let mut target = Vec::with_capacity(to.rank());
    let mut rest = 0;
    for (at, dim) in to.dims.iter().enumerate() {
        target.push(match dim {
            Dim::Known(size) => *size,
            // With a single open dimension -1 is enough, and safe when it is zero.
            Dim::Symbol(_) if open > 1 && from.and_then(|shape| shape.dims.get(at)) == Some(dim) => 0,
            _ => {
                rest += 1;
                -1
            }
        });
    }
    match rest <= 1 {
        true => Ok(target),
        false => Err(format!("{rest} dimensions of the result are not known")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(dims: &str) -> Shape {
        Shape::new(dims.split(' ').map(|dim| match dim.parse() {
            Ok(size) => Dim::Known(size),
            Err(_) if dim == "?" => Dim::Unknown,
            Err(_) => Dim::symbol(dim),
        }))
    }

    #[test]
    fn targets_hold_one_open_dimension() {
        assert_eq!(target(None, &shape("2 3")).unwrap(), [2, 3]);
        assert_eq!(target(None, &shape("N 3")).unwrap(), [-1, 3]);
        assert_eq!(target(Some(&shape("N 3")), &shape("N 3 1")).unwrap(), [-1, 3, 1]);
        assert_eq!(target(Some(&shape("N L 6")), &shape("N L 2 3")).unwrap(), [0, 0, 2, 3]);
        assert_eq!(target(Some(&shape("N L 6")), &shape("N 2 ? 3")).unwrap(), [0, 2, -1, 3]);
        assert!(target(Some(&shape("N L 6")), &shape("L N 6")).is_err());
        assert!(target(None, &shape("? ?")).is_err());
        assert!(target(None, &shape("N 0")).is_err());
    }
}
