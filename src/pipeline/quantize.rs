//! The main job: simplify, calibrate, plan, fit, emit, prove.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use ir::Model;
use passes::quantize::fit::{FitOptions, Sketches, fit};
use passes::quantize::{Choices, Precision, QuantPlan, choose, emit_qdq};
use passes::target::Target;
use quant::Policy;
use quant::range::Method;
use runtime::Level;
use serde::Serialize;

use super::calibrate::{CalibrateOptions, calibrate, observed};
use super::engine::{EngineOptions, prepare};
use super::measure::{Figures, compare};
use super::prepare::{converted, lowered, simplified};
use super::table::CalibrationTable;
use crate::data::{Source, part};

/// Every fifth sample is kept back from calibration and used for validation only.
const HELD_BACK: usize = 5;

/// What to make.
pub struct QuantizeOptions {
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

/// Progress of the two long steps: what, done, all.
pub type Progress<'a> = dyn FnMut(&'static str, usize, usize) + 'a;

/// Makes the quantized model.
///
/// # Errors
/// The model cannot be simplified, run or quantized, each with the operator and the next step.
pub fn quantize(
    model: Model,
    source: &dyn Source,
    options: &QuantizeOptions,
    progress: &mut Progress<'_>,
) -> Result<Quantized> {
    let simple = converted(simplified(model)?, 13)?;
    let float = lowered(&simple)?;
    let mut notes = Vec::new();
    let (executor, note) = options.engine.choose(&float)?;
    notes.extend(note);
    let (seen, held_back) = split(source.len());
    if held_back.is_empty() {
        notes.push(
            "too few samples to keep some back: the figures below are of the calibration samples".into(),
        );
    }
    let calibrating = part(source, &seen);
    let table = match &options.table {
        Some(table) => {
            table
                .check_model(&super::digest::model(&float), std::path::Path::new("the calibration table"))?;
            table.clone()
        }
        None => {
            let how = CalibrateOptions { engine: options.engine.clone(), ..CalibrateOptions::default() };
            calibrate(&float, executor.as_ref(), &calibrating, &how, &mut |done, all| {
                progress("calibrating", done, all)
            })?
        }
    };
    if table.random {
        notes.push("RANDOM calibration data: the ranges mean nothing for real inputs".into());
    }
    let plan = match &options.plan {
        Some(plan) => plan.clone(),
        None => make_plan(&simple, &table.values, options)?,
    };
    if plan.values.is_empty() && plan.weights.is_empty() {
        bail!(
            "nothing in this model can be quantized for {}; `onnxq explain` says why",
            options.target.name()
        );
    }
    let mut quantized = simple.clone();
    quantized = converted(quantized, emit_qdq::needed_opset(&plan))?;
    emit_qdq::emit_qdq(&mut quantized, &plan)?;
    quantized.settle();
    let judged: &[usize] = if held_back.is_empty() { &seen } else { &held_back };
    let validation = validate(&simple, &quantized, source, judged, options, progress, &mut notes)?;
    Ok(Quantized { model: quantized, plan, validation, notes })
}

/// Samples for calibration and for validation.
fn split(count: usize) -> (Vec<usize>, Vec<usize>) {
    (0..count).partition(|sample| count < HELD_BACK || sample % HELD_BACK != HELD_BACK - 1)
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

/// The operators that the user keeps in float. A pattern that matches nothing is an error.
fn excluded(model: &Model, patterns: &[String]) -> Result<BTreeMap<String, Precision>> {
    let graph = model.main();
    let mut excluded = BTreeMap::new();
    for pattern in patterns {
        let before = excluded.len();
        for op in graph.ops() {
            let key = passes::quantize::choose::key_of(graph, op);
            let node = graph.op(op);
            if [&node.name, &key, &node.kind.to_string()].iter().any(|name| matches(pattern, name)) {
                excluded.insert(key, Precision::Float);
            }
        }
        if excluded.len() == before {
            bail!("--exclude {pattern:?} matches no operator; names are listed by `onnxq inspect`");
        }
    }
    Ok(excluded)
}

/// `*` matches any text, `?` one character.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // Where the last star stood, and how much of the name it had taken: the only place to come back to.
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        if p < pattern.len() && (pattern[p] == '?' || pattern[p] == name[n]) && pattern[p] != '*' {
            (p, n) = (p + 1, n + 1);
        } else if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, n));
            p += 1;
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            (p, n) = (at + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

/// Runs float and quantized in the float runtime, and in ONNX Runtime at both levels where it is installed.
fn validate(
    float: &Model,
    quantized: &Model,
    source: &dyn Source,
    samples: &[usize],
    options: &QuantizeOptions,
    progress: &mut Progress<'_>,
    notes: &mut Vec<String>,
) -> Result<Vec<Validation>> {
    let threads = options.engine.threads();
    let mut all = Vec::new();
    let run = |executor: &dyn runtime::Executor,
               quantized: &Model,
               float: &Model,
               progress: &mut Progress<'_>|
     -> Result<Validation> {
        let (a, b) = (prepare(executor, float, vec![])?, prepare(executor, quantized, vec![])?);
        let mut done = 0;
        let outputs = compare(a.as_ref(), b.as_ref(), source, samples, threads, &mut |_| {
            done += 1;
            progress("validating", done, samples.len());
        })?;
        Ok(Validation {
            runtime: format!("{} {}", executor.name(), executor.version()),
            samples: samples.len(),
            outputs,
        })
    };
    let (low_float, low_quantized) = (lowered(float)?, lowered(quantized)?);
    let (executor, note) = options.engine.choose(&low_quantized)?;
    notes.extend(note);
    all.push(
        run(executor.as_ref(), &low_quantized, &low_float, progress)
            .context("validating in the float runtime")?,
    );
    match options.engine.ort(Level::All) {
        Ok(ort) => {
            for level in [Level::Basic, Level::All] {
                all.push(
                    run(&ort.at(level), quantized, float, progress).context("validating in ONNX Runtime")?,
                );
            }
        }
        Err(error) => notes.push(format!("not verified in a production runtime ({error:#})")),
    }
    Ok(all)
}

/// The values that calibration would look at, for messages.
pub fn calibrated_values(model: &Model) -> Vec<String> {
    observed(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        assert!(
            matches("Conv*", "Conv_12") && matches("*relu?", "layer1/relu2") && matches("a*b*c", "a__b_bc")
        );
        assert!(!matches("Conv", "Conv_12") && !matches("?", "") && !matches("a*b", "a_c"));
    }

    #[test]
    fn every_fifth_sample_is_held_back() {
        assert_eq!(split(10).1, [4, 9]);
        assert_eq!(split(3), (vec![0, 1, 2], vec![]));
    }
}
