//! Sparse constants with their zeros: runtimes other than ONNX Runtime do not read them.

use ir::{Location, Model};

use crate::driver::{Changes, Cx};

/// Bytes of one dense tensor at most: what is larger was made sparse for a reason.
const LARGEST: usize = 1 << 30;

/// Makes sparse initializers dense. One that is too large, or whose indices do not fit, stays.
pub(super) fn densify(model: &mut Model, cx: &mut Cx, changes: &mut Changes) {
    for id in model.graph_ids() {
        for value in model.graph(id).values().collect::<Vec<_>>() {
            let graph = model.graph(id);
            let Some(sparse) = &graph.value(value).sparse else { continue };
            let at = Location::value(graph, value);
            let elements = ir::checked_elements(&sparse.dims).ok();
            let bytes = elements.and_then(|elements| sparse.values.dtype().storage_bytes(elements));
            if bytes.is_none_or(|bytes| bytes > LARGEST) {
                cx.decline("densify", format!("its dense form is over {LARGEST} bytes"), at);
                continue;
            }
            match ops::array::densify(sparse) {
                Err(error) => cx.decline("densify", error.to_string(), at),
                Ok(dense) => {
                    if !cx.spend("densify", at) {
                        return;
                    }
                    let value = model.graph_mut(id).value_mut(value);
                    (value.data, value.sparse) = (Some(dense), None);
                    changes.count("densify");
                }
            }
        }
    }
}
