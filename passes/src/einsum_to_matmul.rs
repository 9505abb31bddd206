//! Makes a `MatMul` of an `Einsum` of two operands that is one.
//!
//! ```text
//! y = Einsum<"bhij,bhjd->bhid">(p, v)    =>   y = MatMul(p, v)
//! y = Einsum<"bsd,df->bsf">(x, w)        =>   y = MatMul(x, w)
//! y = Einsum<"bhid,bhjd->bhij">(q, k)    =>   t = Transpose<{0, 1, 3, 2}>(k); y = MatMul(q, t)     (`helpers`)
//! y = Einsum<"bsd,dhk->bshk">(x, w)      =>   t = MatMul(x, w_as_matrix); y = Reshape(t, {0, 0, H, K})   (`helpers`)
//! ```
//!
//! Runtimes have kernels for products and quantizers know them. Constants are brought into the order that the product wants
//! and fold; operators on other values are added only with the option `helpers`, which quantization sets: without it the
//! model has no more operators than before.
//!
//! Declines: names that stand twice in an operand, or in one operand and not in the result; no name that is summed over, or
//! no free one on a side; several summed names, or several free ones on the right, of a computed operand; element types
//! other than floats; ranks that are not known; sizes that are summed over and not known to be the same on both sides, since
//! `Einsum` repeats a size of 1.
//!
//! Stands before the passes that merge transposes and reshapes.

use ir::{DType, Dim, Model, Op, OpId, Tensor, ValueId};
use ops::OpName;
use ops::einsum::{Axis, Equation};
use serde::Deserialize;

use crate::driver::{
    Changes, Cx, OrNoMatch, Pass, PassError, Patch, Ref, Rule, Scope, Skip, apply_rules, matches,
};
use crate::numbers;

/// Options.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EinsumToMatmul {
    /// Transpose and reshape computed values too.
    helpers: bool,
}

impl Pass for EinsumToMatmul {
    fn name(&self) -> &'static str {
        "einsum_to_matmul"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        apply_rules(self.name(), &[&Product { helpers: self.helpers }], model, cx)
    }
}

struct Product {
    helpers: bool,
}

/// One side of the product.
struct Side<'a> {
    value: ValueId,
    names: &'a [Axis],
    constant: Option<&'a Tensor>,
}

/// The axes of the product `[batch…, rows…, inner…] x [batch…, inner…, columns…]`, in the order in which they stand there.
struct Roles {
    batch: Vec<Axis>,
    rows: Vec<Axis>,
    inner: Vec<Axis>,
    columns: Vec<Axis>,
}

impl Roles {
    /// None where an axis has none of the roles: one that is summed in one operand alone.
    fn of(left: &[Axis], right: &[Axis], result: &[Axis]) -> Option<Roles> {
        let within = |list: &[Axis], keep: &dyn Fn(&Axis) -> bool| -> Vec<Axis> {
            list.iter().copied().filter(keep).collect()
        };
        let both = |name: &Axis| left.contains(name) && right.contains(name);
        let roles = Roles {
            batch: within(result, &both),
            rows: within(result, &|name| !right.contains(name)),
            inner: within(left, &|name| both(name) && !result.contains(name)),
            columns: within(result, &|name| !left.contains(name)),
        };
        let whole = roles.batch.len() + roles.inner.len();
        let fits = whole + roles.rows.len() == left.len() && whole + roles.columns.len() == right.len();
        fits.then_some(roles)
    }

    /// Says why the axes are not those of one product. Several inner axes or columns take sizes that a constant tells.
    fn check(&self, right_is_constant: bool) -> Result<(), &'static str> {
        let single = |list: &[Axis]| list.len() == 1;
        if self.inner.is_empty() {
            return Err("nothing is summed over");
        }
        if self.rows.is_empty() || self.columns.is_empty() {
            return Err("a side has no axis of its own");
        }
        let plain = single(&self.inner) && single(&self.columns);
        let stacked = !self.batch.is_empty();
        if stacked && (!plain || !single(&self.rows)) {
            return Err("a product of stacks has one axis of a kind");
        }
        if !right_is_constant && !plain {
            return Err("several axes are summed over, or stand free on the right of a computed operand");
        }
        Ok(())
    }
}

