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

use std::collections::{BTreeMap, BTreeSet};

use ir::{Graph, Model, OpId, Tensor, ValueId};
use quant::range::Sketch;

use crate::driver::Scope;
use crate::numbers;
use crate::weights::{Linear, finite, per_channel};

/// Factors stay within this and its reciprocal: beyond it rounding of what is written to float32 would begin to show.
const LIMIT: f64 = 64.0;
/// A Clip is passed by channels whose largest number is this factor below its bound.
const CLEAR: f64 = 1.1;
/// What a value may stand before without being rounded itself.
const FUNCTIONS: &[&str] = &["Relu", "Clip", "PRelu", "LeakyRelu"];
/// Relative sizes below this are those of dead channels.
const DEAD: f64 = 1e-6;

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

/// The channels of a value as numbers of a union-find.
#[derive(Clone, Copy, Debug)]
struct Span {
    axis: usize,
    count: usize,
    base: usize,
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

impl<'a> Analysis<'a> {
    fn new(scope: Scope<'a>) -> Analysis<'a> {
        Analysis {
            scope,
            spans: BTreeMap::new(),
            parent: Vec::new(),
            frozen: Vec::new(),
            products: Vec::new(),
            divided: Vec::new(),
            bounds: Vec::new(),
        }
    }

    fn graph(&self) -> &'a Graph {
        self.scope.graph()
    }

    fn size(&self, value: ValueId, axis: usize) -> Option<usize> {
        self.graph().value(value).shape()?.dims.get(axis)?.known()
    }

    fn fresh(&mut self, axis: usize, count: usize, frozen: bool) -> Span {
        let span = Span { axis, count, base: self.parent.len() };
        self.parent.extend(span.base..span.base + count);
        self.frozen.extend(std::iter::repeat_n(frozen, count));
        span
    }

    /// New channels for a value that an operator writes.
    fn write(&mut self, value: ValueId, axis: usize, count: usize) -> Span {
        let span = self.fresh(axis, count, self.graph().is_output(value));
        self.spans.insert(value, span);
        span
    }

    fn freeze(&mut self, span: Span) {
        for at in span.base..span.base + span.count {
            let root = self.root(at);
            self.frozen[root] = true;
        }
    }

    fn freeze_value(&mut self, value: Option<ValueId>) {
        if let Some(&span) = value.and_then(|value| self.spans.get(&value)) {
            self.freeze(span);
        }
    }

    /// The channels of a value that an operator reads along this axis; frozen where nobody knows how to divide them.
    fn read(&mut self, value: ValueId, axis: usize, count: usize) -> Span {
        match self.spans.get(&value).copied() {
            Some(span) if span.axis == axis && span.count == count => span,
            Some(other) => {
                self.freeze(other);
                self.fresh(axis, count, true)
            }
            None => {
                let span = self.fresh(axis, count, true);
                self.spans.insert(value, span);
                span
            }
        }
    }

    fn root(&mut self, mut at: usize) -> usize {
        while self.parent[at] != at {
            self.parent[at] = self.parent[self.parent[at]];
            at = self.parent[at];
        }
        at
    }

    fn unite(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        let (old, new) = (a.min(b), a.max(b));
        self.parent[new] = old;
        self.frozen[old] |= self.frozen[new];
    }

    fn unite_spans(&mut self, a: Span, b: Span) {
        (0..a.count.min(b.count)).for_each(|at| self.unite(a.base + at, b.base + at));
    }

    fn visit(&mut self, op: OpId) {
        if self.visit_known(op).is_none() {
            for value in self.graph().op_inputs(op).into_iter().flatten() {
                self.freeze_value(Some(value));
            }
        }
        for (_, _, outer) in self.graph().captures(op) {
            self.freeze_value(Some(outer));
        }
    }

    /// None if the operator is not understood; what was united until then stays so, which is safe.
    fn visit_known(&mut self, op: OpId) -> Option<()> {
        let graph = self.graph();
        let node = graph.op(op);
        if !node.kind.domain().is_empty() {
            return None;
        }
        match &*node.kind.name {
            "Conv" | "ConvTranspose" | "Gemm" | "MatMul" => self.product(op),
            "Relu" | "LeakyRelu" | "PRelu" | "MaxPool" | "AveragePool" | "GlobalAveragePool"
            | "GlobalMaxPool" | "Identity" | "Dropout" | "Resize" => self.pass(op),
            "Clip" => self.clip(op),
            "Add" | "Sum" => self.add(op),
            "Mul" => self.mul(op),
            "Concat" => self.concat(op),
            "Flatten" | "Reshape" | "Squeeze" => self.flatten(op),
            "LayerNormalization" | "BatchNormalization" | "InstanceNormalization" | "RMSNormalization" => {
                self.normalization(op)
            }
            _ => None,
        }
    }

