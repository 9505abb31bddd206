//! What quantization did to the outputs, in every runtime at hand.

use anyhow::{Context, Result};
use ir::Model;
use runtime::{Executor, Level};
use serde::Serialize;

use super::super::engine::{form_for, prepare};
use super::super::measure::{Figures, compare_labelled};
use super::super::prepare::lowered;
use super::Job;

/// Samples at ONNX Runtime's basic level, where no labels are counted. It shows whether the integer kernels of the level above
/// compute what the file says, which a few samples do; and it is several times as slow, for it rounds in operators of their
/// own.
const AT_BASIC: usize = 8;

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
        let samples = job.judged.clone();
        let found = side_by_side(job, executor.as_ref(), quantized, &samples);
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
                let all_of_them = job.judged.len();
                let few = level == Level::Basic && job.options.labels.is_none();
                let count = if few { all_of_them.min(AT_BASIC) } else { all_of_them };
                let samples: Vec<usize> = (0..count).map(|at| job.judged[at * all_of_them / count]).collect();
                let found = side_by_side(job, &ort.at(level), quantized, &samples);
                all.push(found.context("validating in ONNX Runtime")?);
            }
        }
        Err(error) => job.notes.push(format!("not verified in a production runtime ({error:#})")),
    }
    job.notes.extend(disagreement(&all));
    Ok(all)
}

/// Decibels between two runtimes from which on one of them computes something else than the file says: twice the noise in
/// amplitude, far more than what rounding in another order makes.
const APART_DB: f64 = 6.0;

/// Signal to noise above which nobody sees a difference.
const CLEAN_DB: f64 = 50.0;

/// Names the output that runtimes see most differently, if they do.
fn disagreement(all: &[Validation]) -> Option<String> {
    let seen = |validation: &Validation, name: &str| {
        let found = validation.outputs.iter().find(|output| output.name == name && output.measurable)?;
        Some((found.sqnr_db.min(CLEAN_DB), validation.runtime.clone()))
    };
    let outputs = all.first()?.outputs.iter().map(|output| &output.name);
    let pairs = outputs.filter_map(|name| {
        let order = |a: &(f64, String), b: &(f64, String)| a.0.total_cmp(&b.0);
        let found = || all.iter().filter_map(|validation| seen(validation, name));
        Some((name, found().min_by(order)?, found().max_by(order)?))
    });
    let (name, worst, best) = pairs.max_by(|a, b| (a.2.0 - a.1.0).total_cmp(&(b.2.0 - b.1.0)))?;
    (best.0 - worst.0 > APART_DB).then(|| {
        format!(
            "{name:?} has {:.1} dB in {} and {:.1} dB in {}: one of them computes something else than the file says; \
             `onnxq compare FILE FILE --other-runtime ort --optimized --values` on the written file shows where",
            worst.0, worst.1, best.0, best.1
        )
    })
}

fn side_by_side(
    job: &mut Job<'_>,
    executor: &dyn Executor,
    quantized: &Model,
    samples: &[usize],
) -> Result<Validation> {
    let (a, b) = (form_for(executor, job.float)?, form_for(executor, quantized)?);
    let (a, b) = (prepare(executor, &a, vec![])?, prepare(executor, &b, vec![])?);
    let mut done = 0;
    let count = samples.len();
    let progress = &mut job.progress;
    let threads = job.options.engine.threads();
    let labels = job.options.labels.as_ref();
    let mut tell = |_| {
        done += 1;
        progress("validating", done, count);
    };
    let outputs = compare_labelled(a.as_ref(), b.as_ref(), job.source, samples, labels, threads, &mut tell)?;
    let runtime = format!("{} {}", executor.name(), executor.version());
    Ok(Validation { runtime, samples: count, outputs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_that_disagree_are_named() {
        let of = |runtime: &str, sqnr_db: f64| Validation {
            runtime: runtime.into(),
            samples: 4,
            outputs: vec![Figures { name: "y".into(), measurable: true, sqnr_db, ..Figures::default() }],
        };
        assert_eq!(disagreement(&[]), None);
        assert_eq!(disagreement(&[of("tract", 24.3), of("ort", 21.0)]), None);
        assert_eq!(disagreement(&[of("tract", f64::INFINITY), of("ort", 61.0)]), None);
        let told = disagreement(&[of("tract", 24.3), of("ort basic", -0.6), of("ort all", -0.5)]).unwrap();
        assert!(told.contains("-0.6 dB in ort basic and 24.3 dB in tract"), "{told}");
    }
}
