//! The other normalizations: InstanceNormalization, GroupNormalization, LRN, LpNormalization, MeanVarianceNormalization.
//!
//! GroupNormalization scales and shifts per group in opset 18 and per channel from 21 on. LpNormalization of a line of
//! zeros is zeros.

use ir::DType;

use super::reals::{for_real, reals, reals_of, value};
use crate::array::strides;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::real::Real;
use crate::rule::{OpRule, Table};

fn infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.copy_type(0, 0);
    Ok(())
}

/// Mean and population variance.
fn moments<T: Real>(x: &[T]) -> (f64, f64) {
    let count = x.len() as f64;
    let mean = x.iter().map(|x| x.wide()).sum::<f64>() / count;
    (mean, x.iter().map(|x| (x.wide() - mean) * (x.wide() - mean)).sum::<f64>() / count)
}

fn eval_instance(cx: &EvalCx) -> Result<Outputs> {
    let channels = cx.tensor(0)?.dims().get(1).copied();
    let channels = channels.ok_or_else(|| cx.wrong_input(0, "images with channels"))?;
    for_real!(cx, 0, T => grouped::<T>(cx, channels))
}

fn eval_group(cx: &EvalCx) -> Result<Outputs> {
    let groups = cx.attrs().need_int("num_groups")?;
    let wrong = || cx.attrs().wrong("num_groups", "a positive number", &groups.to_string());
    let groups = usize::try_from(groups).ok().filter(|&groups| groups > 0).ok_or_else(wrong)?;
    for_real!(cx, 0, T => grouped::<T>(cx, groups))
}

/// Groups of channels in a row share mean and variance; scale and bias are per channel, or per group if that is their
/// length.
fn grouped<T: Real>(cx: &EvalCx, groups: usize) -> Result<Outputs> {
    let x = cx.tensor(0)?;
    let &[_, channels, ref rest @ ..] = x.dims() else {
        return Err(cx.wrong_input(0, "images with channels"));
    };
    if groups == 0 || channels % groups != 0 {
        return Err(cx.invalid(format!("{groups} groups do not divide {channels} channels")));
    }
    let count = if cx.op().kind.is("GroupNormalization") && cx.opset() < 21 { groups } else { channels };
    let (scale, bias) = (reals_of::<T>(cx, 1, &[count])?, reals_of::<T>(cx, 2, &[count])?);
    let epsilon = f64::from(cx.attrs().float("epsilon", 1e-5)?);
    cx.reserve(x.dtype(), x.dims())?;
    let size: usize = rest.iter().product();
    let together = channels / groups;
    let mut data = reals::<T>(cx, 0)?;
    for (group, all) in data.chunks_exact_mut((together * size).max(1)).enumerate() {
        let (mean, variance) = moments(all);
        let inverse = 1.0 / (variance + epsilon).sqrt();
        for (channel, row) in all.chunks_exact_mut(size.max(1)).enumerate() {
            let at = (group % groups * together + channel) * count / channels;
            let (scale, bias) = (scale[at].wide(), bias[at].wide());
            row.iter_mut().for_each(|x| *x = T::of((x.wide() - mean) * inverse * scale + bias));
        }
    }
    Ok(vec![value(cx, x.dtype(), x.dims(), &data)?])
}

fn eval_local_response(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => local_response::<T>(cx))
}

fn local_response<T: Real>(cx: &EvalCx) -> Result<Outputs> {
    let (attrs, x) = (cx.attrs(), cx.tensor(0)?);
    let size = attrs.need_int("size")?;
    let reach = usize::try_from(size).ok().filter(|&size| size > 0);
    let reach = reach.ok_or_else(|| attrs.wrong("size", "a positive number", &size.to_string()))?;
    let (alpha, beta) = (f64::from(attrs.float("alpha", 1e-4)?), f64::from(attrs.float("beta", 0.75)?));
    let bias = f64::from(attrs.float("bias", 1.0)?);
    let &[batch, channels, ref rest @ ..] = x.dims() else {
        return Err(cx.wrong_input(0, "images with channels"));
    };
    cx.reserve(x.dtype(), x.dims())?;
    let plane: usize = rest.iter().product();
    let data = reals::<T>(cx, 0)?;
    let mut out = Vec::with_capacity(data.len());
    for image in 0..batch {
        for channel in 0..channels {
            let near = channel.saturating_sub((reach - 1) / 2)..(channel + reach / 2 + 1).min(channels);
            for i in 0..plane {
                let at = |channel: usize| data[(image * channels + channel) * plane + i].wide();
                let sum: f64 = near.clone().map(|c| at(c) * at(c)).sum();
                out.push(T::of(at(channel) / (bias + alpha / reach as f64 * sum).powf(beta)));
            }
        }
    }
    Ok(vec![value(cx, x.dtype(), x.dims(), &out)?])
}

