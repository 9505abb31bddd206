//! The same elements under another shape: Reshape, Flatten, Squeeze, Unsqueeze, Identity; and Shape, Size.
//!
//! Reshape takes its shape as an attribute up to opset 4. Squeeze and Unsqueeze take axes as an attribute up to opset 12,
//! as an input since 13. Shape has `start` and `end` since opset 15.

use ir::{DType, Dim};

use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::{InferCx, Known, shape};
use crate::rule::{OpRule, Table};
use crate::sym;
use crate::value::Value;

/// The type with other sizes; contents and the constant stay as they are.
fn reshaped(cx: &mut InferCx, dims: Option<Vec<Dim>>) {
    let elements = cx.input(0).and_then(|known| known.inside.elements.clone());
    let constant = cx.constant(0).cloned();
    cx.set(0, cx.dtype(0), dims.clone());
    let sizes: Option<Vec<usize>> = dims.and_then(|dims| dims.iter().map(Dim::known).collect());
    let (Some(sizes), false) = (sizes, constant.is_none() && elements.is_none()) else { return };
    if let Some(tensor) = constant.and_then(|tensor| tensor.reshaped(sizes.as_slice()).ok()) {
        cx.set_known(0, Known::of_constant(tensor));
    } else if let Some(elements) = elements {
        cx.set_contents(0, elements);
    }
}

fn give_reshaped(cx: &EvalCx, dims: &[usize]) -> Result<Outputs> {
    cx.give(cx.tensor(0)?.reshaped(dims))
}

// ---- Reshape ---------------------------------------------------------------------------------------------------

fn reshape_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let allow_zero = cx.attrs().flag("allowzero", false)?;
    let target: Vec<Dim> = if cx.opset() < 5 {
        cx.attrs().need_ints("shape")?.iter().map(|&v| Dim::Known(v)).collect()
    } else {
        cx.need(1)?;
        cx.need_rank(1, 1)?;
        match cx.contents(1) {
            Some(contents) => contents.into_owned(),
            None => {
                let rank = cx.need_rank(1, 1)?.and_then(|dims| dims[0].known());
                let rank = rank.filter(|rank| *rank <= crate::infer::CONTENTS_LIMIT);
                reshaped(cx, rank.map(|rank| vec![Dim::Unknown; rank]));
                return Ok(());
            }
        }
    };
    let input = cx.dims(0);
    let mut dims = Vec::with_capacity(target.len());
    let mut rest = None;
    for (at, size) in target.iter().enumerate() {
        dims.push(match size {
            Dim::Known(0) if !allow_zero => match input {
                Some(input) => input.get(at).cloned().ok_or_else(|| {
                    cx.invalid(format!("size {at} is copied from an input of rank {}", input.len()))
                })?,
                None => Dim::Unknown,
            },
            Dim::Known(-1) => {
                if rest.replace(at).is_some() {
                    return Err(cx.invalid("two sizes are -1"));
                }
                Dim::Unknown
            }
            Dim::Known(size) if *size < 0 => return Err(cx.invalid(format!("size {size}"))),
            // An expression may be 0 or -1 in some run and then means another size.
            size => may_be_special(size, allow_zero),
        });
    }
    let elements = input.map_or(Dim::Unknown, sym::product);
    if let Some(at) = rest {
        let others: Vec<Dim> =
            dims.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, d)| d.clone()).collect();
        dims[at] = remaining(cx, input.unwrap_or_default(), &elements, &others)?;
    } else {
        fill_one_unknown(&mut dims, &elements);
    }
    if let (Dim::Known(have), Dim::Known(want)) = (&elements, sym::product(&dims))
        && *have != want
    {
        return Err(cx.invalid(format!("{have} elements do not fill the shape {}", shape::show(&dims))));
    }
    reshaped(cx, Some(dims));
    Ok(())
}

/// A symbolic size in the target: what it means if it may turn out as 0 cannot be said, except that a name of a size that
/// is 0 makes the result empty or invalid either way, so the name itself is right in every valid run.
fn may_be_special(size: &Dim, allow_zero: bool) -> Dim {
    match sym::is_non_negative(size) || allow_zero {
        true => size.clone(),
        false => Dim::Unknown,
    }
}

