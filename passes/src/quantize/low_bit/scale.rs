//! Division of a value by one number a column: folded into what makes the value, or a Mul in front of its readers.
//!
//! ```text
//! x = Mul(t, w); readers of W * s     =>  x = Mul(t, w / s)
//! x = LayerNormalization(t, w, b)     =>  x = LayerNormalization(t, w / s, b / s)
//! otherwise                           =>  x' = Mul(x, 1 / s)
//! ```
//!
//! Folding is exact in real arithmetic and costs nothing at run time; it needs every reader of x to want the same division.

use ir::{Graph, OpId, ValueId};

use super::build::Build;
use crate::numbers;

/// Divides `value` by `scales`, one a column, for the operators `readers`; returns what they are to read. `behind`: axes of the
/// value behind that of the columns.
pub(super) fn divide(
    graph: &mut Graph,
    value: ValueId,
    scales: &[f32],
    behind: usize,
    readers: &[OpId],
    dtype: ir::DType,
) -> Option<ValueId> {
    let inverse: Vec<f64> = scales.iter().map(|&s| 1.0 / f64::from(s)).collect();
    let uses = graph.uses(value);
    let ours = uses.iter().all(|found| readers.contains(&found.op)) && !graph.is_output(value);
    // What makes the value has its parameters along the last axis.
    if ours && behind == 0 && fold(graph, value, &inverse) {
        return Some(value);
    }
    let first = *readers.first()?;
    let dims: Vec<usize> = [scales.len()].into_iter().chain(std::iter::repeat_n(1, behind)).collect();
    let constant = numbers::from_floats(dtype, &dims, &inverse)?;
    let mut build = Build::new(graph, first);
    build.hint = build.graph.value(value).name().to_string();
    let factors = build.constant("inverse_scales", constant);
    Some(build.onnx("Mul", &[value, factors], &[]))
}

/// Multiplies the producer's parameters; false if it has none that reach every column alone.
fn fold(graph: &mut Graph, value: ValueId, factors: &[f64]) -> bool {
    let Some((op, 0)) = graph.producer(value) else { return false };
    let slots: &[usize] = match graph.op(op).kind.key() {
        ("", "Mul") if column_constant(graph, op, 1, factors.len()) => &[1],
        ("", "Mul") if column_constant(graph, op, 0, factors.len()) => &[0],
        ("", "LayerNormalization") => &[1, 2],
        ("", "RMSNormalization" | "SimplifiedLayerNormalization") => &[1],
        _ => return false,
    };
    let present: Vec<usize> = slots.iter().copied().filter(|&slot| graph.input(op, slot).is_some()).collect();
    let scaled: Option<Vec<_>> = present
        .iter()
        .map(|&slot| {
            let tensor = graph.constant(graph.input(op, slot)?)?;
            (tensor.elements() == factors.len() && tensor.dims().last() == Some(&factors.len()))
                .then_some(())?;
            let values: Vec<f64> = numbers::floats(tensor)?.iter().zip(factors).map(|(v, f)| v * f).collect();
            numbers::from_floats(tensor.dtype(), tensor.dims(), &values)
        })
        .collect();
    let Some(scaled) = scaled else { return false };
    for (slot, tensor) in present.into_iter().zip(scaled) {
        let Some(old) = graph.input(op, slot) else { continue };
        let name = graph.value(old).name().to_string();
        let new = graph.new_constant(&format!("{name}_divided"), tensor);
        graph.set_input(op, slot, Some(new));
        super::build::remove_unread(graph, old);
    }
    true
}

/// Input `slot` is a constant with one number a column and nothing else.
fn column_constant(graph: &Graph, op: OpId, slot: usize, columns: usize) -> bool {
    let constant = graph.input(op, slot).and_then(|value| graph.constant(value));
    constant.is_some_and(|t| t.elements() == columns && t.dims().last() == Some(&columns))
}
