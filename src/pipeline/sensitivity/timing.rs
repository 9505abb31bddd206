//! Times of groups at every precision, measured in ONNX Runtime: what `onnxq measure-costs` writes.
//!
//! Whole models are profiled, because runtimes fuse across groups: the float model, one model a precision in which every
//! group has it that can, and two in which neighbours alternate between float and integers, which shows what conversions
//! take where nothing absorbs them. All run in turn on every sample, so that what else the machine does falls on all alike.
//! A group's time at a precision is the median over the runs of the sum over its operators.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use ir::{Graph, Model};
use passes::quantize::Precision;
use passes::quantize::choose::key_of;
use runtime::{Feed, Ort};

use super::costs::CostTable;
use super::mix::Mixer;

/// Runs at the start of a profile that are not counted: memory is touched for the first time.
const WARM_UP: usize = 3;

/// Mixes in which neighbours differ.
const ALTERNATING: usize = 2;

/// Operators between a value and the group that it is attributed to at most: activation functions, moves in float.
const STEPS: usize = 4;

/// What was measured.
pub struct Times {
    /// The table.
    pub table: CostTable,
    /// For each profiled mix: its name, the microseconds of all its operators, and what the table makes of it.
    pub checks: Vec<(String, f64, f64)>,
}

/// Times every group at the precisions, beside float.
///
/// # Errors
/// A mix that cannot be emitted, loaded or run.
pub fn times(
    mixer: &Mixer<'_>,
    precisions: &[Precision],
    ort: &Ort,
    feeds: &[Feed],
    runs: usize,
    threads: usize,
) -> Result<Times> {
    ensure!(!feeds.is_empty() && runs > 0, "nothing to run");
    let mixes = mixes(mixer, precisions);
    // Profiles name operators: each gets a name that tells which it is.
    let mut named = mixer.model.clone();
    let graph = named.main_mut();
    for op in graph.ops() {
        let key = key_of(graph, op);
        graph.op_mut(op).name = key;
    }
    let models = mixes
        .iter()
        .map(|(name, mix)| {
            super::emitted(&named, &mixer.plan(mix)).with_context(|| format!("the mix {name}"))
        })
        .collect::<Result<Vec<Model>>>()?;
    let folder = tempfile::tempdir().context("a folder for profiles")?;
    let profiles = ort.profile(&models, feeds, runs + WARM_UP, threads, folder.path())?;
    let places = Places::new(mixer);
    let mut parts = Vec::new();
    for ((name, _), text) in mixes.iter().zip(&profiles) {
        let by_part = places.split(text).with_context(|| format!("the profile of {name}"))?;
        parts.push(by_part.into_iter().map(|(part, runs)| (part, median(runs))).collect::<BTreeMap<_, _>>());
    }
    let mut table = table(mixer, precisions, &mixes, &parts);
    let alternating = mixes.iter().zip(&parts).skip(mixes.len() - ALTERNATING);
    spread(mixer, &mut table, &alternating.map(|((_, mix), parts)| (mix, parts)).collect::<Vec<_>>());
    let checks = mixes
        .iter()
        .zip(&parts)
        .map(|((name, mix), parts)| (name.clone(), parts.values().sum(), predicted(mixer, &table, mix)))
        .collect();
    Ok(Times { table, checks })
}

type Mixes = Vec<(String, Vec<Precision>)>;

/// The mixes to profile, float first.
fn mixes(mixer: &Mixer<'_>, precisions: &[Precision]) -> Mixes {
    let one = |precision: Precision| -> Vec<Precision> {
        let pick = |group| if mixer.allows(group, precision) { precision } else { Precision::Float };
        mixer.groups.iter().map(pick).collect()
    };
    let mut mixes = vec![("float".to_string(), one(Precision::Float))];
    for &precision in precisions.iter().filter(|precision| **precision != Precision::Float) {
        mixes.push((precision.to_string(), one(precision)));
    }
    for odd in 0..ALTERNATING {
        let pick = |at: usize| if at % 2 == odd { mixer.uniform() } else { Precision::Float };
        let name = if odd == 0 { "every second" } else { "the others" };
        mixes.push((format!("{name} {}", mixer.uniform()), (0..mixer.groups.len()).map(pick).collect()));
    }
    mixes
}

