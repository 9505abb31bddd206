//! Bias correction: moves a product's bias by what quantization shifts the mean of each output channel.
//!
//! ```text
//! y = Conv(x, w, b)                            =>  y = Conv(x, w, b + d)
//! y = Conv(x, w)                               =>  y = Conv(x, w, d)
//! t = MatMul(x, w); y = Add(t, b)              =>  t = MatMul(x, w); y = Add(t, b + d)
//! ```
//!
//! Rounding a weight or clipping an activation has an error whose mean over the data is not zero, and the same for every
//! position of a channel: it adds up from layer to layer, while the rest averages out. `d` is measured by whoever calls
//! (Nagel et al., arXiv 1906.04721, section 4.2, the empirical form); the float model then gives other results, its
//! quantized form better ones.
//!
//! Declines a product without a place for a bias: a `MatMul` that no addition follows, a `Gemm` that scales its bias.

use std::collections::BTreeMap;

use ir::{Model, OpId, Tensor, ValueId};

use crate::driver::Scope;
use crate::numbers;
use crate::quantize::choose::key_of;
use crate::weights::{Linear, per_channel};

/// A product whose output channels have a bias, or could have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The name of the product's output, before any bias that another operator adds; also the product's name in a plan.
    pub value: String,
    /// The dimension of the output that is the channel, from the front; none: the last one.
    pub axis: Option<usize>,
    /// Number of output channels.
    pub channels: usize,
}

/// Where a bias is kept.
struct Holder {
    op: OpId,
    slot: usize,
    bias: Vec<f64>,
    old: Option<ValueId>,
}

/// The places of the main graph where a bias can be corrected, in the order of execution.
pub fn sites(model: &Model) -> Vec<Site> {
    let graph = model.main();
    let scope = Scope { model, id: model.main_id() };
    let schedule = graph.schedule().unwrap_or_else(|_| graph.ops());
    let site = |op: OpId| {
        let linear = Linear::of(scope, op).ok()?;
        holder(scope, &linear)?;
        Some(Site { value: key_of(graph, op), axis: linear.axis, channels: linear.channels })
    };
    schedule.into_iter().filter_map(site).collect()
}

fn holder(scope: Scope<'_>, linear: &Linear<'_>) -> Option<Holder> {
    let node = scope.op(linear.op);
    if !node.kind.is("MatMul") {
        let scaled = node.attrs.float("beta").unwrap_or(1.0) != 1.0;
        let bias = linear.bias_values().filter(|_| !scaled)?;
        return Some(Holder { op: linear.op, slot: 2, bias, old: scope.input(linear.op, 2) });
    }
    let product = scope.output(linear.op, 0)?;
    let reader = scope.sole_use(product).filter(|_| !scope.is_output(product))?.op;
    if !scope.op(reader).kind.is("Add") {
        return None;
    }
    let slot = usize::from(scope.input(reader, 0) == Some(product));
    let old = scope.input(reader, slot)?;
    let bias = per_channel(scope, product, scope.constant(old)?, None, linear.channels)?;
    Some(Holder { op: reader, slot, bias, old: Some(old) })
}

/// Adds `shifts` (by the name of the product's output, one number a channel) to the biases. Returns the names of the
/// products that have no place for a bias or another number of channels; these are left alone.
pub fn correct(model: &mut Model, shifts: &BTreeMap<String, Vec<f64>>) -> Vec<String> {
    let mut declined = Vec::new();
    for (name, shift) in shifts {
        if correct_one(model, name, shift).is_none() {
            declined.push(name.clone());
        }
    }
    declined
}

