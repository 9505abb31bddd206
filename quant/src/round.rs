//! Rounding. Everything that becomes a code is rounded half to even, as ONNX's QuantizeLinear says.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// Adding and subtracting 1.5·2^23 rounds an f32 of magnitude ≤ 2^22 to the nearest integer, ties to even, in two
/// additions that every SIMD unit has (`roundps` needs SSE4.1, which the baseline x86-64 target does not promise).
pub const MAGIC: f32 = 12_582_912.0;

/// Rounds half to even. Exact for |v| ≤ 2^22; callers clamp first. NaN stays NaN.
#[inline(always)]
pub fn round_small(v: f32) -> f32 {
    (v + MAGIC) - MAGIC
}

/// Rounds half to even to an i32, saturating; NaN gives 0. Reference for every faster form.
pub fn round_i32(v: f64) -> i32 {
    v.round_ties_even() as i32
}

/// The float type that a scale is stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScaleType {
    /// float
    #[default]
    F32,
    /// float16
    F16,
    /// bfloat16
    Bf16,
    /// Powers of two only (FLOAT8E8M0, fixed-point targets). Rounds *up*, so that the range still fits.
    PowerOfTwo,
}

impl ScaleType {
    /// The least positive scale of this type that is allowed: its smallest normal number, so that no runtime that
    /// flushes subnormals to zero divides by zero.
    pub fn min_scale(self) -> f32 {
        match self {
            Self::F32 | Self::Bf16 | Self::PowerOfTwo => f32::MIN_POSITIVE,
            Self::F16 => f16::MIN_POSITIVE.to_f32(),
        }
    }

    /// The greatest finite scale of this type.
    pub fn max_scale(self) -> f32 {
        match self {
            Self::F32 => f32::MAX,
            Self::F16 => f16::MAX.to_f32(),
            Self::Bf16 => bf16::MAX.to_f32(),
            Self::PowerOfTwo => 2f32.powi(127),
        }
    }

    /// The scale of this type nearest to `scale` (half to even; up for powers of two), kept within
    /// `min_scale..=max_scale`. `None` if `scale` is NaN or not positive.
    pub fn round(self, scale: f64) -> Option<f32> {
        if scale.is_nan() || scale <= 0.0 {
            return None;
        }
        let rounded = match self {
            Self::F32 => scale as f32,
            Self::F16 => f16::from_f64(scale).to_f32(),
            Self::Bf16 => bf16::from_f64(scale).to_f32(),
            Self::PowerOfTwo => {
                // The exponent of the f32 at or above `scale`; exact, where log2 and ceil are not.
                let f = scale.clamp(f32::MIN_POSITIVE as f64, f32::MAX as f64) as f32;
                let floor = f32::from_bits(f.to_bits() & 0x7f80_0000);
                if (floor as f64) < scale { floor * 2.0 } else { floor }
            }
        };
        Some(rounded.clamp(self.min_scale(), self.max_scale()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_equals_ties_even() {
        for i in -4000..=4000 {
            for f in [0.0, 0.25, 0.5, 0.75, 0.49999997, 0.50000006] {
                let v = i as f32 + f;
                assert_eq!(round_small(v), v.round_ties_even(), "{v}");
            }
        }
        for v in [4194304.0f32, -4194304.0, 4194303.5, -4194303.5, 65535.5, 32767.5] {
            assert_eq!(round_small(v), v.round_ties_even(), "{v}");
        }
    }

    #[test]
    fn scales_stay_in_their_type() {
        assert_eq!(ScaleType::F16.round(1e-9), Some(f16::MIN_POSITIVE.to_f32()));
        assert_eq!(ScaleType::F16.round(1e9), Some(65504.0));
        assert_eq!(ScaleType::F32.round(1e300), Some(f32::MAX));
        assert_eq!(ScaleType::F32.round(f64::INFINITY), Some(f32::MAX));
        assert_eq!(ScaleType::F32.round(1e-300), Some(f32::MIN_POSITIVE));
        assert_eq!(ScaleType::PowerOfTwo.round(0.25), Some(0.25));
        assert_eq!(ScaleType::PowerOfTwo.round(0.2500001), Some(0.5));
        assert_eq!(ScaleType::PowerOfTwo.round(1.0 - 1e-12), Some(1.0));
        assert_eq!(ScaleType::PowerOfTwo.round(f64::MAX), Some(2f32.powi(127)));
        assert_eq!(ScaleType::F32.round(0.0), None);
        assert_eq!(ScaleType::F32.round(f64::NAN), None);
        assert_eq!(ScaleType::Bf16.round(0.1), Some(bf16::from_f64(0.1).to_f32()));
    }
}
