//! Folds a constant factor of each input channel into the convolution behind it.
//!
//! ```text
//! t = Mul(x, {s: [1,C,1,1]})
//! y = Conv(t, w, b)            =>   y = Conv(x, w * s, b)
//! ```
//!
//! Behind the `Mul` or `Div`: `Conv` or `ConvTranspose` with a constant weight. Padding with zeros stays padding with
//! zeros. The weight is computed in f64 and rounded once, so results differ in the last bits.
//!
//! Declines: a scaled value that something else reads; constants that vary along more than the channels, or that are not
//! finite; a weight that would overflow its type. A constant summand cannot go the same way: the padding would need it.

use ir::{Model, Op, OpId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{
    Changes, Cx, OrNoMatch, Pass, PassError, Patch, Ref, Rule, Scope, Skip, apply_rules, matches,
};
use crate::weights::{Linear, per_channel};
use crate::{forms, numbers};

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FuseInputScale {}

impl Pass for FuseInputScale {
    fn name(&self) -> &'static str {
        "fuse_input_scale"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        apply_rules(self.name(), &[&IntoConv], model, cx)
    }
}

struct IntoConv;

impl Rule for IntoConv {
    fn name(&self) -> &'static str {
        "into_conv"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("Conv"), OpName::onnx("ConvTranspose")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        matches(scope.opset() >= 7)?;
        let scaled = scope.input(at, 0).or_no_match()?;
        let (scale, _) = scope.producer(scaled).or_no_match()?;
        let divides = scope.graph().op(scale).kind.is("Div");
        matches(divides || scope.graph().op(scale).kind.is("Mul"))?;
        let (a, b) = (scope.input(scale, 0).or_no_match()?, scope.input(scale, 1).or_no_match()?);
        let (x, constant) = match (scope.constant(a), scope.constant(b)) {
            (None, Some(constant)) => (a, constant),
            (Some(constant), None) if !divides => (b, constant),
            _ => return Err(Skip::NoMatch),
        };
        let linear = Linear::of(scope, at)?;
        if scope.sole_use(scaled).is_none() {
            return Err(scope.because(at, "something else reads the scaled value"));
        }
        if !forms::keeps_shape(scope, x, constant.dims()) {
            return Err(scope.because(at, "the constant may widen the value"));
        }
        let node = scope.graph().op(at);
        let dims = linear.weight.dims();
        let group = usize::try_from(node.attrs.int("group").unwrap_or(1)).ok().filter(|&group| group > 0);
        let (group, inner) = (group.or_no_match()?, dims.iter().skip(2).product::<usize>());
        let transposed = node.kind.is("ConvTranspose");
        let channels = if transposed { dims[0] } else { dims[1].saturating_mul(group) };
        let factors = per_channel(scope, x, constant, Some(1), channels)
            .ok_or_else(|| scope.because(at, "the constant does not vary along the channels only"))?;
        let factors: Vec<f64> = if divides { factors.iter().map(|f| 1.0 / f).collect() } else { factors };
        if !factors.iter().all(|factor| factor.is_finite()) {
            return Err(scope.because(at, "a factor is not finite"));
        }
        // [outputs, inputs of the group, ..] or, transposed, [inputs, outputs of the group, ..]
        let of_group = (dims[0] / group).max(1);
        let channel = |run: usize| match transposed {
            true => run / dims[1],
            false => run % dims[1] + run / dims[1] / of_group * dims[1],
        };
        let weight = numbers::scale_runs(linear.weight, inner, |run| factors.get(channel(run)).copied());
        let weight =
            weight.ok_or_else(|| scope.because(at, format!("the result does not fit {}", linear.dtype())))?;
        let mut patch = Patch::instead_of(&[at, scale]);
        let hint = scope.input(at, 1).map(|value| scope.graph().value(value).name().clone());
        let weight = patch.constant(&hint.unwrap_or_default(), weight);
        let inputs = [Some(x.into()), Some(weight), scope.input(at, 2).map(Ref::Old)];
        let used = if inputs[2].is_some() { 3 } else { 2 };
        let op = Op::of(node.kind.clone()).with_attrs(node.attrs.clone());
        patch.produce(at, op, &inputs[..used], &[Some(scope.output(at, 0).or_no_match()?)]);
        Ok(patch)
    }
}
