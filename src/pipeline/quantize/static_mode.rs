//! Static quantization: ranges of activations from calibration, everything rounded ahead of time.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use ir::Model;
use passes::quantize::fit::{FitOptions, Sketches, fit};
use passes::quantize::{Choices, Precision, QuantPlan, choose, emit_qdq};
use quant::Policy;

use super::super::calibrate::{CalibrateOptions, calibrate};
use super::super::prepare::{converted, lowered};
use super::super::table::CalibrationTable;
use super::select::excluded;
use super::{Job, QuantizeOptions};
use crate::data::part;

/// Calibrates, plans, fits and emits.
pub fn make(job: &mut Job<'_>) -> Result<(Model, QuantPlan)> {
    let options = job.options;
    let table = statistics(job)?;
    if table.random {
        job.notes.push("RANDOM calibration data: the ranges mean nothing for real inputs".into());
    }
    let plan = match &options.plan {
        Some(plan) => plan.clone(),
        None => make_plan(job.float, &table.values, options)?,
    };
    if plan.values.is_empty() && plan.weights.is_empty() {
        bail!(
            "nothing in this model can be quantized for {}; `onnxq explain` says why",
            options.target.name()
        );
    }
    let mut model = converted(job.float.clone(), emit_qdq::needed_opset(&plan))?;
    emit_qdq::emit_qdq(&mut model, &plan)?;
    Ok((model, plan))
}

/// The table that was given, if it is of this model; else one run over the calibration samples.
fn statistics(job: &mut Job<'_>) -> Result<CalibrationTable> {
    if let Some(table) = &job.options.table {
        table.check_model(
            &super::super::digest::model(job.float),
            std::path::Path::new("the calibration table"),
        )?;
        return Ok(table.clone());
    }
    let (executor, note) = job.options.engine.choose(&lowered(job.float)?)?;
    job.notes.extend(note);
    let how = CalibrateOptions { engine: job.options.engine.clone(), ..CalibrateOptions::default() };
    let progress = &mut job.progress;
    calibrate(job.float, executor.as_ref(), &part(job.source, &job.seen), &how, &mut |done, all| {
        progress("calibrating", done, all)
    })
}

/// Chooses and fits; operators whose values calibration never saw go back to float.
fn make_plan(model: &Model, sketches: &Sketches, options: &QuantizeOptions) -> Result<QuantPlan> {
    let mut overrides = excluded(model, &options.exclude)?;
    let fit_options =
        FitOptions { method: options.method, methods: BTreeMap::new(), policy: Policy::default() };
    loop {
        let choices = Choices {
            target: options.target,
            precision: options.precision,
            overrides: overrides.clone(),
            per_tensor: options.per_tensor,
            computed_products: false,
        };
        let mut plan = choose(model, &choices);
        let missing = fit(&mut plan, model, sketches, &fit_options);
        if missing.is_empty() {
            return Ok(plan);
        }
        let before = overrides.len();
        let graph = model.main();
        for value in missing.iter().filter_map(|name| graph.find(name)) {
            let around = graph.uses(value).into_iter().map(|reader| reader.op);
            for op in around.chain(graph.producer(value).map(|(op, _)| op)) {
                overrides.insert(passes::quantize::choose::key_of(graph, op), Precision::Float);
            }
        }
        if overrides.len() == before {
            bail!("no statistics of {:?}: the calibration table does not fit the model", missing[0]);
        }
    }
}
