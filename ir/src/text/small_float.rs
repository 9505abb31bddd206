//! The value of a float of 8 bits or fewer, for printing and reading it as a number.
//!
//! Formats: OCP 8-bit and Microscaling specifications; the FNUZ ones as in ONNX's `docs/docsgen/source/technical/float8.md`.

use crate::DType;

/// Exponent bits, mantissa bits, exponent bias, and which codes are special.
struct Layout {
    exponent: u32,
    mantissa: u32,
    bias: i32,
    special: Special,
}

enum Special {
    /// Every code is a number.
    None,
    /// As in IEEE 754: the highest exponent means infinity or not a number.
    Ieee,
    /// All exponent and mantissa bits set: not a number.
    AllOnes,
    /// The code of minus zero: not a number.
    MinusZero,
}

fn layout(dtype: DType) -> Option<Layout> {
    let (exponent, mantissa, bias, special) = match dtype {
        DType::F8E4M3FN => (4, 3, 7, Special::AllOnes),
        DType::F8E4M3FNUZ => (4, 3, 8, Special::MinusZero),
        DType::F8E5M2 => (5, 2, 15, Special::Ieee),
        DType::F8E5M2FNUZ => (5, 2, 16, Special::MinusZero),
        DType::F4E2M1 => (2, 1, 1, Special::None),
        DType::F6E2M3 => (2, 3, 1, Special::None),
        DType::F6E3M2 => (3, 2, 3, Special::None),
        _ => return None,
    };
    Some(Layout { exponent, mantissa, bias, special })
}

/// The value of a code; none if the type is not a float of at most 8 bits.
pub(super) fn value(dtype: DType, code: u8) -> Option<f64> {
    if dtype == DType::F8E8M0 {
        return Some(if code == 0xff { f64::NAN } else { 2f64.powi(i32::from(code) - 127) });
    }
    let Layout { exponent, mantissa, bias, special } = layout(dtype)?;
    let (top, ones) = ((1u32 << exponent) - 1, (1u32 << mantissa) - 1);
    let code = u32::from(code);
    let sign = if code >> (exponent + mantissa) & 1 == 1 { -1.0 } else { 1.0 };
    let (e, m) = (code >> mantissa & top, code & ones);
    match special {
        Special::Ieee if e == top => {
            return Some(if m == 0 { sign * f64::INFINITY } else { f64::NAN.copysign(sign) });
        }
        Special::AllOnes if e == top && m == ones => return Some(f64::NAN.copysign(sign)),
        Special::MinusZero if sign < 0.0 && e == 0 && m == 0 => return Some(f64::NAN),
        _ => {}
    }
    let (fraction, power) = if e == 0 { (m, 1 - bias) } else { (m + ones + 1, e as i32 - bias) };
    Some(sign * f64::from(fraction) * 2f64.powi(power - mantissa as i32))
}

/// The code of a value that the type holds exactly. Of several codes for not-a-number the smallest of the sign.
pub(super) fn code(dtype: DType, wanted: f64) -> Option<u8> {
    let last = u8::try_from((1u32 << dtype.bits()) - 1).ok()?;
    (0..=last).find(|&code| {
        value(dtype, code).is_some_and(|found| {
            let same = found == wanted || (found.is_nan() && wanted.is_nan());
            same && (found.is_sign_negative() == wanted.is_sign_negative() || unsigned_nan(dtype, found))
        })
    })
}

/// Not-a-number has no sign in these types.
fn unsigned_nan(dtype: DType, found: f64) -> bool {
    found.is_nan() && matches!(dtype, DType::F8E4M3FNUZ | DType::F8E5M2FNUZ | DType::F8E8M0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let cases = [
            (DType::F8E4M3FN, 0x7e, 448.0),
            (DType::F8E4M3FN, 0x01, 2f64.powi(-9)),
            (DType::F8E4M3FNUZ, 0x7f, 240.0),
            (DType::F8E5M2, 0x7b, 57344.0),
            (DType::F8E5M2, 0xfc, f64::NEG_INFINITY),
            (DType::F8E5M2FNUZ, 0x7f, 57344.0),
            (DType::F4E2M1, 0x7, 6.0),
            (DType::F4E2M1, 0x9, -0.5),
            (DType::F6E2M3, 0x1f, 7.5),
            (DType::F6E3M2, 0x3f, -28.0),
            (DType::F8E8M0, 0x00, 2f64.powi(-127)),
            (DType::F8E8M0, 0xfe, 2f64.powi(127)),
        ];
        for (dtype, code, expected) in cases {
            assert_eq!(value(dtype, code), Some(expected), "{dtype} {code:#x}");
        }
        assert_eq!(value(DType::I8, 1), None);
    }

    #[test]
    fn every_number_has_its_code() {
        for &dtype in DType::ALL.iter().filter(|dtype| dtype.is_float() && dtype.bits() <= 8) {
            for bits in 0..1u16 << dtype.bits() {
                let bits = bits as u8;
                let number = value(dtype, bits).unwrap();
                if !number.is_nan() {
                    assert_eq!(code(dtype, number), Some(bits), "{dtype} {bits:#x}");
                } else {
                    assert!(value(dtype, code(dtype, number).unwrap()).unwrap().is_nan());
                }
            }
            assert_eq!(code(dtype, 0.3), None);
        }
    }
}
