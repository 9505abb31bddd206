//! The two forms of a model beside the original: simplified, which is what gets quantized, and lowered, which is what a
//! float runtime runs.

use std::collections::BTreeMap;

use anyhow::Result;
use ir::Model;
use passes::{Options, Report, Spec, Step};

/// Operator set of models that are run: the oldest in which all axes, bounds and splits are inputs.
const EXECUTION_OPSET: i64 = 18;

/// The model as calibration and quantization see it: normalized, shapes inferred, folded, fused, its operators of a version
/// that has Q/DQ per axis. The same model always gives the same.
///
/// # Errors
/// A pass that fails, with the command that reproduces it.
pub fn quantizable(model: Model) -> Result<Model> {
    let mut model = simplified(model)?;
    // Products are what quantizers know, also at the price of a few operators that move data.
    let products = Step::Once(Spec::new("einsum_to_matmul").with("helpers", true));
    if !run(&mut model, vec![products])?.rewrites.is_empty() {
        model = simplified(model)?;
    }
    let mut model = converted(model, 13)?;
    run(
        &mut model,
        vec![
            // Scales and what stands between integer kernels are float32.
            Step::Once(Spec::new("widen_floats")),
            // A weight is quantized in the graph that reads it.
            Step::Once(Spec::new("sink_constants")),
            Step::Once(Spec::new("infer_shapes")),
        ],
    )?;
    Ok(model)
}

/// The model with its inputs of these sizes, for targets that take no others; and whether a branch was left out that cannot
/// run with them.
///
/// # Errors
/// A size that contradicts a declared one.
pub fn fixed(mut model: Model, inputs: &BTreeMap<String, Vec<i64>>) -> Result<(Model, bool)> {
    let inputs = serde_json::to_value(inputs)?;
    run(&mut model, vec![Step::Once(Spec::new("fix_shapes").with("inputs", inputs))])?;
    if model.graph_ids().len() == 1 {
        return Ok((model, false));
    }
    // What the sizes do to a branch shows when it is folded.
    let mut model = simplified(model)?;
    let report = run(&mut model, vec![Step::Once(Spec::new("eliminate_failing_branches"))])?;
    Ok((model, !report.rewrites.is_empty()))
}

/// A lowered model with its inputs of these sizes, and what follows from them and from its constants folded.
///
/// # Errors
/// A size that contradicts a declared one.
pub fn folded(mut model: Model, inputs: &BTreeMap<String, Vec<i64>>) -> Result<Model> {
    let inputs = serde_json::to_value(inputs)?;
    run(&mut model, vec![Step::Once(Spec::new("fix_shapes").with("inputs", inputs)), fold()])?;
    Ok(model)
}

/// What follows from constants alone, and the branches that this decides.
fn fold() -> Step {
    let passes = ["infer_shapes", "fold_constants", "fold_shapes", "inline_if", "eliminate_dead"];
    Step::Repeat { rounds: 10, passes: passes.map(Spec::new).to_vec() }
}

/// The model simplified and nothing else: float types and constants stay as they are.
///
/// # Errors
/// A pass that fails, with the command that reproduces it.
pub fn simplified(mut model: Model) -> Result<Model> {
    passes::simplify(&mut model, passes::Options::default())
        .map_err(|failure| anyhow::anyhow!("{}{}", failure.error, again(&failure)))?;
    Ok(model)
}

/// The model with its operators converted to at least this version of ONNX's operator set.
///
/// # Errors
/// An operator that cannot be converted, by name.
pub fn converted(mut model: Model, opset: i64) -> Result<Model> {
    if model.opset("").is_none_or(|found| found < opset) {
        run(
            &mut model,
            vec![
                Step::Once(Spec::new("raise_opset").with("to", opset)),
                Step::Once(Spec::new("infer_shapes")),
            ],
        )?;
    }
    Ok(model)
}

/// An equal model for runtimes that compute in float: no quantization operators, newer forms of old operators, half
/// precision widened, loops of known length unrolled.
///
/// # Errors
/// As [`simplified`].
pub fn lowered(model: &Model) -> Result<Model> {
    let mut model = model.clone();
    let once = |name: &str| Step::Once(Spec::new(name));
    // Folding tells the number of turns of a loop, above all.
    let bodies = model.graph_ids().len() > 1;
    let normalize = Step::Once(Spec::new("normalize").with("fix_defaults", true));
    run(&mut model, if bodies { vec![normalize, fold()] } else { vec![normalize, once("infer_shapes")] })?;
    let report = run(
        &mut model,
        vec![
            // Fewer forms for a runtime to know; where an operator cannot be converted, all keep their version.
            Step::Once(Spec::new("raise_opset").with("to", EXECUTION_OPSET)),
            once("lower_for_execution"),
            once("infer_shapes"),
        ],
    )?;
    if report.rewrites.iter().any(|rewrite| rewrite.rule == "loop") {
        // The number of the turn is a constant now, and what follows from it.
        run(&mut model, vec![fold()])?;
    }
    Ok(model)
}

fn run(model: &mut Model, steps: Vec<Step>) -> Result<Report> {
    passes::run(model, &steps, Options::default()).map_err(explain)
}

#[allow(clippy::boxed_local)] // the passes' error type is a box
fn explain(failure: Box<passes::Failure>) -> anyhow::Error {
    anyhow::anyhow!("{}{}", failure.error, again(&failure))
}

fn again(failure: &passes::Failure) -> String {
    failure.reproducer("MODEL").map_or_else(String::new, |command| format!("\nto reproduce: {command}"))
}
