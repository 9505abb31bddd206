//! Makes one `LayerNormalization` of the operators that spell it out.
//!
//! ```text
//! m = ReduceMean <axes = [-1]> (x)
//! d = Sub(x, m)
//! v = ReduceMean <axes = [-1]> (Pow(d, {2}))
//! s = Sqrt(Add(v, {1e-5}))                       =>   y = LayerNormalization <axis = -1> (x, gamma, beta)
//! n = Div(d, s)
//! y = Add(Mul(n, gamma), beta)
//! ```
//!
//! The square may be a `Pow` or a product, the division a product with the reciprocal; factor and summand may stand on
//! either side. Without a summand the bias is left out. Runtimes compute it in float32 even for half precision, so it
//! is at least as accurate as the parts.
//!
//! Declines: below operator set 17; axes other than the last ones in a row; a factor or summand that is not a constant
//! of the normalized shape; no factor; parts that something else reads.

use ir::{AttrValue, Model, Op, OpId, ValueId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{Changes, Cx, OrNoMatch, Pass, PassError, Patch, Ref, Rule, Scope, Skip, apply_rules};
use crate::forms;
use crate::pattern::{binary, closed, number, since, unary, with_number};

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecomposeLayerNorm {}

impl Pass for RecomposeLayerNorm {
    fn name(&self) -> &'static str {
        "recompose_layer_norm"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        apply_rules(self.name(), &[&LayerNorm], model, cx)
    }
}

struct LayerNorm;

impl Rule for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    /// The multiplication by gamma; an addition behind it joins as beta.
    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("Mul")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let (a, b) = (scope.input(at, 0).or_no_match()?, scope.input(at, 1).or_no_match()?);
        let (normal, gamma) = if scope.constant(b).is_some() { (a, b) } else { (b, a) };
        let mut ops = vec![at];
        let (x, axes, epsilon) = normalized(scope, normal, &mut ops).or_no_match()?;
        since(scope, at, "LayerNormalization", 17)?;
        let rank = scope.rank(x).ok_or_else(|| scope.because(at, "the rank is not known"))?;
        let axes = forms::axes(&axes, rank).ok_or_else(|| scope.because(at, "the axes are not valid"))?;
        let first = rank - axes.len();
        if axes != (first..rank).collect::<Vec<_>>() {
            return Err(scope.because(at, "the axes are not the last ones"));
        }
        let shape = scope.shape(x).or_no_match()?;
        let wanted: Option<Vec<usize>> = shape.dims[first..].iter().map(ir::Dim::known).collect();
        let wanted = wanted.ok_or_else(|| scope.because(at, "the normalized sizes are not known"))?;
        let fits = |value: ValueId| scope.constant(value).is_some_and(|constant| constant.dims() == wanted);
        if !fits(gamma) {
            return Err(scope.because(at, "the factor is not a constant of the normalized shape"));
        }
        let product = scope.output(at, 0).or_no_match()?;
        let (root, beta) = match bias(scope, product).filter(|&(_, beta)| fits(beta)) {
            Some((add, beta)) => (add, Some(beta)),
            None => (at, None),
        };
        if root != at {
            ops.insert(0, root);
        }
        closed(scope, root, &ops)?;
        let mut patch = Patch::instead_of(&ops);
        let mut op = Op::new("LayerNormalization").with("axis", AttrValue::Int(-(axes.len() as i64)));
        op.attrs.set("epsilon", AttrValue::Float(epsilon as f32));
        let mut inputs: Vec<Option<Ref>> = vec![Some(x.into()), Some(gamma.into())];
        inputs.extend(beta.map(|beta| Some(beta.into())));
        patch.produce(root, op, &inputs, &[scope.output(root, 0)]);
        Ok(patch)
    }
}

/// The addition that alone reads the product, and what it adds.
fn bias(scope: Scope, product: ValueId) -> Option<(OpId, ValueId)> {
    let reader = scope.sole_use(product)?.op;
    if !scope.graph().op(reader).kind.is("Add") {
        return None;
    }
    let (a, b) = (scope.input(reader, 0)?, scope.input(reader, 1)?);
    Some((reader, if a == product { b } else { a }))
}

/// `(x - mean) / sqrt(variance + epsilon)`: x, the axes and epsilon.
fn normalized(scope: Scope, value: ValueId, ops: &mut Vec<OpId>) -> Option<(ValueId, Vec<i64>, f64)> {
    let (centred, deviation) = if let Some((op, centred, deviation)) = binary(scope, value, "Div") {
        ops.push(op);
        (centred, deviation)
    } else {
        let (op, a, b) = binary(scope, value, "Mul")?;
        let (centred, inverse) = if scope.producer_is(b, "Reciprocal").is_some() { (a, b) } else { (b, a) };
        let (reciprocal, deviation) = unary(scope, inverse, "Reciprocal")?;
        ops.extend([op, reciprocal]);
        (centred, deviation)
    };
    let (sqrt, sum) = unary(scope, deviation, "Sqrt")?;
    let (add, variance, epsilon) = with_number(scope, sum, "Add")?;
    let (mean_of_squares, squares, axes) = mean(scope, variance)?;
    let square = squared(scope, squares, centred)?;
    let (sub, x, average) = binary(scope, centred, "Sub")?;
    let (mean_of_x, same, axes_of_x) = mean(scope, average)?;
    let agree = same == x && axes == axes_of_x && epsilon > 0.0;
    ops.extend([sqrt, add, mean_of_squares, square, sub, mean_of_x]);
    agree.then_some((x, axes, epsilon))
}

/// The operator that squares this value.
fn squared(scope: Scope, squares: ValueId, of: ValueId) -> Option<OpId> {
    if let Some((op, base, exponent)) = binary(scope, squares, "Pow") {
        return (base == of && number(scope, exponent)? == 2.0).then_some(op);
    }
    let (op, a, b) = binary(scope, squares, "Mul")?;
    (a == of && b == of).then_some(op)
}

/// A `ReduceMean` that keeps its dimensions, with operand and axes.
fn mean(scope: Scope, value: ValueId) -> Option<(OpId, ValueId, Vec<i64>)> {
    let (op, x) = unary(scope, value, "ReduceMean")?;
    let axes = forms::ints(scope, op, "axes", 1).ok()??;
    let keeps = scope.graph().op(op).attrs.int("keepdims").unwrap_or(1) != 0;
    (keeps && !axes.is_empty()).then_some((op, x, axes))
}
