//! Convolution over slices: the kernels behind Conv, FusedConv, ConvInteger and QLinearConv.
//!
//! General case: blocks of output rows are unfolded (`im2col`) and multiplied by the filter matrix. A filter of one tap
//! with stride 1 and no pads is the product alone; one input channel a group (depthwise) is summed directly.

use super::real::{Real, matrix, multiply};
use super::window::{Axis, WindowAttrs, advance};
use crate::array::strides;

/// The checked sizes of a convolution.
#[derive(Clone, Debug)]
pub struct ConvShape {
    /// Images.
    pub batch: usize,
    /// Input channels.
    pub channels: usize,
    /// Output channels.
    pub filters: usize,
    /// Groups.
    pub groups: usize,
    /// Spatial axes, at least one.
    pub axes: Vec<Axis>,
}

/// Elements of one unfolded block: 4 MB of f32, which stays in the second-level cache of most machines.
const BLOCK: usize = 1 << 20;

impl ConvShape {
    /// Checks `x [N, C, spatial…]` against `w [M, C/groups, kernel…]`.
    pub fn new(x: &[usize], w: &[usize], groups: i64, window: &WindowAttrs) -> Result<ConvShape, String> {
        let (&[batch, channels, ref sizes @ ..], &[filters, inner, ref kernel @ ..]) = (x, w) else {
            return Err(format!("input {x:?} and filter {w:?} need at least two dimensions"));
        };
        let groups =
            usize::try_from(groups).ok().filter(|&groups| groups > 0).ok_or("group must be positive")?;
        if sizes.is_empty() || x.len() != w.len() || kernel != window.kernel {
            return Err(format!("filter {w:?} does not fit input {x:?} and kernel {:?}", window.kernel));
        }
        if inner.checked_mul(groups) != Some(channels) || filters % groups != 0 {
            return Err(format!("{groups} groups do not fit {channels} channels and filter {w:?}"));
        }
        Ok(ConvShape { batch, channels, filters, groups, axes: window.axes(sizes)? })
    }

    /// Sizes of the output.
    pub fn output(&self) -> Vec<usize> {
        [self.batch, self.filters].into_iter().chain(self.axes.iter().map(|axis| axis.output)).collect()
    }

    fn input_size(&self) -> usize {
        self.axes.iter().map(|axis| axis.input).product()
    }

    fn output_size(&self) -> usize {
        self.axes.iter().map(|axis| axis.output).product()
    }

    fn kernel_size(&self) -> usize {
        self.axes.iter().map(|axis| axis.kernel).product()
    }

    fn is_pointwise(&self) -> bool {
        self.axes.iter().all(|a| a.kernel == 1 && a.stride == 1 && a.before == 0 && a.after == 0)
    }
}

/// `y[n, m] = sum_c w[m, c] * x[n, c] + bias[m]`. Slices are row-major with the sizes that `shape` was made of; the
/// output's product of sizes must have been checked by the caller.
pub fn conv<T: Real>(shape: &ConvShape, x: &[T], w: &[T], bias: Option<&[T]>) -> Vec<T> {
    let (inputs, outputs, taps) = (shape.input_size(), shape.output_size(), shape.kernel_size());
    let (in_group, out_group) = (shape.channels / shape.groups, shape.filters / shape.groups);
    let mut y = vec![T::zero(); shape.batch * shape.filters * outputs];
    if y.is_empty() {
        return y;
    }
    if let Some(bias) = bias {
        for (row, &bias) in y.chunks_exact_mut(outputs).zip(bias.iter().cycle()) {
            row.fill(bias);
        }
    }
    for image in 0..shape.batch {
        for group in 0..shape.groups {
            let from = (image * shape.channels + group * in_group) * inputs;
            let x = &x[from..from + in_group * inputs];
            let w = &w[group * out_group * in_group * taps..][..out_group * in_group * taps];
            let to = (image * shape.filters + group * out_group) * outputs;
            let y = &mut y[to..to + out_group * outputs];
            if in_group == 1 && taps > 1 {
                depthwise(shape, x, w, y);
            } else if shape.is_pointwise() {
                multiply(matrix(w, out_group, in_group), matrix(x, in_group, inputs), T::one(), y);
            } else {
                unfolded(shape, x, w, y);
            }
        }
    }
    y
}