/// Neighbours of different precision cost more than their conversions: layouts change, functions are no longer absorbed.
/// What the alternating mixes took beyond the table is spread over the conversions between them.
fn spread(mixer: &Mixer<'_>, table: &mut CostTable, mixes: &[(&Vec<Precision>, &BTreeMap<Part, f64>)]) {
    let (mut excess, mut count) = (0.0, 0usize);
    for (mix, parts) in mixes {
        excess += parts.values().sum::<f64>() - predicted(mixer, table, mix);
        count += mixer.links().iter().filter(|(from, to, _)| converts(mix, *from, *to)).count();
    }
    if count == 0 || excess <= 0.0 {
        return;
    }
    for (_, _, value) in mixer.links() {
        table.conversions.entry(value).or_default();
    }
    table.conversions.values_mut().for_each(|time| *time += excess / count as f64);
}

/// What an operator of a profile belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Group(usize),
    Conversion(String),
    Rest,
}

/// Finds the part of an operator by its name.
struct Places<'a> {
    graph: &'a Graph,
    owner: BTreeMap<String, usize>,
}

impl<'a> Places<'a> {
    fn new(mixer: &'a Mixer<'_>) -> Places<'a> {
        let groups = mixer.groups.iter().enumerate();
        let owner =
            groups.flat_map(|(at, group)| group.ops.iter().map(move |key| (key.clone(), at))).collect();
        Places { graph: mixer.model.main(), owner }
    }

    /// Sums by part, one for each run that counts.
    fn split(&self, profile: &str) -> Result<BTreeMap<Part, Vec<f64>>> {
        let events: Vec<serde_json::Value> =
            serde_json::from_str(profile).context("it is no list of events")?;
        let mut seen: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for event in events.iter().filter(|event| event["cat"] == "Node") {
            let name = event["name"].as_str().and_then(|name| name.strip_suffix("_kernel_time"));
            if let (Some(name), Some(time)) = (name, event["dur"].as_f64()) {
                seen.entry(name).or_default().push(time);
            }
        }
        let mut parts: BTreeMap<Part, Vec<f64>> = BTreeMap::new();
        for (name, times) in seen {
            // An operator inside a loop has many events a run: they cannot be told apart, and count as the rest.
            let times = &times[WARM_UP.min(times.len())..];
            let sums = parts.entry(self.part(name)).or_default();
            sums.resize(sums.len().max(times.len()), 0.0);
            sums.iter_mut().zip(times).for_each(|(sum, time)| *sum += time);
        }
        Ok(parts)
    }

    /// Names as ONNX Runtime leaves them: `conv1`, `conv1_nchwc`, `conv1_token_12`, `relu1_QuantizeLinear`.
    fn part(&self, name: &str) -> Part {
        let mut name = name;
        if let Some((start, number)) = name.rsplit_once("_token_")
            && number.chars().all(|c| c.is_ascii_digit())
        {
            name = start;
        }
        for suffix in ["_nchwc", "_fused"] {
            name = name.strip_suffix(suffix).unwrap_or(name);
        }
        if let Some(group) = self.group_of(name) {
            return Part::Group(group);
        }
        for suffix in
            ["_QuantizeLinear", "_DequantizeLinear", "_Cast", "_quantized", "_dequantized", "_dq", "_q"]
        {
            // A number that made the name unique may follow.
            let start = name.rfind(suffix).filter(|&at| {
                let rest = &name[at + suffix.len()..];
                rest.is_empty() || rest[1..].chars().all(|c| c.is_ascii_digit()) && rest.starts_with('_')
            });
            let Some(value) = start.and_then(|at| name.get(..at)) else { continue };
            let Some(id) = self.graph.find(value) else { continue };
            if self.graph.constant(id).is_none() {
                return Part::Conversion(value.to_string());
            }
            // A weight that is dequantized at run time is part of the layer that reads it.
            let readers = self.graph.uses(id);
            let group = readers.iter().find_map(|reader| self.owner.get(&key_of(self.graph, reader.op)));
            return group.map_or(Part::Rest, |&group| Part::Group(group));
        }
        Part::Rest
    }

    /// The group that makes a value, through operators of no group: functions that a product absorbs.
    fn group_of(&self, name: &str) -> Option<usize> {
        let mut value = self.graph.find(name)?;
        for _ in 0..STEPS {
            let (op, _) = self.graph.producer(value)?;
            if let Some(&group) = self.owner.get(&key_of(self.graph, op)) {
                return Some(group);
            }
            value = self.graph.input(op, 0)?;
        }
        None
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    match times.len() {
        0 => 0.0,
        n if n % 2 == 1 => times[n / 2],
        n => (times[n / 2 - 1] + times[n / 2]) / 2.0,
    }
}

