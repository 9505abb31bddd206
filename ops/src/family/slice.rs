//! Slice: `data[starts[0]:ends[0]:steps[0], …]` along `axes`, numpy's way.
//!
//! Attributes without steps up to opset 9, inputs since 10. Starts and ends beyond the axis are cut to it; negative ones
//! count from the end.

use std::borrow::Cow;

use ir::Dim;

use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::movement;
use crate::rule::{OpRule, Table};
use crate::sym;

/// First index, number of entries and step of a slice of an axis of `size` entries.
fn range(start: i64, end: i64, step: i64, size: i64) -> (i64, i64, i64) {
    let from_end = |at: i64| if at < 0 { at.saturating_add(size) } else { at };
    let (start, end) = (from_end(start), from_end(end));
    if step > 0 {
        let (start, end) = (start.clamp(0, size), end.clamp(0, size));
        (start, if end > start { (end - start - 1) / step + 1 } else { 0 }, step)
    } else {
        let (start, end) = (start.clamp(-1, size - 1), end.clamp(-1, size - 1));
        let by = step.checked_neg().unwrap_or(i64::MAX);
        (start, if start > end { (start - end - 1) / by + 1 } else { 0 }, step)
    }
}

/// The arguments, each as far as it is known: `None` where it is given but unknown.
struct Arguments<'a> {
    starts: Option<Cow<'a, [Dim]>>,
    ends: Option<Cow<'a, [Dim]>>,
    /// None: the first axes.
    axes: Option<Option<Vec<i64>>>,
    /// None: all 1.
    steps: Option<Option<Vec<i64>>>,
}

fn known(values: &[i64]) -> Cow<'static, [Dim]> {
    Cow::Owned(values.iter().map(|&value| Dim::Known(value)).collect())
}

fn arguments<'a>(cx: &InferCx<'a>) -> Result<Arguments<'a>> {
    if cx.opset() < 10 {
        let attrs = cx.attrs();
        return Ok(Arguments {
            starts: Some(known(attrs.need_ints("starts")?)),
            ends: Some(known(attrs.need_ints("ends")?)),
            axes: attrs.opt_ints("axes")?.map(|axes| Some(axes.to_vec())),
            steps: None,
        });
    }
    cx.need(1)?;
    cx.need(2)?;
    Ok(Arguments {
        starts: cx.contents(1),
        ends: cx.contents(2),
        axes: cx.has(3).then(|| cx.ints(3)),
        steps: cx.has(4).then(|| cx.ints(4)),
    })
}

fn slice_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let arguments = arguments(cx)?;
    let Some(dims) = cx.dims(0) else {
        cx.set(0, cx.dtype(0), None);
        return Ok(());
    };
    let mut out = dims.to_vec();
    let count = [&arguments.starts, &arguments.ends].into_iter().flatten().next().map(|all| all.len());
    let axes = match (&arguments.axes, count) {
        (Some(axes), _) => axes.clone(),
        (None, Some(count)) => Some((0..count as i64).collect()),
        (None, None) => None,
    };
    let Some(axes) = axes else {
        // Any axis may be cut.
        out.iter_mut().for_each(|dim| *dim = Dim::Unknown);
        cx.set(0, cx.dtype(0), Some(out));
        return Ok(());
    };
    let fits = |list: &Option<Cow<[Dim]>>| list.as_ref().is_none_or(|list| list.len() == axes.len());
    if !fits(&arguments.starts) || !fits(&arguments.ends) {
        return Err(cx.invalid("starts, ends and axes have different lengths"));
    }
    let at = |list: &Option<Cow<[Dim]>>, i: usize| {
        list.as_ref().and_then(|list| list.get(i).cloned()).unwrap_or(Dim::Unknown)
    };
    for (i, &axis) in axes.iter().enumerate() {
        let axis = cx.axis(axis, dims.len())?;
        let step = match &arguments.steps {
            None => Some(1),
            Some(None) => None,
            Some(Some(steps)) => Some(*steps.get(i).ok_or_else(|| cx.invalid("too few steps"))?),
        };
        if step == Some(0) {
            return Err(cx.invalid("a step of 0"));
        }
        out[axis] = match step {
            Some(step) => sliced(&at(&arguments.starts, i), &at(&arguments.ends, i), step, &dims[axis]),
            None => Dim::Unknown,
        };
    }
    cx.set(0, cx.dtype(0), Some(out));
    slice_contents(cx, &arguments, &axes);
    Ok(())
}

