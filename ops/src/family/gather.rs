//! Elements by index: Gather, GatherElements, GatherND, OneHot.
//!
//! Negative indices count from the end (Gather since opset 11, before that the specification asks for non-negative ones).
//! An index out of range is an error, except in OneHot, where it gives a row of `off`.

use ir::{Dim, Tensor};

use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::{InferCx, shape};
use crate::kernel::movement;
use crate::rule::{OpRule, Table};

/// Index `at` of an axis of `size` entries.
pub(super) fn wrap(at: i64, size: usize) -> Option<usize> {
    shape::axis(at, size)
}

/// The indices of input `at` as positions on an axis of `size` entries.
pub(super) fn positions(cx: &EvalCx, at: usize, size: usize) -> Result<Vec<usize>> {
    let out = |index: i64| cx.invalid(format!("index {index} is not on an axis of {size}"));
    cx.ints(at)?.into_iter().map(|index| wrap(index, size).ok_or_else(|| out(index))).collect()
}

// ---- Gather: data[.., indices, ..] -----------------------------------------------------------------------------

fn gather_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.need(1)?;
    let (Some(dims), Some(indices)) = (cx.dims(0), cx.dims(1)) else {
        cx.set(0, cx.dtype(0), None);
        return Ok(());
    };
    let axis = cx.axis(cx.attrs().int("axis", 0)?, dims.len())?;
    let out = [&dims[..axis], indices, &dims[axis + 1..]].concat();
    cx.set(0, cx.dtype(0), Some(out));
    if let (1, Some(contents), Some(indices)) = (dims.len(), cx.contents(0), cx.ints(1)) {
        let taken = indices.iter().map(|&at| wrap(at, contents.len()).map(|at| contents[at].clone()));
        if let Some(taken) = taken.collect() {
            cx.set_contents(0, taken);
        }
    }
    Ok(())
}

fn gather(cx: &EvalCx) -> Result<Outputs> {
    let (data, indices) = (cx.tensor(0)?, cx.tensor(1)?);
    let axis = cx.axis(cx.attrs().int("axis", 0)?, data.rank())?;
    let (outer, inner) = (&data.dims()[..axis], &data.dims()[axis + 1..]);
    let dims = [outer, indices.dims(), inner].concat();
    cx.reserve(data.dtype(), &dims)?;
    let size = data.dims()[axis];
    let positions = positions(cx, 1, size)?;
    let (rows, block): (usize, usize) = (outer.iter().product(), inner.iter().product());
    let starts = (0..rows).flat_map(|row| positions.iter().map(move |&at| (row * size + at) * block));
    match ir::checked_elements(&dims) {
        Ok(0) => cx.give(movement::take(data, &dims, std::iter::empty())),
        _ => cx.give(movement::take_blocks(data, &dims, block, starts)),
    }
}

// ---- GatherElements: out[i][j][k] = data[indices[i][j][k]][j][k] -------------------------------------------------

fn gather_elements_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.need(1)?;
    if let (Some(a), Some(b)) = (cx.rank(0), cx.rank(1))
        && a != b
    {
        return Err(cx.wrong_input(1, &format!("indices of rank {a}")));
    }
    cx.set(0, cx.dtype(0), cx.dims(1).map(<[_]>::to_vec));
    Ok(())
}

/// For each element of `indices`, the position in `data` with its coordinate on `axis` replaced by the index.
pub(super) fn element_positions(cx: &EvalCx, data: &Tensor, at: usize, axis: usize) -> Result<Vec<usize>> {
    let indices = cx.tensor(at)?;
    let fits = indices.rank() == data.rank()
        && indices.dims().iter().zip(data.dims()).enumerate().all(|(i, (a, b))| i == axis || a <= b);
    if !fits {
        return Err(cx.wrong_input(at, &format!("indices that fit {:?}", data.dims())));
    }
    let along = positions(cx, at, data.dims()[axis])?;
    let strides = array::strides(data.dims());
    let stride = strides[axis];
    let others: Vec<isize> =
        strides.iter().enumerate().map(|(i, &s)| if i == axis { 0 } else { s as isize }).collect();
    let base = movement::strided(indices.dims(), 0, &others);
    Ok(base.zip(along).map(|(base, at)| base + at * stride).collect())
}

