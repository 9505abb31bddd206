//! Counting a slice of activations: what [`Sketch::observe`](super::Sketch::observe) does, plainly and fast.
//!
//! **What is computed.** A slice is read as `outer × channels × inner` numbers ([`Split`]; without channels, as one channel
//! of all). Extrema and sums are collected for each channel, and those of the whole slice are their folds in the order of
//! the channels: statistics by channel cost nothing beside those of the whole. A contiguous stretch of a channel is summed
//! in sixteen lanes by position, which are folded by halves; where channels lie side by side (`inner` is 1) each is summed
//! by itself, row after row. That order is the definition, so the result is the same for every vector width.
//!
//! **How.** The fast form works on pieces that stay in the first-level cache: a pass for the greatest magnitude (which also
//! finds NaN and Inf: such a piece is counted plainly), one for extrema and moments, one that turns numbers into bin keys,
//! one that counts keys in a small table with four places for each key (with one place, runs of equal keys wait for each
//! other, and activations are full of them).

use std::cell::RefCell;

use super::histogram::{HALF, Histogram};

/// What one slice adds to a sketch, apart from the histogram and the channels, which are updated in place.
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

impl Observed {
    fn new() -> Self {
        let (lo, hi) = (f32::INFINITY, f32::NEG_INFINITY);
        Self { nan: 0, pos_inf: 0, neg_inf: 0, zeros: 0, lo, hi, sum: 0.0, sum_sq: 0.0 }
    }

    /// Takes in what the channels saw, in their order.
    fn fold(&mut self, columns: &mut Columns) {
        for i in 0..columns.lo.len() {
            // `+ 0.0` turns -0.0 into 0.0: which zero came first must not show.
            columns.lo[i] += 0.0;
            columns.hi[i] += 0.0;
            self.lo = self.lo.min(columns.lo[i]);
            self.hi = self.hi.max(columns.hi[i]);
            self.sum += columns.sum[i];
            self.sum_sq += columns.sum_sq[i];
        }
    }
}

/// How a slice is divided into channels: `[outer, channels, inner]`, in row-major order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Split {
    /// Positions before the axis of the channels.
    pub outer: usize,
    /// Channels.
    pub channels: usize,
    /// Numbers of a channel that follow one another.
    pub inner: usize,
}

impl Split {
    /// All numbers in one channel.
    pub fn whole(len: usize) -> Self {
        Self { outer: 1, channels: 1, inner: len }
    }

    /// Channels lie side by side.
    fn is_rows(self) -> bool {
        self.inner == 1 && self.channels > 1
    }
}

/// Extrema and sums of the finite numbers of each channel.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    /// Least number; +Inf if there is none.
    pub lo: Vec<f32>,
    /// Greatest number; -Inf if there is none.
    pub hi: Vec<f32>,
    /// Sum.
    pub sum: Vec<f64>,
    /// Sum of the squares.
    pub sum_sq: Vec<f64>,
}

impl Columns {
    fn reset(&mut self, channels: usize) {
        fn fill<T: Clone>(column: &mut Vec<T>, channels: usize, with: T) {
            column.clear();
            column.resize(channels, with);
        }
        fill(&mut self.lo, channels, f32::INFINITY);
        fill(&mut self.hi, channels, f32::NEG_INFINITY);
        fill(&mut self.sum, channels, 0.0);
        fill(&mut self.sum_sq, channels, 0.0);
    }

    /// Adds a stretch that is complete.
    fn add(&mut self, channel: usize, lanes: &Lanes) {
        let (lo, hi, sum, sum_sq) = lanes.fold();
        self.lo[channel] = self.lo[channel].min(lo);
        self.hi[channel] = self.hi[channel].max(hi);
        self.sum[channel] += sum;
        self.sum_sq[channel] += sum_sq;
    }

