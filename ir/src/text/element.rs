//! The elements of a tensor as numbers and strings, both ways.
//!
//! ONNX writes what the fields of `TensorProto` hold: floats of 16 and 8 bits as their bit pattern, types below 8 bits as
//! packed bytes. That is [`Numbers::Stored`], and the only form other readers understand. [`Numbers::Values`] writes
//! every element as the number it is. The reader takes both: a float with a point, an exponent or a name is a value, a
//! whole number is a bit pattern; integers below 8 bits are elements if there are as many as elements.

use super::parse::cursor::{Cursor, Number, Result};
use super::small_float;
use super::style::Numbers;
use crate::{Class, DType, Tensor};

/// How many bits an `f32`'s own not-a-number has; others are written with their bits.
const NAN32: u32 = 0x7fc0_0000;
const NAN64: u64 = 0x7ff8_0000_0000_0000;

// ---- writing ---------------------------------------------------------------------------------------------------

/// Appends all elements, separated by commas. Strings are the caller's.
pub(super) fn write(out: &mut String, tensor: &Tensor, numbers: Numbers) {
    let dtype = tensor.dtype();
    let bytes = tensor.bytes();
    let mut first = true;
    let mut put = |text: String| {
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        out.push_str(&text);
    };
    match (dtype.bits(), numbers) {
        // Set bits behind the last element have no value.
        (2 | 4 | 6, Numbers::Values) if tail(tensor) == 0 => {
            (0..tensor.elements()).for_each(|at| put(sub_byte(dtype, unpack(bytes, dtype.bits(), at))));
        }
        (2 | 4 | 6, _) => bytes.iter().for_each(|byte| put(byte.to_string())),
        (bits, _) => {
            // A complex number is two floats.
            let width = bits / 8 / if dtype.class() == Class::Complex { 2 } else { 1 };
            bytes.chunks_exact(width.max(1)).for_each(|chunk| put(whole_bytes(dtype, chunk, numbers)));
        }
    }
}

/// What stands in the last byte behind the last element.
fn tail(tensor: &Tensor) -> u8 {
    let used = (tensor.elements() * tensor.dtype().bits()) % 8;
    tensor.bytes().last().filter(|_| used > 0).map_or(0, |last| last >> used)
}

/// Element `at` of a packed array, low bits first.
fn unpack(bytes: &[u8], bits: usize, at: usize) -> u8 {
    let start = at * bits;
    let low = bytes.get(start / 8).copied().unwrap_or(0);
    let high = bytes.get(start / 8 + 1).copied().unwrap_or(0);
    let window = u16::from_le_bytes([low, high]) >> (start % 8);
    (window & ((1 << bits) - 1)) as u8
}

fn sub_byte(dtype: DType, code: u8) -> String {
    match small_float::value(dtype, code) {
        Some(value) => format!("{value:?}"),
        None if dtype.class() == Class::Signed => {
            let unused = 8 - dtype.bits();
            ((code << unused) as i8 >> unused).to_string()
        }
        None => code.to_string(),
    }
}

fn whole_bytes(dtype: DType, chunk: &[u8], numbers: Numbers) -> String {
    let mut wide = [0; 8];
    wide[..chunk.len()].copy_from_slice(chunk);
    let bits = u64::from_le_bytes(wide);
    match dtype {
        DType::F32 | DType::C64 => float32(f32::from_bits(bits as u32), ""),
        DType::F64 | DType::C128 => float64(f64::from_bits(bits)),
        DType::I8 => (bits as i8).to_string(),
        DType::I16 => (bits as i16).to_string(),
        DType::I32 => (bits as i32).to_string(),
        DType::I64 => (bits as i64).to_string(),
        _ if numbers == Numbers::Values && dtype.is_float() => {
            short_float(dtype, bits as u16).unwrap_or_else(|| bits.to_string())
        }
        _ => bits.to_string(),
    }
}

