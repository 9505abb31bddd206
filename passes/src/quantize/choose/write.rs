//! What was chosen as a plan: grids of values and weights, classes that share a scale, groups that switch together, reasons.

use std::collections::{BTreeMap, BTreeSet};

use ir::{Graph, OpId, ValueId};
use ops::{Role, Work};
use quant::Grid;

use super::settle::{rounded_output, wants};
use super::{Choices, Node};
use crate::quantize::classes::Classes;
use crate::quantize::cost::macs;
use crate::quantize::plan::{
    BiasPlan, Conversion, Kernel, OpPlan, Precision, QuantPlan, ValuePlan, WeightPlan,
};
use crate::target::{Candidate, Support};

/// Writes the decisions down.
pub(super) fn write(
    graph: &Graph,
    schedule: &[OpId],
    nodes: &BTreeMap<OpId, Node<'_>>,
    absorbed: &BTreeMap<OpId, OpId>,
    needs: &BTreeMap<ValueId, OpId>,
    choices: &Choices<'_>,
) -> (QuantPlan, Classes) {
    let mut plan = QuantPlan { target: choices.target.name().to_string(), ..QuantPlan::default() };
    let mut classes = Classes::default();
    let mut groups = Classes::default();
    let name = |value: ValueId| graph.value(value).name().to_string();
    let grids: BTreeMap<ValueId, Grids> =
        needs.keys().map(|&value| (value, Grids::of(graph, nodes, absorbed, value, choices))).collect();
    // Values share parameters grid by grid: what a value is on a second grid is a class of its own.
    let class_name = |value: ValueId, precision: Option<Precision>| {
        let first = grids.get(&value).map(|grids| grids.first);
        match precision.map(|precision| choices.activation_grid(precision)) {
            Some(grid) if first.is_some_and(|first| first != grid) => {
                format!("{}\n{}", name(value), grid.code.name())
            }
            _ => name(value),
        }
    };
    let functions: BTreeSet<OpId> =
        absorbed.iter().filter(|(op, _)| nodes[op].chosen).map(|(_, f)| *f).collect();
    for id in schedule {
        let node = &nodes[id];
        let Some(scheme) = &node.scheme else { continue };
        let candidate = Candidate { graph, op: *id, scheme };
        let members: Vec<ValueId> =
            node.data_inputs().into_iter().chain(node.outputs().into_iter().map(|(_, v)| v)).collect();
        let all_rounded = members.iter().all(|value| needs.contains_key(value));
        if (node.chosen || all_rounded) && choices.target.unifies(candidate) {
            let precision = node.chosen.then_some(node.precision);
            let names: Vec<String> = members.iter().map(|&value| class_name(value, precision)).collect();
            names.windows(2).for_each(|pair| classes.unite(&pair[0], &pair[1]));
        }
        if !node.chosen {
            continue;
        }
        if scheme.work == Work::Product {
            quantize_weights(&mut plan, candidate, &node.key, node.precision, choices);
        }
        for (slot, output) in node.outputs() {
            if let Role::Moves(from) = scheme.output(slot)
                && let Some(input) = graph.input(*id, from)
            {
                let output = rounded_output(graph, absorbed, *id, output);
                let precision = Some(node.precision);
                classes.unite(&class_name(input, precision), &class_name(output, precision));
            }
        }
        // Whatever moves or computes between products switches with the operator it reads from.
        if scheme.work != Work::Product {
            for value in node.data_inputs() {
                if let Some((writer, _)) = graph.producer(value)
                    && nodes[&writer].chosen
                {
                    groups.unite(&nodes[&writer].key, &node.key);
                }
            }
        }
    }
    for (&value, &asker) in needs {
        let entry = |grid: Grid, class: usize, reason: String| {
            let fixed = graph.producer(value).and_then(|(op, slot)| {
                let scheme = nodes[&op].scheme.as_ref()?;
                let Role::Fixed(low, high) = scheme.output(slot) else { return None };
                Some(choices.target.fixed_range(Candidate { graph, op, scheme }, grid, (low, high)))
            });
            let source = if fixed.is_some() { "fixed" } else { "" }.to_string();
            ValuePlan {
                grid,
                class,
                range: fixed,
                params: None,
                source,
                sqnr_db: None,
                clipped: None,
                reason,
            }
        };
        let grids = &grids[&value];
        let class = classes.class(&class_name(value, None));
        plan.values.insert(name(value), entry(grids.first, class, format!("for {}", graph.op(asker))));
        for (precision, readers) in &grids.further {
            let class = classes.class(&class_name(value, Some(*precision)));
            let to = entry(choices.activation_grid(*precision), class, format!("for readers in {precision}"));
            let conversion = Conversion { readers: readers.clone(), to };
            plan.conversions.entry(name(value)).or_default().push(conversion);
        }
    }
    for id in schedule {
        let node = &nodes[id];
        let absorbed_function = functions.contains(id);
        let refused = choices.target.refuses(graph, *id);
        let rounded_neighbour = || {
            graph.op_inputs(*id).iter().chain(&graph.op_outputs(*id)).flatten().any(|v| needs.contains_key(v))
        };
        let commutes = |scheme| choices.target.commutes(Candidate { graph, op: *id, scheme });
        let kernel = match &node.scheme {
            _ if refused.is_some() => Kernel::Fails,
            Some(scheme) if node.chosen && scheme.work == Work::Movement => Kernel::Moves,
            Some(_) if node.chosen => choices.target.kernel(node.precision),
            _ if absorbed_function => Kernel::Moves,
            Some(scheme) if commutes(scheme) && rounded_neighbour() => Kernel::Moves,
            _ => Kernel::Float,
        };
        let op = graph.op(*id);
        let entry = OpPlan {
            node: op.name.clone(),
            kind: op.kind.to_string(),
            precision: if node.chosen { node.precision } else { Precision::Float },
            kernel,
            group: groups.class(&node.key),
            reason: match refused {
                Some(why) => format!("{}; {why}", node.reason),
                None if absorbed_function => "absorbed by the operator before it".into(),
                None => node.reason.clone(),
            },
            macs: macs(graph, *id),
        };
        plan.ops.insert(node.key.clone(), entry);
    }
    (plan, groups)
}

