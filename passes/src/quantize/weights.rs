//! From a constant to codes: the numbers of one [`WeightPlan`] or constant activation.

use std::borrow::Cow;

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

/// The elements of a floating-point constant as f32; borrowed where they lie so in memory.
pub(super) fn floats(tensor: &Tensor) -> Result<Cow<'_, [f32]>, WeightError> {
    Ok(match tensor.dtype() {
        DType::F32 => match bytemuck::try_cast_slice(tensor.bytes()) {
            Ok(elements) if cfg!(target_endian = "little") => Cow::Borrowed(elements),
            _ => Cow::Owned(tensor.to_vec::<f32>()?),
        },
        DType::F16 => Cow::Owned(tensor.to_vec::<half::f16>()?.into_iter().map(f32::from).collect()),
        DType::BF16 => Cow::Owned(tensor.to_vec::<half::bf16>()?.into_iter().map(f32::from).collect()),
        DType::F64 => Cow::Owned(tensor.to_vec::<f64>()?.into_iter().map(|v| v as f32).collect()),
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

/// Numbers that are turned into codes at a time: codes take four bytes each before they are packed.
const PIECE: usize = 1 << 16;

/// The codes of a constant.
pub(super) fn encode(
    tensor: &Tensor,
    layout: &Layout,
    params: Vec<Params>,
    grid: Grid,
) -> Result<Codes, WeightError> {
    let values = floats(tensor)?;
    if params.len() != layout.params_len() {
        let message = format!("{} scales for {} places", params.len(), layout.params_len());
        return Err(quant::Error::Shape(message).into());
    }
    let (mut codes, mut raw) = (Vec::new(), Vec::new());
    for Piece { values, layout, params } in pieces(&values, layout, &params, grid.code)? {
        codes.clear();
        codes.resize(values.len(), 0);
        if let Some(float) = MiniFloat::of(grid.code) {
            for (at, (code, &value)) in codes.iter_mut().zip(values).enumerate() {
                let scale = params[layout.param_of(at)].scale();
                *code = i32::from(float.encode(value / scale, Overflow::Saturate));
            }
        } else {
            quantize(values, &layout, params, grid.codes(), &mut codes)?;
        }
        raw.extend(quant::pack::to_raw(&codes, grid.code)?);
    }
    let tensor = Tensor::new(dtype_of(grid.code), tensor.dims(), raw)?;
    Ok(Codes { tensor, params })
}

/// A part of a constant with its own layout and scales.
struct Piece<'a> {
    values: &'a [f32],
    layout: Layout,
    params: &'a [Params],
}

/// A constant piece by piece. One piece where codes share bytes, or a scale belongs to a block.
fn pieces<'a>(
    values: &'a [f32],
    layout: &Layout,
    params: &'a [Params],
    code: CodeType,
) -> Result<Vec<Piece<'a>>, WeightError> {
    let piece = |values, layout, params| Piece { values, layout, params };
    let whole = layout.axis().filter(|_| code.bits() >= 8 && values.len() > PIECE);
    let Some((outer, channels, inner)) = whole else { return Ok(vec![piece(values, *layout, params)]) };
    if channels == 1 {
        let pieces =
            values.chunks(PIECE).map(|values| piece(values, Layout::per_tensor(values.len()), params));
        return Ok(pieces.collect());
    }
    let row = channels * inner;
    if outer > 1 {
        let pieces = values.chunks((PIECE / row).max(1) * row).map(|values| {
            let layout = Layout::per_axis(&[values.len() / row, channels, inner], 1)?;
            Ok(piece(values, layout, params))
        });
        return pieces.collect();
    }
    let together = (PIECE / inner).max(1);
    let pieces = values.chunks(together * inner).zip(params.chunks(together)).map(|(values, params)| {
        let layout = Layout::per_axis(&[values.len() / inner, inner], 0)?;
        Ok(piece(values, layout, params))
    });
    pieces.collect()
}

/// Codes as a tensor of their own type.
pub(super) fn pack(codes: &[i32], dims: &[usize], code: CodeType) -> Result<Tensor, WeightError> {
    Ok(Tensor::new(dtype_of(code), dims, quant::pack::to_raw(codes, code)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quant::Span;

    /// Pieces change no code, wherever the axis is.
    #[test]
    fn large_constants_are_encoded_piece_by_piece() {
        let dims = [3usize, 70, 401];
        let values: Vec<f32> =
            (0..dims.iter().product()).map(|i: usize| (i * 7919 % 2003) as f32 - 900.0).collect();
        let tensor = Tensor::from_slice(&dims, &values).unwrap();
        assert!(values.len() > PIECE);
        let layouts = [
            Layout::per_axis(&dims, 0).unwrap(),
            Layout::per_axis(&dims, 1).unwrap(),
            Layout::per_axis(&dims, 2).unwrap(),
            Layout::per_axis(&[210, 401], 0).unwrap(),
            Layout::per_tensor(values.len()),
            Layout::blocked(&dims, 1, 32).unwrap(),
        ];
        for layout in &layouts {
            for grid in [Grid::symmetric(CodeType::I8).with_span(Span::Narrow), Grid::symmetric(CodeType::I4)]
            {
                let found = ranges(&values, layout).unwrap();
                let (params, _) = Params::for_channels(&found, grid, &Policy::default());
                let mut codes = vec![0; values.len()];
                quantize(&values, layout, &params, grid.codes(), &mut codes).unwrap();
                let whole = pack(&codes, &dims, grid.code).unwrap();
                let found = encode(&tensor, layout, params, grid).unwrap();
                assert_eq!(found.tensor, whole, "{layout:?}");
            }
        }
        let few = vec![Params::new(1.0, 0).unwrap()];
        assert!(encode(&tensor, &layouts[0], few, Grid::symmetric(CodeType::I8)).is_err());
    }
}
