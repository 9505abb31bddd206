//! Sensitivity: what quantizing each group alone does to the outputs, and from that the best mix of precisions within
//! budgets.
//!
//! - [`measure`]: for every group and candidate precision the damage on calibration samples. A group is cut out of the
//!   model, quantized and run on the float values that it reads; its results replace the float ones in a recorded run,
//!   and only what is downstream runs again. No model is rebuilt.
//! - [`mix`]: the plan for a choice of precisions.
//! - [`timing`]: what each group takes at each precision in ONNX Runtime.
//! - [`assign`]: scores to costs to a choice. [`auto`]: all of it with verification and repair.

pub mod assign;
pub mod auto;
pub mod costs;
pub mod damage;
pub mod judge;
pub mod mix;
pub mod part;
pub mod run;
mod search;
pub mod table;
pub mod timing;

use anyhow::{Result, bail};
use ir::Model;
use passes::quantize::Precision;
use runtime::Executor;

use super::calibrate::{CalibrateOptions, calibrate, calibrate_somewhere};
use super::digest;
use super::engine::{Engine, EngineOptions, form_for, prepare, prepare_replays};
use super::measure::{Figures, compare};
use super::prepare::{converted, lowered, quantizable};
use super::quantize::{QuantizeOptions, base_plan};
use super::table::CalibrationTable;
use crate::data::Source;
use mix::Mixer;
use part::Part;
use run::{Bench, Labels, Runner};
use table::SensitivityTable;

/// What to measure and how.
#[derive(Clone, Debug, Default)]
pub struct MeasureOptions {
    /// The runtime.
    pub engine: EngineOptions,
    /// Candidate precisions beside float.
    pub precisions: Vec<Precision>,
    /// Only every `n`-th group from `i` on: part `i` of `n`, counted from 1.
    pub shard: Option<(usize, usize)>,
    /// Everything on all samples, instead of successive halving.
    pub exhaustive: bool,
    /// Run a whole changed model for every change instead of what is downstream of it: slow, to compare with.
    pub whole: bool,
}

/// What was measured.
pub struct Measured {
    /// Damage by group, precision and sample.
    pub table: SensitivityTable,
    /// Runs of one group on one sample.
    pub runs: usize,
    /// What the user should know.
    pub notes: Vec<String>,
    /// Sizes of each group at each precision: quantized and float bytes.
    pub bytes: std::collections::BTreeMap<table::Change, (u64, u64)>,
}

