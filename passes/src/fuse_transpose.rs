//! Lets `Gemm` transpose its matrices itself.
//!
//! ```text
//! t = Transpose <perm = [1, 0]> (x)
//! y = Gemm(t, w, b)                    =>   y = Gemm <transA = 1> (x, w, b)
//! ```
//!
//! Declines: a transposed matrix that something else reads, where nothing would be saved.
//!
//! Stands behind `matmul_add_to_gemm`, which makes a `Gemm`.

use ir::{AttrValue, Model, OpId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{Changes, Cx, OrNoMatch, Pass, PassError, Patch, Ref, Rule, Scope, Skip, apply_rules};
use crate::forms;

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FuseTranspose {}

impl Pass for FuseTranspose {
    fn name(&self) -> &'static str {
        "fuse_transpose"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        apply_rules(self.name(), &[&IntoGemm], model, cx)
    }
}

struct IntoGemm;

impl Rule for IntoGemm {
    fn name(&self) -> &'static str {
        "into_gemm"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("Gemm")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let mut inputs: Vec<Option<Ref>> =
            scope.op_inputs(at).into_iter().map(|slot| slot.map(Ref::Old)).collect();
        let mut patch = Patch::default();
        let mut shared = false;
        for (slot, name) in [(0, "transA"), (1, "transB")] {
            let value = scope.input(at, slot).or_no_match()?;
            let Some(transpose) = scope.producer_is(value, "Transpose") else { continue };
            if scope.sole_use(value).is_none() {
                shared = true;
                continue;
            }
            if forms::permutation(scope, transpose)? != [1, 0] {
                continue;
            }
            inputs[slot] = scope.input(transpose, 0).map(Ref::Old);
            let flag = scope.graph().op(at).attrs.int(name).unwrap_or(0);
            patch.attr(at, name, AttrValue::Int(i64::from(flag == 0)));
        }
        match (patch.is_empty(), shared) {
            (true, false) => Err(Skip::NoMatch),
            (true, true) => Err(scope.because(at, "something else reads the transposed matrix")),
            _ => {
                patch.inputs(at, &inputs);
                Ok(patch)
            }
        }
    }
}
