//! How large the factors are.

use std::collections::{BTreeMap, BTreeSet};

use ir::{OpId, ValueId};
use quant::range::Sketch;

use super::channels::Span;
use super::{Analysis, Bound, Product};
use crate::numbers;
use crate::weights::Linear;

/// Factors stay within this and its reciprocal: beyond it rounding of what is written to float32 would begin to show.
const LIMIT: f64 = 64.0;
/// A Clip is passed by channels whose largest number is this factor below its bound.
const CLEAR: f64 = 1.1;
/// What a value may stand before without being rounded itself.
const FUNCTIONS: &[&str] = &["Relu", "Clip", "PRelu", "LeakyRelu"];
/// Relative sizes below this are those of dead channels.
const DEAD: f64 = 1e-6;

impl Analysis<'_> {
    /// The factor of each channel, by root.
    pub(super) fn factors(&mut self, sketches: &BTreeMap<String, Sketch>, alpha: f64) -> Vec<f64> {
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
}
