//! Moves range between channels: a channel whose numbers are small beside its neighbours' wastes the codes of a scale that
//! all share. Dividing channel k of a value by s_k where it is written, and multiplying by s_k where it is read, changes
//! nothing in float.
//!
//! ```text
//! y = Relu(Conv(x, w1, b1)); z = Conv(y, w2)
//!   =>  y' = Relu(Conv(x, w1[k] / s_k, b1[k] / s_k)); z = Conv(y', w2[:, k] * s_k)
//! ```
//!
//! This is cross-layer equalization (Nagel et al., arXiv 1906.04721) where the two sides are convolutions, and SmoothQuant
//! (Xiao et al., arXiv 2211.10438) where a normalization writes and matrix products read. With r_k the channel's largest
//! magnitude relative to the whole value's, and c_k the largest of the weights that read it relative to their rows',
//! s_k = r_k^α / c_k^(1-α).
//!
//! Between writer and reader may stand what commutes with a positive factor on a channel: Relu, LeakyRelu, PRelu, pools,
//! Resize, a sum (both sides then share their factors), a Concat of channels, a product with constants or with a gate. A Clip
//! commutes while it does not bite: a channel that calibration saw stay `CLEAR` below the bound may grow up to it.
//! Everything else that touches a value holds its factors at 1.

mod channels;
mod commute;
mod factors;

use std::collections::BTreeMap;

use ir::{Model, OpId, Tensor, ValueId};
use quant::range::Sketch;

use crate::driver::Scope;
use crate::numbers;
use crate::weights::{Linear, finite};
use channels::Span;

/// Constants to replace: operator, input, new value.
type Edits = Vec<(OpId, usize, Tensor)>;

/// What was changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Equalized {
    /// Values whose numbers changed, by name.
    pub values: Vec<String>,
    /// Channels with a factor other than 1.
    pub channels: usize,
}

/// A constant that is divided by the factors of the channels a value has.
struct Divided {
    op: OpId,
    slot: usize,
    span: Span,
    values: Vec<f64>,
}

struct Product {
    op: OpId,
    input: Span,
    output: Span,
}

struct Bound {
    input: Span,
    output: ValueId,
    high: f64,
}

struct Analysis<'a> {
    scope: Scope<'a>,
    spans: BTreeMap<ValueId, Span>,
    parent: Vec<usize>,
    frozen: Vec<bool>,
    products: Vec<Product>,
    divided: Vec<Divided>,
    bounds: Vec<Bound>,
}

/// Equalizes the main graph with the given balance `alpha` between activations (1) and weights (0).
pub fn equalize(model: &mut Model, sketches: &BTreeMap<String, Sketch>, alpha: f64) -> Equalized {
    let edits = {
        let scope = Scope { model, id: model.main_id() };
        let mut analysis = Analysis::new(scope);
        let schedule = scope.schedule().unwrap_or_else(|_| scope.ops());
        for op in schedule {
            analysis.visit(op);
        }
        analysis.edits(sketches, alpha)
    };
    let Some((edits, equalized)) = edits else { return Equalized::default() };
    let graph = model.main_mut();
    for (op, slot, tensor) in edits {
        let old = graph.input(op, slot);
        let hint = old.map_or_else(|| "equalized".to_string(), |old| graph.value(old).name().to_string());
        let fresh = graph.new_constant(&hint, tensor);
        graph.set_input(op, slot, Some(fresh));
        if let Some(old) = old {
            graph.remove_value(old);
        }
    }
    equalized
}

