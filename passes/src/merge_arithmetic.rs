//! Merges two constant factors, or two constant summands, behind each other.
//!
//! ```text
//! t = Mul(x, {2})
//! y = Div(t, {8})    =>   y = Mul(x, {0.25})
//! ```
//!
//! - `product`: `Mul` and `Div` of floats, `Mul` of integers;
//! - `sum`: `Add` and `Sub`; a `Sub` takes the constant second.
//!
//! The two constants become one by an operator of their own, which `fold_constants` computes. Of floats the last bit of
//! a result may differ; integers wrap around alike in any order.
//!
//! Declines: a first result that something else reads; constants of which each widens the other, so that the one would
//! be larger than both; constants whose product or quotient leaves the range of the type where the steps might not.
//!
//! Stands behind `eliminate_arithmetic`. The fusions into weights take what is left.

use ir::{DType, Model, Op, OpId, Tensor, ValueId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{
    Changes, Cx, OrNoMatch, Pass, PassError, Patch, Rule, Scope, Skip, apply_rules, matches,
};
use crate::numbers;

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeArithmetic {}

impl Pass for MergeArithmetic {
    fn name(&self) -> &'static str {
        "merge_arithmetic"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        apply_rules(self.name(), &[&PRODUCT, &SUM], model, cx)
    }
}

/// Two operators that undo each other. Both rules are this one: a sum is to `Add` and `Sub` what a product is to `Mul`
/// and `Div`.
struct Merge {
    name: &'static str,
    roots: &'static [OpName],
    forward: &'static str,
    backward: &'static str,
}

const PRODUCT: Merge = Merge {
    name: "product",
    roots: &[OpName::onnx("Mul"), OpName::onnx("Div")],
    forward: "Mul",
    backward: "Div",
};

const SUM: Merge = Merge {
    name: "sum",
    roots: &[OpName::onnx("Add"), OpName::onnx("Sub")],
    forward: "Add",
    backward: "Sub",
};

/// `x` and a constant, joined by an operator or by the one that undoes it.
struct Step<'a> {
    x: ValueId,
    constant: ValueId,
    data: &'a Tensor,
    undoes: bool,
}

impl Merge {
    fn step<'a>(&self, scope: Scope<'a>, op: OpId) -> Option<Step<'a>> {
        let kind = &scope.graph().op(op).kind;
        let undoes = kind.is(self.backward);
        if !undoes && !kind.is(self.forward) {
            return None;
        }
        let (a, b) = (scope.input(op, 0)?, scope.input(op, 1)?);
        match (scope.constant(a), scope.constant(b)) {
            (None, Some(data)) => Some(Step { x: a, constant: b, data, undoes }),
            (Some(data), None) if !undoes => Some(Step { x: b, constant: a, data, undoes }),
            _ => None,
        }
    }
}

impl Rule for Merge {
    fn name(&self) -> &'static str {
        self.name
    }

    fn roots(&self) -> &'static [OpName] {
        self.roots
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        // Before version 7, broadcasting was asked for by an attribute.
        matches(scope.opset() >= 7)?;
        let outer = self.step(scope, at).or_no_match()?;
        let (first, _) = scope.producer(outer.x).or_no_match()?;
        let inner = self.step(scope, first).or_no_match()?;
        if scope.sole_use(outer.x).is_none() {
            return Err(scope.because(at, "something else reads the first result"));
        }
        let float = outer.data.dtype().is_compute_float();
        if !float && (outer.undoes || inner.undoes) && self.backward == "Div" {
            return Err(scope.because(at, "a quotient of integers is rounded"));
        }
        if widened(inner.data.dims(), outer.data.dims()) {
            return Err(scope.because(at, "the two constants widen each other"));
        }
        // x - a - b is x - (a + b), x - a + b is x + (b - a), x + a - b is x + (a - b).
        let (joined, kind) = match (inner.undoes, outer.undoes) {
            (false, false) => ([inner.constant, outer.constant], self.forward),
            (true, true) => ([inner.constant, outer.constant], self.forward),
            (false, true) => ([inner.constant, outer.constant], self.backward),
            (true, false) => ([outer.constant, inner.constant], self.backward),
        };
        let divides = kind == "Div";
        if float && self.backward == "Div" && !in_range(scope, joined, divides) {
            return Err(scope.because(at, "the joined factor leaves the range of the type"));
        }
        let y = scope.output(at, 0).or_no_match()?;
        let mut patch = Patch::instead_of(&[at, first]);
        let hint = format!("{}_joined", scope.graph().value(outer.constant).name());
        let inputs = joined.map(|value| Some(value.into()));
        let constant = patch.insert(at, Op::new(kind), &inputs, &hint, None);
        let outer_kind = if inner.undoes && outer.undoes { self.backward } else { self.forward };
        patch.produce(at, Op::new(outer_kind), &[Some(inner.x.into()), Some(constant)], &[Some(y)]);
        Ok(patch)
    }
}

/// Broadcasting the two gives more elements than either has.
fn widened(a: &[usize], b: &[usize]) -> bool {
    let size = |dims: &[usize], at: usize, rank: usize| {
        (at + dims.len()).checked_sub(rank).and_then(|at| dims.get(at)).copied().unwrap_or(1)
    };
    let rank = a.len().max(b.len());
    let broadcast = (0..rank).map(|at| (size(a, at, rank), size(b, at, rank)));
    let (mut wider_a, mut wider_b) = (false, false);
    for (a, b) in broadcast {
        wider_a |= a > b;
        wider_b |= b > a;
    }
    wider_a && wider_b
}

/// The joined factor and the factors themselves are normal numbers: nothing overflows or vanishes that did not before.
fn in_range(scope: Scope, joined: [ValueId; 2], divides: bool) -> bool {
    let extent = |value: ValueId| -> Option<(f64, f64, DType)> {
        let data = scope.constant(value)?;
        let values = numbers::floats(data)?;
        let sizes = || values.iter().map(|value| value.abs());
        let least = sizes().filter(|&size| size > 0.0).fold(f64::INFINITY, f64::min);
        let most = sizes().fold(0.0, f64::max);
        // A factor of zero is fine, a divisor of zero is not.
        let finite = values.iter().all(|value| value.is_finite());
        (finite && !(divides && values.contains(&0.0))).then_some((
            least.min(most.max(1.0)),
            most,
            data.dtype(),
        ))
    };
    let [Some(first), Some(second)] = joined.map(extent) else { return false };
    let (least, most) = match divides {
        false => (first.0 * second.0, first.1 * second.1),
        true => (first.0 / second.1, first.1 / second.0),
    };
    let (smallest, largest) = match first.2 {
        DType::F16 => (6.2e-5, 6.5e4),
        DType::F64 => (1e-300, 1e300),
        _ => (1.2e-38, 3.4e38),
    };
    least >= smallest && most <= largest
}
