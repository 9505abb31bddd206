//! Counting numbers by bin: a pass that turns them into keys, and a small table that counts keys.
//!
//! The table has four places for each key: with one place, runs of equal keys wait for each other, and activations are full
//! of them. A store for each number is what bounds it, about one a cycle; so while the keys of a chunk are [`Waiting`] to be
//! counted, the next chunk is scanned and turned into keys, which takes other parts of the processor. Zeros, which Relu makes
//! by the million, have no bin and are counted by vectors; with AVX-512 their keys are squeezed out, else they go to places
//! past the keys that nobody reads, a different one for each position.

use super::lanes::Bounds;
use crate::range::histogram::{HALF, Histogram};

/// Numbers handled at a time, 8 KiB: they, their keys and the table stay in the first-level cache. A multiple of the lanes.
pub(super) const CHUNK: usize = 2048;
/// Below this length, going through the table costs more than it saves.
const SMALL: usize = 1024;
const COPIES: usize = 4;
/// Each copy counts a quarter of a chunk, so this many chunks fit into 16 bits.
const CHUNKS_PER_FLUSH: usize = 127;
/// Keys of numbers other than zero: bin i is key i on the positive side, `HALF + i` on the negative one.
const KEYS: usize = 2 * HALF;
/// Places, a power of two; those past the keys are for zeros.
const TABLE: usize = 2 * KEYS;
/// Keys of zeros.
const ZEROS: usize = 16;

/// Keys of a chunk. Longer, since the processor takes a store for one that a load must wait for if they are a page apart.
type Keys = [u16; CHUNK + CHUNK / 2];
type Table = [[u16; COPIES]; TABLE];

/// What was counted and has not reached the histogram yet.
pub(super) struct Tally {
    table: Table,
    /// Of the chunk at hand and of the one before, in turn.
    keys: [Keys; 2],
    /// Which keys are the latest, how many they are, and how many of them the table has.
    latest: usize,
    made: usize,
    counted: usize,
    /// In the table or waiting.
    chunks: usize,
    /// Bins in use on each side.
    reach: usize,
    negative: bool,
}

impl Tally {
    pub(super) fn new() -> Self {
        let (table, keys) = ([[0; COPIES]; TABLE], [[0; CHUNK + CHUNK / 2]; 2]);
        Self { table, keys, latest: 0, made: 0, counted: 0, chunks: 0, reach: 0, negative: false }
    }

    /// What can be counted while the next numbers are looked at.
    pub(super) fn waiting(&mut self) -> Waiting<'_> {
        let keys = &self.keys[self.latest][self.counted..self.made];
        Waiting { keys, counted: &mut self.counted, table: &mut self.table }
    }

    /// Counts finite numbers that reach no farther than `bounds`; the zeros among them. `next` is what will be counted next.
    pub(super) fn count(
        &mut self,
        x: &[f32],
        next: &[f32],
        bounds: Bounds,
        histogram: &mut Histogram,
    ) -> u64 {
        let exponent = Histogram::exponent_for(bounds.magnitude);
        if exponent > histogram.exponent() {
            self.flush(histogram);
            histogram.grow(exponent);
        }
        let exponent = histogram.exponent();
        let reach = Histogram::key(bounds.magnitude, exponent) as usize + 1;
        let mut zeros = 0;
        for x in x.chunks(CHUNK) {
            let [a, b] = &mut self.keys;
            let (before, keys) = if self.latest == 0 { (a, b) } else { (b, a) };
            let before = &before[self.counted..self.made];
            let mut waiting = Waiting { keys: before, counted: &mut self.counted, table: &mut self.table };
            let made = to_keys(x, next, exponent, keys, &mut waiting);
            waiting.add_all();
            zeros += (x.len() - made.numbers) as u64;
            if x.len() < SMALL && self.chunks == 0 {
                for &key in keys[..made.len].iter().filter(|key| usize::from(**key) < KEYS) {
                    let key = i32::from(key);
                    histogram.add(if key < HALF as i32 { key } else { !(key - HALF as i32) }, 1);
                }
                continue;
            }
            (self.latest, self.made, self.counted) = (1 - self.latest, made.len, 0);
            self.reach = self.reach.max(reach);
            self.negative |= bounds.negative;
            self.chunks += 1;
            if self.chunks == CHUNKS_PER_FLUSH {
                self.flush(histogram);
            }
        }
        zeros
    }

    /// Moves the table's counts into the histogram.
    pub(super) fn flush(&mut self, histogram: &mut Histogram) {
        if std::mem::take(&mut self.chunks) == 0 {
            return;
        }
        self.waiting().add_all();
        let reach = std::mem::take(&mut self.reach);
        let (positive, negative) = self.table.split_at_mut(HALF);
        pour(&mut positive[..reach], histogram.positive_mut(reach));
        if std::mem::take(&mut self.negative) {
            pour(&mut negative[..reach], histogram.negative_mut(reach));
        }
    }
}

