//! Makes float16 and bfloat16 float32 inside; inputs and outputs of the model keep their types.
//!
//! ```text
//! (float16 x) => (float16 y) { y = Relu(x) }   =>   { a = Cast<float>(x); b = Relu(a); y = Cast<float16>(b) }
//! ```
//!
//! Processors without arithmetic of 16 bits compute these types in float32 anyway, and integer kernels take float32 scales.
//! Weights that are quantized afterwards do not grow; the rest doubles. Nothing is rounded that was not rounded before, so
//! results are at least as exact, and what overflowed float16 stays finite.

use ir::{DType, Location, Model, Op, Place, Role, Type, ValueId};
use serde::Deserialize;

use crate::driver::{Changes, Cx, Pass, PassError};
use crate::narrow;

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WidenFloats {}

impl Pass for WidenFloats {
    fn name(&self) -> &'static str {
        "widen_floats"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        let mut changes = Changes::default();
        if !narrow::is_in(model) || !cx.spend("widen", Location::graph(model.main())) {
            return Ok(changes);
        }
        let main = model.main();
        let held = |value: ValueId| {
            main.value(value).dtype().filter(|&dtype| narrow::is_narrow(dtype)).map(|dtype| (value, dtype))
        };
        let inputs: Vec<(ValueId, DType)> = main.inputs().iter().filter_map(|&value| held(value)).collect();
        let outputs: Vec<(usize, ValueId, DType)> = main
            .outputs()
            .iter()
            .enumerate()
            .filter_map(|(at, &value)| held(value).map(|(value, dtype)| (at, value, dtype)))
            // An input that is an output has its type already.
            .filter(|(_, value, _)| main.value(*value).role() == Role::Computed)
            .collect();
        narrow::widen(model);
        for (value, dtype) in inputs {
            restore_input(model, value, dtype);
        }
        for (at, value, dtype) in outputs {
            restore_output(model, at, value, dtype);
        }
        model.settle();
        changes.count("widen");
        Ok(changes)
    }
}

fn retype(ty: Option<&Type>, dtype: DType) -> Option<Type> {
    ty.map(|ty| Type::tensor(dtype, ty.shape().cloned()))
}

fn restore_input(model: &mut Model, value: ValueId, dtype: DType) {
    let graph = model.main_mut();
    let narrow = retype(graph.value(value).ty.as_ref(), dtype);
    let ty = std::mem::replace(&mut graph.value_mut(value).ty, narrow);
    let Some(first) = graph.uses(value).first().map(|reader| reader.op) else { return };
    let name = graph.value(value).name().to_string();
    let inside = graph.new_value(&format!("{name}_float"), ty);
    let outputs: Vec<usize> = (0..graph.outputs().len()).filter(|&at| graph.outputs()[at] == value).collect();
    graph.replace_uses(value, inside);
    outputs.into_iter().for_each(|at| graph.set_output(at, value));
    let cast = Op::new("Cast").named(&format!("{name}_widened")).with("to", i64::from(DType::F32.code()));
    let _ = graph.add_op(cast, &[Some(value)], &[Some(inside)], Place::Near(first));
}

fn restore_output(model: &mut Model, at: usize, value: ValueId, dtype: DType) {
    let graph = model.main_mut();
    let name = graph.value(value).name().to_string();
    let ty = retype(graph.value(value).ty.as_ref(), dtype);
    let outside = graph.new_value(&format!("{name}_narrow"), ty);
    let beside = graph.producer(value).map_or(Place::End, |(op, _)| Place::Near(op));
    let cast = Op::new("Cast").named(&format!("{name}_narrowed")).with("to", i64::from(dtype.code()));
    if graph.add_op(cast, &[Some(value)], &[Some(outside)], beside).is_err() {
        return;
    }
    graph.set_output(at, outside);
    // The name is part of the model's interface: a value that is listed twice keeps it for its first listing.
    if !graph.is_output(value) {
        let spare = graph.fresh_name(&format!("{name}_float"));
        if graph.rename(value, &spare).is_ok() {
            let _ = graph.rename(outside, &name);
        }
    }
}
