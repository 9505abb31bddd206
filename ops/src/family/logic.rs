//! Comparisons, logic and bits: Equal, Greater, Less, GreaterOrEqual, LessOrEqual, And, Or, Xor, Not, BitwiseAnd,
//! BitwiseOr, BitwiseXor, BitwiseNot, IsNaN, IsInf.
//!
//! Numpy broadcasting since opset 7. Comparisons with NaN are false. Equal takes strings since opset 19.

use ir::{DType, Dim, Tensor};

use super::binary::{common_dims, zip};
use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::for_dtype;
use crate::infer::InferCx;
use crate::kernel::broadcast;
use crate::rule::{LATEST, OpName, OpRule, Table};
use crate::sym;

/// A comparison of strings by their bytes.
type BytesTest = fn(&[u8], &[u8]) -> bool;

/// A comparison.
struct Compare {
    name: &'static str,
    since: i64,
    f64: fn(f64, f64) -> bool,
    int: fn(i128, i128) -> bool,
    bytes: Option<BytesTest>,
    sym: fn(&Dim, &Dim) -> Option<bool>,
}

fn infer_two(cx: &mut InferCx, dtype: Option<DType>) -> Result<()> {
    cx.need(0)?;
    cx.need(1)?;
    cx.same_dtype(0..2)?;
    let dims = cx.broadcast(0..2)?;
    cx.set(0, dtype, dims);
    Ok(())
}

impl OpRule for Compare {
    fn op(&self) -> OpName {
        OpName::onnx(self.name)
    }

    fn opsets(&self) -> std::ops::RangeInclusive<i64> {
        self.since..=LATEST
    }

    fn infer(&self, cx: &mut InferCx) -> Result<()> {
        infer_two(cx, Some(DType::Bool))?;
        cx.combine_contents(0, 2, |a, b| (self.sym)(a, b).map_or(Dim::Unknown, |v| Dim::Known(v.into())));
        Ok(())
    }

    fn eval(&self, cx: &EvalCx) -> Result<Outputs> {
        let (a, b) = (cx.tensor(0)?, cx.tensor(1)?);
        let dims = common_dims(cx, a, 1)?;
        cx.reserve(DType::Bool, &dims)?;
        if let (Some(compare), Some(x), Some(y)) = (self.bytes, array::to_strings(a), array::to_strings(b)) {
            let (x, y) = (x.iter().collect::<Vec<_>>(), y.iter().collect::<Vec<_>>());
            let out = broadcast::zip((&x, a.dims()), (&y, b.dims()), &dims, |x, y| compare(x, y));
            return cx.make(&dims, &out);
        }
        if a.dtype().is_float() {
            let (x, y) = (cx.f64s(0)?, cx.f64s(1)?);
            return cx.make(&dims, &broadcast::zip((&x, a.dims()), (&y, b.dims()), &dims, self.f64));
        }
        match a.dtype() {
            DType::U64 => {
                let f = |x: u64, y: u64| (self.int)(x.into(), y.into());
                cx.make(&dims, &zip::<u64, _>(a, b, &dims, f))
            }
            _ => {
                let (x, y) = (cx.ints(0)?, cx.ints(1)?);
                let f = |x: i64, y: i64| (self.int)(x.into(), y.into());
                cx.make(&dims, &broadcast::zip((&x, a.dims()), (&y, b.dims()), &dims, f))
            }
        }
    }

    fn evaluates(&self) -> bool {
        true
    }
}

macro_rules! compare {
    ($name:literal since $since:literal: $op:tt, $bytes:expr) => {
        &Compare {
            name: $name,
            since: $since,
            f64: |a, b| a $op b,
            int: |a, b| a $op b,
            bytes: $bytes,
            sym: |a, b| sym::compare(a, b).map(|order| (order as i8) $op 0),
        }
    };
}

/// Sizes compare as equal or not also where neither is known to be larger.
fn sym_equal(a: &Dim, b: &Dim) -> Option<bool> {
    if a == b && *a != Dim::Unknown { Some(true) } else { sym::compare(a, b).map(|order| order.is_eq()) }
}

/// A function of bits: of bools, or of integers.
struct Bits {
    name: &'static str,
    since: i64,
    bools: bool,
    f: fn(u8, u8) -> u8,
}

impl OpRule for Bits {
    fn op(&self) -> OpName {
        OpName::onnx(self.name)
    }

    fn opsets(&self) -> std::ops::RangeInclusive<i64> {
        self.since..=LATEST
    }

