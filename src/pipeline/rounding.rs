//! The rounding of single values, as a plan asks for it, on tensors at hand.

use anyhow::Result;
use ir::{DType, Tensor};
use ops::FakeQuant;
use passes::quantize::ValuePlan;

/// The rounding of a value; none before it was fitted.
pub fn fake_quant(entry: &ValuePlan) -> Option<FakeQuant> {
    let params = entry.params?;
    Some(FakeQuant {
        code: DType::from_name(entry.grid.code.name())?,
        axis: 0,
        block_size: 0,
        scales: vec![params.scale()],
        zero_points: vec![params.zero_point() as f32],
    })
}

/// A rounded copy of a float tensor.
///
/// # Errors
/// The tensor is not f32.
pub fn rounded(tensor: &Tensor, grid: &FakeQuant) -> Result<Tensor> {
    let mut elements = tensor.to_vec::<f32>()?;
    grid.apply(tensor.dims(), &mut elements)?;
    Ok(Tensor::from_slice(tensor.dims(), &elements)?)
}
