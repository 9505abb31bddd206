//! The constants of signal processing: HannWindow, HammingWindow, BlackmanWindow, MelWeightMatrix (17).
//!
//! A window of `size` points divides the circle by `size`, or by `size - 1` if it is not `periodic`. The mel matrix
//! `[dft_length/2 + 1, bands]` has one triangle a band, whose corners are whole bins.

use std::f64::consts::PI;

use ir::{DType, Dim};

use super::reals::opt_number;
use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::rule::{OpRule, Table};
use crate::sym;

fn infer(cx: &mut InferCx) -> Result<()> {
    let dtype = cx.attrs().dtype("output_datatype")?.unwrap_or(DType::F32);
    let size = cx.contents(0).and_then(|size| size.first().cloned()).unwrap_or(Dim::Unknown);
    cx.set(0, Some(dtype), Some(vec![size]));
    Ok(())
}

/// A tensor of the type that the operator asks for; integers are cut off.
fn give(cx: &EvalCx, dims: &[usize], numbers: &[f64]) -> Result<Outputs> {
    match cx.attrs().dtype("output_datatype")?.unwrap_or(DType::F32) {
        dtype if dtype.is_int() => {
            let cut: Vec<i64> = numbers.iter().map(|&number| number as i64).collect();
            cx.give(array::from_i64s(dtype, dims, &cut))
        }
        dtype => cx.give(array::from_f64s(dtype, dims, numbers)),
    }
}

fn size(cx: &EvalCx, at: usize) -> Result<usize> {
    let size = cx.ints(at)?.first().and_then(|&size| usize::try_from(size).ok());
    size.ok_or_else(|| cx.wrong_input(at, "a size"))
}

fn window(cx: &EvalCx, of: fn(f64) -> f64) -> Result<Outputs> {
    let size = size(cx, 0)?;
    cx.reserve(DType::F64, &[size])?;
    let turn = if cx.attrs().flag("periodic", true)? { size as f64 } else { size as f64 - 1.0 };
    let numbers: Vec<f64> = (0..size).map(|at| of(2.0 * PI * at as f64 / turn)).collect();
    give(cx, &[size], &numbers)
}

fn eval_hann(cx: &EvalCx) -> Result<Outputs> {
    window(cx, |angle| 0.5 - 0.5 * angle.cos())
}

fn eval_hamming(cx: &EvalCx) -> Result<Outputs> {
    window(cx, |angle| 25.0 / 46.0 - 21.0 / 46.0 * angle.cos())
}

fn eval_blackman(cx: &EvalCx) -> Result<Outputs> {
    window(cx, |angle| 0.42 - 0.5 * angle.cos() + 0.08 * (2.0 * angle).cos())
}

fn infer_mel(cx: &mut InferCx) -> Result<()> {
    let dtype = cx.attrs().dtype("output_datatype")?.unwrap_or(DType::F32);
    let first = |at: usize| cx.contents(at).and_then(|c| c.first().cloned()).unwrap_or(Dim::Unknown);
    let bins = sym::add(&sym::floor_div(&first(1), &Dim::Known(2)), &Dim::Known(1));
    cx.set(0, Some(dtype), Some(vec![bins, first(0)]));
    Ok(())
}

fn eval_mel(cx: &EvalCx) -> Result<Outputs> {
    let (bands, length, rate) = (size(cx, 0)?, size(cx, 1)?, size(cx, 2)?);
    let edge = |at: usize| opt_number(cx, at)?.ok_or_else(|| cx.wrong_input(at, "a frequency"));
    let mel = |hertz: f64| 2595.0 * (hertz / 700.0).ln_1p() / 10f64.ln();
    let (low, high) = (mel(edge(3)?), mel(edge(4)?));
    let rows = length / 2 + 1;
    let mut numbers = vec![0.0; cx.reserve(DType::F64, &[rows, bands])?];
    let step = (high - low) / (bands as f64 + 2.0);
    let bin = |at: usize| {
        let hertz = 700.0 * ((low + step * at as f64) / 2595.0 * 10f64.ln()).exp_m1();
        let bin = ((length as f64 + 1.0) * hertz / rate as f64).floor();
        let inside = (0.0..=rows as f64).contains(&bin);
        if inside { Ok(bin as usize) } else { Err(cx.invalid("the frequencies leave the spectrum")) }
    };
    for band in 0..bands {
        let (left, centre, right) = (bin(band)?, bin(band + 1)?, bin(band + 2)?);
        let mut set = |row: usize, number: f64| match numbers.get_mut(row * bands + band) {
            Some(slot) => {
                *slot = number;
                Ok(())
            }
            None => Err(cx.invalid("the frequencies leave the spectrum")),
        };
        if left == centre {
            set(centre, 1.0)?;
        }
        for row in left..=centre {
            if left < centre {
                set(row, (row - left) as f64 / (centre - left) as f64)?;
            }
        }
        for row in centre..right {
            set(row, (right - row) as f64 / (right - centre) as f64)?;
        }
    }
    give(cx, &[rows, bands], &numbers)
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("HannWindow", 17, infer).eval(eval_hann),
    &Table::new("HammingWindow", 17, infer).eval(eval_hamming),
    &Table::new("BlackmanWindow", 17, infer).eval(eval_blackman),
    &Table::new("MelWeightMatrix", 17, infer_mel).eval(eval_mel),
];