/// How many keys were made, and how many of them are of numbers other than zero.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Made {
    len: usize,
    numbers: usize,
}

/// Keys that the table lacks.
pub(super) struct Waiting<'a> {
    keys: &'a [u16],
    counted: &'a mut usize,
    table: &'a mut Table,
}

impl Waiting<'_> {
    /// Counts eight keys, every fourth in the same place: a loop over sixteen numbers that does so twice has time to.
    #[inline(always)]
    pub(super) fn add_some(&mut self) {
        if let Some((group, rest)) = self.keys.split_first_chunk::<8>() {
            group.iter().enumerate().for_each(|(at, &key)| self.add(key, at));
            self.keys = rest;
            *self.counted += 8;
        }
    }

    /// Counts all that are left.
    fn add_all(&mut self) {
        let left = std::mem::take(&mut self.keys);
        left.iter().enumerate().for_each(|(at, &key)| self.add(key, at));
        *self.counted += left.len();
    }

    #[inline(always)]
    fn add(&mut self, key: u16, at: usize) {
        // SAFETY: keys of numbers are below KEYS, those of zeros below KEYS + ZEROS, as both ways of making them see to.
        let count = unsafe { &mut self.table.get_unchecked_mut(usize::from(key))[at % COPIES] };
        // Keys cannot wrap: flushed in time. Zeros may.
        *count = count.wrapping_add(1);
    }
}

/// The keys of a chunk, while others are counted. All |x| < HALF·2^exponent.
fn to_keys(x: &[f32], next: &[f32], exponent: i32, keys: &mut Keys, waiting: &mut Waiting<'_>) -> Made {
    let x = &x[..x.len().min(CHUNK)];
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("popcnt") {
        // SAFETY: the processor has both.
        let made = unsafe { squeezed_keys(x, next, exponent, keys, waiting) };
        return Made { len: made, numbers: made };
    }
    next.chunks(16).take(CHUNK / 16).for_each(fetch);
    let zeros = spread_keys(x, exponent, &mut keys[..x.len()]);
    Made { len: x.len(), numbers: x.len() - zeros as usize }
}

crate::dispatch! {
    /// A key for each number; how many are zeros.
    fn spread_keys, spread_keys_avx2 = spread_keys_body(x: &[f32], exponent: i32, keys: &mut [u16]) -> u32
}
crate::dispatch! {
    /// Empties places into bins.
    fn pour, pour_avx2 = pour_body(places: &mut [[u16; COPIES]], bins: &mut [u64])
}

/// The reciprocal of a bin's width. Exponents are in -126..=117, so it is a normal float and products with it are exact (or
/// below 1).
#[inline(always)]
fn inverse(exponent: i32) -> f32 {
    f32::from_bits(((127 - exponent) as u32) << 23)
}

#[inline(always)]
fn spread_keys_body(x: &[f32], exponent: i32, keys: &mut [u16]) -> u32 {
    let inverse = inverse(exponent);
    let mut zeros = 0u32;
    for (i, (k, &v)) in (0u16..).zip(keys.iter_mut().zip(x)) {
        // SAFETY: |v| < HALF·2^exponent is finite, so the product is within i32.
        let bin: i32 = unsafe { (v.abs() * inverse).to_int_unchecked() };
        // The remainder changes nothing; counting relies on it.
        let key = (bin | (v.to_bits() >> 20 & HALF as u32) as i32) as u16 % KEYS as u16;
        *k = if v == 0.0 { KEYS as u16 + i % ZEROS as u16 } else { key };
        zeros = zeros.wrapping_add(u32::from(v == 0.0));
    }
    zeros
}