fn table(
    mixer: &Mixer<'_>,
    precisions: &[Precision],
    mixes: &Mixes,
    parts: &[BTreeMap<Part, f64>],
) -> CostTable {
    let mut table = CostTable::default();
    let whole = |precision: Precision| {
        let name = precision.to_string();
        mixes.iter().position(|(known, _)| *known == name).and_then(|at| parts.get(at))
    };
    for (at, group) in mixer.groups.iter().enumerate() {
        for &precision in [Precision::Float].iter().chain(precisions) {
            if !mixer.allows(group, precision) {
                continue;
            }
            if let Some(parts) = whole(precision) {
                let time = parts.get(&Part::Group(at)).copied().unwrap_or(0.0);
                table.groups.insert((group.name.clone(), precision), time);
            }
        }
    }
    // A conversion stands where neighbours differ: of the mixes that have it, the mean.
    let mut seen: BTreeMap<&String, Vec<f64>> = BTreeMap::new();
    for parts in parts {
        for (part, &time) in parts {
            if let Part::Conversion(value) = part {
                seen.entry(value).or_default().push(time);
            }
        }
    }
    let uniform = whole(mixer.uniform());
    let always = |value: &String| {
        uniform.and_then(|parts| parts.get(&Part::Conversion(value.clone()))).copied().unwrap_or(0.0)
    };
    for (_, _, value) in mixer.links() {
        if let Some(times) = seen.get(&value) {
            table.conversions.insert(value, times.iter().sum::<f64>() / times.len() as f64);
        }
    }
    // What stays whatever is chosen: operators of no group, and conversions at the borders of the model.
    let borders: f64 =
        seen.keys().filter(|value| !table.conversions.contains_key(**value)).map(|v| always(v)).sum();
    let rest = |parts: &BTreeMap<Part, f64>| parts.get(&Part::Rest).copied().unwrap_or(0.0);
    table.rest = parts.first().map(rest).unwrap_or(0.0).max(uniform.map(rest).unwrap_or(0.0)) + borders;
    table
}

/// A conversion stands between two groups: one computes on codes and the other does not.
fn converts(mix: &[Precision], from: usize, to: usize) -> bool {
    let codes = |precision: Precision| precision != Precision::Float && !precision.is_storage();
    codes(mix[from]) != codes(mix[to])
}

/// What the table says of a mix.
fn predicted(mixer: &Mixer<'_>, table: &CostTable, mix: &[Precision]) -> f64 {
    let group = |(group, precision): (&super::mix::Group, &Precision)| {
        table.groups.get(&(group.name.clone(), *precision)).copied().unwrap_or(0.0)
    };
    let groups: f64 = mixer.groups.iter().zip(mix).map(group).sum();
    let converted: f64 = mixer
        .links()
        .iter()
        .filter(|(from, to, _)| converts(mix, *from, *to))
        .filter_map(|(_, _, value)| table.conversions.get(value))
        .sum();
    groups + converted + table.rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
        assert_eq!(median(vec![]), 0.0);
    }
}
