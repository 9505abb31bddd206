//! From what the pipeline found to the report.

use std::collections::BTreeMap;

use ir::{Graph, Model};
use passes::quantize::choose::key_of;
use passes::quantize::{Kernel, OpPlan, Precision, QuantPlan};
use quant::range::Sketch;

use super::schema::{
    Budget, Candidate, Coverage, Kept, Layer, Level, Metric, Output, Point, Report, SCHEMA, Size, TypeSize,
    Value, Verdict,
};
use crate::pipeline::measure::Figures;
use crate::pipeline::observed::usable;
use crate::pipeline::quantize::Validation;
use crate::pipeline::sensitivity::damage::Score;
use crate::pipeline::sensitivity::table::Change;
use crate::pipeline::table::CalibrationTable;

/// Bins of a histogram in the report.
const BINS: usize = 48;

/// Names listed for each reason of staying in float.
const NAMED: usize = 6;

/// What was measured of the groups.
pub struct Measured<'a> {
    /// Scores by group and precision.
    pub scores: &'a BTreeMap<Change, Score>,
    /// Operators of each group by its name, in the order of execution.
    pub groups: &'a BTreeMap<String, Vec<String>>,
}

/// What a report is made from. Everything but the model and the plan may be missing.
pub struct Facts<'a> {
    /// The model's file name.
    pub name: String,
    /// The float model that the plan is of.
    pub float: &'a Model,
    /// The written model.
    pub quantized: Option<&'a Model>,
    /// The plan.
    pub plan: &'a QuantPlan,
    /// What calibration saw.
    pub table: Option<&'a CalibrationTable>,
    /// What was measured of the groups.
    pub measured: Option<Measured<'a>>,
    /// The error of each operator's result under the whole plan.
    pub accumulated: &'a [Figures],
    /// Float against quantized.
    pub validation: &'a [Validation],
    /// Task accuracy.
    pub metric: Option<Metric>,
    /// The fronts.
    pub front: Vec<Point>,
    /// What was asked for.
    pub budgets: Vec<Budget>,
    /// Bytes before and after.
    pub size: Size,
    /// How it was made.
    pub settings: Vec<(String, String)>,
    /// Fingerprints.
    pub hashes: Vec<(String, String)>,
    /// The command that makes it again.
    pub command: String,
    /// What the reader should know.
    pub notes: Vec<String>,
}

/// Makes the report.
pub fn build(facts: Facts<'_>) -> Report {
    let outputs = outputs(facts.validation);
    let coverage = facts.table.map(|table| coverage(table, facts.float));
    Report {
        schema: SCHEMA,
        program: format!("onnxq {}", env!("CARGO_PKG_VERSION")),
        model: facts.name.clone(),
        target: facts.plan.target.clone(),
        verdict: verdict(&outputs, facts.metric.as_ref(), &facts.budgets, coverage.as_ref()),
        size: facts.size,
        integer_share: facts.plan.integer_share(),
        layers: layers(&facts),
        values: values(facts.plan, facts.table),
        weights: weights(facts.float, facts.quantized),
        stored: Vec::new(),
        kept: kept(facts.plan),
        outputs,
        metric: facts.metric,
        budgets: facts.budgets,
        front: facts.front,
        coverage,
        settings: facts.settings,
        hashes: facts.hashes,
        command: facts.command,
        notes: facts.notes,
    }
}

fn outputs(validation: &[Validation]) -> Vec<Output> {
    let one = |validation: &Validation, figures: &Figures| Output {
        runtime: validation.runtime.clone(),
        name: figures.name.clone(),
        samples: validation.samples,
        sqnr_db: figures.sqnr_db,
        cosine: figures.cosine,
        max_abs: figures.max_abs,
        kl: figures.kl,
        top1_agreement: figures.top1_agreement,
    };
    validation.iter().flat_map(|v| v.outputs.iter().map(move |figures| one(v, figures))).collect()
}

