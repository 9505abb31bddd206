//! Removes arithmetic that changes nothing.
//!
//! ```text
//! t = Mul(x, {1})
//! u = Neg(Neg(t))     =>   y = Relu(x)
//! y = Relu(u)
//! ```
//!
//! - `neutral`: adding or subtracting 0, multiplying by or dividing by 1, the power of 1, and with true, or with false.
//! - `inverse`: `Neg` of `Neg`, `Not` of `Not`, `Reciprocal` is none: it rounds.
//! - `repeated`: `Floor`, `Ceil`, `Round`, `Sign`, `Abs` and `Relu` of themselves;
//! - `negated`: `Where` of a `Not` picks the other way round;
//! - `ranked`: `ArgMax` along the axis of the `Softmax` or `LogSoftmax` before it, which keep the order: of two elements
//!   that only rounding made equal the larger one is found;
//! - `chosen`: `Where` whose condition is constant and picks one side everywhere.
//!
//! The constant must not widen the shape: a scalar, or sizes that the other operand is known to have. NaN and infinities
//! pass through all of these unchanged. -0 + 0 is +0: adding +0 to a float is removed unless `keep_signed_zeros` is set,
//! subtracting +0 and adding -0 always.
//!
//! Declines: a constant that may widen the shape; results and inputs that are both part of the graph's interface.

use ir::{Model, OpId, ValueId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{
    Changes, Cx, OrNoMatch, Pass, PassError, Patch, Rule, Scope, Skip, apply_rules, matches,
};
use crate::{forms, numbers};

/// Options.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EliminateArithmetic {
    /// Keep what makes +0 of -0.
    keep_signed_zeros: bool,
}

impl Pass for EliminateArithmetic {
    fn name(&self) -> &'static str {
        "eliminate_arithmetic"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        let neutral = Neutral { keep_signed_zeros: self.keep_signed_zeros };
        apply_rules(self.name(), &[&neutral, &Inverse, &Repeated, &Negated, &Ranked, &Chosen], model, cx)
    }
}

struct Neutral {
    keep_signed_zeros: bool,
}

impl Rule for Neutral {
    fn name(&self) -> &'static str {
        "neutral"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[
            OpName::onnx("Add"),
            OpName::onnx("Sub"),
            OpName::onnx("Mul"),
            OpName::onnx("Div"),
            OpName::onnx("Pow"),
            OpName::onnx("And"),
            OpName::onnx("Or"),
        ];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let kind = &*scope.graph().op(at).kind.name;
        let commutes = matches!(kind, "Add" | "Mul" | "And" | "Or");
        let (a, b) = (scope.input(at, 0).or_no_match()?, scope.input(at, 1).or_no_match()?);
        let (x, constant) = match (scope.constant(b), scope.constant(a)) {
            (Some(constant), _) => (a, constant),
            (None, Some(constant)) if commutes => (b, constant),
            _ => return Err(Skip::NoMatch),
        };
        let value = numbers::splat(constant).or_no_match()?;
        let wanted = match kind {
            "Mul" | "Div" | "Pow" | "And" => 1.0,
            _ => 0.0,
        };
        matches(value == wanted)?;
        // Pow takes its type from the base, so the exponent's may differ; all others have one type.
        if constant.dtype().is_float() && kind == "Add" && value.is_sign_positive() && self.keep_signed_zeros
        {
            return Err(scope.because(at, "it makes +0 of -0"));
        }
        // Before version 7, broadcasting was one-sided and asked for by an attribute: the first operand's shape stays.
        matches(scope.opset() >= 7 || x == a)?;
        if scope.opset() >= 7 && !forms::keeps_shape(scope, x, constant.dims()) {
            return Err(scope.because(at, "the constant may widen the shape"));
        }
        pass_on(scope, at, x)
    }
}

struct Inverse;

impl Rule for Inverse {
    fn name(&self) -> &'static str {
        "inverse"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("Neg"), OpName::onnx("Not")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let middle = scope.input(at, 0).or_no_match()?;
        let first = scope.producer_is(middle, &scope.graph().op(at).kind.name).or_no_match()?;
        pass_on(scope, at, scope.input(first, 0).or_no_match()?)
    }
}

struct Repeated;

impl Rule for Repeated {
    fn name(&self) -> &'static str {
        "repeated"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[
            OpName::onnx("Floor"),
            OpName::onnx("Ceil"),
            OpName::onnx("Round"),
            OpName::onnx("Sign"),
            OpName::onnx("Abs"),
            OpName::onnx("Relu"),
        ];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let middle = scope.input(at, 0).or_no_match()?;
        scope.producer_is(middle, &scope.graph().op(at).kind.name).or_no_match()?;
        pass_on(scope, at, middle)
    }
}

struct Negated;

impl Rule for Negated {
    fn name(&self) -> &'static str {
        "negated"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("Where")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let condition = scope.input(at, 0).or_no_match()?;
        let not = scope.producer_is(condition, "Not").or_no_match()?;
        let inputs = [scope.input(not, 0), scope.input(at, 2), scope.input(at, 1)];
        let mut patch = Patch::default();
        patch.inputs(at, &inputs.map(|slot| slot.map(Into::into)));
        Ok(patch)
    }
}

struct Ranked;

impl Rule for Ranked {
    fn name(&self) -> &'static str {
        "ranked"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("ArgMax")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let middle = scope.input(at, 0).or_no_match()?;
        let (first, _) = scope.producer(middle).or_no_match()?;
        let node = scope.graph().op(first);
        matches(node.kind.is("Softmax") || node.kind.is("LogSoftmax"))?;
        let x = scope.input(first, 0).or_no_match()?;
        let rank = scope.rank(x).ok_or_else(|| scope.because(at, "the rank is not known"))?;
        let axis = |op: OpId, default: i64| {
            forms::axis(scope.graph().op(op).attrs.int("axis").unwrap_or(default), rank)
        };
        // Before version 13 a Softmax flattens: all behind its axis is one.
        let flattens = scope.opset() < 13;
        let along = axis(first, if flattens { 1 } else { -1 });
        let other = flattens && along.is_none_or(|axis| axis + 1 != rank);
        if axis(at, 0).is_none() || axis(at, 0) != along || other {
            return Err(scope.because(at, "it goes along another axis"));
        }
        let mut patch = Patch::default();
        patch.inputs(at, &[Some(x.into())]);
        Ok(patch)
    }
}

struct Chosen;

impl Rule for Chosen {
    fn name(&self) -> &'static str {
        "chosen"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("Where")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let choice = scope.constant_input(at, 0).and_then(numbers::splat).or_no_match()?;
        let x = scope.input(at, if choice != 0.0 { 1 } else { 2 }).or_no_match()?;
        if !forms::same_shape(scope, x, scope.output(at, 0).or_no_match()?) {
            return Err(scope.because(at, "the side that is picked may be widened"));
        }
        pass_on(scope, at, x)
    }
}

fn pass_on(scope: Scope, at: OpId, x: ValueId) -> Result<Patch, Skip> {
    let y = scope.output(at, 0).or_no_match()?;
    scope.can_redirect(at, y, x)?;
    let mut patch = Patch::default();
    patch.redirect(y, x);
    Ok(patch)
}
