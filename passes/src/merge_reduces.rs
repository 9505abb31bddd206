//! Lets a reduction keep or drop its dimensions itself, and reduce all of them at once.
//!
//! ```text
//! t = ReduceMax(x, {3})
//! y = ReduceMax(t, {2})                     =>   y = ReduceMax(x, {2, 3})
//!
//! t = ReduceMean <keepdims = 0> (x, {1})
//! y = Unsqueeze(t, {1})                     =>   y = ReduceMean <keepdims = 1> (x, {1})
//!
//! t = ArgMax <axis = 1, keepdims = 1> (x)
//! y = Squeeze(t, {1})                       =>   y = ArgMax <axis = 1, keepdims = 0> (x)
//! ```
//!
//! - `keepdims`: `Squeeze` and `Unsqueeze` of the reduced dimensions;
//! - `chain`: two of a kind that both keep or both drop dimensions, where the whole is the reduction of parts. Of floats
//!   the order of a sum changes, and with it the last bit.
//!
//! Declines: axes that are not constant, or not those that were reduced; means of integers, which are rounded; a reduction that something else reads; a rank
//! that is not known where an axis is negative.

use ir::{AttrValue, Model, OpId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{
    Changes, Cx, OrNoMatch, Pass, PassError, Patch, Rule, Scope, Skip, apply_rules, matches,
};
use crate::{forms, numbers};

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeReduces {}

impl Pass for MergeReduces {
    fn name(&self) -> &'static str {
        "merge_reduces"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        apply_rules(self.name(), &[&Keepdims, &Chain], model, cx)
    }
}

const REDUCTIONS: &[&str] = &[
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
];

struct Keepdims;

impl Rule for Keepdims {
    fn name(&self) -> &'static str {
        "keepdims"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("Squeeze"), OpName::onnx("Unsqueeze")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let (middle, y) = (scope.input(at, 0).or_no_match()?, scope.output(at, 0).or_no_match()?);
        let (reduce, _) = scope.producer(middle).or_no_match()?;
        let node = scope.graph().op(reduce);
        let chooses = node.kind.is("ArgMax") || node.kind.is("ArgMin");
        matches(chooses || REDUCTIONS.iter().any(|name| node.kind.is(name)))?;
        let keeps = node.attrs.int("keepdims").unwrap_or(1) != 0;
        matches(keeps == scope.graph().op(at).kind.is("Squeeze"))?;
        if scope.sole_use(middle).is_none() {
            return Err(scope.because(at, "something else reads the reduction"));
        }
        let rank = scope.input(reduce, 0).and_then(|x| scope.rank(x));
        let rank = rank.ok_or_else(|| scope.because(at, "the rank of what is reduced is not known"))?;
        let reduced = match chooses {
            true => Some(vec![node.attrs.int("axis").unwrap_or(0)]),
            false => forms::ints(scope, reduce, "axes", 1)?,
        };
        // Without axes everything is reduced, or nothing: not worth the difference.
        let reduced = reduced.filter(|axes| !axes.is_empty()).or_no_match()?;
        let moved = forms::ints(scope, at, "axes", 1)?.or_no_match()?;
        let (reduced, moved) = (forms::axes(&reduced, rank), forms::axes(&moved, rank));
        if reduced.is_none() || reduced != moved {
            return Err(scope.because(at, "it does not concern the axes that were reduced"));
        }
        let mut op = node.clone();
        op.attrs.set("keepdims", AttrValue::Int(i64::from(!keeps)));
        let inputs: Vec<_> = scope.op_inputs(reduce).into_iter().map(|slot| slot.map(Into::into)).collect();
        let mut patch = Patch::instead_of(&[reduce, at]);
        patch.produce(at, op, &inputs, &[Some(y)]);
        Ok(patch)
    }
}

struct Chain;

impl Rule for Chain {
    fn name(&self) -> &'static str {
        "chain"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[
            OpName::onnx("ReduceL1"),
            OpName::onnx("ReduceL2"),
            OpName::onnx("ReduceLogSumExp"),
            OpName::onnx("ReduceMax"),
            OpName::onnx("ReduceMean"),
            OpName::onnx("ReduceMin"),
            OpName::onnx("ReduceProd"),
            OpName::onnx("ReduceSum"),
        ];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let (middle, y) = (scope.input(at, 0).or_no_match()?, scope.output(at, 0).or_no_match()?);
        let node = scope.graph().op(at);
        let first = scope.producer_is(middle, &node.kind.name).or_no_match()?;
        let keeps = |op: OpId| scope.graph().op(op).attrs.int("keepdims").unwrap_or(1) != 0;
        matches(keeps(first) == keeps(at))?;
        if scope.sole_use(middle).is_none() {
            return Err(scope.because(at, "something else reads the first reduction"));
        }
        let x = scope.input(first, 0).or_no_match()?;
        if node.kind.is("ReduceMean") && !scope.dtype(x).is_some_and(|dtype| dtype.is_compute_float()) {
            return Err(scope.because(at, "a mean of integers is rounded"));
        }
        let rank = scope.rank(x).ok_or_else(|| scope.because(at, "the rank is not known"))?;
        // Without axes everything is reduced, or nothing.
        let given = |op: OpId| -> Result<Vec<i64>, Skip> {
            forms::ints(scope, op, "axes", 1)?.filter(|axes| !axes.is_empty()).or_no_match()
        };
        let wrong = || scope.because(at, "its axes are not valid");
        let mut axes = forms::axes(&given(first)?, rank).ok_or_else(wrong)?;
        // What the second one counts: all dimensions, or those that the first has left.
        let left: Vec<usize> = (0..rank).filter(|axis| keeps(first) || !axes.contains(axis)).collect();
        let more = forms::axes(&given(at)?, left.len()).ok_or_else(wrong)?;
        axes.extend(more.into_iter().map(|axis| left[axis]));
        axes.sort_unstable();
        axes.dedup();
        let axes: Vec<i64> = axes.into_iter().map(|axis| axis as i64).collect();
        let mut patch = Patch::instead_of(&[at, first]);
        let mut op = node.clone();
        let mut inputs = vec![Some(x.into())];
        if op.attrs.ints("axes").is_some() {
            op.attrs.set("axes", AttrValue::Ints(axes));
        } else {
            let hint = format!("{}_axes", scope.graph().value(y).name());
            inputs.push(Some(patch.constant(&hint, numbers::vector(&axes))));
        }
        patch.produce(at, op, &inputs, &[Some(y)]);
        Ok(patch)
    }
}
