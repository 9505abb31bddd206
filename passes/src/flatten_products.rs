//! Computes a product of stacked rows as a product of two matrices, where it stands between two `Reshape`s anyway.
//!
//! ```text
//! r = Reshape(x, {-1, 16, 8})        r = Reshape(x, {-1, 8})
//! t = MatMul(r, w)                   t = MatMul(r, w)
//! u = Add(t, b)                =>    u = Add(t, b)
//! y = Reshape(u, {-1, 4, 4, 6})      y = Reshape(u, {-1, 4, 4, 6})
//! ```
//!
//! Product and sum of matrices are one `Gemm`, which `matmul_add_to_gemm` makes of them next. Windows of pictures and
//! patches are written in this way.
//!
//! Declines: a right side that is no matrix; a bias that is no vector; a last `Reshape` that copies dimensions; anything
//! that something else reads.
//!
//! Stands behind `merge_reshapes`, which brings the two `Reshape`s next to the product.

use ir::{DType, Dim, Model, Op, OpId, Shape, Type, ValueId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{
    Changes, Cx, OrNoMatch, Pass, PassError, Patch, Ref, Rule, Scope, Skip, apply_rules, matches,
};
use crate::numbers;

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlattenProducts {}

impl Pass for FlattenProducts {
    fn name(&self) -> &'static str {
        "flatten_products"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        apply_rules(self.name(), &[&Between], model, cx)
    }
}

struct Between;

impl Rule for Between {
    fn name(&self) -> &'static str {
        "between_reshapes"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("Reshape")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        // The shape became an input in version 5, broadcasting without an attribute came in version 7.
        matches(scope.opset() >= 7)?;
        let (u, y) = (scope.input(at, 0).or_no_match()?, scope.output(at, 0).or_no_match()?);
        let add = scope.producer_is(u, "Add").or_no_match()?;
        let operands = [scope.input(add, 0).or_no_match()?, scope.input(add, 1).or_no_match()?];
        let from = operands.iter().position(|&value| scope.producer_is(value, "MatMul").is_some());
        let from = from.or_no_match()?;
        let (t, bias) = (operands[from], operands[1 - from]);
        let product = scope.producer_is(t, "MatMul").or_no_match()?;
        let (r, w) = (scope.input(product, 0).or_no_match()?, scope.input(product, 1).or_no_match()?);
        let first = scope.producer_is(r, "Reshape").or_no_match()?;
        let x = scope.input(first, 0).or_no_match()?;
        let dims = scope.shape(r).filter(|shape| shape.rank() > 2).or_no_match()?.dims;
        let (Some(&Dim::Known(inside)), Some(shape)) = (dims.last(), scope.shape(w)) else {
            return Err(Skip::NoMatch);
        };
        matches(inside > 0)?;
        let outside = match &shape.dims[..] {
            [_, outside] => outside.clone(),
            _ => return Err(scope.because(product, "the right side is no matrix")),
        };
        let dtype =
            scope.dtype(r).filter(|d| matches!(d, DType::F32 | DType::F16 | DType::F64)).or_no_match()?;
        // A bias that is longer than a row would widen it.
        let fits = |bias: &Shape| match &bias.dims[..] {
            [] => true,
            [dim] => *dim == Dim::Known(1) || (*dim == outside && outside != Dim::Unknown),
            _ => false,
        };
        if !scope.shape(bias).is_some_and(|bias| fits(&bias)) {
            return Err(scope.because(add, "what is added is no vector"));
        }
        let target = scope.constant_input(at, 1).and_then(numbers::ints);
        if target.is_none_or(|sizes| sizes.contains(&0)) {
            return Err(scope.because(at, "the last Reshape copies dimensions, or its shape is not constant"));
        }
        if [r, t, u].iter().any(|&value| scope.sole_use(value).is_none()) {
            return Err(scope.because(at, "something else reads a value between"));
        }
        let mut patch = Patch::instead_of(&[product, first, add, at]);
        let hint = |value: ValueId, what: &str| format!("{}_{what}", scope.graph().value(value).name());
        let matrix = |columns: Dim| Some(Type::tensor(dtype, Some(Shape::new([Dim::Unknown, columns]))));
        let rows = patch.constant(&hint(r, "rows_shape"), numbers::vector(&[-1, inside]));
        let rows = [Some(Ref::Old(x)), Some(rows)];
        let rows =
            patch.insert(first, Op::new("Reshape"), &rows, &hint(r, "rows"), matrix(Dim::Known(inside)));
        let factors = [Some(rows), Some(w.into())];
        let product =
            patch.insert(product, Op::new("MatMul"), &factors, &hint(t, "rows"), matrix(outside.clone()));
        let mut summands = [Some(product), Some(Ref::Old(bias))];
        // The order of the summands is kept.
        summands.rotate_left(from);
        let sum = patch.insert(add, Op::new("Add"), &summands, &hint(u, "rows"), matrix(outside));
        let last = Op::new("Reshape").with_attrs(scope.graph().op(at).attrs.clone());
        patch.produce(at, last, &[Some(sum), scope.input(at, 1).map(Ref::Old)], &[Some(y)]);
        Ok(patch)
    }
}