    fn product(&mut self, op: OpId) -> Option<()> {
        let (graph, scope) = (self.graph(), self.scope);
        let linear = Linear::of(scope, op).ok()?;
        let (input, output) = (graph.input(op, 0)?, graph.output(op, 0)?);
        if graph.op(op).attrs.int("transA").unwrap_or(0) != 0 {
            return None;
        }
        linear.bias_values()?;
        let last = |value| scope.rank(value)?.checked_sub(1);
        let axes = match linear.axis {
            Some(axis) => (axis, axis),
            None => (last(input)?, last(output)?),
        };
        let read = self.read(input, axes.0, linear.input_channels());
        let written = self.write(output, axes.1, linear.channels);
        // A weight that others read, too, would have to be copied.
        if graph.input(op, 1).is_none_or(|weight| graph.use_count(weight) != 1) {
            self.freeze(read);
            self.freeze(written);
        }
        self.products.push(Product { op, input: read, output: written });
        Some(())
    }

    /// The channels of the first input, and as many of the output along the same axis.
    fn through(&mut self, op: OpId) -> Option<(Span, Span)> {
        let (input, output) = (self.graph().input(op, 0)?, self.graph().output(op, 0)?);
        let from = *self.spans.get(&input)?;
        if self.size(output, from.axis)? != from.count {
            return None;
        }
        let to = self.write(output, from.axis, from.count);
        self.unite_spans(from, to);
        Some((from, to))
    }

    fn pass(&mut self, op: OpId) -> Option<()> {
        let graph = self.graph();
        // Indices, slopes that are computed, and everything else that reads channels elsewhere.
        if graph.op_outputs(op).iter().skip(1).flatten().any(|&v| graph.is_used(v) || graph.is_output(v)) {
            return None;
        }
        if (1..graph.op(op).input_count())
            .filter_map(|at| graph.input(op, at))
            .any(|v| graph.constant(v).is_none())
        {
            return None;
        }
        self.through(op).map(|_| ())
    }

    fn clip(&mut self, op: OpId) -> Option<()> {
        let scalar = |at| match self.graph().input(op, at) {
            Some(value) => numbers::splat(self.graph().constant(value)?),
            None => Some(if at == 1 { f64::NEG_INFINITY } else { f64::INFINITY }),
        };
        let (low, high) = (scalar(1)?, scalar(2)?);
        if !(low == 0.0 || low == f64::NEG_INFINITY) || high.is_nan() || high <= 0.0 {
            return None;
        }
        let (input, _) = self.through(op)?;
        if high.is_finite() {
            self.bounds.push(Bound { input, output: self.graph().output(op, 0)?, high });
        }
        Some(())
    }

    fn add(&mut self, op: OpId) -> Option<()> {
        let graph = self.graph();
        let output = graph.output(op, 0)?;
        let inputs: Vec<ValueId> = graph.op_inputs(op).into_iter().flatten().collect();
        let [a, b] = inputs[..] else { return None };
        let constant = [a, b].iter().position(|&v| graph.constant(v).is_some());
        if let Some(slot) = constant {
            let data = if slot == 0 { b } else { a };
            let span = *self.spans.get(&data)?;
            let tensor = graph.constant(inputs[slot])?;
            let axis = Some(span.axis);
            let rank = self.scope.rank(data)?;
            let axis = if span.axis + 1 == rank { None } else { axis };
            let values = per_channel(self.scope, data, tensor, axis, span.count)?;
            if self.size(output, span.axis)? != span.count || self.scope.rank(output)? != rank {
                return None;
            }
            let to = self.write(output, span.axis, span.count);
            self.unite_spans(span, to);
            self.divided.push(Divided { op, slot, span, values });
            return Some(());
        }
        let shape = |v: ValueId| graph.value(v).shape().map(|shape| shape.dims.clone());
        let (from, other) = (*self.spans.get(&a)?, *self.spans.get(&b)?);
        if shape(a)? != shape(b)? || from.axis != other.axis || from.count != other.count {
            return None;
        }
        let to = self.write(output, from.axis, from.count);
        self.unite_spans(from, other);
        self.unite_spans(from, to);
        Some(())
    }

