//! `onnxq.Tap` as a tract operator: hands its input on. tract fuses nothing across it, so the value is really computed, and
//! what an observer changes there reaches everything behind it. (Of a tapped value inside a fusible chain tract keeps a
//! second copy beside the fused one, and the copy that is shown leads nowhere.)

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::EvalOp;
use tract_onnx::tract_hir::infer::InferenceOp;
use tract_onnx::tract_hir::internal::*;

/// Hands its input on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tap;

/// Builds the operator: it has no attributes.
pub(super) fn build(
    _cx: &tract_onnx::model::ParsingContext,
    _node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    Ok((expand(Tap), vec![]))
}

impl Expansion for Tap {
    fn name(&self) -> StaticName {
        "Tap".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        s.equals(&inputs[0].shape, &outputs[0].shape)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}

impl Op for Tap {
    fn name(&self) -> StaticName {
        "Tap".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Tap {
    fn eval(&self, _cx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(inputs)
    }

    op_out_of_plan!();
}

impl TypedOp for Tap {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].without_value()))
    }
}