    /// Adds one number of a channel.
    fn add_one(&mut self, channel: usize, v: f32) {
        let wide = f64::from(v);
        self.lo[channel] = self.lo[channel].min(v);
        self.hi[channel] = self.hi[channel].max(v);
        self.sum[channel] += wide;
        self.sum_sq[channel] += wide * wide;
    }
}

const LANES: usize = 16;

/// A stretch of one channel: the number at position i counts in lane i mod 16.
#[derive(Clone, Copy)]
struct Lanes {
    lo: [f32; LANES],
    hi: [f32; LANES],
    sum: [f64; LANES],
    sum_sq: [f64; LANES],
}

impl Lanes {
    fn new() -> Self {
        let (lo, hi) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        Self { lo, hi, sum: [0.0; LANES], sum_sq: [0.0; LANES] }
    }

    fn add_one(&mut self, lane: usize, v: f32) {
        let wide = f64::from(v);
        self.lo[lane] = self.lo[lane].min(v);
        self.hi[lane] = self.hi[lane].max(v);
        self.sum[lane] += wide;
        self.sum_sq[lane] += wide * wide;
    }

    #[inline(always)]
    fn fold(mut self) -> (f32, f32, f64, f64) {
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                self.lo[i] = least(self.lo[i + half], self.lo[i]);
                self.hi[i] = greatest(self.hi[i + half], self.hi[i]);
                self.sum[i] += self.sum[i + half];
                self.sum_sq[i] += self.sum_sq[i + half];
            }
            half /= 2;
        }
        (self.lo[0], self.hi[0], self.sum[0], self.sum_sq[0])
    }
}

/// One instruction each, where `f32::min` is three.
#[inline(always)]
fn least(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}
#[inline(always)]
fn greatest(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Counts one number apart from its channel; whether it is finite.
fn count_one(v: f32, out: &mut Observed, histogram: &mut Histogram) -> bool {
    if v.is_nan() {
        out.nan += 1;
    } else if v.is_infinite() {
        *(if v > 0.0 { &mut out.pos_inf } else { &mut out.neg_inf }) += 1;
    } else if v == 0.0 {
        out.zeros += 1;
    } else {
        histogram.grow(Histogram::exponent_for(v));
        histogram.add(Histogram::key(v, histogram.exponent()), 1);
    }
    v.is_finite()
}

/// Counts `x`, which has as many numbers as the split, into `histogram` and `columns`, one number at a time. The reference
/// for [`observe`].
pub fn observe_ref(x: &[f32], split: Split, histogram: &mut Histogram, columns: &mut Columns) -> Observed {
    let mut out = Observed::new();
    columns.reset(split.channels);
    if split.is_rows() {
        for (i, &v) in x.iter().enumerate() {
            if count_one(v, &mut out, histogram) {
                columns.add_one(i % split.channels, v);
            }
        }
    } else {
        for (run, stretch) in x.chunks(split.inner.max(1)).enumerate() {
            let mut lanes = Lanes::new();
            for (i, &v) in stretch.iter().enumerate() {
                if count_one(v, &mut out, histogram) {
                    lanes.add_one(i % LANES, v);
                }
            }
            columns.add(run % split.channels, &lanes);
        }
    }
    out.fold(columns);
    out
}

/// Numbers handled at a time; 16 KiB. A multiple of the lanes.
const CHUNK: usize = 4096;
/// Below this length, going through the table costs more than it saves.
const SMALL: usize = 1024;
const COPIES: usize = 4;
/// Each copy counts a quarter of a chunk, so this many chunks fit into 16 bits.
const CHUNKS_PER_FLUSH: usize = 63;
/// Keys of numbers other than zero.
const KEYS: usize = 2 * HALF;
/// Zeros, which Relu makes by the million, are counted apart. Here they go to places past the keys that nobody reads, a
/// different one for each position: counting them all in one place would wait for the previous store each time.
const TABLE: usize = 2 * KEYS;

/// Counts `x`, which has as many numbers as the split, into `histogram` and `columns`; equal to [`observe_ref`] to the bit.
pub fn observe(x: &[f32], split: Split, histogram: &mut Histogram, columns: &mut Columns) -> Observed {
    let mut out = Observed::new();
    columns.reset(split.channels);
    SCRATCH.with_borrow_mut(|scratch| {
        let mut call = Call { out: &mut out, histogram, columns, scratch, pending: Pending::default() };
        if split.is_rows() {
            let rows = (CHUNK / split.channels).max(1);
            for piece in x.chunks(rows * split.channels) {
                call.rows(piece, split.channels);
            }
        } else if split.inner >= CHUNK {
            for (run, stretch) in x.chunks(split.inner).enumerate() {
                let mut lanes = Lanes::new();
                stretch.chunks(CHUNK).for_each(|piece| call.stretch(piece, &mut lanes));
                call.columns.add(run % split.channels, &lanes);
            }
        } else if let Some(whole) = CHUNK.checked_div(split.inner) {
            for (i, piece) in x.chunks(whole * split.inner).enumerate() {
                call.stretches(piece, i * whole, split);
            }
        }
        call.flush();
    });
    out.fold(columns);
    out
}

struct Scratch {
    table: [[u16; COPIES]; TABLE],
    keys: [u16; CHUNK],
}

thread_local! {
    static SCRATCH: RefCell<Box<Scratch>> =
        RefCell::new(Box::new(Scratch { table: [[0; COPIES]; TABLE], keys: [0; CHUNK] }));
}

/// What the table holds that the histogram does not have yet.
#[derive(Default)]
struct Pending {
    chunks: usize,
    /// Bins in use on each side.
    reach: usize,
    negative: bool,
}

/// State of one call.
struct Call<'a> {
    out: &'a mut Observed,
    histogram: &'a mut Histogram,
    columns: &'a mut Columns,
    scratch: &'a mut Scratch,
    pending: Pending,
}

