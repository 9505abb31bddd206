//! Static quantization: ranges of activations from calibration, everything rounded ahead of time.

use anyhow::{Result, bail};
use ir::Model;
use passes::quantize::fit::{FitOptions, Sketches, fit};
use passes::quantize::{Precision, QuantPlan, choose};
use quant::Policy;

use super::super::calibrate::{CalibrateOptions, calibrate};
use super::super::prepare::lowered;
use super::super::table::CalibrationTable;
use super::select::{adjust, choices, methods, pin};
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
    job.note_if_nothing(&plan);
    let model = job.emit(&plan)?;
    job.table = Some(table);
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
    let (progress, seen) = (&mut job.progress, part(job.source, &job.seen));
    let mut tell = |done, all| progress("calibrating", done, all);
    match calibrate(job.float, executor.as_ref(), &seen, &how, &mut tell) {
        Ok(table) => Ok(table),
        Err(error) => {
            let Some(ort) = job.options.engine.instead_of(executor.as_ref()) else { return Err(error) };
            let found = calibrate(job.float, &ort, &seen, &how, &mut tell);
            // If it is the data's fault, the first runtime's words are as good as the second's.
            let Ok(table) = found else { return Err(error) };
            job.notes
                .push(format!("calibrated in ONNX Runtime, because {} failed: {error:#}", executor.name()));
            Ok(table)
        }
    }
}

/// The plan in which everything that can be is quantized, fitted: what mixed precision starts from.
///
/// # Errors
/// A pattern of the options that matches nothing, or a table of another model.
pub(crate) fn base_plan(
    model: &Model,
    table: &CalibrationTable,
    options: &QuantizeOptions,
) -> Result<QuantPlan> {
    make_plan(model, &table.values, options)
}

/// Chooses and fits; operators whose values calibration never saw go back to float.
fn make_plan(model: &Model, sketches: &Sketches, options: &QuantizeOptions) -> Result<QuantPlan> {
    let mut choices = choices(model, options)?;
    loop {
        let mut plan = choose(model, &choices);
        adjust(&mut plan, model, options)?;
        let methods = methods(&plan, options)?;
        let fit_options = FitOptions { method: options.method, methods, policy: Policy::default() };
        let missing = fit(&mut plan, model, sketches, &fit_options);
        if missing.is_empty() {
            pin(&mut plan, options)?;
            return Ok(plan);
        }
        let before = choices.overrides.len();
        let graph = model.main();
        for value in missing.iter().filter_map(|name| graph.find(name)) {
            let around = graph.uses(value).into_iter().map(|reader| reader.op);
            for op in around.chain(graph.producer(value).map(|(op, _)| op)) {
                choices.overrides.insert(passes::quantize::choose::key_of(graph, op), Precision::Float);
            }
        }
        if choices.overrides.len() == before {
            bail!("no statistics of {:?}: the calibration table does not fit the model", missing[0]);
        }
    }
}
