//! What mixed precision takes from static quantization: the uniform plan after the accuracy passes to start from, and the
//! bias correction that ends every plan.

use anyhow::Result;
use ir::Model;
use passes::quantize::QuantPlan;

use super::super::table::CalibrationTable;
use super::refine::{Draft, Step, finish, improve};
use super::{Job, QuantizeOptions, emit};
use crate::data::Source;

/// The samples of a job.
pub(crate) struct Samples<'a> {
    /// All.
    pub source: &'a dyn Source,
    /// Those that calibration sees.
    pub seen: &'a [usize],
    /// Those by which candidates are judged.
    pub judged: &'a [usize],
}

impl Samples<'_> {
    fn job<T>(
        &self,
        float: &Model,
        options: &QuantizeOptions,
        work: impl FnOnce(&mut Job<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut silent = |_: &'static str, _: usize, _: usize| {};
        let (seen, judged) = (self.seen.to_vec(), self.judged.to_vec());
        let source = self.source;
        let (table, steps, notes) = (None, Vec::new(), Vec::new());
        let progress = &mut silent;
        work(&mut Job { float, source, seen, judged, options, progress, table, steps, notes })
    }
}

/// Where mixed precision starts.
pub(crate) struct Start {
    /// A model equal to the float one, perhaps with channels equalized.
    pub model: Model,
    /// Everything that can be is quantized, fitted and improved.
    pub plan: QuantPlan,
    /// What was seen of the values of `model`.
    pub table: CalibrationTable,
    /// What the accuracy passes did.
    pub steps: Vec<Step>,
    /// Why accuracy passes were left out, if they were.
    pub note: Option<String>,
}

/// The uniform plan, after the accuracy passes if the options want them.
///
/// # Errors
/// A pattern of the options that matches nothing, or a table of another model.
pub(crate) fn start(
    float: &Model,
    table: &CalibrationTable,
    samples: &Samples<'_>,
    options: &QuantizeOptions,
) -> Result<Start> {
    let draft = Draft::new(float.clone(), &table.values, options)?;
    let (mut steps, mut note) = (Vec::new(), None);
    let something = !draft.plan.values.is_empty() || !draft.plan.weights.is_empty();
    let mut best = draft.clone();
    if options.refine && something && !samples.judged.is_empty() {
        match samples.job(float, options, |job| improve(job, draft, &table.values)) {
            Ok((improved, done)) => (best, steps) = (improved, done),
            Err(error) => note = Some(format!("the accuracy passes were left out: {error:#}")),
        }
    }
    let mut table = table.clone();
    table.values.extend(std::sync::Arc::unwrap_or_clone(best.sketches));
    Ok(Start { model: best.model, plan: best.plan, table, steps, note })
}

/// The quantized model of a plan with corrected biases; `model` is the one that the plan is of, `float` the original.
///
/// # Errors
/// The plan does not fit the model, or the runtime fails on a sample.
pub(crate) fn finished(
    float: &Model,
    model: &Model,
    plan: &QuantPlan,
    samples: &Samples<'_>,
    options: &QuantizeOptions,
) -> Result<Model> {
    let draft = Draft::of_plan(model.clone(), plan.clone());
    if !options.refine {
        return emit(model, plan, options);
    }
    samples.job(float, options, |job| finish(job, draft))?.emit(options)
}
