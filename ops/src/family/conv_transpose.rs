//! ConvTranspose: the gradient of Conv as an operator of its own, for upsampling.
//!
//! `x [N, C, spatial…]`, `w [C, M/group, kernel…]` gives `y [N, M, spatial…]` with, per axis,
//! `out = stride * (in - 1) + output_padding + (kernel - 1) * dilation + 1 - before - after`. The attribute `output_shape`
//! (or `auto_pad` SAME, which means `out = in * stride`) fixes the output and leaves the pads to follow: half of what is
//! too much at each side, the odd one at the end for SAME_UPPER and else at the start.

use ir::Dim;

use super::conv::inferred_kernel;
use super::reals::{for_real, opt_reals_of, reals, unknown, value};
use crate::attrs::Attributes;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::conv::{ConvShape, for_rows};
use crate::kernel::real::{Real, matrix, multiply};
use crate::kernel::window::{AutoPad, Axis, WindowAttrs};
use crate::rule::{OpRule, Table};
use crate::sym;

/// The attributes that Conv does not have.
struct Growth {
    window: WindowAttrs,
    padding: Vec<usize>,
    shape: Option<Vec<usize>>,
}

fn read(attrs: Attributes<'_>, kernel: &[usize]) -> Result<Growth> {
    let rank = kernel.len();
    let sizes = |name: &str, values: &[i64]| {
        let values: Option<Vec<usize>> =
            values.iter().map(|&v| u32::try_from(v).ok().map(|v| v as usize)).collect();
        values.ok_or_else(|| attrs.wrong(name, "sizes", "negative or huge ones"))
    };
    let padding = match attrs.opt_ints("output_padding")? {
        None | Some([]) => vec![0; rank],
        Some(values) if values.len() == rank => sizes("output_padding", values)?,
        Some(values) => {
            return Err(attrs.wrong("output_padding", &format!("{rank} sizes"), &format!("{values:?}")));
        }
    };
    let shape = match attrs.opt_ints("output_shape")? {
        None | Some([]) => None,
        // Some exporters write batch and channels too.
        Some(values) if values.len() == rank || values.len() == rank + 2 => {
            Some(sizes("output_shape", &values[values.len() - rank..])?)
        }
        Some(values) => {
            return Err(attrs.wrong("output_shape", &format!("{rank} sizes"), &format!("{values:?}")));
        }
    };
    Ok(Growth { window: WindowAttrs::read(attrs, kernel)?, padding, shape })
}

impl Growth {
    /// The axis as Conv would see it: `input` is what this operator writes, `output` what it reads.
    fn axis(&self, at: usize, size: usize) -> std::result::Result<Axis, String> {
        let window = &self.window;
        let (stride, reach) = (window.strides[at], window.reach(at));
        let wanted = match (&self.shape, window.auto_pad) {
            (Some(shape), _) => Some(shape[at]),
            (None, AutoPad::SameUpper | AutoPad::SameLower) => size.checked_mul(stride),
            (None, AutoPad::Explicit | AutoPad::Valid) => None,
        };
        let full =
            size.saturating_sub(1).checked_mul(stride).and_then(|v| v.checked_add(self.padding[at] + reach));
        let full = full.filter(|_| size > 0).ok_or_else(|| format!("input of size {size}"))?;
        let (before, after, out) = match wanted {
            Some(out) => {
                let total = full.saturating_sub(out);
                let less = total / 2;
                match window.auto_pad {
                    AutoPad::SameUpper => (less, total - less, out),
                    _ => (total - less, less, out),
                }
            }
            None => {
                let (before, after) = match window.auto_pad {
                    AutoPad::Valid => (0, 0),
                    _ => window.pads[at],
                };
                let out = full.checked_sub(before + after);
                (
                    before,
                    after,
                    out.ok_or_else(|| format!("pads {before} and {after} leave nothing of {full}"))?,
                )
            }
        };
        let (kernel, dilation) = (window.kernel[at], window.dilations[at]);
        Ok(Axis { input: out, output: size, kernel, stride, dilation, before, after })
    }
}

fn infer(cx: &mut InferCx) -> Result<()> {
    let dtype = cx.same_dtype([0, 1])?;
    let dims = match cx.dims(0) {
        Some(dims) if dims.len() < 3 => return Err(cx.wrong_input(0, "a batch of images with channels")),
        Some(dims) => {
            let group = Dim::Known(cx.attrs().int("group", 1)?);
            let filters = cx.dims(1).and_then(|w| w.get(1)).map_or(Dim::Unknown, |m| sym::mul(m, &group));
            let mut out = vec![dims[0].clone(), filters];
            match inferred_kernel(cx, 1)? {
                Some(kernel) if kernel.len() == dims.len() - 2 => {
                    let growth = read(cx.attrs(), &kernel)?;
                    for (at, dim) in dims[2..].iter().enumerate() {
                        out.push(grown(cx, &growth, at, dim)?);
                    }
                }
                _ => out.extend(unknown(dims.len() - 2)),
            }
            Some(out)
        }
        None => None,
    };
    cx.set(0, dtype, dims);
    Ok(())
}

