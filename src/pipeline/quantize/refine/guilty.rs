//! Finds the few values whose rounding costs most, where plain 8 bits miss the quality bar.
//!
//! One sample is run in float and recorded. Each suspect (the values with the least expected signal to noise, and the first
//! ones of the model, whose error everything inherits) is rounded alone, and only what lies behind is run again: the noise of
//! the outputs is what the rounding costs. Such costs add up, as long as they are small beside the signal; what taking one of
//! many roundings back gains does not, since where two are guilty neither goes alone. Where the runtime cannot do that, the
//! expected ratio decides.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use ir::{Model, Tensor};
use ops::FakeQuant;
use passes::quantize::choose::key_of;
use passes::quantize::{Precision, QuantPlan};
use quant::measure::Distance;
use runtime::{Executor, Feed, Tract, View};

use super::super::super::engine::prepare_replays;
use super::super::super::prepare::lowered;
use super::super::super::rounding::{fake_quant, rounded};
use super::judge::numbers;

/// Suspects by expected signal to noise.
const NOISIEST: usize = 40;
/// Suspects by place: the first ones.
const FIRST: usize = 16;
/// The share of the multiplications that a suspect's score starts from, so that cheap ones are not free.
const LEAST_COST: f64 = 0.02;

/// A value and the operators around it that would go back to float.
#[derive(Clone, Debug, PartialEq)]
pub struct Suspect {
    /// The value.
    pub value: String,
    /// The operators, by the name of the first output.
    pub ops: Vec<String>,
    /// Its share of the noise that the suspects make, each alone; 0 where nobody can tell.
    pub gain: f64,
    /// Share of the model's multiplications that go back to float.
    pub cost: f64,
}

impl Suspect {
    /// The share of the noise, by what it costs to be rid of it.
    pub fn reward(&self) -> f64 {
        self.gain.max(0.0) / (self.cost + LEAST_COST)
    }
}

/// The suspects, the most rewarding first.
///
/// # Errors
/// The runtime fails on the sample.
pub fn suspects(
    float: &Model,
    plan: &QuantPlan,
    executor: &dyn Executor,
    feed: &Feed,
    expected: &BTreeMap<String, Tensor>,
) -> Result<Vec<Suspect>> {
    let mut found = candidates(float, plan);
    // Where the runtime lets nobody change values, tract does it in its place if it can.
    let editor: &dyn Executor = if executor.wants_lowered() { executor } else { &Tract };
    let low = lowered(float)?;
    if editor.supports(&low).is_ok() {
        let tried = &found[..found.len().min(NOISIEST + FIRST)];
        let costs = match costs(&low, plan, tried, editor, feed, expected) {
            Err(error) if executor.wants_lowered() => return Err(error),
            costs => costs.unwrap_or_default(),
        };
        let all: f64 = costs.values().sum();
        for suspect in &mut found {
            suspect.gain = costs.get(&suspect.value).copied().unwrap_or(0.0) / all.max(1e-20);
        }
    }
    // Stable: where no gain is known, the order of expected noise stays.
    found.sort_by(|a, b| b.reward().total_cmp(&a.reward()));
    Ok(found)
}

/// The suspects by what is known without running anything.
fn candidates(float: &Model, plan: &QuantPlan) -> Vec<Suspect> {
    let graph = float.main();
    let schedule = graph.schedule().unwrap_or_else(|_| graph.ops());
    let order = schedule.iter().flat_map(|&op| graph.op_outputs(op).into_iter().flatten());
    let written: Vec<&str> = order
        .map(|value| graph.value(value).name() as &str)
        .filter(|name| plan.values.contains_key(*name))
        .collect();
    let inputs = graph.inputs().iter().map(|&value| graph.value(value).name() as &str);
    let all: Vec<&str> = inputs.filter(|name| plan.values.contains_key(*name)).chain(written).collect();
    let mut by_noise: Vec<(f64, &str)> =
        all.iter().filter_map(|name| Some((plan.values[*name].sqnr_db?, *name))).collect();
    by_noise.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut taken = BTreeSet::new();
    // Those that are tried first, then all others: where many are guilty of a little, many have to go.
    let names = by_noise
        .iter()
        .map(|(_, name)| *name)
        .take(NOISIEST)
        .chain(all.iter().copied().take(FIRST))
        .chain(by_noise.iter().map(|(_, name)| *name))
        .chain(all.iter().copied());
    let names: Vec<&str> = names.filter(|name| taken.insert(*name)).collect();
    let total: u64 = plan.ops.values().map(|op| op.macs).sum();
    let suspect = |name: &str| {
        let value = graph.find(name)?;
        let mut ops: BTreeSet<String> =
            graph.uses(value).into_iter().map(|use_| key_of(graph, use_.op)).collect();
        // The rounded output may be that of a function within the kernel of the operator before.
        let mut writer = graph.producer(value).map(|(op, _)| op);
        for _ in 0..2 {
            let Some(op) = writer else { break };
            let key = key_of(graph, op);
            let chosen = plan.ops.get(&key).is_some_and(|entry| entry.precision != Precision::Float);
            ops.insert(key);
            writer = if chosen {
                None
            } else {
                graph.input(op, 0).and_then(|v| graph.producer(v)).map(|(op, _)| op)
            };
        }
        ops.retain(|key| plan.ops.get(key).is_some_and(|entry| entry.precision != Precision::Float));
        let macs: u64 = ops.iter().filter_map(|key| plan.ops.get(key)).map(|entry| entry.macs).sum();
        let cost = macs as f64 / total.max(1) as f64;
        (!ops.is_empty()).then(|| Suspect {
            value: name.to_string(),
            ops: ops.into_iter().collect(),
            gain: 0.0,
            cost,
        })
    };
    names.into_iter().filter_map(suspect).collect()
}

