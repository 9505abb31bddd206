//! MultiHeadAttention, Attention and QAttention of com.microsoft.
//!
//! - MultiHeadAttention: `query, key, value, bias?, key_padding_mask?, attention_bias?, past_key?, past_value?`; query
//!   `[B, S, H*D]`, key and value `[B, L, H*D]` or `[B, H, L, D]`; gives `y, present_key?, present_value?`
//! - Attention: `x, weights, bias?, mask?, past?, attention_bias?`, the weights of query, key and value side by side;
//!   `past` and `present` are `[2, B, H, T, D]`
//! - QAttention: Attention over 8-bit `x` and weights: `x, weights, bias, x_scale, w_scale, mask?, x_zero?, w_zero?, past?`
//!
//! A mask is a length (or end and start) a sequence, or ones and zeros `[B, T]`, `[B, S, T]` or `[B, 1, max, max]`; a masked
//! score gets `mask_filter_value` added. Packed inputs, shared buffers and beam indices are not evaluated.

use ir::Dim;

use super::attention::Mask;
use super::quantized::accumulator;
use super::reals::{for_real, opt_reals_of, reals, reals_of, stretch, value};
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::attend::{Heads, Scores, append, attend, merge_heads, split_heads};
use crate::kernel::real::{Real, matrix, multiply};
use crate::rule::{OpRule, Table};
use crate::sym;

// ---- masks -----------------------------------------------------------------------------------------------------

/// A mask over `[B, S, T]`: what is added to a masked score, and which are.
struct Padding {
    ints: Vec<i64>,
    dims: Vec<usize>,
    filter: f64,
    batch: usize,
    past: usize,
}

impl Padding {
    /// The mask at input `at`; none if omitted.
    fn read(cx: &EvalCx, at: usize, [batch, len, total]: [usize; 3], past: usize) -> Result<Option<Padding>> {
        let Some(ints) = cx.opt_ints(at)? else { return Ok(None) };
        let dims = cx.tensor(at)?.dims().to_vec();
        let fits = match *dims {
            [count] => count == batch || count == 2 * batch,
            [b, t] => b == batch && t == total,
            [b, s, t] => b == batch && s == len && t == total,
            [b, 1, rows, columns] => b == batch && rows >= past + len && columns >= total,
            _ => false,
        };
        if !fits {
            return Err(cx.unsupported(format!("a mask of sizes {dims:?}")));
        }
        let filter = f64::from(cx.attrs().float("mask_filter_value", -10000.0)?);
        Ok(Some(Padding { ints, dims, filter, batch, past }))
    }

    fn at(&self, b: usize, s: usize, t: usize) -> f64 {
        let seen = match *self.dims {
            [count] => {
                // Ends first, then starts where there are two for each sequence.
                let start = if count > self.batch { self.ints[self.batch + b] } else { 0 };
                (start..self.ints[b]).contains(&(t as i64))
            }
            [_, total] => self.ints[b * total + t] != 0,
            [_, len, total] => self.ints[(b * len + s) * total + t] != 0,
            [_, _, rows, columns] => self.ints[(b * rows + self.past + s) * columns + t] != 0,
            _ => true,
        };
        if seen { 0.0 } else { self.filter }
    }
}

/// Everything behind the projections: `q [B, H, S, D]`, `k` and `v` with the cache in front.
struct Core<'a, T> {
    heads: Heads,
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    past: usize,
    padding: Option<Padding>,
    bias: Option<Mask>,
}

