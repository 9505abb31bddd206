//! Tensors and element types across the border to tract.

use ir::{DType, Tensor};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::{SymbolValues, TDim};

/// tract's type for an element type; none where it has none.
pub(super) fn datum_type(dtype: DType) -> Option<DatumType> {
    Some(match dtype {
        DType::F32 => f32::datum_type(),
        DType::F64 => f64::datum_type(),
        DType::F16 => DatumType::F16,
        DType::Bool => bool::datum_type(),
        DType::U8 => u8::datum_type(),
        DType::U16 => u16::datum_type(),
        DType::U32 => u32::datum_type(),
        DType::U64 => u64::datum_type(),
        DType::I8 => i8::datum_type(),
        DType::I16 => i16::datum_type(),
        DType::I32 => i32::datum_type(),
        DType::I64 => i64::datum_type(),
        DType::String => String::datum_type(),
        _ => return None,
    })
}

/// The element type of a tract type that ONNX has too.
pub(super) fn dtype(datum: DatumType) -> Option<DType> {
    DType::ALL.iter().copied().find(|&dtype| datum_type(dtype) == Some(datum.unquantized()))
}

/// A copy for tract.
pub(super) fn to_tract(tensor: &Tensor) -> Option<tract_onnx::prelude::Tensor> {
    let datum = datum_type(tensor.dtype())?;
    if let ir::Data::Strings(strings) = tensor.data() {
        let strings: Vec<String> = strings.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect();
        let flat = tract_ndarray::Array1::from_vec(strings).into_dyn();
        return flat.into_shape_with_order(tensor.dims()).ok().map(Into::into);
    }
    // SAFETY: the bytes fill exactly these sizes of this plain type (an invariant of `ir::Tensor`), and every bit pattern
    // of the integer and float types is valid; bool bytes are normalized first.
    if tensor.dtype() == DType::Bool {
        let bytes: Vec<u8> = tensor.bytes().iter().map(|&byte| u8::from(byte != 0)).collect();
        return unsafe { tract_onnx::prelude::Tensor::from_raw_dt(datum, tensor.dims(), &bytes).ok() };
    }
    unsafe { tract_onnx::prelude::Tensor::from_raw_dt(datum, tensor.dims(), tensor.bytes()).ok() }
}

/// A copy for everybody else.
pub(super) fn from_tract(value: &tract_onnx::prelude::Tensor) -> Option<Tensor> {
    let dtype = dtype(value.datum_type())?;
    if dtype == DType::String {
        let strings = value.to_plain_array_view::<String>().ok()?;
        let strings: Vec<_> = strings.iter().map(|text| text.clone().into_bytes().into()).collect();
        return Tensor::strings(value.shape(), strings).ok();
    }
    Tensor::new(dtype, value.shape(), value.as_bytes().to_vec()).ok()
}

/// Sizes that flow as values (`TDim`) are plain int64 for everybody else. A size of the inputs is a symbol even while the
/// model runs; `symbols` has what they stand for in this run.
pub(super) fn without_dims(value: &TValue, symbols: &SymbolValues) -> TValue {
    if value.datum_type() != TDim::datum_type() {
        return value.clone();
    }
    let numbers = || {
        let dims = value.to_plain_array_view::<TDim>().ok()?;
        let numbers: Option<Vec<i64>> = dims.iter().map(|dim| dim.eval(symbols).to_i64().ok()).collect();
        let flat = tract_ndarray::Array1::from_vec(numbers?).into_dyn();
        let tensor: tract_onnx::prelude::Tensor = flat.into_shape_with_order(value.shape()).ok()?.into();
        Some(tensor.into_tvalue())
    };
    numbers().unwrap_or_else(|| value.clone())
}
