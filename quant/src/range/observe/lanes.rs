//! Extrema and sums of finite numbers, in lanes by position.

use super::Columns;
use super::tally::Waiting;
#[cfg(target_arch = "x86_64")]
mod wide;

/// Lanes of a stretch.
pub(super) const LANES: usize = 16;

/// A stretch of one channel: the number at position i counts in lane i mod 16.
#[derive(Clone, Copy)]
pub(super) struct Lanes {
    lo: [f32; LANES],
    hi: [f32; LANES],
    sum: [f64; LANES],
    sum_sq: [f64; LANES],
}

/// What a whole stretch comes to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sums {
    pub(super) lo: f32,
    pub(super) hi: f32,
    pub(super) sum: f64,
    pub(super) sum_sq: f64,
}

/// What a piece reaches; its numbers are finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bounds {
    /// The greatest magnitude.
    pub(super) magnitude: f32,
    /// There is a number below zero.
    pub(super) negative: bool,
}

impl Bounds {
    /// From the greatest magnitude and the union of all, as bits; none if that magnitude is NaN or infinite.
    #[inline(always)]
    fn of_bits(greatest: u32, any: u32) -> Option<Bounds> {
        let magnitude = f32::from_bits(greatest);
        magnitude.is_finite().then_some(Bounds { magnitude, negative: any >> 31 != 0 })
    }
}

impl Sums {
    /// What sums and extrema tell; none if a number was NaN or infinite. The squares tell it: a sum of squares of finite
    /// f32 numbers is far from the greatest f64, and NaN and Inf never leave it.
    #[inline(always)]
    fn bounds(&self) -> Option<Bounds> {
        let magnitude = greatest(self.hi, -self.lo).max(0.0);
        self.sum_sq.is_finite().then_some(Bounds { magnitude, negative: self.lo < 0.0 })
    }

    /// Likewise, of several.
    #[inline(always)]
    fn bounds_of(list: &[Sums]) -> Option<Bounds> {
        let mut all = Sums { lo: 0.0, hi: 0.0, sum: 0.0, sum_sq: 0.0 };
        for one in list {
            (all.lo, all.hi) = (least(one.lo, all.lo), greatest(one.hi, all.hi));
            all.sum_sq += one.sum_sq;
        }
        all.bounds()
    }
}

impl Lanes {
    pub(super) fn new() -> Self {
        let (lo, hi) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        Self { lo, hi, sum: [0.0; LANES], sum_sq: [0.0; LANES] }
    }

    pub(super) fn add_one(&mut self, lane: usize, v: f32) {
        let wide = f64::from(v);
        self.lo[lane] = self.lo[lane].min(v);
        self.hi[lane] = self.hi[lane].max(v);
        self.sum[lane] += wide;
        self.sum_sq[lane] += wide * wide;
    }

    #[inline(always)]
    pub(super) fn fold(self) -> Sums {
        let Self { lo, hi, sum, sum_sq } = self;
        Sums {
            lo: halved(lo, least),
            hi: halved(hi, greatest),
            sum: halved(sum, |a, b| b + a),
            sum_sq: halved(sum_sq, |a, b| b + a),
        }
    }
}

/// The upper half onto the lower one, until one is left.
#[inline(always)]
fn halved<T: Copy>(lanes: [T; LANES], join: impl Fn(T, T) -> T) -> T {
    let eight: [T; 8] = std::array::from_fn(|i| join(lanes[i + 8], lanes[i]));
    let four: [T; 4] = std::array::from_fn(|i| join(eight[i + 4], eight[i]));
    join(join(four[3], four[1]), join(four[2], four[0]))
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

/// Adds a part of a stretch that starts at a multiple of the lanes. What the stretch reaches so far; none, and the lanes are
/// as they were, if not all numbers are finite.
pub(super) fn scan(x: &[f32], lanes: &mut Lanes, waiting: &mut Waiting<'_>) -> Option<Bounds> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has it.
        return unsafe { wide::scan(x, lanes, waiting) };
    }
    scan_plain(x, lanes)
}

/// The sums of whole stretches of `inner` numbers, and what all of them reach; none if not all numbers are finite.
pub(super) fn scan_all(
    x: &[f32],
    inner: usize,
    sums: &mut Vec<Sums>,
    waiting: &mut Waiting<'_>,
) -> Option<Bounds> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has it.
        return unsafe { wide::scan_all(x, inner, sums, waiting) };
    }
    scan_all_plain(x, inner, sums)
}

crate::dispatch! {
    fn scan_plain, scan_avx2 = scan_body(x: &[f32], lanes: &mut Lanes) -> Option<Bounds>
}
crate::dispatch! {
    fn scan_all_plain, scan_all_avx2 =
        scan_all_body(x: &[f32], inner: usize, sums: &mut Vec<Sums>) -> Option<Bounds>
}
/// What a piece reaches; none if not all numbers are finite.
pub(super) fn bounds(x: &[f32]) -> Option<Bounds> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has it.
        return unsafe { wide::bounds(x) };
    }
    bounds_plain(x)
}

crate::dispatch! {
    fn bounds_plain, bounds_avx2 = bounds_body(x: &[f32]) -> Option<Bounds>
}
/// Extrema and sums of channels side by side; the numbers are finite and rows are whole.
pub(super) fn scan_rows(x: &[f32], columns: &mut Columns, waiting: &mut Waiting<'_>) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has it.
        return unsafe { wide::scan_rows(x, columns, waiting) };
    }
    scan_rows_plain(x, columns)
}

crate::dispatch! {
    fn scan_rows_plain, scan_rows_avx2 = scan_rows_body(x: &[f32], columns: &mut Columns)
}

