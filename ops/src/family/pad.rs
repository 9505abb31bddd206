//! Pad: entries added (or, with negative counts, cut off) at both ends of axes.
//!
//! `mode` says what is added: `constant`, `edge`, `reflect` (mirrored without the edge), `wrap` (opset 19). Pads are an
//! attribute up to opset 10 (`paddings` in opset 1), an input since 11; opset 18 added `axes`.

use ir::{DType, Dim, Tensor};

use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::movement;
use crate::rule::{OpRule, Table};
use crate::sym;

fn pads_attr<'a>(attrs: crate::attrs::Attributes<'a>, opset: i64) -> Result<&'a [i64]> {
    attrs.need_ints(if opset < 2 { "paddings" } else { "pads" })
}

fn pad_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let Some(dims) = cx.dims(0) else {
        cx.set(0, cx.dtype(0), None);
        return Ok(());
    };
    let mut out = dims.to_vec();
    let pads: Option<Vec<Dim>> = match cx.opset() < 11 {
        true => Some(pads_attr(cx.attrs(), cx.opset())?.iter().map(|&v| Dim::Known(v)).collect()),
        false => {
            cx.need(1)?;
            cx.contents(1).map(|contents| contents.into_owned())
        }
    };
    let axes = match cx.has(3) {
        true => cx.ints(3),
        false => Some((0..dims.len() as i64).collect()),
    };
    match (pads, axes) {
        (Some(pads), Some(axes)) => {
            if pads.len() != 2 * axes.len() {
                return Err(cx.invalid(format!("{} pads for {} axes", pads.len(), axes.len())));
            }
            for (i, &axis) in axes.iter().enumerate() {
                let axis = cx.axis(axis, dims.len())?;
                let total = sym::add(&pads[i], &pads[i + axes.len()]);
                out[axis] = sym::add(&out[axis], &total);
                if matches!(out[axis], Dim::Known(size) if size < 0) {
                    return Err(cx.invalid("more is cut off than is there"));
                }
            }
        }
        (None, Some(axes)) => {
            for axis in axes {
                out[cx.axis(axis, dims.len())?] = Dim::Unknown;
            }
        }
        _ => out.iter_mut().for_each(|dim| *dim = Dim::Unknown),
    }
    cx.set(0, cx.dtype(0), Some(out));
    Ok(())
}

#[derive(Clone, Copy)]
enum Mode {
    Constant,
    Edge,
    Reflect,
    Wrap,
}

impl Mode {
    /// Where entry `at` (which may lie outside) of an axis of `size` comes from; none: from the constant.
    fn source(self, at: i64, size: i64) -> Option<i64> {
        match self {
            _ if (0..size).contains(&at) => Some(at),
            Mode::Constant => None,
            _ if size == 0 => None,
            Mode::Edge => Some(at.clamp(0, size - 1)),
            Mode::Wrap => Some(at.rem_euclid(size)),
            Mode::Reflect if size == 1 => Some(0),
            Mode::Reflect => {
                let period = 2 * (size - 1);
                let at = at.rem_euclid(period);
                Some(if at < size { at } else { period - at })
            }
        }
    }
}

fn mode(cx: &EvalCx) -> Result<Mode> {
    Ok(match cx.attrs().str("mode", "constant")? {
        "constant" => Mode::Constant,
        "edge" => Mode::Edge,
        "reflect" => Mode::Reflect,
        "wrap" => Mode::Wrap,
        other => return Err(cx.attrs().wrong("mode", "constant, edge, reflect or wrap", other)),
    })
}

/// The element that is added in constant mode, as a tensor of one element.
fn fill(cx: &EvalCx, dtype: DType) -> Result<Tensor> {
    if cx.opset() >= 11 && cx.has(2) {
        let value = cx.tensor(2)?;
        let fits = value.elements() == 1 && value.dtype() == dtype;
        return if fits { Ok(value.clone()) } else { Err(cx.wrong_input(2, &format!("one {dtype}"))) };
    }
    let value = if cx.opset() < 11 { cx.attrs().float("value", 0.0)? } else { 0.0 };
    let made = match dtype {
        DType::String => Tensor::strings([1usize].as_slice(), vec![bytes::Bytes::new()]),
        dtype if dtype.is_float() => array::from_f32s(dtype, &[1], &[value]),
        dtype => array::from_i64s(dtype, &[1], &[value as i64]),
    };
    made.map_err(|_| cx.unsupported_dtype(0))
}

fn pad(cx: &EvalCx) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let rank = input.rank();
    let pads = if cx.opset() < 11 { pads_attr(cx.attrs(), cx.opset())?.to_vec() } else { cx.ints(1)? };
    let axes = cx.opt_ints(3)?.unwrap_or_else(|| (0..rank as i64).collect());
    if pads.len() != 2 * axes.len() {
        return Err(cx.invalid(format!("{} pads for {} axes", pads.len(), axes.len())));
    }
    let mode = mode(cx)?;
    let mut begins = vec![0i64; rank];
    let mut dims = input.dims().to_vec();
    for (i, &axis) in axes.iter().enumerate() {
        let axis = cx.axis(axis, rank)?;
        let (begin, end) = (pads[i], pads[i + axes.len()]);
        let size = (input.dims()[axis] as i64).checked_add(begin).and_then(|size| size.checked_add(end));
        let size = size.and_then(|size| usize::try_from(size).ok());
        begins[axis] = begin;
        dims[axis] = size.ok_or_else(|| cx.invalid("more is cut off than is there"))?;
    }
    if cx.reserve(input.dtype(), &dims)? == 0 {
        return cx.give(movement::take(input, &dims, std::iter::empty()));
    }
    let nothing = input.elements() == 0 && !dims.contains(&0);
    if nothing && !matches!(mode, Mode::Constant) {
        return Err(cx.invalid("nothing to repeat"));
    }
    // For each axis, the offset of each entry's source.
    let strides = array::strides(input.dims());
    let tables: Vec<Vec<Option<usize>>> = (0..rank)
        .map(|axis| {
            let size = input.dims()[axis] as i64;
            let source = |at: usize| mode.source(at as i64 - begins[axis], size);
            (0..dims[axis]).map(|at| source(at).map(|at| at as usize * strides[axis])).collect()
        })
        .collect();
    let fill = fill(cx, input.dtype())?;
    let picks = sums(&tables).map(|at| at.map_or((1, 0), |at| (0, at)));
    cx.give(movement::pick(&[input, &fill], &dims, picks))
}

/// For every index of a shape in row-major order, the sum of one entry of each axis's table; none if one is none.
pub(super) fn sums(tables: &[Vec<Option<usize>>]) -> impl Iterator<Item = Option<usize>> {
    let dims: Vec<usize> = tables.iter().map(Vec::len).collect();
    let mut index = vec![0usize; dims.len()];
    let mut more = !dims.contains(&0);
    std::iter::from_fn(move || {
        if !more {
            return None;
        }
        let sum = tables.iter().zip(&index).try_fold(0usize, |sum, (table, &at)| Some(sum + table[at]?));
        more = crate::array::advance(&mut index, &dims);
        Some(sum)
    })
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[&Table::new("Pad", 1, pad_infer).eval(pad)];