fn eval_lp(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => lp::<T>(cx))
}

fn lp<T: Real>(cx: &EvalCx) -> Result<Outputs> {
    let x = cx.tensor(0)?;
    let dims = x.dims();
    let axis = cx.axis(cx.attrs().int("axis", -1)?, dims.len())?;
    let p = cx.attrs().int("p", 2)?;
    if p != 1 && p != 2 {
        return Err(cx.attrs().wrong("p", "1 or 2", &p.to_string()));
    }
    cx.reserve(x.dtype(), dims)?;
    let mut data = reals::<T>(cx, 0)?;
    let (size, step) = (dims[axis], strides(dims)[axis]);
    for block in data.chunks_exact_mut((size * step).max(1)) {
        for first in 0..step {
            let line = || (0..size).map(|i| first + i * step);
            let sum: f64 = line().map(|at| block[at].wide().abs().powi(p as i32)).sum();
            let norm = if p == 2 { sum.sqrt() } else { sum };
            for at in line() {
                block[at] = if norm == 0.0 { T::zero() } else { T::of(block[at].wide() / norm) };
            }
        }
    }
    Ok(vec![value(cx, x.dtype(), dims, &data)?])
}

fn eval_mean_variance(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => mean_variance::<T>(cx))
}

fn mean_variance<T: Real>(cx: &EvalCx) -> Result<Outputs> {
    let x = cx.tensor(0)?;
    let dims = x.dims();
    let axes = cx.attrs().opt_ints("axes")?.unwrap_or(&[0, 2, 3]);
    let mut reduced = vec![false; dims.len()];
    for &axis in axes {
        reduced[cx.axis(axis, dims.len())?] = true;
    }
    cx.reserve(DType::F64, dims)?;
    let data = reals::<T>(cx, 0)?;
    // The group of each element: its place among the kept axes.
    let kept: Vec<usize> =
        dims.iter().zip(&reduced).map(|(&size, &reduced)| if reduced { 1 } else { size }).collect();
    let (full, small) = (strides(dims), strides(&kept));
    let group = |at: usize| {
        (0..dims.len())
            .filter(|&axis| !reduced[axis])
            .map(|axis| at / full[axis] % dims[axis] * small[axis])
            .sum()
    };
    let groups: Vec<usize> = (0..data.len()).map(group).collect();
    let count = data.len() as f64 / kept.iter().product::<usize>() as f64;
    let mean_of = |f: &dyn Fn(usize) -> f64| {
        let mut sums = vec![0.0; kept.iter().product()];
        groups.iter().enumerate().for_each(|(at, &group)| sums[group] += f(at));
        sums.iter_mut().for_each(|sum| *sum /= count);
        sums
    };
    let means = mean_of(&|at| data[at].wide());
    let variances = mean_of(&|at| (data[at].wide() - means[groups[at]]).powi(2));
    // The specification's function adds this to the deviation.
    let y =
        |(at, x): (usize, &T)| T::of((x.wide() - means[groups[at]]) / (variances[groups[at]].sqrt() + 1e-9));
    let out: Vec<T> = data.iter().enumerate().map(y).collect();
    Ok(vec![value(cx, x.dtype(), dims, &out)?])
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("InstanceNormalization", 6, infer).eval(eval_instance),
    &Table::new("GroupNormalization", 18, infer).eval(eval_group),
    &Table::new("LRN", 1, infer).eval(eval_local_response),
    &Table::new("LpNormalization", 1, infer).eval(eval_lp),
    &Table::new("MeanVarianceNormalization", 9, infer).eval(eval_mean_variance),
];
