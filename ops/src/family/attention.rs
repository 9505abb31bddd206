//! Attention (opsets 23 to 25): `softmax(q kᵀ * scale + mask) v` over heads, with a cache of keys and values.
//!
//! Inputs `q, k, v, mask?, past_key?, past_value?, nonpad_kv_seqlen?` (the last from 24), each `[B, H, S, D]` or
//! `[B, S, H*D]`; outputs `y, present_key?, present_value?, scores?`. A boolean mask hides where it is false, any other is
//! added; from 24 on a mask shorter than the keys hides the rest. Causal masks count from the first key of the query's
//! own block: behind the cache, or behind `nonpad - S`. Opset 25 adds windows.

use ir::{DType, Dim, Tensor};

use super::reals::{for_real, reals, reals_of, value};
use crate::array::{self, strides};
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::attend::{Heads, Scores, Stage, append, attend, merge_heads, split_heads};
use crate::kernel::real::Real;
use crate::rule::{OpRule, Table};
use crate::sym;

/// Heads, length and head size of input `at`.
fn split(cx: &InferCx, at: usize, heads: &str) -> Result<Option<(Dim, Dim, Dim)>> {
    let heads = cx.attrs().opt_int(heads)?.map(Dim::Known);
    match cx.dims(at) {
        None => Ok(None),
        Some([_, heads, len, size]) => Ok(Some((heads.clone(), len.clone(), size.clone()))),
        Some([_, len, hidden]) => {
            let heads = heads.ok_or_else(|| cx.invalid("inputs of rank 3 need the numbers of heads"))?;
            Ok(Some((heads.clone(), len.clone(), sym::floor_div(hidden, &heads))))
        }
        Some(_) => Err(cx.wrong_input(at, "a tensor of rank 3 or 4")),
    }
}

fn infer(cx: &mut InferCx) -> Result<()> {
    let (q, k, v) =
        (split(cx, 0, "q_num_heads")?, split(cx, 1, "kv_num_heads")?, split(cx, 2, "kv_num_heads")?);
    let batch = cx.dims(0).and_then(|dims| dims.first().cloned()).unwrap_or(Dim::Unknown);
    let unsplit = (Dim::Unknown, Dim::Unknown, Dim::Unknown);
    let rank = cx.rank(0);
    let (q_heads, q_len, _) = q.unwrap_or(unsplit.clone());
    let (_, _, v_size) = v.clone().unwrap_or(unsplit.clone());
    let y = match rank {
        Some(3) => Some(vec![batch.clone(), q_len.clone(), sym::mul(&q_heads, &v_size)]),
        Some(_) => Some(vec![batch.clone(), q_heads.clone(), q_len.clone(), v_size]),
        None => None,
    };
    let total = |own: &(Dim, Dim, Dim), past: usize| match (cx.has(past), cx.dims(past)) {
        (false, _) => own.1.clone(),
        (true, Some(dims)) => dims.get(2).map_or(Dim::Unknown, |past| sym::add(past, &own.1)),
        (true, None) => Dim::Unknown,
    };
    let (k, v) = (k.unwrap_or(unsplit.clone()), v.unwrap_or(unsplit));
    let key = vec![batch.clone(), k.0.clone(), total(&k, 4), k.2.clone()];
    let val = vec![batch.clone(), v.0.clone(), total(&v, 5), v.2.clone()];
    let scores = vec![batch, q_heads, q_len, key[2].clone()];
    cx.set(1, cx.dtype(1), Some(key));
    cx.set(2, cx.dtype(2), Some(val));
    cx.set(3, cx.dtype(0), Some(scores));
    cx.set(0, cx.dtype(0), y);
    Ok(())
}

/// A tensor that broadcasts to `[B, H, S, T]`, as numbers to add.
pub(super) struct Mask {
    numbers: Vec<f64>,
    steps: [usize; 4],
    /// Keys that the mask speaks about.
    keys: usize,
}

impl Mask {
    /// `sizes` are those of the scores. `padded`: a last axis that is too short hides the rest.
    pub(super) fn new(tensor: &Tensor, sizes: [usize; 4], padded: bool) -> Option<Mask> {
        let mut numbers = array::to_f64s(tensor)?;
        if tensor.dtype() == DType::Bool {
            numbers.iter_mut().for_each(|x| *x = if *x == 0.0 { f64::NEG_INFINITY } else { 0.0 });
        }
        let (dims, own) = (tensor.dims(), strides(tensor.dims()));
        let gap = 4usize.checked_sub(dims.len())?;
        let (mut steps, mut keys) = ([0; 4], sizes[3]);
        for (at, (&size, &step)) in dims.iter().zip(&own).enumerate() {
            let axis = gap + at;
            match size {
                size if size == sizes[axis] => steps[axis] = step,
                size if axis == 3 && padded && size < sizes[3] => (steps[axis], keys) = (step, size),
                1 => {}
                _ => return None,
            }
        }
        Some(Mask { numbers, steps, keys })
    }

    pub(super) fn at(&self, at: [usize; 4]) -> f64 {
        match at[3] < self.keys {
            true => self.numbers[at.iter().zip(self.steps).map(|(at, step)| at * step).sum::<usize>()],
            false => f64::NEG_INFINITY,
        }
    }
}

fn eval(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => run::<T>(cx))
}