/// The noise that each rounding alone makes at the outputs of a lowered float model.
fn costs(
    low: &Model,
    plan: &QuantPlan,
    suspects: &[Suspect],
    executor: &dyn Executor,
    feed: &Feed,
    expected: &BTreeMap<String, Tensor>,
) -> Result<BTreeMap<String, f64>> {
    let graph = low.main();
    let roundings: BTreeMap<&str, FakeQuant> = suspects
        .iter()
        .filter(|suspect| graph.find(&suspect.value).is_some())
        .filter_map(|suspect| Some((suspect.value.as_str(), fake_quant(plan.values.get(&suspect.value)?)?)))
        .collect();
    let names = roundings.keys().map(|name| name.to_string());
    let (taps, inputs): (Vec<String>, Vec<String>) =
        names.partition(|name| graph.find(name).is_some_and(|value| graph.producer(value).is_some()));
    let mut session = prepare_replays(executor, low, taps, inputs)?;
    let mut exact: BTreeMap<String, Tensor> = feed.iter().cloned().collect();
    let mut keep = |name: &str, view: View<'_>| {
        let wanted = expected.contains_key(name) || roundings.contains_key(name);
        if let Some(tensor) = wanted.then(|| view.to_tensor()).flatten() {
            exact.insert(name.to_string(), tensor);
        }
    };
    let Ok(recording) = session.record(feed, &mut keep) else { return Ok(BTreeMap::new()) };
    let mut costs = BTreeMap::new();
    for (&name, grid) in &roundings {
        let Some(Ok(replaced)) = exact.get(name).map(|tensor| rounded(tensor, grid)) else { continue };
        let mut outputs: BTreeMap<String, Tensor> = exact
            .iter()
            .filter(|(name, _)| expected.contains_key(*name))
            .map(|(n, t)| (n.clone(), t.clone()))
            .collect();
        if let Some(output) = outputs.get_mut(name) {
            *output = replaced.clone();
        }
        let mut take = |name: &str, view: View<'_>| {
            if expected.contains_key(name)
                && let Some(tensor) = view.to_tensor()
            {
                outputs.insert(name.to_string(), tensor);
            }
        };
        if session.replay(&recording, &[(name.to_string(), replaced)], &mut take).is_ok() {
            costs.insert(name.to_string(), noise(expected, &outputs)?);
        }
    }
    Ok(costs)
}

