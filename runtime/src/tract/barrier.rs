//! `onnxq.Barrier`: gives back what it is given. tract moves and merges operators across anything that it knows; what it
//! does not know stands still. Behind a value that a replay replaces, it makes sure that every reader reads it there and
//! in the layout of the model.

use std::collections::HashMap;

use ir::{Model, Op as IrOp, OpKind, Place};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::EvalOp;
use tract_onnx::tract_hir::infer::InferenceOp;
use tract_onnx::tract_hir::internal::*;

/// Puts a barrier behind each of these values of the main graph that is read. Returns the names behind the barriers.
pub(super) fn insert(model: &mut Model, names: &[String]) -> Result<HashMap<String, String>, String> {
    let mut behind = HashMap::new();
    for name in names {
        let graph = model.main_mut();
        let Some(value) = graph.find(name).filter(|&value| graph.is_used(value)) else { continue };
        let Some(reader) = graph.uses(value).first().map(|reader| reader.op) else { continue };
        if behind.contains_key(name) || graph.constant(value).is_some() {
            continue;
        }
        let ty = graph.value(value).ty.clone();
        let after = graph.new_value(&format!("{name}_barrier"), ty);
        graph.replace_uses(value, after);
        let op = IrOp::of(OpKind::new("onnxq", "Barrier")).named(&format!("{name}_barrier"));
        graph
            .add_op(op, &[Some(value)], &[Some(after)], Place::Near(reader))
            .map_err(|error| error.to_string())?;
        behind.insert(name.clone(), graph.value(after).name().to_string());
    }
    if !behind.is_empty() {
        model.raise_opset("onnxq", 1);
    }
    model.settle();
    Ok(behind)
}

/// The operator.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Barrier;

/// Builds the operator.
pub(super) fn build(
    _cx: &tract_onnx::model::ParsingContext,
    _node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    Ok((expand(Barrier), vec![]))
}

impl Expansion for Barrier {
    fn name(&self) -> StaticName {
        "Barrier".into()
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

impl Op for Barrier {
    fn name(&self) -> StaticName {
        "Barrier".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Barrier {
    fn eval(&self, _cx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(inputs)
    }

    op_out_of_plan!();
}

impl TypedOp for Barrier {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].without_value()))
    }

    /// No transpose may pass.
    fn axes_mapping(&self, inputs: &[&TypedFact], outputs: &[&TypedFact]) -> TractResult<AxesMapping> {
        AxesMapping::disconnected(inputs, outputs)
    }

    fn change_axes(
        &self,
        _model: &TypedModel,
        _node: &TypedNode,
        _io: InOut,
        _change: &AxisOp,
    ) -> TractResult<Option<AxisChangeConsequence>> {
        Ok(None)
    }
}
