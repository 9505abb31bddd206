//! Which forms a runtime reads, and runs fast.
//!
//! | profile | product | table | widths | zero points | blocks |
//! |---|---|---|---|---|---|
//! | `ort-cpu>=1.20` | MatMulNBits | GatherBlockQuantized (int4) | 4 | yes | any |
//! | `ort-cpu>=1.23` | MatMulNBits | GatherBlockQuantized (bytes) | 4, 8 | yes | any |
//! | `ort-cpu>=1.27` | MatMulNBits | GatherBlockQuantized (bytes) | 2, 4, 8 | yes | any |
//! | `openvino` | DequantizeLinear `[K, N]` | DequantizeLinear | 4, 8 | yes | of 16, 32, ... that divide K; or 8 bits a row |
//! | `tensorrt` | DequantizeLinear `[K, N]` | float | 4, 8 | no: it refuses other than 0 | 64 or 128 of 4 bits; or 8 bits a row |
//! | `tract` | int8 per channel | int8 per row | 8 | no | a row |
//! | `plain` | DequantizeLinear `[K, N]` | DequantizeLinear | 2, 4, 8 | yes | any |
//!
//! The versions are measured (`compare/layouts.py`, `compare/profiles.py`): 8 bits from 1.23, 2 bits from 1.24 with integer
//! zero points. Each reader of a weight gets a DequantizeLinear of its own, because runtimes fuse only those. Where a runtime
//! lacks the blocks asked for, [`Profile::fit`] gives the nearest that it has.

use quant::weight::{Bits, Block};

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

/// Which blocks of columns a runtime reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// Any; the last one of a row may be shorter.
    Any,
    /// Those that divide the columns, of 16, 32, 48, ...: blocks of 43 came out as NaN (OpenVINO 2026.4). Where there are none, one
    /// scale a row, of 8 bits.
    Dividing,
    /// At 4 bits one of these, if it divides the columns; otherwise one scale a row, of 8 bits.
    Listed(&'static [usize]),
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
    /// Blocks that it has.
    pub blocks: Blocks,
}

use Bits::{Eight, Four, Two};

const ORT: Profile = Profile {
    name: "ort-cpu>=1.27",
    product: ProductForm::NBits,
    rows: RowsForm::GatherBytes,
    widths: &[Two, Four, Eight],
    zero_points: true,
    pointwise: true,
    blocks: Blocks::Any,
};

const PLAIN: Profile = Profile {
    name: "plain",
    product: ProductForm::Blocked,
    rows: RowsForm::Dequantize,
    widths: &[Two, Four, Eight],
    zero_points: true,
    pointwise: true,
    blocks: Blocks::Any,
};

/// Every profile, the newest version of a runtime first.
pub const PROFILES: &[Profile] = &[
    ORT,
    Profile { name: "ort-cpu>=1.23", widths: &[Four, Eight], ..ORT },
    Profile { name: "ort-cpu>=1.20", widths: &[Four], rows: RowsForm::GatherInt4, ..ORT },
    Profile { name: "openvino", widths: &[Four, Eight], blocks: Blocks::Dividing, ..PLAIN },
    Profile {
        name: "tensorrt",
        rows: RowsForm::Float,
        widths: &[Four, Eight],
        zero_points: false,
        pointwise: false,
        blocks: Blocks::Listed(&[64, 128]),
        ..PLAIN
    },
    Profile {
        name: "tract",
        product: ProductForm::PerChannel,
        rows: RowsForm::PerRow,
        widths: &[Eight],
        zero_points: false,
        pointwise: true,
        blocks: Blocks::Any,
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

    /// The width and the block nearest to what is asked for that the runtime reads in rows of `cols`.
    pub fn fit(&self, bits: Bits, block: Block, cols: usize) -> (Bits, Block) {
        let Block::Columns(asked) = block else {
            return match self.blocks {
                Blocks::Listed(_) => (Bits::Eight, Block::Row),
                _ => (bits, block),
            };
        };
        let near = |found: usize| found.max(asked) as f64 / found.min(asked).max(1) as f64;
        let nearest = |found: &mut dyn Iterator<Item = usize>| {
            found.filter(|&b| b > 0 && cols.is_multiple_of(b)).min_by(|&a, &b| near(a).total_cmp(&near(b)))
        };
        match self.blocks {
            Blocks::Any => (bits, block),
            Blocks::Dividing if asked >= cols => (bits, block),
            // Twice as long or half as long is another quality or another size: then rather 8 bits and a scale a row.
            Blocks::Dividing => {
                let like = asked.div_ceil(2)..=asked.saturating_mul(2).min(cols);
                match nearest(&mut like.filter(|block| block.is_multiple_of(16))) {
                    Some(found) => (bits, Block::Columns(found)),
                    None => (Bits::Eight, Block::Row),
                }
            }
            // A block that is a whole row would be stored as a scale a row.
            Blocks::Listed(list) => match nearest(&mut list.iter().copied().filter(|&block| block < cols)) {
                Some(found) if bits.stored() == 4 => (bits, Block::Columns(found)),
                _ => (Bits::Eight, Block::Row),
            },
        }
    }

    /// The widths in words.
    pub fn widths_told(&self) -> String {
        let widths: Vec<String> = self.widths.iter().map(|bits| bits.width().to_string()).collect();
        widths.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_a_runtime_has() {
        let fit =
            |name: &str, bits, block, cols| profile(name).unwrap().fit(bits, Block::Columns(block), cols);
        assert_eq!(fit("ort-cpu", Four, 32, 172), (Four, Block::Columns(32)));
        assert_eq!(fit("openvino", Four, 32, 64), (Four, Block::Columns(32)));
        assert_eq!(fit("openvino", Four, 32, 80), (Four, Block::Columns(16)));
        // 172 = 4 * 43
        assert_eq!(fit("openvino", Four, 32, 172), (Eight, Block::Row));
        assert_eq!(fit("openvino", Eight, 256, 64), (Eight, Block::Columns(256)), "one block covers the row");
        assert_eq!(fit("tensorrt", Four, 32, 4096), (Four, Block::Columns(64)));
        assert_eq!(fit("tensorrt", Four, 128, 4096), (Four, Block::Columns(128)));
        assert_eq!(fit("tensorrt", Four, 32, 172), (Eight, Block::Row));
        assert_eq!(fit("tensorrt", Four, 32, 64), (Eight, Block::Row));
        assert_eq!(fit("tensorrt", Eight, 32, 4096), (Eight, Block::Row));
        assert_eq!(profile("tensorrt").unwrap().fit(Four, Block::Row, 64), (Eight, Block::Row));
    }
}