fn grown(cx: &InferCx, growth: &Growth, at: usize, dim: &Dim) -> Result<Dim> {
    if let Some(size) = dim.known() {
        return growth.axis(at, size).map(|axis| Dim::from(axis.input)).map_err(|why| cx.invalid(why));
    }
    let window = &growth.window;
    let stride = Dim::from(window.strides[at]);
    Ok(match (&growth.shape, window.auto_pad) {
        (Some(shape), _) => Dim::from(shape[at]),
        (None, AutoPad::SameUpper | AutoPad::SameLower) => sym::mul(dim, &stride),
        (None, auto_pad) => {
            let (before, after) = if auto_pad == AutoPad::Valid { (0, 0) } else { window.pads[at] };
            let extra =
                (growth.padding[at] + window.reach(at)) as i64 - (before + after + window.strides[at]) as i64;
            let spread = sym::mul(dim, &stride);
            if extra < 0 {
                sym::sub(&spread, &Dim::Known(-extra))
            } else {
                sym::add(&spread, &Dim::Known(extra))
            }
        }
    })
}

/// The sizes as those of the convolution that goes the other way.
fn shape(cx: &EvalCx) -> Result<ConvShape> {
    let (x, w) = (cx.tensor(0)?.dims(), cx.tensor(1)?.dims());
    let (&[batch, channels, ref sizes @ ..], &[inner, per_group, ref kernel @ ..]) = (x, w) else {
        return Err(cx.wrong_input(0, "a batch of images with channels"));
    };
    let groups = cx.attrs().int("group", 1)?;
    let groups = usize::try_from(groups).ok().filter(|&groups| groups > 0 && channels % groups == 0);
    let groups = groups.ok_or_else(|| cx.attrs().wrong("group", "a divisor of the channels", "another"))?;
    if sizes.is_empty() || sizes.len() != kernel.len() || inner != channels {
        return Err(cx.wrong_input(1, &format!("a filter for {channels} channels and {} axes", sizes.len())));
    }
    let growth = read(cx.attrs(), kernel)?;
    let axes = sizes.iter().enumerate().map(|(at, &size)| growth.axis(at, size));
    let axes = axes.collect::<std::result::Result<Vec<_>, _>>().map_err(|why| cx.invalid(why))?;
    let filters = per_group.checked_mul(groups).ok_or_else(|| cx.invalid("too many channels"))?;
    Ok(ConvShape { batch, channels, filters, groups, axes })
}

/// Spreads `x` over the taps of each filter and adds up what falls on the same place.
fn spread<T: Real>(shape: &ConvShape, x: &[T], w: &[T], y: &mut [T]) {
    let small: usize = shape.axes.iter().map(|axis| axis.output).product();
    let large: usize = shape.axes.iter().map(|axis| axis.input).product();
    let taps: usize = shape.axes.iter().map(|axis| axis.kernel).product();
    let (in_group, out_group) = (shape.channels / shape.groups, shape.filters / shape.groups);
    let mut columns = vec![T::zero(); out_group * taps * small];
    for image in 0..shape.batch {
        for group in 0..shape.groups {
            let x = &x[(image * shape.channels + group * in_group) * small..];
            let w = &w[group * in_group * out_group * taps..];
            let w = matrix(w, in_group, out_group * taps);
            multiply(w.t(), matrix(x, in_group, small), T::zero(), &mut columns);
            for filter in 0..out_group {
                let y = &mut y[(image * shape.filters + group * out_group + filter) * large..][..large];
                let columns = &columns[filter * taps * small..][..taps * small];
                for_rows(shape, 0..shape.axes[0].output, |tap, from, run| {
                    let row = &columns[tap * small + from..][..run.count];
                    let to = y[run.start..].iter_mut().step_by(run.step);
                    to.zip(row).for_each(|(y, &x)| *y = *y + x);
                });
            }
        }
    }
}

fn eval(cx: &EvalCx) -> Result<Outputs> {
    let dtype = cx.tensor(0)?.dtype();
    let shape = shape(cx)?;
    let mut dims = vec![shape.batch, shape.filters];
    dims.extend(shape.axes.iter().map(|axis| axis.input));
    let elements = cx.reserve(dtype, &dims)?;
    // The unfolded product is the larger buffer.
    let taps: usize = shape.axes.iter().map(|axis| axis.kernel).product();
    let small: usize = shape.axes.iter().map(|axis| axis.output).product();
    cx.reserve(dtype, &[shape.filters / shape.groups, taps, small])?;
    for_real!(cx, 0, T => {
        let mut y = vec![<T as num_traits::Zero>::zero(); elements];
        let large: usize = shape.axes.iter().map(|axis| axis.input).product();
        if let Some(bias) = opt_reals_of::<T>(cx, 2, &[shape.filters])? {
            for (row, &bias) in y.chunks_exact_mut(large.max(1)).zip(bias.iter().cycle()) {
                row.fill(bias);
            }
        }
        if elements > 0 {
            spread(&shape, &reals::<T>(cx, 0)?, &reals::<T>(cx, 1)?, &mut y);
        }
        Ok(vec![value(cx, dtype, &dims, &y)?])
    })
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[&Table::new("ConvTranspose", 1, infer).eval(eval)];
