//! Tensors as `ndarray`s of native types, and as plain numbers whatever their type.

use bytes::Bytes;
use half::{bf16, f16};
use ir::{DType, Data, Element, Tensor, TensorError};
use ndarray::{ArrayD, IxDyn};

use crate::number::{self, Overflow};

/// The tensor as an array; an error if it holds another type.
pub fn array<T: Element>(tensor: &Tensor) -> Result<ArrayD<T>, TensorError> {
    let length = |_| TensorError::Overflow(tensor.dims().to_vec());
    ArrayD::from_shape_vec(IxDyn(tensor.dims()), tensor.to_vec()?).map_err(length)
}

/// The array as a tensor, row-major.
pub fn tensor<T: Element>(array: ArrayD<T>) -> Result<Tensor, TensorError> {
    let dims = array.shape().to_vec();
    match array.as_slice() {
        Some(elements) => Tensor::from_slice(&dims, elements),
        None => Tensor::from_slice(&dims, &array.iter().copied().collect::<Vec<T>>()),
    }
}

/// Runs a block with a type alias bound to the native type of a [`DType`] out of a list, or another block if it is not
/// in the list.
///
/// ```ignore
/// for_dtype!(tensor.dtype(), T in [f32, f64, i32] => cx.make(dims, negate::<T>(&tensor.to_vec()?)),
///     else => Err(cx.unsupported("element type")))
/// ```
#[macro_export]
macro_rules! for_dtype {
    ($dtype:expr, $T:ident in [$($native:ty),* $(,)?] => $body:expr, else => $other:expr) => {
        match $dtype {
            $(<$native as ::ir::Element>::DTYPE => {
                type $T = $native;
                $body
            })*
            _ => $other,
        }
    };
}

/// The elements as one code a byte, for types of at most 8 bits.
pub fn codes(tensor: &Tensor) -> Option<Vec<u8>> {
    let bits = tensor.dtype().bits();
    (1..=8).contains(&bits).then(|| number::unpack(tensor.bytes(), bits, tensor.elements()))
}

/// A tensor of a type of at most 8 bits from one code a byte.
pub fn from_codes(dtype: DType, dims: &[usize], codes: &[u8]) -> Result<Tensor, TensorError> {
    match dtype.bits() {
        bits @ 1..=8 => Tensor::new(dtype, dims, number::pack(codes, bits)),
        _ => Err(TensorError::Kind(dtype)),
    }
}

/// The elements as f64: exact for every number type but 64-bit integers, which are rounded. None for strings and
/// complex numbers. Bool is 0 or 1.
pub fn to_f64s(tensor: &Tensor) -> Option<Vec<f64>> {
    Some(match tensor.dtype() {
        DType::F64 => tensor.to_vec::<f64>().ok()?,
        DType::I64 => tensor.to_vec::<i64>().ok()?.into_iter().map(|v| v as f64).collect(),
        DType::U64 => tensor.to_vec::<u64>().ok()?.into_iter().map(|v| v as f64).collect(),
        DType::I32 => tensor.to_vec::<i32>().ok()?.into_iter().map(f64::from).collect(),
        DType::U32 => tensor.to_vec::<u32>().ok()?.into_iter().map(f64::from).collect(),
        _ => to_f32s(tensor)?.into_iter().map(f64::from).collect(),
    })
}

/// The elements as f32, rounded where the type is wider. None for strings and complex numbers.
pub fn to_f32s(tensor: &Tensor) -> Option<Vec<f32>> {
    Some(match tensor.dtype() {
        DType::F32 => tensor.to_vec::<f32>().ok()?,
        DType::F16 => tensor.to_vec::<f16>().ok()?.into_iter().map(f32::from).collect(),
        DType::BF16 => tensor.to_vec::<bf16>().ok()?.into_iter().map(f32::from).collect(),
        DType::F64 => tensor.to_vec::<f64>().ok()?.into_iter().map(|v| v as f32).collect(),
        DType::String | DType::C64 | DType::C128 => return None,
        dtype => match number::decode_table(dtype) {
            Some(table) => codes(tensor)?.into_iter().map(|code| table[usize::from(code)]).collect(),
            None if dtype.bits() == 64 => to_f64s(tensor)?.into_iter().map(|v| v as f32).collect(),
            None => to_i64s(tensor)?.into_iter().map(|v| v as f32).collect(),
        },
    })
}

/// The elements as i64 (u64 beyond its range wraps). None for floats, strings and complex numbers. Bool is 0 or 1.
pub fn to_i64s(tensor: &Tensor) -> Option<Vec<i64>> {
    Some(match tensor.dtype() {
        DType::I64 => tensor.to_vec::<i64>().ok()?,
        DType::U64 => tensor.to_vec::<u64>().ok()?.into_iter().map(|v| v as i64).collect(),
        DType::I32 => tensor.to_vec::<i32>().ok()?.into_iter().map(i64::from).collect(),
        DType::U32 => tensor.to_vec::<u32>().ok()?.into_iter().map(i64::from).collect(),
        DType::I16 => tensor.to_vec::<i16>().ok()?.into_iter().map(i64::from).collect(),
        DType::U16 => tensor.to_vec::<u16>().ok()?.into_iter().map(i64::from).collect(),
        DType::Bool => tensor.to_vec::<bool>().ok()?.into_iter().map(i64::from).collect(),
        DType::U8 | DType::U4 | DType::U2 => codes(tensor)?.into_iter().map(i64::from).collect(),
        dtype @ (DType::I8 | DType::I4 | DType::I2) => codes(tensor)?
            .into_iter()
            .map(|code| i64::from(number::sign_extend(code, dtype.bits())))
            .collect(),
        _ => return None,
    })
}

