//! Putting images together: CenterCropPad and Col2Im (18), and ImageDecoder (20), which is only inferred.
//!
//! CenterCropPad cuts or zero-pads the middle of each axis, the odd element at the end. Col2Im adds up blocks
//! `[N, C * block, L]` where they overlap in an image of the given size.

use std::iter;

use ir::{DType, Dim, Tensor};

use super::reals::{for_real, reals, value};
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::conv::{ConvShape, for_rows};
use crate::kernel::movement::pick;
use crate::kernel::real::Real;
use crate::kernel::window::{AutoPad, Axis, WindowAttrs, advance};
use crate::rule::{OpRule, Table};

fn axes(attrs: crate::attrs::Attributes<'_>, rank: usize) -> Result<Vec<usize>> {
    let Some(axes) = attrs.opt_ints("axes")? else { return Ok((0..rank).collect()) };
    let found: Option<Vec<usize>> = axes.iter().map(|&axis| crate::infer::shape::axis(axis, rank)).collect();
    found.ok_or_else(|| attrs.wrong("axes", &format!("axes of rank {rank}"), &format!("{axes:?}")))
}

fn infer_center(cx: &mut InferCx) -> Result<()> {
    let dims = match cx.dims(0) {
        Some(dims) => {
            let mut out = dims.to_vec();
            let axes = axes(cx.attrs(), dims.len())?;
            let wanted = cx.contents(1).filter(|wanted| wanted.len() == axes.len());
            for (at, &axis) in axes.iter().enumerate() {
                out[axis] = wanted.as_ref().map_or(Dim::Unknown, |wanted| wanted[at].clone());
            }
            Some(out)
        }
        None => None,
    };
    cx.set(0, cx.dtype(0), dims);
    Ok(())
}

fn eval_center(cx: &EvalCx) -> Result<Outputs> {
    let x = cx.tensor(0)?;
    let axes = axes(cx.attrs(), x.rank())?;
    let mut dims = x.dims().to_vec();
    let wanted = cx.ints(1)?;
    if wanted.len() != axes.len() {
        return Err(cx.wrong_input(1, &format!("{} sizes", axes.len())));
    }
    for (&axis, &size) in axes.iter().zip(&wanted) {
        dims[axis] = usize::try_from(size).map_err(|_| cx.wrong_input(1, "sizes"))?;
    }
    let elements = cx.reserve(x.dtype(), &dims)?;
    let zero = match x.dtype().storage_bytes(1) {
        Some(size) => Tensor::new(x.dtype(), [1usize].as_slice(), vec![0u8; size]),
        None => Tensor::strings([1usize].as_slice(), vec![bytes::Bytes::new()]),
    };
    let zero = zero.map_err(|error| cx.tensor_error(error))?;
    // Where position 0 of the output lies in the input, per axis.
    let shifts: Vec<i64> = x
        .dims()
        .iter()
        .zip(&dims)
        .map(|(&own, &new)| if own >= new { ((own - new) / 2) as i64 } else { -(((new - own) / 2) as i64) })
        .collect();
    let mut at = vec![0; dims.len()];
    let picks = iter::repeat_with(|| {
        let mut from = Some(0);
        for ((&at, &shift), &size) in at.iter().zip(&shifts).zip(x.dims()) {
            let inside = usize::try_from(at as i64 + shift).ok().filter(|&inside| inside < size);
            from = from.zip(inside).map(|(from, inside)| from * size + inside);
        }
        advance(&mut at, &dims);
        from.map_or((1, 0), |from| (0, from))
    });
    cx.give(pick(&[x, &zero], &dims, picks.take(elements)))
}

/// The block as a window over the image.
fn window(cx_attrs: crate::attrs::Attributes<'_>, block: &[usize]) -> Result<WindowAttrs> {
    let mut window = WindowAttrs::read(cx_attrs, block)?;
    (window.auto_pad, window.ceil) = (AutoPad::Explicit, false);
    Ok(window)
}

fn infer_col2im(cx: &mut InferCx) -> Result<()> {
    let x = cx.need_rank(0, 3)?;
    let batch = x.map_or(Dim::Unknown, |dims| dims[0].clone());
    let block = cx.contents(2).map(|block| crate::sym::product(block.iter()));
    let channels = match (x, block) {
        (Some(dims), Some(block)) => crate::sym::floor_div(&dims[1], &block),
        _ => Dim::Unknown,
    };
    // As many sizes as the image has axes.
    let open = || match cx.dims(1) {
        Some([Dim::Known(count @ 1..=8)]) => Some(vec![Dim::Unknown; *count as usize]),
        _ => None,
    };
    let image = cx.contents(1).map(|image| image.to_vec()).or_else(open);
    cx.set(0, cx.dtype(0), image.map(|image| [vec![batch, channels], image].concat()));
    Ok(())
}

fn eval_col2im(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => col2im::<T>(cx))
}

fn col2im<T: Real>(cx: &EvalCx) -> Result<Outputs> {
    let sizes = |at: usize| {
        let sizes: Option<Vec<usize>> = cx.ints(at)?.iter().map(|&size| usize::try_from(size).ok()).collect();
        sizes.filter(|sizes| !sizes.is_empty()).ok_or_else(|| cx.wrong_input(at, "sizes"))
    };
    let (image, block) = (sizes(1)?, sizes(2)?);
    let axes: Vec<Axis> = window(cx.attrs(), &block)?.axes(&image).map_err(|why| cx.invalid(why))?;
    let (taps, blocks): (usize, usize) =
        (block.iter().product(), axes.iter().map(|axis| axis.output).product());
    let &[batch, rows, count] = cx.tensor(0)?.dims() else {
        return Err(cx.wrong_input(0, "a tensor of rank 3"));
    };
    if taps == 0 || rows % taps != 0 || count != blocks {
        return Err(cx.wrong_input(0, &format!("{blocks} blocks of {taps} elements")));
    }
    let channels = rows / taps;
    let dims: Vec<usize> = [batch, channels].into_iter().chain(image.iter().copied()).collect();
    let dtype = cx.tensor(0)?.dtype();
    let mut y = vec![T::zero(); cx.reserve(dtype, &dims)?];
    let data = reals::<T>(cx, 0)?;
    let shape = ConvShape { batch: 1, channels: 1, filters: 1, groups: 1, axes };
    let pixels: usize = image.iter().product();
    for (y, columns) in y.chunks_exact_mut(pixels.max(1)).zip(data.chunks_exact((taps * blocks).max(1))) {
        for_rows(&shape, 0..shape.axes[0].output, |tap, from, run| {
            let row = &columns[tap * blocks + from..][..run.count];
            let to = y[run.start..].iter_mut().step_by(run.step);
            to.zip(row).for_each(|(y, &x)| *y = *y + x);
        });
    }
    Ok(vec![value(cx, dtype, &dims, &y)?])
}

fn infer_decoder(cx: &mut InferCx) -> Result<()> {
    let channels = if cx.attrs().str("pixel_format", "RGB")? == "Grayscale" { 1 } else { 3 };
    let dims = vec![cx.fresh("height"), cx.fresh("width"), Dim::Known(channels)];
    cx.set(0, Some(DType::U8), Some(dims));
    Ok(())
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("CenterCropPad", 18, infer_center).eval(eval_center),
    &Table::new("Col2Im", 18, infer_col2im).eval(eval_col2im),
    &Table::new("ImageDecoder", 20, infer_decoder),
];
