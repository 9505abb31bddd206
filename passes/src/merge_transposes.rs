//! Merges a `Transpose` of a `Transpose` into one.
//!
//! ```text
//! t = Transpose <perm = [0, 2, 1]> (x)
//! y = Transpose <perm = [1, 0, 2]> (t)   =>   y = Transpose <perm = [2, 0, 1]> (x)
//! ```
//!
//! Where the two undo each other, the readers of the second read the input of the first. The first stays if something
//! else reads it; the second is then no more work than before. Declines: ranks that differ or are not known.
//!
//! Stands beside the other merging passes; what they leave may be an identity.

use ir::{AttrValue, Model, Op, OpId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{Changes, Cx, OrNoMatch, Pass, PassError, Patch, Rule, Scope, Skip, apply_rules};
use crate::forms;

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeTransposes {}

impl Pass for MergeTransposes {
    fn name(&self) -> &'static str {
        "merge_transposes"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        apply_rules(self.name(), &[&Pair], model, cx)
    }
}

struct Pair;

impl Rule for Pair {
    fn name(&self) -> &'static str {
        "pair"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("Transpose")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let (middle, y) = (scope.input(at, 0).or_no_match()?, scope.output(at, 0).or_no_match()?);
        let first = scope.producer_is(middle, "Transpose").or_no_match()?;
        let x = scope.input(first, 0).or_no_match()?;
        let (inner, outer) = (forms::permutation(scope, first)?, forms::permutation(scope, at)?);
        let composed: Option<Vec<usize>> = outer.iter().map(|&axis| inner.get(axis).copied()).collect();
        let composed = composed.filter(|all| all.len() == inner.len());
        let composed = composed.ok_or_else(|| scope.because(at, "the ranks differ"))?;
        let undone = composed.iter().enumerate().all(|(axis, &from)| axis == from);
        let mut patch = Patch::instead_of(&[at, first]);
        if undone && scope.can_redirect(at, y, x).is_ok() {
            patch.redirect(y, x);
            return Ok(patch);
        }
        let perm: Vec<i64> = composed.iter().map(|&axis| axis as i64).collect();
        let op = Op::new("Transpose").with("perm", AttrValue::Ints(perm));
        patch.produce(at, op, &[Some(x.into())], &[Some(y)]);
        Ok(patch)
    }
}