/// The size that -1 stands for.
fn remaining(cx: &InferCx, input: &[Dim], elements: &Dim, others: &[Dim]) -> Result<Dim> {
    let product = sym::product(others);
    if let (Dim::Known(have), Dim::Known(want)) = (elements, &product) {
        return match (*want, *have) {
            (0, _) => Ok(Dim::Unknown),
            (want, have) if have % want == 0 => Ok(Dim::Known(have / want)),
            _ => {
                Err(cx
                    .invalid(format!("{have} elements do not fill the shape around {}", shape::show(others))))
            }
        };
    }
    // Unknown sizes that stand on both sides cancel only by position; expressions cancel by division.
    let exact = sym::exact_div(elements, &product);
    if exact != Dim::Unknown {
        return Ok(exact);
    }
    let quotient = sym::floor_div(elements, &product);
    // The division is exact in every valid run, so the quotient may be written with rounding.
    Ok(if input.contains(&Dim::Unknown) { Dim::Unknown } else { quotient })
}

/// One unknown size among known ones follows from the number of elements.
fn fill_one_unknown(dims: &mut [Dim], elements: &Dim) {
    let unknown: Vec<usize> =
        dims.iter().enumerate().filter(|(_, d)| **d == Dim::Unknown).map(|(i, _)| i).collect();
    if let [at] = unknown[..] {
        let others = sym::product(dims.iter().filter(|dim| **dim != Dim::Unknown));
        if !matches!(others, Dim::Known(0)) {
            dims[at] = sym::exact_div(elements, &others);
        }
    }
}

fn shape_input(cx: &EvalCx) -> Result<Vec<i64>> {
    cx.tensor_of_rank(1, 1)?;
    cx.ints(1)
}

fn reshape(cx: &EvalCx) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let target = if cx.opset() < 5 { cx.attrs().need_ints("shape")?.to_vec() } else { shape_input(cx)? };
    let allow_zero = cx.attrs().flag("allowzero", false)?;
    let mut dims = Vec::with_capacity(target.len());
    let mut rest = None;
    for (at, &size) in target.iter().enumerate() {
        dims.push(match size {
            0 if !allow_zero => {
                *input.dims().get(at).ok_or_else(|| cx.invalid("a size is copied from nowhere"))?
            }
            -1 if rest.is_none() => {
                rest = Some(at);
                1
            }
            size => usize::try_from(size).map_err(|_| cx.invalid(format!("size {size}")))?,
        });
    }
    if let Some(at) = rest {
        let others = ir::checked_elements(&dims).map_err(|error| cx.tensor_error(error))?;
        dims[at] = input.elements().checked_div(others).ok_or_else(|| cx.invalid("-1 beside a size of 0"))?;
    }
    give_reshaped(cx, &dims)
}

// ---- Flatten ---------------------------------------------------------------------------------------------------

/// The axis that splits a shape in two: from `-rank` to `rank`.
fn split_axis(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis.checked_add(i64::try_from(rank).ok()?)? } else { axis };
    usize::try_from(axis).ok().filter(|&axis| axis <= rank)
}

fn flatten_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let axis = cx.attrs().int("axis", 1)?;
    let Some(dims) = cx.dims(0) else {
        cx.set(0, cx.dtype(0), Some(vec![Dim::Unknown; 2]));
        return Ok(());
    };
    let at = split_axis(axis, dims.len()).ok_or_else(|| cx.invalid(format!("axis {axis}")))?;
    let (outer, inner) = dims.split_at(at);
    reshaped(cx, Some(vec![sym::product(outer), sym::product(inner)]));
    Ok(())
}

fn flatten(cx: &EvalCx) -> Result<Outputs> {
    let dims = cx.tensor(0)?.dims();
    let axis = cx.attrs().int("axis", 1)?;
    let at = split_axis(axis, dims.len()).ok_or_else(|| cx.invalid(format!("axis {axis}")))?;
    let (outer, inner) = dims.split_at(at);
    give_reshaped(cx, &[outer.iter().product(), inner.iter().product()])
}

