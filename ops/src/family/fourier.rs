//! DFT and STFT. Complex numbers are a last axis of 2, real ones of 1.
//!
//! DFT: `x, dft_length?` and the axis as attribute (17) or input (20). `onesided` gives the first `n/2 + 1` of the
//! spectrum; with `inverse` it reads those and gives a real signal. STFT (17): `signal [B, L, 1|2], frame_step, window?,
//! frame_length?` gives `[B, frames, bins, 2]`.

use ir::{DType, Dim};

use super::reals::{for_real, reals, value};
use crate::array::strides;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::fourier::{Complex, transform};
use crate::kernel::real::Real;
use crate::rule::{OpRule, Table};
use crate::sym;

fn half(n: &Dim) -> Dim {
    sym::add(&sym::floor_div(n, &Dim::Known(2)), &Dim::Known(1))
}

fn infer_dft(cx: &mut InferCx) -> Result<()> {
    let attrs = cx.attrs();
    let (inverse, onesided) = (attrs.flag("inverse", false)?, attrs.flag("onesided", false)?);
    let axis = match cx.opset() {
        ..20 => Some(attrs.int("axis", 1)?),
        _ if !cx.has(2) => Some(-2),
        _ => cx.ints(2).and_then(|axis| axis.first().copied()),
    };
    let dims = match cx.dims(0) {
        Some(dims) => {
            let mut out = dims.to_vec();
            let last = out.len().saturating_sub(1);
            match axis {
                Some(axis) => {
                    let axis = cx.axis(axis, out.len())?;
                    let length = match (cx.has(1), cx.contents(1)) {
                        (true, Some(length)) => length.first().cloned().unwrap_or(Dim::Unknown),
                        (true, None) => Dim::Unknown,
                        (false, _) if inverse && onesided => {
                            sym::mul(&sym::sub(&out[axis], &Dim::Known(1)), &Dim::Known(2))
                        }
                        (false, _) => out[axis].clone(),
                    };
                    out[axis] = if onesided && !inverse { half(&length) } else { length };
                }
                // A transform of the whole length keeps every size, whichever axis it is along.
                None if !onesided && !cx.has(1) => {}
                None => out.iter_mut().for_each(|dim| *dim = Dim::Unknown),
            }
            if let Some(dim) = out.get_mut(last) {
                *dim = Dim::Known(if onesided && inverse { 1 } else { 2 });
            }
            Some(out)
        }
        None => None,
    };
    cx.set(0, cx.dtype(0), dims);
    Ok(())
}

fn eval_dft(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => dft::<T>(cx))
}

/// A positive length at input `at`; none if omitted.
fn length(cx: &EvalCx, at: usize) -> Result<Option<usize>> {
    let Some(length) = cx.opt_ints(at)? else { return Ok(None) };
    let found = length.first().and_then(|&length| usize::try_from(length).ok()).filter(|&length| length > 0);
    found.map(Some).ok_or_else(|| cx.wrong_input(at, "a positive length"))
}

fn dft<T: Real>(cx: &EvalCx) -> Result<Outputs> {
    let attrs = cx.attrs();
    let (inverse, onesided) = (attrs.flag("inverse", false)?, attrs.flag("onesided", false)?);
    let x = cx.tensor(0)?;
    let dims = x.dims();
    let axis = match cx.opset() {
        ..20 => attrs.int("axis", 1)?,
        _ => cx.opt_ints(2)?.and_then(|axis| axis.first().copied()).unwrap_or(-2),
    };
    let axis = cx.axis(axis, dims.len())?;
    let parts = *dims.last().ok_or_else(|| cx.wrong_input(0, "a signal"))?;
    if axis + 1 == dims.len() || !(1..=2).contains(&parts) {
        return Err(cx.wrong_input(0, "a last axis of 1 or 2 beside the signal's"));
    }
    let given = dims[axis];
    let real_output = inverse && onesided;
    let default = if real_output { 2 * given.saturating_sub(1) } else { given };
    let n = length(cx, 1)?.unwrap_or(default);
    let kept = if onesided && !inverse { n / 2 + 1 } else { n };
    let mut out_dims = dims.to_vec();
    out_dims[axis] = kept;
    let out_parts = if real_output { 1 } else { 2 };
    out_dims[dims.len() - 1] = out_parts;
    let mut y = vec![T::zero(); cx.reserve(x.dtype(), &out_dims)?];
    // A long odd length takes several buffers of up to four times its size.
    cx.reserve(DType::C128, &[n, 16])?;
    let data = reals::<T>(cx, 0)?;
    let inner = strides(dims)[axis] / parts;
    let outer: usize = dims[..axis].iter().product();
    for line in 0..outer * inner {
        let (o, i) = (line / inner, line % inner);
        let read = |k: usize| match k < given {
            true => {
                let at = ((o * given + k) * inner + i) * parts;
                (data[at].wide(), if parts == 2 { data[at + 1].wide() } else { 0.0 })
            }
            false => (0.0, 0.0),
        };
        // The spectrum of a real signal mirrors itself: X[n - k] is the conjugate of X[k].
        let mirrored = |k: usize| -> Complex {
            let (re, im) = read(k.min(n - k));
            if k == 0 || 2 * k == n {
                (re, 0.0)
            } else if 2 * k > n {
                (re, -im)
            } else {
                (re, im)
            }
        };
        let points: Vec<Complex> =
            if real_output { (0..n).map(mirrored).collect() } else { (0..n).map(read).collect() };
        for (k, (re, im)) in transform(&points, inverse).into_iter().take(kept).enumerate() {
            let at = ((o * kept + k) * inner + i) * out_parts;
            y[at] = T::of(re);
            if out_parts == 2 {
                y[at + 1] = T::of(im);
            }
        }
    }
    Ok(vec![value(cx, x.dtype(), &out_dims, &y)?])
}