impl Call<'_> {
    /// Rows of numbers of as many channels.
    fn rows(&mut self, x: &[f32], channels: usize) {
        if self.count(x) {
            let c = &mut *self.columns;
            scan_rows(x, &mut c.lo, &mut c.hi, &mut c.sum, &mut c.sum_sq);
        } else {
            for (i, &v) in x.iter().enumerate() {
                if count_one(v, self.out, self.histogram) {
                    self.columns.add_one(i % channels, v);
                }
            }
        }
    }

    /// A part of a stretch that starts at a multiple of the lanes.
    fn stretch(&mut self, x: &[f32], lanes: &mut Lanes) {
        if self.count(x) {
            scan(x, lanes);
        } else {
            self.plainly(x, lanes);
        }
    }

    fn plainly(&mut self, x: &[f32], lanes: &mut Lanes) {
        for (i, &v) in x.iter().enumerate() {
            if count_one(v, self.out, self.histogram) {
                lanes.add_one(i % LANES, v);
            }
        }
    }

    /// Whole stretches, from number `first` on.
    fn stretches(&mut self, x: &[f32], first: usize, split: Split) {
        let counted = self.count(x);
        for (run, stretch) in (first..).zip(x.chunks(split.inner)) {
            let mut lanes = Lanes::new();
            if counted {
                scan(stretch, &mut lanes);
            } else {
                self.plainly(stretch, &mut lanes);
            }
            self.columns.add(run % split.channels, &lanes);
        }
    }

    /// Counts the numbers in the histogram, and zeros; false, and nothing is done, if not all are finite.
    fn count(&mut self, x: &[f32]) -> bool {
        let bits = magnitude(x);
        let (greatest, negative) = (f32::from_bits(bits & 0x7fff_ffff), bits >> 31 != 0);
        if !greatest.is_finite() {
            // What follows goes to the histogram itself.
            self.flush();
            return false;
        }
        let exponent = Histogram::exponent_for(greatest);
        if exponent > self.histogram.exponent() {
            self.flush();
            self.histogram.grow(exponent);
        }
        let exponent = self.histogram.exponent();
        let reach = Histogram::key(greatest, exponent) as usize + 1;
        for x in x.chunks(CHUNK) {
            let keys = &mut self.scratch.keys[..x.len()];
            self.out.zeros += u64::from(to_keys(x, exponent, keys));
            if x.len() < SMALL && self.pending.chunks == 0 {
                let seen = keys.iter().filter(|key| usize::from(**key) < KEYS);
                seen.for_each(|&key| self.histogram.add(i32::from(key) - HALF as i32, 1));
                continue;
            }
            tally(keys, &mut self.scratch.table);
            self.pending.reach = self.pending.reach.max(reach);
            self.pending.negative |= negative;
            self.pending.chunks += 1;
            if self.pending.chunks == CHUNKS_PER_FLUSH {
                self.flush();
            }
        }
        true
    }

    /// Moves the table's counts into the histogram.
    fn flush(&mut self) {
        let Pending { chunks, reach, negative } = std::mem::take(&mut self.pending);
        if chunks == 0 {
            return;
        }
        let total = |places: &mut [u16; COPIES]| -> u64 {
            std::mem::take(places).into_iter().map(u32::from).sum::<u32>().into()
        };
        let (below, above) = self.scratch.table.split_at_mut(HALF);
        self.histogram.add_positive(above[..reach].iter_mut().map(total));
        if negative {
            self.histogram.add_negative(below[HALF - reach..].iter_mut().rev().map(total));
        }
    }
}