/// Bounds in words: 30 dB is an error of 3 %, which hardly any task notices; below 15 dB (18 %) most do.
fn verdict(
    outputs: &[Output],
    metric: Option<&Metric>,
    budgets: &[Budget],
    coverage: Option<&Coverage>,
) -> Verdict {
    let worst = outputs.iter().map(|output| output.sqnr_db).fold(f64::INFINITY, f64::min);
    let mut because = Vec::new();
    let missed: Vec<&str> = budgets.iter().filter(|b| !b.met).map(|b| b.asked.as_str()).collect();
    if !missed.is_empty() {
        because.push(format!("not kept: {}", missed.join(", ")));
    }
    if let Some(metric) = metric {
        let lost = (metric.float - metric.quantized) * 100.0;
        because.push(format!(
            "{} accuracy changes by {:+.2} points on {} samples",
            metric.name,
            0.0 - lost,
            metric.samples
        ));
    }
    if worst.is_finite() {
        let share = 10f64.powf(-worst / 20.0) * 100.0;
        because.push(format!(
            "signal to noise of the worst output is {worst:.1} dB: an error of {share:.2} % of the signal"
        ));
    }
    let agreement = outputs.iter().filter_map(|output| output.top1_agreement).fold(f64::INFINITY, f64::min);
    if agreement.is_finite() {
        because.push(format!("the first choice is the same in {:.1} % of the rows", agreement * 100.0));
    }
    if let Some(samples) = outputs.iter().map(|output| output.samples).min() {
        let few = if samples < 30 { ": few; more make this surer" } else { "" };
        let plural = if samples == 1 { "" } else { "s" };
        because.push(format!("compared on {samples} sample{plural}{few}"));
    }
    let random = coverage.is_some_and(|coverage| coverage.random);
    if random {
        because.push("calibration and validation data were made up".into());
    }
    let good = metric
        .map_or(worst >= 30.0 || (worst >= 20.0 && agreement >= 0.99 && agreement.is_finite()), |m| {
            m.float - m.quantized <= 0.01
        });
    let fair = metric.map_or(worst >= 15.0, |m| m.float - m.quantized <= 0.03);
    let (level, headline) = match () {
        _ if !missed.is_empty() => (Level::Poor, "What was asked for was not reached."),
        _ if random => (Level::Unknown, "Nothing can be said: the data were made up."),
        _ if outputs.is_empty() && metric.is_none() => {
            (Level::Unknown, "The result was not compared with the original.")
        }
        _ if good => (Level::Good, "The quantized model behaves like the original."),
        _ if fair => (
            Level::Fair,
            "The quantized model is close to the original, with visible differences: try it on your task.",
        ),
        _ => (Level::Poor, "The quantized model differs much from the original."),
    };
    Verdict { level, headline: headline.into(), because }
}

fn layers(facts: &Facts<'_>) -> Vec<Layer> {
    let graph = facts.float.main();
    let schedule = graph.schedule().unwrap_or_else(|_| graph.ops());
    let known: Vec<(ir::OpId, String)> = schedule.into_iter().map(|op| (op, key_of(graph, op))).collect();
    let at: BTreeMap<ir::OpId, usize> = known.iter().enumerate().map(|(at, (op, _))| (*op, at)).collect();
    let measured = facts.measured.as_ref();
    let first: BTreeMap<&str, &str> = measured
        .iter()
        .flat_map(|m| m.groups.iter())
        .filter_map(|(name, ops)| Some((ops.first()?.as_str(), name.as_str())))
        .collect();
    let group_of: BTreeMap<&str, &str> = measured
        .iter()
        .flat_map(|m| m.groups.iter())
        .flat_map(|(name, ops)| ops.iter().map(move |op| (op.as_str(), name.as_str())))
        .collect();
    let accumulated: BTreeMap<&str, f64> = facts
        .accumulated
        .iter()
        .filter(|figures| figures.differing.is_none())
        .map(|figures| (figures.name.as_str(), figures.sqnr_db))
        .collect();
    let missing = |op: ir::OpId| OpPlan {
        node: graph.op(op).name.clone(),
        kind: graph.op(op).kind.to_string(),
        precision: Precision::Float,
        kernel: Kernel::Float,
        group: 0,
        reason: "not in the plan".into(),
        macs: 0,
    };
    let layer = |&(op, ref key): &(ir::OpId, String)| {
        let entry = facts.plan.ops.get(key).cloned().unwrap_or_else(|| missing(op));
        let inputs = graph.op_inputs(op).into_iter().flatten();
        let mut from: Vec<usize> =
            inputs.clone().filter_map(|v| at.get(&graph.producer(v)?.0).copied()).collect();
        from.dedup();
        let bytes =
            inputs.filter_map(|value| graph.constant(value)).map(|tensor| tensor.bytes().len() as u64).sum();
        let name = first.get(key.as_str());
        let scores = |name: &str| {
            let scores = measured.iter().flat_map(|m| m.scores.iter());
            scores
                .filter(|((group, _), _)| group == name)
                .map(|((_, p), score)| candidate(*p, score))
                .collect()
        };
        let own = group_of.get(key.as_str()).and_then(|name| {
            let scores = measured?.scores;
            let exact = scores.get(&((*name).to_string(), entry.precision));
            exact.or_else(|| scores.iter().find(|((group, _), _)| group == name).map(|(_, score)| score))
        });
        Layer {
            key: key.clone(),
            node: entry.node,
            kind: entry.kind,
            group: entry.group,
            precision: entry.precision.to_string(),
            kernel: kernel(entry.kernel).into(),
            reason: entry.reason,
            macs: entry.macs,
            bytes,
            inputs: from,
            local_db: own.map(|score| score.local_db),
            accumulated_db: accumulated.get(key.as_str()).copied(),
            candidates: name.map(|name| scores(name)).unwrap_or_default(),
        }
    };
    known.iter().map(layer).collect()
}

