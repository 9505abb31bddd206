//! Joined and split along one axis: Concat, Split.
//!
//! Concat's axis defaults to 1 in opset 1 to 3. Split's sizes are an attribute up to opset 12, an input since 13; opset 18
//! added `num_outputs`, with a smaller last part where the axis does not divide.

use ir::{Dim, Tensor};

use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::{CONTENTS_LIMIT, InferCx, shape};
use crate::kernel::movement;
use crate::rule::{OpRule, Table};
use crate::sym;
use crate::value::Value;

fn concat_infer(cx: &mut InferCx) -> Result<()> {
    let count = cx.input_count();
    cx.need(0)?;
    let axis = cx.attrs().int("axis", 1)?;
    let dtype = cx.same_dtype(0..count)?;
    let Some(rank) = (0..count).find_map(|at| cx.rank(at)) else {
        cx.set(0, dtype, None);
        return Ok(());
    };
    let axis = cx.axis(axis, rank)?;
    let mut dims = vec![Dim::Unknown; rank];
    dims[axis] = Dim::Known(0);
    for at in 0..count {
        let Some(next) = cx.need_rank(at, rank)? else {
            cx.need(at)?;
            dims[axis] = Dim::Unknown;
            continue;
        };
        for (i, (dim, size)) in dims.iter_mut().zip(next).enumerate() {
            *dim = match i == axis {
                true => sym::add(dim, size),
                false => shape::merge_dim(dim, size)
                    .ok_or_else(|| cx.wrong_input(at, &format!("size {dim} along axis {i}")))?,
            };
        }
    }
    cx.set(0, dtype, Some(dims));
    if rank == 1 {
        concat_contents(cx, count);
    }
    Ok(())
}

/// Contents of joined vectors; a part of known length and unknown contents leaves a gap.
fn concat_contents(cx: &mut InferCx, count: usize) {
    let mut joined = Vec::new();
    for at in 0..count {
        match (cx.contents(at), cx.dims(at).and_then(|dims| dims.first()?.known())) {
            (Some(contents), _) => joined.extend(contents.iter().cloned()),
            (None, Some(length)) if length <= CONTENTS_LIMIT => {
                joined.extend(std::iter::repeat_n(Dim::Unknown, length));
            }
            _ => return,
        }
        if joined.len() > CONTENTS_LIMIT {
            return;
        }
    }
    cx.set_contents(0, joined);
}

fn concat(cx: &EvalCx) -> Result<Outputs> {
    let parts: Vec<&Tensor> = (0..cx.input_count()).map(|at| cx.tensor(at)).collect::<Result<_>>()?;
    let first = cx.tensor(0)?;
    let axis = cx.axis(cx.attrs().int("axis", 1)?, first.rank())?;
    cx.give(Ok(join(cx, &parts, axis)?))
}

/// The tensors one after the other along an axis; they agree in all other sizes.
pub(super) fn join(cx: &EvalCx, parts: &[&Tensor], axis: usize) -> Result<Tensor> {
    let first = parts.first().ok_or_else(|| cx.invalid("nothing to join"))?;
    let mut dims = first.dims().to_vec();
    let Some(size) = dims.get_mut(axis) else { return Err(cx.invalid(format!("axis {axis}"))) };
    *size = 0;
    for part in parts {
        let fits = part.rank() == first.rank()
            && part.dims().iter().zip(first.dims()).enumerate().all(|(i, (a, b))| i == axis || a == b);
        let total = dims[axis].checked_add(part.dims().get(axis).copied().unwrap_or(0)).filter(|_| fits);
        let unequal = || cx.invalid(format!("sizes {:?} and {:?} do not join", first.dims(), part.dims()));
        dims[axis] = total.ok_or_else(unequal)?;
    }
    cx.reserve(first.dtype(), &dims)?;
    let rows: usize = dims[..axis].iter().product();
    let inner: usize = dims[axis + 1..].iter().product();
    let runs: Vec<usize> = parts.iter().map(|part| part.dims()[axis] * inner).collect();
    movement::weave(parts, &dims, rows, &runs).map_err(|error| cx.tensor_error(error))
}

// ---- Split -----------------------------------------------------------------------------------------------------

/// Sizes of the parts where nothing but their number is given; none if the axis does not split into so many. All are as
/// large as the first, except that the last may be smaller where `last_may_be_smaller`.
fn even_parts(size: usize, parts: usize, last_may_be_smaller: bool) -> Option<Vec<usize>> {
    if parts == 0 || (!last_may_be_smaller && !size.is_multiple_of(parts)) {
        return None;
    }
    let each = size.div_ceil(parts);
    let last = size.checked_sub(each.checked_mul(parts - 1)?)?;
    let mut sizes = vec![each; parts - 1];
    sizes.push(last);
    Some(sizes)
}

