//! The two forms of a model beside the original: simplified, which is what gets quantized, and lowered, which is what a
//! float runtime runs.

use anyhow::Result;
use ir::Model;
use passes::{Options, Spec, Step};

/// The model as calibration and quantization see it: normalized, shapes inferred, folded, fused, its operators of a version
/// that has Q/DQ per axis. The same model always gives the same.
///
/// # Errors
/// A pass that fails, with the command that reproduces it.
pub fn quantizable(model: Model) -> Result<Model> {
    converted(simplified(model)?, 13)
}

fn simplified(mut model: Model) -> Result<Model> {
    passes::simplify(&mut model, passes::Options::default()).map_err(|failure| {
        anyhow::anyhow!("{}\nto reproduce: {}", failure.error, failure.reproducer("MODEL"))
    })?;
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

/// An equal model without quantization operators, for runtimes that compute in float.
///
/// # Errors
/// As [`simplified`].
pub fn lowered(model: &Model) -> Result<Model> {
    let mut model = model.clone();
    run(&mut model, vec![Step::Once(Spec::new("lower_for_execution"))])?;
    Ok(model)
}

fn run(model: &mut Model, steps: Vec<Step>) -> Result<()> {
    passes::run(model, &steps, Options::default()).map(|_| ()).map_err(explain)
}

#[allow(clippy::boxed_local)] // the passes' error type is a box
fn explain(failure: Box<passes::Failure>) -> anyhow::Error {
    anyhow::anyhow!("{}\nto reproduce: {}", failure.error, failure.reproducer("MODEL"))
}
