//! GroupQueryAttention of com.microsoft: causal attention with a cache, query heads in groups that share keys.
//!
//! `query, key?, value?, past_key?, past_value?, seqlens_k, total_sequence_length, cos?, sin?, position_ids?,
//! attention_bias?, head_sink?, k_scale?, v_scale?, q_norm?, k_norm?`. Without key and value, the query holds all three
//! side by side. Sequence `b` ends at `seqlens_k[b] + 1`; its new tokens stand behind what the cache holds of it, or at the
//! start if the new tokens are everything. The present cache has the length of the past one or of the longest sequence,
//! whichever is larger; behind the end of a sequence it is zero here and unspecified elsewhere.
//!
//! Not evaluated: quantized caches, window-sized caches, scores as output.

use ir::Dim;

use super::attention::Mask;
use super::reals::{for_real, opt_reals_of, reals, reals_of, value};
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::attend::{Heads, Pairs, Scores, attend, merge_heads, rotate, split_heads};
use crate::kernel::real::Real;
use crate::rule::{OpRule, Table};
use crate::sym;

fn infer(cx: &mut InferCx) -> Result<()> {
    let (heads, shared) = (cx.attrs().need_int("num_heads")?, cx.attrs().need_int("kv_num_heads")?);
    let query = cx.need_rank(0, 3)?;
    let at = |axis: usize| query.map_or(Dim::Unknown, |dims| dims[axis].clone());
    let size = match cx.has(1) {
        true => sym::floor_div(&at(2), &Dim::Known(heads)),
        false => sym::floor_div(&at(2), &Dim::Known(shared.saturating_mul(2).saturating_add(heads))),
    };
    let total = cx.ints(6).and_then(|total| total.first().copied()).map(Dim::Known);
    let length = match (cx.has(3), cx.dims(3), total) {
        (false, _, Some(total)) => total,
        (true, Some([_, _, past, _]), Some(total)) => sym::max(past, &total),
        _ => Dim::Unknown,
    };
    let present = Some(vec![at(0), Dim::Known(shared), length, size.clone()]);
    let dtype = cx.dtype(0);
    let cache = if cx.has(3) { cx.dtype(3) } else { dtype };
    cx.set(0, dtype, Some(vec![at(0), at(1), sym::mul(&Dim::Known(heads), &size)]));
    cx.set(1, cache, present.clone());
    cx.set(2, cache, present);
    Ok(())
}

fn eval(cx: &EvalCx) -> Result<Outputs> {
    let attrs = cx.attrs();
    if cx.has(12) || cx.has(13) || cx.wanted() > 3 || attrs.flag("sliding_window_cache", false)? {
        return Err(cx.unsupported("quantized or window-sized caches, and scores as output"));
    }
    if cx.has(3) != cx.has(4) {
        return Err(cx.wrong_input(4, "a cache of values beside that of keys"));
    }
    for_real!(cx, 0, T => run::<T>(cx))
}

/// Sizes that everything here shares.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    len: usize,
    heads: usize,
    shared: usize,
    size: usize,
}

/// Query, key and value as `[B, H, S, D]`.
fn split<T: Real>(cx: &EvalCx) -> Result<(Sizes, [Vec<T>; 3])> {
    let count = |name: &str| {
        let heads = cx.attrs().need_int(name)?;
        let found = usize::try_from(heads).ok().filter(|&heads| heads > 0 && heads < 1 << 20);
        found.ok_or_else(|| cx.attrs().wrong(name, "a positive number", &heads.to_string()))
    };
    let (heads, shared) = (count("num_heads")?, count("kv_num_heads")?);
    let &[batch, len, width] = cx.tensor(0)?.dims() else {
        return Err(cx.wrong_input(0, "a tensor of rank 3"));
    };
    let parts = if cx.has(1) { heads } else { heads + 2 * shared };
    if heads % shared != 0 || width % parts != 0 {
        return Err(cx.wrong_input(0, &format!("{parts} heads")));
    }
    let size = width / parts;
    let query = reals::<T>(cx, 0)?;
    let turned = |x: &[T], heads: usize| split_heads(x, (batch, len, heads, size));
    let sizes = Sizes { batch, len, heads, shared, size };
    if cx.has(1) {
        let [k, v] = [1, 2].map(|at| reals_of::<T>(cx, at, &[batch, len, shared * size]));
        return Ok((sizes, [turned(&query, heads), turned(&k?, shared), turned(&v?, shared)]));
    }
    let cut = |from: usize, heads: usize| {
        let rows = query.chunks_exact(width.max(1));
        let cut: Vec<T> = rows.flat_map(|row| &row[from * size..(from + heads) * size]).copied().collect();
        turned(&cut, heads)
    };
    Ok((sizes, [cut(0, heads), cut(heads, shared), cut(heads + shared, shared)]))
}

