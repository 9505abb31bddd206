//! Counting a slice of activations: what [`Sketch::observe`](super::Sketch::observe) does, plainly and fast.
//!
//! The fast form works on chunks that stay in the first-level cache: one pass for extrema, zeros and moments, one that
//! turns numbers into bin keys, one that counts keys in a small table with four places for each key (with one place, runs
//! of equal keys wait for each other, and activations are full of them). Sums go to sixteen lanes by position and are folded in a fixed order,
//! so that the result is the same for every vector width.

use std::cell::RefCell;

use super::histogram::{HALF, Histogram};

/// What one slice adds to a sketch, apart from the histogram, which is updated in place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observed {
    /// NaN seen.
    pub nan: u64,
    /// +Inf seen.
    pub pos_inf: u64,
    /// -Inf seen.
    pub neg_inf: u64,
    /// Zeros of either sign seen.
    pub zeros: u64,
    /// Least finite number; +Inf if none.
    pub lo: f32,
    /// Greatest finite number; -Inf if none.
    pub hi: f32,
    /// Sum of the finite numbers, in f64, in a fixed order.
    pub sum: f64,
    /// Sum of their squares, likewise.
    pub sum_sq: f64,
}

const LANES: usize = 16;
/// Numbers handled at a time; 16 KiB.
const CHUNK: usize = 4096;
/// Below this length, going through the table costs more than it saves.
const SMALL: usize = 1024;
const COPIES: usize = 4;
/// Each copy counts a quarter of a chunk, so this many chunks fit into 16 bits.
const CHUNKS_PER_FLUSH: usize = 63;
/// Keys of numbers other than zero.
const KEYS: usize = 2 * HALF;
/// Zeros, which Relu makes by the million, are counted in the scan. Here they go to places past the keys that nobody
/// reads, a different one for each position: counting them all in one place would wait for the previous store each time.
const TABLE: usize = 2 * KEYS;

/// State of one call.
struct Call {
    out: Observed,
    sum: [f64; LANES],
    sum_sq: [f64; LANES],
}

impl Call {
    fn new() -> Self {
        let out = Observed {
            nan: 0,
            pos_inf: 0,
            neg_inf: 0,
            zeros: 0,
            lo: f32::INFINITY,
            hi: f32::NEG_INFINITY,
            sum: 0.0,
            sum_sq: 0.0,
        };
        Self { out, sum: [0.0; LANES], sum_sq: [0.0; LANES] }
    }

    fn finish(mut self) -> Observed {
        // `+ 0.0` turns -0.0 into 0.0: which zero came first must not show.
        self.out.lo += 0.0;
        self.out.hi += 0.0;
        self.out.sum = self.sum.iter().sum();
        self.out.sum_sq = self.sum_sq.iter().sum();
        self.out
    }

    /// One number at a time. `x` starts at a multiple of the lanes.
    fn plain(&mut self, x: &[f32], histogram: &mut Histogram) {
        for (i, &v) in x.iter().enumerate() {
            if v.is_nan() {
                self.out.nan += 1;
            } else if v.is_infinite() {
                *(if v > 0.0 { &mut self.out.pos_inf } else { &mut self.out.neg_inf }) += 1;
            } else {
                self.out.lo = self.out.lo.min(v);
                self.out.hi = self.out.hi.max(v);
                let wide = f64::from(v);
                self.sum[i % LANES] += wide;
                self.sum_sq[i % LANES] += wide * wide;
                if v == 0.0 {
                    self.out.zeros += 1;
                } else {
                    histogram.grow(Histogram::exponent_for(v));
                    histogram.add(Histogram::key(v, histogram.exponent()), 1);
                }
            }
        }
    }
}

/// Counts `x` into `histogram`, one number at a time. The reference for [`observe`].
pub fn observe_ref(x: &[f32], histogram: &mut Histogram) -> Observed {
    let mut call = Call::new();
    call.plain(x, histogram);
    call.finish()
}

/// Counts `x` into `histogram`; equal to [`observe_ref`] to the bit.
pub fn observe(x: &[f32], histogram: &mut Histogram) -> Observed {
    let mut call = Call::new();
    SCRATCH.with_borrow_mut(|scratch| {
        let mut pending = Pending::default();
        for chunk in x.chunks(CHUNK) {
            let scan = scan(chunk, &mut call.sum, &mut call.sum_sq);
            if !scan.finite {
                call.plain(chunk, histogram_after(&mut pending, scratch, histogram));
                continue;
            }
            let (lo, hi) = (scan.lo, scan.hi);
            call.out.lo = call.out.lo.min(lo);
            call.out.hi = call.out.hi.max(hi);
            call.out.zeros += u64::from(scan.zeros);
            let exponent = Histogram::exponent_for(lo.abs().max(hi.abs()));
            if exponent > histogram.exponent() {
                histogram_after(&mut pending, scratch, histogram).grow(exponent);
            }
            let exponent = histogram.exponent();
            let keys = &mut scratch.keys[..chunk.len()];
            to_keys(chunk, exponent, keys);
            if chunk.len() < SMALL && pending.chunks == 0 {
                let seen = keys.iter().zip(chunk).filter(|(_, v)| **v != 0.0);
                seen.for_each(|(&k, _)| histogram.add(i32::from(k) - HALF as i32, 1));
                continue;
            }
            count(keys, &mut scratch.table);
            pending.cover(Histogram::key(lo, exponent).min(-1), Histogram::key(hi, exponent).max(0));
            pending.chunks += 1;
            if pending.chunks == CHUNKS_PER_FLUSH {
                histogram_after(&mut pending, scratch, histogram);
            }
        }
        histogram_after(&mut pending, scratch, histogram);
    });
    call.finish()
}

