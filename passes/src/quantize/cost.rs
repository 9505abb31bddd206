//! Multiplications of an operator, from the shapes: for shares in reports and for budgets.

use ir::{Dim, Graph, OpId, ValueId};
use ops::{Role, Work, scheme};

/// Sizes of a value; sizes that the data decide count as 1.
fn sizes(graph: &Graph, value: Option<ValueId>) -> Option<Vec<u64>> {
    let shape = graph.value(value?).shape()?;
    Some(shape.dims.iter().map(|dim: &Dim| dim.known().map_or(1, |size| size as u64)).collect())
}

/// Multiplications of one run of a product: elements of the output times the length of the sums. Zero for operators that
/// are no products and where shapes are missing.
pub fn macs(graph: &Graph, op: OpId) -> u64 {
    let Some(scheme) = scheme(graph, op).filter(|scheme| scheme.work == Work::Product) else { return 0 };
    let count = || -> Option<u64> {
        let output: u64 = sizes(graph, graph.output(op, 0))?.iter().product();
        for slot in 0..graph.op(op).input_count() {
            let Role::Weight { channel, depth } = scheme.input(slot) else { continue };
            let weight = sizes(graph, graph.input(op, slot))?;
            // Each output element sums over everything of the weight but its channel axis (groups are in the sizes).
            let per_channel: u64 = match channel {
                Some(axis) => {
                    weight.iter().enumerate().filter(|(at, _)| *at != axis).map(|(_, size)| size).product()
                }
                None => *weight.get(depth?)?,
            };
            return output.checked_mul(per_channel);
        }
        // A product of two activations sums over the last axis of its left side.
        output.checked_mul(*sizes(graph, graph.input(op, 0))?.last()?)
    };
    count().unwrap_or(0)
}
