//! What quantization did to the outputs, in every runtime at hand.

use anyhow::{Context, Result};
use ir::Model;
use runtime::{Executor, Level};
use serde::Serialize;

use super::super::engine::{form_for, prepare};
use super::super::measure::{Figures, compare_labelled};
use super::super::prepare::lowered;
use super::Job;

/// Float against quantized in one runtime.
#[derive(Clone, Debug, Serialize)]
pub struct Validation {
    /// Runtime, version and level.
    pub runtime: String,
    /// Samples compared.
    pub samples: usize,
    /// One a model output.
    pub outputs: Vec<Figures>,
}

/// Runs float and quantized in the float runtime, and in ONNX Runtime at both levels where it is installed.
pub fn validate(job: &mut Job<'_>, quantized: &Model) -> Result<Vec<Validation>> {
    let (executor, note) = job.options.engine.choose(&lowered(quantized)?)?;
    job.notes.extend(note.filter(|note| !job.notes.contains(note)));
    let mut all = Vec::new();
    // What tract lacks runs in ONNX Runtime, which gets the emitted model itself, below.
    if executor.name() != "ort" {
        let found = side_by_side(job, executor.as_ref(), job.float, quantized);
        match found {
            Ok(found) => all.push(found),
            Err(error) if job.options.engine.instead_of(executor.as_ref()).is_some() => {
                job.notes.push(format!("not validated in {}: {error:#}", executor.name()));
            }
            Err(error) => return Err(error.context("validating in the float runtime")),
        }
    }
    match job.options.engine.ort(Level::All) {
        Ok(ort) => {
            for level in [Level::Basic, Level::All] {
                let found = side_by_side(job, &ort.at(level), job.float, quantized);
                all.push(found.context("validating in ONNX Runtime")?);
            }
        }
        Err(error) => job.notes.push(format!("not verified in a production runtime ({error:#})")),
    }
    Ok(all)
}

fn side_by_side(
    job: &mut Job<'_>,
    executor: &dyn Executor,
    float: &Model,
    quantized: &Model,
) -> Result<Validation> {
    let (a, b) = (form_for(executor, float)?, form_for(executor, quantized)?);
    let (a, b) = (prepare(executor, &a, vec![])?, prepare(executor, &b, vec![])?);
    let mut done = 0;
    let count = job.judged.len();
    let progress = &mut job.progress;
    let threads = job.options.engine.threads();
    let labels = job.options.labels.as_ref();
    let mut tell = |_| {
        done += 1;
        progress("validating", done, count);
    };
    let outputs =
        compare_labelled(a.as_ref(), b.as_ref(), job.source, &job.judged, labels, threads, &mut tell)?;
    let runtime = format!("{} {}", executor.name(), executor.version());
    Ok(Validation { runtime, samples: count, outputs })
}