/// A tensor of a float type from f64 numbers, each rounded once to nearest even (f16, bf16 and smaller through f32).
pub fn from_f64s(dtype: DType, dims: &[usize], numbers: &[f64]) -> Result<Tensor, TensorError> {
    match dtype {
        DType::F64 => Tensor::from_slice(dims, numbers),
        DType::F16 => Tensor::from_slice(dims, &map(numbers, f16::from_f64)),
        DType::BF16 => Tensor::from_slice(dims, &map(numbers, bf16::from_f64)),
        _ => from_f32s(dtype, dims, &map(numbers, |v| v as f32)),
    }
}

/// A tensor of a float type from f32 numbers, rounded to nearest even; small floats saturate.
pub fn from_f32s(dtype: DType, dims: &[usize], numbers: &[f32]) -> Result<Tensor, TensorError> {
    match dtype {
        DType::F32 => Tensor::from_slice(dims, numbers),
        DType::F64 => Tensor::from_slice(dims, &map(numbers, f64::from)),
        DType::F16 => Tensor::from_slice(dims, &map(numbers, f16::from_f32)),
        DType::BF16 => Tensor::from_slice(dims, &map(numbers, bf16::from_f32)),
        _ if number::decode_table(dtype).is_some() => {
            from_codes(dtype, dims, &map(numbers, |v| number::encode(dtype, v, Overflow::Saturate)))
        }
        _ => Err(TensorError::Kind(dtype)),
    }
}

/// A tensor of an integer type (or bool: not zero) from i64 numbers, wrapping.
pub fn from_i64s(dtype: DType, dims: &[usize], numbers: &[i64]) -> Result<Tensor, TensorError> {
    match dtype {
        DType::I64 => Tensor::from_slice(dims, numbers),
        DType::U64 => Tensor::from_slice(dims, &map(numbers, |v| v as u64)),
        DType::I32 => Tensor::from_slice(dims, &map(numbers, |v| v as i32)),
        DType::U32 => Tensor::from_slice(dims, &map(numbers, |v| v as u32)),
        DType::I16 => Tensor::from_slice(dims, &map(numbers, |v| v as i16)),
        DType::U16 => Tensor::from_slice(dims, &map(numbers, |v| v as u16)),
        DType::Bool => Tensor::from_slice(dims, &map(numbers, |v| v != 0)),
        DType::I8 | DType::U8 | DType::I4 | DType::U4 | DType::I2 | DType::U2 => {
            from_codes(dtype, dims, &map(numbers, |v| v as u8))
        }
        _ => Err(TensorError::Kind(dtype)),
    }
}

fn map<T: Copy, U>(numbers: &[T], f: impl Fn(T) -> U) -> Vec<U> {
    numbers.iter().map(|&number| f(number)).collect()
}

/// The strings of a string tensor.
pub fn to_strings(tensor: &Tensor) -> Option<&[Bytes]> {
    match tensor.data() {
        Data::Strings(strings) => Some(strings),
        Data::Bytes(_) => None,
    }
}

/// Row-major strides, in elements.
pub fn strides(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; dims.len()];
    for at in (1..dims.len()).rev() {
        strides[at - 1] = strides[at].saturating_mul(dims[at]);
    }
    strides
}

/// A sparse tensor with its zeros.
pub fn densify(sparse: &ir::SparseTensor) -> Result<Tensor, TensorError> {
    let (values, dims) = (&sparse.values, &sparse.dims);
    let length = |found| TensorError::Length {
        dtype: values.dtype(),
        dims: dims.to_vec(),
        needed: values.elements(),
        found,
    };
    let elements = ir::checked_elements(dims)?;
    let indices = sparse.indices.to_vec::<i64>()?;
    let linear: Vec<usize> = match sparse.indices.rank() {
        2 if sparse.indices.dims()[1] == dims.len() => {
            let strides = strides(dims);
            let flat = |row: &[i64]| {
                row.iter().zip(&strides).map(|(&i, &s)| (i.max(0) as usize).saturating_mul(s)).sum()
            };
            if dims.is_empty() { Vec::new() } else { indices.chunks_exact(dims.len()).map(flat).collect() }
        }
        _ => indices.iter().map(|&index| usize::try_from(index).unwrap_or(usize::MAX)).collect(),
    };
    if linear.len() != values.elements() {
        return Err(length(linear.len()));
    }
    let width = values.dtype().bits() / 8;
    if width == 0 {
        return Err(TensorError::Kind(values.dtype()));
    }
    let mut bytes =
        vec![0u8; elements.checked_mul(width).ok_or_else(|| TensorError::Overflow(dims.to_vec()))?];
    for (element, at) in values.bytes().chunks_exact(width).zip(linear) {
        let target = at.checked_mul(width).and_then(|start| bytes.get_mut(start..start + width));
        target.ok_or_else(|| length(at))?.copy_from_slice(element);
    }
    Tensor::new(values.dtype(), dims.clone(), bytes)
}

/// The next index of a shape in row-major order; false after the last.
pub fn advance(index: &mut [usize], dims: &[usize]) -> bool {
    for (at, &size) in index.iter_mut().zip(dims).rev() {
        *at += 1;
        if *at < size {
            return true;
        }
        *at = 0;
    }
    false
}
