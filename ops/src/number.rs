//! The element types without a native type: float8, float6, float4 and 4- and 2-bit integers, as codes of one byte each.

use std::sync::OnceLock;

use ir::DType;

/// What a small float does with its topmost codes.
#[derive(Clone, Copy, PartialEq)]
enum Top {
    /// The largest exponent is infinity and NaN, as in IEEE 754.
    Ieee,
    /// Only the all-ones code is NaN; there is no infinity.
    Finite,
    /// The code of minus zero is NaN; there is no infinity and no minus zero.
    Unsigned0,
    /// Every code is a number.
    None,
}

/// Layout of a small float: exponent bits, mantissa bits, bias.
#[derive(Clone, Copy)]
struct Layout {
    exponent: u32,
    mantissa: u32,
    bias: i32,
    top: Top,
}

fn layout(dtype: DType) -> Option<Layout> {
    let (exponent, mantissa, bias, top) = match dtype {
        DType::F8E4M3FN => (4, 3, 7, Top::Finite),
        DType::F8E4M3FNUZ => (4, 3, 8, Top::Unsigned0),
        DType::F8E5M2 => (5, 2, 15, Top::Ieee),
        DType::F8E5M2FNUZ => (5, 2, 16, Top::Unsigned0),
        DType::F4E2M1 => (2, 1, 1, Top::None),
        DType::F6E2M3 => (2, 3, 1, Top::None),
        DType::F6E3M2 => (3, 2, 3, Top::None),
        _ => return None,
    };
    Some(Layout { exponent, mantissa, bias, top })
}

impl Layout {
    fn sign_bit(self) -> u8 {
        1 << (self.exponent + self.mantissa)
    }

    fn decode(self, code: u8) -> f32 {
        let magnitude = code & (self.sign_bit() - 1);
        let sign = if code & self.sign_bit() != 0 { -1.0 } else { 1.0 };
        let exponent = i32::from(magnitude >> self.mantissa);
        let fraction = f32::from(magnitude & ((1 << self.mantissa) - 1));
        let all_ones = (1 << self.exponent) - 1;
        match self.top {
            Top::Ieee if exponent == all_ones && fraction == 0.0 => return sign * f32::INFINITY,
            Top::Ieee if exponent == all_ones => return f32::NAN,
            Top::Finite if magnitude == self.sign_bit() - 1 => return f32::NAN,
            Top::Unsigned0 if code == self.sign_bit() => return f32::NAN,
            _ => {}
        }
        let scale = (self.mantissa as f32).exp2();
        let value = match exponent {
            0 => fraction / scale * ((1 - self.bias) as f32).exp2(),
            _ => (1.0 + fraction / scale) * ((exponent - self.bias) as f32).exp2(),
        };
        sign * value
    }

    /// The largest finite magnitude's code.
    fn max_code(self) -> u8 {
        let all = self.sign_bit() - 1;
        match self.top {
            Top::Ieee => all - (1 << self.mantissa),
            Top::Finite => all - 1,
            Top::Unsigned0 | Top::None => all,
        }
    }

    fn nan(self) -> Option<u8> {
        match self.top {
            Top::Ieee | Top::Finite => Some(self.sign_bit() - 1),
            Top::Unsigned0 => Some(self.sign_bit()),
            Top::None => None,
        }
    }
}

/// The values of all 256 codes of a small float type; none for other types.
pub fn decode_table(dtype: DType) -> Option<&'static [f32; 256]> {
    static TABLES: OnceLock<Vec<Option<[f32; 256]>>> = OnceLock::new();
    let tables = TABLES.get_or_init(|| DType::ALL.iter().map(|&dtype| make_table(dtype)).collect());
    let at = DType::ALL.iter().position(|&other| other == dtype)?;
    tables.get(at)?.as_ref()
}

fn make_table(dtype: DType) -> Option<[f32; 256]> {
    let mut table = [0.0; 256];
    for (slot, code) in table.iter_mut().zip(0..=255u8) {
        *slot = match dtype {
            DType::F8E8M0 if code == 255 => f32::NAN,
            // 2^-127 is subnormal in f32, so that a power function might flush it.
            DType::F8E8M0 if code == 0 => f32::from_bits(0x0040_0000),
            DType::F8E8M0 => f32::from_bits(u32::from(code) << 23),
            _ => layout(dtype)?.decode(code & (((1u16 << dtype.bits()) - 1) as u8)),
        };
    }
    Some(table)
}

/// What a cast does with numbers beyond the largest of the target type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The largest magnitude.
    Saturate,
    /// Infinity where the type has it, else NaN, else the largest magnitude.
    Special,
}

