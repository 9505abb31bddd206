//! EmbedLayerNormalization of com.microsoft: the sum of word, position and segment embeddings, normalized by rows.
//!
//! `input_ids, segment_ids?, words, positions, segments?, gamma, beta, mask?, position_ids?` gives `y [B, S, H]`, the number
//! of ones in each row of the mask (0 without a mask) and the sum itself.

use ir::{DType, Dim};

use super::layer_normalization::{Form, normalize};
use super::reals::{for_real, reals, reals_of, value};
use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::real::Real;
use crate::rule::{OpRule, Table};

fn infer(cx: &mut InferCx) -> Result<()> {
    let ids = cx.need_rank(0, 2)?;
    let size = cx.need_rank(2, 2)?.map_or(Dim::Unknown, |dims| dims[1].clone());
    let dims = ids.map(|ids| vec![ids[0].clone(), ids[1].clone(), size]);
    cx.set(1, cx.dtype(0), ids.map(|ids| vec![ids[0].clone()]));
    cx.set(2, cx.dtype(2), dims.clone());
    cx.set(0, cx.dtype(2), dims);
    Ok(())
}

fn eval(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 2, T => run::<T>(cx))
}

/// Adds rows of the table at input `at` to the rows of `sum`.
fn add_rows<T: Real>(cx: &EvalCx, sum: &mut [T], at: usize, ids: &[i64], size: usize) -> Result<()> {
    let table = reals::<T>(cx, at)?;
    let &[rows, columns] = cx.tensor(at)?.dims() else { return Err(cx.wrong_input(at, "a table")) };
    if columns != size {
        return Err(cx.wrong_input(at, &format!("rows of {size}")));
    }
    for (to, &id) in sum.chunks_exact_mut(size.max(1)).zip(ids.iter().cycle()) {
        let row = usize::try_from(id).ok().filter(|&row| row < rows);
        let row =
            row.ok_or_else(|| cx.wrong_input(at, &format!("at least {} rows", id.saturating_add(1))))?;
        to.iter_mut().zip(&table[row * size..][..size]).for_each(|(to, &from)| *to = *to + from);
    }
    Ok(())
}

fn run<T: Real>(cx: &EvalCx) -> Result<Outputs> {
    let (&[batch, len], &[_, size]) = (cx.tensor(0)?.dims(), cx.tensor(2)?.dims()) else {
        return Err(cx.wrong_input(0, "[batch, length]"));
    };
    let (ids_dtype, dtype) = (cx.tensor(0)?.dtype(), cx.tensor(2)?.dtype());
    let dims = [batch, len, size];
    let mut sum = vec![T::zero(); cx.reserve(dtype, &dims)?];
    add_rows(cx, &mut sum, 2, &cx.ints(0)?, size)?;
    let positions = cx.opt_ints(8)?.unwrap_or_else(|| (0..len as i64).collect());
    if positions.len() != len && positions.len() != batch * len {
        return Err(cx.wrong_input(8, "a position for each token"));
    }
    add_rows(cx, &mut sum, 3, &positions, size)?;
    if let Some(segments) = cx.opt_ints(1)?.filter(|_| cx.has(4)) {
        if segments.len() != batch * len {
            return Err(cx.wrong_input(1, "a segment for each token"));
        }
        add_rows(cx, &mut sum, 4, &segments, size)?;
    }
    let epsilon = f64::from(cx.attrs().float("epsilon", 1e-12)?);
    let (gamma, beta) = (reals_of::<T>(cx, 5, &[size])?, reals_of::<T>(cx, 6, &[size])?);
    let mut rows = normalize(&sum, size, Form::Standard, epsilon).rows;
    for row in rows.chunks_exact_mut(size.max(1)) {
        row.iter_mut().zip(gamma.iter().zip(&beta)).for_each(|(y, (&gamma, &beta))| *y = *y * gamma + beta);
    }
    let counts: Vec<i64> = match cx.opt_ints(7)? {
        Some(mask) if mask.len() == batch * len && len > 0 => {
            mask.chunks_exact(len).map(|row| row.iter().filter(|&&bit| bit == 1).count() as i64).collect()
        }
        Some(_) => return Err(cx.wrong_input(7, "a mask for each token")),
        None => vec![0; batch],
    };
    let index = array::from_i64s(if ids_dtype.is_int() { ids_dtype } else { DType::I32 }, &[batch], &counts);
    Ok(vec![
        value(cx, dtype, &dims, &rows)?,
        index.map_err(|error| cx.tensor_error(error))?.into(),
        value(cx, dtype, &dims, &sum)?,
    ])
}

/// The table.
pub const RULES: &[&dyn OpRule] =
    &[&Table::new("EmbedLayerNormalization", 1, infer).domain("com.microsoft", 1).eval(eval)];
