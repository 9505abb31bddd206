//! Elements written by index: ScatterElements (Scatter before opset 11), ScatterND; and read by a condition: Compress.
//!
//! `reduction` combines what is written with what stands there: add and mul since opset 16, min and max since 18.
//! Indices that name one place twice without reduction leave the result open; here the last one wins.

use half::{bf16, f16};
use ir::{DType, Dim, Tensor};

use super::binary::{nan_max, nan_min};
use super::gather::{element_positions, slice_starts};
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::for_dtype;
use crate::infer::InferCx;
use crate::kernel::movement;
use crate::rule::{OpRule, Table};

#[derive(Clone, Copy, PartialEq)]
enum Reduction {
    None,
    Add,
    Mul,
    Min,
    Max,
}

fn reduction(cx: &EvalCx) -> Result<Reduction> {
    Ok(match cx.attrs().str("reduction", "none")? {
        "none" => Reduction::None,
        "add" => Reduction::Add,
        "mul" => Reduction::Mul,
        "min" => Reduction::Min,
        "max" => Reduction::Max,
        other => return Err(cx.attrs().wrong("reduction", "none, add, mul, min or max", other)),
    })
}

fn like_data_infer(cx: &mut InferCx) -> Result<()> {
    (0..3).try_for_each(|at| cx.need(at).map(|_| ()))?;
    cx.same_dtype([0, 2])?;
    cx.copy_type(0, 0);
    Ok(())
}

/// Writes update `i` to position `positions[i]` of the data.
fn write(cx: &EvalCx, data: &Tensor, updates: &Tensor, positions: &[usize]) -> Result<Outputs> {
    if data.dtype() != updates.dtype() || updates.elements() != positions.len() {
        return Err(cx.wrong_input(2, &format!("{} updates of type {}", positions.len(), data.dtype())));
    }
    cx.reserve(data.dtype(), data.dims())?;
    let reduction = reduction(cx)?;
    if reduction == Reduction::None {
        let mut picks: Vec<(usize, usize)> = (0..data.elements()).map(|at| (0, at)).collect();
        positions.iter().enumerate().for_each(|(update, &at)| picks[at] = (1, update));
        return cx.give(movement::pick(&[data, updates], data.dims(), picks.into_iter()));
    }
    macro_rules! combine {
        ($T:ty, $add:expr, $mul:expr, $min:expr, $max:expr) => {{
            let f: fn($T, $T) -> $T = match reduction {
                Reduction::Mul => $mul,
                Reduction::Min => $min,
                Reduction::Max => $max,
                _ => $add,
            };
            let mut out = cx.vec::<$T>(0)?;
            let updates = cx.vec::<$T>(2)?;
            positions.iter().zip(updates).for_each(|(&at, update)| out[at] = f(out[at], update));
            cx.make(data.dims(), &out)
        }};
    }
    match data.dtype() {
        DType::F32 => combine!(f32, |a, b| a + b, |a, b| a * b, nan_min, nan_max),
        DType::F64 => combine!(f64, |a, b| a + b, |a, b| a * b, nan_min, nan_max),
        DType::F16 => combine!(f16, |a, b| a + b, |a, b| a * b, nan_min, nan_max),
        DType::BF16 => combine!(bf16, |a, b| a + b, |a, b| a * b, nan_min, nan_max),
        DType::Bool => combine!(bool, |a, b| a | b, |a, b| a & b, |a, b| a & b, |a, b| a | b),
        dtype => for_dtype!(dtype, T in [i8, i16, i32, i64, u8, u16, u32, u64] => {
            combine!(T, T::wrapping_add, T::wrapping_mul, Ord::min, Ord::max)
        }, else => Err(cx.unsupported_dtype(0))),
    }
}

fn scatter_elements(cx: &EvalCx) -> Result<Outputs> {
    let (data, indices, updates) = (cx.tensor(0)?, cx.tensor(1)?, cx.tensor(2)?);
    let axis = cx.axis(cx.attrs().int("axis", 0)?, data.rank())?;
    if indices.dims() != updates.dims() {
        return Err(cx.wrong_input(2, &format!("updates of sizes {:?}", indices.dims())));
    }
    let positions = element_positions(cx, data, 1, axis)?;
    write(cx, data, updates, &positions)
}

fn scatter_nd(cx: &EvalCx) -> Result<Outputs> {
    let (data, updates) = (cx.tensor(0)?, cx.tensor(2)?);
    let (starts, block) = slice_starts(cx, data, 1, 0)?;
    if starts.len().checked_mul(block) != Some(updates.elements()) {
        return Err(cx.wrong_input(2, &format!("{} slices of {block} elements", starts.len())));
    }
    let positions: Vec<usize> = starts.iter().flat_map(|&start| start..start + block).collect();
    write(cx, data, updates, &positions)
}

// ---- Compress: the entries of an axis (or of everything) where a condition holds --------------------------------

fn compress_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.need(1)?;
    cx.need_rank(1, 1)?;
    let count = match cx.ints(1) {
        Some(condition) => Dim::from(condition.iter().filter(|&&v| v != 0).count()),
        None => cx.fresh("count"),
    };
    let axis = cx.attrs().opt_int("axis")?;
    let dims = match (axis, cx.dims(0)) {
        (None, _) => Some(vec![count]),
        (Some(axis), Some(dims)) => {
            let mut dims = dims.to_vec();
            let axis = cx.axis(axis, dims.len())?;
            dims[axis] = count;
            Some(dims)
        }
        (Some(_), None) => None,
    };
    cx.set(0, cx.dtype(0), dims);
    Ok(())
}

fn compress(cx: &EvalCx) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let (outer, size, inner) = match cx.attrs().opt_int("axis")? {
        None => (1, input.elements(), 1),
        Some(axis) => {
            let axis = cx.axis(axis, input.rank())?;
            let dims = input.dims();
            (dims[..axis].iter().product(), dims[axis], dims[axis + 1..].iter().product())
        }
    };
    cx.tensor_of_rank(1, 1)?;
    let kept: Vec<usize> =
        cx.vec::<bool>(1)?.iter().enumerate().filter(|(_, keep)| **keep).map(|(at, _)| at).collect();
    if kept.last().is_some_and(|&last| last >= size) {
        return Err(cx.wrong_input(1, &format!("conditions for {size} entries")));
    }
    let mut dims = input.dims().to_vec();
    match cx.attrs().opt_int("axis")? {
        None => dims = vec![kept.len()],
        Some(axis) => {
            let axis = cx.axis(axis, input.rank())?;
            dims[axis] = kept.len();
        }
    }
    let (kept, inner): (&[usize], usize) = (&kept, inner);
    let starts = (0..outer).flat_map(move |row: usize| kept.iter().map(move |at| (row * size + at) * inner));
    match ir::checked_elements(&dims) {
        Ok(0) => cx.give(movement::take(input, &dims, std::iter::empty())),
        _ => cx.give(movement::take_blocks(input, &dims, inner, starts)),
    }
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("Scatter", 9, like_data_infer).until(10).eval(scatter_elements),
    &Table::new("ScatterElements", 11, like_data_infer).eval(scatter_elements),
    &Table::new("ScatterND", 11, like_data_infer).eval(scatter_nd),
    &Table::new("Compress", 9, compress_infer).eval(compress),
];
