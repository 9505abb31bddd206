//! Dynamic quantization: weights ahead of time, data when the model runs. Needs no calibration.

use anyhow::Result;
use ir::Model;
use passes::quantize::fit::avoid_saturation;
use passes::quantize::{QuantPlan, choose};

use super::select::{adjust, choices};
use super::{Cpu, Job};

/// Plans and emits.
pub fn make(job: &mut Job<'_>) -> Result<(Model, QuantPlan)> {
    let plan = match &job.options.plan {
        Some(plan) => plan.clone(),
        None => {
            let mut choices = choices(job.float, job.options)?;
            choices.dynamic = true;
            let mut plan = choose(job.float, &choices);
            adjust(&mut plan, job.float, job.options)?;
            if job.options.cpu == Cpu::Avx2 {
                avoid_saturation(&mut plan, job.float);
            }
            plan
        }
    };
    job.note_if_nothing(&plan);
    let model = job.emit(&plan)?;
    Ok((model, plan))
}