// ---- Squeeze, Unsqueeze ----------------------------------------------------------------------------------------

/// The axes of an operator: attribute up to opset 12, input since 13; outer none if there are none, inner none if they
/// are not known.
fn known_axes(cx: &InferCx) -> Result<Option<Option<Vec<i64>>>> {
    if cx.opset() < 13 {
        return Ok(cx.attrs().opt_ints("axes")?.map(|axes| Some(axes.to_vec())));
    }
    cx.need_axes(1)?;
    Ok(cx.has(1).then(|| cx.ints(1)))
}

fn axes_of(cx: &EvalCx) -> Result<Option<Vec<i64>>> {
    if cx.opset() < 13 { Ok(cx.attrs().opt_ints("axes")?.map(<[_]>::to_vec)) } else { cx.opt_axes(1) }
}

/// Marks the axes of a shape of `rank`; none if one is out of range or named twice.
fn marked(axes: &[i64], rank: usize) -> Option<Vec<bool>> {
    let mut marks = vec![false; rank];
    for &axis in axes {
        let mark = marks.get_mut(shape::axis(axis, rank)?)?;
        if std::mem::replace(mark, true) {
            return None;
        }
    }
    Some(marks)
}

fn squeeze_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let axes = known_axes(cx)?;
    let Some(dims) = cx.dims(0) else {
        cx.set(0, cx.dtype(0), None);
        return Ok(());
    };
    let kept = match axes {
        Some(None) => {
            let count = cx.dims(1).and_then(|axes| axes.first()?.known());
            let rank = count.and_then(|count| dims.len().checked_sub(count));
            let all_ones_go = rank.map(|rank| vec![Dim::Unknown; rank]);
            reshaped(cx, all_ones_go);
            return Ok(());
        }
        Some(Some(axes)) => {
            let marks = marked(&axes, dims.len()).ok_or_else(|| cx.invalid(format!("axes {axes:?}")))?;
            if let Some((_, dim)) = marks
                .iter()
                .zip(dims)
                .find(|(mark, dim)| **mark && !matches!(dim, Dim::Known(1)) && dim.known().is_some())
            {
                return Err(cx.invalid(format!("a size of {dim} cannot be squeezed")));
            }
            marks.iter().zip(dims).filter(|(mark, _)| !**mark).map(|(_, dim)| dim.clone()).collect()
        }
        // Every size of 1 goes: nothing can be said where one is not a number.
        None if dims.iter().any(|dim| dim.known().is_none()) => {
            cx.set(0, cx.dtype(0), None);
            return Ok(());
        }
        None => dims.iter().filter(|dim| **dim != Dim::Known(1)).cloned().collect(),
    };
    reshaped(cx, Some(kept));
    Ok(())
}

fn squeeze(cx: &EvalCx) -> Result<Outputs> {
    let dims = cx.tensor(0)?.dims();
    let marks = match axes_of(cx)? {
        Some(axes) => marked(&axes, dims.len()).ok_or_else(|| cx.invalid(format!("axes {axes:?}")))?,
        None => dims.iter().map(|&size| size == 1).collect(),
    };
    if let Some((_, size)) = marks.iter().zip(dims).find(|(mark, size)| **mark && **size != 1) {
        return Err(cx.invalid(format!("a size of {size} cannot be squeezed")));
    }
    let kept: Vec<usize> =
        marks.iter().zip(dims).filter(|(mark, _)| !**mark).map(|(_, &size)| size).collect();
    give_reshaped(cx, &kept)
}

