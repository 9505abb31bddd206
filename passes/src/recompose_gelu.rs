//! Makes one `Gelu` of the operators that spell it out.
//!
//! ```text
//! a = Div(x, {1.41421356})
//! b = Erf(a)
//! c = Add(b, {1})             =>   y = Gelu(x)
//! d = Mul(x, c)
//! y = Mul(d, {0.5})
//! ```
//!
//! - exact: `x * 0.5 * (1 + erf(x / sqrt(2)))`, the factors in any order and grouping, as the exporters write it;
//! - `tanh`: `x * 0.5 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))`, with `x^3` as `Pow` or products.
//!
//! Declines: below operator set 20, which has `Gelu` first; parts that something else reads; other constants.
//!
//! Stands behind the eliminations and folding, which clean the constants.

use ir::{Model, Op, OpId, ValueId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{
    Changes, Cx, OrNoMatch, Pass, PassError, Patch, Rule, Scope, Skip, apply_rules, matches,
};
use crate::pattern::{Product, binary, close, closed, divided, number, since, unary, with_number};

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecomposeGelu {}

impl Pass for RecomposeGelu {
    fn name(&self) -> &'static str {
        "recompose_gelu"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        apply_rules(self.name(), &[&Gelu], model, cx)
    }
}

struct Gelu;

impl Rule for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("Mul"), OpName::onnx("Div")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let mut product = Product::of(scope, at).or_no_match()?;
        let [a, b] = product.factors[..] else { return Err(Skip::NoMatch) };
        let dtype = scope.dtype(a);
        matches(close(product.number, 0.5, dtype))?;
        let (x, gate) = if with_number(scope, b, "Add").is_some() { (a, b) } else { (b, a) };
        let (sum, inner, one) = with_number(scope, gate, "Add").or_no_match()?;
        matches(one == 1.0)?;
        product.ops.push(sum);
        let approximate = if let Some((erf, scaled)) = unary(scope, inner, "Erf") {
            let (scale, same, divisor) = divided(scope, scaled).or_no_match()?;
            matches(same == x && close(divisor, std::f64::consts::SQRT_2, dtype))?;
            product.ops.extend([erf, scale]);
            "none"
        } else {
            let (tanh, argument) = unary(scope, inner, "Tanh").or_no_match()?;
            product.ops.push(tanh);
            tanh_argument(scope, argument, x, &mut product.ops).or_no_match()?;
            "tanh"
        };
        since(scope, at, "Gelu", 20)?;
        closed(scope, at, &product.ops)?;
        let mut patch = Patch::instead_of(&product.ops);
        let mut op = Op::new("Gelu");
        if approximate == "tanh" {
            op = op.with("approximate", approximate);
        }
        patch.produce(at, op, &[Some(x.into())], &[scope.output(at, 0)]);
        Ok(patch)
    }
}

/// `sqrt(2 / pi) * (x + 0.044715 * x^3)`.
fn tanh_argument(scope: Scope, value: ValueId, x: ValueId, ops: &mut Vec<OpId>) -> Option<()> {
    let dtype = scope.dtype(x);
    let (scale, sum, factor) = with_number(scope, value, "Mul")?;
    let (add, a, b) = binary(scope, sum, "Add")?;
    let cubic = if a == x { b } else { a };
    let same = if a == x { a } else { b };
    if same != x || !close(factor, (2.0 / std::f64::consts::PI).sqrt(), dtype) {
        return None;
    }
    ops.extend([scale, add]);
    let product = Product::of(scope, scope.producer_is(cubic, "Mul")?)?;
    ops.extend(&product.ops);
    let power = match product.factors[..] {
        [power] => {
            let (pow, base, exponent) = binary(scope, power, "Pow")?;
            ops.push(pow);
            base == x && number(scope, exponent)? == 3.0
        }
        [a, b, c] => [a, b, c] == [x, x, x],
        _ => false,
    };
    (power && close(product.number, 0.044715, dtype)).then_some(())
}
