//! Byte layouts: how quantized weights lie in the tensors of a runtime. Packing and unpacking, exactly inverse.
//!
//! | file | tensor form | codes | packed along |
//! |---|---|---|---|
//! | [`nbits`] | `com.microsoft::MatMulNBits` | unsigned 2, 4, 8 bits, low bits first | K, a blob per block |
//! | [`blocked`] | `DequantizeLinear` with `block_size`, or per axis | INT2/4/8, UINT2/4/8, low bits first | flat |
//! | [`bnb4`] | `com.microsoft::MatMulBnb4` | NF4, FP4, *high* nibble first | flat `[N, K]` |
//! | [`gather`] | `com.microsoft::GatherBlockQuantized` | INT4/UINT4 flat, UINT8 packed | flat, or a row |
//!
//! Three-bit codes are stored in four bits: with zero points as they are, symmetric ones moved to the wider centre.

pub mod blocked;
pub mod bnb4;
pub mod gather;
pub mod nbits;

use crate::Error;
use crate::weight::{Bits, Quantized};

/// What a code must be raised by so that a symmetric grid's zero lies at the stored width's centre.
fn center_shift(q: &Quantized) -> u8 {
    match (q.spec.bits, &q.zero_points) {
        (Bits::Three, None) => 8 - Bits::Three.center(),
        _ => 0,
    }
}

fn bits_of(stored: u32) -> Result<Bits, Error> {
    match stored {
        2 => Ok(Bits::Two),
        4 => Ok(Bits::Four),
        8 => Ok(Bits::Eight),
        _ => Err(Error::Parameter { what: "bits", must: "2, 4 or 8", found: stored.to_string() }),
    }
}

/// A block size that the contrib operators take (a power of two from 16 to 256) and how often each of the weight's
/// scales is repeated for it. Longer blocks, and one scale a row, are cut into equal shorter ones: the same numbers.
fn contrib_block(q: &Quantized) -> Result<(usize, usize), Error> {
    let per_row = q.cols <= q.block;
    let block = if per_row {
        q.cols.next_power_of_two().clamp(16, 256)
    } else {
        1 << q.block.trailing_zeros().min(8)
    };
    if block < 16 {
        return Err(Error::Parameter {
            what: "block",
            must: "a multiple of 16, or one block a row",
            found: q.block.to_string(),
        });
    }
    Ok((block, if per_row { q.cols.div_ceil(block) } else { q.block / block }))
}

/// Per-block values `[rows, blocks]`, each repeated `times`, cut to `per_row` values a row.
fn repeat<T: Copy>(values: &[T], blocks: usize, times: usize, per_row: usize) -> Vec<T> {
    let row =
        |r: &[T]| r.iter().flat_map(|&v| std::iter::repeat_n(v, times)).take(per_row).collect::<Vec<_>>();
    values.chunks(blocks.max(1)).flat_map(row).collect()
}

/// `out[c * rows + r] = f(input[r * cols + c])`, in tiles that stay in cache.
fn transpose<T: Copy>(input: &[T], rows: usize, cols: usize, out: &mut [T], f: impl Fn(T) -> T) {
    const TILE: usize = 64;
    for r0 in (0..rows).step_by(TILE) {
        for c0 in (0..cols).step_by(TILE) {
            for c in c0..(c0 + TILE).min(cols) {
                let out = &mut out[c * rows + r0..c * rows + (r0 + TILE).min(rows)];
                for (o, r) in out.iter_mut().zip(r0..) {
                    *o = f(input[r * cols + c]);
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use crate::round::ScaleType;
    use crate::weight::testing::Random;
    use crate::weight::{Bits, Block, Quantized, Spec, Weight, Zero, rtn::rtn};

    /// A quantized matrix with ugly blocks: rows of zeros, one-signed rows, ragged ends.
    pub fn sample(rows: usize, cols: usize, bits: Bits, block: Block, zero: Zero, seed: u64) -> Quantized {
        let mut random = Random::new(seed);
        let w: Vec<f32> = (0..rows * cols)
            .map(|i| match (i / cols) % 5 {
                0 => 0.0,
                1 => random.uniform() as f32 + 0.5,
                2 => -(random.uniform() as f32) - 0.5,
                _ => random.normal() as f32,
            })
            .collect();
        rtn(
            &Weight::from_rows(&w[..], rows, cols).unwrap(),
            &Spec { bits, block, zero, scale: ScaleType::F32 },
        )
        .unwrap()
    }
}
