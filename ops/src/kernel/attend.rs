//! Scaled dot-product attention over slices: what the attention operators of all domains share.

use super::real::{Real, matrix, multiply};

/// Sizes of an attention. Query heads are a multiple of key/value heads; `group` query heads in a row share one.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Sequences.
    pub batch: usize,
    /// Heads of the query.
    pub query: usize,
    /// Heads of key and value.
    pub shared: usize,
    /// Query positions.
    pub q_len: usize,
    /// Key positions, cached ones included.
    pub kv_len: usize,
    /// Features of a query or key head.
    pub size: usize,
    /// Features of a value head.
    pub v_size: usize,
}

/// Which stage of the scores to keep as a second result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The scaled product.
    Product,
    /// After the soft cap.
    Capped,
    /// After the bias.
    Biased,
    /// After the softmax.
    Softmax,
}

/// How scores become weights.
pub struct Scores<'a> {
    /// Factor of the product, applied as its root to both sides as the specification asks.
    pub scale: f64,
    /// `cap * tanh(score / cap)`; 0 is none.
    pub softcap: f64,
    /// Added to the score of `(batch, query head, query, key)`; minus infinity hides the key.
    pub bias: &'a dyn Fn(usize, usize, usize, usize) -> f64,
    /// Something else than a plain softmax in the last step: an extra score that takes weight but has no value, per
    /// query head.
    pub sink: Option<&'a dyn Fn(usize) -> f64>,
}

/// `softmax(cap(q kᵀ scale) + bias) v` for `q [B, Hq, S, D]`, `k [B, Hkv, T, D]`, `v [B, Hkv, T, Dv]`: gives
/// `[B, Hq, S, Dv]` and the kept stage `[B, Hq, S, T]`. A query that sees no key gives zeros.
pub fn attend<T: Real>(
    heads: Heads,
    (q, k, v): (&[T], &[T], &[T]),
    scores: &Scores<'_>,
    keep: Option<Stage>,
) -> (Vec<T>, Option<Vec<T>>) {
    let Heads { batch, query, shared, q_len, kv_len, size, v_size } = heads;
    let group = query.checked_div(shared).unwrap_or(1).max(1);
    let root = T::of(scores.scale.sqrt());
    let scaled = |x: &[T]| x.iter().map(|&x| x * root).collect::<Vec<T>>();
    let mut y = vec![T::zero(); batch * query * q_len * v_size];
    let mut kept = keep.map(|_| Vec::with_capacity(batch * query * q_len * kv_len));
    let mut product = vec![T::zero(); q_len * kv_len];
    for b in 0..batch {
        for h in 0..query {
            let (own, other) = (b * query + h, b * shared + h / group);
            let q = scaled(&q[own * q_len * size..][..q_len * size]);
            let k = scaled(&k[other * kv_len * size..][..kv_len * size]);
            let v = matrix(&v[other * kv_len * v_size..], kv_len, v_size);
            multiply(matrix(&q, q_len, size), matrix(&k, kv_len, size).t(), T::zero(), &mut product);
            let mut save = |stage: Stage, product: &[T]| {
                if let (true, Some(kept)) = (keep == Some(stage), &mut kept) {
                    kept.extend_from_slice(product);
                }
            };
            save(Stage::Product, &product);
            if scores.softcap > 0.0 {
                let cap = T::of(scores.softcap);
                product.iter_mut().for_each(|score| *score = (*score / cap).tanh() * cap);
            }
            save(Stage::Capped, &product);
            for (s, row) in product.chunks_exact_mut(kv_len.max(1)).enumerate() {
                for (t, score) in row.iter_mut().enumerate() {
                    let bias = (scores.bias)(b, h, s, t);
                    // Assigned, not added: a hidden key stays hidden whatever its score is.
                    let hidden = bias == f64::NEG_INFINITY;
                    *score = if hidden { T::neg_infinity() } else { *score + T::of(bias) };
                }
            }
            save(Stage::Biased, &product);
            let sink = scores.sink.map(|sink| T::of(sink(h)));
            product.chunks_exact_mut(kv_len.max(1)).for_each(|row| softmax(row, sink));
            save(Stage::Softmax, &product);
            let y = &mut y[own * q_len * v_size..][..q_len * v_size];
            multiply(matrix(&product, q_len, kv_len), v, T::zero(), y);
        }
    }
    (y, kept)
}

/// The softmax of a row in place; all zeros if everything is minus infinity.
pub fn softmax<T: Real>(row: &mut [T], sink: Option<T>) {
    let start = sink.unwrap_or_else(T::neg_infinity);
    let greatest = row.iter().fold(start, |greatest, &score| greatest.max(score));
    if greatest == T::neg_infinity() {
        row.fill(T::zero());
        return;
    }
    row.iter_mut().for_each(|score| *score = (*score - greatest).exp());
    let extra = sink.map_or(0.0, |sink| (sink - greatest).exp().wide());
    let sum = T::of(row.iter().map(|score| score.wide()).sum::<f64>() + extra);
    row.iter_mut().for_each(|score| *score = *score / sum);
}

/// `[B, S, H*D]` as `[B, H, S, D]`.
pub fn split_heads<T: Copy>(x: &[T], (batch, len, heads, size): (usize, usize, usize, usize)) -> Vec<T> {
    let mut out = Vec::with_capacity(x.len());
    for b in 0..batch {
        for h in 0..heads {
            for s in 0..len {
                out.extend_from_slice(&x[((b * len + s) * heads + h) * size..][..size]);
            }
        }
    }
    out
}

/// `[B, H, S, D]` as `[B, S, H*D]`.
pub fn merge_heads<T: Copy>(x: &[T], (batch, len, heads, size): (usize, usize, usize, usize)) -> Vec<T> {
    let mut out = Vec::with_capacity(x.len());
    for b in 0..batch {
        for s in 0..len {
            for h in 0..heads {
                out.extend_from_slice(&x[((b * heads + h) * len + s) * size..][..size]);
            }
        }
    }
    out
}

/// `past [B*H, P, D]` followed by `new [B*H, S, D]` along the middle axis.
pub fn append<T: Copy>(
    past: &[T],
    new: &[T],
    rows: usize,
    (past_len, new_len, size): (usize, usize, usize),
) -> Vec<T> {
    let mut out = Vec::with_capacity(past.len() + new.len());
    for row in 0..rows {
        out.extend_from_slice(&past[row * past_len * size..][..past_len * size]);
        out.extend_from_slice(&new[row * new_len * size..][..new_len * size]);
    }
    out
}

/// How a rotary embedding pairs features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// First half with second half.
    Halves,
    /// Even with odd neighbours.
    Neighbours,
}

/// Rotates the first `2 * cos.len()` features of one head in place by the angles whose cosines and sines are given.
pub fn rotate<T: Real>(head: &mut [T], cos: &[T], sin: &[T], pairs: Pairs) {
    let half = cos.len();
    for (at, (&cos, &sin)) in cos.iter().zip(sin).enumerate() {
        let (first, second) = match pairs {
            Pairs::Halves => (at, half + at),
            Pairs::Neighbours => (2 * at, 2 * at + 1),
        };
        let (a, b) = (head[first], head[second]);
        head[first] = cos * a - sin * b;
        head[second] = sin * a + cos * b;
    }
}
