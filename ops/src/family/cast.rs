//! Cast, CastLike, BitCast: the same numbers, or the same bits, under another element type.
//!
//! Float to integer cuts the fraction off; beyond the range the specification leaves the result open and this one is
//! x86's: cut from int64, which for all widths below 64 bits is what production runtimes give. Integer to integer drops
//! high bits. Float to a narrower float rounds to nearest even; to float8 it saturates unless `saturate = 0` (opset 19).
//! float8e8m0 (opset 24) takes `round_mode`. Strings are read as numbers; numbers other than integers are not written as
//! strings, because runtimes write them differently.

use bytes::Bytes;
use half::{bf16, f16};
use ir::{DType, Dim, Tensor};

use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::number::{self, Overflow};
use crate::rule::{OpRule, Table};

fn set_cast(cx: &mut InferCx, to: Option<DType>) {
    cx.set(0, to, cx.dims(0).map(<[_]>::to_vec));
    let (Some(to), Some(contents)) = (to, cx.contents(0)) else { return };
    let cast = |dim: &Dim| match (dim, to) {
        (Dim::Known(v), DType::Bool) => Dim::Known((*v != 0).into()),
        (dim, DType::I64 | DType::I32 | DType::F32 | DType::F64 | DType::U64 | DType::U32) => dim.clone(),
        // Narrow types may cut: what they hold is known only for numbers, which are evaluated as constants.
        _ => Dim::Unknown,
    };
    cx.set_contents(0, contents.iter().map(cast).collect());
}

fn target(cx: &InferCx) -> Result<DType> {
    cx.attrs().dtype("to")?.ok_or_else(|| cx.attrs().wrong("to", "a data type", "nothing"))
}

fn cast_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let to = target(cx)?;
    set_cast(cx, Some(to));
    Ok(())
}

fn cast_like_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.need(1)?;
    set_cast(cx, cx.dtype(1));
    Ok(())
}

fn cast_eval(cx: &EvalCx) -> Result<Outputs> {
    let to = cx.attrs().dtype("to")?.ok_or_else(|| cx.attrs().wrong("to", "a data type", "nothing"))?;
    cast(cx, to)
}

fn cast_like_eval(cx: &EvalCx) -> Result<Outputs> {
    let to = cx.tensor(1)?.dtype();
    cast(cx, to)
}

/// What the attributes say about casts to small floats.
struct Mode {
    overflow: Overflow,
    round: RoundE8M0,
}

#[derive(Clone, Copy)]
enum RoundE8M0 {
    Up,
    Down,
    Nearest,
}

fn mode(cx: &EvalCx) -> Result<Mode> {
    let overflow = if cx.attrs().flag("saturate", true)? { Overflow::Saturate } else { Overflow::Special };
    let round = match cx.attrs().str("round_mode", "up")? {
        "up" => RoundE8M0::Up,
        "down" => RoundE8M0::Down,
        "nearest" => RoundE8M0::Nearest,
        other => return Err(cx.attrs().wrong("round_mode", "up, down or nearest", other)),
    };
    Ok(Mode { overflow, round })
}

fn cast(cx: &EvalCx, to: DType) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let (from, dims) = (input.dtype(), input.dims());
    if from == to {
        return cx.give(Ok(input.clone()));
    }
    cx.reserve(to, dims)?;
    if matches!(from, DType::C64 | DType::C128) || matches!(to, DType::C64 | DType::C128) {
        return Err(cx.unsupported("complex numbers"));
    }
    if let Some(strings) = array::to_strings(input) {
        return from_strings(cx, strings, to);
    }
    if to == DType::String {
        let numbers = array::to_i64s(input).filter(|_| from.is_int() && from != DType::U64);
        let numbers = numbers.ok_or_else(|| cx.unsupported("runtimes write such numbers differently"))?;
        let strings: Vec<Bytes> = numbers.iter().map(|number| Bytes::from(number.to_string())).collect();
        return cx.give(Tensor::strings(dims, strings));
    }
    let mode = mode(cx)?;
    if to.is_float() && from.is_float() {
        return match (from, to) {
            (DType::F64, DType::F16) => cx.make(dims, &map(&cx.vec::<f64>(0)?, f16::from_f64)),
            (DType::F64, DType::BF16) => cx.make(dims, &map(&cx.vec::<f64>(0)?, bf16::from_f64)),
            _ => cx.give(from_floats(to, dims, &cx.f32s(0)?, &mode)),
        };
    }
    if to.is_float() {
        return match (from, to) {
            (DType::U64, DType::F64) => cx.make(dims, &map(&cx.vec::<u64>(0)?, |v| v as f64)),
            (DType::U64, DType::F32) => cx.make(dims, &map(&cx.vec::<u64>(0)?, |v| v as f32)),
            (_, DType::F64) => cx.make(dims, &map(&cx.ints(0)?, |v| v as f64)),
            (_, DType::F32) => cx.make(dims, &map(&cx.ints(0)?, |v| v as f32)),
            (_, DType::F16 | DType::BF16) => cx.give(array::from_f64s(to, dims, &cx.f64s(0)?)),
            _ => cx.give(from_floats(to, dims, &cx.f32s(0)?, &mode)),
        };
    }
    if from.is_float() {
        let numbers = cx.f64s(0)?;
        return match to {
            DType::Bool => cx.make(dims, &map(&numbers, |v| v != 0.0)),
            DType::U64 => cx.make(dims, &map(&numbers, |v| if v < 0.0 { v as i64 as u64 } else { v as u64 })),
            // Beyond its range x86 gives the smallest number.
            DType::I64 => cx.make(dims, &map(&numbers, cut)),
            _ => cx.give(array::from_i64s(to, dims, &map(&numbers, cut))),
        };
    }
    cx.give(array::from_i64s(to, dims, &cx.ints(0)?))
}

