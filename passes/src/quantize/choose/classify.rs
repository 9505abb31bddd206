//! One operator by itself: whether it may compute on integers, and why not.

use ir::{DType, Graph, OpId, ValueId};
use ops::{Role, Work, scheme};

use super::{Choices, Node, key_of};
use crate::quantize::plan::Precision;
use crate::target::{Candidate, Support, Target};

pub(super) fn classify<'a>(graph: &'a Graph, id: OpId, choices: &Choices<'_>) -> Node<'a> {
    let key = key_of(graph, id);
    let scheme = scheme(graph, id);
    let mut node = Node {
        id,
        precision: choices.precision_of(&key),
        key,
        scheme: None,
        support: Support::Float(""),
        slots: Vec::new(),
        insists: false,
        chosen: false,
        reason: String::new(),
        graph,
    };
    let Some(found) = scheme else {
        node.reason = "cannot be quantized".into();
        return node;
    };
    let candidate = Candidate { graph, op: id, scheme: &found };
    node.support = choices.target.support(candidate);
    node.slots = (0..graph.op(id).input_count())
        .filter(|&slot| matches!(found.input(slot), Role::Data | Role::Weight { .. }))
        .filter(|&slot| choices.target.rounds(candidate, slot))
        .collect();
    // Sizes and indices run through the same operators as data: only what is known to be float is worth insisting on.
    let float =
        |slot: &usize| graph.input(id, *slot).is_some_and(|v| graph.value(v).dtype() == Some(DType::F32));
    node.insists = node.slots.iter().all(float) && choices.target.insists(candidate);
    let weights = candidate.weight_slots();
    let asked = choices.overrides.get(&node.key).copied();
    node.reason = if asked == Some(Precision::Float) {
        "kept in float by choice".into()
    } else if found.work == Work::Lookup {
        "picks among constants".into()
    } else if choices.dynamic || asked.is_some_and(|asked| asked == Precision::Dynamic || asked.is_storage())
    {
        "no range of its data is known ahead of time".into()
    } else if let Support::Float(why) = node.support {
        why.into()
    } else if !graph.op_inputs(id).iter().flatten().all(|&value| float32(graph, value)) {
        "its data are not float32".into()
    } else if found.work == Work::Product
        && weights.is_empty()
        && !choices.computed_products
        && !choices.target.multiplies_activations()
    {
        "both operands are computed: little weight to save, much rounding".into()
    } else if !beside_nothing(graph, candidate, &node.slots, &node.support, choices.target) {
        format!("{} cannot load a rounding beside its neighbour", choices.target.name())
    } else if !choices.any_weights && weights.iter().any(|&slot| !finite(graph, id, slot)) {
        "the weight holds NaN or infinity".into()
    } else {
        node.chosen = true;
        match found.work {
            Work::Product => "product with a constant weight".into(),
            Work::Arithmetic => "between quantized values".into(),
            Work::Movement | Work::Lookup => "moves quantized values".into(),
        }
    };
    node.scheme = Some(found);
    node
}

/// Every value that would be rounded for the operator may be.
fn beside_nothing(
    graph: &Graph,
    candidate: Candidate<'_>,
    slots: &[usize],
    support: &Support,
    target: &dyn Target,
) -> bool {
    let inputs = slots.iter().filter_map(|&slot| graph.input(candidate.op, slot));
    if !inputs.filter(|&value| graph.constant(value).is_none()).all(|value| target.rounds_value(graph, value))
    {
        return false;
    }
    let outputs = graph.op_outputs(candidate.op).into_iter().enumerate();
    let written =
        outputs.filter(|(slot, _)| candidate.scheme.output(*slot) != Role::Keep).filter_map(|(_, v)| v);
    *support != Support::Codes
        || written.into_iter().all(|value| {
            // A function that the operator absorbs is rounded in its place.
            let last = match graph.uses(value)[..] {
                [reader] if target.absorbs(candidate, reader.op) => {
                    graph.output(reader.op, 0).unwrap_or(value)
                }
                _ => value,
            };
            target.rounds_value(graph, last)
        })
}

/// Float32, or no number that is rounded at all (sizes, conditions).
fn float32(graph: &Graph, value: ValueId) -> bool {
    graph.value(value).dtype().is_none_or(|dtype| dtype == DType::F32 || !dtype.is_float())
}

pub(in crate::quantize) fn finite(graph: &Graph, op: OpId, slot: usize) -> bool {
    let Some(tensor) = graph.input(op, slot).and_then(|value| graph.constant(value)) else { return false };
    if tensor.dtype() != DType::F32 {
        return tensor.to_vec::<f32>().is_ok_and(|values| values.iter().all(|v| v.is_finite()));
    }
    // Weights may be large: no copy, and no branch within a piece.
    let odd = |bytes: &[u8; 4]| !f32::from_ne_bytes(*bytes).is_finite();
    tensor
        .bytes()
        .as_chunks::<4>()
        .0
        .chunks(4096)
        .all(|piece| !piece.iter().fold(false, |any, b| any | odd(b)))
}