fn split_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let count = cx.output_count();
    if let Some(wanted) = cx.attrs().opt_int("num_outputs")?.filter(|_| cx.opset() >= 18)
        && usize::try_from(wanted).ok() != Some(count)
    {
        return Err(cx.attrs().wrong("num_outputs", &count.to_string(), &wanted.to_string()));
    }
    let Some(dims) = cx.dims(0) else {
        (0..count).for_each(|at| cx.set(at, cx.dtype(0), None));
        return Ok(());
    };
    let axis = cx.axis(cx.attrs().int("axis", 0)?, dims.len())?;
    let given: Option<Vec<Dim>> = match cx.opset() < 13 {
        true => cx.attrs().opt_ints("split")?.map(|sizes| sizes.iter().map(|&v| Dim::Known(v)).collect()),
        false if cx.has(1) => Some(match cx.contents(1) {
            Some(sizes) => sizes.into_owned(),
            None => vec![Dim::Unknown; count],
        }),
        false => None,
    };
    let sizes: Vec<Dim> = match (given, dims[axis].known()) {
        (Some(sizes), whole) => {
            check_parts(cx, &sizes, count, whole)?;
            sizes
        }
        (None, Some(size)) => match even_parts(size, count, cx.opset() >= 18) {
            Some(sizes) => sizes.into_iter().map(Dim::from).collect(),
            // Exporters write such a Split into branches that no run takes.
            None if cx.opset() >= 18 => vec![Dim::Unknown; count],
            None => return Err(cx.invalid(format!("a size of {size} does not split into {count}"))),
        },
        (None, None) if cx.opset() < 18 => {
            vec![sym::floor_div(&dims[axis], &Dim::from(count)); count]
        }
        // The last parts may be smaller than the others.
        (None, None) => vec![Dim::Unknown; count],
    };
    let contents = cx.contents(0).filter(|_| dims.len() == 1);
    let mut start = Some(0usize);
    for (at, size) in sizes.iter().enumerate() {
        let mut part = dims.to_vec();
        part[axis] = size.clone();
        cx.set(at, cx.dtype(0), Some(part));
        let end = start.zip(size.known()).and_then(|(start, size)| start.checked_add(size));
        if let (Some(from), Some(to), Some(contents)) = (start, end, &contents)
            && let Some(slice) = contents.get(from..to)
        {
            cx.set_contents(at, slice.to_vec());
        }
        start = end;
    }
    Ok(())
}

fn check_parts(cx: &InferCx, sizes: &[Dim], count: usize, whole: Option<usize>) -> Result<()> {
    if sizes.len() != count {
        return Err(cx.invalid(format!("{} sizes for {count} outputs", sizes.len())));
    }
    match (sym::sum(sizes), whole) {
        (Dim::Known(sum), Some(whole)) if usize::try_from(sum).ok() != Some(whole) => {
            Err(cx.invalid(format!("sizes {} of an axis of {whole}", shape::show(sizes))))
        }
        _ => Ok(()),
    }
}

fn split(cx: &EvalCx) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let axis = cx.axis(cx.attrs().int("axis", 0)?, input.rank())?;
    let size = input.dims()[axis];
    if let Some(parts) = cx.attrs().opt_int("num_outputs")?.filter(|_| cx.opset() >= 18)
        && usize::try_from(parts).ok() != Some(cx.wanted())
    {
        return Err(cx.attrs().wrong("num_outputs", &cx.wanted().to_string(), &parts.to_string()));
    }
    let given =
        if cx.opset() < 13 { cx.attrs().opt_ints("split")?.map(<[_]>::to_vec) } else { cx.opt_ints(1)? };
    let sizes = match given {
        Some(sizes) => sizes.iter().map(|&v| usize::try_from(v).ok()).collect::<Option<Vec<usize>>>(),
        None => even_parts(size, cx.wanted(), cx.opset() >= 18),
    };
    let sum = |sizes: &[usize]| sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size));
    let sizes = sizes.filter(|sizes| sum(sizes) == Some(size) && sizes.len() == cx.wanted());
    let sizes = sizes.ok_or_else(|| cx.invalid(format!("a size of {size} does not split as asked")))?;
    let mut start = 0;
    let mut parts = Vec::new();
    for size in sizes {
        parts.push(Value::Tensor(section(cx, input, axis, start, size)?));
        start += size;
    }
    Ok(parts)
}

/// `size` entries from `start` on along an axis; the caller checked that they are there.
pub(super) fn section(cx: &EvalCx, input: &Tensor, axis: usize, start: usize, size: usize) -> Result<Tensor> {
    let mut dims = input.dims().to_vec();
    dims[axis] = size;
    cx.reserve(input.dtype(), &dims)?;
    let strides: Vec<isize> = crate::array::strides(input.dims()).iter().map(|&s| s as isize).collect();
    let offset = start as isize * strides[axis];
    movement::take_strided(input, &dims, offset, &strides).map_err(|error| cx.tensor_error(error))
}

/// The table.
pub const RULES: &[&dyn OpRule] =
    &[&Table::new("Concat", 1, concat_infer).eval(concat), &Table::new("Split", 2, split_infer).eval(split)];