/// The grids of one value.
struct Grids {
    /// What it is rounded to first: what the operator before it writes, or the widest that a reader wants.
    first: Grid,
    /// Readers of other precisions, by their keys.
    further: Vec<(Precision, Vec<String>)>,
}

impl Grids {
    fn of(
        graph: &Graph,
        nodes: &BTreeMap<OpId, Node<'_>>,
        absorbed: &BTreeMap<OpId, OpId>,
        value: ValueId,
        choices: &Choices<'_>,
    ) -> Grids {
        let mut read: BTreeMap<Precision, Vec<String>> = BTreeMap::new();
        for reader in graph.uses(value) {
            if wants(nodes, reader.op, value) {
                let node = &nodes[&reader.op];
                let keys = read.entry(node.precision).or_default();
                if !keys.contains(&node.key) {
                    keys.push(node.key.clone());
                }
            }
        }
        let writer = graph.producer(value).map(|(op, _)| {
            absorbed.iter().find(|(_, function)| **function == op).map_or(op, |(product, _)| *product)
        });
        let writer =
            writer.map(|op| &nodes[&op]).filter(|node| node.chosen && node.support == Support::Codes);
        let bits = |precision: &Precision| choices.activation_grid(*precision).code.bits();
        let first = writer
            .map(|node| node.precision)
            // The first of the widest: a narrow grid behind a wide one loses nothing that matters.
            .or_else(|| {
                read.keys().copied().max_by_key(|precision| (bits(precision), std::cmp::Reverse(*precision)))
            })
            .unwrap_or(choices.precision);
        let first_grid = choices.activation_grid(first);
        read.retain(|precision, _| choices.activation_grid(*precision) != first_grid);
        Grids { first: first_grid, further: read.into_iter().collect() }
    }
}

pub(in crate::quantize) fn quantize_weights(
    plan: &mut QuantPlan,
    candidate: Candidate<'_>,
    key: &str,
    precision: Precision,
    choices: &Choices<'_>,
) {
    let Candidate { graph, op, scheme } = candidate;
    let name = |slot: usize| graph.input(op, slot).map(|value| graph.value(value).name().to_string());
    let mut weights = Vec::new();
    for slot in candidate.weight_slots() {
        let Role::Weight { channel, .. } = scheme.input(slot) else { continue };
        let axis =
            if choices.per_tensor { None } else { choices.target.weight_axis(candidate, slot, channel) };
        let grid = choices.weight_grid(precision);
        let value = name(slot).unwrap_or_default();
        weights.push(WeightPlan { value, slot, grid, axis, block: None, scale_factors: Vec::new() });
    }
    let bias = (0..graph.op(op).input_count()).find(|&slot| scheme.input(slot) == Role::Bias);
    if let (Some(bias), [weight]) = (bias, &weights[..])
        && choices.target.quantizes_bias()
        && precision != Precision::Fp8
        && candidate.is_constant(bias)
        && let Some(value) = name(bias)
    {
        // The data operand is the other one of the product.
        let data_slot = if weight.slot == 0 { 1 } else { 0 };
        plan.biases
            .insert(key.to_string(), BiasPlan { value, slot: bias, data_slot, weight_slot: weight.slot });
    }
    plan.weights.insert(key.to_string(), weights);
}