/// Keys of the numbers other than zero, in order; how many there are.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,popcnt")]
fn squeezed_keys(
    x: &[f32],
    next: &[f32],
    exponent: i32,
    keys: &mut Keys,
    waiting: &mut Waiting<'_>,
) -> usize {
    use std::arch::x86_64::*;

    let inverse = _mm512_set1_ps(inverse(exponent));
    let magnitude = _mm512_set1_epi32(0x7fff_ffff);
    let half = _mm512_set1_epi32(HALF as i32);
    // Changes nothing; counting relies on it.
    let keys_only = _mm512_set1_epi32(KEYS as i32 - 1);
    let mut made = 0;
    let mut take = |v: __m512| {
        let bits = _mm512_castps_si512(v);
        let size = _mm512_castsi512_ps(_mm512_and_si512(bits, magnitude));
        let bin = _mm512_cvttps_epi32(_mm512_mul_ps(size, inverse));
        let sign = _mm512_and_si512(_mm512_srli_epi32::<20>(bits), half);
        let others = _mm512_test_epi32_mask(bits, magnitude);
        let key = _mm512_and_si512(_mm512_or_si512(bin, sign), keys_only);
        let key = _mm512_maskz_compress_epi32(others, key);
        // SAFETY: no more keys were made than numbers taken, which are sixteen at a time and fewer than a chunk before this
        // turn; a chunk is a multiple of sixteen, so there are as many places left.
        unsafe { _mm256_storeu_si256(keys.as_mut_ptr().add(made).cast(), _mm512_cvtepi32_epi16(key)) };
        made += others.count_ones() as usize;
    };
    let (groups, rest) = x.as_chunks::<16>();
    // The pass that reads them first would wait for memory.
    let mut lines = next.chunks(16);
    for group in groups {
        // SAFETY: sixteen numbers are read.
        take(unsafe { _mm512_loadu_ps(group.as_ptr()) });
        lines.next().into_iter().for_each(fetch);
        waiting.add_some();
    }
    if !rest.is_empty() {
        // SAFETY: only as many numbers are read as there are; the others count as zeros.
        take(unsafe { _mm512_maskz_loadu_ps((1 << rest.len()) - 1, rest.as_ptr()) });
    }
    made
}

/// Tells the processor that this line of its cache will be read.
#[inline(always)]
fn fetch(line: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, without effect on what is computed; SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

#[inline(always)]
fn pour_body(places: &mut [[u16; COPIES]], bins: &mut [u64]) {
    for (bin, place) in bins.iter_mut().zip(places) {
        // All four counts in one word: pairs of them, then both pairs.
        let word: u64 = bytemuck::cast(std::mem::take(place));
        let pairs = (word & PAIRS) + (word >> 16 & PAIRS);
        *bin = bin.saturating_add((pairs & u64::from(u32::MAX)) + (pairs >> 32));
    }
}

/// Every second 16 bits.
const PAIRS: u64 = 0x0000_ffff_0000_ffff;

#[cfg(test)]
mod tests {
    use super::*;

    /// What processors without AVX-512, or without AVX2, run counts the same.
    #[test]
    fn every_compilation_agrees() {
        for len in [0, 1, 15, 16, 17, 1003, CHUNK] {
            let number = |i: usize| if i.is_multiple_of(3) { 0.0 } else { (i * 7919 % 2003) as f32 - 1000.0 };
            let x: Vec<f32> = (0..len).map(number).collect();
            let (mut a, mut b, mut c) = ([0; CHUNK + CHUNK / 2], [0; CHUNK], [0; CHUNK]);
            let mut table = [[0; COPIES]; TABLE];
            let mut waiting = Waiting { keys: &[3; 100], counted: &mut 0, table: &mut table };
            let made = to_keys(&x, &x, 0, &mut a, &mut waiting);
            waiting.add_all();
            assert_eq!((*waiting.counted, table[3]), (100, [25; 4]));
            let zeros = spread_keys(&x, 0, &mut b[..len]);
            assert_eq!(zeros, spread_keys_body(&x, 0, &mut c[..len]));
            assert_eq!(b, c);
            assert_eq!(made.numbers, len - zeros as usize);
            let numbers = |keys: &[u16]| -> Vec<u16> {
                keys.iter().copied().filter(|key| usize::from(*key) < KEYS).collect()
            };
            assert_eq!(numbers(&a[..made.len]), numbers(&b[..len]), "{len}");
        }
        let full = [[u16::MAX; COPIES]; 3];
        let (mut a, mut b) = (full, full);
        let (mut bins, mut others) = ([1, u64::MAX - 5, 0], [1, u64::MAX - 5, 0]);
        pour(&mut a, &mut bins);
        pour_body(&mut b, &mut others);
        assert_eq!((a, bins), ([[0; COPIES]; 3], [4 * 65_535 + 1, u64::MAX, 4 * 65_535]));
        assert_eq!((b, others), (a, bins));
    }
}
