//! Permuted axes: Transpose, DepthToSpace, SpaceToDepth. The last two are a reshape, a transpose and a reshape.

use ir::Dim;

use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::movement;
use crate::rule::{OpRule, Table};
use crate::sym;

/// The permutation, checked; axes reversed by default.
fn permutation(perm: Option<&[i64]>, rank: usize) -> Option<Vec<usize>> {
    let Some(perm) = perm else { return Some((0..rank).rev().collect()) };
    let perm: Option<Vec<usize>> = perm.iter().map(|&axis| crate::infer::shape::axis(axis, rank)).collect();
    let perm = perm.filter(|perm| perm.len() == rank)?;
    let mut seen = vec![false; rank];
    perm.iter().for_each(|&axis| seen[axis] = true);
    seen.iter().all(|&seen| seen).then_some(perm)
}

fn transpose_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let perm = cx.attrs().opt_ints("perm")?;
    let Some(dims) = cx.dims(0) else {
        cx.set(0, cx.dtype(0), perm.map(|perm| vec![Dim::Unknown; perm.len()]));
        return Ok(());
    };
    let order = permutation(perm, dims.len())
        .ok_or_else(|| cx.wrong_input(0, &format!("a tensor that {perm:?} permutes")))?;
    cx.set(0, cx.dtype(0), Some(order.iter().map(|&axis| dims[axis].clone()).collect()));
    // Contents keep their order only along a single axis.
    if let (0 | 1, Some(contents)) = (dims.len(), cx.contents(0)) {
        cx.set_contents(0, contents.into_owned());
    }
    Ok(())
}

fn transposed(cx: &EvalCx, tensor: &ir::Tensor, order: &[usize]) -> Result<ir::Tensor> {
    cx.reserve(tensor.dtype(), tensor.dims())?;
    let strides = crate::array::strides(tensor.dims());
    let dims: Vec<usize> = order.iter().map(|&axis| tensor.dims()[axis]).collect();
    let strides: Vec<isize> = order.iter().map(|&axis| strides[axis] as isize).collect();
    movement::take_strided(tensor, &dims, 0, &strides).map_err(|error| cx.tensor_error(error))
}

fn transpose(cx: &EvalCx) -> Result<Outputs> {
    let tensor = cx.tensor(0)?;
    let perm = cx.attrs().opt_ints("perm")?;
    let order = permutation(perm, tensor.rank())
        .ok_or_else(|| cx.wrong_input(0, &format!("a tensor that {perm:?} permutes")))?;
    cx.give(Ok(transposed(cx, tensor, &order)?))
}

// ---- DepthToSpace, SpaceToDepth: [N, C*b*b, H, W] and [N, C, H*b, W*b] -------------------------------------------

fn block_infer(cx: &mut InferCx, to_space: bool) -> Result<()> {
    cx.need(0)?;
    let block = cx.attrs().need_int("blocksize")?;
    if block <= 0 {
        return Err(cx.attrs().wrong("blocksize", "a positive size", &block.to_string()));
    }
    let (one, Some(square)) = (Dim::Known(block), block.checked_mul(block)) else {
        return Err(cx.invalid("the block is too large"));
    };
    let dims = cx.need_rank(0, 4)?.map(|dims| {
        let (n, c, h, w) = (&dims[0], &dims[1], &dims[2], &dims[3]);
        match to_space {
            true => {
                vec![n.clone(), sym::floor_div(c, &Dim::Known(square)), sym::mul(h, &one), sym::mul(w, &one)]
            }
            false => {
                vec![
                    n.clone(),
                    sym::mul(c, &Dim::Known(square)),
                    sym::floor_div(h, &one),
                    sym::floor_div(w, &one),
                ]
            }
        }
    });
    cx.set(0, cx.dtype(0), Some(dims.unwrap_or(vec![Dim::Unknown; 4])));
    Ok(())
}

/// Sizes and block of an operator, where `[N, C, H, W]` splits as asked.
fn blocks(cx: &EvalCx, to_space: bool) -> Result<([usize; 4], usize)> {
    let block = cx.attrs().need_int("blocksize")?;
    let found = usize::try_from(block).ok().filter(|&block| block > 0);
    let block = found.ok_or_else(|| cx.attrs().wrong("blocksize", "a positive size", &block.to_string()))?;
    let fits = |dims: &[usize; 4]| match to_space {
        true => block.checked_mul(block).is_some_and(|square| dims[1].is_multiple_of(square)),
        false => dims[2].is_multiple_of(block) && dims[3].is_multiple_of(block),
    };
    let dims: Option<[usize; 4]> = cx.tensor(0)?.dims().try_into().ok().filter(fits);
    Ok((dims.ok_or_else(|| cx.wrong_input(0, "an image that splits into blocks"))?, block))
}

fn rearranged(cx: &EvalCx, split: &[usize], order: &[usize], dims: &[usize]) -> Result<Outputs> {
    let split = cx.tensor(0)?.reshaped(split).map_err(|error| cx.tensor_error(error))?;
    cx.give(transposed(cx, &split, order)?.reshaped(dims))
}

fn depth_to_space(cx: &EvalCx) -> Result<Outputs> {
    let ([n, c, h, w], b) = blocks(cx, true)?;
    let depth = c / (b * b);
    let dims = [n, depth, h * b, w * b];
    match cx.attrs().str("mode", "DCR")? {
        "DCR" => rearranged(cx, &[n, b, b, depth, h, w], &[0, 3, 4, 1, 5, 2], &dims),
        "CRD" => rearranged(cx, &[n, depth, b, b, h, w], &[0, 1, 4, 2, 5, 3], &dims),
        other => Err(cx.attrs().wrong("mode", "DCR or CRD", other)),
    }
}

fn space_to_depth(cx: &EvalCx) -> Result<Outputs> {
    let ([n, c, h, w], b) = blocks(cx, false)?;
    let dims = [n, c * b * b, h / b, w / b];
    rearranged(cx, &[n, c, h / b, b, w / b, b], &[0, 3, 5, 1, 2, 4], &dims)
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("Transpose", 1, transpose_infer).eval(transpose),
    &Table::new("DepthToSpace", 1, |cx| block_infer(cx, true)).eval(depth_to_space),
    &Table::new("SpaceToDepth", 1, |cx| block_infer(cx, false)).eval(space_to_depth),
];
