//! NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss (12): `-log p[target]`, weighed per class.
//!
//! `x [N, C, d…]`, `target [N, d…]`, `weight? [C]`. `mean` divides by the sum of the weights that were used; targets equal
//! to `ignore_index` count nothing. SoftmaxCrossEntropyLoss takes scores and gives their log-softmax as output 1.

use ir::Dim;

use super::reals::{for_real, opt_reals_of, reals, value};
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::real::Real;
use crate::rule::{OpRule, Table};

fn infer(cx: &mut InferCx) -> Result<()> {
    let dims: Option<Vec<Dim>> = match cx.attrs().str("reduction", "mean")? {
        "none" => cx.dims(1).map(<[Dim]>::to_vec),
        _ => Some(Vec::new()),
    };
    cx.copy_type(1, 0);
    cx.set(0, cx.dtype(0), dims);
    Ok(())
}

fn eval_likelihood(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => loss::<T>(cx, &reals::<T>(cx, 0)?))
}

fn eval_cross_entropy(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => {
        let x = cx.tensor(0)?;
        cx.reserve(x.dtype(), x.dims())?;
        let &[batch, classes, ref rest @ ..] = x.dims() else { return Err(cx.wrong_input(0, "[N, C, …]")) };
        let mut data = reals::<T>(cx, 0)?;
        // Without classes there may be any number of lines, and nothing in them.
        if !data.is_empty() {
            log_softmax(&mut data, (batch, classes, rest.iter().product()));
        }
        let mut outputs = loss::<T>(cx, &data)?;
        outputs.push(value(cx, x.dtype(), x.dims(), &data)?);
        Ok(outputs)
    })
}

/// Log-softmax in place along the middle of `[batch, classes, size]`.
fn log_softmax<T: Real>(x: &mut [T], (batch, classes, size): (usize, usize, usize)) {
    for line in 0..batch * size {
        let line = |class: usize| (line / size * classes + class) * size + line % size;
        let greatest = (0..classes).fold(f64::NEG_INFINITY, |g, class| g.max(x[line(class)].wide()));
        let sum: f64 = (0..classes).map(|class| (x[line(class)].wide() - greatest).exp()).sum();
        for class in 0..classes {
            x[line(class)] = T::of(x[line(class)].wide() - greatest - sum.ln());
        }
    }
}

fn loss<T: Real>(cx: &EvalCx, log: &[T]) -> Result<Outputs> {
    let (x, target) = (cx.tensor(0)?, cx.tensor(1)?);
    let &[batch, classes, ref rest @ ..] = x.dims() else { return Err(cx.wrong_input(0, "[N, C, …]")) };
    let wanted: Vec<usize> = [batch].iter().chain(rest).copied().collect();
    if target.dims() != wanted {
        return Err(cx.wrong_input(1, &format!("sizes {wanted:?}")));
    }
    // Of the target, whose elements are there.
    let size: usize = if target.elements() == 0 { 0 } else { rest.iter().product() };
    let weight = opt_reals_of::<T>(cx, 2, &[classes])?;
    let ignored = cx.attrs().opt_int("ignore_index")?;
    let (mut losses, mut weights) = (Vec::with_capacity(target.elements()), 0.0);
    for (at, class) in cx.ints(1)?.into_iter().enumerate() {
        if ignored == Some(class) {
            losses.push(0.0);
            continue;
        }
        let class = usize::try_from(class).ok().filter(|&class| class < classes);
        let class = class.ok_or_else(|| cx.wrong_input(1, &format!("classes below {classes}")))?;
        let weight = weight.as_ref().map_or(1.0, |weight| weight[class].wide());
        losses.push(-weight * log[(at / size * classes + class) * size + at % size].wide());
        weights += weight;
    }
    let sum = losses.iter().sum::<f64>();
    match cx.attrs().str("reduction", "mean")? {
        "none" => Ok(vec![value(cx, x.dtype(), &wanted, &losses)?]),
        "sum" => Ok(vec![value(cx, x.dtype(), &[], &[sum])?]),
        "mean" => Ok(vec![value(cx, x.dtype(), &[], &[sum / weights])?]),
        other => Err(cx.attrs().wrong("reduction", "none, sum or mean", other)),
    }
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("NegativeLogLikelihoodLoss", 12, infer).eval(eval_likelihood),
    &Table::new("SoftmaxCrossEntropyLoss", 12, infer).eval(eval_cross_entropy),
];
