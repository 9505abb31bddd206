//! Conv: `y[n, m] = sum over channels and taps of w * x + bias`, over any number of spatial axes.
//!
//! `x [N, C, spatial…]`, `w [M, C/group, kernel…]`, `bias [M]` gives `y [N, M, spatial…]`. Opset 11 added asymmetric pads
//! by clarification, 22 bfloat16; the meaning never changed. See [`crate::kernel::window`] for the sizes.

use ir::{DType, Dim};

use super::reals::{for_real, opt_reals_of, reals, unknown, value, window_dims};
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::conv::{ConvShape, conv};
use crate::kernel::real::Real;
use crate::kernel::window::WindowAttrs;
use crate::rule::{OpRule, Table};

/// The window attributes; the kernel is the attribute `kernel_shape` or else the filter's last sizes.
pub(super) fn window(cx: &EvalCx, w: &[usize]) -> Result<WindowAttrs> {
    let kernel = w.get(2..).unwrap_or_default();
    if let Some(given) = cx.attrs().opt_ints("kernel_shape")?.filter(|given| !given.is_empty())
        && !given.iter().map(|&size| usize::try_from(size).ok()).eq(kernel.iter().map(|&size| Some(size)))
    {
        return Err(cx.attrs().wrong("kernel_shape", &format!("{kernel:?}"), &format!("{given:?}")));
    }
    WindowAttrs::read(cx.attrs(), kernel)
}

/// The kernel, from `kernel_shape` or the filter's type; none if not known.
pub(super) fn inferred_kernel(cx: &InferCx, w: usize) -> Result<Option<Vec<usize>>> {
    match cx.attrs().opt_ints("kernel_shape")?.filter(|given| !given.is_empty()) {
        Some(given) => {
            let sizes: Option<Vec<usize>> = given.iter().map(|&size| usize::try_from(size).ok()).collect();
            let wrong = || cx.attrs().wrong("kernel_shape", "positive sizes", &format!("{given:?}"));
            sizes.map(Some).ok_or_else(wrong)
        }
        None => Ok(cx.dims(w).and_then(|dims| dims.get(2..)?.iter().map(Dim::known).collect())),
    }
}

/// The sizes of a convolution's output, the operands standing at inputs `x` and `w`.
pub(super) fn output_dims(cx: &InferCx, x: usize, w: usize) -> Result<Option<Vec<Dim>>> {
    let filters = cx.dims(w).and_then(|dims| dims.first()).cloned().unwrap_or(Dim::Unknown);
    let Some(dims) = cx.dims(x) else { return Ok(None) };
    if dims.len() < 3 {
        return Err(cx.wrong_input(x, "a batch of images with channels"));
    }
    let mut out = vec![dims[0].clone(), filters];
    match inferred_kernel(cx, w)? {
        Some(kernel) => out.extend(window_dims(cx, &WindowAttrs::read(cx.attrs(), &kernel)?, &dims[2..])?),
        None => out.extend(unknown(dims.len() - 2)),
    }
    Ok(Some(out))
}

/// The checked sizes of a convolution whose operands stand at inputs `x` and `w`.
pub(super) fn shape(cx: &EvalCx, x: usize, w: usize) -> Result<ConvShape> {
    let (x, w) = (cx.tensor(x)?.dims(), cx.tensor(w)?.dims());
    let group = cx.attrs().int("group", 1)?;
    ConvShape::new(x, w, group, &window(cx, w)?).map_err(|why| cx.invalid(why))
}

/// The convolution as numbers of type `T`, and its sizes.
pub(super) fn convolve<T: Real>(cx: &EvalCx, dtype: DType) -> Result<(Vec<usize>, Vec<T>)> {
    let shape = shape(cx, 0, 1)?;
    let dims = shape.output();
    cx.reserve(dtype, &dims)?;
    let bias = opt_reals_of::<T>(cx, 2, &[shape.filters])?;
    Ok((dims, conv(&shape, &reals::<T>(cx, 0)?, &reals::<T>(cx, 1)?, bias.as_deref())))
}

fn infer(cx: &mut InferCx) -> Result<()> {
    let dims = output_dims(cx, 0, 1)?;
    cx.set(0, cx.same_dtype([0, 1])?, dims);
    Ok(())
}

fn eval(cx: &EvalCx) -> Result<Outputs> {
    let dtype = cx.tensor(0)?.dtype();
    for_real!(cx, 0, T => {
        let (dims, y) = convolve::<T>(cx, dtype)?;
        Ok(vec![value(cx, dtype, &dims, &y)?])
    })
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[&Table::new("Conv", 1, infer).eval(eval)];
