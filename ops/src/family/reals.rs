//! Reading and giving float tensors in the type that a rule computes in, and the spatial sizes that windows give.

use ir::{DType, Dim};

use crate::error::Result;
use crate::eval::EvalCx;
use crate::infer::InferCx;
use crate::infer::shape::broadcast_sizes;
use crate::kernel::broadcast::sources;
use crate::kernel::real::Real;
use crate::kernel::window::{AutoPad, WindowAttrs};
use crate::sym;
use crate::value::Value;

/// Runs a block with a type alias bound to the type that a float type is computed in: `f64` for itself, `f32` for the
/// others. Anything but a compute float at input `$at` is unsupported.
macro_rules! for_real {
    ($cx:expr, $at:expr, $T:ident => $body:expr) => {
        match $cx.tensor($at)?.dtype() {
            ::ir::DType::F64 => {
                type $T = f64;
                $body
            }
            dtype if dtype.is_compute_float() => {
                type $T = f32;
                $body
            }
            _ => Err($cx.unsupported_dtype($at)),
        }
    };
}
pub(super) use for_real;

/// The numbers of input `at`.
pub(super) fn reals<T: Real>(cx: &EvalCx, at: usize) -> Result<Vec<T>> {
    T::read(cx.tensor(at)?).ok_or_else(|| cx.wrong_input(at, "numbers"))
}

/// The numbers of input `at`; none if omitted.
pub(super) fn opt_reals<T: Real>(cx: &EvalCx, at: usize) -> Result<Option<Vec<T>>> {
    if cx.has(at) { reals(cx, at).map(Some) } else { Ok(None) }
}

/// The numbers of an input that must have `dims`.
pub(super) fn reals_of<T: Real>(cx: &EvalCx, at: usize, dims: &[usize]) -> Result<Vec<T>> {
    match cx.tensor(at)?.dims() == dims {
        true => reals(cx, at),
        false => Err(cx.wrong_input(at, &format!("sizes {dims:?}"))),
    }
}

/// The numbers of an input that must have `dims`; none if omitted.
pub(super) fn opt_reals_of<T: Real>(cx: &EvalCx, at: usize, dims: &[usize]) -> Result<Option<Vec<T>>> {
    if cx.has(at) { reals_of(cx, at, dims).map(Some) } else { Ok(None) }
}

/// Elements of sizes `own` repeated to `dims` as numpy broadcasts; none if they do not broadcast to exactly that.
pub(super) fn stretch<T: Copy>(numbers: &[T], own: &[usize], dims: &[usize]) -> Option<Vec<T>> {
    let fits = broadcast_sizes(own, dims).is_some_and(|joined| joined == dims);
    fits.then(|| sources(own, dims).into_iter().filter_map(|at| numbers.get(at).copied()).collect())
}

/// The numbers of input `at`, repeated to `dims`.
pub(super) fn stretched<T: Real>(cx: &EvalCx, at: usize, dims: &[usize]) -> Result<Vec<T>> {
    let wrong = || cx.wrong_input(at, &format!("a shape that broadcasts to {dims:?}"));
    stretch(&reals(cx, at)?, cx.tensor(at)?.dims(), dims).ok_or_else(wrong)
}

/// A single number at input `at`; none if omitted.
pub(super) fn opt_number(cx: &EvalCx, at: usize) -> Result<Option<f64>> {
    if !cx.has(at) {
        return Ok(None);
    }
    match cx.f64s(at)?.as_slice() {
        [number] => Ok(Some(*number)),
        _ => Err(cx.wrong_input(at, "one number")),
    }
}

/// A float tensor as an output.
pub(super) fn value<T: Real>(cx: &EvalCx, dtype: DType, dims: &[usize], numbers: &[T]) -> Result<Value> {
    T::write(dtype, dims, numbers).map(Value::Tensor).map_err(|error| cx.tensor_error(error))
}

/// The sizes of what windows over `dims` give.
pub(super) fn window_dims(cx: &InferCx, window: &WindowAttrs, dims: &[Dim]) -> Result<Vec<Dim>> {
    if dims.len() != window.kernel.len() {
        return Err(cx.invalid(format!(
            "{} window axes for {} spatial axes",
            window.kernel.len(),
            dims.len()
        )));
    }
    dims.iter().enumerate().map(|(axis, dim)| window_dim(cx, window, axis, dim)).collect()
}

fn window_dim(cx: &InferCx, window: &WindowAttrs, axis: usize, dim: &Dim) -> Result<Dim> {
    if let Some(size) = dim.known() {
        return window.axis(axis, size).map(|axis| Dim::from(axis.output)).map_err(|why| cx.invalid(why));
    }
    let stride = window.strides[axis];
    let by = Dim::from(stride);
    Ok(match window.auto_pad {
        AutoPad::SameUpper | AutoPad::SameLower => sym::ceil_div(dim, &by),
        // A last window may be dropped, which depends on the size.
        _ if window.ceil && stride > 1 => Dim::Unknown,
        _ => {
            let (before, after) =
                if window.auto_pad == AutoPad::Explicit { window.pads[axis] } else { (0, 0) };
            let extra = (before + after) as i64 - window.reach(axis) as i64;
            let room = match extra {
                0.. => sym::add(dim, &Dim::Known(extra)),
                _ => sym::sub(dim, &Dim::Known(-extra)),
            };
            sym::add(&sym::floor_div(&room, &by), &Dim::Known(1))
        }
    })
}

/// `count` dimensions of which nothing is known.
pub(super) fn unknown(count: usize) -> impl Iterator<Item = Dim> {
    std::iter::repeat_n(Dim::Unknown, count)
}
