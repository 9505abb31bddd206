//! The main job: simplify, calibrate, plan, fit, emit, prove. One file a mode; what they share is here.

mod select;
mod static_mode;
mod validate;

use anyhow::Result;
use ir::Model;
use passes::quantize::{Precision, QuantPlan};
use passes::target::Target;
use quant::range::Method;

pub use validate::Validation;

use super::engine::EngineOptions;
use super::prepare::quantizable;
use super::table::CalibrationTable;
use crate::data::Source;

/// Every fifth sample is kept back from calibration and used for validation only.
const HELD_BACK: usize = 5;

/// What is rounded when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Weights and activations, with ranges from calibration.
    #[default]
    Static,
}

/// What to make.
pub struct QuantizeOptions {
    /// What is rounded when.
    pub mode: Mode,
    /// The runtime that the file is for.
    pub target: &'static dyn Target,
    /// Precision of what is quantized.
    pub precision: Precision,
    /// One scale a weight instead of one a channel.
    pub per_tensor: bool,
    /// Range method of activations.
    pub method: Method,
    /// Operators that stay float: node names, value names or operator types, `*` and `?` allowed.
    pub exclude: Vec<String>,
    /// Runtime for calibration and validation.
    pub engine: EngineOptions,
    /// A plan to follow instead of making one.
    pub plan: Option<QuantPlan>,
    /// Statistics to use instead of running the data.
    pub table: Option<CalibrationTable>,
}

/// What was made.
pub struct Quantized {
    /// The model.
    pub model: Model,
    /// The plan that it was made by.
    pub plan: QuantPlan,
    /// What was measured on samples that calibration did not see.
    pub validation: Vec<Validation>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Progress of the two long steps: what, done, all.
pub type Progress<'a> = dyn FnMut(&'static str, usize, usize) + 'a;

/// What a mode works on.
struct Job<'a> {
    /// The simplified float model.
    float: &'a Model,
    /// Every sample.
    source: &'a dyn Source,
    /// Samples for calibration.
    seen: Vec<usize>,
    /// Samples for accepting changes and for validation; the same as `seen` where there are too few.
    judged: Vec<usize>,
    options: &'a QuantizeOptions,
    progress: &'a mut Progress<'a>,
    /// What the user should know.
    notes: Vec<String>,
}

/// Makes the quantized model.
///
/// # Errors
/// The model cannot be simplified, run or quantized, each with the operator and the next step.
pub fn quantize<'a>(
    model: Model,
    source: &'a dyn Source,
    options: &'a QuantizeOptions,
    progress: &'a mut Progress<'a>,
) -> Result<Quantized> {
    let float = quantizable(model)?;
    let (seen, held_back) = split(source.len());
    let mut notes = Vec::new();
    let judged = if held_back.is_empty() {
        notes.push(
            "too few samples to keep some back: the figures below are of the calibration samples".into(),
        );
        seen.clone()
    } else {
        held_back
    };
    let mut job = Job { float: &float, source, seen, judged, options, progress, notes };
    let (mut model, plan) = match options.mode {
        Mode::Static => static_mode::make(&mut job)?,
    };
    model.settle();
    let validation = validate::validate(&mut job, &model)?;
    Ok(Quantized { model, plan, validation, notes: job.notes })
}

/// Samples for calibration and for validation.
fn split(count: usize) -> (Vec<usize>, Vec<usize>) {
    (0..count).partition(|sample| count < HELD_BACK || sample % HELD_BACK != HELD_BACK - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fifth_sample_is_held_back() {
        assert_eq!(split(10).1, [4, 9]);
        assert_eq!(split(3), (vec![0, 1, 2], vec![]));
    }
}