fn unsqueeze_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let axes = known_axes(cx)?.ok_or_else(|| cx.invalid("it has no axes"))?;
    let Some(dims) = cx.dims(0) else {
        cx.set(0, cx.dtype(0), None);
        return Ok(());
    };
    let Some(axes) = axes else {
        let count = cx.dims(1).and_then(|axes| axes.first()?.known());
        let count = count.filter(|count| *count <= crate::infer::CONTENTS_LIMIT);
        reshaped(cx, count.map(|count| vec![Dim::Unknown; dims.len() + count]));
        return Ok(());
    };
    let marks = marked(&axes, dims.len() + axes.len()).ok_or_else(|| cx.invalid(format!("axes {axes:?}")))?;
    let mut rest = dims.iter();
    let spread = marks
        .iter()
        .map(|mark| if *mark { Dim::Known(1) } else { rest.next().cloned().unwrap_or(Dim::Unknown) });
    let dims = spread.collect();
    reshaped(cx, Some(dims));
    Ok(())
}

fn unsqueeze(cx: &EvalCx) -> Result<Outputs> {
    let dims = cx.tensor(0)?.dims();
    let axes = axes_of(cx)?.ok_or_else(|| cx.invalid("it has no axes"))?;
    let marks = marked(&axes, dims.len() + axes.len()).ok_or_else(|| cx.invalid(format!("axes {axes:?}")))?;
    let mut rest = dims.iter();
    let spread: Vec<usize> =
        marks.iter().map(|mark| if *mark { 1 } else { rest.next().copied().unwrap_or(1) }).collect();
    give_reshaped(cx, &spread)
}

// ---- Identity, Shape, Size -------------------------------------------------------------------------------------

fn identity_infer(cx: &mut InferCx) -> Result<()> {
    let known = cx.need(0)?.clone();
    cx.set_known(0, known);
    Ok(())
}

fn identity(cx: &EvalCx) -> Result<Outputs> {
    Ok(vec![cx.value(0)?.clone()])
}

/// The range of axes that `start` and `end` leave.
fn axes_range(start: i64, end: Option<i64>, rank: usize) -> std::ops::Range<usize> {
    let rank_i64 = i64::try_from(rank).unwrap_or(i64::MAX);
    let clamp = |axis: i64| {
        let axis = if axis < 0 { axis.saturating_add(rank_i64) } else { axis };
        usize::try_from(axis.clamp(0, rank_i64)).unwrap_or(rank)
    };
    let start = clamp(start);
    start..clamp(end.unwrap_or(rank_i64)).max(start)
}

fn shape_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let (start, end) = (cx.attrs().int("start", 0)?, cx.attrs().opt_int("end")?);
    match cx.dims(0) {
        None => cx.set(0, Some(DType::I64), Some(vec![Dim::Unknown])),
        Some(dims) => {
            let kept = &dims[axes_range(start, end, dims.len())];
            cx.set(0, Some(DType::I64), Some(vec![Dim::from(kept.len())]));
            cx.set_contents(0, kept.to_vec());
        }
    }
    Ok(())
}

fn shape_eval(cx: &EvalCx) -> Result<Outputs> {
    let dims = cx.tensor(0)?.dims();
    let range = axes_range(cx.attrs().int("start", 0)?, cx.attrs().opt_int("end")?, dims.len());
    let sizes: Vec<i64> = dims[range].iter().map(|&size| size as i64).collect();
    cx.make(&[sizes.len()], &sizes)
}

fn size_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.set(0, Some(DType::I64), Some(vec![]));
    if let Some(dims) = cx.dims(0) {
        cx.set_contents(0, vec![sym::product(dims)]);
    }
    Ok(())
}

fn size_eval(cx: &EvalCx) -> Result<Outputs> {
    Ok(vec![Value::Tensor(ir::Tensor::scalar(cx.tensor(0)?.elements() as i64))])
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("Reshape", 1, reshape_infer).eval(reshape),
    &Table::new("Flatten", 1, flatten_infer).eval(flatten),
    &Table::new("Squeeze", 1, squeeze_infer).eval(squeeze),
    &Table::new("Unsqueeze", 1, unsqueeze_infer).eval(unsqueeze),
    &Table::new("Identity", 1, identity_infer).eval(identity),
    &Table::new("Shape", 1, shape_infer).eval(shape_eval),
    &Table::new("Size", 1, size_infer).eval(size_eval),
];
