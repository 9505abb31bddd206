//! Tensors across the border to ONNX Runtime.

use ::ort::memory::Allocator;
use ::ort::value::{DynTensor, DynValue, TensorElementType};
use ir::{DType, Data, Tensor};

use crate::{Observer, View};

/// The two names of each element type.
const TYPES: &[(DType, TensorElementType)] = &[
    (DType::F32, TensorElementType::Float32),
    (DType::F64, TensorElementType::Float64),
    (DType::F16, TensorElementType::Float16),
    (DType::BF16, TensorElementType::Bfloat16),
    (DType::Bool, TensorElementType::Bool),
    (DType::U8, TensorElementType::Uint8),
    (DType::U16, TensorElementType::Uint16),
    (DType::U32, TensorElementType::Uint32),
    (DType::U64, TensorElementType::Uint64),
    (DType::I8, TensorElementType::Int8),
    (DType::I16, TensorElementType::Int16),
    (DType::I32, TensorElementType::Int32),
    (DType::I64, TensorElementType::Int64),
    (DType::String, TensorElementType::String),
    (DType::C64, TensorElementType::Complex64),
    (DType::C128, TensorElementType::Complex128),
    (DType::F8E4M3FN, TensorElementType::Float8E4M3FN),
    (DType::F8E4M3FNUZ, TensorElementType::Float8E4M3FNUZ),
    (DType::F8E5M2, TensorElementType::Float8E5M2),
    (DType::F8E5M2FNUZ, TensorElementType::Float8E5M2FNUZ),
    (DType::U4, TensorElementType::Uint4),
    (DType::I4, TensorElementType::Int4),
];

pub(super) fn dtype(native: TensorElementType) -> Option<DType> {
    TYPES.iter().find(|(_, other)| *other == native).map(|&(dtype, _)| dtype)
}

/// Elements of this type have bytes to show.
pub(super) fn is_plain(dtype: DType) -> bool {
    dtype != DType::String && TYPES.iter().any(|(own, _)| *own == dtype)
}

/// Shows a value, if it has bytes to show.
pub(super) fn show(name: &str, value: &DynTensor, observer: &mut dyn Observer) {
    let dims: Vec<usize> = value.shape().iter().map(|&size| size.max(0) as usize).collect();
    let Some(dtype) = dtype(*value.data_type()) else { return };
    if let Some(bytes) = bytes(value, dtype, dims.iter().product()) {
        observer.see(name, View::new(dtype, &dims, bytes));
    }
}

/// A copy for ONNX Runtime; none if it has no such type or refuses.
pub(super) fn to_ort(allocator: &Allocator, tensor: &Tensor) -> Option<DynValue> {
    let dims: Vec<i64> = tensor.dims().iter().map(|&size| size as i64).collect();
    if let Data::Strings(strings) = tensor.data() {
        let strings: Vec<String> = strings.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect();
        return ort::value::Tensor::from_string_array((dims, &strings[..]))
            .ok()
            .map(|value| value.into_dyn());
    }
    let native = TYPES.iter().find(|(dtype, _)| *dtype == tensor.dtype())?.1;
    let mut value = DynTensor::new(allocator, native, dims).ok()?;
    let bytes = tensor.bytes();
    if !bytes.is_empty() {
        // SAFETY: the allocation holds the elements of these dims and this type, which is exactly what the bytes fill (an
        // invariant of `ir::Tensor`); the two regions are distinct.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), value.data_ptr_mut().cast::<u8>(), bytes.len())
        };
    }
    Some(value.into_dyn())
}

/// The bytes of a dense tensor; none for strings and other types.
fn bytes(value: &DynTensor, dtype: DType, elements: usize) -> Option<&[u8]> {
    let length = dtype.storage_bytes(elements)?;
    if length == 0 {
        return Some(&[]);
    }
    // SAFETY: ONNX Runtime's CPU tensor of this type and element count owns that many bytes as long as the value lives.
    Some(unsafe { std::slice::from_raw_parts(value.data_ptr().cast::<u8>(), length) })
}
