//! Recurrent attention of state-space models and the buffers of caches: LinearAttention, CausalConvWithState (27) and
//! TensorScatter (24).
//!
//! LinearAttention keeps a matrix `S [d_k, d_v]` a head: `S = exp(g) S + beta k (v - exp(g) Sᵀ k)` and `o = scale Sᵀ q`,
//! where the update rule may leave out the decay `exp(g)`, the correction, or both.

use ir::Dim;

use super::reals::{for_real, opt_reals_of, reals, reals_of, value};
use crate::array::strides;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::real::Real;
use crate::rule::{OpRule, Table};
use crate::sym;

fn infer_linear(cx: &mut InferCx) -> Result<()> {
    let attrs = cx.attrs();
    let (q_heads, heads) =
        (Dim::Known(attrs.need_int("q_num_heads")?), Dim::Known(attrs.need_int("kv_num_heads")?));
    let (q, v) = (cx.need_rank(0, 3)?, cx.need_rank(2, 3)?);
    let at = |dims: Option<&[Dim]>, axis: usize| dims.map_or(Dim::Unknown, |dims| dims[axis].clone());
    let (d_k, d_v) = (sym::floor_div(&at(q, 2), &q_heads), sym::floor_div(&at(v, 2), &heads));
    cx.set(0, cx.dtype(0), Some(vec![at(q, 0), at(q, 1), sym::mul(&q_heads, &d_v)]));
    let state = if cx.has(3) { cx.dtype(3) } else { cx.dtype(0) };
    cx.set(1, state, Some(vec![at(q, 0), heads, d_k, d_v]));
    Ok(())
}

fn eval_linear(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => linear::<T>(cx))
}

fn linear<T: Real>(cx: &EvalCx) -> Result<Outputs> {
    let attrs = cx.attrs();
    let count = |name: &str| {
        let heads = attrs.need_int(name)?;
        let found = usize::try_from(heads).ok().filter(|&heads| heads > 0);
        found.ok_or_else(|| attrs.wrong(name, "a positive number", &heads.to_string()))
    };
    let (q_heads, heads) = (count("q_num_heads")?, count("kv_num_heads")?);
    let (&[batch, len, q_size], &[_, _, v_size]) = (cx.tensor(0)?.dims(), cx.tensor(2)?.dims()) else {
        return Err(cx.wrong_input(0, "a tensor of rank 3"));
    };
    if q_heads % heads != 0 || q_size % q_heads != 0 || v_size % heads != 0 {
        return Err(cx.invalid("the heads do not divide the features"));
    }
    let (d_k, d_v) = (q_size / q_heads, v_size / heads);
    let (decays, corrects) = match attrs.str("update_rule", "gated_delta")? {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => return Err(attrs.wrong("update_rule", "linear, gated, delta or gated_delta", other)),
    };
    let q = reals::<T>(cx, 0)?;
    let k = reals_of::<T>(cx, 1, &[batch, len, heads * d_k])?;
    let v = reals_of::<T>(cx, 2, &[batch, len, v_size])?;
    let mut state: Vec<f64> = match opt_reals_of::<T>(cx, 3, &[batch, heads, d_k, d_v])? {
        Some(state) => state.iter().map(|s| s.wide()).collect(),
        None => vec![0.0; cx.reserve(ir::DType::F64, &[batch, heads, d_k, d_v])?],
    };
    // One number a head, or one a feature of the key.
    let gate = |at: usize, wide: usize| -> Result<(Vec<T>, usize)> {
        let width = cx.tensor(at)?.dims().last().copied().unwrap_or(0);
        match width == heads || width == wide {
            true => Ok((reals_of(cx, at, &[batch, len, width])?, width)),
            false => Err(cx.wrong_input(at, &format!("{heads} or {wide} features"))),
        }
    };
    let decay = if decays { Some(gate(4, heads * d_k)?) } else { None };
    let beta = if corrects { Some(gate(5, 1)?) } else { None };
    let scale = match attrs.float("scale", 0.0)? {
        0.0 => 1.0 / (d_k as f64).sqrt(),
        scale => f64::from(scale),
    };
    let dtype = cx.tensor(0)?.dtype();
    let mut y = vec![T::zero(); cx.reserve(dtype, &[batch, len, q_heads * d_v])?];
    let group = q_heads / heads;
    for b in 0..batch {
        for head in 0..heads {
            let state = &mut state[(b * heads + head) * d_k * d_v..][..d_k * d_v];
            for t in 0..len {
                let token = b * len + t;
                let key = &k[(token * heads + head) * d_k..][..d_k];
                let mut update: Vec<f64> =
                    v[(token * heads + head) * d_v..][..d_v].iter().map(|v| v.wide()).collect();
                if let Some((decay, width)) = &decay {
                    for (i, row) in state.chunks_exact_mut(d_v).enumerate() {
                        let at = if *width == heads { head } else { head * d_k + i };
                        let factor = decay[token * width + at].wide().exp();
                        row.iter_mut().for_each(|s| *s *= factor);
                    }
                }
                if let Some((beta, width)) = &beta {
                    let beta = beta[token * width + if *width == heads { head } else { 0 }].wide();
                    for (row, key) in state.chunks_exact(d_v).zip(key) {
                        update.iter_mut().zip(row).for_each(|(u, s)| *u -= s * key.wide());
                    }
                    update.iter_mut().for_each(|u| *u *= beta);
                }
                for (row, key) in state.chunks_exact_mut(d_v).zip(key) {
                    row.iter_mut().zip(&update).for_each(|(s, u)| *s += key.wide() * u);
                }
                for q_head in head * group..(head + 1) * group {
                    let query = &q[(token * q_heads + q_head) * d_k..][..d_k];
                    for j in 0..d_v {
                        let sum: f64 =
                            query.iter().enumerate().map(|(i, q)| q.wide() * state[i * d_v + j]).sum();
                        y[(token * q_heads + q_head) * d_v + j] = T::of(scale * sum);
                    }
                }
            }
        }
    }
    let state_dtype = if cx.has(3) { cx.tensor(3)?.dtype() } else { dtype };
    Ok(vec![
        value(cx, dtype, &[batch, len, q_heads * d_v], &y)?,
        value(cx, state_dtype, &[batch, heads, d_k, d_v], &state)?,
    ])
}