/// One input channel, a few filters: every tap adds a scaled, shifted row.
fn depthwise<T: Real>(shape: &ConvShape, x: &[T], w: &[T], y: &mut [T]) {
    let (outputs, taps) = (shape.output_size(), shape.kernel_size());
    for (w, y) in w.chunks_exact(taps).zip(y.chunks_exact_mut(outputs)) {
        for_rows(shape, 0..shape.axes[0].output, |tap, to, source| {
            let factor = w[tap];
            let row = &mut y[to..to + source.count];
            let from = &x[source.start..];
            if source.step == 1 {
                row.iter_mut().zip(from).for_each(|(y, &x)| *y = *y + factor * x);
            } else {
                row.iter_mut().zip(from.iter().step_by(source.step)).for_each(|(y, &x)| *y = *y + factor * x);
            }
        });
    }
}

fn unfolded<T: Real>(shape: &ConvShape, x: &[T], w: &[T], y: &mut [T]) {
    let (inputs, outputs, taps) = (shape.input_size(), shape.output_size(), shape.kernel_size());
    let (in_group, out_group) = (shape.channels / shape.groups, shape.filters / shape.groups);
    let depth = in_group * taps;
    let rows = shape.axes[0].output;
    let row_size = outputs / rows;
    let step = (BLOCK / (depth * row_size).max(1)).clamp(1, rows);
    let mut columns = vec![T::zero(); depth * row_size * step];
    let mut product = vec![T::zero(); if step < rows { out_group * row_size * step } else { 0 }];
    for first in (0..rows).step_by(step) {
        let block = first..(first + step).min(rows);
        let width = row_size * block.len();
        let columns = &mut columns[..depth * width];
        columns.fill(T::zero());
        for channel in 0..in_group {
            let x = &x[channel * inputs..][..inputs];
            let columns = &mut columns[channel * taps * width..][..taps * width];
            for_rows(shape, block.clone(), |tap, to, source| {
                let to = tap * width + to - block.start * row_size;
                let row = &mut columns[to..to + source.count];
                let from = &x[source.start..];
                if source.step == 1 {
                    row.copy_from_slice(&from[..source.count]);
                } else {
                    row.iter_mut().zip(from.iter().step_by(source.step)).for_each(|(to, &x)| *to = x);
                }
            });
        }
        let (w, columns) = (matrix(w, out_group, depth), matrix(columns, depth, width));
        if step == rows {
            multiply(w, columns, T::one(), y);
        } else {
            let product = &mut product[..out_group * width];
            multiply(w, columns, T::zero(), product);
            for (from, y) in product.chunks_exact(width).zip(y.chunks_exact_mut(outputs)) {
                let y = &mut y[block.start * row_size..][..width];
                y.iter_mut().zip(from).for_each(|(y, &from)| *y = *y + from);
            }
        }
    }
}

/// A run of inputs: `count` elements from `start`, `step` apart.
pub struct Run {
    /// First input index.
    pub start: usize,
    /// Distance between inputs.
    pub step: usize,
    /// Number of inputs.
    pub count: usize,
}

/// Visits every tap and every row (last axis) of the outputs in `block` (a range of the first axis) that the tap meets:
/// `visit(tap, first output index, run of inputs)`.
pub fn for_rows(shape: &ConvShape, block: std::ops::Range<usize>, mut visit: impl FnMut(usize, usize, Run)) {
    let axes = &shape.axes;
    let Some((last, outer)) = axes.split_last() else { return };
    let in_strides = strides(&axes.iter().map(|a| a.input).collect::<Vec<_>>());
    let out_strides = strides(&axes.iter().map(|a| a.output).collect::<Vec<_>>());
    let kernel: Vec<usize> = axes.iter().map(|a| a.kernel).collect();
    let mut at = vec![0; axes.len()];
    for tap in 0..shape.kernel_size() {
        let limit = |axis: usize, covered: std::ops::Range<usize>| match axis {
            0 => covered.start.max(block.start)..covered.end.min(block.end),
            _ => covered,
        };
        let row = limit(axes.len() - 1, last.covered(at[axes.len() - 1]));
        let ranges: Vec<_> = outer.iter().enumerate().map(|(i, a)| limit(i, a.covered(at[i]))).collect();
        if !row.is_empty() && ranges.iter().all(|range| !range.is_empty()) {
            let counts: Vec<usize> = ranges.iter().map(|range| range.len()).collect();
            let mut index = vec![0; outer.len()];
            loop {
                let (mut start, mut to) = (0, row.start);
                for (i, axis) in outer.iter().enumerate() {
                    let o = ranges[i].start + index[i];
                    start += (o * axis.stride + at[i] * axis.dilation - axis.before) * in_strides[i];
                    to += o * out_strides[i];
                }
                start += row.start * last.stride + at[axes.len() - 1] * last.dilation - last.before;
                visit(tap, to, Run { start, step: last.stride, count: row.len() });
                if !advance(&mut index, &counts) {
                    break;
                }
            }
        }
        advance(&mut at, &kernel);
    }
}
