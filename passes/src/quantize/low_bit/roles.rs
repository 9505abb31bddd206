//! What each weight does in a language model, told from the graph alone: no name of a layer or of an architecture is looked at.
//!
//! | role | how it is known |
//! |---|---|
//! | head | a product with more rows than columns behind which no other weight is multiplied |
//! | embedding | rows of it are picked |
//! | value | its product reaches the right side of a product whose left side comes out of a Softmax, or the third input of an attention operator; fused q-k-v too |
//! | attention output | it multiplies what comes out of such a product or operator |
//! | down | it narrows what other weights' products became through activations alone |
//! | other | everything else |
//!
//! One walk in schedule order carries, for each value, which weights it comes from. The trace ends at the next weight, at an
//! attention product, and where two different traces are added up: that is the residual stream, which every layer reads.

use std::collections::HashMap;

use ir::{GraphId, Model, OpId, ValueId};
use quant::weight::kmix::Role;

use super::{Reads, Site};

/// More weights than this behind one value say nothing about any of them.
const MOST: usize = 8;

/// What is known about a value.
#[derive(Clone, Debug, Default, PartialEq)]
struct Trace {
    /// Weights whose products it is made of, ascending.
    from: Vec<usize>,
    /// It comes out of a Softmax.
    softmax: bool,
    /// It comes out of an attention.
    attended: bool,
}

impl Trace {
    fn join(&mut self, other: &Trace) {
        self.from.extend(&other.from);
        self.from.sort_unstable();
        self.from.dedup();
        if self.from.len() > MOST {
            self.from.clear();
        }
        self.softmax |= other.softmax;
        self.attended |= other.attended;
    }
}

/// The role of every site, and how many query heads share a key-value head where that shows (0 otherwise).
pub fn roles(model: &Model, sites: &[Site]) -> (Vec<Role>, usize) {
    let mut walk = Walk {
        found: vec![Role::Other; sites.len()],
        sites,
        readers: HashMap::new(),
        behind: vec![false; sites.len()],
    };
    for (at, site) in sites.iter().enumerate() {
        for reader in &site.readers {
            walk.readers.insert((reader.graph, reader.op), (at, reader.reads));
        }
        if site.is_table() {
            walk.found[at] = Role::Embedding;
        }
    }
    for graph in model.graph_ids() {
        walk.graph(model, graph);
    }
    let Walk { mut found, behind, .. } = walk;
    for (at, site) in sites.iter().enumerate() {
        let last = site.is_product() && !behind[at] && site.rows > site.cols;
        if last && matches!(found[at], Role::Other | Role::Embedding) {
            found[at] = Role::Head;
        }
    }
    let first = |role: Role| found.iter().position(|&r| r == role).map(|at| &sites[at]);
    let heads = match (first(Role::AttentionOutput), first(Role::Value)) {
        (Some(output), Some(value)) if value.rows > 0 && output.cols.is_multiple_of(value.rows) => {
            output.cols / value.rows
        }
        _ => 0,
    };
    (found, heads)
}

struct Walk<'a> {
    sites: &'a [Site],
    readers: HashMap<(GraphId, OpId), (usize, Reads)>,
    found: Vec<Role>,
    /// Another weight is multiplied behind it.
    behind: Vec<bool>,
}

impl Walk<'_> {
    fn graph(&mut self, model: &Model, id: GraphId) {
        let graph = model.graph(id);
        let order = graph.schedule().unwrap_or_else(|_| graph.ops());
        let mut traces: HashMap<ValueId, Trace> = HashMap::new();
        for &op in &order {
            let inputs = graph.op_inputs(op);
            let trace_of = |at: usize| inputs.get(at).copied().flatten().and_then(|v| traces.get(&v));
            let made = match self.readers.get(&(id, op)).copied() {
                Some((_, Reads::Rows)) => Trace::default(),
                Some((site, _)) => {
                    self.product(site, trace_of(0));
                    Trace { from: vec![site], ..Trace::default() }
                }
                None => match graph.op(op).kind.key() {
                    ("", "MatMul") if trace_of(0).is_some_and(|t| t.softmax) => {
                        self.value(trace_of(1));
                        Trace { attended: true, ..Trace::default() }
                    }
                    // Scores, and products of anything else with anything else.
                    ("", "MatMul" | "Einsum") => Trace::default(),
                    ("", "Attention") | ("com.microsoft", "MultiHeadAttention" | "GroupQueryAttention") => {
                        // Without keys and values of their own, the first input holds all three.
                        self.value(trace_of(if inputs.get(2).copied().flatten().is_some() { 2 } else { 0 }));
                        Trace { attended: true, ..Trace::default() }
                    }
                    ("", "Softmax") => Trace { softmax: true, ..Trace::default() },
                    ("", "Add") => match (trace_of(0), trace_of(1)) {
                        (Some(a), Some(b)) if a != b => Trace::default(),
                        (Some(one), _) | (None, Some(one)) => one.clone(),
                        (None, None) => Trace::default(),
                    },
                    _ => {
                        let mut joined = Trace::default();
                        (0..inputs.len()).filter_map(trace_of).for_each(|t| joined.join(t));
                        joined
                    }
                },
            };
            for output in graph.op_outputs(op).into_iter().flatten() {
                traces.insert(output, made.clone());
            }
        }
        self.behind(graph, id, &order);
    }

    /// A weight multiplies a value with this trace.
    fn product(&mut self, site: usize, data: Option<&Trace>) {
        let Some(data) = data else { return };
        let (shape, role) = (&self.sites[site], &mut self.found[site]);
        if *role != Role::Other {
            return;
        }
        if data.attended {
            *role = Role::AttentionOutput;
        } else if !data.from.is_empty() && shape.cols > shape.rows {
            *role = Role::Down;
        }
    }

    fn value(&mut self, trace: Option<&Trace>) {
        for &site in trace.iter().flat_map(|trace| &trace.from) {
            self.found[site] = Role::Value;
        }
    }

    /// Marks the weights behind which another is multiplied.
    fn behind(&mut self, graph: &ir::Graph, id: GraphId, order: &[OpId]) {
        let mut leads: HashMap<ValueId, bool> = HashMap::new();
        for &op in order.iter().rev() {
            let reader = self.readers.get(&(id, op)).filter(|(_, reads)| *reads != Reads::Rows);
            let after =
                graph.op_outputs(op).into_iter().flatten().any(|v| leads.get(&v).copied().unwrap_or(false));
            if let Some(&(site, _)) = reader {
                self.behind[site] |= after;
            }
            if after || reader.is_some() {
                graph.op_inputs(op).into_iter().flatten().for_each(|v| {
                    leads.insert(v, true);
                });
            }
        }
    }
}