impl<T: Real> Core<'_, T> {
    /// `[B, S, H*Dv]`.
    fn run(&self, cx: &EvalCx) -> Result<Vec<T>> {
        let Heads { batch, query, q_len, size, v_size, .. } = self.heads;
        let causal = cx.attrs().flag("unidirectional", false)?;
        let bias = |b: usize, h: usize, s: usize, t: usize| {
            if causal && t > s + self.past {
                return f64::NEG_INFINITY;
            }
            self.padding.as_ref().map_or(0.0, |padding| padding.at(b, s, t))
                + self.bias.as_ref().map_or(0.0, |bias| bias.at([b, h, s, t]))
        };
        let default = 1.0 / (size as f64).sqrt();
        let scale = cx.attrs().opt_float("scale")?.filter(|&scale| scale != 0.0).map_or(default, f64::from);
        let scores = Scores { scale, softcap: 0.0, bias: &bias, sink: None };
        let (y, _) = attend(self.heads, (self.q, self.k, self.v), &scores, None);
        Ok(merge_heads(&y, (batch, q_len, query, v_size)))
    }
}

fn heads(cx: &EvalCx) -> Result<usize> {
    let heads = cx.attrs().need_int("num_heads")?;
    let found = usize::try_from(heads).ok().filter(|&heads| heads > 0);
    found.ok_or_else(|| cx.attrs().wrong("num_heads", "a positive number", &heads.to_string()))
}

fn added_bias(cx: &EvalCx, at: usize, sizes: [usize; 4]) -> Result<Option<Mask>> {
    let Some(tensor) = cx.opt_tensor(at)? else { return Ok(None) };
    let mask = Mask::new(tensor, sizes, false);
    mask.map(Some).ok_or_else(|| cx.wrong_input(at, "a bias that broadcasts to the scores"))
}

// ---- MultiHeadAttention ----------------------------------------------------------------------------------------

fn infer_multi_head(cx: &mut InferCx) -> Result<()> {
    let heads = Dim::Known(cx.attrs().need_int("num_heads")?);
    let unknown = || vec![Dim::Unknown; 4];
    let (mut y, mut key, mut val) = (None, unknown(), unknown());
    if let Some([batch, len, hidden]) = cx.dims(0) {
        let head = sym::floor_div(hidden, &heads);
        let side = |at: usize, past: usize| {
            let (own, size) = match cx.dims(at) {
                Some([_, len, hidden]) => (len.clone(), sym::floor_div(hidden, &heads)),
                Some([_, _, len, size]) => (len.clone(), size.clone()),
                _ => (Dim::Unknown, Dim::Unknown),
            };
            let total = match (cx.has(past), cx.dims(past)) {
                (false, _) => own,
                (true, Some([_, _, past, _])) => sym::add(past, &own),
                (true, _) => Dim::Unknown,
            };
            vec![batch.clone(), heads.clone(), total, size]
        };
        (key, val) = (side(1, 6), side(2, 7));
        key[3] = head;
        y = Some(vec![batch.clone(), len.clone(), sym::mul(&heads, &val[3])]);
        // A shared buffer keeps its length.
        if cx.has(8) {
            (key[2], val[2]) = (Dim::Unknown, Dim::Unknown);
        }
    }
    let dtype = cx.dtype(0);
    cx.set(0, dtype, y);
    cx.set(1, dtype, Some(key));
    cx.set(2, dtype, Some(val));
    Ok(())
}

fn eval_multi_head(cx: &EvalCx) -> Result<Outputs> {
    if cx.has(8) || cx.has(9) || cx.wanted() > 3 {
        return Err(cx.unsupported("shared buffers, beams and scores as output"));
    }
    for_real!(cx, 0, T => multi_head::<T>(cx))
}

