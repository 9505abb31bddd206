//! Makes one `Gemm` of a `MatMul` of two matrices and the `Add` behind it.
//!
//! ```text
//! t = MatMul(x, w)
//! y = Add(t, b)    =>   y = Gemm(x, w, b)
//! ```
//!
//! Declines: operands that are not known to be matrices; a bias that may widen the result; element types that `Gemm`
//! does not take; a product that something else reads.
//!
//! For targets that prefer it, which is every runtime in float. Weight-only quantizers want `MatMul`: leave it out there.

use ir::{DType, Dim, Model, Op, OpId, ValueId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{
    Changes, Cx, OrNoMatch, Pass, PassError, Patch, Rule, Scope, Skip, apply_rules, matches,
};

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatmulAddToGemm {}

impl Pass for MatmulAddToGemm {
    fn name(&self) -> &'static str {
        "matmul_add_to_gemm"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        apply_rules(self.name(), &[&ToGemm], model, cx)
    }
}

struct ToGemm;

impl Rule for ToGemm {
    fn name(&self) -> &'static str {
        "to_gemm"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("Add")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        // Before version 7 the third operand was broadcast by an attribute.
        matches(scope.opset() >= 7)?;
        let operands = [scope.input(at, 0).or_no_match()?, scope.input(at, 1).or_no_match()?];
        let product = |value: ValueId| scope.producer_is(value, "MatMul");
        let (product, middle, added) = match operands.map(product) {
            [Some(first), _] => (first, operands[0], operands[1]),
            [None, Some(second)] => (second, operands[1], operands[0]),
            _ => return Err(Skip::NoMatch),
        };
        let (a, b) = (scope.input(product, 0).or_no_match()?, scope.input(product, 1).or_no_match()?);
        if scope.rank(a) != Some(2) || scope.rank(b) != Some(2) {
            return Err(scope.because(at, "the operands are not known to be matrices"));
        }
        if !matches!(scope.dtype(a), Some(DType::F32 | DType::F16 | DType::F64)) {
            return Err(scope.because(at, "the element type is not f32, f16 or f64, or not known"));
        }
        if scope.sole_use(middle).is_none() {
            return Err(scope.because(at, "something else reads the product"));
        }
        let y = scope.output(at, 0).or_no_match()?;
        if !one_sided(scope, added, a, b) {
            return Err(scope.because(at, "what is added may widen the product"));
        }
        let mut patch = Patch::instead_of(&[product, at]);
        patch.produce(at, Op::new("Gemm"), &[Some(a.into()), Some(b.into()), Some(added.into())], &[Some(y)]);
        Ok(patch)
    }
}

/// The value broadcasts to `[rows of a, columns of b]`.
fn one_sided(scope: Scope, added: ValueId, a: ValueId, b: ValueId) -> bool {
    let (Some(shape), Some(a), Some(b)) = (scope.shape(added), scope.shape(a), scope.shape(b)) else {
        return false;
    };
    let wanted = [&a.dims[0], &b.dims[1]];
    let Some(lead) = 2usize.checked_sub(shape.rank()) else { return false };
    shape
        .dims
        .iter()
        .zip(&wanted[lead..])
        .all(|(dim, wanted)| *dim == Dim::Known(1) || (dim == *wanted && *dim != Dim::Unknown))
}
