//! Half-precision floats (bfloat16, float16) become float32: types, constants, and the types that operators are asked for.
//!
//! Runtimes on ordinary processors compute these types in float32 anyway and round each result; here nothing is rounded,
//! so a result is at least as exact, and a number beyond 65504 stays finite where float16 would give infinity.
//!
//! `lower_for_execution` does it to the whole model, `widen_floats` to all but its inputs and outputs.

use ir::{AttrValue, DType, Graph, Model, Tensor, Type, TypeKind};

/// Attributes that hold the code of an element type.
const TYPES: &[&str] = &["to", "dtype", "output_dtype", "stash_type", "softmax_precision"];

/// Something in the model is narrow.
pub fn is_in(model: &Model) -> bool {
    model.graph_ids().into_iter().any(|id| holds(model.graph(id)))
}

/// Widens all that is narrow, in every graph.
pub fn widen(model: &mut Model) {
    for id in model.graph_ids() {
        widen_graph(model.graph_mut(id));
    }
}

/// The type is float16 or bfloat16.
pub fn is_narrow(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

fn holds(graph: &Graph) -> bool {
    let held = graph.values().any(|value| {
        let value = graph.value(value);
        value.dtype().is_some_and(is_narrow)
            || value.data.as_ref().is_some_and(|data| is_narrow(data.dtype()))
    });
    let tensor =
        |attr: &ir::Attr| matches!(&attr.value, AttrValue::Tensor(tensor) if is_narrow(tensor.dtype()));
    held || graph.ops().into_iter().any(|op| graph.op(op).attrs.iter().any(tensor))
}

fn widen_graph(graph: &mut Graph) {
    for value in graph.values().collect::<Vec<_>>() {
        let value = graph.value_mut(value);
        if let Some(ty) = &mut value.ty {
            widen_type(ty);
        }
        if let Some(wide) = value.data.as_ref().and_then(wide) {
            value.data = Some(wide);
        }
    }
    for op in graph.ops() {
        for attr in graph.op_mut(op).attrs.iter_mut() {
            let names_type = TYPES.contains(&&*attr.name);
            match &mut attr.value {
                AttrValue::Int(code) if names_type => {
                    let found = i32::try_from(*code).ok().and_then(DType::from_code);
                    if found.is_some_and(is_narrow) {
                        *code = i64::from(DType::F32.code());
                    }
                }
                AttrValue::Tensor(tensor) => {
                    if let Some(wide) = wide(tensor) {
                        *tensor = wide;
                    }
                }
                AttrValue::Type(ty) => widen_type(ty),
                _ => {}
            }
        }
    }
}

fn widen_type(ty: &mut Type) {
    match &mut ty.kind {
        TypeKind::Tensor(tensor) if tensor.dtype.is_some_and(is_narrow) => tensor.dtype = Some(DType::F32),
        TypeKind::Sequence(inner) | TypeKind::Optional(inner) => widen_type(inner),
        _ => {}
    }
}

/// The tensor in float32, if it is narrow.
fn wide(tensor: &Tensor) -> Option<Tensor> {
    if !is_narrow(tensor.dtype()) {
        return None;
    }
    Tensor::from_slice(tensor.dims(), &ops::array::to_f32s(tensor)?).ok()
}
