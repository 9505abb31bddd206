//! Floating-point functions of one tensor, element by element. Shape and element type stay.
//!
//! f16 and bf16 are computed in f32 and rounded, f64 in f64, as the reference implementation does.

use ir::DType;

use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::rule::{LATEST, OpName, OpRule};

/// A function of one float tensor without attributes.
struct Unary {
    name: &'static str,
    since: i64,
    f32: fn(f32) -> f32,
    f64: fn(f64) -> f64,
}

impl OpRule for Unary {
    fn op(&self) -> OpName {
        OpName::onnx(self.name)
    }

    fn opsets(&self) -> std::ops::RangeInclusive<i64> {
        self.since..=LATEST
    }

    fn infer(&self, cx: &mut InferCx) -> Result<()> {
        cx.need(0)?;
        cx.copy_type(0, 0);
        Ok(())
    }

    fn eval(&self, cx: &EvalCx) -> Result<Outputs> {
        let input = cx.tensor(0)?;
        cx.reserve(input.dtype(), input.dims())?;
        match input.dtype() {
            DType::F64 => {
                let out: Vec<f64> = cx.vec::<f64>(0)?.into_iter().map(self.f64).collect();
                cx.make(input.dims(), &out)
            }
            dtype if dtype.is_compute_float() => {
                let out: Vec<f32> = cx.f32s(0)?.into_iter().map(self.f32).collect();
                cx.give(array::from_f32s(dtype, input.dims(), &out))
            }
            _ => Err(cx.unsupported_dtype(0)),
        }
    }

    fn evaluates(&self) -> bool {
        true
    }
}

/// The error function in the type's own precision.
trait Erf {
    fn erf(x: Self) -> Self;
}

impl Erf for f32 {
    fn erf(x: f32) -> f32 {
        libm::erff(x)
    }
}

impl Erf for f64 {
    fn erf(x: f64) -> f64 {
        libm::erf(x)
    }
}

macro_rules! unary {
    ($($name:literal since $since:literal: |$x:ident| $body:expr;)*) => {
        &[$(&Unary { name: $name, since: $since, f32: |$x: f32| $body, f64: |$x: f64| $body },)*]
    };
}

/// The table.
pub const RULES: &[&dyn OpRule] = unary! {
    "Acos" since 7: |x| x.acos();
    "Acosh" since 9: |x| x.acosh();
    "Asin" since 7: |x| x.asin();
    "Asinh" since 9: |x| x.asinh();
    "Atan" since 7: |x| x.atan();
    "Atanh" since 9: |x| x.atanh();
    "Cos" since 7: |x| x.cos();
    "Cosh" since 9: |x| x.cosh();
    "Erf" since 9: |x| Erf::erf(x);
    "Exp" since 1: |x| x.exp();
    "Log" since 1: |x| x.ln();
    "Reciprocal" since 1: |x| x.recip();
    "Sigmoid" since 1: |x| (1.0 + (-x).exp()).recip();
    "Sin" since 7: |x| x.sin();
    "Sinh" since 9: |x| x.sinh();
    "Sqrt" since 1: |x| x.sqrt();
    "Tan" since 7: |x| x.tan();
    "Tanh" since 1: |x| x.tanh();
};
