//! float8, float6 and float4 codes: encode (round half to even), decode, quantize.
//!
//! One engine for all formats; a format is a [`MiniFloat`]. Overflow follows ONNX's Cast: with `saturate` to the
//! greatest finite value, without it to Inf where the format has one, else to NaN. NaN stays NaN where the format has
//! one and becomes 0 where it has none (float6, float4), as it does for integer codes.
//!
//! Formats: OCP 8-bit (E4M3FN, E5M2) and MX 6-/4-bit specifications; the FNUZ ones: Noune et al., arXiv 2206.02915.

use crate::code::CodeType;
use crate::error::Error;
use crate::grid::Params;
use crate::quantize::{Layout, map_with};

/// What happens above the greatest finite value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// The greatest finite value (`saturate = 1`, the default of QuantizeLinear).
    Saturate,
    /// Inf where there is one, else NaN where there is one, else the greatest finite value.
    NonFinite,
}

/// A float format of at most 8 bits.
#[derive(Debug, Clone, Copy)]
pub struct MiniFloat {
    /// Mantissa bits.
    man: u32,
    /// Exponent bias.
    bias: i32,
    /// Code of the greatest finite value.
    max: u32,
    /// The sign bit.
    sign: u32,
    /// Code of +Inf.
    inf: Option<u32>,
    /// Code of NaN.
    nan: Option<u32>,
    /// Whether the code of -0 means -0 (in FNUZ formats it means NaN).
    negative_zero: bool,
}

impl MiniFloat {
    /// The format of a float code type; `None` for integers.
    pub fn of(code: CodeType) -> Option<Self> {
        let ocp =
            |man, bias, max, sign| Self { man, bias, max, sign, inf: None, nan: None, negative_zero: true };
        Some(match code {
            CodeType::F8E4M3FN => Self { nan: Some(0x7f), ..ocp(3, 7, 0x7e, 0x80) },
            CodeType::F8E5M2 => Self { inf: Some(0x7c), nan: Some(0x7f), ..ocp(2, 15, 0x7b, 0x80) },
            CodeType::F8E4M3FNUZ => Self { nan: Some(0x80), negative_zero: false, ..ocp(3, 8, 0x7f, 0x80) },
            CodeType::F8E5M2FNUZ => Self { nan: Some(0x80), negative_zero: false, ..ocp(2, 16, 0x7f, 0x80) },
            CodeType::F6E2M3 => ocp(3, 1, 0x1f, 0x20),
            CodeType::F6E3M2 => ocp(2, 3, 0x1f, 0x20),
            CodeType::F4E2M1 => ocp(1, 1, 0x7, 0x8),
            _ => return None,
        })
    }

    /// The nearest code, ties to the even one.
    #[inline(always)]
    pub fn encode(self, x: f32, overflow: Overflow) -> u8 {
        let negative = x.is_sign_negative();
        let sign = if negative { self.sign } else { 0 };
        if x.is_nan() {
            return match self.nan {
                Some(nan) if self.negative_zero => (nan | sign) as u8,
                Some(nan) => nan as u8,
                None => 0,
            };
        }
        let magnitude = x.abs();
        // In units of the last place of x's binade (or of the subnormals), rounded; a carry moves to the next exponent
        // by itself. Both products are by powers of two and therefore exact.
        let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).clamp(1 - self.bias, 127);
        let unit = f32::from_bits(((127 + self.man as i32 - exponent) as u32) << 23);
        let places = crate::round::round_small(if magnitude.is_finite() { magnitude * unit } else { 0.0 });
        let mut code = (((exponent + self.bias - 1) as u32) << self.man) + places as u32;
        if code > self.max || !magnitude.is_finite() {
            code = match (overflow, self.inf, self.nan) {
                (Overflow::NonFinite, Some(inf), _) => inf,
                (Overflow::NonFinite, None, Some(nan)) if nan == self.sign => return nan as u8,
                (Overflow::NonFinite, None, Some(nan)) => nan,
                _ => self.max,
            };
        }
        if code == 0 && !self.negative_zero { 0 } else { (code | sign) as u8 }
    }

    /// The value of a code (exact). Bits above the format's width are ignored.
    pub fn decode(self, code: u8) -> f32 {
        let code = u32::from(code) & (2 * self.sign - 1);
        let magnitude = code & (self.sign - 1);
        let sign = if code & self.sign != 0 { -1.0 } else { 1.0 };
        if self.inf == Some(magnitude) {
            return sign * f32::INFINITY;
        }
        if self.nan == Some(code) || (self.nan.is_some() && magnitude > self.max) {
            return f32::NAN;
        }
        let (exponent, fraction) = (magnitude >> self.man, magnitude & ((1 << self.man) - 1));
        let power = |e: i32| 2f32.powi(e - self.man as i32);
        let value = if exponent == 0 {
            fraction as f32 * power(1 - self.bias)
        } else {
            (fraction + (1 << self.man)) as f32 * power(exponent as i32 - self.bias)
        };
        sign * value
    }

    /// All values by code, for table look-up.
    pub fn table(self) -> [f32; 256] {
        std::array::from_fn(|c| self.decode(c as u8))
    }
}

fn format(what: &'static str, code: CodeType) -> Result<MiniFloat, Error> {
    MiniFloat::of(code).ok_or(Error::CodeType { what, code })
}

/// Codes of x / scale, one a byte. Zero points play no part: ONNX wants them 0 for float codes.
pub fn quantize(
    x: &[f32],
    layout: &Layout,
    params: &[Params],
    code: CodeType,
    overflow: Overflow,
    out: &mut [u8],
) -> Result<(), Error> {
    let f = format("minifloat::quantize", code)?;
    layout.check(x.len(), params.len(), out.len())?;
    map_with(x, layout, params, out, |x, p| f.encode(x / p.scale(), overflow));
    Ok(())
}

/// Real values of codes, one a byte.
pub fn dequantize(
    q: &[u8],
    layout: &Layout,
    params: &[Params],
    code: CodeType,
    out: &mut [f32],
) -> Result<(), Error> {
    let table = format("minifloat::dequantize", code)?.table();
    layout.check(q.len(), params.len(), out.len())?;
    map_with(q, layout, params, out, |q, p| table[usize::from(q)] * p.scale());
    Ok(())
}

/// Quantize and dequantize.
pub fn fake_quantize(
    x: &[f32],
    layout: &Layout,
    params: &[Params],
    code: CodeType,
    overflow: Overflow,
    out: &mut [f32],
) -> Result<(), Error> {
    let f = format("minifloat::fake_quantize", code)?;
    let table = f.table();
    layout.check(x.len(), params.len(), out.len())?;
    map_with(x, layout, params, out, |x, p| {
        table[usize::from(f.encode(x / p.scale(), overflow))] * p.scale()
    });
    Ok(())
}