impl Analysis<'_> {
    fn edits(mut self, sketches: &BTreeMap<String, Sketch>, alpha: f64) -> Option<(Edits, Equalized)> {
        let factors = self.factors(sketches, alpha);
        let of = |this: &mut Self, span: Span| -> Vec<f64> {
            (0..span.count).map(|at| factors[this.root(span.base + at)]).collect()
        };
        let moves = |factors: &[f64]| factors.iter().any(|&s| s != 1.0);
        let mut edits = Edits::new();
        let products = std::mem::take(&mut self.products);
        for Product { op, input, output } in products {
            let (read, written) = (of(&mut self, input), of(&mut self, output));
            if !moves(&read) && !moves(&written) {
                continue;
            }
            let linear = Linear::of(self.scope, op).ok()?;
            let mut weights = numbers::floats(linear.weight)?;
            for (index, w) in weights.iter_mut().enumerate() {
                *w *= read[linear.input_channel(index)] / written[linear.channel(index)];
            }
            let tensor = numbers::from_floats(linear.dtype(), linear.weight.dims(), &weights)?;
            edits.push((op, 1, finite(tensor)?));
            if linear.bias.is_some() && moves(&written) {
                let bias: Vec<f64> = linear.bias_values()?.iter().zip(&written).map(|(b, s)| b / s).collect();
                edits.push((op, 2, finite(numbers::from_floats(linear.dtype(), &[bias.len()], &bias)?)?));
            }
        }
        let divided = std::mem::take(&mut self.divided);
        for Divided { op, slot, span, values } in divided {
            let written = of(&mut self, span);
            if !moves(&written) {
                continue;
            }
            let old = self.graph().constant(self.graph().input(op, slot)?)?;
            let values: Vec<f64> = values.iter().zip(&written).map(|(v, s)| v / s).collect();
            // A constant of one element for all channels becomes one of each; its rank says where they lie.
            let dims = if old.elements() == values.len() {
                old.dims().to_vec()
            } else {
                let rank = self.scope.rank(self.graph().output(op, 0)?)?;
                let mut dims = vec![1; rank - span.axis];
                dims[0] = span.count;
                dims
            };
            edits.push((op, slot, finite(numbers::from_floats(old.dtype(), &dims, &values)?)?));
        }
        let mut equalized = Equalized::default();
        let spans: Vec<(ValueId, Span)> = self.spans.iter().map(|(v, s)| (*v, *s)).collect();
        for (value, span) in spans {
            let factors = of(&mut self, span);
            if moves(&factors) {
                equalized.values.push(self.graph().value(value).name().to_string());
            }
        }
        for (at, &factor) in factors.iter().enumerate() {
            equalized.channels += usize::from(self.root(at) == at && factor != 1.0);
        }
        (!edits.is_empty()).then_some((edits, equalized))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::parse;
    use quant::Layout;

    /// Runs the model and gives its outputs, and sketches with channels of everything on the way.
    fn run(model: &Model, input: &Tensor) -> (Vec<Vec<f32>>, BTreeMap<String, Sketch>) {
        let mut sketches: BTreeMap<String, Sketch> = BTreeMap::new();
        let mut see = |_, value: ValueId, seen: &mut ops::Value| {
            if let Some(tensor) = seen.as_tensor() {
                let axis = if tensor.rank() > 2 { 1 } else { tensor.rank() - 1 };
                let layout = Layout::per_axis(tensor.dims(), axis).unwrap();
                let name = model.main().value(value).name().to_string();
                let numbers = tensor.to_vec::<f32>().unwrap();
                sketches.entry(name).or_default().observe_channels(0, &numbers, &layout).unwrap();
            }
        };
        let inputs = vec![Some(ops::Value::Tensor(input.clone()))];
        let outputs = ops::eval::run(model, inputs, &ops::eval::Options::default(), Some(&mut see)).unwrap();
        let floats = |value: &ops::Value| value.as_tensor().unwrap().to_vec::<f32>().unwrap();
        (outputs.iter().map(floats).collect(), sketches)
    }

    /// Equalizes and says which values changed, after checking that the output did not.
    fn equalized(body: &str, dims: &[usize]) -> Vec<String> {
        let mut model = parse(body);
        let count: usize = dims.iter().product();
        let numbers: Vec<f32> = (0..count).map(|i| ((i * 37 % 23) as f32 - 9.0) / 7.0).collect();
        let input = Tensor::from_slice(dims, &numbers).unwrap();
        let (before, sketches) = run(&model, &input);
        let done = equalize(&mut model, &sketches, 0.5);
        let (after, _) = run(&model, &input);
        for (before, after) in before.iter().flatten().zip(after.iter().flatten()) {
            // A handful of float32 roundings of numbers of this size.
            assert!((before - after).abs() <= 1e-5 * (1.0 + before.abs()), "{before} {after} in {body}");
        }
        let mut values = done.values;
        values.sort();
        values
    }

    #[test]
    fn chains_of_convolutions_are_equalized() {
        let body = "g (float[1,1,2,2] x) => (float[1,1,2,2] z)
            <float[2,1,1,1] w = {100, 1}, float[2] b = {3, 0.1}, float[2,1,1,1] d = {1, 2}, float[1,2,1,1] v = {1, 5}>
            { c = Conv(x, w, b) y = Relu(c) e = Conv<group: int = 2>(y, d) f = LeakyRelu(e) z = Conv(f, v) }";
        assert_eq!(equalized(body, &[1, 1, 2, 2]), ["c", "e", "f", "y"]);
    }

    #[test]
    fn sums_and_concats_share_and_others_hold() {
        let weights = "<float[2,1,1,1] w = {100, 1}, float[2,1,1,1] u = {1, 60}, float[1,2,1,1] v = {1, 5},
            float[1,4,1,1] q = {1, 2, 3, 4}, float[2] b = {1, 0.1}>";
        let sum = format!(
            "g (float[1,1,2,2] x) => (float[1,1,2,2] z) {weights}
            {{ a = Conv(x, w, b) c = Conv(x, u) s = Add(a, c) r = Relu(s) z = Conv(r, v) }}"
        );
        assert_eq!(equalized(&sum, &[1, 1, 2, 2]), ["a", "c", "r", "s"]);
        let concat = format!(
            "g (float[1,1,2,2] x) => (float[1,1,1,1] z) {weights}
            {{ a = Conv(x, w, b) c = Conv(x, u) s = Concat<axis: int = 1>(a, c) p = GlobalAveragePool(s) z = Conv(p, q) }}"
        );
        assert_eq!(equalized(&concat, &[1, 1, 2, 2]), ["a", "c", "p", "s"]);
        let held = format!(
            "g (float[1,1,2,2] x) => (float[1,1,2,2] z, float[1,2,2,2] t) {weights}
            {{ a = Conv(x, w, b) t = Sigmoid(a) z = Conv(a, v) }}"
        );
        assert!(equalized(&held, &[1, 1, 2, 2]).is_empty());
        let output = format!(
            "g (float[1,1,2,2] x) => (float[1,1,2,2] z, float[1,2,2,2] a) {weights}
            {{ a = Conv(x, w, b) z = Conv(a, v) }}"
        );
        assert!(equalized(&output, &[1, 1, 2, 2]).is_empty());
    }

    #[test]
    fn a_clip_is_passed_where_it_does_not_bite() {
        let body = |high: f32| {
            format!(
                "g (float[1,1,2,2] x) => (float[1,1,2,2] z)
                <float[2,1,1,1] w = {{5, 0.1}}, float[1,2,1,1] v = {{1, 1}}, float low = {{0.0}}, float high = {{{high:.1}}}>
                {{ c = Conv(x, w) y = Clip(c, low, high) z = Conv(y, v) }}"
            )
        };
        // The first channel reaches the bound and stays, the second grows.
        assert_eq!(equalized(&body(6.0), &[1, 1, 2, 2]), ["c", "y"]);
        assert!(equalized(&body(0.1), &[1, 1, 2, 2]).is_empty(), "both reach it");
    }

    #[test]
    fn normalizations_and_biases_of_matrix_products_are_divided() {
        let body = "g (float[3,2] x) => (float[3,1] z)
            <float[2] gain = {30, 1}, float[2] shift = {1, 2}, float[2,2] w = {1, 0.02, 3, 0.04}, float[2] b = {50, 1},
            float[2,1] v = {1, 1}>
            { n = LayerNormalization(x, gain, shift) t = MatMul(n, w) u = Add(t, b) r = Relu(u) z = MatMul(r, v) }";
        assert_eq!(equalized(body, &[3, 2]), ["n", "r", "t", "u"]);
    }
}
