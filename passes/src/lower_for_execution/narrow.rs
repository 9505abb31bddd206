//! Half-precision floats (bfloat16, float16) become float32: types, constants, and the types that operators are asked for.
//!
//! Runtimes on ordinary processors compute these types in float32 anyway and round each result; here nothing is rounded,
//! so a result is at least as exact, and a number beyond 65504 stays finite where float16 would give infinity.

use ir::{AttrValue, DType, GraphId, Location, Model, Tensor, Type, TypeKind};

use crate::driver::{Changes, Cx};

/// Attributes that hold the code of an element type.
const TYPES: &[&str] = &["to", "dtype", "output_dtype", "softmax_precision"];

/// Widens the model, if it holds anything narrow.
pub(super) fn widen(model: &mut Model, cx: &mut Cx, changes: &mut Changes) {
    let graphs = model.graph_ids();
    if !graphs.iter().any(|&id| holds_narrow(model, id)) || !cx.spend("widen", Location::graph(model.main()))
    {
        return;
    }
    for id in graphs {
        widen_graph(model, id);
    }
    changes.count("widen");
}

fn is_narrow(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

fn holds_narrow(model: &Model, id: GraphId) -> bool {
    let graph = model.graph(id);
    graph.values().any(|value| graph.value(value).dtype().is_some_and(is_narrow))
        || graph.ops().into_iter().any(|op| {
            let mut attrs = graph.op(op).attrs.iter();
            attrs.any(|attr| matches!(&attr.value, AttrValue::Tensor(tensor) if is_narrow(tensor.dtype())))
        })
}

fn widen_graph(model: &mut Model, id: GraphId) {
    let graph = model.graph_mut(id);
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
            let named = TYPES.contains(&&*attr.name);
            match &mut attr.value {
                AttrValue::Int(code)
                    if named
                        && i32::try_from(*code).ok().and_then(DType::from_code).is_some_and(is_narrow) =>
                {
                    *code = i64::from(DType::F32.code());
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
