//! Bernoulli (15) and Multinomial (7): random, so that only their types and shapes are known.

use ir::{DType, Dim};

use crate::error::Result;
use crate::infer::InferCx;
use crate::rule::{OpRule, Table};

fn infer_bernoulli(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let dtype = cx.attrs().dtype("dtype")?.or(cx.dtype(0));
    cx.set(0, dtype, cx.dims(0).map(<[Dim]>::to_vec));
    Ok(())
}

fn infer_multinomial(cx: &mut InferCx) -> Result<()> {
    let batch = cx.need_rank(0, 2)?.map_or(Dim::Unknown, |dims| dims[0].clone());
    let dtype = cx.attrs().dtype("dtype")?.unwrap_or(DType::I32);
    cx.set(0, Some(dtype), Some(vec![batch, Dim::Known(cx.attrs().int("sample_size", 1)?)]));
    Ok(())
}

/// The table.
pub const RULES: &[&dyn OpRule] =
    &[&Table::new("Bernoulli", 15, infer_bernoulli), &Table::new("Multinomial", 7, infer_multinomial)];
