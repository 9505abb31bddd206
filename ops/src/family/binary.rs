//! Arithmetic of two tensors under numpy broadcasting: Add, Sub, Mul, Div, Mod, Pow, BitShift, and the variadic Max, Min,
//! Sum, Mean.
//!
//! Integers wrap; division rounds towards zero, and by zero is refused (the specification leaves it open). f16 and bf16
//! are computed in f32 and rounded after each operator. Opset 7 brought broadcasting, 8 that of the variadic ones.

use half::{bf16, f16};
use ir::{DType, Dim, Element, Tensor};

use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::for_dtype;
use crate::infer::{InferCx, shape};
use crate::kernel::broadcast;
use crate::rule::{LATEST, OpName, OpRule, Table};
use crate::sym;

/// A function of two numbers of one type.
struct Binary {
    name: &'static str,
    since: i64,
    f32: fn(f32, f32) -> f32,
    f64: fn(f64, f64) -> f64,
    /// Every integer type computes here and is cut to its width; none refuses.
    int: fn(i128, i128) -> Option<i128>,
    /// The same on whole numbers in contents of integer tensors, where it can be said.
    sym: fn(&Dim, &Dim) -> Dim,
    /// The same for whole numbers in float tensors.
    sym_float: fn(&Dim, &Dim) -> Dim,
    /// Any number of inputs.
    variadic: bool,
}

fn broadcast_infer(cx: &mut InferCx, count: usize, dtype: Option<DType>) -> Result<()> {
    let dims = cx.broadcast(0..count)?;
    cx.set(0, dtype, dims);
    Ok(())
}

impl OpRule for Binary {
    fn op(&self) -> OpName {
        OpName::onnx(self.name)
    }

    fn opsets(&self) -> std::ops::RangeInclusive<i64> {
        self.since..=LATEST
    }

    fn infer(&self, cx: &mut InferCx) -> Result<()> {
        let count = if self.variadic { cx.input_count().max(1) } else { 2 };
        (0..count).try_for_each(|at| cx.need(at).map(|_| ()))?;
        let dtype = cx.same_dtype(0..count)?;
        broadcast_infer(cx, count, dtype)?;
        cx.combine_contents(
            0,
            count,
            if dtype.is_some_and(DType::is_float) { self.sym_float } else { self.sym },
        );
        Ok(())
    }

    fn eval(&self, cx: &EvalCx) -> Result<Outputs> {
        let count = if self.variadic { cx.input_count().max(1) } else { 2 };
        let mut result = cx.tensor(0)?.clone();
        for at in 1..count {
            result = self.two(cx, &result, at)?;
        }
        cx.give(Ok(result))
    }

    fn evaluates(&self) -> bool {
        true
    }
}

impl Binary {
    fn two(&self, cx: &EvalCx, a: &Tensor, at: usize) -> Result<Tensor> {
        let b = cx.tensor(at)?;
        let dims = common_dims(cx, a, at)?;
        cx.reserve(a.dtype(), &dims)?;
        let result = match a.dtype() {
            DType::F32 => Tensor::from_slice(&dims, &zip::<f32, _>(a, b, &dims, self.f32)),
            DType::F64 => Tensor::from_slice(&dims, &zip::<f64, _>(a, b, &dims, self.f64)),
            DType::F16 => {
                let f = |x: f16, y: f16| f16::from_f32((self.f32)(x.into(), y.into()));
                Tensor::from_slice(&dims, &zip::<f16, _>(a, b, &dims, f))
            }
            DType::BF16 => {
                let f = |x: bf16, y: bf16| bf16::from_f32((self.f32)(x.into(), y.into()));
                Tensor::from_slice(&dims, &zip::<bf16, _>(a, b, &dims, f))
            }
            dtype => for_dtype!(dtype, T in [i8, i16, i32, i64, u8, u16, u32, u64] => {
                let mut refused = false;
                let out = zip::<T, _>(a, b, &dims, |x, y| match (self.int)(i128::from(x), i128::from(y)) {
                    Some(value) => value as T,
                    None => { refused = true; 0 }
                });
                if refused {
                    return Err(cx.invalid("division by zero or a negative power of an integer"));
                }
                Tensor::from_slice(&dims, &out)
            }, else => return Err(cx.unsupported_dtype(0))),
        };
        result.map_err(|error| cx.tensor_error(error))
    }
}

/// The sizes that a tensor and input `at` broadcast to; both of one type.
pub(super) fn common_dims(cx: &EvalCx, a: &Tensor, at: usize) -> Result<Vec<usize>> {
    let b = cx.tensor(at)?;
    if a.dtype() != b.dtype() {
        return Err(cx.wrong_input(at, &format!("element type {}", a.dtype())));
    }
    shape::broadcast_sizes(a.dims(), b.dims())
        .ok_or_else(|| cx.wrong_input(at, &format!("sizes that broadcast with {:?}", a.dims())))
}

