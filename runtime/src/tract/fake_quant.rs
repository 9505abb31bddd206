//! `onnxq.FakeQuant` as a tract operator: the arithmetic is [`ops::FakeQuant`], here is only the wiring.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::EvalOp;
use tract_onnx::tract_hir::infer::InferenceOp;
use tract_onnx::tract_hir::internal::*;

/// Rounds its input to a grid and back.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FakeQuant(Arc<ops::FakeQuant>);

// Equality is only used by tract's deduplication; parameters are compared bit for bit there.
impl Eq for FakeQuant {}

/// Builds the operator from its attributes.
pub(super) fn build(
    _cx: &tract_onnx::model::ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let code: String = node.get_attr("code")?;
    let spec = ops::FakeQuant {
        code: ir::DType::from_name(&code).with_context(|| format!("unknown code type {code}"))?,
        axis: node.get_attr_opt::<i64>("axis")?.unwrap_or(1),
        block_size: node.get_attr_opt::<i64>("block_size")?.unwrap_or(0),
        scales: node.get_attr_vec::<f32>("scales")?,
        zero_points: node.get_attr_opt_vec::<f32>("zero_points")?.unwrap_or_default(),
    };
    spec.check().map_err(|error| format_err!("{error}"))?;
    Ok((expand(FakeQuant(Arc::new(spec))), vec![]))
}

impl Expansion for FakeQuant {
    fn name(&self) -> StaticName {
        "FakeQuant".into()
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

impl Op for FakeQuant {
    fn name(&self) -> StaticName {
        "FakeQuant".into()
    }

    op_as_typed_op!();
}

impl EvalOp for FakeQuant {
    fn eval(&self, _cx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let datum = input.datum_type();
        let mut tensor = match datum {
            DatumType::F32 => input.into_tensor(),
            _ => input.cast_to::<f32>()?.into_owned(),
        };
        let dims: TVec<usize> = tensor.shape().into();
        let mut view = tensor.try_as_plain_ram_mut()?;
        self.0.apply(&dims, view.as_slice_mut::<f32>()?).map_err(|error| format_err!("{error}"))?;
        let tensor = if datum == DatumType::F32 { tensor } else { tensor.cast_to_dt(datum)?.into_owned() };
        Ok(tvec!(tensor.into_tvalue()))
    }

    op_out_of_plan!();
}

impl TypedOp for FakeQuant {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].without_value()))
    }

    /// Per-tensor rounding touches each element alone, so transposes may pass.
    fn axes_mapping(&self, inputs: &[&TypedFact], outputs: &[&TypedFact]) -> TractResult<AxesMapping> {
        if self.0.scales.len() == 1 {
            AxesMapping::natural(inputs, outputs)
        } else {
            AxesMapping::disconnected(inputs, outputs)
        }
    }

    fn change_axes(
        &self,
        model: &TypedModel,
        node: &TypedNode,
        _io: InOut,
        change: &AxisOp,
    ) -> TractResult<Option<AxisChangeConsequence>> {
        if self.0.scales.len() == 1 {
            Ok(Some(AxisChangeConsequence::new(model, node, None, change)))
        } else {
            Ok(None)
        }
    }
}
