//! Merges chains of `Relu` and `Clip` into one.
//!
//! ```text
//! t = Relu(x)
//! y = Clip(t, -1, 6)    =>   y = Clip(x, 0, 6)
//! ```
//!
//! Both limit from below and above; a chain limits to the intersection. `Relu` limits to [0, infinity). Two `Relu`
//! become one, everything else a `Clip`. NaN is passed on by both in either form.
//!
//! Declines: bounds that are not constant; bounds that cross (then the order matters); a first operator that something
//! else reads, since the second could no longer be done in place. `Clip` took integers only from version 12 on, `Relu`
//! from version 14: a merge keeps to one of the two operators that were there, and so to its types.

use ir::{AttrValue, Model, Op, OpId, ValueId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{
    Changes, Cx, OrNoMatch, Pass, PassError, Patch, Rule, Scope, Skip, apply_rules, matches,
};
use crate::{forms, numbers};

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeClips {}

impl Pass for MergeClips {
    fn name(&self) -> &'static str {
        "merge_clips"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        apply_rules(self.name(), &[&Pair], model, cx)
    }
}

struct Pair;

const CLAMPS: &[OpName] = &[OpName::onnx("Relu"), OpName::onnx("Clip")];

impl Rule for Pair {
    fn name(&self) -> &'static str {
        "pair"
    }

    fn roots(&self) -> &'static [OpName] {
        CLAMPS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let (middle, y) = (scope.input(at, 0).or_no_match()?, scope.output(at, 0).or_no_match()?);
        let (first, _) = scope.producer(middle).or_no_match()?;
        let key = scope.graph().op(first).kind.key();
        matches(CLAMPS.iter().any(|op| (op.domain, op.name) == key))?;
        let x = scope.input(first, 0).or_no_match()?;
        let (inner, outer) = (bounds(scope, first)?, bounds(scope, at)?);
        if scope.sole_use(middle).is_none() {
            return Err(scope.because(at, "something else reads what is limited first"));
        }
        let crosses = |(low, high): (f64, f64)| low > high;
        let joined = (inner.0.max(outer.0), inner.1.min(outer.1));
        if crosses(inner) || crosses(outer) || crosses(joined) {
            return Err(scope.because(at, "the bounds cross"));
        }
        let mut patch = Patch::instead_of(&[at, first]);
        let both_relu = [first, at].iter().all(|&op| scope.graph().op(op).kind.is("Relu"));
        if both_relu {
            patch.produce(at, Op::new("Relu"), &[Some(x.into())], &[Some(y)]);
            return Ok(patch);
        }
        clip(scope, at, x, y, joined, &mut patch)?;
        Ok(patch)
    }
}

fn bounds(scope: Scope, op: OpId) -> Result<(f64, f64), Skip> {
    if scope.graph().op(op).kind.is("Relu") {
        return Ok((0.0, f64::INFINITY));
    }
    let (low, high) = (forms::float(scope, op, "min", 1)?, forms::float(scope, op, "max", 2)?);
    let (low, high) = (low.unwrap_or(f64::NEG_INFINITY), high.unwrap_or(f64::INFINITY));
    match low.is_nan() || high.is_nan() {
        true => Err(scope.because(op, "a bound is NaN")),
        false => Ok((low, high)),
    }
}

fn clip(
    scope: Scope,
    at: OpId,
    x: ValueId,
    y: ValueId,
    (low, high): (f64, f64),
    patch: &mut Patch,
) -> Result<(), Skip> {
    if scope.opset() < 11 {
        let mut op = Op::new("Clip");
        for (name, bound) in [("min", low), ("max", high)] {
            if bound.is_finite() {
                op.attrs.set(name, AttrValue::Float(bound as f32));
            }
        }
        patch.produce(at, op, &[Some(x.into())], &[Some(y)]);
        return Ok(());
    }
    let dtype = scope.dtype(x).ok_or_else(|| scope.because(at, "the type is not known"))?;
    let name = scope.graph().value(y).name().clone();
    let mut bound = |suffix: &str, value: f64| -> Result<_, Skip> {
        if !value.is_finite() {
            return Ok(None);
        }
        // Every bound was read from a constant of this type, or is the zero of Relu.
        let tensor = numbers::from_numbers(dtype, &[], &[value]);
        let tensor = tensor.ok_or_else(|| scope.because(at, format!("no constant of type {dtype}")))?;
        Ok(Some(patch.constant(&format!("{name}_{suffix}"), tensor)))
    };
    let (low, high) = (bound("min", low)?, bound("max", high)?);
    let mut inputs = vec![Some(x.into()), low, high];
    while inputs.last() == Some(&None) {
        inputs.pop();
    }
    patch.produce(at, Op::new("Clip"), &inputs, &[Some(y)]);
    Ok(())
}