/// Input `at` as `[B, H, L, D]` with its length and size, plus its part of the bias.
fn side<T: Real>(
    cx: &EvalCx,
    at: usize,
    batch: usize,
    heads: usize,
    bias: Option<&[T]>,
) -> Result<(Vec<T>, usize, usize)> {
    match *cx.tensor(at)?.dims() {
        [b, len, hidden] if b == batch && hidden % heads == 0 => {
            let mut numbers = reals::<T>(cx, at)?;
            if let Some(bias) = bias {
                let misfit = || cx.wrong_input(3, "a bias for query, key and value");
                let bias = Some(bias).filter(|bias| bias.len() == hidden).ok_or_else(misfit)?;
                numbers.iter_mut().zip(bias.iter().cycle()).for_each(|(x, &bias)| *x = *x + bias);
            }
            Ok((split_heads(&numbers, (batch, len, heads, hidden / heads)), len, hidden / heads))
        }
        [b, h, len, size] if b == batch && h == heads && bias.is_none() => Ok((reals(cx, at)?, len, size)),
        _ => Err(cx.unsupported(format!("input {at} of sizes {:?}", cx.tensor(at)?.dims()))),
    }
}

fn multi_head<T: Real>(cx: &EvalCx) -> Result<Outputs> {
    let heads = heads(cx)?;
    let &[batch, _, hidden] = cx.tensor(0)?.dims() else { return Err(cx.unsupported("packed inputs")) };
    let bias = if cx.has(3) { Some(reals::<T>(cx, 3)?) } else { None };
    if bias.as_ref().is_some_and(|bias| bias.len() < 2 * hidden) {
        return Err(cx.wrong_input(3, "a bias for query, key and value"));
    }
    let part = |from: usize, to: Option<usize>| {
        bias.as_ref().map(|bias| to.map_or(&bias[from..], |to| &bias[from..to]))
    };
    let (q, q_len, size) = side(cx, 0, batch, heads, part(0, Some(hidden)))?;
    let (mut k, mut kv_len, k_size) = side(cx, 1, batch, heads, part(hidden, Some(2 * hidden)))?;
    let (mut v, v_len, v_size) = side(cx, 2, batch, heads, part(2 * hidden, None))?;
    if k_size != size || v_len != kv_len {
        return Err(cx.invalid("query, key and value do not fit each other"));
    }
    let past = if cx.has(6) { cx.tensor(6)?.dims().get(2).copied().unwrap_or(0) } else { 0 };
    if cx.has(6) {
        let past_k = reals_of::<T>(cx, 6, &[batch, heads, past, size])?;
        let past_v = reals_of::<T>(cx, 7, &[batch, heads, past, v_size])?;
        k = append(&past_k, &k, batch * heads, (past, kv_len, size));
        v = append(&past_v, &v, batch * heads, (past, kv_len, v_size));
        kv_len += past;
    }
    let dtype = cx.tensor(0)?.dtype();
    cx.reserve(dtype, &[batch, heads, q_len, kv_len])?;
    let padding = Padding::read(cx, 4, [batch, q_len, kv_len], past)?;
    let bias = added_bias(cx, 5, [batch, heads, q_len, kv_len])?;
    let all = Heads { batch, query: heads, shared: heads, q_len, kv_len, size, v_size };
    let y = Core { heads: all, q: &q, k: &k, v: &v, past, padding, bias }.run(cx)?;
    Ok(vec![
        value(cx, dtype, &[batch, q_len, heads * v_size], &y)?,
        value(cx, dtype, &[batch, heads, kv_len, size], &k)?,
        value(cx, dtype, &[batch, heads, kv_len, v_size], &v)?,
    ])
}

// ---- Attention, QAttention -------------------------------------------------------------------------------------