/// Input `at` as `[B, H, S, D]` with its sizes.
fn heads_of<T: Real>(cx: &EvalCx, at: usize, heads: &str) -> Result<(Vec<T>, [usize; 4])> {
    let tensor = cx.tensor(at)?;
    match *tensor.dims() {
        [b, h, s, d] => Ok((reals(cx, at)?, [b, h, s, d])),
        [b, s, hidden] => {
            let count = cx.attrs().need_int(heads)?;
            let h = usize::try_from(count).ok().filter(|&h| h > 0 && hidden % h == 0);
            let h =
                h.ok_or_else(|| cx.attrs().wrong(heads, "a divisor of the features", &count.to_string()))?;
            let d = hidden / h;
            Ok((split_heads(&reals::<T>(cx, at)?, (b, s, h, d)), [b, h, s, d]))
        }
        _ => Err(cx.wrong_input(at, "a tensor of rank 3 or 4")),
    }
}

fn run<T: Real>(cx: &EvalCx) -> Result<Outputs> {
    let attrs = cx.attrs();
    let (q, [batch, q_heads, q_len, size]) = heads_of::<T>(cx, 0, "q_num_heads")?;
    let (mut k, [_, kv_heads, mut kv_len, k_size]) = heads_of::<T>(cx, 1, "kv_num_heads")?;
    let (mut v, [v_batch, v_heads, v_len, v_size]) = heads_of::<T>(cx, 2, "kv_num_heads")?;
    let fits = k.len() == batch * kv_heads * kv_len * size && k_size == size;
    if !fits || (v_batch, v_heads, v_len) != (batch, kv_heads, kv_len) || q_heads % kv_heads.max(1) != 0 {
        return Err(cx.invalid("query, key and value do not fit each other"));
    }
    let past = if cx.has(4) { cx.tensor(4)?.dims().get(2).copied().unwrap_or(0) } else { 0 };
    if cx.has(4) {
        let past_k = reals_of::<T>(cx, 4, &[batch, kv_heads, past, size])?;
        let past_v = reals_of::<T>(cx, 5, &[batch, kv_heads, past, v_size])?;
        k = append(&past_k, &k, batch * kv_heads, (past, kv_len, size));
        v = append(&past_v, &v, batch * kv_heads, (past, kv_len, v_size));
        kv_len += past;
    }
    let dtype = cx.tensor(0)?.dtype();
    cx.reserve(dtype, &[batch, q_heads, q_len, kv_len])?;
    let mask = match cx.opt_tensor(3)? {
        Some(tensor) => {
            let mask = Mask::new(tensor, [batch, q_heads, q_len, kv_len], cx.opset() >= 24);
            Some(mask.ok_or_else(|| cx.wrong_input(3, "a mask that broadcasts to the scores"))?)
        }
        None => None,
    };
    let nonpad = cx.opt_ints(6)?;
    if nonpad.as_ref().is_some_and(|nonpad| nonpad.len() != batch) {
        return Err(cx.wrong_input(6, "a length for each sequence"));
    }
    let causal = attrs.flag("is_causal", false)?;
    let (left, right) = (attrs.int("left_window_size", -1)?, attrs.int("right_window_size", -1)?);
    let bias = |b: usize, h: usize, s: usize, t: usize| {
        let offset = match &nonpad {
            Some(nonpad) if past == 0 => nonpad[b].saturating_sub(q_len as i64),
            _ => past as i64,
        };
        let ahead = (t as i64).saturating_sub(offset.saturating_add(s as i64));
        let hidden = (causal && ahead > 0)
            || (left >= 0 && ahead.saturating_neg() > left)
            || (right >= 0 && ahead > right)
            || nonpad.as_ref().is_some_and(|nonpad| t as i64 >= nonpad[b]);
        if hidden { f64::NEG_INFINITY } else { mask.as_ref().map_or(0.0, |mask| mask.at([b, h, s, t])) }
    };
    let keep = match attrs.int("qk_matmul_output_mode", 0)? {
        _ if cx.wanted() < 4 => None,
        0 => Some(Stage::Product),
        1 => Some(Stage::Capped),
        2 => Some(Stage::Biased),
        3 => Some(Stage::Softmax),
        other => return Err(attrs.wrong("qk_matmul_output_mode", "0 to 3", &other.to_string())),
    };
    let scores = Scores {
        scale: attrs.opt_float("scale")?.map_or(1.0 / (size as f64).sqrt(), f64::from),
        softcap: f64::from(attrs.float("softcap", 0.0)?),
        bias: &bias,
        sink: None,
    };
    let heads = Heads { batch, query: q_heads, shared: kv_heads, q_len, kv_len, size, v_size };
    let (y, kept) = attend(heads, (&q, &k, &v), &scores, keep);
    let y = match cx.tensor(0)?.rank() {
        3 => {
            let merged = merge_heads(&y, (batch, q_len, q_heads, v_size));
            value(cx, dtype, &[batch, q_len, q_heads * v_size], &merged)?
        }
        _ => value(cx, dtype, &[batch, q_heads, q_len, v_size], &y)?,
    };
    let mut outputs = vec![y];
    if cx.wanted() > 1 {
        outputs.push(value(cx, cx.tensor(1)?.dtype(), &[batch, kv_heads, kv_len, size], &k)?);
        outputs.push(value(cx, cx.tensor(2)?.dtype(), &[batch, kv_heads, kv_len, v_size], &v)?);
    }
    if let Some(kept) = kept {
        outputs.push(value(cx, dtype, &[batch, q_heads, q_len, kv_len], &kept)?);
    }
    Ok(outputs)
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[&Table::new("Attention", 23, infer).eval(eval)];