/// Brings every head to root mean square 1, times a weight.
fn normalize<T: Real>(x: &mut [T], weight: &[T], epsilon: f64) {
    for head in x.chunks_exact_mut(weight.len().max(1)) {
        let square = head.iter().map(|x| x.wide() * x.wide()).sum::<f64>() / weight.len() as f64;
        let inverse = 1.0 / (square + epsilon).sqrt();
        head.iter_mut().zip(weight).for_each(|(x, w)| *x = T::of(x.wide() * inverse * w.wide()));
    }
}

/// Turns the heads of `x [B, H, S, D]` by their positions.
fn turn<T: Real>(cx: &EvalCx, x: &mut [T], heads: usize, s: Sizes, starts: &[usize]) -> Result<()> {
    let &[rows, half] = cx.tensor(7)?.dims() else { return Err(cx.wrong_input(7, "rows of cosines")) };
    let (cos, sin) = (reals::<T>(cx, 7)?, reals_of::<T>(cx, 8, &[rows, half])?);
    if 2 * half > s.size {
        return Err(cx.wrong_input(7, &format!("at most {} cosines a row", s.size / 2)));
    }
    let pairs = if cx.attrs().flag("rotary_interleaved", false)? { Pairs::Neighbours } else { Pairs::Halves };
    let ids = cx.opt_ints(9)?;
    let first = starts.iter().all(|&start| start == 0);
    for (at, head) in x.chunks_exact_mut(s.size.max(1)).enumerate() {
        let (b, t) = (at / (heads * s.len), at % s.len);
        let position = match &ids {
            // A first prompt counts on from its first position.
            Some(ids) if first && s.len > 1 => ids.first().copied().unwrap_or(0).saturating_add(t as i64),
            Some(ids) => ids.get(b * s.len + t).copied().unwrap_or(-1),
            None => (starts[b] + t) as i64,
        };
        let row = usize::try_from(position).ok().filter(|&row| row < rows);
        let row = row.ok_or_else(|| cx.wrong_input(7, &format!("a row for position {position}")))?;
        rotate(head, &cos[row * half..][..half], &sin[row * half..][..half], pairs);
    }
    Ok(())
}

