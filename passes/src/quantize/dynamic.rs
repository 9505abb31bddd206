//! Decides about operators whose data have no range known ahead of time: every product in dynamic mode; in static mode
//! recurrent layers, embeddings, whatever the target has no static form for, and everything in bodies, where calibration
//! does not look.
//!
//! The target says whether it rounds such data when it runs ([`Precision::Dynamic`]) or computes in float; then the weight
//! is stored in 8 bits all the same ([`Precision::W8`]), because a file of a quarter of the size is what remains to gain.

use std::collections::BTreeMap;

use ir::{DType, Graph, Model, OpId};
use ops::{Role, Work, scheme};

use super::choose::{Choices, finite, quantize_weights};
use super::classes::Classes;
use super::cost::macs;
use super::emit_dynamic;
use super::keys::{bodies, key_of};
use super::plan::{Kernel, OpPlan, Precision, QuantPlan, WeightPlan};
use super::storage::stored;
use crate::target::{Candidate, Dynamic, Support, Target};

/// Fewest elements of a weight that is worth scales, zero points and operators of its own: 4 KiB in float.
const WORTH_STORING: usize = 1024;

/// Decides about the operators of the main graph that [`super::choose()`] left in float, and about all bodies.
pub(super) fn choose(plan: &mut QuantPlan, model: &Model, choices: &Choices<'_>, groups: &mut Classes) {
    let graph = model.main();
    for op in graph.ops() {
        assign(plan, graph, op, &key_of(graph, op), choices);
    }
    for (id, prefix) in bodies(model) {
        let graph = model.graph(id);
        for op in graph.ops() {
            let key = format!("{prefix}{}", key_of(graph, op));
            let node = graph.op(op);
            let refused = choices.target.refuses(graph, op);
            let reason = refused.unwrap_or("in a body: ranges are measured in the main graph only");
            let entry = OpPlan {
                node: node.name.clone(),
                kind: node.kind.to_string(),
                precision: Precision::Float,
                kernel: if refused.is_some() { Kernel::Fails } else { Kernel::Float },
                group: groups.class(&key),
                reason: reason.into(),
                macs: macs(graph, op),
            };
            plan.ops.insert(key.clone(), entry);
            assign(plan, graph, op, &key, choices);
        }
    }
}

/// The products of the main graph that the target computes on integers whose data are rounded when it runs, each to its own
/// range; by key, with what the target makes of them where ranges are known ahead of time.
pub fn rounded_at_run_time(model: &Model, target: &dyn Target) -> BTreeMap<String, Support> {
    let graph = model.main();
    let fitting = |op: OpId| {
        let scheme = scheme(graph, op).filter(|scheme| scheme.work == Work::Product)?;
        let candidate = Candidate { graph, op, scheme: &scheme };
        let fits = !candidate.weight_slots().is_empty()
            && target.dynamic(candidate) == Dynamic::Integer
            && emit_dynamic::objection(candidate).is_none();
        fits.then(|| (key_of(graph, op), target.support(candidate)))
    };
    graph.ops().into_iter().filter_map(fitting).collect()
}

/// Weights that the target reads in this form.
fn store(
    graph: &Graph,
    op: OpId,
    precision: Precision,
    choices: &Choices<'_>,
) -> Result<Vec<WeightPlan>, &'static str> {
    if !choices.target.stores().contains(&precision) {
        return Err("the target does not read weights of this form");
    }
    stored(graph, op, precision, choices.target, choices.per_tensor)
}

