//! Sub-byte storage as ONNX defines it: elements in row-major order, low bits first, the last byte filled with zeros.
//!
//! Codes travel unpacked, one a byte: signed types as `i8` seen as `u8` (two's complement, only the low bits count),
//! unsigned and float types as their bits. Golden bytes: the ONNX specification of INT4, UINT4, INT2, UINT2,
//! FLOAT4E2M1, checked against bytes that the `onnx` package writes.

use crate::code::CodeType;
use crate::error::{Error, check_len};

/// Codes of `bits` that share one byte, for the widths that pack: 4 for 2 bits, 2 for 4 bits, 1 for 8 bits.
fn per_byte(bits: u32) -> Result<usize, Error> {
    match bits {
        2 => Ok(4),
        4 => Ok(2),
        8 => Ok(1),
        _ => Err(Error::Parameter { what: "packed width", must: "2, 4 or 8 bits", found: bits.to_string() }),
    }
}

/// Bytes that `count` codes of `bits` take: ⌈count·bits/8⌉. For 2, 4 and 8 bits.
pub fn packed_len(count: usize, bits: u32) -> Result<usize, Error> {
    Ok(count.div_ceil(per_byte(bits)?))
}

/// Packs codes (one a byte, only the low `bits` used) low bits first; the unused bits of the last byte are zero.
/// `out` must have [`packed_len`] bytes.
pub fn pack_into(codes: &[u8], bits: u32, out: &mut [u8]) -> Result<(), Error> {
    check_len("packed bytes", packed_len(codes.len(), bits)?, out.len())?;
    match bits {
        2 => {
            for (o, c) in out.iter_mut().zip(codes.chunks(4)) {
                *o = c.iter().rev().fold(0, |byte, &code| (byte << 2) | (code & 3));
            }
        }
        4 => {
            let (pairs, rest) = codes.as_chunks::<2>();
            for (o, [low, high]) in out.iter_mut().zip(pairs) {
                *o = (low & 15) | (high << 4);
            }
            if let ([code], Some(o)) = (rest, out.last_mut()) {
                *o = code & 15;
            }
        }
        _ => out.copy_from_slice(codes),
    }
    Ok(())
}

/// [`pack_into`] with a new buffer.
pub fn pack(codes: &[u8], bits: u32) -> Result<Vec<u8>, Error> {
    let mut out = vec![0; packed_len(codes.len(), bits)?];
    pack_into(codes, bits, &mut out)?;
    Ok(out)
}

/// Unpacks `out.len()` codes, zero extended. `bytes` must have exactly [`packed_len`] bytes.
pub fn unpack_into(bytes: &[u8], bits: u32, out: &mut [u8]) -> Result<(), Error> {
    let n = per_byte(bits)?;
    check_len("packed bytes", packed_len(out.len(), bits)?, bytes.len())?;
    let mask = ((1u32 << bits) - 1) as u8;
    for (o, &byte) in out.chunks_mut(n).zip(bytes) {
        for (i, code) in o.iter_mut().enumerate() {
            *code = (byte >> (i as u32 * bits)) & mask;
        }
    }
    Ok(())
}

/// Unpacks `count` unsigned codes.
pub fn unpack(bytes: &[u8], bits: u32, count: usize) -> Result<Vec<u8>, Error> {
    check_len("packed bytes", packed_len(count, bits)?, bytes.len())?; // before allocating `count`
    let mut out = vec![0; count];
    unpack_into(bytes, bits, &mut out)?;
    Ok(out)
}

/// Unpacks `count` signed codes (sign extended two's complement).
pub fn unpack_signed(bytes: &[u8], bits: u32, count: usize) -> Result<Vec<i8>, Error> {
    let shift = 8u32.saturating_sub(bits);
    Ok(unpack(bytes, bits, count)?.into_iter().map(|c| ((c << shift) as i8) >> shift).collect())
}

