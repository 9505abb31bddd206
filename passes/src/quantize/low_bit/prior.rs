//! What is known about the inputs of a weight without running anything.
//!
//! Errors of a weight count by the power of the column that they meet (Σ (w − ŵ)²·x²), so a data-free quantizer that knows the
//! mean squares of the columns can do with them what a calibrated one does with an imatrix. Behind a normalization they follow
//! from the weights: x_k = γ_k·s_k / rms(s), where the stream s is the sum of an embedding and of what the layers before added,
//! and the mean square of a sum of unrelated terms is the sum of theirs. One walk in schedule order estimates them:
//!
//! | value | mean square of column n |
//! |---|---|
//! | rows of a table | mean of the squares in column n |
//! | W·x | Σ_k W_nk²·(that of x_k), over [`SAMPLE`] of the k |
//! | a + b, a·b | sum, product; a constant's own squares |
//! | normalized | those of the value, scaled to mean 1; times γ², plus β² |
//! | attention | [`ATTENDED`] of the values' mean: an average of many is smaller than each |
//! | activations | half, of what goes in |
//! | moved, cut, reshaped | the mean alone is kept |
//!
//! γ alone says little: training makes γ small where the stream is strong. Only values behind a normalization are believed
//! enough to weigh errors by; what else is estimated here is there to get the proportions in the stream.

use std::collections::HashMap;

use ir::{Graph, GraphId, Model, OpId, Tensor, ValueId};
use quant::layout::blocked::Order;
use quant::weight::Elements;

use super::{Reads, Site};
use crate::numbers;

/// Columns of a weight that are looked at: the sum of so many squares is known to 13 %, and a stream is the sum of many layers.
const SAMPLE: usize = 128;
/// Rows of a table that are looked at.
const ROWS: usize = 4096;
/// What is left of the power of values when attention averages over tokens: exact for an average over three of equal weight.
const ATTENDED: f64 = 0.3;

/// Mean squares of a value's columns.
#[derive(Clone, Debug)]
struct Power {
    /// One number a column, or one for all.
    columns: Vec<f64>,
    /// Behind a normalization: the proportions can be believed.
    normalized: bool,
}

impl Power {
    fn of(columns: Vec<f64>) -> Power {
        Power { columns, normalized: false }
    }

    fn mean(&self) -> f64 {
        self.columns.iter().sum::<f64>() / self.columns.len().max(1) as f64
    }

    /// Column by column; a single number goes with every column. None where the numbers of columns differ.
    fn with(&self, other: &[f64], f: impl Fn(f64, f64) -> f64) -> Option<Power> {
        let (a, b) = (&self.columns, other);
        let n = a.len().max(b.len());
        let fits = (a.len() == n || a.len() == 1)
            && (b.len() == n || b.len() == 1)
            && !a.is_empty()
            && !b.is_empty();
        fits.then(|| Power {
            columns: (0..n).map(|k| f(a[k.min(a.len() - 1)], b[k.min(b.len() - 1)])).collect(),
            normalized: self.normalized,
        })
    }
}

/// Estimates for the values of a model.
#[derive(Debug, Default)]
pub struct Prior {
    power: HashMap<(GraphId, ValueId), Power>,
}

impl Prior {
    /// Walks through the model once. `sites` are its weights.
    pub fn new(model: &Model, sites: &[Site]) -> Prior {
        let mut prior = Prior::default();
        let mut readers = HashMap::new();
        for site in sites {
            for reader in &site.readers {
                readers.insert((reader.graph, reader.op), (site, reader.reads));
            }
        }
        for id in model.graph_ids() {
            let graph = model.graph(id);
            for op in graph.schedule().unwrap_or_else(|_| graph.ops()) {
                prior.step(model, id, op, readers.get(&(id, op)).copied());
            }
        }
        prior
    }

    /// Relative mean squares of the K inputs of a weight, mean 1; none if nothing is known or its products disagree.
    pub fn importance(&self, model: &Model, site: &Site) -> Option<Vec<f32>> {
        let mut found: Option<Vec<f32>> = None;
        for reader in site.readers.iter().filter(|reader| reader.is_product()) {
            let power = self.power.get(&(reader.graph, reader.data(model)?))?;
            let mean = power.mean();
            if !power.normalized || power.columns.len() != site.cols || !(mean.is_finite() && mean > 0.0) {
                return None;
            }
            let relative: Vec<f32> = power.columns.iter().map(|p| (p / mean) as f32).collect();
            if found.as_ref().is_some_and(|known| *known != relative) {
                return None;
            }
            found = Some(relative);
        }
        found
    }