    fn infer(&self, cx: &mut InferCx) -> Result<()> {
        let dtype = if self.bools { Some(DType::Bool) } else { cx.dtype(0).or(cx.dtype(1)) };
        infer_two(cx, dtype)
    }

    fn eval(&self, cx: &EvalCx) -> Result<Outputs> {
        let (a, b) = (cx.tensor(0)?, cx.tensor(1)?);
        let dims = common_dims(cx, a, 1)?;
        cx.reserve(a.dtype(), &dims)?;
        if self.bools {
            let f = |x: bool, y: bool| (self.f)(x.into(), y.into()) != 0;
            cx.array::<bool>(0)?;
            return cx.make(&dims, &zip::<bool, _>(a, b, &dims, f));
        }
        for_dtype!(a.dtype(), T in [i8, i16, i32, i64, u8, u16, u32, u64] => {
            let out = zip::<T, _>(a, b, &dims, |x, y| {
                let mut bytes = x.to_le_bytes();
                bytes.iter_mut().zip(y.to_le_bytes()).for_each(|(x, y)| *x = (self.f)(*x, y));
                T::from_le_bytes(bytes)
            });
            cx.make(&dims, &out)
        }, else => Err(cx.unsupported_dtype(0)))
    }

    fn evaluates(&self) -> bool {
        true
    }
}

const fn bits(name: &'static str, since: i64, bools: bool, f: fn(u8, u8) -> u8) -> Bits {
    Bits { name, since, bools, f }
}

fn copy_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.copy_type(0, 0);
    Ok(())
}

fn not_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.set(0, Some(DType::Bool), cx.dims(0).map(<[_]>::to_vec));
    if let Some(contents) = cx.contents(0) {
        let not =
            |dim: &Dim| if let Dim::Known(v) = dim { Dim::Known((*v == 0).into()) } else { Dim::Unknown };
        cx.set_contents(0, contents.iter().map(not).collect());
    }
    Ok(())
}

fn not_eval(cx: &EvalCx) -> Result<Outputs> {
    let out: Vec<bool> = cx.vec::<bool>(0)?.into_iter().map(|v| !v).collect();
    cx.make(cx.tensor(0)?.dims(), &out)
}

fn bitwise_not_eval(cx: &EvalCx) -> Result<Outputs> {
    let a = cx.tensor(0)?;
    cx.reserve(a.dtype(), a.dims())?;
    if !a.dtype().is_int() || a.dtype().bits() < 8 {
        return Err(cx.unsupported_dtype(0));
    }
    let bytes: Vec<u8> = a.bytes().iter().map(|byte| !byte).collect();
    cx.give(Tensor::new(a.dtype(), a.dims(), bytes))
}

fn is_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.set(0, Some(DType::Bool), cx.dims(0).map(<[_]>::to_vec));
    Ok(())
}

fn is_nan(cx: &EvalCx) -> Result<Outputs> {
    let out: Vec<bool> = cx.f64s(0)?.into_iter().map(f64::is_nan).collect();
    cx.make(cx.tensor(0)?.dims(), &out)
}

fn is_inf(cx: &EvalCx) -> Result<Outputs> {
    let negative = cx.attrs().flag("detect_negative", true)?;
    let positive = cx.attrs().flag("detect_positive", true)?;
    let found = |v: f64| (v == f64::INFINITY && positive) || (v == f64::NEG_INFINITY && negative);
    let out: Vec<bool> = cx.f64s(0)?.into_iter().map(found).collect();
    cx.make(cx.tensor(0)?.dims(), &out)
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Compare {
        name: "Equal",
        since: 7,
        f64: |a, b| a == b,
        int: |a, b| a == b,
        bytes: Some(|a, b| a == b),
        sym: sym_equal,
    },
    compare!("Greater" since 7: >, None),
    compare!("GreaterOrEqual" since 12: >=, None),
    compare!("Less" since 7: <, None),
    compare!("LessOrEqual" since 12: <=, None),
    &bits("And", 7, true, |a, b| a & b),
    &bits("Or", 7, true, |a, b| a | b),
    &bits("Xor", 7, true, |a, b| a ^ b),
    &bits("BitwiseAnd", 18, false, |a, b| a & b),
    &bits("BitwiseOr", 18, false, |a, b| a | b),
    &bits("BitwiseXor", 18, false, |a, b| a ^ b),
    &Table::new("Not", 1, not_infer).eval(not_eval),
    &Table::new("BitwiseNot", 18, copy_infer).eval(bitwise_not_eval),
    &Table::new("IsNaN", 9, is_infer).eval(is_nan),
    &Table::new("IsInf", 10, is_infer).eval(is_inf),
];