fn correct_one(model: &mut Model, name: &str, shift: &[f64]) -> Option<()> {
    let scope = Scope { model, id: model.main_id() };
    let (op, _) = scope.producer(scope.find(name)?)?;
    let linear = Linear::of(scope, op).ok()?;
    if linear.channels != shift.len() || shift.iter().any(|v| !v.is_finite()) {
        return None;
    }
    let found = holder(scope, &linear)?;
    let bias: Vec<f64> = found.bias.iter().zip(shift).map(|(b, d)| b + d).collect();
    let tensor: Tensor = numbers::from_floats(linear.dtype(), &[bias.len()], &bias)?;
    let hint = match found.old {
        Some(old) => scope.value(old).name().to_string(),
        None => format!("{name}_bias"),
    };
    let graph = model.main_mut();
    let corrected = graph.new_constant(&hint, tensor);
    graph.set_input(found.op, found.slot, Some(corrected));
    if let Some(old) = found.old {
        graph.remove_value(old);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::parse;

    fn shift(name: &str, by: &[f64]) -> BTreeMap<String, Vec<f64>> {
        BTreeMap::from([(name.to_string(), by.to_vec())])
    }

    /// The constant in a slot of the operator that writes `value`.
    fn constant(model: &Model, value: &str, slot: usize) -> Vec<f32> {
        let graph = model.main();
        let (op, _) = graph.producer(graph.find(value).unwrap()).unwrap();
        graph.constant(graph.input(op, slot).unwrap()).unwrap().to_vec().unwrap()
    }

    const CONV: &str = "g (float[1,1,2,2] x) => (float[1,2,2,2] y, float[1,2,2,2] z)
        <float[2,1,1,1] w = {1, 2}, float[2] b = {10, 20}>
        { y = Conv(x, w, b) z = Conv(x, w) }";

    #[test]
    fn a_bias_moves_and_a_missing_one_is_made() {
        let mut model = parse(CONV);
        let expected = |value: &str| Site { value: value.into(), axis: Some(1), channels: 2 };
        assert_eq!(sites(&model), [expected("y"), expected("z")]);
        assert!(correct(&mut model, &shift("y", &[0.5, -1.0])).is_empty());
        assert!(correct(&mut model, &shift("z", &[3.0, 4.0])).is_empty());
        assert_eq!(constant(&model, "y", 2), [10.5, 19.0]);
        assert_eq!(constant(&model, "z", 2), [3.0, 4.0]);
    }

    #[test]
    fn a_shared_bias_moves_for_one_reader_only() {
        let mut model = parse(
            "g (float[1,2] x) => (float[1,2] y, float[1,2] z)
            <float[2,2] w = {1, 2, 3, 4}, float[2] b = {10, 20}>
            { y = Gemm(x, w, b) z = Gemm(x, w, b) }",
        );
        assert!(correct(&mut model, &shift("y", &[1.0, 1.0])).is_empty());
        assert_eq!(constant(&model, "y", 2), [11.0, 21.0]);
        assert_eq!(constant(&model, "z", 2), [10.0, 20.0]);
    }

    #[test]
    fn the_addition_behind_a_matrix_product_is_its_bias() {
        let mut model = parse(
            "g (float[1,3,2] x) => (float[1,3,2] y, float[1,3,2] z)
            <float[2,2] w = {1, 2, 3, 4}, float[2] b = {10, 20}>
            { t = MatMul(x, w) y = Add(b, t) z = MatMul(x, w) }",
        );
        assert_eq!(sites(&model), [Site { value: "t".into(), axis: None, channels: 2 }]);
        assert!(correct(&mut model, &shift("t", &[1.0, -1.0])).is_empty());
        assert_eq!(constant(&model, "y", 0), [11.0, 19.0]);
        assert_eq!(correct(&mut model, &shift("z", &[1.0, 1.0])), ["z"]);
    }

    #[test]
    fn what_does_not_fit_is_declined() {
        let mut model = parse(
            "g (float[1,2] x) => (float[1,2] y) <float[2,2] w = {1, 2, 3, 4}, float[2] b = {10, 20}>
            { y = Gemm <beta: float = 2.0> (x, w, b) }",
        );
        assert!(sites(&model).is_empty());
        assert_eq!(correct(&mut model, &shift("y", &[1.0, 1.0])), ["y"]);
        let mut model = parse(CONV);
        for wrong in [shift("y", &[1.0]), shift("y", &[f64::NAN, 0.0]), shift("nowhere", &[0.0, 0.0])] {
            assert_eq!(correct(&mut model, &wrong).len(), 1);
        }
        assert_eq!(constant(&model, "y", 2), [10.0, 20.0]);
    }
}