/// Measures every group at every candidate precision. `known` is what an earlier run left; `save` is called now and then.
///
/// # Errors
/// The model cannot be run, or only by a runtime that cannot run parts again.
pub fn measure(
    mixer: &Mixer<'_>,
    source: &dyn Source,
    labels: &Labels,
    options: &MeasureOptions,
    known: Option<SensitivityTable>,
    progress: &mut dyn FnMut(&'static str, usize, usize),
    save: &mut dyn FnMut(&SensitivityTable) -> Result<()>,
) -> Result<Measured> {
    if mixer.groups.is_empty() {
        bail!("nothing in this model can be quantized for {}", mixer.options.target.name());
    }
    let (executor, note) = options.engine.choose(&lowered(mixer.model)?)?;
    let float = form_for(executor.as_ref(), mixer.model)?;
    let notes: Vec<String> = note.into_iter().collect();
    let runtime = format!("{} {}", executor.name(), executor.version());
    let mut table = SensitivityTable::new(
        digest::model(mixer.model),
        mixer.base,
        runtime,
        source.is_random(),
        source.len(),
    );
    if let Some(known) = known {
        table.merge(known)?;
    }
    let mut runners = runners(mixer, executor.as_ref(), options, progress)?;
    let mut bytes = std::collections::BTreeMap::new();
    for runner in &runners {
        bytes.insert(runner.change.clone(), runner.part.bytes);
    }
    let taps: std::collections::BTreeSet<String> = runners.iter().flat_map(Runner::taps).cloned().collect();
    let main = float.main();
    let computed = |name: &String| main.find(name).is_some_and(|value| main.producer(value).is_some());

    let (taps, inputs): (Vec<String>, Vec<String>) = taps.into_iter().partition(computed);
    let mut session = prepare_replays(executor.as_ref(), &float, taps, inputs)?;
    let shown = shown(session.as_mut(), source, options.whole)?;
    for runner in &mut runners {
        if shown.as_ref().is_some_and(|shown| runner.taps().all(|name| shown.contains(name))) {
            continue;
        }
        let mut alone = vec![Precision::Float; mixer.groups.len()];
        let at = mixer.groups.iter().position(|group| group.name == runner.change.0).unwrap_or(0);
        alone[at] = runner.change.1;
        let whole = emitted(mixer.model, &mixer.plan(&alone))?;
        let part = Part { model: None, ..std::mem::replace(&mut runner.part, Part::nothing()) };
        *runner = Runner::whole(runner.change.clone(), part, &whole, executor.as_ref())?;
    }

    let outputs: Vec<String> =
        main.outputs().iter().map(|&value| main.value(value).name().to_string()).collect();
    let bench = Bench {
        session: session.as_ref(),
        outputs: &outputs,
        runners: &runners,
        source,
        labels,
        threads: options.engine.threads(),
        exhaustive: options.exhaustive,
    };
    let runs = bench.run(&mut table, &mut |done, all| progress("measuring", done, all), save)?;
    Ok(Measured { table, runs, notes, bytes })
}

/// Statistics of all samples, and the options for whatever runs after that: where only ONNX Runtime could run the data, ONNX
/// Runtime. Notes say so.
///
/// # Errors
/// No runtime at hand can run the model on a sample.
pub fn statistics(
    float: &Model,
    source: &dyn Source,
    engine: &EngineOptions,
    notes: &mut Vec<String>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(CalibrationTable, EngineOptions)> {
    let (executor, note) = engine.choose(&lowered(float)?)?;
    notes.extend(note);
    let how = CalibrateOptions { engine: engine.clone(), ..CalibrateOptions::default() };
    let (table, note) = calibrate_somewhere(float, executor.as_ref(), source, &how, progress)?;
    let engine = match &note {
        Some(_) => EngineOptions { engine: Engine::Ort, ..engine.clone() },
        None => engine.clone(),
    };
    notes.extend(note);
    Ok((table, engine))
}

/// Calibrates, plans and measures a model: [`measure`] from the start.
///
/// # Errors
/// As [`measure`].
pub fn measure_uniform(
    model: Model,
    source: &dyn Source,
    options: &QuantizeOptions,
    how: &MeasureOptions,
) -> Result<Measured> {
    let float = quantizable(model)?;
    let (executor, _) = options.engine.choose(&lowered(&float)?)?;
    let calibration = CalibrateOptions { engine: options.engine.clone(), ..CalibrateOptions::default() };
    let table = calibrate(&float, executor.as_ref(), source, &calibration, &mut |_, _| {})?;
    let base = base_plan(&float, &table, options)?;
    let mixer = Mixer::new(&float, &base, options).with(&how.precisions, &table)?;
    measure(&mixer, source, &Labels::new(), how, None, &mut |_, _, _| {}, &mut |_| Ok(()))
}

/// The names that a runtime shows, found by running one sample; none if it cannot run parts again.
fn shown(
    session: &mut dyn runtime::Session,
    source: &dyn Source,
    whole: bool,
) -> Result<Option<std::collections::BTreeSet<String>>> {
    let feed = source.sample(0)?;
    if whole || session.record(&feed, &mut |_: &str, _: runtime::View<'_>| ()).is_err() {
        return Ok(None);
    }
    let inputs: Vec<String> = feed.iter().map(|(name, _)| name.clone()).collect();
    let values = super::engine::collect(session, &feed)?;
    Ok(Some(values.into_iter().map(|(name, _)| name).chain(inputs).collect()))
}

/// The model that a plan makes.
///
/// # Errors
/// The plan does not fit the model.
pub(crate) fn emitted(model: &Model, plan: &passes::quantize::QuantPlan) -> Result<Model> {
    let mut quantized = converted(model.clone(), passes::quantize::emit_qdq::needed_opset(plan))?;
    passes::quantize::emit_qdq::emit_qdq(&mut quantized, plan)?;
    quantized.settle();
    Ok(quantized)
}

/// One runner a group and precision.
fn runners(
    mixer: &Mixer<'_>,
    executor: &dyn Executor,
    options: &MeasureOptions,
    progress: &mut dyn FnMut(&'static str, usize, usize),
) -> Result<Vec<Runner>> {
    let mut runners = Vec::new();
    for (at, group) in mixer.groups.iter().enumerate() {
        progress("cutting", at + 1, mixer.groups.len());
        if options.shard.is_some_and(|(part, parts)| at % parts != part - 1) {
            continue;
        }
        for &precision in
            options.precisions.iter().filter(|p| **p != Precision::Float && mixer.allows(group, **p))
        {
            let mut alone = vec![Precision::Float; mixer.groups.len()];
            alone[at] = precision;
            let part = Part::new(mixer.model, &mixer.plan(&alone), &group.ops)?;
            runners.push(Runner::new((group.name.clone(), precision), part, executor)?);
        }
    }
    Ok(runners)
}

/// The error of every operator's result in the quantized model (accumulated), on a few samples. `float` is the model that the
/// plan is of, with its channels equalized if they were.
///
/// # Errors
/// The runtime fails on a sample.
pub fn accumulated(
    float: &Model,
    quantized: &Model,
    plan: &passes::quantize::QuantPlan,
    source: &dyn Source,
    samples: &[usize],
    engine: &EngineOptions,
) -> Result<Vec<Figures>> {
    let (executor, _) = engine.choose(&lowered(quantized)?)?;
    let executor: &dyn Executor = executor.as_ref();
    let (float, quantized) = (form_for(executor, float)?, form_for(executor, quantized)?);
    // Where a value is stored as codes its name stands for those: the two cannot be compared.
    let same = |name: &String| {
        let of = |graph: &ir::Graph| {
            graph.find(name).map(|value| (graph.producer(value).is_some(), graph.value(value).dtype()))
        };
        let (a, b) = (of(float.main()), of(quantized.main()));
        let known = |found: Option<(bool, Option<ir::DType>)>| {
            found.filter(|(computed, _)| *computed).map(|(_, dtype)| dtype)
        };
        matches!((known(a), known(b)), (Some(a), Some(b)) if a.is_none() || b.is_none() || a == b)
    };
    let names: Vec<String> = super::observed::every(&float)
        .into_iter()
        .filter(|name| plan.ops.contains_key(name) && same(name))
        .collect();
    let (a, b) = (prepare(executor, &float, names.clone())?, prepare(executor, &quantized, names)?);
    compare(a.as_ref(), b.as_ref(), source, samples, engine.threads(), &mut |_| {})
}
