//! Repeated elements: Expand (numpy broadcasting to a shape), Tile (copies along axes).
//!
//! Tile took `tiles` and `axis` up to opset 5, which no exporter wrote: its rule begins at opset 6.

use ir::Dim;

use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::{InferCx, shape};
use crate::kernel::broadcast::broadcast_strides;
use crate::kernel::movement;
use crate::rule::{OpRule, Table};
use crate::sym;

fn expand_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.need(1)?;
    cx.need_rank(1, 1)?;
    let Some(target) = cx.contents(1) else {
        let rank = cx.dims(1).and_then(|dims| dims.first()?.known()).zip(cx.rank(0)).map(|(a, b)| a.max(b));
        let rank = rank.filter(|rank| *rank <= crate::infer::CONTENTS_LIMIT);
        cx.set(0, cx.dtype(0), rank.map(|rank| vec![Dim::Unknown; rank]));
        return Ok(());
    };
    let dims = cx.dims(0).map(|dims| {
        shape::broadcast(dims, &target)
            .ok_or_else(|| cx.wrong_input(0, &format!("a shape that broadcasts to {}", shape::show(&target))))
    });
    let dims = dims.transpose()?;
    cx.set(0, cx.dtype(0), dims);
    let sizes = |dims: Option<&[Dim]>| dims?.iter().map(Dim::known).collect::<Option<Vec<usize>>>();
    let result = cx.outputs.first().and_then(|known| sizes(known.dims()));
    if let (Some(contents), Some(from), Some(to)) = (cx.contents(0), sizes(cx.dims(0)), result)
        && let Some(spread) = shape::spread(&contents, &from, &to)
    {
        cx.set_contents(0, spread);
    }
    Ok(())
}

fn expand(cx: &EvalCx) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    cx.tensor_of_rank(1, 1)?;
    let target = sizes_at(cx, 1)?;
    let dims = shape::broadcast_sizes(input.dims(), &target)
        .ok_or_else(|| cx.wrong_input(0, &format!("sizes that broadcast to {target:?}")))?;
    cx.reserve(input.dtype(), &dims)?;
    let strides: Vec<isize> = broadcast_strides(input.dims(), &dims).iter().map(|&s| s as isize).collect();
    cx.give(movement::take_strided(input, &dims, 0, &strides))
}

/// The non-negative integers of input `at`.
pub(super) fn sizes_at(cx: &EvalCx, at: usize) -> Result<Vec<usize>> {
    let sizes: Option<Vec<usize>> = cx.ints(at)?.into_iter().map(|size| usize::try_from(size).ok()).collect();
    sizes.ok_or_else(|| cx.wrong_input(at, "sizes, none of them negative"))
}

fn tile_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.need(1)?;
    let Some(dims) = cx.dims(0) else {
        let rank = cx.dims(1).and_then(|dims| dims.first()?.known());
        let rank = rank.filter(|rank| *rank <= crate::infer::CONTENTS_LIMIT);
        cx.set(0, cx.dtype(0), rank.map(|rank| vec![Dim::Unknown; rank]));
        return Ok(());
    };
    let out = match cx.contents(1) {
        Some(repeats) if repeats.len() != dims.len() => {
            return Err(cx.wrong_input(1, &format!("{} repeats", dims.len())));
        }
        Some(repeats) => dims.iter().zip(repeats.iter()).map(|(dim, by)| sym::mul(dim, by)).collect(),
        None => vec![Dim::Unknown; dims.len()],
    };
    cx.set(0, cx.dtype(0), Some(out));
    Ok(())
}

fn tile(cx: &EvalCx) -> Result<Outputs> {
    let (input, repeats) = (cx.tensor(0)?, sizes_at(cx, 1)?);
    if repeats.len() != input.rank() {
        return Err(cx.wrong_input(1, &format!("{} repeats", input.rank())));
    }
    let overflow = || cx.invalid("the result is too large");
    let dims: Option<Vec<usize>> =
        input.dims().iter().zip(&repeats).map(|(a, b)| a.checked_mul(*b)).collect();
    let dims = dims.ok_or_else(overflow)?;
    cx.reserve(input.dtype(), &dims)?;
    // Seen as [r0, d0, r1, d1, …] the copies are a view with stride 0 along the repeats.
    let (mut split, mut strides) = (Vec::new(), Vec::new());
    for ((&size, &repeat), stride) in input.dims().iter().zip(&repeats).zip(array::strides(input.dims())) {
        split.extend([repeat, size]);
        strides.extend([0, stride as isize]);
    }
    let copies =
        movement::take_strided(input, &split, 0, &strides).map_err(|error| cx.tensor_error(error))?;
    cx.give(copies.reshaped(dims.as_slice()))
}

/// The table.
pub const RULES: &[&dyn OpRule] =
    &[&Table::new("Expand", 8, expand_infer).eval(expand), &Table::new("Tile", 6, tile_infer).eval(tile)];