#[inline(always)]
fn scan_body(x: &[f32], lanes: &mut Lanes) -> Option<Bounds> {
    let here = with_stretch(*lanes, x);
    let found = here.fold().bounds();
    if found.is_some() {
        *lanes = here;
    }
    found
}

#[inline(always)]
fn scan_all_body(x: &[f32], inner: usize, sums: &mut Vec<Sums>) -> Option<Bounds> {
    sums.clear();
    sums.extend(x.chunks(inner).map(|stretch| with_stretch(Lanes::new(), stretch).fold()));
    Sums::bounds_of(sums)
}

#[inline(always)]
fn with_stretch(mut lanes: Lanes, x: &[f32]) -> Lanes {
    let (chunks, rest) = x.as_chunks::<LANES>();
    for c in chunks {
        for (i, &v) in c.iter().enumerate() {
            lanes.lo[i] = least(v, lanes.lo[i]);
            lanes.hi[i] = greatest(v, lanes.hi[i]);
        }
        for (i, &v) in c.iter().enumerate() {
            let v = f64::from(v);
            lanes.sum[i] += v;
            lanes.sum_sq[i] += v * v;
        }
    }
    for (i, &v) in rest.iter().enumerate() {
        lanes.lo[i] = least(v, lanes.lo[i]);
        lanes.hi[i] = greatest(v, lanes.hi[i]);
        lanes.sum[i] += f64::from(v);
        lanes.sum_sq[i] += f64::from(v) * f64::from(v);
    }
    lanes
}

#[inline(always)]
fn bounds_body(x: &[f32]) -> Option<Bounds> {
    let (chunks, rest) = x.as_chunks::<LANES>();
    // Bits of magnitudes compare as integers, NaN and Inf as the greatest.
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
    Bounds::of_bits(greatest.into_iter().fold(0, u32::max), any.into_iter().fold(0, |a, b| a | b))
}

#[inline(always)]
fn scan_rows_body(x: &[f32], columns: &mut Columns) {
    let width = columns.lo.len();
    // Sixteen channels at a time, down all rows, so that they stay in registers.
    let (los, lo) = columns.lo.as_chunks_mut::<LANES>();
    let (his, hi) = columns.hi.as_chunks_mut::<LANES>();
    let (sums, sum) = columns.sum.as_chunks_mut::<LANES>();
    let (squares, sum_sq) = columns.sum_sq.as_chunks_mut::<LANES>();
    let blocks = los.len();
    for (block, (((lo, hi), sum), sum_sq)) in los.iter_mut().zip(his).zip(sums).zip(squares).enumerate() {
        let mut here = Lanes { lo: *lo, hi: *hi, sum: *sum, sum_sq: *sum_sq };
        for row in x.chunks_exact(width) {
            let Some(c) = row[block * LANES..].first_chunk::<LANES>() else { continue };
            here = with_stretch(here, c);
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

#[cfg(test)]
mod tests {
    use super::super::tally::Tally;
    use super::*;

    /// What processors without AVX2 run gives the same bits.
    #[test]
    fn every_compilation_agrees() {
        let x: Vec<f32> = (0..1003).map(|i| ((i * 7919) % 2003) as f32 * 0.37 - 300.0).collect();
        let mut tally = Box::new(Tally::new());
        let (mut a, mut b) = (Lanes::new(), Lanes::new());
        for part in [&x[..], &x[..32], &x[..5], &x[..0]] {
            assert_eq!(scan(part, &mut a, &mut tally.waiting()), scan_body(part, &mut b));
            assert_eq!((a.lo, a.hi, a.sum, a.sum_sq), (b.lo, b.hi, b.sum, b.sum_sq));
            assert_eq!(a.fold(), b.fold());
        }
        assert_eq!(bounds(&x), bounds_body(&x));
        assert_eq!(bounds(&x), scan(&x, &mut Lanes::new(), &mut tally.waiting()));
        let (mut s, mut t) = (Vec::new(), Vec::new());
        for inner in [1, 2, 15, 16, 17, 59, 64] {
            assert_eq!(scan_all(&x, inner, &mut s, &mut tally.waiting()), scan_all_body(&x, inner, &mut t));
            assert_eq!(s, t, "{inner}");
        }
        let (mut a, mut b) = (Columns::default(), Columns::default());
        for width in [2, 16, 19, 40] {
            a.reset(width);
            b.reset(width);
            for rows in [&x[..width * 7], &x[..width], &x[..0], &x[..width * 20]] {
                scan_rows(rows, &mut a, &mut tally.waiting());
                scan_rows_body(rows, &mut b);
                assert_eq!((&a.lo, &a.hi, &a.sum, &a.sum_sq), (&b.lo, &b.hi, &b.sum, &b.sum_sq), "{width}");
            }
        }
    }

    #[test]
    fn nothing_is_taken_of_a_piece_that_is_not_finite() {
        let mut tally = Box::new(Tally::new());
        for ugly in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![f32::MAX; 100];
            assert!(bounds(&x).is_some() && scan_all(&x, 7, &mut Vec::new(), &mut tally.waiting()).is_some());
            let mut lanes = Lanes::new();
            let reached = scan(&x, &mut lanes, &mut tally.waiting());
            assert_eq!(reached, Some(Bounds { magnitude: f32::MAX, negative: false }));
            let before = lanes.fold();
            x[53] = ugly;
            assert_eq!(scan(&x, &mut lanes, &mut tally.waiting()), None);
            assert_eq!(lanes.fold(), before);
            assert_eq!((bounds(&x), scan_all(&x, 7, &mut Vec::new(), &mut tally.waiting())), (None, None));
        }
    }
}
