//! Merges a `Concat` into the `Concat` that reads it, and drops what adds nothing.
//!
//! ```text
//! t = Concat <axis = 1> (a, b)
//! y = Concat <axis = 1> (t, c)    =>   y = Concat <axis = 1> (a, b, c)
//! ```
//!
//! - `nested`: same axis, and nothing else reads the inner one.
//! - `empty`: an input that is known to have size zero on the axis is left out, as long as another input stays.
//!
//! Declines: an inner result that something else reads; axes counted from different ends where the rank is not known.

use ir::{Dim, Model, OpId, ValueId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{
    Changes, Cx, OrNoMatch, Pass, PassError, Patch, Ref, Rule, Scope, Skip, apply_rules, matches,
};
use crate::forms;

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeConcats {}

impl Pass for MergeConcats {
    fn name(&self) -> &'static str {
        "merge_concats"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        apply_rules(self.name(), &[&Nested, &Empty], model, cx)
    }
}

const ROOTS: &[OpName] = &[OpName::onnx("Concat")];

struct Nested;

impl Rule for Nested {
    fn name(&self) -> &'static str {
        "nested"
    }

    fn roots(&self) -> &'static [OpName] {
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let inputs = scope.op_inputs(at);
        let inner =
            inputs.iter().flatten().find_map(|&value| Some((value, scope.producer_is(value, "Concat")?)));
        let (value, inner) = inner.or_no_match()?;
        let axis = |op: OpId| scope.graph().op(op).attrs.int("axis").unwrap_or(1);
        let rank = scope.rank(value);
        let place = |op: OpId| rank.and_then(|rank| forms::axis(axis(op), rank));
        let same = axis(inner) == axis(at) || (place(inner).is_some() && place(inner) == place(at));
        if !same {
            return Err(scope.because(at, "the axes differ, or may"));
        }
        if scope.sole_use(value).is_none() {
            return Err(scope.because(at, "something else reads the inner one"));
        }
        let mut all: Vec<Option<Ref>> = Vec::new();
        for input in inputs {
            match input == Some(value) {
                true => all.extend(scope.op_inputs(inner).into_iter().map(|slot| slot.map(Ref::Old))),
                false => all.push(input.map(Ref::Old)),
            }
        }
        let mut patch = Patch::default();
        patch.inputs(at, &all);
        Ok(patch)
    }
}

struct Empty;

impl Rule for Empty {
    fn name(&self) -> &'static str {
        "empty"
    }

    fn roots(&self) -> &'static [OpName] {
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let axis = scope.graph().op(at).attrs.int("axis").unwrap_or(1);
        let inputs = scope.op_inputs(at);
        let empty = |value: ValueId| {
            let shape = scope.shape(value);
            shape.is_some_and(|shape| {
                forms::axis(axis, shape.rank()).is_some_and(|axis| shape.dims[axis] == Dim::Known(0))
            })
        };
        let kept: Vec<Option<Ref>> =
            inputs.iter().filter(|slot| !slot.is_some_and(empty)).map(|slot| slot.map(Ref::Old)).collect();
        matches(kept.len() < inputs.len() && !kept.is_empty())?;
        let mut patch = Patch::default();
        patch.inputs(at, &kept);
        Ok(patch)
    }
}
