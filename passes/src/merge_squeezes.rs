//! Merges `Squeeze` and `Unsqueeze` behind each other.
//!
//! ```text
//! t = Unsqueeze(x, {0})
//! y = Unsqueeze(t, {3})    =>   y = Unsqueeze(x, {0, 3})
//!
//! t = Unsqueeze(x, {1})
//! y = Squeeze(t, {1})      =>   y is x
//! ```
//!
//! - two of a kind become one;
//! - a `Squeeze` that takes away what the `Unsqueeze` before it put there, and an `Unsqueeze` that puts back what the
//!   `Squeeze` before it took, leave the value as it was.
//!
//! Works without any shape as long as the axes are constant and not negative, else with the rank. Declines: axes that
//! are not constant or not given, pairs that overlap in part (`merge_reshapes` may take them where shapes are known).

use ir::{AttrValue, Model, Op, OpId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{
    Changes, Cx, OrNoMatch, Pass, PassError, Patch, Rule, Scope, Skip, apply_rules, matches,
};
use crate::{forms, numbers};

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeSqueezes {}

impl Pass for MergeSqueezes {
    fn name(&self) -> &'static str {
        "merge_squeezes"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        apply_rules(self.name(), &[&Pair], model, cx)
    }
}

struct Pair;

const KINDS: &[OpName] = &[OpName::onnx("Squeeze"), OpName::onnx("Unsqueeze")];

/// No tensor has more dimensions.
const MAX_RANK: usize = 64;

impl Rule for Pair {
    fn name(&self) -> &'static str {
        "pair"
    }

    fn roots(&self) -> &'static [OpName] {
        KINDS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let (middle, y) = (scope.input(at, 0).or_no_match()?, scope.output(at, 0).or_no_match()?);
        let (first, _) = scope.producer(middle).or_no_match()?;
        let key = scope.graph().op(first).kind.key();
        matches(KINDS.iter().any(|op| (op.domain, op.name) == key))?;
        let x = scope.input(first, 0).or_no_match()?;
        let (inner, outer) = (axes(scope, first)?, axes(scope, at)?);
        let kind = |op: OpId| scope.graph().op(op).kind.is("Squeeze");
        let mut patch = Patch::instead_of(&[at, first]);
        if kind(first) != kind(at) {
            // What is put in and taken out is the same set of axes of the value between.
            if inner != outer {
                return Err(scope.because(at, format!("axes {outer:?} meet axes {inner:?}")));
            }
            scope.can_redirect(at, y, x)?;
            patch.redirect(y, x);
            return Ok(patch);
        }
        let merged = match kind(at) {
            true => squeezed(&inner, &outer),
            false => unsqueezed(&inner, &outer),
        };
        let mut op = Op::new(if kind(at) { "Squeeze" } else { "Unsqueeze" });
        let mut inputs = vec![Some(x.into())];
        match scope.opset() < 13 {
            true => op.attrs.set("axes", AttrValue::Ints(merged)),
            false => {
                let hint = format!("{}_axes", scope.graph().value(y).name());
                inputs.push(Some(patch.constant(&hint, numbers::vector(&merged))));
            }
        }
        patch.produce(at, op, &inputs, &[Some(y)]);
        Ok(patch)
    }
}

/// The axes that are put in or taken out, as sorted indices of the larger tensor.
fn axes(scope: Scope, op: OpId) -> Result<Vec<usize>, Skip> {
    let axes =
        forms::ints(scope, op, "axes", 1)?.ok_or_else(|| scope.because(op, "its axes are not given"))?;
    let wrong = || scope.because(op, "its axes are not valid");
    if axes.iter().all(|&axis| axis >= 0) {
        return forms::axes(&axes, MAX_RANK).ok_or_else(wrong);
    }
    let squeeze = scope.graph().op(op).kind.is("Squeeze");
    let rank = scope.input(op, 0).and_then(|x| scope.rank(x));
    let rank = rank.ok_or_else(|| scope.because(op, "its axes are negative and the rank is not known"))?;
    let rank = if squeeze { rank } else { rank + axes.len() };
    forms::axes(&axes, rank).ok_or_else(wrong)
}

/// Axes of the first tensor that two `Squeeze` take out: `outer` counts what is left after `inner`.
fn squeezed(inner: &[usize], outer: &[usize]) -> Vec<i64> {
    let mut all = inner.to_vec();
    let mut left = (0..).filter(|axis| !inner.contains(axis));
    let mut at = 0;
    for &axis in outer {
        // The axis-th of those that are left.
        all.extend(left.by_ref().nth(axis - at));
        at = axis + 1;
    }
    all.sort_unstable();
    all.into_iter().map(|axis: usize| axis as i64).collect()
}

/// Axes of the last tensor that two `Unsqueeze` put in: `outer` shifts those of `inner`.
fn unsqueezed(inner: &[usize], outer: &[usize]) -> Vec<i64> {
    let mut all = outer.to_vec();
    let mut left = (0..).filter(|axis| !outer.contains(axis));
    let mut at = 0;
    for &axis in inner {
        all.extend(left.by_ref().nth(axis - at));
        at = axis + 1;
    }
    all.sort_unstable();
    all.into_iter().map(|axis: usize| axis as i64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_compose() {
        // (1, a, 1, b, 1) -> (a, 1, b, 1) -> (a, b)
        assert_eq!(squeezed(&[0], &[1, 3]), [0, 2, 4]);
        assert_eq!(squeezed(&[0, 2], &[2]), [0, 2, 4]);
        // (a, b) -> (1, a, b) -> (1, 1, a, b, 1)
        assert_eq!(unsqueezed(&[0], &[1, 4]), [0, 1, 4]);
        assert_eq!(unsqueezed(&[0], &[0]), [0, 1]);
        assert_eq!(unsqueezed(&[1], &[0]), [0, 2]);
    }
}