/// The value of a float of 8 or 16 bits; none for a not-a-number that reading would not give back.
fn short_float(dtype: DType, bits: u16) -> Option<String> {
    let value = match dtype {
        DType::F16 => half::f16::from_bits(bits).to_f64(),
        DType::BF16 => half::bf16::from_bits(bits).to_f64(),
        _ => small_float::value(dtype, bits as u8)?,
    };
    if value.is_nan() && encode_float(dtype, f64::NAN.copysign(value)) != Some(u64::from(bits)) {
        return None;
    }
    Some(match value {
        value if value.is_nan() => float64(value),
        value => format!("{:?}", value as f32),
    })
}

/// The shortest number that reads as this float. `point` is what a whole number gets appended: ONNX reads `1` as an
/// integer where it is not told otherwise.
pub(super) fn float32(value: f32, point: &str) -> String {
    if value.is_nan() {
        let sign = if value.is_sign_negative() { "-" } else { "" };
        return match value.to_bits() & 0x7fff_ffff {
            NAN32 => format!("{sign}nan"),
            _ => format!("nan({:08x})", value.to_bits()),
        };
    }
    shorten(format!("{value:?}"), point)
}

fn float64(value: f64) -> String {
    if value.is_nan() {
        let sign = if value.is_sign_negative() { "-" } else { "" };
        return match value.to_bits() & !(1 << 63) {
            NAN64 => format!("{sign}nan"),
            _ => format!("nan({:016x})", value.to_bits()),
        };
    }
    shorten(format!("{value:?}"), "")
}

fn shorten(number: String, point: &str) -> String {
    match number.strip_suffix(".0") {
        Some(whole) => format!("{whole}{point}"),
        None => number,
    }
}

// ---- reading ---------------------------------------------------------------------------------------------------

/// The numbers between braces, the opening one already taken, as a tensor of these sizes.
pub(super) fn read(cursor: &mut Cursor<'_>, dtype: DType, dims: &[usize]) -> Result<Tensor> {
    let start = cursor.position();
    let count = crate::checked_elements(dims).map_err(|error| cursor.error_at(start, error.to_string()))?;
    let packed = dtype.bits() < 8;
    let (bytes, found) = if packed { read_packed(cursor, dtype, count)? } else { read_whole(cursor, dtype)? };
    if let Some(tensor) = bytes.and_then(|bytes| Tensor::new(dtype, dims, bytes).ok()) {
        return Ok(tensor);
    }
    let parts = if dtype.class() == Class::Complex { 2 } else { 1 };
    let wanted = count.checked_mul(parts).map_or("too many".to_string(), |wanted| wanted.to_string());
    let or = match dtype.storage_bytes(count) {
        Some(bytes) if packed => format!(" or {bytes} packed bytes"),
        _ => String::new(),
    };
    Err(cursor.error_at(start, format!("{dtype}{dims:?} needs {wanted} numbers{or}, not {found}")))
}

/// The bytes of elements of at least 8 bits, and how many numbers there were. Nothing is reserved for sizes that the
/// text only claims.
fn read_whole(cursor: &mut Cursor<'_>, dtype: DType) -> Result<(Option<Vec<u8>>, usize)> {
    let width = dtype.bits() / 8 / if dtype.class() == Class::Complex { 2 } else { 1 };
    let mut bytes = Vec::new();
    cursor.list(b'}', |cursor| {
        let number = cursor.number()?;
        let element = encode(cursor, dtype, &number)?.to_le_bytes();
        bytes.extend_from_slice(&element[..width]);
        Ok(())
    })?;
    let found = bytes.len() / width.max(1);
    Ok((Some(bytes), found))
}

/// The same of elements of fewer bits, given one by one or as packed bytes; no bytes if they are neither as many.
fn read_packed(cursor: &mut Cursor<'_>, dtype: DType, count: usize) -> Result<(Option<Vec<u8>>, usize)> {
    let numbers = cursor.list(b'}', Cursor::number)?;
    // Of one element and one byte the number itself tells which it is: no byte is negative.
    let is_byte = |number: &Number<'_>| number.whole && !number.text.starts_with('-');
    let are_bytes = dtype.storage_bytes(count) == Some(numbers.len()) && numbers.iter().all(is_byte);
    let codes = numbers.iter().map(|number| {
        let code = if are_bytes { integer(cursor, DType::U8, number) } else { encode(cursor, dtype, number) };
        code.map(|code| code as u8)
    });
    let codes: Vec<u8> = codes.collect::<Result<_>>()?;
    let found = codes.len();
    let bytes = if are_bytes { Some(codes) } else { (found == count).then(|| pack(&codes, dtype.bits())) };
    Ok((bytes, found))
}

