//! Folds constant additions and multiplications behind a linear operator into its bias and weight.
//!
//! ```text
//! t = Conv(x, w, b)
//! u = Mul(t, {s: [C,1,1]})    =>   y = Conv(x, w * s, b * s + a)
//! y = Add(u, {a: [C,1,1]})
//! ```
//!
//! - `add`: `Add` or `Sub` of a constant that varies along the output channels only, behind `Conv`, `ConvTranspose`,
//!   `Gemm` or a `BatchNormalization` in inference. The sum of two biases is computed in f64 and rounded once. Exact where there was no bias.
//! - `scale`: `Mul` or `Div` by such a constant, also behind a `MatMul` with a constant weight matrix. The weight is
//!   computed in f64 and rounded once, so results differ in the last bits.
//!
//! Declines: weights that are not constant (`scale`); a linear result that something else reads; constants of another
//! shape or that widen the result; results that do not fit the type; `Gemm` with `beta` other than 1 (`add`).
//!
//! Stands behind `fuse_batch_norm`.

use ir::{Model, Op, OpId, Tensor, ValueId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{
    Changes, Cx, OrNoMatch, Pass, PassError, Patch, Ref, Rule, Scope, Skip, apply_rules, matches,
};
use crate::weights::{Linear, finite, per_channel};
use crate::{forms, numbers};

/// Options.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FuseBias {
    /// Fold multiplications, which changes weights.
    scale: bool,
}

impl Default for FuseBias {
    fn default() -> FuseBias {
        FuseBias { scale: true }
    }
}

impl Pass for FuseBias {
    fn name(&self) -> &'static str {
        "fuse_bias"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        let rules: &[&dyn Rule] = if self.scale { &[&Add, &Scale] } else { &[&Add] };
        apply_rules(self.name(), rules, model, cx)
    }
}

/// An element-wise operator of a linear result and a constant.
struct Behind<'a> {
    linear: OpId,
    middle: ValueId,
    y: ValueId,
    constant: &'a Tensor,
}

fn behind<'a>(scope: Scope<'a>, at: OpId, kinds: &[&str], commutes: bool) -> Result<Behind<'a>, Skip> {
    matches(scope.opset() >= 7)?;
    let (a, b) = (scope.input(at, 0).or_no_match()?, scope.input(at, 1).or_no_match()?);
    let (middle, constant) = match (scope.constant(b), scope.constant(a)) {
        (Some(constant), None) => (a, constant),
        (None, Some(constant)) if commutes => (b, constant),
        _ => return Err(Skip::NoMatch),
    };
    let (linear, _) = scope.producer(middle).or_no_match()?;
    let kind = &scope.graph().op(linear).kind;
    matches(kinds.iter().any(|name| kind.is(name)))?;
    if kind.is("BatchNormalization") && !infers(scope, linear) {
        return Err(scope.because(at, "the normalization is in training mode, or one of each element"));
    }
    if scope.sole_use(middle).is_none() {
        return Err(scope.because(at, "something else reads the linear result"));
    }
    if !forms::keeps_shape(scope, middle, constant.dims()) && constant.elements() > 1 {
        // The channels may be a dimension whose size only the weight tells.
        if scope.rank(middle).is_none_or(|rank| constant.rank() > rank) {
            return Err(scope.because(at, "the constant may widen the result"));
        }
    }
    Ok(Behind { linear, middle, y: scope.output(at, 0).or_no_match()?, constant })
}

/// A `BatchNormalization` that is a factor and a summand a channel, with a single result.
fn infers(scope: Scope, op: OpId) -> bool {
    let node = scope.graph().op(op);
    let others = scope.op_outputs(op).into_iter().skip(1).flatten().any(|value| scope.is_used(value));
    node.attrs.int("training_mode").unwrap_or(0) == 0 && node.attrs.int("spatial") != Some(0) && !others
}

struct Add;