fn run<T: Real>(cx: &EvalCx) -> Result<Outputs> {
    let attrs = cx.attrs();
    let (sizes, [mut q, mut k, v]) = split::<T>(cx)?;
    let Sizes { batch, len, heads, shared, size } = sizes;
    let total = match cx.ints(6)?.as_slice() {
        &[total] => usize::try_from(total).ok().filter(|&total| total >= len),
        _ => None,
    };
    let total = total.ok_or_else(|| cx.wrong_input(6, "the length of the longest sequence"))?;
    let prompt = total == len;
    let ends: Option<Vec<usize>> =
        cx.ints(5)?.iter().map(|&last| usize::try_from(last).ok()?.checked_add(1)).collect();
    let fits = |end: &usize| *end <= total && (prompt || *end >= len);
    let ends = ends.filter(|ends| ends.len() == batch && ends.iter().all(fits));
    let ends = ends.ok_or_else(|| cx.wrong_input(5, "the last position of each sequence"))?;
    let starts: Vec<usize> = ends.iter().map(|&end| if prompt { 0 } else { end - len }).collect();

    if cx.has(14) {
        let epsilon = f64::from(attrs.float("qk_norm_epsilon", 1e-6)?);
        normalize(&mut q, &reals_of::<T>(cx, 14, &[size])?, epsilon);
        normalize(&mut k, &reals_of::<T>(cx, 15, &[size])?, epsilon);
    }
    if attrs.flag("do_rotary", false)? {
        turn(cx, &mut q, heads, sizes, &starts)?;
        turn(cx, &mut k, shared, sizes, &starts)?;
    }

    let past = if cx.has(3) { cx.tensor(3)?.dims().get(2).copied().unwrap_or(0) } else { 0 };
    let length = past.max(total);
    let dtype = cx.tensor(0)?.dtype();
    cx.reserve(dtype, &[batch, heads, len, length])?;
    let cache = |at: usize, new: &[T]| -> Result<Vec<T>> {
        let old = opt_reals_of::<T>(cx, at, &[batch, shared, past, size])?.unwrap_or_default();
        let mut cache = vec![T::zero(); cx.reserve(dtype, &[batch, shared, length, size])?];
        for row in 0..batch * shared {
            let start = starts[row / shared];
            let kept = start.min(past);
            let to = &mut cache[row * length * size..][..length * size];
            to[..kept * size].copy_from_slice(&old[row * past * size..][..kept * size]);
            to[start * size..][..len * size].copy_from_slice(&new[row * len * size..][..len * size]);
        }
        Ok(cache)
    };
    let (k, v) = (cache(3, &k)?, cache(4, &v)?);

    let mask = match cx.opt_tensor(10)? {
        Some(tensor) => {
            let mask = Mask::new(tensor, [batch, heads, len, total], false);
            Some(mask.ok_or_else(|| cx.wrong_input(10, "a bias that broadcasts to the scores"))?)
        }
        None => None,
    };
    let (causal, window) = (attrs.flag("causal", true)?, attrs.int("local_window_size", -1)?);
    let bias = |b: usize, h: usize, s: usize, t: usize| {
        let ahead = t as i64 - (starts[b] + s) as i64;
        let hidden = match causal {
            true => ahead > 0 || (window >= 0 && -ahead >= window),
            false => t >= ends[b],
        };
        // Beyond the longest sequence every key is hidden, so that the mask is not asked.
        if hidden || t >= total {
            return f64::NEG_INFINITY;
        }
        mask.as_ref().map_or(0.0, |mask| mask.at([b, h, s, t]))
    };
    let sinks = opt_reals_of::<T>(cx, 11, &[heads])?;
    let smooth = attrs.int("smooth_softmax", 0)? > 0;
    let sink = |h: usize| sinks.as_ref().map_or(0.0, |sinks| sinks[h].wide());
    let scores = Scores {
        scale: attrs.opt_float("scale")?.filter(|&s| s != 0.0).map_or(1.0 / (size as f64).sqrt(), f64::from),
        softcap: f64::from(attrs.float("softcap", 0.0)?),
        bias: &bias,
        sink: if smooth || sinks.is_some() { Some(&sink) } else { None },
    };
    let all = Heads { batch, query: heads, shared, q_len: len, kv_len: length, size, v_size: size };
    let (y, _) = attend(all, (&q, &k, &v), &scores, None);
    let present = [batch, shared, length, size];
    Ok(vec![
        value(cx, dtype, &[batch, len, heads * size], &merge_heads(&y, (batch, len, heads, size)))?,
        value(cx, dtype, &present, &k)?,
        value(cx, dtype, &present, &v)?,
    ])
}

/// The table.
pub const RULES: &[&dyn OpRule] =
    &[&Table::new("GroupQueryAttention", 1, infer).domain("com.microsoft", 1).eval(eval)];