fn infer_self(cx: &mut InferCx, past_at: usize, dtype: Option<ir::DType>) -> Result<()> {
    let heads = Dim::Known(cx.attrs().need_int("num_heads")?);
    let x = cx.need_rank(0, 3)?;
    let at = |axis: usize| x.map_or(Dim::Unknown, |dims| dims[axis].clone());
    let (hidden, v_hidden) = match cx.attrs().opt_ints("qkv_hidden_sizes")? {
        Some(&[q, _, v]) => (Dim::Known(q), Dim::Known(v)),
        _ => {
            let columns = cx.need_rank(1, 2)?.map_or(Dim::Unknown, |dims| dims[1].clone());
            let third = sym::floor_div(&columns, &Dim::Known(3));
            (third.clone(), third)
        }
    };
    let total = match (cx.has(past_at), cx.dims(past_at)) {
        (false, _) => at(1),
        (true, Some([_, _, _, past, _])) if !cx.attrs().flag("past_present_share_buffer", false)? => {
            sym::add(past, &at(1))
        }
        (true, Some([_, _, _, past, _])) => past.clone(),
        (true, _) => Dim::Unknown,
    };
    let head = sym::floor_div(&hidden, &heads);
    cx.set(0, dtype, Some(vec![at(0), at(1), v_hidden]));
    cx.set(1, dtype, Some(vec![Dim::Known(2), at(0), heads, total, head]));
    Ok(())
}

fn infer_attention(cx: &mut InferCx) -> Result<()> {
    infer_self(cx, 4, cx.dtype(0))
}

fn infer_quantized(cx: &mut InferCx) -> Result<()> {
    infer_self(cx, 8, cx.dtype(3))
}

fn eval_attention(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => {
        let (rows, depth, columns) = projection_sizes(cx)?;
        let mut y = vec![<T as num_traits::Zero>::zero(); cx.reserve(cx.tensor(0)?.dtype(), &[rows, columns])?];
        let (x, w) = (reals::<T>(cx, 0)?, reals::<T>(cx, 1)?);
        multiply(matrix(&x, rows, depth), matrix(&w, depth, columns), <T as num_traits::Zero>::zero(), &mut y);
        attention::<T>(cx, y, Slots { mask: 3, past: 4, added: Some(5), dtype: 0 })
    })
}

fn eval_quantized(cx: &EvalCx) -> Result<Outputs> {
    let (rows, depth, columns) = projection_sizes(cx)?;
    cx.reserve(ir::DType::F64, &[rows, columns])?;
    let one = |at: usize| super::reals::opt_number(cx, at).map(|number| number.unwrap_or(0.0));
    let zero = one(6)?;
    let x: Vec<f64> = cx.f64s(0)?.into_iter().map(|x| x - zero).collect();
    let misfit = |at: usize| cx.wrong_input(at, &format!("1 or {columns} numbers"));
    let across = |at: usize| {
        let numbers = cx.f64s(at)?;
        let own = if numbers.len() == 1 { vec![] } else { vec![numbers.len()] };
        stretch(&numbers, &own, &[columns]).ok_or_else(|| misfit(at))
    };
    let (scales, zeros) = (across(4)?, if cx.has(7) { across(7)? } else { vec![0.0; columns] });
    let mut w = cx.f64s(1)?;
    w.chunks_exact_mut(columns.max(1))
        .for_each(|row| row.iter_mut().zip(&zeros).for_each(|(w, zero)| *w -= zero));
    let mut sums = vec![0.0; rows * columns];
    multiply(matrix(&x, rows, depth), matrix(&w, depth, columns), 0.0, &mut sums);
    let scale = one(3)? as f32;
    let numbers = sums.iter().zip(scales.iter().cycle());
    let y = numbers.map(|(&sum, &w)| accumulator(sum) as f32 * (scale * w as f32)).collect();
    attention::<f32>(cx, y, Slots { mask: 5, past: 8, added: None, dtype: 3 })
}

/// Rows, inner size and columns of the projection.
fn projection_sizes(cx: &EvalCx) -> Result<(usize, usize, usize)> {
    match (cx.tensor(0)?.dims(), cx.tensor(1)?.dims()) {
        (&[batch, len, depth], &[rows, columns]) if depth == rows => Ok((batch * len, depth, columns)),
        _ => Err(cx.wrong_input(1, "weights for the features of the input")),
    }
}

/// Where the inputs behind the projection stand, and the input whose type the outputs have.
struct Slots {
    mask: usize,
    past: usize,
    added: Option<usize>,
    dtype: usize,
}

