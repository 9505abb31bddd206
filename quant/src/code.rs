//! The quantized element types: width, codes, names. The names are ONNX's own, lower case (`int8`, `float8e4m3fn`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A quantized element type of ONNX (IR 14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum CodeType {
    #[serde(rename = "int2")]
    I2,
    #[serde(rename = "uint2")]
    U2,
    #[serde(rename = "int4")]
    I4,
    #[serde(rename = "uint4")]
    U4,
    #[serde(rename = "int8")]
    I8,
    #[serde(rename = "uint8")]
    U8,
    #[serde(rename = "int16")]
    I16,
    #[serde(rename = "uint16")]
    U16,
    #[serde(rename = "int32")]
    I32,
    #[serde(rename = "float8e4m3fn")]
    F8E4M3FN,
    #[serde(rename = "float8e4m3fnuz")]
    F8E4M3FNUZ,
    #[serde(rename = "float8e5m2")]
    F8E5M2,
    #[serde(rename = "float8e5m2fnuz")]
    F8E5M2FNUZ,
    #[serde(rename = "float6e2m3")]
    F6E2M3,
    #[serde(rename = "float6e3m2")]
    F6E3M2,
    #[serde(rename = "float4e2m1")]
    F4E2M1,
}

impl CodeType {
    /// All of them, narrow integers first.
    pub const ALL: &'static [CodeType] = &[
        Self::I2,
        Self::U2,
        Self::I4,
        Self::U4,
        Self::I8,
        Self::U8,
        Self::I16,
        Self::U16,
        Self::I32,
        Self::F8E4M3FN,
        Self::F8E4M3FNUZ,
        Self::F8E5M2,
        Self::F8E5M2FNUZ,
        Self::F6E2M3,
        Self::F6E3M2,
        Self::F4E2M1,
    ];

    /// Width of one code in bits.
    pub fn bits(self) -> u32 {
        match self {
            Self::I2 | Self::U2 => 2,
            Self::I4 | Self::U4 | Self::F4E2M1 => 4,
            Self::F6E2M3 | Self::F6E3M2 => 6,
            Self::I8 | Self::U8 => 8,
            Self::F8E4M3FN | Self::F8E4M3FNUZ | Self::F8E5M2 | Self::F8E5M2FNUZ => 8,
            Self::I16 | Self::U16 => 16,
            Self::I32 => 32,
        }
    }

    /// Whether codes are small floats instead of integers.
    pub fn is_float(self) -> bool {
        self.int_range().is_none()
    }

    /// Whether negative codes exist.
    pub fn is_signed(self) -> bool {
        !matches!(self, Self::U2 | Self::U4 | Self::U8 | Self::U16)
    }

    /// Least and greatest integer code; `None` for float codes. This is the range QuantizeLinear saturates to.
    pub fn int_range(self) -> Option<(i32, i32)> {
        Some(match self {
            Self::I2 => (-2, 1),
            Self::U2 => (0, 3),
            Self::I4 => (-8, 7),
            Self::U4 => (0, 15),
            Self::I8 => (-128, 127),
            Self::U8 => (0, 255),
            Self::I16 => (-32768, 32767),
            Self::U16 => (0, 65535),
            Self::I32 => (i32::MIN, i32::MAX),
            _ => return None,
        })
    }

    /// Greatest finite value a code stands for at scale 1 and zero point 0.
    pub fn max_value(self) -> f32 {
        match self {
            Self::F8E4M3FN => 448.0,
            Self::F8E4M3FNUZ => 240.0,
            Self::F8E5M2 | Self::F8E5M2FNUZ => 57344.0,
            Self::F6E2M3 => 7.5,
            Self::F6E3M2 => 28.0,
            Self::F4E2M1 => 6.0,
            _ => self.int_range().map_or(0.0, |(_, hi)| hi as f32),
        }
    }

    /// ONNX's name in lower case, as users type it.
    pub fn name(self) -> &'static str {
        match self {
            Self::I2 => "int2",
            Self::U2 => "uint2",
            Self::I4 => "int4",
            Self::U4 => "uint4",
            Self::I8 => "int8",
            Self::U8 => "uint8",
            Self::I16 => "int16",
            Self::U16 => "uint16",
            Self::I32 => "int32",
            Self::F8E4M3FN => "float8e4m3fn",
            Self::F8E4M3FNUZ => "float8e4m3fnuz",
            Self::F8E5M2 => "float8e5m2",
            Self::F8E5M2FNUZ => "float8e5m2fnuz",
            Self::F6E2M3 => "float6e2m3",
            Self::F6E3M2 => "float6e3m2",
            Self::F4E2M1 => "float4e2m1",
        }
    }
}

impl fmt::Display for CodeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CodeType {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        let lower = s.to_ascii_lowercase();
        Self::ALL.iter().copied().find(|c| c.name() == lower).ok_or_else(|| Error::UnknownName {
            what: "code type",
            name: s.to_string(),
            known: Self::ALL.iter().map(|c| c.name()).collect::<Vec<_>>().join(", "),
        })
    }
}