    fn step(&mut self, model: &Model, id: GraphId, op: OpId, reader: Option<(&Site, Reads)>) {
        let graph = model.graph(id);
        let made = match reader {
            Some((site, Reads::Rows)) => table(model, site),
            Some((site, _)) => {
                let data = graph.input(op, 0).and_then(|x| self.power.get(&(id, x)));
                data.and_then(|data| product(model, site, data))
            }
            None => self.other(graph, id, op),
        };
        let Some(made) = made.filter(|p| p.columns.iter().all(|v| v.is_finite() && *v >= 0.0)) else {
            return;
        };
        // The sum that a fused normalization also gives.
        if let ("com.microsoft", "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization") =
            graph.op(op).kind.key()
            && let Some(sum) = graph.output(op, 3)
            && let Some(power) = self.sum(graph, id, op)
        {
            self.power.insert((id, sum), power);
        }
        for output in graph.op_outputs(op).into_iter().take(1).flatten() {
            self.power.insert((id, output), made.clone());
        }
    }

    fn known(&self, graph: &Graph, id: GraphId, op: OpId, slot: usize) -> Option<Power> {
        let value = graph.input(op, slot)?;
        if let Some(found) = self.power.get(&(id, value)) {
            return Some(found.clone());
        }
        let tensor = graph.constant(value)?;
        squares(tensor).map(Power::of)
    }

    /// What two inputs add up to; one that nobody knows is left out.
    fn sum(&self, graph: &Graph, id: GraphId, op: OpId) -> Option<Power> {
        let sum = match (self.known(graph, id, op, 0), self.known(graph, id, op, 1)) {
            (Some(a), Some(b)) => a.with(&b.columns, |a, b| a + b)?,
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return None,
        };
        Some(Power::of(sum.columns))
    }

    fn other(&self, graph: &Graph, id: GraphId, op: OpId) -> Option<Power> {
        let known = |slot| self.known(graph, id, op, slot);
        let constant = |slot| graph.input(op, slot).and_then(|v| graph.constant(v)).and_then(squares);
        let computed = |slot| graph.input(op, slot).is_some_and(|v| graph.constant(v).is_none());
        match graph.op(op).kind.key() {
            ("", "Cast" | "Identity" | "Dropout") => known(0),
            ("", "Add") => self.sum(graph, id, op),
            // Without its mean, which is small beside the rest.
            ("", "Sub") if a_number_a_token(graph, op, 1) => known(0),
            ("", "Mul" | "Div") if a_number_a_token(graph, op, 1) && computed(1) => {
                normalized(known(0)?, None, None)
            }
            ("", "Mul") if a_number_a_token(graph, op, 0) && computed(0) => normalized(known(1)?, None, None),
            ("", "Mul") => {
                let (a, b) = (known(0)?, known(1)?);
                let both = a.with(&b.columns, |a, b| a * b)?;
                // Only a constant leaves a normalized value one.
                let one = (a.normalized && !computed(1)) || (b.normalized && !computed(0));
                Some(Power { normalized: one, ..both })
            }
            ("", "LayerNormalization") => normalized(known(0)?, constant(1), constant(2)),
            ("", "RMSNormalization" | "SimplifiedLayerNormalization") => {
                normalized(known(0)?, constant(1), None)
            }
            ("com.microsoft", "SkipLayerNormalization") => {
                normalized(self.sum(graph, id, op)?, constant(2), constant(3))
            }
            ("com.microsoft", "SkipSimplifiedLayerNormalization") => {
                normalized(self.sum(graph, id, op)?, constant(2), None)
            }
            ("", "Sigmoid") => Some(Power::of(vec![ATTENDED])),
            ("", "Relu" | "Gelu" | "Swish" | "Tanh" | "Elu" | "LeakyRelu" | "Mish" | "HardSwish" | "Erf")
            | ("com.microsoft", "Gelu" | "FastGelu" | "BiasGelu" | "QuickGelu") => {
                let columns = known(0)?.columns.iter().map(|p| p / 2.0).collect();
                Some(Power::of(columns))
            }
            ("", "MatMul") if computed(1) => Some(Power::of(vec![ATTENDED * known(1)?.mean()])),
            ("", "Attention") | ("com.microsoft", "MultiHeadAttention" | "GroupQueryAttention") => {
                let values = known(2).or_else(|| known(0))?;
                Some(Power::of(vec![ATTENDED * values.mean()]))
            }
            ("", "Softmax") => None,
            (
                "",
                "Reshape" | "Transpose" | "Expand" | "Slice" | "Split" | "Squeeze" | "Unsqueeze" | "Concat"
                | "Flatten",
            ) => Some(Power::of(vec![known(0)?.mean()])),
            _ => None,
        }
    }
}