impl Rule for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("Add"), OpName::onnx("Sub")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let subtracts = scope.graph().op(at).kind.is("Sub");
        let found = behind(scope, at, &["Conv", "ConvTranspose", "Gemm", "BatchNormalization"], !subtracts)?;
        let linear = Linear::of(scope, found.linear)?;
        let node = scope.graph().op(found.linear);
        if node.kind.is("Gemm") && linear.bias.is_some() && node.attrs.float("beta").unwrap_or(1.0) != 1.0 {
            return Err(scope.because(at, "beta of the Gemm is not 1"));
        }
        let added = per_channel(scope, found.middle, found.constant, linear.axis, linear.channels)
            .ok_or_else(|| scope.because(at, "the constant does not vary along the channels only"))?;
        let bias =
            linear.bias_values().ok_or_else(|| scope.because(found.linear, "its bias has another shape"))?;
        let sign = if subtracts { -1.0 } else { 1.0 };
        let sum: Vec<f64> = bias.iter().zip(&added).map(|(b, a)| b + sign * a).collect();
        let sum = numbers::from_floats(linear.dtype(), &[linear.channels], &sum).and_then(finite);
        let sum = sum.ok_or_else(|| scope.because(at, "the sum is not finite"))?;
        let mut patch = Patch::instead_of(&[found.linear, at]);
        let name = bias_name(scope, &linear);
        let bias = patch.constant(&name, sum);
        let mut op = Op::of(node.kind.clone()).with_attrs(node.attrs.clone());
        // Without a bias, beta scaled nothing.
        op.attrs.remove("beta");
        let inputs =
            [scope.input(found.linear, 0), scope.input(found.linear, 1)].map(|slot| slot.map(Ref::Old));
        let mut inputs = vec![inputs[0], inputs[1], Some(bias)];
        inputs.extend(rest(scope, found.linear));
        patch.produce(at, op, &inputs, &[Some(found.y)]);
        Ok(patch)
    }
}

/// The operands behind the bias: statistics of a normalization.
fn rest(scope: Scope, linear: OpId) -> impl Iterator<Item = Option<Ref>> {
    scope.op_inputs(linear).into_iter().skip(3).map(|slot| slot.map(Ref::Old))
}

fn bias_name(scope: Scope, linear: &Linear) -> String {
    match (scope.input(linear.op, 2), scope.input(linear.op, 1)) {
        (Some(bias), _) => scope.graph().value(bias).name().to_string(),
        (_, Some(weight)) => format!("{}_bias", scope.graph().value(weight).name()),
        _ => "bias".to_string(),
    }
}

struct Scale;

impl Rule for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("Mul"), OpName::onnx("Div")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let divides = scope.graph().op(at).kind.is("Div");
        let found =
            behind(scope, at, &["Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"], !divides)?;
        let linear = Linear::of(scope, found.linear)?;
        let factors = per_channel(scope, found.middle, found.constant, linear.axis, linear.channels)
            .ok_or_else(|| scope.because(at, "the constant does not vary along the channels only"))?;
        let factors: Vec<f64> = if divides { factors.iter().map(|f| 1.0 / f).collect() } else { factors };
        let overflow = || scope.because(at, format!("the result does not fit {}", linear.dtype()));
        let weight = linear.scaled(&factors).ok_or_else(overflow)?;
        let node = scope.graph().op(found.linear);
        let mut patch = Patch::instead_of(&[found.linear, at]);
        let weight_name = scope.input(found.linear, 1).map(|value| scope.graph().value(value).name().clone());
        let weight = patch.constant(&weight_name.unwrap_or_default(), weight);
        let mut inputs = vec![scope.input(found.linear, 0).map(Ref::Old), Some(weight)];
        if linear.bias.is_some() {
            let bias = linear
                .bias_values()
                .ok_or_else(|| scope.because(found.linear, "its bias has another shape"))?;
            let bias: Vec<f64> = bias.iter().zip(&factors).map(|(b, f)| b * f).collect();
            let bias = numbers::from_floats(linear.dtype(), &[linear.channels], &bias).and_then(finite);
            inputs.push(Some(patch.constant(&bias_name(scope, &linear), bias.ok_or_else(overflow)?)));
        }
        inputs.extend(rest(scope, found.linear));
        let op = Op::of(node.kind.clone()).with_attrs(node.attrs.clone());
        patch.produce(at, op, &inputs, &[Some(found.y)]);
        Ok(patch)
    }
}