crate::dispatch! {
    /// The greatest magnitude as bits, and the sign bit if there is a negative number: NaN and Inf are the greatest.
    fn magnitude, magnitude_avx2 = magnitude_body(x: &[f32]) -> u32
}
crate::dispatch! {
    /// Extrema and sums by lane of finite numbers.
    fn scan, scan_avx2 = scan_body(x: &[f32], lanes: &mut Lanes)
}
crate::dispatch! {
    /// Extrema and sums of as many channels side by side; the numbers are finite and rows are whole.
    fn scan_rows, scan_rows_avx2 =
        scan_rows_body(x: &[f32], lo: &mut [f32], hi: &mut [f32], sum: &mut [f64], sum_sq: &mut [f64])
}
crate::dispatch! {
    /// Bin keys shifted to be non-negative; zeros get places past the keys and are counted. All |x| < HALF·2^exponent.
    fn to_keys, to_keys_avx2 = to_keys_body(x: &[f32], exponent: i32, keys: &mut [u16]) -> u32
}

#[inline(always)]
fn magnitude_body(x: &[f32]) -> u32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let (mut greatest, mut any) = ([0u32; LANES], [0u32; LANES]);
    for c in chunks {
        for (i, v) in c.iter().enumerate() {
            let bits = v.to_bits();
            greatest[i] = greatest[i].max(bits & 0x7fff_ffff);
            any[i] |= bits;
        }
    }
    for (i, v) in rest.iter().enumerate() {
        greatest[i] = greatest[i].max(v.to_bits() & 0x7fff_ffff);
        any[i] |= v.to_bits();
    }
    let any = any.into_iter().fold(0, |a, b| a | b);
    greatest.into_iter().fold(0, u32::max) | any & 0x8000_0000
}

#[inline(always)]
fn scan_body(x: &[f32], lanes: &mut Lanes) {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut here = *lanes;
    for c in chunks {
        for (i, &v) in c.iter().enumerate() {
            here.lo[i] = least(v, here.lo[i]);
            here.hi[i] = greatest(v, here.hi[i]);
        }
        for (i, &v) in c.iter().enumerate() {
            let v = f64::from(v);
            here.sum[i] += v;
            here.sum_sq[i] += v * v;
        }
    }
    *lanes = here;
    for (i, &v) in rest.iter().enumerate() {
        lanes.lo[i] = least(v, lanes.lo[i]);
        lanes.hi[i] = greatest(v, lanes.hi[i]);
        lanes.sum[i] += f64::from(v);
        lanes.sum_sq[i] += f64::from(v) * f64::from(v);
    }
}

