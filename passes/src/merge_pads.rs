//! Merges a `Pad` of a `Pad` into one where both fill in the same constant.
//!
//! ```text
//! t = Pad(x, {0, 1, 0, 1})
//! y = Pad(t, {1, 0, 1, 0})   =>   y = Pad(x, {1, 1, 1, 1})
//! ```
//!
//! Declines: other modes than `constant`, different values, pads that are not constant or negative (cutting does not
//! commute with filling in), a first result that something else reads.

use ir::{AttrValue, Model, Op, OpId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{Changes, Cx, OrNoMatch, Pass, PassError, Patch, Rule, Scope, Skip, apply_rules};
use crate::{forms, numbers};

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergePads {}

impl Pass for MergePads {
    fn name(&self) -> &'static str {
        "merge_pads"
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
        const ROOTS: &[OpName] = &[OpName::onnx("Pad")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let (middle, y) = (scope.input(at, 0).or_no_match()?, scope.output(at, 0).or_no_match()?);
        let first = scope.producer_is(middle, "Pad").or_no_match()?;
        let x = scope.input(first, 0).or_no_match()?;
        let (inner, outer) = (forms::Pad::of(scope, first)?, forms::Pad::of(scope, at)?);
        if scope.sole_use(middle).is_none() {
            return Err(scope.because(at, "something else reads the first result"));
        }
        if inner.mode != "constant" || outer.mode != "constant" || inner.value != outer.value {
            return Err(scope.because(at, "the two fill in different values"));
        }
        let amounts = || inner.before.iter().chain(&inner.behind).chain(&outer.before).chain(&outer.behind);
        if amounts().any(|&amount| amount < 0) || inner.before.len() != outer.before.len() {
            return Err(scope.because(at, "one of them cuts, or the ranks differ"));
        }
        let both = || inner.before.iter().chain(&inner.behind).zip(outer.before.iter().chain(&outer.behind));
        let pads: Option<Vec<i64>> = both().map(|(a, b)| a.checked_add(*b)).collect();
        let pads = pads.ok_or_else(|| scope.because(at, "the pads overflow"))?;
        let mut patch = Patch::instead_of(&[at, first]);
        // Everything but the amounts, and axes that no longer hold, is taken from the second.
        let mut op = Op::new("Pad").with_attrs(scope.graph().op(at).attrs.clone());
        if scope.opset() < 11 {
            op.attrs.remove("paddings");
            op.attrs.set("pads", AttrValue::Ints(pads));
            patch.produce(at, op, &[Some(x.into())], &[Some(y)]);
            return Ok(patch);
        }
        let hint = format!("{}_pads", scope.graph().value(y).name());
        let mut inputs = vec![Some(x.into()), Some(patch.constant(&hint, numbers::vector(&pads)))];
        inputs.extend(scope.input(at, 2).map(|value| Some(value.into())));
        patch.produce(at, op, &inputs, &[Some(y)]);
        Ok(patch)
    }
}