/// The code of the nearest value, ties to even. NaN becomes the type's NaN; in types
/// without one it becomes minus zero, as in the reference implementation.
pub fn encode(dtype: DType, value: f32, overflow: Overflow) -> u8 {
    let (Some(layout), Some(table)) = (layout(dtype), decode_table(dtype)) else { return 0 };
    let sign = if value.is_sign_negative() { layout.sign_bit() } else { 0 };
    if value.is_nan() {
        return match (layout.nan(), layout.top) {
            (Some(nan), Top::Unsigned0) => nan,
            (Some(nan), _) => nan | sign,
            (None, _) => layout.sign_bit(),
        };
    }
    let magnitude = f64::from(value.abs());
    let (max, last) = (layout.max_code(), f64::from(table[usize::from(layout.max_code())]));
    let step = last - f64::from(table[usize::from(max - 1)]);
    // The first number that would round to beyond the largest one: half a step up (a tie goes to the even neighbour,
    // which the largest is only if its code is even).
    let edge = last + step / 2.0;
    let beyond = magnitude > edge || (magnitude == edge && max % 2 == 1) || value.is_infinite();
    if beyond {
        return match (overflow, layout.top) {
            (Overflow::Saturate, _) | (_, Top::None) => max | sign,
            (Overflow::Special, Top::Ieee) => (max + 1) | sign,
            (Overflow::Special, Top::Finite) => (layout.sign_bit() - 1) | sign,
            (Overflow::Special, Top::Unsigned0) => layout.sign_bit(),
        };
    }
    let positive = &table[..=usize::from(max)];
    let above = positive.partition_point(|&candidate| f64::from(candidate) < magnitude);
    let code = match (above.checked_sub(1), positive.get(above)) {
        (None, _) => 0,
        (Some(below), None) => below,
        (Some(below), Some(&high)) => {
            let (down, up) = (magnitude - f64::from(positive[below]), f64::from(high) - magnitude);
            if down < up || (down == up && below % 2 == 0) { below } else { above }
        }
    };
    if code == 0 && layout.top == Top::Unsigned0 { 0 } else { code as u8 | sign }
}

/// Unpacks `count` codes of `bits` bits, low bits first, one a byte. Missing bytes read as zero.
pub fn unpack(bytes: &[u8], bits: usize, count: usize) -> Vec<u8> {
    if bits == 8 {
        return bytes.iter().copied().take(count).collect();
    }
    let mask = ((1u16 << bits) - 1) as u8;
    let byte = |at: usize| u16::from(bytes.get(at).copied().unwrap_or(0));
    (0..count)
        .map(|at| {
            let bit = at * bits;
            let pair = byte(bit / 8) | (byte(bit / 8 + 1) << 8);
            (pair >> (bit % 8)) as u8 & mask
        })
        .collect()
}

/// Packs codes of `bits` bits, low bits first; the last byte is filled up with zeros.
pub fn pack(codes: &[u8], bits: usize) -> Vec<u8> {
    if bits == 8 {
        return codes.to_vec();
    }
    let mut bytes = vec![0u8; (codes.len() * bits).div_ceil(8)];
    let mask = (1u16 << bits) - 1;
    for (at, &code) in codes.iter().enumerate() {
        let bit = at * bits;
        let pair = (u16::from(code) & mask) << (bit % 8);
        bytes[bit / 8] |= pair as u8;
        if bit % 8 + bits > 8 {
            bytes[bit / 8 + 1] |= (pair >> 8) as u8;
        }
    }
    bytes
}

/// A code of `bits` bits as a signed number.
pub fn sign_extend(code: u8, bits: usize) -> i8 {
    let shift = 8 - bits.min(8);
    ((code << shift) as i8) >> shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_every_small_float_round_trips() {
        for &dtype in DType::ALL {
            let Some(table) = decode_table(dtype).filter(|_| dtype != DType::F8E8M0) else { continue };
            for code in 0..=((1u16 << dtype.bits()) - 1) as u8 {
                let value = table[usize::from(code)];
                let back = encode(dtype, value, Overflow::Special);
                assert!(
                    table[usize::from(back)].to_bits() == value.to_bits() || value.is_nan(),
                    "{dtype} {code}"
                );
            }
        }
    }

    #[test]
    fn ends_of_the_ranges_are_those_of_the_specification() {
        let max = |dtype| {
            decode_table(dtype).unwrap().iter().copied().filter(|v| v.is_finite()).fold(0.0, f32::max)
        };
        assert_eq!(max(DType::F8E4M3FN), 448.0);
        assert_eq!(max(DType::F8E4M3FNUZ), 240.0);
        assert_eq!(max(DType::F8E5M2), 57344.0);
        assert_eq!(max(DType::F8E5M2FNUZ), 57344.0);
        assert_eq!(max(DType::F4E2M1), 6.0);
        assert_eq!(max(DType::F6E2M3), 7.5);
        assert_eq!(max(DType::F6E3M2), 28.0);
    }

    #[test]
    fn packing_is_low_bits_first() {
        assert_eq!(pack(&[1, 2, 3], 4), [0x21, 0x03]);
        assert_eq!(pack(&[0, 1, 2, 3, 1], 2), [0b1110_0100, 1]);
        for bits in [2, 4, 6, 8] {
            let codes: Vec<u8> = (0..13u16).map(|c| (c % (1 << bits)) as u8).collect();
            assert_eq!(unpack(&pack(&codes, bits), bits, codes.len()), codes);
        }
    }
}
