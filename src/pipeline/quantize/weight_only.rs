//! Weights of few bits: [`super::super::low_bit`], and what that did to the outputs where there are samples.

use anyhow::{Context, Result};
use ir::Model;
use runtime::{Executor, Level};

use super::super::engine::{form_for, prepare};
use super::super::low_bit::{LowBit, LowBitOptions, Progress, low_bit};
use super::super::measure::compare;
use super::super::prepare::lowered;
use super::{Validation, split};
use crate::data::{Source, part};

/// Bytes that the weights of a model may take in float for it to be run as a whole without being asked.
const LARGE: usize = 1 << 30;

/// Whether the outputs of the model that was made are compared with those of the float model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Judge {
    /// Where there are samples and the float model takes at most a gigabyte.
    #[default]
    Auto,
    /// Where there are samples.
    Always,
    /// Not at all.
    Never,
}

/// Bytes of the model's constants as float32.
fn float_bytes(model: &Model) -> usize {
    let of = |graph: &ir::Graph| -> usize {
        graph.values().filter_map(|value| graph.constant(value)).map(|tensor| 4 * tensor.elements()).sum()
    };
    model.graph_ids().into_iter().map(|id| of(model.graph(id))).sum()
}

/// Makes the model. With samples, calibrated methods see four fifths of them and the outputs are compared on the rest.
///
/// # Errors
/// As [`low_bit`]; and a model that runs in no runtime at hand.
pub fn weight_only(
    model: Model,
    source: Option<&dyn Source>,
    options: &LowBitOptions,
    judge: Judge,
    progress: &mut Progress<'_>,
) -> Result<(LowBit, Vec<Validation>)> {
    let Some(source) = source else { return Ok((low_bit(model, None, options, progress)?, Vec::new())) };
    let (seen, held_back) = split(source.len());
    let calibration = part(source, &seen);
    let mut made = low_bit(model, Some(&calibration), options, progress)?;
    let large = float_bytes(&made.float) > LARGE;
    if judge == Judge::Never || (judge == Judge::Auto && large) {
        if large {
            made.notes.push(
                "not validated: as a whole the float model takes more than 1 GB; --validate always runs it"
                    .into(),
            );
        }
        return Ok((made, Vec::new()));
    }
    let judged = if held_back.is_empty() {
        made.notes.push(
            "too few samples to keep some back: the figures below are of the calibration samples".into(),
        );
        seen
    } else {
        held_back
    };
    let found = validate(&mut made, source, &judged, options, progress)?;
    Ok((made, found))
}

/// Float against quantized in the float runtime, and in ONNX Runtime at both levels where it is installed.
fn validate(
    made: &mut LowBit,
    source: &dyn Source,
    judged: &[usize],
    options: &LowBitOptions,
    progress: &mut Progress<'_>,
) -> Result<Vec<Validation>> {
    let (executor, note) = options.engine.choose(&lowered(&made.model)?)?;
    made.notes.extend(note);
    let mut side_by_side =
        |executor: &dyn Executor, float: &Model, quantized: &Model| -> Result<Validation> {
            let (a, b) = (form_for(executor, float)?, form_for(executor, quantized)?);
            let (a, b) = (prepare(executor, &a, vec![])?, prepare(executor, &b, vec![])?);
            let mut done = 0;
            let outputs =
                compare(a.as_ref(), b.as_ref(), source, judged, options.engine.threads(), &mut |_| {
                    done += 1;
                    progress("validating", done, judged.len());
                })?;
            let runtime = format!("{} {}", executor.name(), executor.version());
            Ok(Validation { runtime, samples: judged.len(), outputs })
        };
    let mut all = Vec::new();
    if executor.name() != "ort" {
        let found = side_by_side(executor.as_ref(), &made.float, &made.model);
        all.push(found.context("validating in the float runtime")?);
    }
    match options.engine.ort(Level::All) {
        // What it does not run in float either, as bfloat16 on CPUs, says nothing of the quantized model.
        Ok(ort) => match form_for(&ort, &made.float).and_then(|form| prepare(&ort, &form, vec![])) {
            Err(error) => made.notes.push(format!("not verified in a production runtime ({error:#})")),
            Ok(_) => {
                for level in [Level::Basic, Level::All] {
                    let found = side_by_side(&ort.at(level), &made.float, &made.model);
                    all.push(found.context("validating in ONNX Runtime")?);
                }
            }
        },
        Err(error) => made.notes.push(format!("not verified in a production runtime ({error:#})")),
    }
    Ok(all)
}
