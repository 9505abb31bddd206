//! Folds a `BatchNormalization` into the linear operator before it.
//!
//! ```text
//! t = Conv(x, w)
//! y = BatchNormalization(t, gamma, beta, mean, var)    =>   y = Conv(x, w', b')
//! ```
//!
//! With `s = gamma / sqrt(var + epsilon)`, `w' = w * s` for each output channel and `b' = (b - mean) * s + beta`. Computed
//! in f64 and rounded once to the type of the weight, also for half precision.
//!
//! Before: `Conv`, `ConvTranspose`, `Gemm`, and `MatMul` of two matrices, which becomes a `Gemm`.
//!
//! Declines: weights or statistics that are not constant; a linear result that something else reads; training mode or
//! statistics that are read; factors that are not finite; a weight that would overflow its type.
//!
//! Stands behind `fold_constants`, which computes weights, and before `fuse_bias`. Quantizers want it done.

use ir::{Model, Op, OpId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{
    Changes, Cx, OrNoMatch, Pass, PassError, Patch, Ref, Rule, Scope, Skip, apply_rules, matches,
};
use crate::numbers;
use crate::weights::{Linear, finite};

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FuseBatchNorm {}

impl Pass for FuseBatchNorm {
    fn name(&self) -> &'static str {
        "fuse_batch_norm"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        apply_rules(self.name(), &[&IntoLinear], model, cx)
    }
}

struct IntoLinear;

impl Rule for IntoLinear {
    fn name(&self) -> &'static str {
        "into_linear"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("BatchNormalization")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let middle = scope.input(at, 0).or_no_match()?;
        let (first, _) = scope.producer(middle).or_no_match()?;
        let kind = scope.graph().op(first).kind.clone();
        matches(["Conv", "ConvTranspose", "Gemm", "MatMul"].iter().any(|name| kind.is(name)))?;
        let linear = Linear::of(scope, first)?;
        if scope.sole_use(middle).is_none() {
            return Err(scope.because(at, "something else reads the linear result"));
        }
        if linear.axis.is_none() && scope.rank(middle) != Some(2) {
            return Err(scope.because(at, "the linear result is not known to be a matrix"));
        }
        let (scale, shift) = affine(scope, at, linear.channels)?;
        let overflow = || scope.because(at, format!("the result does not fit {}", linear.dtype()));
        // Gemm scales its parts: y = alpha * x w + beta * b.
        let beta = match kind.is("Gemm") {
            true => f64::from(scope.graph().op(first).attrs.float("beta").unwrap_or(1.0)),
            false => 1.0,
        };
        let bias = linear.bias_values().ok_or_else(|| scope.because(first, "its bias has another shape"))?;
        let bias: Vec<f64> = (0..linear.channels).map(|c| beta * bias[c] * scale[c] + shift[c]).collect();
        let weight = linear.scaled(&scale).ok_or_else(overflow)?;
        let bias = numbers::from_floats(linear.dtype(), &[linear.channels], &bias);
        let bias = bias.and_then(finite).ok_or_else(overflow)?;

        let mut patch = Patch::instead_of(&[first, at]);
        let g = scope.graph();
        let weight_name =
            scope.input(first, 1).map(|value| g.value(value).name().clone()).unwrap_or_default();
        let y = scope.output(at, 0).or_no_match()?;
        let weight = patch.constant(&weight_name, weight);
        let bias_hint = match scope.input(first, 2) {
            Some(bias) => g.value(bias).name().to_string(),
            None => format!("{weight_name}_bias"),
        };
        let bias = patch.constant(&bias_hint, bias);
        let mut op = Op::of(kind.clone()).with_attrs(g.op(first).attrs.clone());
        if kind.is("Gemm") {
            op.attrs.remove("beta");
        }
        if kind.is("MatMul") {
            op = Op::new("Gemm");
        }
        let x = scope.input(first, 0).map(Ref::Old);
        patch.produce(at, op, &[x, Some(weight), Some(bias)], &[Some(y)]);
        Ok(patch)
    }
}

/// The normalization as one factor and one summand a channel.
fn affine(scope: Scope, at: OpId, channels: usize) -> Result<(Vec<f64>, Vec<f64>), Skip> {
    let node = scope.graph().op(at);
    if node.attrs.int("training_mode").unwrap_or(0) != 0 {
        return Err(scope.because(at, "it is in training mode"));
    }
    if scope.opset() < 7 && node.attrs.int("is_test").unwrap_or(0) == 0
        || node.attrs.int("spatial") == Some(0)
    {
        return Err(scope.because(at, "it normalizes by its own statistics, or each element"));
    }
    if scope.op_outputs(at).iter().skip(1).flatten().any(|&value| scope.is_used(value)) {
        return Err(scope.because(at, "its statistics are read"));
    }
    let epsilon = f64::from(node.attrs.float("epsilon").unwrap_or(1e-5));
    let read = |slot: usize, name: &str| {
        let tensor = scope.constant_input(at, slot).and_then(numbers::floats);
        let values = tensor.ok_or_else(|| scope.because(at, format!("its {name} is not constant")))?;
        match values.len() == channels {
            true => Ok(values),
            false => Err(scope.because(at, format!("its {name} does not have {channels} elements"))),
        }
    };
    let (gamma, beta) = (read(1, "scale")?, read(2, "bias")?);
    let (mean, variance) = (read(3, "mean")?, read(4, "variance")?);
    let scale: Vec<f64> = (0..channels).map(|c| gamma[c] / (variance[c] + epsilon).sqrt()).collect();
    let shift: Vec<f64> = (0..channels).map(|c| beta[c] - mean[c] * scale[c]).collect();
    match scale.iter().chain(&shift).all(|value| value.is_finite()) {
        true => Ok((scale, shift)),
        false => Err(scope.because(at, "a factor is not finite")),
    }
}
