//! What is asked for: bits, block, zero point, type of the scales.

use serde::{Deserialize, Serialize};

use super::WeightError;
use crate::round::ScaleType;

/// Width of an integer code. Three bits are stored in four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Bits {
    /// 0..=3
    Two,
    /// 0..=7, stored as four bits
    Three,
    /// 0..=15
    Four,
    /// 0..=255
    Eight,
}

impl Bits {
    /// The width that the codes use.
    pub fn width(self) -> u32 {
        match self {
            Self::Two => 2,
            Self::Three => 3,
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    /// The width a code takes in a file.
    pub fn stored(self) -> u32 {
        if self == Self::Three { 4 } else { self.width() }
    }

    /// The greatest code; the least is 0.
    pub fn max_code(self) -> u8 {
        (u8::MAX) >> (8 - self.width())
    }

    /// The zero point of symmetric codes, 2^(width - 1).
    pub fn center(self) -> u8 {
        1 << (self.width() - 1)
    }
}

impl TryFrom<u8> for Bits {
    type Error = WeightError;
    fn try_from(bits: u8) -> Result<Self, WeightError> {
        match bits {
            2 => Ok(Self::Two),
            3 => Ok(Self::Three),
            4 => Ok(Self::Four),
            8 => Ok(Self::Eight),
            _ => Err(WeightError::Option { what: "bits", must: "2, 3, 4 or 8", found: bits.to_string() }),
        }
    }
}

impl From<Bits> for u8 {
    fn from(bits: Bits) -> u8 {
        bits.width() as u8
    }
}

/// How many consecutive columns share one scale. The last block of a row may be shorter; blocks never cross rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Block {
    /// That many columns.
    Columns(usize),
    /// One scale a row (per output channel).
    Row,
}

impl Block {
    /// Columns of one block for rows of `cols`: at least 1, at most `cols`.
    pub fn columns(self, cols: usize) -> Result<usize, WeightError> {
        match self {
            Self::Columns(0) => {
                Err(WeightError::Option { what: "block", must: "at least 1", found: "0".into() })
            }
            Self::Columns(n) => Ok(n),
            Self::Row => Ok(cols),
        }
    }
}

/// Where zero lies among the codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Zero {
    /// Always at [`Bits::center`]; no zero points are stored.
    Center,
    /// An integer zero point per block.
    PerBlock,
}

/// What a weight is quantized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Width of the codes.
    pub bits: Bits,
    /// Columns that share a scale.
    pub block: Block,
    /// Symmetric or with zero points.
    pub zero: Zero,
    /// The float type that stores the scales. Codes are chosen for the scale as stored.
    #[serde(default)]
    pub scale: ScaleType,
}

impl Spec {
    /// Four bits, `block` columns, zero points, f32 scales.
    pub fn int4(block: usize) -> Self {
        Self { bits: Bits::Four, block: Block::Columns(block), zero: Zero::PerBlock, scale: ScaleType::F32 }
    }

    /// The same, symmetric.
    pub fn symmetric(self) -> Self {
        Self { zero: Zero::Center, ..self }
    }

    /// The same at another width.
    pub fn with_bits(self, bits: Bits) -> Self {
        Self { bits, ..self }
    }
}