    fn mul(&mut self, op: OpId) -> Option<()> {
        let graph = self.graph();
        let (a, b) = (graph.input(op, 0)?, graph.input(op, 1)?);
        let output = graph.output(op, 0)?;
        for (data, other, slot) in [(a, b, 1), (b, a, 0)] {
            let Some(tensor) = graph.constant(other) else { continue };
            let Some(&span) = self.spans.get(&data) else {
                // The gain of a normalization that is written out: a place where channels can be divided.
                let axis = self.scope.rank(output)?.checked_sub(1)?;
                let count = self.size(output, axis)?;
                let values = per_channel(self.scope, output, tensor, None, count)?;
                if tensor.elements() != count {
                    return None;
                }
                let span = self.write(output, axis, count);
                self.divided.push(Divided { op, slot, span, values });
                return Some(());
            };
            let same = self.size(output, span.axis)? == span.count
                && self.scope.rank(output)? == self.scope.rank(data)?;
            if !same {
                return None;
            }
            let to = self.write(output, span.axis, span.count);
            self.unite_spans(span, to);
            return Some(());
        }
        // A gate: the factor goes with the operand that this product alone reads, straight from where it is written.
        let direct = |v: ValueId| {
            let written = graph.producer(v).is_some_and(|(op, _)| Linear::of(self.scope, op).is_ok());
            written && graph.use_count(v) == 1 && self.spans.contains_key(&v)
        };
        let small = |v: ValueId, of: ValueId| -> Option<bool> {
            let (v, of) = (graph.value(v).shape()?.known()?, graph.value(of).shape()?.known()?);
            Some(v.iter().product::<usize>() < of.iter().product::<usize>())
        };
        let (data, gate) = match (direct(a), direct(b)) {
            _ if small(b, a) == Some(true) && a != b => (a, b),
            _ if small(a, b) == Some(true) && a != b => (b, a),
            (true, false) => (a, b),
            (false, true) => (b, a),
            _ => return None,
        };
        self.freeze_value(Some(gate));
        let span = *self.spans.get(&data)?;
        if self.size(output, span.axis)? != span.count || self.scope.rank(output)? != self.scope.rank(data)? {
            return None;
        }
        let to = self.write(output, span.axis, span.count);
        self.unite_spans(span, to);
        Some(())
    }

    fn concat(&mut self, op: OpId) -> Option<()> {
        let graph = self.graph();
        let output = graph.output(op, 0)?;
        let rank = self.scope.rank(output)?;
        let axis = graph.op(op).attrs.int("axis")?;
        let axis = usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok()?;
        let inputs: Vec<ValueId> = graph.op_inputs(op).into_iter().collect::<Option<Vec<_>>>()?;
        let spans: Vec<Span> =
            inputs.iter().map(|v| self.spans.get(v).copied()).collect::<Option<Vec<_>>>()?;
        if spans.iter().any(|span| span.axis != axis) {
            return None;
        }
        let count: usize = spans.iter().map(|span| span.count).sum();
        let to = self.write(output, axis, count);
        let mut base = to.base;
        for from in spans {
            (0..from.count).for_each(|at| self.unite(from.base + at, base + at));
            base += from.count;
        }
        Some(())
    }

    /// `[N, C, 1, 1]` to `[N, C]`.
    fn flatten(&mut self, op: OpId) -> Option<()> {
        let graph = self.graph();
        let (input, output) = (graph.input(op, 0)?, graph.output(op, 0)?);
        let from = *self.spans.get(&input)?;
        let before = &graph.value(input).shape()?.dims;
        let after = &graph.value(output).shape()?.dims;
        let ones = before.iter().skip(2).all(|dim| dim.known() == Some(1));
        let fits = from.axis == 1
            && ones
            && after.len() >= 2
            && after[1].known() == Some(from.count)
            && after.iter().skip(2).all(|dim| dim.known() == Some(1));
        if !fits {
            return None;
        }
        let to = self.write(output, 1, from.count);
        self.unite_spans(from, to);
        Some(())
    }