struct Scratch {
    table: [[u16; COPIES]; TABLE],
    keys: [u16; CHUNK],
}

thread_local! {
    static SCRATCH: RefCell<Box<Scratch>> =
        RefCell::new(Box::new(Scratch { table: [[0; COPIES]; TABLE], keys: [0; CHUNK] }));
}

/// What the table hold that the histogram does not have yet.
#[derive(Default)]
struct Pending {
    chunks: usize,
    first: i32,
    last: i32,
}

impl Pending {
    fn cover(&mut self, first: i32, last: i32) {
        self.first = self.first.min(first);
        self.last = self.last.max(last);
    }
}

/// Moves the table' counts into the histogram and hands it out.
fn histogram_after<'a>(
    pending: &mut Pending,
    scratch: &mut Scratch,
    histogram: &'a mut Histogram,
) -> &'a mut Histogram {
    let p = std::mem::take(pending);
    if p.chunks > 0 {
        let range = (p.first + HALF as i32) as usize..=(p.last + HALF as i32) as usize;
        let counts =
            scratch.table[range].iter_mut().map(|c| std::mem::take(c).into_iter().map(u64::from).sum());
        histogram.add_keys(p.first, counts);
    }
    histogram
}

/// Extrema and zeros of a chunk; `finite` false means nothing else is valid.
struct Scan {
    finite: bool,
    lo: f32,
    hi: f32,
    zeros: u32,
}

crate::dispatch! {
    /// Extrema, zeros and, if all numbers are finite, sums by lane.
    fn scan, scan_avx2 = scan_body(x: &[f32], sum: &mut [f64; LANES], sum_sq: &mut [f64; LANES]) -> Scan
}
crate::dispatch! {
    /// Bin keys shifted to be non-negative. All |x| < HALF·2^exponent.
    fn to_keys, to_keys_avx2 = to_keys_body(x: &[f32], exponent: i32, keys: &mut [u16])
}

#[inline(always)]
fn scan_body(x: &[f32], sum: &mut [f64; LANES], sum_sq: &mut [f64; LANES]) -> Scan {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let (mut lo, mut hi) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let mut zeros = [0u32; LANES];
    let mut odd = [0u32; LANES];
    let mut each = |c: &[f32], n: usize| {
        for i in 0..n {
            let (v, bits) = (c[i], c[i].to_bits());
            lo[i] = if v < lo[i] { v } else { lo[i] };
            hi[i] = if v > hi[i] { v } else { hi[i] };
            zeros[i] += u32::from(v == 0.0);
            odd[i] |= u32::from(bits & 0x7f80_0000 == 0x7f80_0000);
        }
    };
    for c in chunks {
        each(c, LANES);
    }
    each(rest, rest.len());
    let finite = odd.iter().all(|b| *b == 0);
    if finite {
        for c in chunks {
            for i in 0..LANES {
                let v = f64::from(c[i]);
                sum[i] += v;
                sum_sq[i] += v * v;
            }
        }
        for (i, &v) in rest.iter().enumerate() {
            let v = f64::from(v);
            sum[i] += v;
            sum_sq[i] += v * v;
        }
    }
    Scan {
        finite,
        lo: lo.into_iter().fold(f32::INFINITY, f32::min),
        hi: hi.into_iter().fold(f32::NEG_INFINITY, f32::max),
        zeros: zeros.iter().sum(),
    }
}

#[inline(always)]
fn to_keys_body(x: &[f32], exponent: i32, keys: &mut [u16]) {
    // exponent is in -126..=117, so the reciprocal is a normal float and the product exact (or below 1).
    let inverse = f32::from_bits(((127 - exponent) as u32) << 23);
    for (i, (k, &v)) in (0u16..).zip(keys.iter_mut().zip(x)) {
        // SAFETY: |v| < HALF·2^exponent is finite, so the product is within i32.
        let places: i32 = unsafe { (v * inverse).to_int_unchecked() };
        let key = (places + (v.to_bits() as i32 >> 31) + HALF as i32) as u16;
        *k = if v == 0.0 { KEYS as u16 + i % 16 } else { key };
    }
}

/// Counts keys, every fourth in the same place.
fn count(keys: &[u16], table: &mut [[u16; COPIES]; TABLE]) {
    // Keys cannot wrap: flushed in time. Zeros may.
    let mut inc = |key: u16, copy: usize| {
        let c = &mut table[usize::from(key) % TABLE][copy];
        *c = c.wrapping_add(1);
    };
    let (quads, rest) = keys.as_chunks::<COPIES>();
    for q in quads {
        q.iter().enumerate().for_each(|(copy, &key)| inc(key, copy));
    }
    rest.iter().for_each(|&k| inc(k, 0));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What processors without AVX2 run gives the same bits.
    #[test]
    fn both_compilations_agree() {
        let x: Vec<f32> = (0..1003).map(|i| ((i * 7919) % 2003) as f32 * 0.37 - 300.0).collect();
        let mut sums = [[[0.0; LANES]; 2]; 2];
        let [[a, b], [c, d]] = &mut sums;
        let (s, t) = (scan(&x, a, b), scan_body(&x, c, d));
        assert_eq!((s.lo, s.hi, s.zeros, s.finite), (t.lo, t.hi, t.zeros, t.finite));
        assert_eq!(sums[0], sums[1]);
        let (mut k, mut l) = ([0; 1003], [0; 1003]);
        to_keys(&x, 0, &mut k);
        to_keys_body(&x, 0, &mut l);
        assert_eq!(k, l);
    }
}
