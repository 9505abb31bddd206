//! Blocks side by side, one in each lane of the registers.

use super::ladder::{larger, smaller};
use crate::weight::isa::per_isa;

/// Blocks that are searched side by side.
pub(super) const LANES: usize = 16;

/// One number for each block of a batch.
pub(super) type Lanes = [f32; LANES];

/// Blocks of equal length, as the search sees them: each times a power of two that brings its largest magnitude into
/// [1, 2), column by column.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) values: Vec<Lanes>,
    pub(super) importance: Vec<f32>,
    /// Least and greatest number of each block, and zero.
    pub(super) lo: Lanes,
    pub(super) hi: Lanes,
    pub(super) factor: Lanes,
}

/// Where blocks of `length` numbers are: each starts `stride` after the one before.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    pub(super) data: &'a [f32],
    pub(super) stride: usize,
    pub(super) count: usize,
    pub(super) length: usize,
}

impl Batch {
    /// Only ratios of an importance count; its sums are kept in range whatever its unit. All zeros: none.
    pub(super) fn weigh(&mut self, importance: Option<&[f32]>) {
        self.importance.clear();
        if let Some(i) = importance {
            let largest = i.iter().fold(0.0f32, |a, &v| a.max(v));
            if largest > 0.0 {
                self.importance.extend(i.iter().map(|v| v * (1.0 / largest)));
            }
        }
    }

    /// Lanes without a block hold zeros.
    pub(super) fn load(&mut self, blocks: Blocks<'_>) {
        self.values.clear();
        self.values.resize(blocks.length, [0.0; LANES]);
        for (lane, block) in blocks.data.chunks(blocks.stride.max(1)).take(blocks.count).enumerate() {
            for (values, &v) in self.values.iter_mut().zip(block) {
                values[lane % LANES] = v;
            }
        }
        normalize(self);
    }
}

#[inline(always)]
fn normalize_body(batch: &mut Batch) {
    let (mut lo, mut hi) = ([0.0f32; LANES], [0.0f32; LANES]);
    for v in &batch.values {
        for l in 0..LANES {
            lo[l] = smaller(v[l], lo[l]);
            hi[l] = larger(v[l], hi[l]);
        }
    }
    let mut factor = [1.0; LANES];
    for l in 0..LANES {
        factor[l] = normal(lo[l], hi[l]);
    }
    for v in &mut batch.values {
        for l in 0..LANES {
            v[l] *= factor[l];
        }
    }
    (batch.lo, batch.hi, batch.factor) = (lo, hi, factor);
}

per_isa! { fn normalize(batch: &mut Batch) = normalize_body }

/// The power of two that brings the larger magnitude into [1, 2), as far as it is a normal number.
#[inline(always)]
fn normal(lo: f32, hi: f32) -> f32 {
    let exponent = (larger(hi, -lo).to_bits() >> 23) as i32 - 127;
    let inverse = (-exponent).clamp(-126, 126);
    f32::from_bits(((inverse + 127) as u32) << 23)
}
