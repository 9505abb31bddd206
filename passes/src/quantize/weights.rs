//! From a constant to codes: the numbers of one [`WeightPlan`] or constant activation.

use ir::{DType, Tensor, TensorError};
use quant::minifloat::{MiniFloat, Overflow};
use quant::quantize::{Layout, quantize, ranges};
use quant::{CodeType, Grid, Params, Policy};
use thiserror::Error;

use super::plan::WeightPlan;

/// Why a constant cannot be quantized as planned.
#[derive(Debug, Error)]
pub enum WeightError {
    /// The constant is not float32, float16, bfloat16 or double.
    #[error("its elements are {0}")]
    Type(DType),
    /// The numbers and the plan do not fit together.
    #[error(transparent)]
    Numbers(#[from] quant::Error),
    /// The codes do not fill the sizes.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// Codes with their parameters, in the order of the axis (or one).
pub(super) struct Codes {
    pub(super) tensor: Tensor,
    pub(super) params: Vec<Params>,
}

/// The elements of a floating-point constant as f32.
pub(super) fn floats(tensor: &Tensor) -> Result<Vec<f32>, WeightError> {
    Ok(match tensor.dtype() {
        DType::F32 => tensor.to_vec::<f32>()?,
        DType::F16 => tensor.to_vec::<half::f16>()?.into_iter().map(f32::from).collect(),
        DType::BF16 => tensor.to_vec::<half::bf16>()?.into_iter().map(f32::from).collect(),
        DType::F64 => tensor.to_vec::<f64>()?.into_iter().map(|v| v as f32).collect(),
        other => return Err(WeightError::Type(other)),
    })
}

/// ONNX's element type of a code type.
pub(super) fn dtype_of(code: CodeType) -> DType {
    DType::from_name(code.name()).unwrap_or(DType::I8)
}

/// Scales and zero points of a weight: from the range of each channel, times the plan's factors.
pub(super) fn weight_params(
    tensor: &Tensor,
    plan: &WeightPlan,
) -> Result<(Layout, Vec<Params>), WeightError> {
    let layout = match (plan.axis, plan.block) {
        (Some(axis), Some(block)) => Layout::blocked(tensor.dims(), axis, block)?,
        (Some(axis), None) => Layout::per_axis(tensor.dims(), axis)?,
        _ => Layout::per_tensor(tensor.elements()),
    };
    let found = ranges(&floats(tensor)?, &layout)?;
    let (mut params, _) = Params::for_channels(&found, plan.grid, &Policy::default());
    for (param, factor) in params.iter_mut().zip(&plan.scale_factors) {
        *param = Params::new(param.scale() * factor, param.zero_point())?;
    }
    Ok((layout, params))
}

/// The codes of a constant.
pub(super) fn encode(
    tensor: &Tensor,
    layout: &Layout,
    params: Vec<Params>,
    grid: Grid,
) -> Result<Codes, WeightError> {
    let values = floats(tensor)?;
    let mut codes = vec![0i32; values.len()];
    if let Some(float) = MiniFloat::of(grid.code) {
        for (at, (code, &value)) in codes.iter_mut().zip(&values).enumerate() {
            let scale = params[layout.param_of(at)].scale();
            *code = i32::from(float.encode(value / scale, Overflow::Saturate));
        }
    } else {
        quantize(&values, layout, &params, grid.codes(), &mut codes)?;
    }
    let tensor = pack(&codes, tensor.dims(), grid.code)?;
    Ok(Codes { tensor, params })
}

/// Codes as a tensor of their own type.
pub(super) fn pack(codes: &[i32], dims: &[usize], code: CodeType) -> Result<Tensor, WeightError> {
    Ok(Tensor::new(dtype_of(code), dims, quant::pack::to_raw(codes, code)?)?)
}
