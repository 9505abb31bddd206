//! GridSample and AffineGrid: reading an image at given points, and the points of an affine map.
//!
//! Refused because the reference and ONNX Runtime disagree: cubic interpolation beyond the border.
//!
//! GridSample: `x [N, C, d1…dr]`, `grid [N, o1…or, r]` with coordinates in [-1, 1], the last axis first. Opset 16 is
//! two-dimensional and says bilinear and bicubic, 20 is of any rank and says linear and cubic. AffineGrid (20):
//! `theta [N, r, r+1]`, `size [N, C, d1…dr]` for r of 2 and 3.

use ir::Dim;

use super::reals::{for_real, reals, reals_of, value};
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::real::Real;
use crate::kernel::sample::{Blend, Outside, Sampler, blend};
use crate::kernel::window::advance;
use crate::rule::{OpRule, Table};

fn infer_sample(cx: &mut InferCx) -> Result<()> {
    let dims = match (cx.dims(0), cx.dims(1)) {
        (Some(x), Some(grid)) => {
            if x.len() < 3 || grid.len() != x.len() {
                return Err(cx.wrong_input(1, "a grid of the image's rank"));
            }
            let mut dims = x[..2].to_vec();
            dims.extend_from_slice(&grid[1..grid.len() - 1]);
            Some(dims)
        }
        _ => None,
    };
    cx.set(0, cx.dtype(0), dims);
    Ok(())
}

fn eval_sample(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => sample::<T>(cx))
}

fn sample<T: Real>(cx: &EvalCx) -> Result<Outputs> {
    let attrs = cx.attrs();
    let blend_by = match attrs.str("mode", "linear")? {
        "linear" | "bilinear" => Blend::Linear,
        "cubic" | "bicubic" => Blend::Cubic,
        "nearest" => Blend::Nearest,
        other => return Err(attrs.wrong("mode", "linear, nearest or cubic", other)),
    };
    let outside = match attrs.str("padding_mode", "zeros")? {
        "zeros" => Outside::Zeros,
        "border" => Outside::Border,
        "reflection" => Outside::Reflection,
        other => return Err(attrs.wrong("padding_mode", "zeros, border or reflection", other)),
    };
    let align_corners = attrs.flag("align_corners", false)?;
    let (x, grid) = (cx.tensor(0)?, cx.tensor(1)?);
    let (&[batch, channels, ref sizes @ ..], &[grids, ref out @ .., rank]) = (x.dims(), grid.dims()) else {
        return Err(cx.wrong_input(0, "images with channels"));
    };
    if grids != batch || rank != sizes.len() || out.len() != rank {
        return Err(cx.wrong_input(1, &format!("{batch} grids of points of rank {}", sizes.len())));
    }
    let dims: Vec<usize> = [batch, channels].iter().chain(out).copied().collect();
    let mut y = vec![T::zero(); cx.reserve(x.dtype(), &dims)?];
    let points = cx.f64s(1)?;
    let images = reals::<T>(cx, 0)?;
    let (image, count): (usize, usize) = (sizes.iter().product(), out.iter().product());
    let sampler = Sampler { sizes: sizes.to_vec(), outside, blend: blend_by, align_corners };
    for (at, point) in points.chunks_exact(rank.max(1)).enumerate() {
        let (item, at) = (at / count.max(1), at % count.max(1));
        // The grid names the last axis first.
        let point = point.iter().rev().zip(sizes);
        let point: Vec<f64> = point.map(|(&normal, &size)| sampler.denormalize(normal, size)).collect();
        if point.iter().zip(sizes).any(|(&x, &size)| sampler.is_disputed(x, size)) {
            return Err(cx.unsupported("cubic interpolation beyond the border"));
        }
        let taps = sampler.at(&point);
        for channel in 0..channels {
            let plane = item * channels + channel;
            y[plane * count + at] = T::of(blend(&images[plane * image..][..image], &taps));
        }
    }
    Ok(vec![value(cx, x.dtype(), &dims, &y)?])
}

fn infer_grid(cx: &mut InferCx) -> Result<()> {
    let batch = cx.need_rank(0, 3)?.map_or(Dim::Unknown, |dims| dims[0].clone());
    let dims = match cx.contents(1) {
        Some(size) if size.len() >= 4 => {
            let mut dims = vec![batch];
            dims.extend_from_slice(&size[2..]);
            dims.push(Dim::from(size.len() - 2));
            Some(dims)
        }
        // As many sizes as the output has axes.
        _ => match cx.dims(1) {
            Some([Dim::Known(count @ (4 | 5))]) => {
                let rank = *count;
                let mut dims = vec![Dim::Unknown; rank as usize];
                (dims[0], dims[rank as usize - 1]) = (batch, Dim::Known(rank - 2));
                Some(dims)
            }
            _ => None,
        },
    };
    cx.set(0, cx.dtype(0), dims);
    Ok(())
}

fn eval_grid(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => grid::<T>(cx))
}

fn grid<T: Real>(cx: &EvalCx) -> Result<Outputs> {
    let size = cx.ints(1)?;
    let size: Option<Vec<usize>> = size.iter().map(|&size| usize::try_from(size).ok()).collect();
    let size = size.filter(|size| size.len() == 4 || size.len() == 5);
    let size = size.ok_or_else(|| cx.wrong_input(1, "4 or 5 sizes"))?;
    let (batch, sizes, rank) = (size[0], &size[2..], size.len() - 2);
    let theta = reals_of::<T>(cx, 0, &[batch, rank, rank + 1])?;
    let align_corners = cx.attrs().flag("align_corners", false)?;
    let dims: Vec<usize> = [batch].iter().chain(sizes).chain(&[rank]).copied().collect();
    let dtype = cx.tensor(0)?.dtype();
    let elements = cx.reserve(dtype, &dims)?;
    let mut y = Vec::with_capacity(elements);
    let normal = |at: usize, size: usize| match align_corners {
        true if size == 1 => -1.0,
        true => 2.0 * at as f64 / (size as f64 - 1.0) - 1.0,
        false => (2.0 * at as f64 + 1.0) / size as f64 - 1.0,
    };
    for theta in theta.chunks_exact(rank * (rank + 1)) {
        let mut at = vec![0; rank];
        for _ in 0..sizes.iter().product() {
            let point: Vec<f64> = at.iter().zip(sizes).rev().map(|(&at, &size)| normal(at, size)).collect();
            for row in theta.chunks_exact(rank + 1) {
                let turned: f64 = row.iter().zip(&point).map(|(t, p)| t.wide() * p).sum();
                y.push(T::of(turned + row[rank].wide()));
            }
            advance(&mut at, sizes);
        }
    }
    Ok(vec![value(cx, dtype, &dims, &y)?])
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("GridSample", 16, infer_sample).eval(eval_sample),
    &Table::new("AffineGrid", 20, infer_grid).eval(eval_grid),
];
