//! Makes `Softmax` and `LogSoftmax` of the operators that spell them out.
//!
//! ```text
//! m = ReduceMax <axes = [-1]> (x)
//! e = Exp(Sub(x, m))
//! s = ReduceSum(e, {-1})           =>   y = Softmax <axis = -1> (x)
//! y = Div(e, s)
//!
//! l = Log(Softmax(x))              =>   l = LogSoftmax(x)
//! ```
//!
//! - `softmax`: the form that subtracts the largest element first, which is what runtimes do. One axis.
//! - `log_softmax`: does not round small probabilities to zero first, so it is finite where the parts gave -infinity.
//!
//! Declines: below operator set 13, where `Softmax` flattened its input; more than one axis; reductions that drop their
//! dimension; parts that something else reads. The form without the largest element overflows where `Softmax` does not,
//! and stays.

use ir::{AttrValue, Model, Op, OpId, ValueId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{
    Changes, Cx, OrNoMatch, Pass, PassError, Patch, Rule, Scope, Skip, apply_rules, matches,
};
use crate::forms;
use crate::pattern::{binary, closed, since, unary};

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecomposeSoftmax {}

impl Pass for RecomposeSoftmax {
    fn name(&self) -> &'static str {
        "recompose_softmax"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        apply_rules(self.name(), &[&Softmax, &LogSoftmax], model, cx)
    }
}

struct Softmax;

impl Rule for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("Div")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let (powers, total) = (scope.input(at, 0).or_no_match()?, scope.input(at, 1).or_no_match()?);
        let (exp, shifted) = unary(scope, powers, "Exp").or_no_match()?;
        let (sum, summed, axis) = reduced(scope, total, "ReduceSum").or_no_match()?;
        let (sub, x, largest) = binary(scope, shifted, "Sub").or_no_match()?;
        let (max, compared, axis_of_max) = reduced(scope, largest, "ReduceMax").or_no_match()?;
        let place = |axis: i64| match scope.rank(x) {
            Some(rank) => forms::axis(axis, rank).map(|axis| axis as i64),
            None => Some(axis),
        };
        matches(summed == powers && compared == x && place(axis) == place(axis_of_max))?;
        since(scope, at, "Softmax along one axis", 13)?;
        let ops = [at, exp, sum, sub, max];
        closed(scope, at, &ops)?;
        let mut patch = Patch::instead_of(&ops);
        let op = Op::new("Softmax").with("axis", AttrValue::Int(axis));
        patch.produce(at, op, &[Some(x.into())], &[scope.output(at, 0)]);
        Ok(patch)
    }
}

/// A reduction of one axis that keeps its dimension, with operand and axis.
fn reduced(scope: Scope, value: ValueId, kind: &str) -> Option<(OpId, ValueId, i64)> {
    let (op, x) = unary(scope, value, kind)?;
    let axes = forms::ints(scope, op, "axes", 1).ok()??;
    let keeps = scope.graph().op(op).attrs.int("keepdims").unwrap_or(1) != 0;
    match axes[..] {
        [axis] if keeps => Some((op, x, axis)),
        _ => None,
    }
}

struct LogSoftmax;

impl Rule for LogSoftmax {
    fn name(&self) -> &'static str {
        "log_softmax"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("Log")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let soft = scope.input(at, 0).or_no_match()?;
        let (softmax, x) = unary(scope, soft, "Softmax").or_no_match()?;
        let ops = [at, softmax];
        closed(scope, at, &ops)?;
        let mut patch = Patch::instead_of(&ops);
        let op = Op::new("LogSoftmax").with_attrs(scope.graph().op(softmax).attrs.clone());
        patch.produce(at, op, &[Some(x.into())], &[scope.output(at, 0)]);
        Ok(patch)
    }
}
