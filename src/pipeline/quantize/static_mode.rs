//! Static quantization: ranges of activations from calibration, everything rounded ahead of time.

use anyhow::{Result, bail};
use ir::Model;
use passes::equalize_channels::equalize;
use passes::quantize::{QuantPlan, choose};

use super::super::calibrate::{CalibrateOptions, calibrate_somewhere};
use super::super::observed::usable;
use super::super::prepare::lowered;
use super::super::table::CalibrationTable;
use super::refine::{Draft, refine};
use super::{Job, QuantizeOptions, choices};
use crate::data::part;

/// Calibrates, plans, fits, refines and emits.
pub fn make(job: &mut Job<'_>) -> Result<(Model, QuantPlan)> {
    let options = job.options;
    let table = statistics(job)?;
    if table.random {
        job.notes.push("RANDOM calibration data: the ranges mean nothing for real inputs".into());
    }
    let mut draft = match &options.plan {
        Some(plan) => Draft::of_plan(as_planned(job.float, plan, &table)?, plan.clone()),
        None => Draft::new(job.float.clone(), &table.values, options)?,
    };
    job.note_if_nothing(&draft.plan);
    let something = !draft.plan.values.is_empty() || !draft.plan.weights.is_empty();
    if options.refine && something && !job.judged.is_empty() {
        match refine(job, draft.clone(), &table.values) {
            Ok((refined, steps)) => (draft, job.steps) = (refined, steps),
            Err(error) => job.notes.push(format!("the accuracy passes were left out: {error:#}")),
        }
    }
    job.table = Some(table);
    Ok((draft.emit(options)?, draft.plan))
}

/// The model that a plan was made of: with channels equalized, if they were.
///
/// # Errors
/// The table is not of the data that the plan was made with.
pub(crate) fn as_planned(float: &Model, plan: &QuantPlan, table: &CalibrationTable) -> Result<Model> {
    let mut model = float.clone();
    if let Some(alpha) = plan.equalized
        && equalize(&mut model, &table.values, alpha).channels == 0
    {
        bail!(
            "the plan was made of a model whose channels were equalized by what calibration saw: give the same \
             --data, or the --table"
        );
    }
    Ok(model)
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
    // Overrides may ask for values that no target's own choice rounds.
    let mut values = usable(job.float);
    values.extend(choose(job.float, &choices(job.float, job.options)?).values.into_keys());
    values.sort();
    values.dedup();
    let engine = job.options.engine.clone();
    let how = CalibrateOptions { engine, values: Some(values), ..CalibrateOptions::default() };
    let (progress, seen) = (&mut job.progress, part(job.source, &job.seen));
    let mut tell = |done, all| progress("calibrating", done, all);
    let (table, note) = calibrate_somewhere(job.float, executor.as_ref(), &seen, &how, &mut tell)?;
    job.notes.extend(note);
    Ok(table)
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
    Ok(Draft::new(model.clone(), &table.values, options)?.plan)
}