/// Packs integer codes as ONNX stores a tensor of `code` in `raw_data`, after checking that each fits. Sub-byte types
/// are packed, 16- and 32-bit codes little-endian. For float codes give their bits as the integers.
pub fn to_raw(codes: &[i32], code: CodeType) -> Result<Vec<u8>, Error> {
    let (lo, hi) = code.int_range().unwrap_or_else(|| (0, (1 << code.bits()) - 1));
    if let Some((index, &value)) = codes.iter().enumerate().find(|&(_, c)| *c < lo || *c > hi) {
        return Err(Error::CodeRange { index, value, code });
    }
    match code.bits() {
        bits @ (2 | 4 | 8) => pack(&codes.iter().map(|&c| c as u8).collect::<Vec<_>>(), bits),
        16 => Ok(codes.iter().flat_map(|&c| (c as u16).to_le_bytes()).collect()),
        32 => Ok(codes.iter().flat_map(|&c| c.to_le_bytes()).collect()),
        _ => Err(Error::CodeType { what: "raw storage", code }),
    }
}

/// Reads `count` codes from `raw_data` bytes; the inverse of [`to_raw`].
pub fn from_raw(bytes: &[u8], code: CodeType, count: usize) -> Result<Vec<i32>, Error> {
    let signed_int = code.is_signed() && !code.is_float();
    match code.bits() {
        bits @ (2 | 4 | 8) if signed_int => {
            Ok(unpack_signed(bytes, bits, count)?.into_iter().map(i32::from).collect())
        }
        bits @ (2 | 4 | 8) => Ok(unpack(bytes, bits, count)?.into_iter().map(i32::from).collect()),
        16 => {
            check_len("bytes of 16-bit codes", count.saturating_mul(2), bytes.len())?;
            let (pairs, _) = bytes.as_chunks::<2>();
            let read = |b: &[u8; 2]| {
                if signed_int { i32::from(i16::from_le_bytes(*b)) } else { i32::from(u16::from_le_bytes(*b)) }
            };
            Ok(pairs.iter().map(read).collect())
        }
        32 => {
            check_len("bytes of 32-bit codes", count.saturating_mul(4), bytes.len())?;
            let (quads, _) = bytes.as_chunks::<4>();
            Ok(quads.iter().map(|b| i32::from_le_bytes(*b)).collect())
        }
        _ => Err(Error::CodeType { what: "raw storage", code }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        // Written by the onnx package (1.22): helper.make_tensor(...).raw_data.
        let cases: &[(CodeType, &[i32], &[u8])] = &[
            (CodeType::I4, &[-8, -1, 7, 1, 3], &[0xf8, 0x17, 0x03]),
            (CodeType::U4, &[1, 2, 3, 4, 15], &[0x21, 0x43, 0x0f]),
            (CodeType::I2, &[-2, -1, 0, 1, 1], &[0x4e, 0x01]),
            (CodeType::U2, &[0, 1, 2, 3, 1], &[0xe4, 0x01]),
            // 0.5, -1, 6, 3, 2 as E2M1 bits
            (CodeType::F4E2M1, &[0x1, 0xa, 0x7, 0x5, 0x4], &[0xa1, 0x57, 0x04]),
            (CodeType::I16, &[-2, 513], &[0xfe, 0xff, 0x01, 0x02]),
            (CodeType::U16, &[65535, 258], &[0xff, 0xff, 0x02, 0x01]),
            (CodeType::I32, &[-2], &[0xfe, 0xff, 0xff, 0xff]),
        ];
        for (code, codes, bytes) in cases {
            assert_eq!(&to_raw(codes, *code).unwrap(), bytes, "{code}");
            assert_eq!(&from_raw(bytes, *code, codes.len()).unwrap(), codes, "{code}");
        }
    }

    #[test]
    fn wrong_lengths_and_codes_are_errors() {
        assert!(unpack(&[0, 0], 4, 5).is_err());
        assert!(unpack(&[0, 0, 0, 0], 4, 5).is_err());
        assert!(unpack(&[], 4, usize::MAX).is_err());
        assert!(pack(&[1], 3).is_err());
        assert!(matches!(to_raw(&[0, 8], CodeType::I4), Err(Error::CodeRange { index: 1, value: 8, .. })));
        assert!(to_raw(&[-1], CodeType::U8).is_err());
        assert!(from_raw(&[1, 2, 3], CodeType::I16, 1).is_err());
        assert!(pack(&[], 4).unwrap().is_empty());
    }
}