fn kernel(kernel: Kernel) -> &'static str {
    match kernel {
        Kernel::Integer => "integer",
        Kernel::Moves => "moves codes",
        Kernel::Float => "float",
        Kernel::Fails => "cannot be loaded",
    }
}

fn candidate(precision: Precision, score: &Score) -> Candidate {
    Candidate {
        precision: precision.to_string(),
        local_db: score.local_db,
        global_db: score.global_db,
        low_db: score.interval_db.0,
        high_db: score.interval_db.1,
        cosine: score.cosine,
        kl: score.kl,
        metric: score.accuracy,
        samples: score.samples,
    }
}

fn values(plan: &QuantPlan, table: Option<&CalibrationTable>) -> Vec<Value> {
    let one = |(name, entry): (&String, &passes::quantize::ValuePlan)| {
        let sketch = table.and_then(|table| table.values.get(name));
        Value {
            name: name.clone(),
            code: entry.grid.code.name().into(),
            range: entry.params.map(|params| params.interval(entry.grid)).map(|(l, h)| (l as f32, h as f32)),
            extent: sketch.and_then(Sketch::extent),
            source: entry.source.clone(),
            clipped: entry.clipped,
            sqnr_db: entry.sqnr_db,
            histogram: sketch.map(bins).unwrap_or_default(),
            reason: entry.reason.clone(),
        }
    };
    plan.values.iter().map(one).collect()
}

/// The sketch's histogram in equal steps over what was seen; zeros, which the sketch counts apart, in their step.
fn bins(sketch: &Sketch) -> Vec<u64> {
    let Some((low, high)) = sketch.extent() else { return Vec::new() };
    let (low, wide) = (f64::from(low), f64::from(high) - f64::from(low));
    if !(wide.is_finite() && wide > 0.0) {
        return Vec::new();
    }
    let mut bins = vec![0u64; BINS];
    let mut put = |at: f64, count: u64| {
        let bin = ((at - low) / wide * BINS as f64).floor().clamp(0.0, (BINS - 1) as f64) as usize;
        bins[bin] += count;
    };
    let histogram = sketch.histogram();
    let width = histogram.width();
    for (at, &count) in histogram.positive().iter().enumerate() {
        put((at as f64 + 0.5) * width, count);
    }
    for (at, &count) in histogram.negative().iter().enumerate() {
        put(-(at as f64 + 0.5) * width, count);
    }
    put(0.0, sketch.zeros());
    bins
}

fn weights(before: &Model, after: Option<&Model>) -> Vec<TypeSize> {
    let mut sizes: BTreeMap<String, TypeSize> = BTreeMap::new();
    let mut count = |graph: &Graph, written: bool| {
        for tensor in graph.values().filter_map(|id| graph.constant(id)) {
            let name = tensor.dtype().name().to_string();
            let entry = sizes.entry(name.clone()).or_insert(TypeSize { dtype: name, ..TypeSize::default() });
            let bytes = tensor.bytes().len() as u64;
            if written { entry.after += bytes } else { entry.before += bytes }
        }
    };
    before.graph_ids().into_iter().for_each(|id| count(before.graph(id), false));
    if let Some(after) = after {
        after.graph_ids().into_iter().for_each(|id| count(after.graph(id), true));
    }
    let mut sizes: Vec<TypeSize> = sizes.into_values().collect();
    sizes.sort_by(|a, b| (b.before + b.after).cmp(&(a.before + a.after)).then(a.dtype.cmp(&b.dtype)));
    sizes
}

fn kept(plan: &QuantPlan) -> Vec<Kept> {
    let mut kept: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for (key, op) in
        plan.ops.iter().filter(|(_, op)| op.precision == Precision::Float && op.kernel != Kernel::Moves)
    {
        kept.entry((&op.kind, &op.reason)).or_default().push(if op.node.is_empty() { key } else { &op.node });
    }
    let mut rows: Vec<Kept> = kept
        .into_iter()
        .map(|((kind, reason), names)| Kept {
            kind: kind.into(),
            reason: reason.into(),
            count: names.len(),
            names: names.into_iter().take(NAMED).map(String::from).collect(),
        })
        .collect();
    rows.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| (&a.kind, &a.reason).cmp(&(&b.kind, &b.reason))));
    rows
}

fn coverage(table: &CalibrationTable, model: &Model) -> Coverage {
    let found = table.coverage(&usable(model));
    Coverage {
        samples: found.samples,
        random: table.random,
        values: found.values,
        settled_after: found.settled_after,
        drift: found.drift,
        not_finite: found.not_finite,
        never_seen: found.never_seen,
    }
}