/// The attention of projected rows `[B*S, hidden + hidden + v_hidden]`, to which the bias at input 2 is added.
fn attention<T: Real>(cx: &EvalCx, mut rows: Vec<T>, slots: Slots) -> Result<Outputs> {
    let attrs = cx.attrs();
    if attrs.flag("do_rotary", false)? || attrs.flag("past_present_share_buffer", false)? {
        return Err(cx.unsupported("rotary embedding and shared buffers"));
    }
    let heads = heads(cx)?;
    let (&[batch, q_len, _], &[_, columns]) = (cx.tensor(0)?.dims(), cx.tensor(1)?.dims()) else {
        return Err(cx.wrong_input(0, "[batch, length, features]"));
    };
    let widths: Vec<usize> = match attrs.opt_ints("qkv_hidden_sizes")?.filter(|sizes| !sizes.is_empty()) {
        Some(sizes) => sizes.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect(),
        None => vec![columns / 3; 3],
    };
    let &[q_width, k_width, v_width] = widths.as_slice() else {
        return Err(attrs.wrong("qkv_hidden_sizes", "three sizes", &format!("{widths:?}")));
    };
    if q_width != k_width
        || q_width + k_width + v_width != columns
        || q_width % heads != 0
        || v_width % heads != 0
    {
        return Err(cx.wrong_input(1, "columns for query, key and value"));
    }
    if let Some(bias) = opt_reals_of::<T>(cx, 2, &[columns])? {
        rows.iter_mut().zip(bias.iter().cycle()).for_each(|(x, &bias)| *x = *x + bias);
    }
    let part = |from: usize, width: usize| {
        let cut: Vec<T> =
            rows.chunks_exact(columns.max(1)).flat_map(|row| &row[from..from + width]).copied().collect();
        split_heads(&cut, (batch, q_len, heads, width / heads))
    };
    let (size, v_size) = (q_width / heads, v_width / heads);
    let (q, mut k, mut v) = (part(0, q_width), part(q_width, k_width), part(q_width + k_width, v_width));
    let dtype = cx.tensor(slots.dtype)?.dtype();
    let mut past = 0;
    if let Some(cache) = cx.opt_tensor(slots.past)? {
        past = cache.dims().get(3).copied().unwrap_or(0);
        let numbers = reals_of::<T>(cx, slots.past, &[2, batch, heads, past, size])?;
        let (past_k, past_v) = numbers.split_at(numbers.len() / 2);
        if v_size != size {
            return Err(cx.invalid("a cache needs heads of one size"));
        }
        k = append(past_k, &k, batch * heads, (past, q_len, size));
        v = append(past_v, &v, batch * heads, (past, q_len, size));
    }
    let kv_len = past + q_len;
    cx.reserve(dtype, &[batch, heads, q_len, kv_len])?;
    let padding = Padding::read(cx, slots.mask, [batch, q_len, kv_len], past)?;
    let bias = match slots.added {
        Some(at) => added_bias(cx, at, [batch, heads, q_len, kv_len])?,
        None => None,
    };
    let all = Heads { batch, query: heads, shared: heads, q_len, kv_len, size, v_size };
    let y = Core { heads: all, q: &q, k: &k, v: &v, past, padding, bias }.run(cx)?;
    let mut outputs = vec![value(cx, dtype, &[batch, q_len, v_width], &y)?];
    if cx.wanted() > 1 {
        k.extend_from_slice(&v);
        outputs.push(value(cx, dtype, &[2, batch, heads, kv_len, size], &k)?);
    }
    Ok(outputs)
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("MultiHeadAttention", 1, infer_multi_head).domain("com.microsoft", 1).eval(eval_multi_head),
    &Table::new("Attention", 1, infer_attention).domain("com.microsoft", 1).eval(eval_attention),
    &Table::new("QAttention", 1, infer_quantized).domain("com.microsoft", 1).eval(eval_quantized),
];
