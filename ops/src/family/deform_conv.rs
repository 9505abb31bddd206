//! DeformConv (19): a convolution whose taps are moved by learned offsets and weighed by a mask.
//!
//! `x [N, C, H, W]`, `w [M, C/group, kH, kW]`, `offset [N, G*kH*kW*2, oH, oW]` (row then column of each tap),
//! `bias? [M]`, `mask? [N, G*kH*kW, oH, oW]`. Points between pixels are read linearly, outside is zero.

use super::conv::{output_dims, shape};
use super::reals::{for_real, opt_reals_of, reals, reals_of, value};
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::real::{Real, matrix, multiply};
use crate::kernel::sample::{Blend, Outside, Sampler, blend};
use crate::rule::{OpRule, Table};

fn infer(cx: &mut InferCx) -> Result<()> {
    let dims = output_dims(cx, 0, 1)?;
    cx.set(0, cx.same_dtype([0, 1])?, dims);
    Ok(())
}

fn eval(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => run::<T>(cx))
}

fn run<T: Real>(cx: &EvalCx) -> Result<Outputs> {
    let shape = shape(cx, 0, 1)?;
    let [rows, columns] = *shape.axes.as_slice() else {
        return Err(cx.unsupported("other than two spatial axes"));
    };
    let groups = cx.attrs().int("offset_group", 1)?;
    let offset_groups =
        usize::try_from(groups).ok().filter(|&groups| groups > 0 && shape.channels % groups == 0);
    let offset_groups = offset_groups
        .ok_or_else(|| cx.attrs().wrong("offset_group", "a divisor of the channels", &groups.to_string()))?;
    let taps = rows.kernel * columns.kernel;
    let (height, width) = (rows.output, columns.output);
    let offsets = cx.f64s(2)?;
    if cx.tensor(2)?.dims() != [shape.batch, offset_groups * taps * 2, height, width] {
        return Err(cx.wrong_input(2, "an offset for every tap"));
    }
    let (x, w) = (reals::<T>(cx, 0)?, reals::<T>(cx, 1)?);
    let bias = opt_reals_of::<T>(cx, 3, &[shape.filters])?;
    let mask = match cx.has(4) {
        true => Some(reals_of::<T>(cx, 4, &[shape.batch, offset_groups * taps, height, width])?),
        false => None,
    };
    let dtype = cx.tensor(0)?.dtype();
    let dims = shape.output();
    let mut y = vec![T::zero(); cx.reserve(dtype, &dims)?];
    let outputs = height * width;
    cx.reserve(dtype, &[shape.channels, taps, outputs])?;
    let sizes = vec![rows.input, columns.input];
    let image = rows.input * columns.input;
    let sampler = Sampler { sizes, outside: Outside::Zeros, blend: Blend::Linear, align_corners: true };
    let together = shape.channels / offset_groups;
    for item in 0..shape.batch {
        let mut unfolded = vec![T::zero(); shape.channels * taps * outputs];
        for group in 0..offset_groups {
            for tap in 0..taps {
                let row = (item * offset_groups + group) * taps + tap;
                for at in 0..outputs {
                    let place = |axis: &crate::kernel::window::Axis, out: usize, tap: usize, which: usize| {
                        let start = (out * axis.stride + tap * axis.dilation) as f64 - axis.before as f64;
                        start + offsets[(row * 2 + which) * outputs + at]
                    };
                    let down = place(&rows, at / width, tap / columns.kernel, 0);
                    let across = place(&columns, at % width, tap % columns.kernel, 1);
                    let near = sampler.at(&[down, across]);
                    let factor = mask.as_ref().map_or(1.0, |mask| mask[row * outputs + at].wide());
                    for channel in group * together..(group + 1) * together {
                        let pixels = &x[(item * shape.channels + channel) * image..][..image];
                        unfolded[(channel * taps + tap) * outputs + at] =
                            T::of(factor * blend(pixels, &near));
                    }
                }
            }
        }
        let (depth, filters) = (shape.channels / shape.groups * taps, shape.filters / shape.groups);
        for group in 0..shape.groups {
            let y = &mut y[(item * shape.filters + group * filters) * outputs..][..filters * outputs];
            let w = matrix(&w[group * filters * depth..], filters, depth);
            multiply(w, matrix(&unfolded[group * depth * outputs..], depth, outputs), T::zero(), y);
        }
    }
    if let Some(bias) = bias {
        for (row, &bias) in y.chunks_exact_mut(outputs.max(1)).zip(bias.iter().cycle()) {
            row.iter_mut().for_each(|y| *y = *y + bias);
        }
    }
    Ok(vec![value(cx, dtype, &dims, &y)?])
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[&Table::new("DeformConv", 19, infer).eval(eval)];