/// Scaled to mean 1, times γ², plus β².
fn normalized(power: Power, gamma: Option<Vec<f64>>, beta: Option<Vec<f64>>) -> Option<Power> {
    let mean = power.mean();
    if !(mean.is_finite() && mean > 0.0) {
        return None;
    }
    let mut made = Power::of(power.columns.iter().map(|p| p / mean).collect());
    if let Some(gamma) = gamma {
        made = made.with(&gamma, |p, g| p * g)?;
    }
    if let Some(beta) = beta {
        made = made.with(&beta, |p, b| p + b)?;
    }
    Some(Power { normalized: true, ..made })
}

/// The squares of a constant with one number a column, or of one number.
fn squares(tensor: &Tensor) -> Option<Vec<f64>> {
    let columns = tensor.dims().last().copied().unwrap_or(1);
    (tensor.elements() == columns && columns > 0).then_some(())?;
    Some(numbers::floats(tensor)?.iter().map(|v| v * v).collect())
}

/// The value in this slot has one number a token, such as the reciprocal of the root of the mean square.
fn a_number_a_token(graph: &Graph, op: OpId, slot: usize) -> bool {
    let shape = graph.input(op, slot).and_then(|v| graph.value(v).shape());
    shape.is_some_and(|s| s.rank() > 1 && s.dims.last().and_then(ir::Dim::known) == Some(1))
}

/// Element (n, k) of a weight, squared.
fn square(elements: &Elements<'_>, site: &Site, n: usize, k: usize) -> f64 {
    let at = match site.order {
        Order::Nk => n * site.cols + k,
        Order::Kn => k * site.rows + n,
    };
    let value = match elements {
        Elements::F32(s) => s.get(at).copied(),
        Elements::F16(s) => s.get(at).map(|v| v.to_f32()),
        Elements::Bf16(s) => s.get(at).map(|v| v.to_f32()),
    };
    f64::from(value.unwrap_or(0.0)).powi(2)
}

fn table(model: &Model, site: &Site) -> Option<Power> {
    let stored = site.stored(model)?;
    let elements = stored.elements();
    let step = site.rows.div_ceil(ROWS).max(1);
    let mut columns = vec![0.0; site.cols];
    for n in (0..site.rows).step_by(step) {
        columns.iter_mut().enumerate().for_each(|(k, sum)| *sum += square(&elements, site, n, k));
    }
    let count = site.rows.div_ceil(step).max(1) as f64;
    columns.iter_mut().for_each(|sum| *sum /= count);
    Some(Power::of(columns))
}

fn product(model: &Model, site: &Site, data: &Power) -> Option<Power> {
    if data.columns.len() != site.cols && data.columns.len() != 1 {
        return None;
    }
    let stored = site.stored(model)?;
    let elements = stored.elements();
    let power = |k: usize| data.columns[k.min(data.columns.len() - 1)];
    let step = site.cols.div_ceil(SAMPLE).max(1);
    let sampled: Vec<usize> = (0..site.cols).step_by(step).collect();
    let mut columns = vec![0.0; site.rows];
    for &k in &sampled {
        let p = power(k);
        columns.iter_mut().enumerate().for_each(|(n, sum)| *sum += p * square(&elements, site, n, k));
    }
    let share = site.cols as f64 / sampled.len().max(1) as f64;
    columns.iter_mut().for_each(|sum| *sum *= share);
    Some(Power::of(columns))
}