fn pack(codes: &[u8], bits: usize) -> Vec<u8> {
    let mut bytes = vec![0; (codes.len() * bits).div_ceil(8)];
    for (at, &code) in codes.iter().enumerate() {
        let start = at * bits;
        let [low, high] = (u16::from(code & ((1 << bits) - 1)) << (start % 8)).to_le_bytes();
        bytes[start / 8] |= low;
        if high != 0 {
            bytes[start / 8 + 1] |= high;
        }
    }
    bytes
}

/// The bits of an element (of half a complex one).
fn encode(cursor: &Cursor<'_>, dtype: DType, number: &Number<'_>) -> Result<u64> {
    let wide = dtype.bits() >= 32;
    if dtype.class() == Class::Complex || (dtype.is_float() && (wide || !number.whole)) {
        let bits = match dtype {
            DType::F32 | DType::C64 => number.as_f32().map(|value| u64::from(value.to_bits())),
            DType::F64 | DType::C128 => number.as_f64().map(f64::to_bits),
            DType::F16 | DType::BF16 => number.as_f64().and_then(|value| encode_float(dtype, value)),
            // Written as the shortest f32, which is exact only when it is read as one.
            _ => number.as_f32().and_then(|value| encode_float(dtype, f64::from(value))),
        };
        return bits.ok_or_else(|| no_fit(cursor, dtype, number));
    }
    integer(cursor, dtype, number)
}

/// The bits of a value in a float type of at most 16 bits: the nearest of 16 bits, the exact one below.
fn encode_float(dtype: DType, value: f64) -> Option<u64> {
    match dtype {
        DType::F16 => Some(u64::from(half::f16::from_f64(value).to_bits())),
        DType::BF16 => Some(u64::from(half::bf16::from_f64(value).to_bits())),
        _ => small_float::code(dtype, value).map(u64::from),
    }
}

fn integer(cursor: &Cursor<'_>, dtype: DType, number: &Number<'_>) -> Result<u64> {
    let bits = dtype.bits() as u32;
    let range = match dtype.class() {
        Class::Signed => -(1i128 << (bits - 1))..1i128 << (bits - 1),
        Class::Bool => 0..256,
        _ => 0..1i128 << bits,
    };
    let value = number.text.parse::<i128>().ok().filter(|value| number.whole && range.contains(value));
    // The low bits of the two's complement are the element.
    value.map(|value| value as u64).ok_or_else(|| no_fit(cursor, dtype, number))
}

fn no_fit(cursor: &Cursor<'_>, dtype: DType, number: &Number<'_>) -> super::TextError {
    cursor.error_at(number.at, format!("this number is no {dtype}"))
}

impl Number<'_> {
    /// The nearest f32; none if it overflows.
    pub fn as_f32(&self) -> Option<f32> {
        match self.nan_bits() {
            Some(bits) => {
                u32::from_str_radix(bits, 16).ok().map(f32::from_bits).filter(|value| value.is_nan())
            }
            None => finite_or_named(self.text, self.text.parse().ok()?, f32::is_infinite),
        }
    }

    /// The nearest f64; none if it overflows.
    fn as_f64(&self) -> Option<f64> {
        match self.nan_bits() {
            Some(bits) => {
                u64::from_str_radix(bits, 16).ok().map(f64::from_bits).filter(|value| value.is_nan())
            }
            None => finite_or_named(self.text, self.text.parse().ok()?, f64::is_infinite),
        }
    }

    fn nan_bits(&self) -> Option<&str> {
        self.text.strip_suffix(')')?.split_once('(').map(|(_, bits)| bits)
    }
}

/// Infinity only where it is written: `1e999` is a mistake.
fn finite_or_named<T: Copy>(text: &str, value: T, infinite: fn(T) -> bool) -> Option<T> {
    let named = text.trim_start_matches('-').starts_with(|c: char| c.is_ascii_alphabetic());
    (named || !infinite(value)).then_some(value)
}