fn infer_stft(cx: &mut InferCx) -> Result<()> {
    let onesided = cx.attrs().flag("onesided", true)?;
    let signal = cx.need_rank(0, 3)?;
    let at = |axis: usize| signal.map_or(Dim::Unknown, |dims| dims[axis].clone());
    let first = |at: usize| cx.contents(at).and_then(|c| c.first().cloned()).unwrap_or(Dim::Unknown);
    let length = match (cx.has(3), cx.has(2)) {
        (true, _) => first(3),
        (false, true) => cx.dims(2).and_then(|dims| dims.first().cloned()).unwrap_or(Dim::Unknown),
        (false, false) => at(1),
    };
    let frames = sym::floor_div(&sym::sub(&at(1), &length), &first(1));
    let bins = if onesided { half(&length) } else { length };
    cx.set(0, cx.dtype(0), Some(vec![at(0), sym::add(&frames, &Dim::Known(1)), bins, Dim::Known(2)]));
    Ok(())
}

fn eval_stft(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => stft::<T>(cx))
}

fn stft<T: Real>(cx: &EvalCx) -> Result<Outputs> {
    let onesided = cx.attrs().flag("onesided", true)?;
    let x = cx.tensor(0)?;
    let &[batch, len, parts @ (1 | 2)] = x.dims() else {
        return Err(cx.wrong_input(0, "[batch, length, 1 or 2]"));
    };
    let step = length(cx, 1)?.ok_or_else(|| cx.wrong_input(1, "a step"))?;
    let window = if cx.has(2) { Some(reals::<T>(cx, 2)?) } else { None };
    let n = length(cx, 3)?.or(window.as_ref().map(Vec::len)).unwrap_or(len);
    if window.as_ref().is_some_and(|window| window.len() != n) || n > len || n == 0 {
        return Err(cx.wrong_input(2, &format!("a window of {n}, no longer than the signal")));
    }
    let frames = (len - n) / step + 1;
    let bins = if onesided { n / 2 + 1 } else { n };
    let dims = [batch, frames, bins, 2];
    let mut y = Vec::with_capacity(cx.reserve(x.dtype(), &dims)?);
    let data = reals::<T>(cx, 0)?;
    for item in 0..batch {
        for frame in 0..frames {
            let point = |k: usize| {
                let at = (item * len + frame * step + k) * parts;
                let factor = window.as_ref().map_or(1.0, |window| window[k].wide());
                let im = if parts == 2 { data[at + 1].wide() } else { 0.0 };
                (data[at].wide() * factor, im * factor)
            };
            let points: Vec<Complex> = (0..n).map(point).collect();
            y.extend(
                transform(&points, false).into_iter().take(bins).flat_map(|(re, im)| [T::of(re), T::of(im)]),
            );
        }
    }
    Ok(vec![value(cx, x.dtype(), &dims, &y)?])
}

/// The table.
pub const RULES: &[&dyn OpRule] =
    &[&Table::new("DFT", 17, infer_dft).eval(eval_dft), &Table::new("STFT", 17, infer_stft).eval(eval_stft)];
