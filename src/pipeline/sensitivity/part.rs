//! One group cut out of the model: quantized and run alone, so that a change costs the group and what is downstream of it
//! and never a whole model.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use ir::{Graph, Model, OpId, Place, ValueId};
use passes::quantize::choose::key_of;
use passes::quantize::{QuantPlan, emit_qdq};

use super::super::prepare::converted;
use super::super::rounding::fake_quant;

/// A quantized group.
pub struct Part {
    /// The group as a model of its own, quantized; none if the change is in the rounding of values alone.
    pub model: Option<Model>,
    /// What it reads.
    pub inputs: Vec<String>,
    /// What it writes that others read: names of the float model.
    pub outputs: Vec<String>,
    /// Values that are rounded for it and that others read too.
    pub rounded: Vec<(String, ops::FakeQuant)>,
    /// Bytes of the group in the file, quantized and in float.
    pub bytes: (u64, u64),
}

impl Part {
    /// No part at all.
    pub fn nothing() -> Part {
        Part { model: None, inputs: vec![], outputs: vec![], rounded: vec![], bytes: (0, 0) }
    }

    /// Cuts out what the plan (of this group alone) changes.
    ///
    /// # Errors
    /// The plan does not fit the model.
    pub fn new(model: &Model, plan: &QuantPlan, keys: &[String]) -> Result<Part> {
        let graph = model.main();
        let wanted: BTreeSet<&str> = keys.iter().map(String::as_str).collect();
        let members: BTreeSet<OpId> = members(graph, plan, &wanted);
        let region: Vec<OpId> = graph
            .schedule()
            .unwrap_or_else(|_| graph.ops())
            .into_iter()
            .filter(|op| members.contains(op))
            .collect();
        let reads = |op: OpId| graph.op_inputs(op).into_iter().flatten().collect::<Vec<_>>();
        let writes = |op: OpId| graph.op_outputs(op).into_iter().flatten().collect::<Vec<_>>();
        let made: BTreeSet<ValueId> = region.iter().flat_map(|&op| writes(op)).collect();
        let leaves = |value: ValueId| {
            graph.is_output(value) || graph.uses(value).iter().any(|reader| !members.contains(&reader.op))
        };
        let name = |value: ValueId| graph.value(value).name().to_string();
        let open = |value: &ValueId| !made.contains(value) && graph.constant(*value).is_none();
        let inputs: BTreeSet<ValueId> = region.iter().flat_map(|&op| reads(op)).filter(open).collect();
        let outputs: Vec<ValueId> = made.iter().copied().filter(|&value| leaves(value)).collect();
        let rounded = inputs.iter().copied().filter(|&value| leaves(value)).filter_map(|value| {
            let entry = plan.values.get(&name(value))?;
            Some((name(value), fake_quant(entry)?))
        });
        let rounded = rounded.collect();
        let float = cut(model, &region, &inputs, &outputs)?;
        let before = proto::to_bytes(&float)?.len() as u64;
        let inner = restricted(plan, &float);
        let mut emitted = converted(float, emit_qdq::needed_opset(&inner))?;
        emit_qdq::emit_qdq(&mut emitted, &inner)?;
        emitted.settle();
        let after = proto::to_bytes(&emitted)?.len() as u64;
        Ok(Part {
            model: (!region.is_empty()).then_some(emitted),
            inputs: inputs.into_iter().map(name).collect(),
            outputs: outputs.into_iter().map(name).collect(),
            rounded,
            bytes: (after, before),
        })
    }
}

/// The group's operators, and the functions of one value that directly follow them.
fn members(graph: &Graph, plan: &QuantPlan, wanted: &BTreeSet<&str>) -> BTreeSet<OpId> {
    let mut members: BTreeSet<OpId> =
        graph.ops().into_iter().filter(|&op| wanted.contains(key_of(graph, op).as_str())).collect();
    let name = |value: ValueId| graph.value(value).name().to_string();
    let computed = |op: OpId| {
        let inputs = graph.op_inputs(op).into_iter().flatten();
        inputs.filter(|&value| graph.constant(value).is_none()).count()
    };
    for op in members.clone() {
        for output in graph.op_outputs(op).into_iter().flatten() {
            if plan.values.contains_key(&name(output)) || graph.is_output(output) {
                continue;
            }
            // Also where nothing is rounded: runtimes fuse such functions into the product and do not show what is between.
            if let [reader] = graph.uses(output)[..]
                && computed(reader.op) == 1
                && graph.op_outputs(reader.op).len() == 1
                && graph.captures(reader.op).is_empty()
                && !plan.weights.contains_key(&key_of(graph, reader.op))
                && ops::scheme(graph, reader.op).is_none_or(|scheme| scheme.work != ops::Work::Product)
            {
                members.insert(reader.op);
            }
        }
    }
    members
}

/// A model of these operators alone.
fn cut(model: &Model, region: &[OpId], inputs: &BTreeSet<ValueId>, outputs: &[ValueId]) -> Result<Model> {
    let from = model.main();
    let mut graph = Graph::new("part");
    let mut ids: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for &value in inputs {
        let known = from.value(value);
        ids.insert(value, graph.add_input(known.name(), known.ty.clone())?);
    }
    for &op in region {
        let mut slots = Vec::new();
        for input in from.op_inputs(op) {
            let Some(input) = input else {
                slots.push(None);
                continue;
            };
            if let (None, Some(tensor)) = (ids.get(&input), from.constant(input)) {
                ids.insert(input, graph.add_initializer(from.value(input).name(), tensor.clone())?);
            }
            slots.push(Some(*ids.get(&input).context("an operator is before its input")?));
        }
        let mut writes = Vec::new();
        for output in from.op_outputs(op) {
            let Some(output) = output else {
                writes.push(None);
                continue;
            };
            let known = from.value(output);
            let id = graph.add_computed(known.name(), known.ty.clone())?;
            ids.insert(output, id);
            writes.push(Some(id));
        }
        let op = from.op(op);
        let copy = ir::Op::of(op.kind.clone()).named(&op.name).with_attrs(op.attrs.clone());
        graph.add_op(copy, &slots, &writes, Place::End)?;
    }
    outputs.iter().for_each(|value| graph.add_output(ids[value]));
    let mut part = Model::new(model.ir_version, model.opset("").unwrap_or(13), graph);
    for (domain, version) in &model.opsets {
        part.raise_opset(domain, *version);
    }
    Ok(part)
}

/// The plan's entries that a part has.
fn restricted(plan: &QuantPlan, part: &Model) -> QuantPlan {
    let graph = part.main();
    let keys: BTreeSet<String> = graph.ops().into_iter().map(|op| key_of(graph, op)).collect();
    let mut plan = plan.clone();
    plan.ops.retain(|key, _| keys.contains(key));
    plan.weights.retain(|key, _| keys.contains(key));
    plan.biases.retain(|key, _| keys.contains(key));
    plan.values.retain(|name, _| graph.find(name).is_some());
    plan.conversions.retain(|name, _| graph.find(name).is_some());
    plan
}
