//! Dynamic quantization: weights ahead of time, data when the model runs. Needs no calibration.

use anyhow::Result;
use ir::Model;
use passes::quantize::{QuantPlan, choose};

use super::Job;
use super::select::{adjust, choices};

/// Plans and emits.
pub fn make(job: &mut Job<'_>) -> Result<(Model, QuantPlan)> {
    let plan = match &job.options.plan {
        Some(plan) => plan.clone(),
        None => {
            let mut choices = choices(job.float, job.options)?;
            choices.dynamic = true;
            let mut plan = choose(job.float, &choices);
            adjust(&mut plan, job.float, job.options)?;
            plan
        }
    };
    job.note_if_nothing(&plan);
    let model = job.emit(&plan)?;
    Ok((model, plan))
}
