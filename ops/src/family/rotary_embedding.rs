//! RotaryEmbedding: each token's features are rotated in pairs by angles of its position.
//!
//! Opset 23: `x, cos, sin, position_ids?`; with ids the caches are `[positions, half]`, else `[B, S, half]`.
//! com.microsoft: `x, position_ids, cos, sin`; ids are one start position (`[1]`) or `[B, S]`. `x` is `[B, H, S, D]` or
//! `[B, S, H*D]`; only the first `rotary_embedding_dim` features of a head turn, if that is set.

use super::reals::{for_real, reals, value};
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::attend::{Pairs, rotate};
use crate::kernel::real::Real;
use crate::rule::{OpRule, Table};

fn infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.copy_type(0, 0);
    Ok(())
}

/// Slots of the inputs, and where the row of a token stands in the caches.
struct Form {
    cos: usize,
    sin: usize,
    ids: usize,
}

fn eval(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => run::<T>(cx, &Form { cos: 1, sin: 2, ids: 3 }))
}

fn eval_microsoft(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => run::<T>(cx, &Form { cos: 2, sin: 3, ids: 1 }))
}

fn run<T: Real>(cx: &EvalCx, form: &Form) -> Result<Outputs> {
    let attrs = cx.attrs();
    let (x, cos_dims) = (cx.tensor(0)?, cx.tensor(form.cos)?.dims());
    let half = *cos_dims.last().ok_or_else(|| cx.wrong_input(form.cos, "a cache of rows"))?;
    if cx.tensor(form.sin)?.dims() != cos_dims {
        return Err(cx.wrong_input(form.sin, &format!("sizes {cos_dims:?}")));
    }
    let rotary = usize::try_from(attrs.int("rotary_embedding_dim", 0)?).unwrap_or(0);
    let heads = usize::try_from(attrs.int("num_heads", 0)?).unwrap_or(0);
    // Heads in the order of storage: `[B, outer, S, inner]` tokens of `size` features.
    let (batch, outer, len, inner, size) = match *x.dims() {
        [b, h, s, d] => (b, h, s, 1, d),
        [b, s, hidden] => {
            let heads = match (heads, rotary) {
                // Without either, com.microsoft takes the cache to cover a whole head.
                (0, 0) if half > 0 => hidden / (2 * half),
                (heads, _) => heads,
            };
            if heads == 0 || hidden % heads != 0 {
                return Err(attrs.wrong("num_heads", "a divisor of the features", &heads.to_string()));
            }
            (b, 1, s, heads, hidden / heads)
        }
        _ => return Err(cx.wrong_input(0, "a tensor of rank 3 or 4")),
    };
    let turned = if rotary == 0 { size } else { rotary };
    if turned != 2 * half || turned > size {
        return Err(cx.wrong_input(form.cos, &format!("rows of {}", turned / 2)));
    }
    let ids = cx.opt_ints(form.ids)?;
    let rows: usize = cos_dims[..cos_dims.len() - 1].iter().product();
    let row = |b: usize, s: usize| {
        let row = match ids.as_deref() {
            None => b * len + s,
            Some(&[start]) if batch * len != 1 => usize::try_from(start).ok()?.checked_add(s)?,
            Some(ids) => usize::try_from(*ids.get(b * len + s)?).ok()?,
        };
        (row < rows).then_some(row)
    };
    let (cos, sin) = (reals::<T>(cx, form.cos)?, reals::<T>(cx, form.sin)?);
    let pairs = if attrs.flag("interleaved", false)? { Pairs::Neighbours } else { Pairs::Halves };
    cx.reserve(x.dtype(), x.dims())?;
    let mut data = reals::<T>(cx, 0)?;
    for (at, token) in data.chunks_exact_mut((inner * size).max(1)).enumerate() {
        let row = row(at / len / outer, at % len);
        let row = row.ok_or_else(|| cx.wrong_input(form.ids, &format!("positions below {rows}")))?;
        let (cos, sin) = (&cos[row * half..][..half], &sin[row * half..][..half]);
        token.chunks_exact_mut(size).for_each(|head| rotate(head, cos, sin, pairs));
    }
    Ok(vec![value(cx, x.dtype(), x.dims(), &data)?])
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("RotaryEmbedding", 23, infer).eval(eval),
    &Table::new("RotaryEmbedding", 1, infer).domain("com.microsoft", 1).eval(eval_microsoft),
];