/// `f` of the elements of two tensors of a native type, broadcast; the types were checked.
pub(super) fn zip<T: Element, R>(a: &Tensor, b: &Tensor, dims: &[usize], f: impl FnMut(T, T) -> R) -> Vec<R> {
    let (x, y) = (a.to_vec::<T>().unwrap_or_default(), b.to_vec::<T>().unwrap_or_default());
    broadcast::zip((&x, a.dims()), (&y, b.dims()), dims, f)
}

/// Division rounds towards zero, which is down only where nothing is negative.
fn sym_div(a: &Dim, b: &Dim) -> Dim {
    match (sym::is_non_negative(a), sym::is_non_negative(b)) {
        (true, true) => sym::floor_div(a, b),
        _ => Dim::Unknown,
    }
}

fn wrapping_pow(base: i128, power: i128) -> Option<i128> {
    let mut power = u64::try_from(power).ok()?;
    let (mut result, mut factor) = (1i128, base);
    while power > 0 {
        if power & 1 == 1 {
            result = result.wrapping_mul(factor);
        }
        factor = factor.wrapping_mul(factor);
        power >>= 1;
    }
    Some(result)
}

macro_rules! binary {
    ($name:literal since $since:literal, variadic $variadic:literal: |$a:ident, $b:ident| $float:expr, int $int:expr, sym $sym:expr, $sym_float:expr) => {
        &Binary {
            name: $name,
            since: $since,
            f32: |$a: f32, $b: f32| $float,
            f64: |$a: f64, $b: f64| $float,
            int: $int,
            sym: $sym,
            sym_float: $sym_float,
            variadic: $variadic,
        }
    };
}

// ---- Mod: the sign of the divisor, or with fmod = 1 that of the dividend ------------------------------------------

fn mod_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.need(1)?;
    let dtype = cx.same_dtype(0..2)?;
    broadcast_infer(cx, 2, dtype)?;
    let like_division = !cx.attrs().flag("fmod", false)?;
    cx.combine_contents(0, 2, |a, b| match like_division || sym::is_non_negative(a) {
        true => sym::rem(a, b),
        false => Dim::Unknown,
    });
    Ok(())
}

fn mod_eval(cx: &EvalCx) -> Result<Outputs> {
    let fmod = Binary {
        name: "Mod",
        since: 10,
        f32: |a, b| a % b,
        f64: |a, b| a % b,
        int: i128::checked_rem,
        sym: |_, _| Dim::Unknown,
        sym_float: |_, _| Dim::Unknown,
        variadic: false,
    };
    let floor = Binary {
        f32: |a, b| a - (a / b).floor() * b,
        f64: |a, b| a - (a / b).floor() * b,
        int: |a, b| a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }),
        ..fmod
    };
    if cx.attrs().flag("fmod", false)? { fmod.eval(cx) } else { floor.eval(cx) }
}

// ---- Pow: the result has the type of the base ------------------------------------------------------------------

fn pow_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.need(1)?;
    broadcast_infer(cx, 2, cx.dtype(0))
}

fn pow_eval(cx: &EvalCx) -> Result<Outputs> {
    let (base, power) = (cx.tensor(0)?, cx.tensor(1)?);
    let dims = shape::broadcast_sizes(base.dims(), power.dims())
        .ok_or_else(|| cx.wrong_input(1, &format!("sizes that broadcast with {:?}", base.dims())))?;
    cx.reserve(DType::F64, &dims)?;
    let whole = |dtype: DType| dtype.is_int();
    if whole(base.dtype()) && whole(power.dtype()) {
        let (Some(x), Some(y)) = (array::to_i64s(base), array::to_i64s(power)) else {
            return Err(cx.unsupported_dtype(0));
        };
        let mut refused = false;
        let out = broadcast::zip((&x, base.dims()), (&y, power.dims()), &dims, |x, y| {
            // A negative power of 1 and -1 is an integer too.
            let y = if y < 0 && (x == 1 || x == -1) { -(y % 2) } else { y };
            wrapping_pow(i128::from(x), i128::from(y)).map_or_else(
                || {
                    refused = true;
                    0
                },
                |value| value as i64,
            )
        });
        if refused {
            return Err(cx.invalid("a negative power of an integer"));
        }
        return cx.give(array::from_i64s(base.dtype(), &dims, &out));
    }
    if base.dtype() == DType::F32 && power.dtype() == DType::F32 {
        let out = zip::<f32, _>(base, power, &dims, f32::powf);
        return cx.make(&dims, &out);
    }
    let (x, y) = (cx.f64s(0)?, cx.f64s(1)?);
    let out = broadcast::zip((&x, base.dims()), (&y, power.dims()), &dims, f64::powf);
    match base.dtype() {
        dtype if dtype.is_compute_float() => cx.give(array::from_f64s(dtype, &dims, &out)),
        dtype => {
            let out: Vec<i64> = out.into_iter().map(|value| value as i64).collect();
            cx.give(array::from_i64s(dtype, &dims, &out))
        }
    }
}