fn gather_elements(cx: &EvalCx) -> Result<Outputs> {
    let (data, indices) = (cx.tensor(0)?, cx.tensor(1)?);
    let axis = cx.axis(cx.attrs().int("axis", 0)?, data.rank())?;
    cx.reserve(data.dtype(), indices.dims())?;
    let positions = element_positions(cx, data, 1, axis)?;
    cx.give(movement::take(data, indices.dims(), positions.into_iter()))
}

// ---- GatherND --------------------------------------------------------------------------------------------------

fn gather_nd_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.need(1)?;
    let batch = cx.attrs().int("batch_dims", 0)?;
    let (Some(dims), Some(indices)) = (cx.dims(0), cx.dims(1)) else {
        cx.set(0, cx.dtype(0), None);
        return Ok(());
    };
    let Some((depth, leading)) = indices.split_last() else {
        return Err(cx.wrong_input(1, "a tensor of rank 1 or more"));
    };
    let Some(depth) = depth.known() else {
        cx.set(0, cx.dtype(0), None);
        return Ok(());
    };
    let batch = usize::try_from(batch).ok().filter(|batch| *batch <= leading.len());
    let kept = batch.and_then(|batch| dims.get(batch.checked_add(depth)?..));
    let kept = kept.ok_or_else(|| cx.wrong_input(1, "indices no deeper than the data"))?;
    let out = [leading, kept].concat();
    cx.set(0, cx.dtype(0), Some(out));
    Ok(())
}

/// For each index vector of input `at`, the start of the slice of `data` that it names; and the slice's size. The first
/// `batch` axes of both run in step.
pub(super) fn slice_starts(
    cx: &EvalCx,
    data: &Tensor,
    at: usize,
    batch: usize,
) -> Result<(Vec<usize>, usize)> {
    let indices = cx.tensor(at)?;
    let wrong = || cx.wrong_input(at, &format!("index vectors into {:?}", data.dims()));
    let (&depth, leading) = indices.dims().split_last().ok_or_else(wrong)?;
    let used = batch.checked_add(depth).filter(|used| *used <= data.rank()).ok_or_else(wrong)?;
    if leading.get(..batch) != data.dims().get(..batch) {
        return Err(wrong());
    }
    let strides = array::strides(data.dims());
    let block: usize = data.dims()[used..].iter().product();
    let batches: usize = leading[..batch].iter().product();
    let vectors: usize = leading[batch..].iter().product();
    let step: usize = data.dims()[batch..].iter().product();
    let flat = cx.ints(at)?;
    let mut starts = Vec::with_capacity(batches * vectors);
    for vector in 0..batches * vectors {
        let mut start = vector / vectors.max(1) * step;
        for (i, &index) in flat[vector * depth..(vector + 1) * depth].iter().enumerate() {
            let size = data.dims()[batch + i];
            let at = wrap(index, size);
            let at = at.ok_or_else(|| cx.invalid(format!("index {index} is not on an axis of {size}")))?;
            start += at * strides[batch + i];
        }
        starts.push(start);
    }
    Ok((starts, block))
}

fn gather_nd(cx: &EvalCx) -> Result<Outputs> {
    let (data, indices) = (cx.tensor(0)?, cx.tensor(1)?);
    let batch =
        usize::try_from(cx.attrs().int("batch_dims", 0)?).map_err(|_| cx.invalid("negative batch_dims"))?;
    let (&depth, leading) = indices.dims().split_last().ok_or_else(|| cx.wrong_input(1, "index vectors"))?;
    let kept = batch.checked_add(depth).and_then(|used| data.dims().get(used..));
    let kept = kept.ok_or_else(|| cx.wrong_input(1, &format!("index vectors into {:?}", data.dims())))?;
    let dims = [leading, kept].concat();
    if cx.reserve(data.dtype(), &dims)? == 0 {
        return cx.give(movement::take(data, &dims, std::iter::empty()));
    }
    let (starts, block) = slice_starts(cx, data, 1, batch)?;
    cx.give(movement::take_blocks(data, &dims, block, starts.into_iter()))
}