    /// Gain and shift can be divided; what is normalized cannot.
    fn normalization(&mut self, op: OpId) -> Option<()> {
        let graph = self.graph();
        let (input, output) = (graph.input(op, 0)?, graph.output(op, 0)?);
        self.freeze_value(Some(input));
        let rank = self.scope.rank(output)?;
        let last = matches!(&*graph.op(op).kind.name, "LayerNormalization" | "RMSNormalization");
        let axis = if last { rank.checked_sub(1)? } else { 1 };
        if last {
            let from = graph.op(op).attrs.int("axis").unwrap_or(-1);
            if from != -1 && usize::try_from(from).ok() != Some(axis) {
                return None;
            }
        }
        let count = self.size(output, axis)?;
        let constant = |slot: usize| -> Option<Vec<f64>> {
            let tensor = graph.constant(graph.input(op, slot)?)?;
            numbers::floats(tensor).filter(|values| values.len() == count)
        };
        let mut parts = vec![(1, constant(1)?)];
        if graph.input(op, 2).is_some() {
            parts.push((2, constant(2)?));
        }
        if graph.op_outputs(op).iter().skip(1).flatten().any(|&v| graph.is_used(v)) {
            return None;
        }
        let span = self.write(output, axis, count);
        self.divided.extend(parts.into_iter().map(|(slot, values)| Divided { op, slot, span, values }));
        Some(())
    }

    /// The factor of each channel, by root.
    fn factors(&mut self, sketches: &BTreeMap<String, Sketch>, alpha: f64) -> Vec<f64> {
        let graph = self.graph();
        let total = self.parent.len();
        let mut used = vec![0.0f64; total];
        let mut read = vec![0.0f64; total];
        let spans: Vec<(ValueId, Span)> = self.spans.iter().map(|(v, s)| (*v, *s)).collect();
        let biases: BTreeSet<OpId> = self.divided.iter().map(|divided| divided.op).collect();
        for (value, span) in spans {
            // Before a bias and a function that cuts, what is rounded is what comes after.
            if let [reader] = graph.uses(value)[..]
                && (FUNCTIONS.iter().any(|name| graph.op(reader.op).kind.is(name))
                    || biases.contains(&reader.op))
            {
                continue;
            }
            let Some(found) = sketches.get(graph.value(value).name() as &str).and_then(Sketch::channels)
            else {
                continue;
            };
            let sizes = found.abs_max();
            let most = f64::from(sizes.iter().copied().fold(0.0, f32::max));
            if sizes.len() != span.count || most == 0.0 {
                continue;
            }
            for (at, &size) in sizes.iter().enumerate() {
                let root = self.root(span.base + at);
                used[root] = used[root].max(f64::from(size) / most);
            }
        }
        for at in 0..self.products.len() {
            let Product { op, input, .. } = self.products[at];
            let Ok(linear) = Linear::of(self.scope, op) else { continue };
            let Some(weights) = numbers::floats(linear.weight) else { continue };
            let mut rows = vec![0.0f64; linear.channels];
            for (index, w) in weights.iter().enumerate() {
                let row = &mut rows[linear.channel(index)];
                *row = row.max(w.abs());
            }
            for (index, w) in weights.iter().enumerate() {
                let row = rows[linear.channel(index)];
                if row > 0.0 {
                    let root = self.root(input.base + linear.input_channel(index));
                    read[root] = read[root].max(w.abs() / row);
                }
            }
        }
        let mut factors = vec![1.0f64; total];
        for at in 0..total {
            let alive = used[at] > DEAD && read[at] > DEAD && !self.frozen[at] && self.parent[at] == at;
            if alive {
                let s = used[at].powf(alpha) / read[at].powf(1.0 - alpha);
                factors[at] = s.clamp(1.0 / LIMIT, LIMIT);
            }
        }
        let mut stays = vec![false; total];
        for at in 0..self.bounds.len() {
            let Bound { input, output, high } = self.bounds[at];
            let found = sketches.get(graph.value(output).name() as &str).and_then(Sketch::channels);
            let most = found.map(|found| found.abs_max()).filter(|most| most.len() == input.count);
            for channel in 0..input.count {
                let root = self.root(input.base + channel);
                let reach = most.as_ref().map_or(f64::INFINITY, |most| f64::from(most[channel]) * CLEAR);
                // Where the bound bites, or nobody knows, the channel stays.
                stays[root] |= reach >= high;
                factors[root] = factors[root].max((reach / high).min(1.0));
            }
        }
        factors.iter_mut().zip(stays).filter(|(_, stays)| *stays).for_each(|(s, _)| *s = 1.0);
        factors
    }

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
    use quant::Layout;

    fn parse(body: &str) -> Model {
        let text = format!("<ir_version: 10, opset_import: [\"\": 17]>\n{body}");
        let mut model = ir::text::parse(&text).unwrap_or_else(|error| panic!("{error} in\n{text}"));
        let steps = [crate::Step::Once(crate::Spec::new("infer_shapes"))];
        crate::run(&mut model, &steps, crate::Options::default()).unwrap();
        model
    }

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
