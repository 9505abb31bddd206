//! Forms that ONNX Runtime's optimizer leaves alone where what it would make of the usual ones is worse. They change no number.
//!
//! ```text
//! MatMul(x, w) + b                  a vector b gets the product's rank     else a float Gemm, before quantization is looked at
//! MatMul(x, w) + c                  computed: Sum instead of Add           likewise
//! LayerNormalization(x + y)         computed: Sum instead of Add           else a SkipLayerNormalization, several times as slow
//! DequantizeLinear(q) -> Conv(., w) a Max of one operand between           else w is rounded, to one scale, as it is loaded
//! ```
//!
//! Measured for version 1.31.1.

use ir::{DType, Graph, Op, OpId, OpKind, Place, Slot, ValueId};

/// See [`crate::target::Target::keep_form`].
pub(super) fn keep(graph: &mut Graph, op: OpId, quantized: bool) {
    let kind = graph.op(op).kind.clone();
    if quantized && kind.is("MatMul") {
        lift_bias(graph, op);
        sum_up(graph, op);
    } else if !quantized && (kind.is("Conv") || kind.is("ConvTranspose") || kind.is("Gemm")) {
        shield(graph, op);
    } else if !quantized && kind.is("Add") {
        keep_apart(graph, op);
    }
}

/// Both inputs of an operator are computed.
fn adds_computed(graph: &Graph, op: OpId) -> bool {
    let inputs = graph.op_inputs(op);
    inputs.into_iter().all(|value| value.is_some_and(|value| graph.constant(value).is_none()))
}

/// Writes an addition that is normalized as a sum: with the normalization it would become a SkipLayerNormalization, whose
/// kernel goes element by element. One thread, 28 rows of 384: 71 µs instead of 15; 512 rows of 1024: 7.4 ms instead of 0.75.
fn keep_apart(graph: &mut Graph, op: OpId) {
    let normalized = |graph: &Graph| -> Option<bool> {
        let sum = graph.output(op, 0)?;
        let reads = |name: &str| graph.uses(sum).iter().any(|reader| graph.op(reader.op).kind.is(name));
        // Written out, a normalization starts with the mean and what is off it.
        let norm = reads("LayerNormalization") || reads("RMSNormalization");
        let parts = reads("ReduceMean") && reads("Sub");
        let float =
            graph.op_inputs(op).into_iter().flatten().all(|v| graph.value(v).dtype() == Some(DType::F32));
        Some((norm || parts) && float && adds_computed(graph, op))
    };
    if normalized(graph) == Some(true) {
        graph.op_mut(op).kind = OpKind::new("", "Sum");
    }
}

/// Gives a vector that is added to a product the product's rank.
fn lift_bias(graph: &mut Graph, op: OpId) {
    let found = |graph: &Graph| -> Option<(OpId, usize, ValueId, usize)> {
        let product = graph.output(op, 0)?;
        let rank = graph.value(product).shape()?.rank();
        let [reader] = graph.uses(product)[..] else { return None };
        let Slot::In(at) = reader.slot else { return None };
        if !graph.op(reader.op).kind.is("Add") || graph.is_output(product) || rank < 2 {
            return None;
        }
        let other = 1 - at as usize;
        let bias = graph.input(reader.op, other)?;
        (graph.constant(bias)?.rank() == 1).then_some((reader.op, other, bias, rank))
    };
    let Some((add, slot, bias, rank)) = found(graph) else { return };
    let Some(tensor) = graph.constant(bias).cloned() else { return };
    let mut dims = vec![1; rank];
    dims[rank - 1] = tensor.elements();
    let Ok(lifted) = tensor.reshaped(dims.as_slice()) else { return };
    let name = format!("{}_lifted", graph.value(bias).name());
    let lifted = graph.new_constant(&name, lifted);
    graph.set_input(add, slot, Some(lifted));
    graph.remove_value(bias);
}

/// Writes the addition of two computed matrices, one of them a product, as a sum: only of an addition is a Gemm made.
fn sum_up(graph: &mut Graph, op: OpId) {
    let found = |graph: &Graph| -> Option<OpId> {
        let product = graph.output(op, 0)?;
        let [reader] = graph.uses(product)[..] else { return None };
        let matrix = graph.value(product).shape()?.rank() == 2;
        (matrix && graph.op(reader.op).kind.is("Add") && adds_computed(graph, reader.op)).then_some(reader.op)
    };
    if let Some(add) = found(graph) {
        graph.op_mut(add).kind = OpKind::new("", "Sum");
    }
}

/// Puts a copy between the rounded data and an operator that stays float. Its weight is a constant, or a Cast of one.
fn shield(graph: &mut Graph, op: OpId) {
    let rounded = |graph: &Graph| -> Option<ValueId> {
        let data = graph.input(op, 0)?;
        let (writer, _) = graph.producer(data)?;
        let weight = graph.input(op, 1)?;
        let stored = match graph.producer(weight) {
            Some((cast, _)) if graph.op(cast).kind.is("Cast") => graph.input(cast, 0)?,
            _ => weight,
        };
        let float = graph.constant(stored).is_some();
        (graph.op(writer).kind.is("DequantizeLinear") && float).then_some(data)
    };
    let Some(data) = rounded(graph) else { return };
    let name = format!("{}_unfused", graph.value(data).name());
    let ty = graph.value(data).ty.clone();
    let copy = graph.new_value(&name, ty);
    // Names of operators are unique because this name of a value is.
    let name = graph.value(copy).name().to_string();
    let max = Op::new("Max").named(&format!("{name}_Max"));
    if graph.add_op(max, &[Some(data)], &[Some(copy)], Place::Near(op)).is_ok() {
        graph.set_input(op, 0, Some(copy));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::parse;

    /// The kinds of the operators after [`keep`] saw each, none of them quantized.
    fn kept(body: &str) -> Vec<String> {
        let text = format!(
            "g (float[2,4] x, float[2,4] y) => (float[2,4] z) <float[4] one = {{1, 1, 1, 1}}, float[4] b = {{1, 2, 3, 4}}> {{ {body} }}"
        );
        let mut model = parse(&text);
        let graph = model.main_mut();
        for op in graph.ops() {
            keep(graph, op, false);
        }
        graph.ops().into_iter().map(|op| graph.op(op).kind.to_string()).collect()
    }

    #[test]
    fn only_computed_sums_that_are_normalized_are_kept_apart() {
        assert_eq!(
            kept("a = Relu(x) s = Add(a, y) z = LayerNormalization(s, one, b)"),
            ["Relu", "Sum", "LayerNormalization"]
        );
        let parts = "s = Add(x, y) m = ReduceMean<axes = [-1]>(s) z = Sub(s, m)";
        assert_eq!(kept(parts), ["Sum", "ReduceMean", "Sub"]);
        assert_eq!(kept("s = Add(x, b) z = LayerNormalization(s, one, b)"), ["Add", "LayerNormalization"]);
        assert_eq!(kept("s = Add(x, y) z = Relu(s)"), ["Add", "Relu"]);
    }
}
