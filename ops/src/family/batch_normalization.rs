//! BatchNormalization: `y = (x - mean) / sqrt(var + epsilon) * scale + bias` per channel of `x [N, C, …]`.
//!
//! From opset 14 `training_mode` takes the statistics of the batch and gives running ones as outputs 1 and 2. Before, it
//! was the mere presence of more outputs that meant training; that form is not evaluated, nor is the per-activation form
//! (`spatial = 0`) of opset 7.

use ir::Dim;

use super::reals::{for_real, reals, reals_of, value};
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::real::Real;
use crate::rule::{OpRule, Table};

fn infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let channels = match cx.dims(0) {
        // A single dimension is a batch of one channel.
        Some(dims) if dims.len() == 1 => Dim::Known(1),
        Some(dims) => dims.get(1).cloned().ok_or_else(|| cx.wrong_input(0, "a batch"))?,
        None => cx.dims(1).and_then(|dims| dims.first().cloned()).unwrap_or(Dim::Unknown),
    };
    cx.copy_type(0, 0);
    for at in 1..5 {
        cx.set(at, cx.dtype(3), Some(vec![channels.clone()]));
    }
    Ok(())
}

fn eval(cx: &EvalCx) -> Result<Outputs> {
    let attrs = cx.attrs();
    if cx.opset() < 9 && !attrs.flag("spatial", true)? {
        return Err(cx.unsupported("statistics per activation (spatial = 0)"));
    }
    let training = cx.opset() >= 14 && attrs.flag("training_mode", false)?;
    if !training && cx.wanted() > 1 {
        return Err(cx.unsupported("training as opsets before 14 write it"));
    }
    for_real!(cx, 0, T => run::<T>(cx, training))
}

fn run<T: Real>(cx: &EvalCx, training: bool) -> Result<Outputs> {
    let attrs = cx.attrs();
    let epsilon = f64::from(attrs.float("epsilon", 1e-5)?);
    let momentum = f64::from(attrs.float("momentum", 0.9)?);
    let x = cx.tensor(0)?;
    cx.reserve(x.dtype(), x.dims())?;
    let (channels, size) = match x.dims() {
        [_] => (1, 1),
        [_, channels, rest @ ..] => (*channels, rest.iter().product::<usize>()),
        [] => return Err(cx.wrong_input(0, "a batch")),
    };
    let mut data = reals::<T>(cx, 0)?;
    let [scale, bias, mean, var] = [1, 2, 3, 4].map(|at| reals_of::<T>(cx, at, &[channels]));
    let (scale, bias, mut mean, mut var) = (scale?, bias?, mean?, var?);
    let mut outputs = Vec::new();
    if training {
        let statistics = statistics(&data, channels, size);
        let mix = |old: &[T], new: &dyn Fn(usize) -> f64| {
            let mixed =
                old.iter().enumerate().map(|(c, old)| old.wide() * momentum + new(c) * (1.0 - momentum));
            mixed.map(T::of).collect::<Vec<T>>()
        };
        let dtype = cx.tensor(3)?.dtype();
        for running in [mix(&mean, &|c| statistics[c].0), mix(&var, &|c| statistics[c].1)] {
            outputs.push(value(cx, dtype, &[channels], &running)?);
        }
        mean = statistics.iter().map(|s| T::of(s.0)).collect();
        var = statistics.iter().map(|s| T::of(s.1)).collect();
    }
    for (plane, row) in data.chunks_exact_mut(size.max(1)).enumerate() {
        let c = plane % channels;
        let factor = T::of(scale[c].wide() / (var[c].wide() + epsilon).sqrt());
        row.iter_mut().for_each(|x| *x = (*x - mean[c]) * factor + bias[c]);
    }
    outputs.insert(0, value(cx, x.dtype(), x.dims(), &data)?);
    Ok(outputs)
}

/// Mean and population variance of every channel.
fn statistics<T: Real>(data: &[T], channels: usize, size: usize) -> Vec<(f64, f64)> {
    let of = |channel: usize, f: &dyn Fn(f64) -> f64| {
        let rows = data.chunks_exact(size.max(1)).skip(channel).step_by(channels);
        let (sum, count) =
            rows.flatten().fold((0.0, 0usize), |(sum, count), x| (sum + f(x.wide()), count + 1));
        sum / count as f64
    };
    (0..channels)
        .map(|channel| {
            let mean = of(channel, &|x| x);
            (mean, of(channel, &|x| (x - mean) * (x - mean)))
        })
        .collect()
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[&Table::new("BatchNormalization", 7, infer).eval(eval)];
