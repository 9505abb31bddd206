//! What each operator does with a positive factor on a channel: writes or reads it, passes it on, ties it to others, or
//! holds it at 1.

use ir::{OpId, ValueId};

use super::channels::Span;
use super::{Analysis, Bound, Divided, Product};
use crate::numbers;
use crate::weights::{Linear, per_channel};

impl Analysis<'_> {
    pub(super) fn visit(&mut self, op: OpId) {
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
}