/// A way to compute the result.
struct Plan<'a> {
    left: Side<'a>,
    right: Side<'a>,
    roles: Roles,
    result: &'a [Axis],
}

impl Plan<'_> {
    fn left_order(&self) -> Vec<Axis> {
        [&self.roles.batch[..], &self.roles.rows, &self.roles.inner].concat()
    }

    fn right_order(&self) -> Vec<Axis> {
        [&self.roles.batch[..], &self.roles.inner, &self.roles.columns].concat()
    }

    fn result_order(&self) -> Vec<Axis> {
        [&self.roles.batch[..], &self.roles.rows, &self.roles.columns].concat()
    }

    /// Operators beside the product that do not fold.
    fn helpers(&self) -> usize {
        let moved = |names: &[Axis], order: &[Axis], constant: bool| usize::from(names != order && !constant);
        let several = |list: &[Axis]| usize::from(list.len() > 1);
        moved(self.left.names, &self.left_order(), self.left.constant.is_some())
            + moved(self.right.names, &self.right_order(), self.right.constant.is_some())
            + moved(self.result, &self.result_order(), false)
            + several(&self.roles.inner)
            + several(&self.roles.columns)
    }
}

impl Rule for Product {
    fn name(&self) -> &'static str {
        "product"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("Einsum")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        matches(scope.graph().op(at).input_count() == 2)?;
        let values = [scope.input(at, 0).or_no_match()?, scope.input(at, 1).or_no_match()?];
        let y = scope.output(at, 0).or_no_match()?;
        let float =
            |&value: &ValueId| matches!(scope.dtype(value), Some(DType::F32 | DType::F16 | DType::F64));
        if !values.iter().all(float) {
            return Err(scope.because(at, "the element type is not f32, f16 or f64, or not known"));
        }
        let ranks = values.map(|value| scope.rank(value));
        let [Some(first), Some(second)] = ranks else {
            return Err(scope.because(at, "the ranks are not known"));
        };
        let text = scope.graph().op(at).attrs.str("equation").or_no_match()?;
        let equation = Equation::parse(text, &[first, second]).or_no_match()?;
        let [a, b] = &equation.operands[..] else { return Err(Skip::NoMatch) };
        if [a, b].into_iter().any(|names| (1..names.len()).any(|at| names[..at].contains(&names[at]))) {
            return Err(scope.because(at, "an operand has a name twice: a diagonal"));
        }
        let side = |at: usize| Side {
            value: values[at],
            names: &equation.operands[at],
            constant: scope.constant(values[at]),
        };
        let dims = values.map(|value| scope.shape(value).map(|shape| shape.dims).unwrap_or_default());
        let agrees = |name: &Axis| {
            let dim = |operand: usize| {
                let at = equation.operands[operand].iter().position(|other| other == name)?;
                dims[operand].get(at).filter(|dim| **dim != Dim::Unknown)
            };
            dim(0).is_some() && dim(0) == dim(1)
        };
        let mut reason = "an axis is summed over in one operand alone";
        let mut best: Option<Plan> = None;
        for [l, r] in [[0, 1], [1, 0]] {
            let (left, right) = (side(l), side(r));
            let Some(roles) = Roles::of(left.names, right.names, &equation.result) else { continue };
            if let Err(why) = roles.check(right.constant.is_some()) {
                reason = why;
                continue;
            }
            if !roles.inner.iter().all(agrees) {
                reason = "sizes that are summed over are not known to be the same";
                continue;
            }
            let plan = Plan { left, right, roles, result: &equation.result };
            if best.as_ref().is_none_or(|best| plan.helpers() < best.helpers()) {
                best = Some(plan);
            }
        }
        let plan = best.ok_or_else(|| scope.because(at, reason))?;
        if !self.helpers && plan.helpers() > 0 {
            return Err(scope.because(at, "as a product it takes more operators"));
        }
        Ok(write(scope, at, y, &plan))
    }
}

