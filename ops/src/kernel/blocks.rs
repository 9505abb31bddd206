//! Weights stored in blocks of few bits, as the operators of com.microsoft lay them out, back to numbers.

/// Zero points of [`NBits`].
#[derive(Clone, Copy, Debug)]
pub enum Zeros<'a> {
    /// The middle of the codes: `2^(bits - 1)`.
    Middle,
    /// Codes packed as the weights are, each row padded to whole bytes.
    Packed(&'a [u8]),
    /// Numbers `[N, blocks]`, not necessarily whole.
    Numbers(&'a [f32]),
}

/// A weight `[N, K]` in blocks along K: `w = (code - zero) * scale`.
///
/// Codes are unsigned, `[N, blocks, block * bits / 8]` bytes, low bits first; the last block is padded to its full size.
#[derive(Clone, Copy, Debug)]
pub struct NBits<'a> {
    /// Input features.
    pub k: usize,
    /// Output features.
    pub n: usize,
    /// Elements of a block.
    pub block: usize,
    /// 2, 4 or 8.
    pub bits: usize,
    /// Packed codes.
    pub codes: &'a [u8],
    /// `[N, blocks]`.
    pub scales: &'a [f32],
    /// Zero points.
    pub zeros: Zeros<'a>,
    /// The block that each input feature takes its scale and zero point from; by position if none.
    pub groups: Option<&'a [usize]>,
}

/// Code `at` of a row of packed codes.
fn code(row: &[u8], at: usize, bits: usize) -> u8 {
    let per_byte = 8 / bits;
    let byte = row.get(at / per_byte).copied().unwrap_or(0);
    (byte >> (at % per_byte * bits)) & (0xff >> (8 - bits))
}

impl NBits<'_> {
    /// Blocks of a row.
    pub fn blocks(&self) -> usize {
        self.k.div_ceil(self.block)
    }

    /// Bytes of a row of codes.
    pub fn row_bytes(&self) -> usize {
        self.blocks() * self.block * self.bits / 8
    }

    /// Bytes of a row of packed zero points.
    pub fn zero_bytes(&self) -> usize {
        (self.blocks() * self.bits).div_ceil(8)
    }

    fn check(&self) -> Result<(), String> {
        let (n, blocks) = (self.n, self.blocks());
        let expect = |what: &str, expected: usize, found: usize| match expected == found {
            true => Ok(()),
            false => Err(format!("{what}: expected {expected}, found {found}")),
        };
        expect("bytes of codes", n * self.row_bytes(), self.codes.len())?;
        expect("scales", n * blocks, self.scales.len())?;
        match self.zeros {
            Zeros::Middle => {}
            Zeros::Packed(bytes) => expect("bytes of zero points", n * self.zero_bytes(), bytes.len())?,
            Zeros::Numbers(numbers) => expect("zero points", n * blocks, numbers.len())?,
        }
        match self.groups {
            Some(groups) if groups.len() != self.k || groups.iter().any(|&group| group >= blocks) => {
                Err(format!("groups: expected {} below {blocks}", self.k))
            }
            _ => Ok(()),
        }
    }

    /// The weight `[N, K]`, row-major; an error says what does not fit.
    pub fn weights(&self) -> Result<Vec<f32>, String> {
        self.check()?;
        let blocks = self.blocks();
        let mut out = Vec::with_capacity(self.n * self.k);
        for row in 0..self.n {
            let codes = &self.codes[row * self.row_bytes()..][..self.row_bytes()];
            let zero = |block: usize| match self.zeros {
                Zeros::Middle => (1u32 << (self.bits - 1)) as f32,
                Zeros::Numbers(numbers) => numbers[row * blocks + block],
                Zeros::Packed(bytes) => {
                    f32::from(code(&bytes[row * self.zero_bytes()..][..self.zero_bytes()], block, self.bits))
                }
            };
            let zeros: Vec<f32> = (0..blocks).map(zero).collect();
            let scales = &self.scales[row * blocks..][..blocks];
            out.extend((0..self.k).map(|at| {
                let block = self.groups.map_or(at / self.block, |groups| groups[at]);
                (f32::from(code(codes, at, self.bits)) - zeros[block]) * scales[block]
            }));
        }
        Ok(out)
    }
}

/// The 16 numbers of bitsandbytes' NF4: quantiles of a normal distribution.
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The 16 numbers of bitsandbytes' FP4; the upper half is negative.
pub const FP4: [f32; 16] = [
    0.0,
    0.005_208_333_3,
    0.666_666_7,
    1.0,
    0.333_333_34,
    0.5,
    0.166_666_67,
    0.25,
    0.0,
    -0.005_208_333_3,
    -0.666_666_7,
    -1.0,
    -0.333_333_34,
    -0.5,
    -0.166_666_67,
    -0.25,
];

/// `count` numbers of a table, two codes a byte with the first in the high bits, scaled by the greatest magnitude of each
/// block of the flat order. An error says what does not fit.
pub fn table_blocks(
    bytes: &[u8],
    table: &[f32; 16],
    most: &[f32],
    count: usize,
    block: usize,
) -> Result<Vec<f32>, String> {
    if bytes.len() != count.div_ceil(2) || block == 0 || most.len() != count.div_ceil(block) {
        return Err(format!("{} bytes and {} blocks for {count} weights", bytes.len(), most.len()));
    }
    let number = |at: usize| {
        let byte = bytes[at / 2];
        let code = if at.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
        table[usize::from(code)] * most[at / block]
    };
    Ok((0..count).map(number).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_bits_first_and_rows_padded() {
        // K = 20 in blocks of 16: the second block of each row holds 4 codes and padding.
        let codes: Vec<u8> = (0..2)
            .flat_map(|_| [0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe, 0x21, 0x43, 9, 9, 9, 9, 9, 9])
            .collect();
        let bits = NBits {
            k: 20,
            n: 2,
            block: 16,
            bits: 4,
            codes: &codes,
            scales: &[1.0, 2.0, 1.0, -1.0],
            zeros: Zeros::Packed(&[0x21, 0x00]),
            groups: None,
        };
        let weights = bits.weights().unwrap();
        assert_eq!(weights[..3], [-1.0, 0.0, 1.0]);
        assert_eq!(weights[16..20], [-2.0, 0.0, 2.0, 4.0]);
        assert_eq!(weights[36..], [-1.0, -2.0, -3.0, -4.0]);
        assert!(NBits { n: 3, ..bits }.weights().is_err());
    }

    #[test]
    fn tables_put_the_first_code_high() {
        let weights = table_blocks(&[0xf7, 0x0f], &NF4, &[2.0, 4.0], 3, 2).unwrap();
        assert_eq!(weights, [2.0, 0.0, -4.0]);
        assert!(table_blocks(&[0xf7], &NF4, &[2.0], 3, 2).is_err());
    }
}
