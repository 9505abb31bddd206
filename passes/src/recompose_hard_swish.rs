//! Makes `HardSigmoid` and `HardSwish` of the operators that spell them out.
//!
//! ```text
//! a = Add(x, {3})
//! b = Clip(a, 0, 6)       =>   g = HardSigmoid <alpha = 1/6, beta = 0.5> (x)
//! g = Div(b, {6})
//!
//! y = Mul(x, g)           =>   y = HardSwish(x)
//! ```
//!
//! - `hard_sigmoid`: `clip(x + 3, 0, 6) / 6`;
//! - `hard_swish`: `x` times that sigmoid, also written as `x * clip(x + 3, 0, 6) / 6`. Operator set 14.
//!
//! Declines: below the operator set that has the operator; other constants; parts that something else reads; element
//! types other than f32, f16 and f64.

use ir::{AttrValue, DType, Model, Op, OpId, ValueId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{
    Changes, Cx, OrNoMatch, Pass, PassError, Patch, Rule, Scope, Skip, apply_rules, matches,
};
use crate::forms;
use crate::pattern::{Product, close, closed, divided, since, with_number};

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecomposeHardSwish {}

impl Pass for RecomposeHardSwish {
    fn name(&self) -> &'static str {
        "recompose_hard_swish"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        apply_rules(self.name(), &[&HardSwish, &HardSigmoid], model, cx)
    }
}

const ROOTS: &[OpName] = &[OpName::onnx("Mul"), OpName::onnx("Div")];

struct HardSwish;

impl Rule for HardSwish {
    fn name(&self) -> &'static str {
        "hard_swish"
    }

    fn roots(&self) -> &'static [OpName] {
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let product = Product::of(scope, at).or_no_match()?;
        let [a, b] = product.factors[..] else { return Err(Skip::NoMatch) };
        let mut ops = product.ops;
        // Either x * sigmoid(x), or x * clip(x + 3, 0, 6) times a sixth.
        let x = if product.number == 1.0 {
            let (x, gate) = if sigmoid(scope, b) == Some(a) { (a, b) } else { (b, a) };
            matches(sigmoid(scope, gate) == Some(x))?;
            ops.extend(scope.graph().producer(gate).map(|(op, _)| op));
            x
        } else {
            matches(close(product.number, 1.0 / 6.0, scope.dtype(a)))?;
            let (x, gate) = if limited(scope, b).is_some() { (a, b) } else { (b, a) };
            let (parts, inner) = limited(scope, gate).or_no_match()?;
            matches(inner == x)?;
            ops.extend(parts);
            x
        };
        since(scope, at, "HardSwish", 14)?;
        float(scope, at, x)?;
        closed(scope, at, &ops)?;
        let mut patch = Patch::instead_of(&ops);
        patch.produce(at, Op::new("HardSwish"), &[Some(x.into())], &[scope.output(at, 0)]);
        Ok(patch)
    }
}

struct HardSigmoid;

impl Rule for HardSigmoid {
    fn name(&self) -> &'static str {
        "hard_sigmoid"
    }

    fn roots(&self) -> &'static [OpName] {
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let y = scope.output(at, 0).or_no_match()?;
        let (_, gate, six) = divided(scope, y).or_no_match()?;
        let (parts, x) = limited(scope, gate).or_no_match()?;
        matches(close(six, 6.0, scope.dtype(x)))?;
        since(scope, at, "HardSigmoid", 6)?;
        float(scope, at, x)?;
        let ops = [vec![at], parts].concat();
        closed(scope, at, &ops)?;
        let mut patch = Patch::instead_of(&ops);
        let op = Op::new("HardSigmoid")
            .with("alpha", AttrValue::Float(1.0 / 6.0))
            .with("beta", AttrValue::Float(0.5));
        patch.produce(at, op, &[Some(x.into())], &[Some(y)]);
        Ok(patch)
    }
}

/// `clip(x + 3, 0, 6)`: its operators and x.
fn limited(scope: Scope, value: ValueId) -> Option<(Vec<OpId>, ValueId)> {
    let clip = scope.producer_is(value, "Clip")?;
    let low = forms::float(scope, clip, "min", 1).ok()??;
    let high = forms::float(scope, clip, "max", 2).ok()??;
    let (add, x, three) = with_number(scope, scope.input(clip, 0)?, "Add")?;
    (low == 0.0 && high == 6.0 && three == 3.0).then(|| (vec![clip, add], x))
}

/// The operand of a `HardSigmoid` of that slope and offset.
fn sigmoid(scope: Scope, value: ValueId) -> Option<ValueId> {
    let op = scope.producer_is(value, "HardSigmoid")?;
    let attrs = &scope.graph().op(op).attrs;
    let slope = close(f64::from(attrs.float("alpha").unwrap_or(0.2)), 1.0 / 6.0, None);
    (slope && attrs.float("beta").unwrap_or(0.5) == 0.5).then(|| scope.input(op, 0))?
}

fn float(scope: Scope, at: OpId, x: ValueId) -> Result<(), Skip> {
    match scope.dtype(x) {
        Some(DType::F32 | DType::F16 | DType::F64) => Ok(()),
        _ => Err(scope.because(at, "the element type is not f32, f16 or f64, or not known")),
    }
}
