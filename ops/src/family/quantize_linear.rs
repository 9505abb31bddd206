//! QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear, in ONNX's domain and in com.microsoft.
//!
//! `x, scale, zero_point?`: one scale, one per index of `axis` (13), or one per block of `block_size` along it (21). The
//! quotient has the precision of the scale's type, or of the attribute `precision` (23); the output has the type of the
//! zero point, or of `output_dtype` (21), or uint8. 19 added float8 (`saturate`), 21 16- and 4-bit integers, 23 float4, 24
//! float8e8m0 scales, 25 2-bit integers. DequantizeLinear gives the scale's type, or `output_dtype` (23).

use ir::{DType, Dim};

use super::quantized::coded;
use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::quantize::{Granularity, code_range, codes, dequantize, dynamic_grid, quotients, rounded};
use crate::number::{self, Overflow};
use crate::rule::{OpRule, Table};

fn dims(cx: &InferCx) -> Option<Vec<Dim>> {
    cx.dims(0).map(<[Dim]>::to_vec)
}

fn infer_quantize(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let stated = cx.attrs().dtype("output_dtype")?;
    let dtype = match cx.has(2) {
        true => cx.dtype(2).or(stated),
        false => Some(stated.unwrap_or(DType::U8)),
    };
    cx.set(0, dtype, dims(cx));
    Ok(())
}

fn infer_dequantize(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let dtype = cx.attrs().dtype("output_dtype")?.or(cx.dtype(1).filter(|dtype| dtype.is_compute_float()));
    cx.set(0, dtype, dims(cx));
    Ok(())
}

fn granularity(cx: &EvalCx) -> Result<Granularity> {
    let (axis, block) = (cx.attrs().int("axis", 1)?, cx.attrs().int("block_size", 0)?);
    let (x, scale) = (cx.tensor(0)?.dims(), cx.tensor(1)?.dims());
    let same = |at: usize| cx.tensor(at).map(|zero| zero.elements() == scale.iter().product::<usize>());
    if cx.has(2) && !same(2)? {
        return Err(cx.wrong_input(2, &format!("sizes {scale:?}")));
    }
    Granularity::new(x, scale, axis, block).map_err(|why| cx.invalid(why))
}

fn eval_quantize(cx: &EvalCx) -> Result<Outputs> {
    let (attrs, x, scale) = (cx.attrs(), cx.tensor(0)?, cx.tensor(1)?);
    let stated = attrs.dtype("output_dtype")?;
    let dtype = match (cx.opt_tensor(2)?, stated) {
        (Some(zero), stated) if stated.is_some_and(|stated| stated != zero.dtype()) => {
            return Err(cx.wrong_input(2, "the type that output_dtype says"));
        }
        (Some(zero), _) => zero.dtype(),
        (None, stated) => stated.unwrap_or(DType::U8),
    };
    let granularity = granularity(cx)?;
    cx.reserve(DType::I64, x.dims())?;
    let (mut numbers, mut scales) = (cx.f32s(0)?, cx.f32s(1)?);
    let precision = attrs.dtype("precision")?;
    if let Some(precision) = precision {
        numbers.iter_mut().chain(&mut scales).for_each(|number| *number = rounded(*number, precision));
    }
    let quotients = quotients(&numbers, &scales, granularity, precision.unwrap_or(scale.dtype()));
    if let Some(range) = code_range(dtype).filter(|_| dtype != DType::I32) {
        let zero = cx.opt_ints(2)?;
        let codes = codes(&quotients, zero.as_deref(), granularity, range);
        return cx.give(array::from_i64s(dtype, x.dims(), &codes));
    }
    // The zero point of a float type is zero wherever the specification gives it a meaning.
    let overflow = if attrs.flag("saturate", true)? { Overflow::Saturate } else { Overflow::Special };
    if number::decode_table(dtype).is_none() || dtype == DType::F8E8M0 {
        return Err(cx.unsupported(format!("quantization to {dtype}")));
    }
    let codes: Vec<u8> = quotients.into_iter().map(|q| number::encode(dtype, q, overflow)).collect();
    cx.give(array::from_codes(dtype, x.dims(), &codes))
}

fn eval_dequantize(cx: &EvalCx) -> Result<Outputs> {
    let (x, scale) = (cx.tensor(0)?, cx.tensor(1)?);
    let dtype = cx.attrs().dtype("output_dtype")?.unwrap_or(scale.dtype());
    if !dtype.is_compute_float() {
        return Err(cx.unsupported(format!("dequantization to {dtype}")));
    }
    if cx.opt_tensor(2)?.is_some_and(|zero| zero.dtype() != x.dtype()) {
        return Err(cx.wrong_input(2, &format!("element type {}", x.dtype())));
    }
    let granularity = granularity(cx)?;
    cx.reserve(DType::I64, x.dims())?;
    let scales = cx.f32s(1)?;
    let numbers = match x.dtype().is_int() {
        true => dequantize(&cx.ints(0)?, &scales, cx.opt_ints(2)?.as_deref(), granularity),
        false => {
            let mut numbers = cx.f32s(0)?;
            granularity.for_each(|at, scale| numbers[at] *= scales[scale]);
            numbers
        }
    };
    cx.give(array::from_f32s(dtype, x.dims(), &numbers))
}

fn infer_dynamic(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.set(0, Some(DType::U8), dims(cx));
    cx.set(1, Some(DType::F32), Some(Vec::new()));
    cx.set(2, Some(DType::U8), Some(Vec::new()));
    Ok(())
}

fn eval_dynamic(cx: &EvalCx) -> Result<Outputs> {
    let x = cx.tensor(0)?;
    if x.dtype() != DType::F32 {
        return Err(cx.unsupported_dtype(0));
    }
    cx.reserve(DType::F32, x.dims())?;
    let numbers = cx.f32s(0)?;
    let (scale, zero) = dynamic_grid(&numbers);
    let steps: Vec<f32> = numbers.into_iter().map(|x| x / scale).collect();
    let y = coded(cx, DType::U8, x.dims(), &steps, i64::from(zero))?;
    Ok(vec![y, ir::Tensor::scalar(scale).into(), ir::Tensor::scalar(zero).into()])
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("QuantizeLinear", 10, infer_quantize).eval(eval_quantize),
    &Table::new("QuantizeLinear", 1, infer_quantize).domain("com.microsoft", 1).eval(eval_quantize),
    &Table::new("DequantizeLinear", 10, infer_dequantize).eval(eval_dequantize),
    &Table::new("DequantizeLinear", 1, infer_dequantize).domain("com.microsoft", 1).eval(eval_dequantize),
    &Table::new("DynamicQuantizeLinear", 11, infer_dynamic).eval(eval_dynamic),
];
