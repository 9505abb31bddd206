//! Which forms a runtime reads, and runs fast.
//!
//! | profile | product | table | widths | zero points |
//! |---|---|---|---|---|
//! | `ort-cpu>=1.20` | MatMulNBits | GatherBlockQuantized (int4) | 4 | yes |
//! | `ort-cpu>=1.23` | MatMulNBits | GatherBlockQuantized (bytes) | 4, 8 | yes |
//! | `ort-cpu>=1.27` | MatMulNBits | GatherBlockQuantized (bytes) | 2, 4, 8 | yes |
//! | `openvino` | DequantizeLinear `[K, N]` | DequantizeLinear | 4, 8 | yes |
//! | `tensorrt` | DequantizeLinear `[K, N]` | float | 4, 8 | no: it refuses other zero points than 0 |
//! | `tract` | int8 per channel | int8 per row | 8 | no |
//! | `plain` | DequantizeLinear `[K, N]` | DequantizeLinear | 2, 4, 8 | yes |
//!
//! The versions are measured (`compare/layouts.py`): 8 bits from 1.23, 2 bits from 1.24 with integer zero points. Each
//! reader of a weight gets a DequantizeLinear of its own, because runtimes fuse only those.

use quant::weight::Bits;

/// How a runtime reads the weight of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProductForm {
    /// `com.microsoft::MatMulNBits` (and MatMulBnb4 for tables of values).
    NBits,
    /// `DequantizeLinear` of `[K, N]` with blocks along axis 0, per axis where a block covers a row.
    Blocked,
    /// `DequantizeLinear` of int8 with one scale a channel.
    PerChannel,
}

/// How a runtime reads rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsForm {
    /// `com.microsoft::GatherBlockQuantized` over INT4 or UINT4.
    GatherInt4,
    /// The same over bytes that hold 2, 4 or 8 bits.
    GatherBytes,
    /// `Gather(DequantizeLinear(table))`.
    Dequantize,
    /// `Cast(Gather(codes)) * Gather(scales)`: int8, one scale a row.
    PerRow,
    /// Tables stay float.
    Float,
}

/// What a runtime of some version on reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The name that users type.
    pub name: &'static str,
    /// Weights of products.
    pub product: ProductForm,
    /// Tables.
    pub rows: RowsForm,
    /// Widths that it has.
    pub widths: &'static [Bits],
    /// Zero points other than the centre.
    pub zero_points: bool,
    /// 1×1 convolutions too.
    pub pointwise: bool,
}

use Bits::{Eight, Four, Two};

const ORT: Profile = Profile {
    name: "ort-cpu>=1.27",
    product: ProductForm::NBits,
    rows: RowsForm::GatherBytes,
    widths: &[Two, Four, Eight],
    zero_points: true,
    pointwise: true,
};

const PLAIN: Profile = Profile {
    name: "plain",
    product: ProductForm::Blocked,
    rows: RowsForm::Dequantize,
    widths: &[Two, Four, Eight],
    zero_points: true,
    pointwise: true,
};

/// Every profile, the newest version of a runtime first.
pub const PROFILES: &[Profile] = &[
    ORT,
    Profile { name: "ort-cpu>=1.23", widths: &[Four, Eight], ..ORT },
    Profile { name: "ort-cpu>=1.20", widths: &[Four], rows: RowsForm::GatherInt4, ..ORT },
    Profile { name: "openvino", widths: &[Four, Eight], ..PLAIN },
    Profile {
        name: "tensorrt",
        rows: RowsForm::Float,
        widths: &[Four, Eight],
        zero_points: false,
        pointwise: false,
        ..PLAIN
    },
    Profile {
        name: "tract",
        product: ProductForm::PerChannel,
        rows: RowsForm::PerRow,
        widths: &[Eight],
        zero_points: false,
        pointwise: true,
    },
    PLAIN,
];

/// The profile of a name; a runtime's bare name means its newest version.
pub fn profile(name: &str) -> Option<Profile> {
    let exact = PROFILES.iter().find(|profile| profile.name == name);
    let newest = || PROFILES.iter().find(|profile| profile.name.split(">=").next() == Some(name));
    exact.or_else(newest).copied()
}

impl Profile {
    /// The width that codes of `bits` take here; none if there is no such width.
    pub fn stores(&self, bits: Bits) -> Option<Bits> {
        let stored = if bits == Bits::Three { Bits::Four } else { bits };
        self.widths.contains(&stored).then_some(bits)
    }

    /// The widths in words.
    pub fn widths_told(&self) -> String {
        let widths: Vec<String> = self.widths.iter().map(|bits| bits.width().to_string()).collect();
        widths.join(", ")
    }
}