// ---- Mean, BitShift --------------------------------------------------------------------------------------------

fn mean_infer(cx: &mut InferCx) -> Result<()> {
    let count = cx.input_count().max(1);
    (0..count).try_for_each(|at| cx.need(at).map(|_| ()))?;
    let dtype = cx.same_dtype(0..count)?;
    broadcast_infer(cx, count, dtype)
}

fn mean_eval(cx: &EvalCx) -> Result<Outputs> {
    let first = cx.tensor(0)?;
    let (mut dims, mut sum) = (first.dims().to_vec(), cx.f64s(0)?);
    for at in 1..cx.input_count() {
        if cx.tensor(at)?.dtype() != first.dtype() {
            return Err(cx.wrong_input(at, &format!("element type {}", first.dtype())));
        }
        let next = cx.f64s(at)?;
        let sizes = cx.tensor(at)?.dims();
        let joined = shape::broadcast_sizes(&dims, sizes)
            .ok_or_else(|| cx.wrong_input(at, &format!("sizes that broadcast with {dims:?}")))?;
        cx.reserve(DType::F64, &joined)?;
        sum = broadcast::zip((&sum, &dims), (&next, sizes), &joined, |a, b| a + b);
        dims = joined;
    }
    let count = cx.input_count().max(1) as f64;
    sum.iter_mut().for_each(|value| *value /= count);
    cx.give(array::from_f64s(first.dtype(), &dims, &sum))
}

fn shift_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.need(1)?;
    let dtype = cx.same_dtype(0..2)?;
    broadcast_infer(cx, 2, dtype)
}

#[allow(clippy::useless_conversion)] // only for the widest of the types
fn shift_eval(cx: &EvalCx) -> Result<Outputs> {
    let left = match cx.attrs().need_str("direction")? {
        "LEFT" => true,
        "RIGHT" => false,
        other => return Err(cx.attrs().wrong("direction", "LEFT or RIGHT", other)),
    };
    let a = cx.tensor(0)?;
    let (b, dims) = (cx.tensor(1)?, common_dims(cx, a, 1)?);
    cx.reserve(a.dtype(), &dims)?;
    // Shifting by the width or more leaves nothing.
    for_dtype!(a.dtype(), T in [u8, u16, u32, u64] => {
        let by = |amount: T| u32::try_from(u64::from(amount)).unwrap_or(u32::MAX);
        let out = zip::<T, _>(a, b, &dims, |x, y| match left {
            true => x.checked_shl(by(y)).unwrap_or(0),
            false => x.checked_shr(by(y)).unwrap_or(0),
        });
        cx.make(&dims, &out)
    }, else => Err(cx.unsupported_dtype(0)))
}

/// The larger one; NaN if either is.
pub(super) fn nan_max<T: num_traits::Float>(a: T, b: T) -> T {
    if a.is_nan() || a > b { a } else { b }
}

/// The smaller one; NaN if either is.
pub(super) fn nan_min<T: num_traits::Float>(a: T, b: T) -> T {
    if a.is_nan() || a < b { a } else { b }
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    binary!("Add" since 7, variadic false: |a, b| a + b, int |a, b| a.checked_add(b), sym sym::add, sym::add),
    binary!("Sub" since 7, variadic false: |a, b| a - b, int |a, b| a.checked_sub(b), sym sym::sub, sym::sub),
    binary!("Mul" since 7, variadic false: |a, b| a * b, int |a, b| Some(a.wrapping_mul(b)), sym sym::mul, sym::mul),
    binary!("Div" since 7, variadic false: |a, b| a / b, int |a, b| a.checked_div(b), sym sym_div, sym::exact_div),
    binary!("Max" since 8, variadic true: |a, b| nan_max(a, b), int |a, b| Some(a.max(b)), sym sym::max, sym::max),
    binary!("Min" since 8, variadic true: |a, b| nan_min(a, b), int |a, b| Some(a.min(b)), sym sym::min, sym::min),
    binary!("Sum" since 8, variadic true: |a, b| a + b, int |a, b| a.checked_add(b), sym sym::add, sym::add),
    &Table::new("Mean", 8, mean_infer).eval(mean_eval),
    &Table::new("Mod", 10, mod_infer).eval(mod_eval),
    &Table::new("Pow", 7, pow_infer).eval(pow_eval),
    &Table::new("BitShift", 11, shift_infer).eval(shift_eval),
];