/// Power of the error by power of the signal, mean over the outputs.
fn noise(expected: &BTreeMap<String, Tensor>, found: &BTreeMap<String, Tensor>) -> Result<f64> {
    let (mut sum, mut count) = (0.0, 0usize);
    for (name, reference) in expected {
        let Some(other) = found.get(name).filter(|other| other.dims() == reference.dims()) else { continue };
        let (Some(a), Some(b)) = (numbers(reference), numbers(other)) else { continue };
        let mut distance = Distance::default();
        distance.add(&a, &b)?;
        sum += 10f64.powf(-distance.sqnr_db() / 10.0);
        count += 1;
    }
    Ok(sum / count.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::super::super::super::prepare::quantizable;
    use super::super::super::QuantizeOptions;
    use super::super::Draft;
    use super::*;
    use quant::range::Sketch;

    /// Two convolutions with a function between them; the second is by far the larger.
    fn model() -> Model {
        let ones = |count: usize| vec!["0.5"; count].join(", ");
        let text = format!(
            "<ir_version: 10, opset_import: [\"\": 17]> g (float[1,1,4,4] x) => (float[1,2,4,4] z)
            <float[8,1,1,1] w = {{{}}}, float[2,8,1,1] v = {{{}}}>
            {{ a = Conv(x, w) y = Relu(a) z = Conv(y, v) }}",
            ones(8),
            ones(16)
        );
        quantizable(ir::text::parse(&text).unwrap()).unwrap()
    }

    fn sketches(y: &[f32]) -> BTreeMap<String, Sketch> {
        let plain: Vec<f32> = (0..256).map(|i| i as f32 / 255.0).collect();
        let mut all: BTreeMap<String, Sketch> =
            ["x", "a", "z"].map(|name| (name.to_string(), Sketch::of(&plain))).into();
        all.insert("y".into(), Sketch::of(y));
        all
    }

    #[test]
    fn the_noisiest_value_comes_first_with_what_reads_and_writes_it() {
        let options = QuantizeOptions::for_target("ort-cpu").unwrap();
        // One number far from all others: whatever the range, much is lost.
        let mut y: Vec<f32> = (0..10_000).map(|i| i as f32 / 1e6).collect();
        y.push(100.0);
        let draft = Draft::new(model(), &sketches(&y), &options).unwrap();
        let found = candidates(&draft.model, &draft.plan);
        assert_eq!(found[0].value, "y");
        // The function between them computes nothing of its own.
        assert_eq!(found[0].ops, ["a", "z"]);
        assert_eq!(found[0].cost, 1.0);
        let input = found.iter().find(|suspect| suspect.value == "x").unwrap();
        assert_eq!(input.ops, ["a"]);
        // 8 * 16 of the 8 * 16 + 2 * 16 * 8 multiplications.
        assert!((input.cost - 1.0 / 3.0).abs() < 1e-12, "{}", input.cost);
    }

    #[test]
    fn values_that_were_never_seen_stay_float() {
        let options = QuantizeOptions::for_target("ort-cpu").unwrap();
        let plain: Vec<f32> = (0..256).map(|i| i as f32 / 255.0).collect();
        let mut sketches = sketches(&plain);
        sketches.remove("z");
        let draft = Draft::new(model(), &sketches, &options).unwrap();
        assert_eq!(draft.overrides, BTreeMap::from([("z".to_string(), Precision::Float)]));
        assert_eq!(draft.plan.ops["a"].precision, Precision::Int8);
        assert!(draft.plan.values.contains_key("y") && !draft.plan.values.contains_key("z"));
        // Nothing was seen that anything could be quantized by.
        let nothing = Draft::new(model(), &BTreeMap::new(), &options).unwrap();
        assert!(nothing.plan.values.is_empty());
    }

    #[test]
    fn each_rounding_is_weighed_alone() {
        let options = QuantizeOptions::for_target("ort-cpu").unwrap();
        let plain: Vec<f32> = (0..256).map(|i| i as f32 / 255.0).collect();
        let mut y = plain.clone();
        // A range eight times as wide: 64 times the noise of a rounding.
        y.push(8.0);
        let draft = Draft::new(model(), &sketches(&y), &options).unwrap();
        let low = lowered(&draft.model).unwrap();
        let feed: Feed = vec![("x".to_string(), Tensor::from_slice(&[1, 1, 4, 4], &plain[3..19]).unwrap())];
        let mut expected = BTreeMap::new();
        let mut keep = |name: &str, view: View<'_>| {
            expected.insert(name.to_string(), view.to_tensor().unwrap());
        };
        let session = super::super::super::super::engine::prepare(&Tract, &low, vec![]).unwrap();
        session.fork().unwrap().run(&feed, &mut keep).unwrap();
        let tried = candidates(&draft.model, &draft.plan);
        let costs = costs(&low, &draft.plan, &tried, &Tract, &feed, &expected).unwrap();
        let names: Vec<&str> = costs.keys().map(String::as_str).collect();
        assert_eq!(names, ["x", "y", "z"]);
        assert!(costs["y"] > 10.0 * costs["x"], "{costs:?}");
        // The input's numbers are codes of its grid.
        assert!(costs["x"] < 1e-9, "{costs:?}");
    }

    #[test]
    fn the_mean_over_the_outputs_is_the_noise() {
        let tensor = |v: [f32; 2]| Tensor::from_slice(&[2], &v).unwrap();
        let expected = BTreeMap::from([("a".into(), tensor([3.0, 4.0])), ("b".into(), tensor([1.0, 0.0]))]);
        let found = BTreeMap::from([("a".into(), tensor([3.0, 3.5])), ("b".into(), tensor([1.0, 0.0]))]);
        // 0.25 of 25, and nothing: 1e-20 stands for nothing.
        assert!((noise(&expected, &found).unwrap() - 0.005).abs() < 1e-9);
    }
}
