//! Operators that sum products of data and weights: convolutions, matrix products, recurrent layers.

use super::{Role, Rule, Scheme, SchemeCx, Work};

pub(super) const RULES: &[Rule] = &[
    ("", "Conv", |cx| convolution(cx, 0, 1)),
    ("", "ConvTranspose", transposed),
    ("", "Gemm", gemm),
    ("", "MatMul", matmul),
    ("com.microsoft", "FusedMatMul", fused_matmul),
    ("com.microsoft", "FusedConv", |cx| convolution(cx, 0, 1)),
    ("", "Einsum", einsum),
    ("", "LSTM", recurrent),
    ("", "GRU", recurrent),
    ("", "RNN", recurrent),
];

fn convolution(_: SchemeCx<'_>, channel: usize, depth: usize) -> Option<Scheme> {
    let weight = Role::Weight { channel: Some(channel), depth: Some(depth) };
    Some(Scheme::new(Work::Product, vec![Role::Data, weight, Role::Bias], vec![Role::Data]))
}

/// The weight is `[in, out / groups, ...]`: with groups, one index of axis 1 serves several output channels.
fn transposed(cx: SchemeCx<'_>) -> Option<Scheme> {
    let grouped = cx.op().attrs.int("group").unwrap_or(1) != 1;
    let weight = Role::Weight { channel: (!grouped).then_some(1), depth: Some(0) };
    Some(Scheme::new(Work::Product, vec![Role::Data, weight, Role::Bias], vec![Role::Data]))
}

/// `alpha * A' * B' + beta * C`. With alpha other than 1 the accumulator's scale is not the product of the scales.
fn gemm(cx: SchemeCx<'_>) -> Option<Scheme> {
    let attrs = &cx.op().attrs;
    if attrs.float("alpha").unwrap_or(1.0) != 1.0 || attrs.int("transA").unwrap_or(0) != 0 {
        return None;
    }
    let (channel, depth) = if attrs.int("transB").unwrap_or(0) != 0 { (0, 1) } else { (1, 0) };
    let weight = Role::Weight { channel: Some(channel), depth: Some(depth) };
    let mut scheme = Scheme::new(Work::Product, vec![Role::Data, weight, Role::Bias], vec![Role::Data]);
    scheme.bias_factor = attrs.float("beta").unwrap_or(1.0);
    Some(scheme)
}

/// The constant side is the weight; the sum runs over the last axis of the left and the second to last of the right.
fn matmul(cx: SchemeCx<'_>) -> Option<Scheme> {
    let side = |slot: usize| -> Option<Role> {
        if !cx.is_constant(slot) {
            return Some(Role::Data);
        }
        let rank = cx.rank(slot)?;
        let (channel, depth) = match (rank, slot) {
            (0, _) => return None,
            (1, _) => (None, Some(0)),
            (_, 0) => (Some(rank - 2), Some(rank - 1)),
            _ => (Some(rank - 1), Some(rank - 2)),
        };
        // Above rank 2 each matrix of the stack would want scales of its own: one scale for the whole then.
        Some(Role::Weight { channel: channel.filter(|_| rank == 2), depth })
    };
    Some(Scheme::new(Work::Product, vec![side(0)?, side(1)?], vec![Role::Data]))
}

fn fused_matmul(cx: SchemeCx<'_>) -> Option<Scheme> {
    let attrs = &cx.op().attrs;
    let plain = ["transA", "transB", "transBatchA", "transBatchB"]
        .iter()
        .all(|name| attrs.int(name).unwrap_or(0) == 0);
    if plain && attrs.float("alpha").unwrap_or(1.0) == 1.0 { matmul(cx) } else { None }
}

/// Einsum that is a matrix product of data and a constant matrix, such as `bsd,dh->bsh`.
fn einsum(cx: SchemeCx<'_>) -> Option<Scheme> {
    let equation: String = cx.op().attrs.str("equation")?.chars().filter(|c| !c.is_whitespace()).collect();
    let (inputs, output) = equation.split_once("->")?;
    let (left, right) = inputs.split_once(',')?;
    if equation.contains('.') || cx.input_count() != 2 {
        return None;
    }
    let product = |data: &str, weight: &str| -> Option<(usize, usize)> {
        let mut letters = weight.chars();
        let (a, b) = (letters.next()?, letters.next()?);
        if letters.next().is_some() || a == b {
            return None;
        }
        let summed = |c: char| data.contains(c) && !output.contains(c);
        let kept = |c: char| !data.contains(c) && output.contains(c);
        match (summed(a) && kept(b), summed(b) && kept(a)) {
            (true, _) => Some((1, 0)),
            (_, true) => Some((0, 1)),
            _ => None,
        }
    };
    let roles = if cx.is_constant(1) {
        let (channel, depth) = product(left, right)?;
        vec![Role::Data, Role::Weight { channel: Some(channel), depth: Some(depth) }]
    } else if cx.is_constant(0) {
        let (channel, depth) = product(right, left)?;
        vec![Role::Weight { channel: Some(channel), depth: Some(depth) }, Role::Data]
    } else {
        vec![Role::Data, Role::Data]
    };
    Some(Scheme::new(Work::Product, roles, vec![Role::Data]))
}

/// Weights are `[directions, gates * hidden, in]`. The data, states and outputs run through nonlinearities inside and stay
/// float; only dynamic and weight-only forms quantize these layers.
fn recurrent(_: SchemeCx<'_>) -> Option<Scheme> {
    let weight = Role::Weight { channel: Some(1), depth: Some(2) };
    Some(Scheme::new(Work::Product, vec![Role::Keep, weight, weight], vec![]))
}
