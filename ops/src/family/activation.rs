//! Activation functions with parameters or with a formula of more than one step, element by element.
//!
//! Each is computed in f64 and rounded once to the type of the input, whatever float that is. FastGelu and BiasGelu of
//! com.microsoft add a bias of the last axis first; PRelu's slope broadcasts to the input.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

use ir::DType;

use super::reals::stretched;
use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::rule::{LATEST, OpName, OpRule, Table};

/// A function of one number and of float attributes.
struct Activation {
    op: OpName,
    since: i64,
    /// Names and defaults.
    parameters: &'static [(&'static str, f32)],
    of: fn(f64, &[f64]) -> f64,
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softplus(x: f64) -> f64 {
    // exp(x) overflows where the result is x.
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn hard_sigmoid(x: f64, alpha: f64, beta: f64) -> f64 {
    (alpha * x + beta).clamp(0.0, 1.0)
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + libm::erf(x * FRAC_1_SQRT_2))
}

fn tanh_gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + (FRAC_2_PI.sqrt() * (x + 0.044715 * x * x * x)).tanh())
}

impl OpRule for Activation {
    fn op(&self) -> OpName {
        self.op
    }

    fn opsets(&self) -> std::ops::RangeInclusive<i64> {
        self.since..=if self.op.domain.is_empty() { LATEST } else { 1 }
    }

    fn infer(&self, cx: &mut InferCx) -> Result<()> {
        infer(cx)
    }

    fn eval(&self, cx: &EvalCx) -> Result<Outputs> {
        let read = |&(name, default): &(&str, f32)| cx.attrs().float(name, default).map(f64::from);
        let parameters = self.parameters.iter().map(read).collect::<Result<Vec<f64>>>()?;
        give(cx, cx.f64s(0)?.into_iter().map(|x| (self.of)(x, &parameters)).collect())
    }

    fn evaluates(&self) -> bool {
        true
    }
}

fn infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.copy_type(0, 0);
    Ok(())
}

/// The output: of the type and sizes of input 0; integers are cut off.
fn give(cx: &EvalCx, numbers: Vec<f64>) -> Result<Outputs> {
    let x = cx.tensor(0)?;
    cx.reserve(x.dtype(), x.dims())?;
    match x.dtype() {
        dtype if dtype.is_compute_float() => cx.give(array::from_f64s(dtype, x.dims(), &numbers)),
        dtype if dtype.is_int() && dtype.bits() <= 32 => {
            let cut: Vec<i64> = numbers.into_iter().map(|x| x as i64).collect();
            cx.give(array::from_i64s(dtype, x.dims(), &cut))
        }
        _ => Err(cx.unsupported_dtype(0)),
    }
}

fn eval_prelu(cx: &EvalCx) -> Result<Outputs> {
    if cx.tensor(0)?.dtype().bits() == 64 && cx.tensor(0)?.dtype() != DType::F64 {
        return Err(cx.unsupported_dtype(0));
    }
    let slope = stretched::<f64>(cx, 1, cx.tensor(0)?.dims())?;
    give(cx, cx.f64s(0)?.into_iter().zip(slope).map(|(x, s)| if x < 0.0 { s * x } else { x }).collect())
}

fn eval_gelu(cx: &EvalCx) -> Result<Outputs> {
    let of = match cx.attrs().str("approximate", "none")? {
        "none" => gelu,
        "tanh" => tanh_gelu,
        other => return Err(cx.attrs().wrong("approximate", "none or tanh", other)),
    };
    give(cx, cx.f64s(0)?.into_iter().map(of).collect())
}

/// The function of `x + bias`, the sum rounded as the input is.
fn biased(cx: &EvalCx, of: fn(f64) -> f64) -> Result<Outputs> {
    let mut x = cx.f64s(0)?;
    if cx.has(1) {
        x.iter_mut().zip(stretched::<f64>(cx, 1, cx.tensor(0)?.dims())?).for_each(|(x, bias)| *x += bias);
    }
    give(cx, x.into_iter().map(of).collect())
}

fn eval_fast_gelu(cx: &EvalCx) -> Result<Outputs> {
    biased(cx, tanh_gelu)
}

fn eval_bias_gelu(cx: &EvalCx) -> Result<Outputs> {
    biased(cx, gelu)
}

const fn onnx(
    name: &'static str,
    since: i64,
    parameters: &'static [(&'static str, f32)],
    of: fn(f64, &[f64]) -> f64,
) -> Activation {
    Activation { op: OpName::onnx(name), since, parameters, of }
}

const fn microsoft(
    name: &'static str,
    parameters: &'static [(&'static str, f32)],
    of: fn(f64, &[f64]) -> f64,
) -> Activation {
    Activation { op: OpName::of("com.microsoft", name), since: 1, parameters, of }
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &onnx("Elu", 6, &[("alpha", 1.0)], |x, p| if x < 0.0 { p[0] * x.exp_m1() } else { x }),
    &onnx("Selu", 6, &[("alpha", 1.673_263_2), ("gamma", 1.050_701)], |x, p| {
        if x > 0.0 { p[1] * x } else { p[1] * p[0] * x.exp_m1() }
    }),
    &onnx("Celu", 12, &[("alpha", 1.0)], |x, p| x.max(0.0) + (p[0] * (x / p[0]).exp_m1()).min(0.0)),
    &onnx("ThresholdedRelu", 1, &[("alpha", 1.0)], |x, p| if x > p[0] { x } else { 0.0 }),
    &onnx("LeakyRelu", 6, &[("alpha", 0.01)], |x, p| if x < 0.0 { p[0] * x } else { x }),
    &onnx("HardSigmoid", 6, &[("alpha", 0.2), ("beta", 0.5)], |x, p| hard_sigmoid(x, p[0], p[1])),
    &onnx("HardSwish", 14, &[], |x, _| x * hard_sigmoid(x, 1.0 / 6.0, 0.5)),
    &onnx("Mish", 18, &[], |x, _| x * softplus(x).tanh()),
    &onnx("Softplus", 1, &[], |x, _| softplus(x)),
    &onnx("Softsign", 1, &[], |x, _| x / (1.0 + x.abs())),
    &onnx("Shrink", 9, &[("lambd", 0.5), ("bias", 0.0)], |x, p| {
        if x < -p[0] {
            x + p[1]
        } else if x > p[0] {
            x - p[1]
        } else {
            0.0
        }
    }),
    &onnx("Swish", 24, &[("alpha", 1.0)], |x, p| x * sigmoid(p[0] * x)),
    &microsoft("QuickGelu", &[("alpha", 1.702)], |x, p| x * sigmoid(p[0] * x)),
    &microsoft("Gelu", &[], |x, _| gelu(x)),
    &Table::new("Gelu", 20, infer).eval(eval_gelu),
    &Table::new("PRelu", 6, infer).eval(eval_prelu),
    &Table::new("FastGelu", 1, infer).domain("com.microsoft", 1).eval(eval_fast_gelu),
    &Table::new("BiasGelu", 1, infer).domain("com.microsoft", 1).eval(eval_bias_gelu),
];