fn infer_causal_conv(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let state = match (cx.need_rank(0, 3)?, cx.need_rank(1, 3)?) {
        (Some(x), Some(w)) => Some(vec![x[0].clone(), x[1].clone(), sym::sub(&w[2], &Dim::Known(1))]),
        _ => None,
    };
    cx.copy_type(0, 0);
    cx.set(1, cx.dtype(0), state);
    Ok(())
}

fn eval_causal_conv(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => causal_conv::<T>(cx))
}

fn causal_conv<T: Real>(cx: &EvalCx) -> Result<Outputs> {
    let (&[batch, channels, len], &[_, _, taps]) = (cx.tensor(0)?.dims(), cx.tensor(1)?.dims()) else {
        return Err(cx.wrong_input(0, "a tensor of rank 3"));
    };
    let past = taps.checked_sub(1).ok_or_else(|| cx.wrong_input(1, "a kernel with taps"))?;
    let (x, w) = (reals::<T>(cx, 0)?, reals_of::<T>(cx, 1, &[channels, 1, taps])?);
    let bias = opt_reals_of::<T>(cx, 2, &[channels])?;
    let state = opt_reals_of::<T>(cx, 3, &[batch, channels, past])?;
    let silu = match cx.attrs().str("activation", "none")? {
        "none" => false,
        "silu" | "swish" => true,
        other => return Err(cx.attrs().wrong("activation", "silu, swish or none", other)),
    };
    let dtype = cx.tensor(0)?.dtype();
    cx.reserve(dtype, &[batch, channels, len + past])?;
    let (mut y, mut present) = (Vec::with_capacity(x.len()), Vec::with_capacity(batch * channels * past));
    for row in 0..batch * channels {
        let mut line = match &state {
            Some(state) => state[row * past..][..past].to_vec(),
            None => vec![T::zero(); past],
        };
        line.extend_from_slice(&x[row * len..][..len]);
        let w = &w[row % channels * taps..][..taps];
        for window in line.windows(taps) {
            let sum: f64 = window.iter().zip(w).map(|(x, w)| x.wide() * w.wide()).sum();
            let sum = sum + bias.as_ref().map_or(0.0, |bias| bias[row % channels].wide());
            y.push(T::of(if silu { sum / (1.0 + (-sum).exp()) } else { sum }));
        }
        present.extend_from_slice(&line[len..]);
    }
    Ok(vec![
        value(cx, dtype, &[batch, channels, len], &y)?,
        value(cx, dtype, &[batch, channels, past], &present)?,
    ])
}

fn infer_scatter(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.copy_type(0, 0);
    Ok(())
}

/// Rows of the update are copied over rows of the cache, byte for byte.
fn eval_scatter(cx: &EvalCx) -> Result<Outputs> {
    let (cache, update) = (cx.tensor(0)?, cx.tensor(1)?);
    let dims = cache.dims();
    let axis = cx.axis(cx.attrs().int("axis", -2)?, dims.len())?;
    let same =
        dims.len() == update.rank() && (0..dims.len()).all(|at| at == axis || dims[at] == update.dims()[at]);
    if !same || axis == 0 || cache.dtype() != update.dtype() {
        return Err(cx.wrong_input(1, "the cache's sizes but for the sequence axis"));
    }
    if cache.elements() == 0 {
        return Ok(vec![crate::Value::Tensor(cache.clone())]);
    }
    let bits = cache.dtype().bits() * strides(dims)[axis];
    if !bits.is_multiple_of(8) || cache.dtype().bits() == 0 {
        return Err(cx.unsupported_dtype(0));
    }
    let (row, max, len) = (bits / 8, dims[axis], update.dims()[axis]);
    let circular = match cx.attrs().str("mode", "linear")? {
        "linear" => false,
        "circular" => true,
        other => return Err(cx.attrs().wrong("mode", "linear or circular", other)),
    };
    let starts = cx.opt_ints(2)?.unwrap_or_else(|| vec![0; dims[0]]);
    if starts.len() != dims[0] {
        return Err(cx.wrong_input(2, "a start for each sequence"));
    }
    cx.reserve(cache.dtype(), dims)?;
    let mut bytes = cache.bytes().to_vec();
    let per_item: usize = dims[1..axis].iter().product();
    for (prefix, rows) in update.bytes().chunks_exact((len * row).max(1)).enumerate() {
        let start = starts[prefix / per_item.max(1)];
        for (step, from) in rows.chunks_exact(row.max(1)).enumerate() {
            let to = start.saturating_add(step as i64);
            let to = if circular { to.rem_euclid((max as i64).max(1)) } else { to };
            let to = usize::try_from(to).ok().filter(|&to| to < max);
            let to = to.ok_or_else(|| cx.wrong_input(2, &format!("rows below {max}")))?;
            bytes[(prefix * max + to) * row..][..row].copy_from_slice(from);
        }
    }
    cx.give(ir::Tensor::new(cache.dtype(), dims, bytes))
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("LinearAttention", 27, infer_linear).eval(eval_linear),
    &Table::new("CausalConvWithState", 27, infer_causal_conv).eval(eval_causal_conv),
    &Table::new("TensorScatter", 24, infer_scatter).eval(eval_scatter),
];