// ---- OneHot ----------------------------------------------------------------------------------------------------

fn one_hot_infer(cx: &mut InferCx) -> Result<()> {
    (0..3).try_for_each(|at| cx.need(at).map(|_| ()))?;
    let Some(indices) = cx.dims(0) else {
        cx.set(0, cx.dtype(2), None);
        return Ok(());
    };
    let axis = cx.axis(cx.attrs().int("axis", -1)?, indices.len() + 1)?;
    let depth = cx.contents(1).and_then(|depth| depth.first().cloned()).unwrap_or(Dim::Unknown);
    let mut dims = indices.to_vec();
    dims.insert(axis, if matches!(depth, Dim::Known(size) if size < 0) { Dim::Unknown } else { depth });
    cx.set(0, cx.dtype(2), Some(dims));
    Ok(())
}

fn one_hot(cx: &EvalCx) -> Result<Outputs> {
    let (indices, values) = (cx.tensor(0)?, cx.tensor(2)?);
    let depth = cx.f64s(1)?.first().copied().filter(|depth| *depth >= 0.0 && *depth < 9e15);
    let depth = depth.ok_or_else(|| cx.wrong_input(1, "a size"))? as i64;
    if values.elements() != 2 {
        return Err(cx.wrong_input(2, "two values"));
    }
    let axis = cx.axis(cx.attrs().int("axis", -1)?, indices.rank() + 1)?;
    let mut dims = indices.dims().to_vec();
    dims.insert(axis, depth as usize);
    cx.reserve(values.dtype(), &dims)?;
    let hot: Vec<i64> = match indices.dtype() {
        dtype if dtype.is_float() => cx.f64s(0)?.into_iter().map(|v| v as i64).collect(),
        _ => cx.ints(0)?,
    };
    let inner: usize = dims[axis + 1..].iter().product();
    let outer: usize = dims[..axis].iter().product();
    let hot = &hot;
    let picks = (0..outer).flat_map(move |row| {
        (0..depth).flat_map(move |level| {
            (0..inner).map(move |column| {
                let index = hot[row * inner + column];
                let index = if index < 0 { index.saturating_add(depth) } else { index };
                (0, usize::from(index == level))
            })
        })
    });
    cx.give(movement::pick(&[values], &dims, picks))
}

// ---- ArrayFeatureExtractor: data[..., indices] ------------------------------------------------------------------

fn features_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.need(1)?;
    let count = cx.dims(1).map_or(Dim::Unknown, crate::sym::product);
    let dims = cx.dims(0).and_then(|dims| dims.split_last()).map(|(_, outer)| match outer {
        [] => vec![Dim::Known(1), count.clone()],
        outer => [outer, std::slice::from_ref(&count)].concat(),
    });
    cx.set(0, cx.dtype(0), dims);
    Ok(())
}

fn features(cx: &EvalCx) -> Result<Outputs> {
    let data = cx.tensor(0)?;
    let (&size, outer) =
        data.dims().split_last().ok_or_else(|| cx.wrong_input(0, "a tensor with an axis"))?;
    let columns = positions(cx, 1, size)?;
    let rows: usize = outer.iter().product();
    let dims = if outer.is_empty() { vec![1, columns.len()] } else { [outer, &[columns.len()]].concat() };
    cx.reserve(data.dtype(), &dims)?;
    let picks = (0..rows).flat_map(|row| columns.iter().map(move |&at| row * size + at));
    cx.give(movement::take(data, &dims, picks))
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("Gather", 1, gather_infer).eval(gather),
    &Table::new("GatherElements", 11, gather_elements_infer).eval(gather_elements),
    &Table::new("GatherND", 11, gather_nd_infer).eval(gather_nd),
    &Table::new("OneHot", 9, one_hot_infer).eval(one_hot),
    &Table::new("ArrayFeatureExtractor", 1, features_infer).domain("ai.onnx.ml", 5).eval(features),
];