#[inline(always)]
fn scan_rows_body(x: &[f32], lo: &mut [f32], hi: &mut [f32], sum: &mut [f64], sum_sq: &mut [f64]) {
    let width = lo.len();
    // Sixteen channels at a time, down all rows, so that they stay in registers.
    let (los, lo) = lo.as_chunks_mut::<LANES>();
    let (his, hi) = hi.as_chunks_mut::<LANES>();
    let (sums, sum) = sum.as_chunks_mut::<LANES>();
    let (squares, sum_sq) = sum_sq.as_chunks_mut::<LANES>();
    let blocks = los.len();
    for (block, (((lo, hi), sum), sum_sq)) in los.iter_mut().zip(his).zip(sums).zip(squares).enumerate() {
        let mut here = Lanes { lo: *lo, hi: *hi, sum: *sum, sum_sq: *sum_sq };
        for row in x.chunks_exact(width) {
            let Some(c) = row[block * LANES..].first_chunk::<LANES>() else { continue };
            for (i, &v) in c.iter().enumerate() {
                here.lo[i] = least(v, here.lo[i]);
                here.hi[i] = greatest(v, here.hi[i]);
            }
            for (i, &v) in c.iter().enumerate() {
                let v = f64::from(v);
                here.sum[i] += v;
                here.sum_sq[i] += v * v;
            }
        }
        (*lo, *hi, *sum, *sum_sq) = (here.lo, here.hi, here.sum, here.sum_sq);
    }
    for row in x.chunks_exact(width) {
        for (i, &v) in row[blocks * LANES..].iter().enumerate() {
            lo[i] = least(v, lo[i]);
            hi[i] = greatest(v, hi[i]);
            sum[i] += f64::from(v);
            sum_sq[i] += f64::from(v) * f64::from(v);
        }
    }
}

#[inline(always)]
fn to_keys_body(x: &[f32], exponent: i32, keys: &mut [u16]) -> u32 {
    // exponent is in -126..=117, so the reciprocal is a normal float and the product exact (or below 1).
    let inverse = f32::from_bits(((127 - exponent) as u32) << 23);
    let mut zeros = 0u32;
    for (i, (k, &v)) in (0u16..).zip(keys.iter_mut().zip(x)) {
        // SAFETY: |v| < HALF·2^exponent is finite, so the product is within i32.
        let places: i32 = unsafe { (v * inverse).to_int_unchecked() };
        let key = places.wrapping_add(v.to_bits() as i32 >> 31).wrapping_add(HALF as i32) as u16;
        *k = if v == 0.0 { KEYS as u16 + i % 16 } else { key };
        zeros = zeros.wrapping_add(u32::from(v == 0.0));
    }
    zeros
}

/// Counts keys, every fourth in the same place.
fn tally(keys: &[u16], table: &mut [[u16; COPIES]; TABLE]) {
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
        let (mut a, mut b) = (Lanes::new(), Lanes::new());
        scan(&x, &mut a);
        scan_body(&x, &mut b);
        assert_eq!((a.lo, a.hi, a.sum, a.sum_sq), (b.lo, b.hi, b.sum, b.sum_sq));
        assert_eq!(magnitude(&x), magnitude_body(&x));
        let (mut k, mut l) = ([0; 1003], [0; 1003]);
        assert_eq!(to_keys(&x, 0, &mut k), to_keys_body(&x, 0, &mut l));
        assert_eq!(k, l);
        let (mut a, mut b) = (Columns::default(), Columns::default());
        let rows = &x[..950];
        a.reset(19);
        b.reset(19);
        scan_rows(rows, &mut a.lo, &mut a.hi, &mut a.sum, &mut a.sum_sq);
        scan_rows_body(rows, &mut b.lo, &mut b.hi, &mut b.sum, &mut b.sum_sq);
        assert_eq!((a.lo, a.hi, a.sum, a.sum_sq), (b.lo, b.hi, b.sum, b.sum_sq));
    }
}