/// The size of a slice whose ends may be expressions.
fn sliced(start: &Dim, end: &Dim, step: i64, size: &Dim) -> Dim {
    if let (Dim::Known(start), Dim::Known(end), Dim::Known(size)) = (start, end, size) {
        return Dim::Known(range(*start, *end, step, *size).1);
    }
    // A whole axis backwards.
    if step == -1 && matches!((start, end), (Dim::Known(-1), Dim::Known(end)) if *end <= -(1 << 31) + 1) {
        return size.clone();
    }
    if step < 1 {
        return Dim::Unknown;
    }
    let at = start;
    let (Some(start), Some(end)) = (bounded(start, size), bounded(end, size)) else { return Dim::Unknown };
    // To the end, the cut of the start drops out: size - min(start, size) = max(size - start, 0).
    let start = if end == *size && sym::is_non_negative(at) { at.clone() } else { start };
    let length = sym::max(&sym::sub(&end, &start), &Dim::Known(0));
    sym::ceil_div(&length, &Dim::Known(step))
}

/// A start or end as an index between 0 and `size`; none if its sign is not known.
fn bounded(at: &Dim, size: &Dim) -> Option<Dim> {
    const FAR: i64 = (1 << 31) - 1;
    match at {
        Dim::Known(0) => Some(Dim::Known(0)),
        // Exporters write the largest int32 or int64 for "to the end".
        Dim::Known(at) if *at >= FAR => Some(size.clone()),
        Dim::Known(at) if *at <= -FAR => Some(Dim::Known(0)),
        Dim::Known(at) if *at < 0 => Some(sym::max(&sym::add(size, &Dim::Known(*at)), &Dim::Known(0))),
        at if at == size => Some(size.clone()),
        at if sym::is_non_negative(at) => Some(sym::min(at, size)),
        // `-n` for a size n counts from the end, or is 0.
        _ => None,
    }
    .filter(|dim| *dim != Dim::Unknown)
}

fn slice_contents(cx: &mut InferCx, arguments: &Arguments, axes: &[i64]) {
    let Some(contents) = cx.contents(0).filter(|_| cx.rank(0) == Some(1) && axes.len() == 1) else { return };
    let number = |list: &Option<Cow<[Dim]>>| match list.as_ref().and_then(|list| list.first()) {
        Some(Dim::Known(value)) => Some(*value),
        _ => None,
    };
    let step = match &arguments.steps {
        None => Some(1),
        Some(steps) => steps.as_ref().and_then(|steps| steps.first().copied()),
    };
    let (Some(start), Some(end), Some(step)) = (number(&arguments.starts), number(&arguments.ends), step)
    else {
        return;
    };
    let (start, count, step) = range(start, end, step, contents.len() as i64);
    let at = |i: i64| usize::try_from(start + i * step).ok().and_then(|at| contents.get(at).cloned());
    if let Some(taken) = (0..count).map(at).collect() {
        cx.set_contents(0, taken);
    }
}

fn slice(cx: &EvalCx) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let attrs = cx.attrs();
    let (starts, ends, axes, steps) = match cx.opset() < 10 {
        true => (
            attrs.need_ints("starts")?.to_vec(),
            attrs.need_ints("ends")?.to_vec(),
            attrs.opt_ints("axes")?.map(<[_]>::to_vec),
            None,
        ),
        false => (cx.ints(1)?, cx.ints(2)?, cx.opt_ints(3)?, cx.opt_ints(4)?),
    };
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err(cx.invalid("starts, ends, axes and steps have different lengths"));
    }
    let mut dims = input.dims().to_vec();
    let mut strides: Vec<isize> = array::strides(&dims).iter().map(|&s| s as isize).collect();
    let mut offset = 0isize;
    for (((start, end), axis), step) in starts.into_iter().zip(ends).zip(axes).zip(steps) {
        let axis = cx.axis(axis, dims.len())?;
        if step == 0 {
            return Err(cx.invalid("a step of 0"));
        }
        let (start, count, step) = range(start, end, step, input.dims()[axis] as i64);
        dims[axis] = count as usize;
        if count > 0 {
            offset += start as isize * strides[axis];
        }
        strides[axis] = if count > 1 { strides[axis] * step as isize } else { 0 };
    }
    cx.reserve(input.dtype(), &dims)?;
    cx.give(movement::take_strided(input, &dims, offset, &strides))
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[&Table::new("Slice", 1, slice_infer).eval(slice)];
