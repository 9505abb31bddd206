//! Operators among their neighbours: which choices hold, and which values they want rounded.

use std::collections::{BTreeMap, BTreeSet};

use ir::{Graph, OpId, ValueId};
use ops::{Scheme, Work};

use super::Node;
use crate::target::{Candidate, Support, Target};

/// Products followed by one activation function and nothing else: the output that is rounded is the function's.
pub(super) fn absorb(
    graph: &Graph,
    schedule: &[OpId],
    nodes: &BTreeMap<OpId, Node<'_>>,
    target: &dyn Target,
) -> BTreeMap<OpId, OpId> {
    let mut absorbed = BTreeMap::new();
    let mut functions = BTreeSet::new();
    for id in schedule {
        let node = &nodes[id];
        if functions.contains(id) {
            continue;
        }
        let Some(scheme) = node.scheme.as_ref().filter(|scheme| node.chosen && scheme.work != Work::Movement)
        else {
            continue;
        };
        let Some(output) = graph.output(*id, 0) else { continue };
        let readers = graph.uses(output);
        if let [reader] = readers[..]
            && !graph.is_output(output)
            && target.absorbs(Candidate { graph, op: *id, scheme }, reader.op)
            && graph.input(reader.op, 0) == Some(output)
        {
            absorbed.insert(*id, reader.op);
            functions.insert(reader.op);
        }
    }
    absorbed
}

/// The value that is rounded for the output of an operator: its own, or that of the function it absorbs.
pub(super) fn rounded_output(
    graph: &Graph,
    absorbed: &BTreeMap<OpId, OpId>,
    op: OpId,
    output: ValueId,
) -> ValueId {
    absorbed.get(&op).and_then(|&function| graph.output(function, 0)).unwrap_or(output)
}

/// Removes choices that do not hold until all do, and returns the values to round with who wants it.
pub(super) fn settle(
    graph: &Graph,
    schedule: &[OpId],
    nodes: &mut BTreeMap<OpId, Node<'_>>,
    absorbed: &BTreeMap<OpId, OpId>,
) -> BTreeMap<ValueId, OpId> {
    loop {
        let needs = needs(graph, schedule, nodes, absorbed);
        let mut dropped = Vec::new();
        for id in schedule {
            let node = &nodes[id];
            let Some(scheme) = node.scheme.as_ref().filter(|s| node.chosen && s.work != Work::Product) else {
                continue;
            };
            if let Some(why) = objection(graph, nodes, &needs, absorbed, node, scheme) {
                dropped.push((*id, why));
            }
        }
        if dropped.is_empty() {
            return needs;
        }
        for (id, why) in dropped {
            let node = nodes.get_mut(&id).expect("the operator is in the table");
            node.chosen = false;
            node.reason = why.into();
        }
    }
}

/// Why an operator that is no product should stay float.
fn objection(
    graph: &Graph,
    nodes: &BTreeMap<OpId, Node<'_>>,
    needs: &BTreeMap<ValueId, OpId>,
    absorbed: &BTreeMap<OpId, OpId>,
    node: &Node<'_>,
    scheme: &Scheme,
) -> Option<&'static str> {
    let inputs = node.data_inputs();
    if inputs.is_empty() {
        return Some("it reads only constants");
    }
    if node.insists {
        return None;
    }
    if node.rounded().any(|value| graph.constant(value).is_some() && !coarse(graph, value)) {
        return Some("a constant operand would lose too much on one scale");
    }
    // A value arrives rounded if something else than this operator wants it so.
    let arrives = |value: &ValueId| {
        let wanted = |reader: &ir::Use| reader.op != node.id && wants(nodes, reader.op, *value);
        let codes = graph.producer(*value).is_some_and(|(op, _)| {
            let writer =
                absorbed.iter().find(|(_, function)| **function == op).map_or(op, |(product, _)| *product);
            nodes[&writer].chosen && nodes[&writer].support == Support::Codes
        });
        codes || (needs.contains_key(value) && graph.uses(*value).iter().any(wanted))
    };
    let movement = scheme.work == Work::Movement;
    let arriving = inputs.iter().filter(|value| arrives(value)).count();
    if !movement && arriving < inputs.len() {
        return Some("an input is not quantized");
    }
    let mut outputs =
        node.outputs().into_iter().map(|(_, value)| rounded_output(graph, absorbed, node.id, value));
    let leaves = outputs.any(|value| {
        graph.uses(value).iter().any(|reader| nodes[&reader.op].chosen && wants(nodes, reader.op, value))
    });
    if !leaves {
        return Some("nothing reads its output quantized");
    }
    None
}

/// A chosen operator takes this value rounded.
pub(super) fn wants(nodes: &BTreeMap<OpId, Node<'_>>, op: OpId, value: ValueId) -> bool {
    let node = &nodes[&op];
    node.chosen && node.rounded().any(|input| input == value)
}

/// A constant that one 8-bit scale serves well: rounding noise at least 30 dB below it. Below that a per-channel constant
/// (a normalization's factor) would be the weakest link of the model.
fn coarse(graph: &Graph, value: ValueId) -> bool {
    let Some(values) = graph.constant(value).and_then(|tensor| tensor.to_vec::<f32>().ok()) else {
        return false;
    };
    let (low, high) = quant::quantize::min_max(&values);
    let step = (f64::from(high.max(0.0)) - f64::from(low.min(0.0))) / 255.0;
    let power = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / values.len().max(1) as f64;
    power.is_finite() && step * step / 12.0 * 1000.0 <= power
}

/// Values that the chosen operators want rounded, with one of them each.
fn needs(
    graph: &Graph,
    schedule: &[OpId],
    nodes: &BTreeMap<OpId, Node<'_>>,
    absorbed: &BTreeMap<OpId, OpId>,
) -> BTreeMap<ValueId, OpId> {
    let mut needs = BTreeMap::new();
    for id in schedule {
        let node = &nodes[id];
        if !node.chosen {
            continue;
        }
        for value in node.data_inputs().into_iter().chain(node.constant_operands()) {
            needs.entry(value).or_insert(*id);
        }
        if node.support == Support::Codes {
            for (_, output) in node.outputs() {
                needs.entry(rounded_output(graph, absorbed, *id, output)).or_insert(*id);
            }
        }
    }
    needs
}
