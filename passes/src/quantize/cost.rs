//! Multiplications of an operator, from the shapes: for shares in reports and for budgets.

use ir::{Dim, Graph, Model, OpId, ValueId};
use ops::{Role, Work, scheme};

use super::keys::places;
use super::plan::{Kernel, Precision, QuantPlan};
use crate::target::Target;

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

/// The products that the plan makes slower than they are in the float model, by the name of the first output: computed in
/// float behind a weight that `target` makes floats of on every run.
pub fn slowed<'p>(model: &Model, plan: &'p QuantPlan, target: &dyn Target) -> Vec<&'p str> {
    let places = places(model);
    let slow = |key: &str| {
        let &(graph, op) = places.get(key)?;
        let graph = model.graph(graph);
        let product = scheme(graph, op).is_some_and(|scheme| scheme.work == Work::Product);
        let weights = plan.weights.get(key).filter(|_| product)?;
        let constants = weights.iter().filter_map(|weight| graph.constant(graph.input(op, weight.slot)?));
        let elements: usize = constants.map(|tensor| tensor.elements()).sum();
        // Each element of a weight is multiplied once for every row of data.
        let rows = macs(graph, op) / (elements as u64).max(1);
        Some(target.slowed_by_storage(elements, rows))
    };
    let stored =
        plan.ops.iter().filter(|(_, op)| op.precision == Precision::W8 && op.kernel == Kernel::Float);
    stored.map(|(key, _)| key.as_str()).filter(|key| slow(key) == Some(true)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::{Choices, choose};
    use crate::target::OrtCpu;

    #[test]
    fn weights_that_are_made_floats_on_every_run_slow_many_rows_down() {
        let slow = |rows: usize, width: usize| {
            let text = format!(
                "<ir_version: 10, opset_import: [\"\": 17]> g (float[{rows},{width}] x) => (float[{rows},{width}] y)
                <float[{width},{width}] w = {{{}}}> {{ y = MatMul(x, w) }}",
                vec!["0.5"; width * width].join(", ")
            );
            let model = ir::text::parse(&text).unwrap();
            let mut choices = Choices::new(&OrtCpu);
            choices.overrides.insert("y".into(), Precision::W8);
            let plan = choose(&model, &choices);
            assert_eq!(plan.ops["y"].precision, Precision::W8);
            slowed(&model, &plan, &OrtCpu).len()
        };
        assert_eq!(slow(64, 256), 1, "many rows");
        assert_eq!(slow(1, 256), 0, "one row of a large weight");
        assert_eq!(slow(1, 64), 1, "a small weight");
    }
}
