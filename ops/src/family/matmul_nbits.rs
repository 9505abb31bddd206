//! MatMulNBits and MatMulBnb4 of com.microsoft: `a [.., K]` times a weight `[N, K]` stored in blocks of few bits.
//!
//! MatMulNBits: `a, b, scales, zero_points?, g_idx?, bias?` with attributes K, N, block_size, bits (2, 4, 8); zero points are
//! packed uint8 or numbers of the type of `a`. `accuracy_level` lets a runtime quantize `a` and changes nothing here.
//! MatMulBnb4: `a, b, absmax`, `quant_type` 0 FP4, 1 NF4; with `transB = 0` it multiplies by the weight `[N, K]` itself.
//! Bytes: [`crate::kernel::blocks`].

use ir::{DType, Dim};

use super::reals::{for_real, opt_reals_of, reals, value};
use crate::attrs::Attributes;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::blocks::{FP4, NBits, NF4, Zeros, table_blocks};
use crate::kernel::real::{Real, matrix, multiply};
use crate::rule::{OpRule, Table};

fn size(attrs: Attributes<'_>, name: &str) -> Result<usize> {
    let size = attrs.need_int(name)?;
    // Products of two sizes stay inside 64 bits.
    let found = u32::try_from(size).ok().filter(|&size| size > 0);
    found.map(|size| size as usize).ok_or_else(|| attrs.wrong(name, "a positive size", &size.to_string()))
}

fn block_size(attrs: Attributes<'_>) -> Result<usize> {
    let block = size(attrs, "block_size")?;
    let wrong = || attrs.wrong("block_size", "a power of two from 16 on", &block.to_string());
    if block.is_power_of_two() && block >= 16 { Ok(block) } else { Err(wrong()) }
}

fn infer_columns(cx: &mut InferCx, columns: usize) -> Result<()> {
    let dims = cx.dims(0).map(|dims| {
        let mut dims = dims.to_vec();
        if let Some(last) = dims.last_mut() {
            *last = Dim::from(columns);
        }
        dims
    });
    cx.set(0, cx.dtype(0), dims);
    Ok(())
}

fn infer_nbits(cx: &mut InferCx) -> Result<()> {
    infer_columns(cx, size(cx.attrs(), "N")?)
}

fn infer_bnb4(cx: &mut InferCx) -> Result<()> {
    let columns = if cx.attrs().flag("transB", true)? { "N" } else { "K" };
    infer_columns(cx, size(cx.attrs(), columns)?)
}

/// `a` times the transposed weight `[columns, depth]`, plus a bias.
fn product<T: Real>(
    cx: &EvalCx,
    weights: &[f32],
    depth: usize,
    columns: usize,
    bias: Option<&[T]>,
) -> Result<Outputs> {
    let a = cx.tensor(0)?;
    let Some((&last, outer)) = a.dims().split_last().filter(|(last, _)| **last == depth) else {
        return Err(cx.wrong_input(0, &format!("rows of {depth}")));
    };
    let rows: usize = outer.iter().product();
    let dims: Vec<usize> = outer.iter().copied().chain([columns]).collect();
    let mut y = vec![T::zero(); cx.reserve(a.dtype(), &dims)?];
    let weights: Vec<T> = weights.iter().map(|&w| T::of(f64::from(w))).collect();
    if let Some(bias) = bias {
        y.chunks_exact_mut(columns).for_each(|row| row.copy_from_slice(bias));
    }
    let numbers = reals::<T>(cx, 0)?;
    multiply(matrix(&numbers, rows, last), matrix(&weights, columns, depth).t(), T::one(), &mut y);
    Ok(vec![value(cx, a.dtype(), &dims, &y)?])
}

/// The weight of a MatMulNBits, `[N, K]`.
fn nbits_weights(cx: &EvalCx) -> Result<Vec<f32>> {
    let attrs = cx.attrs();
    let (k, n, block) = (size(attrs, "K")?, size(attrs, "N")?, block_size(attrs)?);
    let bits = match attrs.int("bits", 4)? {
        bits @ (2 | 4 | 8) => bits as usize,
        other => return Err(attrs.wrong("bits", "2, 4 or 8", &other.to_string())),
    };
    cx.reserve(DType::F64, &[n, k])?;
    if cx.tensor(1)?.dtype() != DType::U8 {
        return Err(cx.wrong_input(1, "uint8"));
    }
    let scales = cx.f32s(2)?;
    let numbers = match cx.opt_tensor(3)? {
        Some(zeros) if zeros.dtype() != DType::U8 => Some(cx.f32s(3)?),
        _ => None,
    };
    let zeros = match (cx.opt_tensor(3)?, &numbers) {
        (_, Some(numbers)) => Zeros::Numbers(numbers),
        (Some(packed), None) => Zeros::Packed(packed.bytes()),
        (None, None) => Zeros::Middle,
    };
    let index = |&group: &i64| usize::try_from(group).unwrap_or(usize::MAX);
    let groups: Option<Vec<usize>> = cx.opt_ints(4)?.map(|groups| groups.iter().map(index).collect());
    if groups.is_some() && cx.has(3) {
        return Err(cx.unsupported(
            "g_idx with zero points, which ONNX Runtime 1.31 reads as if they were all the middle",
        ));
    }
    let codes = cx.tensor(1)?.bytes();
    NBits { k, n, block, bits, codes, scales: &scales, zeros, groups: groups.as_deref() }
        .weights()
        .map_err(|why| cx.invalid(why))
}

fn eval_nbits(cx: &EvalCx) -> Result<Outputs> {
    let (k, n) = (size(cx.attrs(), "K")?, size(cx.attrs(), "N")?);
    let weights = nbits_weights(cx)?;
    for_real!(cx, 0, T => {
        let bias = opt_reals_of::<T>(cx, 5, &[n])?;
        product::<T>(cx, &weights, k, n, bias.as_deref())
    })
}

fn eval_bnb4(cx: &EvalCx) -> Result<Outputs> {
    let attrs = cx.attrs();
    let (k, n, block) = (size(attrs, "K")?, size(attrs, "N")?, block_size(attrs)?);
    let table = match attrs.need_int("quant_type")? {
        0 => &FP4,
        1 => &NF4,
        other => return Err(attrs.wrong("quant_type", "0 or 1", &other.to_string())),
    };
    let count = cx.reserve(DType::F64, &[n, k])?;
    let most = cx.f32s(2)?;
    let weights =
        table_blocks(cx.tensor(1)?.bytes(), table, &most, count, block).map_err(|why| cx.invalid(why))?;
    let (weights, depth, columns) = match attrs.flag("transB", true)? {
        true => (weights, k, n),
        false => (
            (0..k).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| weights[j * k + i]).collect(),
            n,
            k,
        ),
    };
    for_real!(cx, 0, T => product::<T>(cx, &weights, depth, columns, None))
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("MatMulNBits", 1, infer_nbits).domain("com.microsoft", 1).eval(eval_nbits),
    &Table::new("MatMulBnb4", 1, infer_bnb4).domain("com.microsoft", 1).eval(eval_bnb4),
];
