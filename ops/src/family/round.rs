//! Functions of one tensor of any number type: Abs, Neg, Relu, Sign, Ceil, Floor, Round, Clip.
//!
//! Integers wrap (`Abs` of the smallest one is itself). Round takes halves to the even neighbour. Clip has its limits as
//! attributes up to opset 10 (floats only), as inputs since 11; where they cross, the upper one wins.

use half::{bf16, f16};
use ir::{DType, Dim};

use super::binary::{nan_max, nan_min};
use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::for_dtype;
use crate::infer::InferCx;
use crate::rule::{LATEST, OpName, OpRule, Table};
use crate::sym;

/// A function of one number.
struct Simple {
    name: &'static str,
    since: i64,
    float: fn(f64) -> f64,
    int: fn(i128) -> i128,
    sym: fn(&Dim) -> Dim,
}

impl OpRule for Simple {
    fn op(&self) -> OpName {
        OpName::onnx(self.name)
    }

    fn opsets(&self) -> std::ops::RangeInclusive<i64> {
        self.since..=LATEST
    }

    fn infer(&self, cx: &mut InferCx) -> Result<()> {
        cx.need(0)?;
        cx.copy_type(0, 0);
        if let Some(contents) = cx.contents(0) {
            cx.set_contents(0, contents.iter().map(self.sym).collect());
        }
        Ok(())
    }

    // Every float type is computed in f64: these functions are exact, so the rounding back changes nothing.
    fn eval(&self, cx: &EvalCx) -> Result<Outputs> {
        let input = cx.tensor(0)?;
        cx.reserve(DType::F64, input.dims())?;
        if input.dtype().is_compute_float() {
            let out: Vec<f64> = cx.f64s(0)?.into_iter().map(self.float).collect();
            return cx.give(array::from_f64s(input.dtype(), input.dims(), &out));
        }
        for_dtype!(input.dtype(), T in [i8, i16, i32, i64, u8, u16, u32, u64] => {
            let out: Vec<T> = cx.vec::<T>(0)?.into_iter().map(|v| (self.int)(i128::from(v)) as T).collect();
            cx.make(input.dims(), &out)
        }, else => Err(cx.unsupported_dtype(0)))
    }

    fn evaluates(&self) -> bool {
        true
    }
}

fn sign(x: f64) -> f64 {
    if x > 0.0 {
        1.0
    } else if x < 0.0 {
        -1.0
    } else {
        x
    }
}

fn sym_abs(dim: &Dim) -> Dim {
    match dim {
        Dim::Known(v) => v.checked_abs().map_or(Dim::Unknown, Dim::Known),
        dim if sym::is_non_negative(dim) => dim.clone(),
        _ => Dim::Unknown,
    }
}

fn sym_sign(dim: &Dim) -> Dim {
    sym::compare(dim, &Dim::Known(0)).map_or(Dim::Unknown, |order| Dim::Known(order as i64))
}

fn clip_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    if cx.opset() >= 11 {
        cx.same_dtype((0..3).filter(|&at| cx.has(at)).collect::<Vec<_>>())?;
    }
    cx.copy_type(0, 0);
    let Some(contents) = cx.contents(0).filter(|_| cx.opset() >= 11) else { return Ok(()) };
    let mut contents = contents.into_owned();
    for (at, f) in [(1, sym::max as fn(&Dim, &Dim) -> Dim), (2, sym::min)] {
        if cx.has(at) {
            let limit = cx.contents(at).and_then(|limit| limit.first().cloned()).unwrap_or(Dim::Unknown);
            contents.iter_mut().for_each(|dim| *dim = f(dim, &limit));
        }
    }
    cx.set_contents(0, contents);
    Ok(())
}

fn clip_limit<T: ir::Element>(cx: &EvalCx, at: usize) -> Result<Option<T>> {
    if !cx.has(at) {
        return Ok(None);
    }
    match cx.vec::<T>(at)?.as_slice() {
        [limit] => Ok(Some(*limit)),
        _ => Err(cx.wrong_input(at, "one number")),
    }
}

fn clip(cx: &EvalCx) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let (dtype, dims) = (input.dtype(), input.dims());
    cx.reserve(DType::F64, dims)?;
    if cx.opset() < 11 {
        let attrs = cx.attrs();
        let (low, high) = (attrs.float("min", f32::MIN)?, attrs.float("max", f32::MAX)?);
        let clipped = |x: f64| nan_min(nan_max(x, f64::from(low)), f64::from(high));
        let out: Vec<f64> = cx.f64s(0)?.into_iter().map(clipped).collect();
        return cx.give(array::from_f64s(dtype, dims, &out));
    }
    macro_rules! clipped {
        ($T:ty, $max:expr, $min:expr) => {{
            let (low, high) = (clip_limit::<$T>(cx, 1)?, clip_limit::<$T>(cx, 2)?);
            let mut out = cx.vec::<$T>(0)?;
            for x in &mut out {
                *x = low.map_or(*x, |low| $max(*x, low));
                *x = high.map_or(*x, |high| $min(*x, high));
            }
            cx.make(dims, &out)
        }};
    }
    match dtype {
        DType::F32 => clipped!(f32, nan_max, nan_min),
        DType::F64 => clipped!(f64, nan_max, nan_min),
        DType::F16 => clipped!(f16, nan_max, nan_min),
        DType::BF16 => clipped!(bf16, nan_max, nan_min),
        dtype => for_dtype!(dtype, T in [i8, i16, i32, i64, u8, u16, u32, u64] => {
            clipped!(T, Ord::max, Ord::min)
        }, else => Err(cx.unsupported_dtype(0))),
    }
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Simple { name: "Abs", since: 1, float: f64::abs, int: i128::abs, sym: sym_abs },
    &Simple { name: "Neg", since: 1, float: |x| -x, int: |x| -x, sym: |dim| sym::sub(&Dim::Known(0), dim) },
    &Simple { name: "Sign", since: 9, float: sign, int: i128::signum, sym: sym_sign },
    &Simple { name: "Ceil", since: 1, float: f64::ceil, int: |x| x, sym: Dim::clone },
    &Simple { name: "Floor", since: 1, float: f64::floor, int: |x| x, sym: Dim::clone },
    &Simple { name: "Round", since: 11, float: f64::round_ties_even, int: |x| x, sym: Dim::clone },
    &Simple {
        name: "Relu",
        since: 1,
        float: |x| if x < 0.0 { 0.0 } else { x },
        int: |x| x.max(0),
        sym: |dim| sym::max(dim, &Dim::Known(0)),
    },
    &Table::new("Clip", 6, clip_infer).eval(clip),
];