fn assign(plan: &mut QuantPlan, graph: &Graph, op: OpId, key: &str, choices: &Choices<'_>) {
    let asked = choices.overrides.get(key).copied();
    let (Some(scheme), Some(entry)) = (scheme(graph, op), plan.ops.get_mut(key)) else { return };
    let heavy = matches!(scheme.work, Work::Product | Work::Lookup);
    if !heavy || entry.precision != Precision::Float || entry.kernel == Kernel::Fails {
        return;
    }
    if asked == Some(Precision::Float) {
        entry.reason = "kept in float by choice".into();
        return;
    }
    let candidate = Candidate { graph, op, scheme: &scheme };
    let slots = candidate.weight_slots();
    let float32 =
        |slot: &usize| graph.input(op, *slot).is_some_and(|v| graph.value(v).dtype() == Some(DType::F32));
    if slots.is_empty() || !slots.iter().all(float32) {
        return;
    }
    let weights = || slots.iter().filter_map(|&slot| graph.constant(graph.input(op, slot)?));
    if let Some(asked @ (Precision::W4 | Precision::Fp16)) = asked {
        match store(graph, op, asked, choices) {
            Ok(weights) => {
                (entry.precision, entry.reason) = (asked, "weight stored small by choice".into());
                if !weights.is_empty() {
                    plan.weights.insert(key.to_string(), weights);
                }
            }
            Err(why) => entry.reason = why.into(),
        }
        return;
    }
    let insists = matches!(asked, Some(Precision::Dynamic | Precision::W8));
    if !insists && weights().map(|tensor| tensor.elements()).sum::<usize>() < WORTH_STORING {
        if choices.dynamic {
            entry.reason = "its weight is too small to save anything".into();
        }
        return;
    }
    if !choices.any_weights && !slots.iter().all(|&slot| finite(graph, op, slot)) {
        entry.reason = "the weight holds NaN or infinity".into();
        return;
    }
    let told = choices.target.dynamic(candidate);
    let (precision, kernel, reason) = match told {
        Dynamic::Float(why) => {
            if choices.dynamic {
                entry.reason = why.into();
            }
            return;
        }
        // Beside integer kernels, a weight that is dequantized on every run only slows the layer down: a speech enhancer of
        // two recurrent layers ran at 0.70 of its float speed for a file of a quarter. Asked for, it is stored (`w8`).
        Dynamic::OnRequest(why) if asked.is_none() && !choices.dynamic => {
            entry.reason = why.into();
            return;
        }
        Dynamic::OnRequest(why) if asked != Some(Precision::Dynamic) => {
            (Precision::W8, Kernel::Float, format!("weight in 8 bits, computed in float: {why}"))
        }
        Dynamic::Integer | Dynamic::OnRequest(_) if asked == Some(Precision::W8) => {
            (Precision::W8, Kernel::Float, "weight in 8 bits by choice".to_string())
        }
        Dynamic::Integer | Dynamic::OnRequest(_) => match emit_dynamic::objection(candidate) {
            None => (Precision::Dynamic, Kernel::Integer, "data are rounded when it runs".to_string()),
            Some(why) => {
                (Precision::W8, Kernel::Float, format!("weight in 8 bits, computed in float: {why}"))
            }
        },
        Dynamic::Weight(_) if scheme.work == Work::Lookup => {
            (Precision::W8, Kernel::Moves, "rows of a table in 8 bits".to_string())
        }
        Dynamic::Weight(why) => {
            (Precision::W8, Kernel::Float, format!("weight in 8 bits, computed in float: {why}"))
        }
    };
    (entry.precision, entry.kernel, entry.reason) = (precision, kernel, reason);
    if precision == Precision::Dynamic {
        absorb(plan, candidate, key, choices);
    }
    quantize_weights(plan, candidate, key, choices.precision, choices);
    plan.biases.remove(key);
    for weight in plan.weights.get_mut(key).into_iter().flatten() {
        // Kernels with ranges known ahead of time may want one scale for all; sums of a dynamic one, and rows of a table
        // that are gathered as codes, have a scale each.
        let each = precision == Precision::Dynamic
            || (scheme.work == Work::Lookup && choices.target.gathers_codes());
        if let Role::Weight { channel, .. } = scheme.input(weight.slot)
            && each
            && (!choices.per_tensor || scheme.work == Work::Lookup)
        {
            weight.axis = channel;
        }
    }
}

/// Marks the operator that the kernel of a dynamic one computes too.
fn absorb(plan: &mut QuantPlan, product: Candidate<'_>, key: &str, choices: &Choices<'_>) {
    let graph = product.graph;
    let next = || {
        let [reader] = graph.uses(graph.output(product.op, 0)?)[..] else { return None };
        choices.target.absorbs_dynamic(product, reader.op).then_some(reader.op)
    };
    // Both are in one graph, so their keys begin alike.
    let prefix = key.strip_suffix(&key_of(graph, product.op)).unwrap_or_default();
    let next = next().map(|op| format!("{prefix}{}", key_of(graph, op)));
    if let Some(entry) = next.and_then(|key| plan.ops.get_mut(&key)) {
        entry.kernel = Kernel::Moves;
        entry.reason = "absorbed by the operator before it".into();
    }
}
