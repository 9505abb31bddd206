//! GatherBlockQuantized of com.microsoft: rows of a table stored in blocks of few bits, dequantized.
//!
//! `data, indices, scales, zero_points?`. int4 and uint4 data are packed as ONNX packs them, their zero point defaults to 0;
//! uint8 data hold codes of `bits` bits packed along the last axis, low bits first, and default to `2^(bits - 1)`; float8
//! and float4 data have none, and their scales broadcast. An index outside the table gives zeros.

use ir::{DType, Dim};

use crate::array;
use crate::attrs::Attributes;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::number;
use crate::rule::{OpRule, Table};
use crate::sym;

/// Codes that share a byte of uint8 data.
fn per_byte(attrs: Attributes<'_>, dtype: DType) -> Result<usize> {
    match (dtype, attrs.int("bits", 4)?) {
        (DType::U8, 2) => Ok(4),
        (DType::U8, 4) => Ok(2),
        (DType::U8, 8) => Ok(1),
        (DType::U8, other) => Err(attrs.wrong("bits", "2, 4 or 8", &other.to_string())),
        _ => Ok(1),
    }
}

fn infer(cx: &mut InferCx) -> Result<()> {
    let dims = match (cx.dims(0), cx.dims(1), cx.dtype(0)) {
        (Some(data), Some(indices), Some(dtype)) => {
            let axis = cx.axis(cx.attrs().int("gather_axis", 0)?, data.len())?;
            let mut data = data.to_vec();
            let packed = Dim::from(per_byte(cx.attrs(), dtype)?);
            if let Some(last) = data.last_mut() {
                *last = sym::mul(last, &packed);
            }
            Some([&data[..axis], indices, &data[axis + 1..]].concat())
        }
        _ => None,
    };
    cx.set(0, cx.dtype(2), dims);
    Ok(())
}

/// The codes of a tensor as numbers, those of uint8 unpacked along the last axis.
fn unpacked(cx: &EvalCx, at: usize, per_byte: usize, last: usize) -> Result<Vec<f32>> {
    let tensor = cx.tensor(at)?;
    if per_byte == 1 {
        return cx.f32s(at);
    }
    let stored = tensor.dims().last().copied().unwrap_or(1);
    let rows = tensor.bytes().chunks_exact(stored.max(1));
    Ok(rows.flat_map(|row| number::unpack(row, 8 / per_byte, last)).map(f32::from).collect())
}

fn eval(cx: &EvalCx) -> Result<Outputs> {
    let attrs = cx.attrs();
    let (data, scale) = (cx.tensor(0)?, cx.tensor(2)?);
    let per_byte = per_byte(attrs, data.dtype())?;
    let mut dims = data.dims().to_vec();
    let rank = dims.len();
    let axis = cx.axis(attrs.int("gather_axis", 0)?, rank)?;
    let quantized = cx.axis(attrs.int("quantize_axis", 1)?, rank)?;
    dims[rank - 1] =
        dims[rank - 1].checked_mul(per_byte).ok_or_else(|| cx.wrong_input(0, "a smaller tensor"))?;
    if per_byte > 1 && axis == rank - 1 {
        return Err(attrs.wrong("gather_axis", "another axis than the packed one", &axis.to_string()));
    }
    let block = match attrs.int("block_size", 128)? {
        0 => dims[quantized].max(1),
        block => {
            usize::try_from(block).map_err(|_| attrs.wrong("block_size", "a size", &block.to_string()))?
        }
    };
    let groups = dims[quantized].div_ceil(block);
    let small = data.dtype().is_float();
    let fits = |(at, (&own, &full)): (usize, (&usize, &usize))| match at == quantized {
        true => own == groups,
        false => own == full || (small && own == 1),
    };
    if scale.rank() != rank || !scale.dims().iter().zip(&dims).enumerate().all(fits) {
        return Err(cx.wrong_input(2, &format!("scales for {groups} blocks along axis {quantized}")));
    }
    cx.reserve(DType::F64, &dims)?;
    let codes = unpacked(cx, 0, per_byte, dims[rank - 1])?;
    let scales = cx.f32s(2)?;
    let zeros = match cx.opt_tensor(3)? {
        Some(zeros) if zeros.dtype() == data.dtype() && !small => {
            let last = scale.dims().last().copied().unwrap_or(1);
            let zeros = unpacked(cx, 3, per_byte, last)?;
            if zeros.len() != scales.len() {
                return Err(cx.wrong_input(3, "a zero point for every scale"));
            }
            Some(zeros)
        }
        Some(_) => return Err(cx.wrong_input(3, &format!("element type {}", data.dtype()))),
        None => None,
    };
    let middle = if data.dtype() == DType::U8 { (1u32 << (8 / per_byte - 1)) as f32 } else { 0.0 };
    let (full, steps) = (array::strides(&dims), array::strides(scale.dims()));
    let number = |at: usize| {
        let group = (0..rank).map(|i| {
            let index = at / full[i] % dims[i];
            let index = if i == quantized { index / block } else { index };
            index.min(scale.dims()[i] - 1) * steps[i]
        });
        let group: usize = group.sum();
        (codes[at] - zeros.as_ref().map_or(middle, |zeros| zeros[group])) * scales[group]
    };
    let indices = cx.ints(1)?;
    let out: Vec<usize> = [&dims[..axis], cx.tensor(1)?.dims(), &dims[axis + 1..]].concat();
    let mut numbers = Vec::with_capacity(cx.reserve(scale.dtype(), &out)?);
    let (outer, inner) = (dims[..axis].iter().product::<usize>(), full[axis]);
    for start in (0..outer).map(|outer| outer * dims[axis]) {
        for &index in &indices {
            let index = if index < 0 { index + dims[axis] as i64 } else { index };
            match usize::try_from(index).ok().filter(|&index| index < dims[axis]) {
                Some(index) => numbers.extend((0..inner).map(|i| number((start + index) * inner + i))),
                None => numbers.extend(std::iter::repeat_n(0.0, inner)),
            }
        }
    }
    cx.give(array::from_f32s(scale.dtype(), &out, &numbers))
}

/// The table.
pub const RULES: &[&dyn OpRule] =
    &[&Table::new("GatherBlockQuantized", 1, infer).domain("com.microsoft", 1).eval(eval)];