/// The operators of a plan.
fn write(scope: Scope, at: OpId, y: ValueId, plan: &Plan) -> Patch {
    let mut patch = Patch::instead_of(&[at]);
    let hint = |what: &str| format!("{}_{what}", scope.graph().value(y).name());
    let roles = &plan.roles;
    let mut left = transposed(
        &mut patch,
        at,
        plan.left.value.into(),
        plan.left.names,
        &plan.left_order(),
        &hint("left"),
    );
    let mut right = transposed(
        &mut patch,
        at,
        plan.right.value.into(),
        plan.right.names,
        &plan.right_order(),
        &hint("right"),
    );
    let sizes = |names: &[Axis]| -> Vec<i64> {
        let dims = plan.right.constant.map(Tensor::dims).unwrap_or_default();
        let size = |name: &Axis| plan.right.names.iter().position(|other| other == name);
        names
            .iter()
            .map(|name| size(name).and_then(|at| dims.get(at)).map_or(1, |&size| size as i64))
            .collect()
    };
    // The rows stand first in their order and are copied, whatever their sizes.
    let rows = vec![0i64; roles.rows.len()];
    let (inner, columns) = (sizes(&roles.inner), sizes(&roles.columns));
    let product = |sizes: &[i64]| sizes.iter().product::<i64>();
    let reshape = |patch: &mut Patch, value: Ref, target: Vec<i64>, what: &str| {
        let target = patch.constant(&hint(&format!("{what}_shape")), numbers::vector(&target));
        (Op::new("Reshape"), [Some(value), Some(target)])
    };
    if inner.len() > 1 {
        let (op, inputs) = reshape(&mut patch, left, [&rows[..], &[product(&inner)]].concat(), "left");
        left = patch.insert(at, op, &inputs, &hint("left"), None);
    }
    if inner.len() > 1 || columns.len() > 1 {
        let (op, inputs) = reshape(&mut patch, right, vec![product(&inner), product(&columns)], "right");
        right = patch.insert(at, op, &inputs, &hint("right"), None);
    }
    let moved = plan.result != plan.result_order();
    let factors = [Some(left), Some(right)];
    if columns.len() == 1 && !moved {
        patch.produce(at, Op::new("MatMul"), &factors, &[Some(y)]);
        return patch;
    }
    let mut value = patch.insert(at, Op::new("MatMul"), &factors, &hint("product"), None);
    if columns.len() > 1 {
        let (op, inputs) = reshape(&mut patch, value, [&rows[..], &columns].concat(), "product");
        if !moved {
            patch.produce(at, op, &inputs, &[Some(y)]);
            return patch;
        }
        value = patch.insert(at, op, &inputs, &hint("product"), None);
    }
    let perm = permutation(&plan.result_order(), plan.result);
    patch.produce(at, Op::new("Transpose").with("perm", perm), &[Some(value)], &[Some(y)]);
    patch
}

/// The value with its axes in another order.
fn transposed(patch: &mut Patch, at: OpId, value: Ref, names: &[Axis], order: &[Axis], hint: &str) -> Ref {
    if names == order {
        return value;
    }
    let op = Op::new("Transpose").with("perm", permutation(names, order));
    patch.insert(at, op, &[Some(value)], hint, None)
}

/// Where each axis of `order` stands in `names`.
fn permutation(names: &[Axis], order: &[Axis]) -> Vec<i64> {
    let place = |name: &Axis| names.iter().position(|other| other == name).unwrap_or_default() as i64;
    order.iter().map(place).collect()
}
