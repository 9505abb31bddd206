//! Small constants as native numbers, and numbers as constants.

use half::{bf16, f16};
use ir::{DType, Element, Tensor};

/// The integers of an integer tensor of any of the types that shapes and indices have.
pub fn ints(tensor: &Tensor) -> Option<Vec<i64>> {
    match tensor.dtype() {
        DType::I64 => tensor.to_vec().ok(),
        DType::I32 => Some(tensor.to_vec::<i32>().ok()?.into_iter().map(i64::from).collect()),
        _ => None,
    }
}

/// The one integer of a tensor of one element.
pub fn int(tensor: &Tensor) -> Option<i64> {
    match ints(tensor)?[..] {
        [value] => Some(value),
        _ => None,
    }
}

/// A vector of int64.
pub fn vector(values: &[i64]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor::new(DType::I64, ir::Dims::from_slice(&[values.len()]), bytes)
        .expect("as many bytes as the sizes ask for")
}

/// The elements of a tensor of a type that models compute in, without loss.
pub fn floats(tensor: &Tensor) -> Option<Vec<f64>> {
    match tensor.dtype() {
        DType::F32 => Some(tensor.to_vec::<f32>().ok()?.into_iter().map(f64::from).collect()),
        DType::F64 => tensor.to_vec().ok(),
        DType::F16 => Some(tensor.to_vec::<f16>().ok()?.into_iter().map(f64::from).collect()),
        DType::BF16 => Some(tensor.to_vec::<bf16>().ok()?.into_iter().map(f64::from).collect()),
        _ => None,
    }
}

/// A tensor of a type that models compute in; every element is rounded once, to nearest even.
pub fn from_floats(dtype: DType, dims: &[usize], values: &[f64]) -> Option<Tensor> {
    match dtype {
        DType::F32 => Tensor::from_slice(dims, &values.iter().map(|&v| v as f32).collect::<Vec<_>>()).ok(),
        DType::F64 => Tensor::from_slice(dims, values).ok(),
        DType::F16 => {
            Tensor::from_slice(dims, &values.iter().map(|&v| f16::from_f64(v)).collect::<Vec<_>>()).ok()
        }
        DType::BF16 => {
            Tensor::from_slice(dims, &values.iter().map(|&v| bf16::from_f64(v)).collect::<Vec<_>>()).ok()
        }
        _ => None,
    }
}

/// The tensor with each run of `run` elements multiplied by the run's factor; computed in f64 and rounded once. None where
/// a result is not finite, or where the type is none that models compute in. Takes no room beside the result.
pub fn scale_runs(tensor: &Tensor, run: usize, factor: impl Fn(usize) -> Option<f64>) -> Option<Tensor> {
    macro_rules! scale {
        ($native:ty, $round:expr) => {{
            let size = size_of::<$native>();
            let mut bytes = Vec::with_capacity(tensor.bytes().len());
            for (at, piece) in tensor.bytes().chunks(run.checked_mul(size)?).enumerate() {
                let factor = factor(at)?;
                let mut finite = true;
                for element in piece.chunks_exact(size) {
                    let product: $native = $round(f64::from(<$native>::read(element)) * factor);
                    finite &= product.is_finite();
                    product.write(&mut bytes);
                }
                if !finite {
                    return None;
                }
            }
            bytes
        }};
    }
    let bytes = match tensor.dtype() {
        _ if run == 0 => return None,
        DType::F32 => scale!(f32, |v: f64| v as f32),
        DType::F64 => scale!(f64, |v: f64| v),
        DType::F16 => scale!(f16, f16::from_f64),
        DType::BF16 => scale!(bf16, bf16::from_f64),
        _ => return None,
    };
    Tensor::new(tensor.dtype(), tensor.dims(), bytes).ok()
}

/// A tensor of numbers of any native type. None where a number is not a value of an integer type.
pub fn from_numbers(dtype: DType, dims: &[usize], values: &[f64]) -> Option<Tensor> {
    macro_rules! integers {
        ($($variant:ident => $native:ty),*) => {
            match dtype {
                $(DType::$variant => {
                    let exact = |&v: &f64| (v as $native as f64 == v).then_some(v as $native);
                    Tensor::from_slice(dims, &values.iter().map(exact).collect::<Option<Vec<_>>>()?).ok()
                })*
                _ => from_floats(dtype, dims, values),
            }
        };
    }
    integers!(I8 => i8, I16 => i16, I32 => i32, I64 => i64, U8 => u8, U16 => u16, U32 => u32, U64 => u64)
}

/// The value that every element of a numeric or boolean tensor has. None for an empty tensor.
/// Looks at a large tensor only until two elements differ.
pub fn splat(tensor: &Tensor) -> Option<f64> {
    let size = tensor.dtype().bits() / 8;
    if size == 0 || tensor.elements() == 0 {
        return None;
    }
    let bytes = tensor.bytes();
    let first = bytes.get(..size)?;
    if !bytes.chunks_exact(size).all(|element| element == first) {
        return None;
    }
    let one = Tensor::new(tensor.dtype(), ir::Dims::new(), bytes.slice(..size)).ok()?;
    match tensor.dtype() {
        DType::Bool => Some(f64::from(u8::from(first != [0]))),
        DType::I8 => one.to_vec::<i8>().ok()?.first().map(|&v| f64::from(v)),
        DType::U8 => one.to_vec::<u8>().ok()?.first().map(|&v| f64::from(v)),
        DType::I16 => one.to_vec::<i16>().ok()?.first().map(|&v| f64::from(v)),
        DType::U16 => one.to_vec::<u16>().ok()?.first().map(|&v| f64::from(v)),
        DType::U32 => one.to_vec::<u32>().ok()?.first().map(|&v| f64::from(v)),
        // Only small whole numbers are asked for; what a double cannot hold exactly is none of them.
        DType::U64 => one.to_vec::<u64>().ok()?.first().filter(|&&v| v < 1 << 53).map(|&v| v as f64),
        DType::I32 | DType::I64 => int(&one).filter(|v| v.unsigned_abs() < 1 << 53).map(|v| v as f64),
        _ => floats(&one)?.first().copied(),
    }
}