fn cut(value: f64) -> i64 {
    let range = -9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0;
    if range.contains(&value) { value as i64 } else { i64::MIN }
}

fn map<T: Copy, U>(numbers: &[T], f: impl Fn(T) -> U) -> Vec<U> {
    numbers.iter().map(|&number| f(number)).collect()
}

fn from_floats(
    to: DType,
    dims: &[usize],
    numbers: &[f32],
    mode: &Mode,
) -> std::result::Result<Tensor, ir::TensorError> {
    if to == DType::F8E8M0 {
        return array::from_codes(to, dims, &map(numbers, |v| to_e8m0(v, mode)));
    }
    match number::decode_table(to) {
        Some(_) => array::from_codes(to, dims, &map(numbers, |v| number::encode(to, v, mode.overflow))),
        None => array::from_f32s(to, dims, numbers),
    }
}

/// The exponent alone, as the table of the specification has it. The sign is ignored.
fn to_e8m0(value: f32, mode: &Mode) -> u8 {
    let bits = value.to_bits();
    let (exponent, fraction) = ((bits >> 23) & 0xff, bits & 0x007f_ffff);
    let saturate = mode.overflow == Overflow::Saturate;
    if exponent == 0xff {
        return if fraction == 0 && saturate { 0xfe } else { 0xff };
    }
    let up = match mode.round {
        RoundE8M0::Down => false,
        RoundE8M0::Up => fraction > 0,
        // Halves go up, except below the smallest power, where they go down to it.
        RoundE8M0::Nearest => fraction > 0x40_0000 || (fraction == 0x40_0000 && exponent > 0),
    };
    match exponent + u32::from(up) {
        0xff if saturate => 0xfe,
        code => code as u8,
    }
}

fn from_strings(cx: &EvalCx, strings: &[Bytes], to: DType) -> Result<Outputs> {
    let dims = cx.tensor(0)?.dims();
    let wrong = |bytes: &Bytes| cx.invalid(format!("{:?} is not a number", String::from_utf8_lossy(bytes)));
    let text =
        |bytes: &Bytes| std::str::from_utf8(bytes).map(|s| s.trim().to_string()).map_err(|_| wrong(bytes));
    if to == DType::F64 || to.is_int() {
        let parse = |bytes: &Bytes| text(bytes)?.parse::<f64>().map_err(|_| wrong(bytes));
        if to == DType::F64 {
            return cx.make(dims, &strings.iter().map(parse).collect::<Result<Vec<f64>>>()?);
        }
        let whole = |bytes: &Bytes| match text(bytes)?.parse::<i128>() {
            Ok(value) => Ok(value as i64),
            Err(_) => parse(bytes).map(cut),
        };
        let numbers = strings.iter().map(whole).collect::<Result<Vec<i64>>>()?;
        return cx.give(array::from_i64s(to, dims, &numbers));
    }
    let mode = mode(cx)?;
    let parse = |bytes: &Bytes| text(bytes)?.parse::<f32>().map_err(|_| wrong(bytes));
    let numbers = strings.iter().map(parse).collect::<Result<Vec<f32>>>()?;
    match to {
        DType::Bool => cx.make(dims, &map(&numbers, |v| v != 0.0)),
        _ => cx.give(from_floats(to, dims, &numbers, &mode)),
    }
}

fn bit_cast_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let to = target(cx)?;
    if let Some(from) = cx.dtype(0).filter(|from| from.bits() != to.bits() || to == DType::String) {
        return Err(cx.wrong_input(0, &format!("as many bits as {to}, not {from}")));
    }
    cx.set(0, Some(to), cx.dims(0).map(<[_]>::to_vec));
    Ok(())
}

fn bit_cast(cx: &EvalCx) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    match cx.attrs().dtype("to")?.filter(|to| to.bits() == input.dtype().bits() && to.bits() > 0) {
        Some(to) => cx.give(Tensor::new(to, input.dims(), input.bytes().clone())),
        None => Err(cx.wrong_input(0, "as many bits as the target type")),
    }
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("Cast", 6, cast_infer).eval(cast_eval),
    &Table::new("CastLike", 15, cast_like_infer).eval(cast_like_eval),
    &Table::new("BitCast", 26, bit_cast_infer).eval(bit_cast),
];
