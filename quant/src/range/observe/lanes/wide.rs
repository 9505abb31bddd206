//! The scans for processors with AVX-512, where sixteen lanes are a register and a short rest is masked. What waits to be
//! counted is counted meanwhile.

use std::arch::x86_64::*;

use super::{Bounds, Columns, LANES, Lanes, Sums, Waiting};

/// [`Lanes`] in registers.
#[derive(Clone, Copy)]
struct Wide {
    lo: __m512,
    hi: __m512,
    sum: [__m512d; 2],
    sum_sq: [__m512d; 2],
}

/// See [`super::scan`].
#[target_feature(enable = "avx512f")]
pub(super) fn scan(x: &[f32], lanes: &mut Lanes, waiting: &mut Waiting<'_>) -> Option<Bounds> {
    let here = with_stretch(load(lanes), x, waiting);
    let found = fold(here).bounds();
    if found.is_some() {
        store(here, lanes);
    }
    found
}

/// See [`super::scan_all`].
#[target_feature(enable = "avx512f")]
pub(super) fn scan_all(
    x: &[f32],
    inner: usize,
    sums: &mut Vec<Sums>,
    waiting: &mut Waiting<'_>,
) -> Option<Bounds> {
    let empty = load(&Lanes::new());
    sums.clear();
    for stretch in x.chunks(inner) {
        sums.push(fold(with_stretch(empty, stretch, waiting)));
    }
    Sums::bounds_of(sums)
}

/// See [`super::bounds`].
#[target_feature(enable = "avx512f")]
pub(super) fn bounds(x: &[f32]) -> Option<Bounds> {
    let magnitude = _mm512_set1_epi32(0x7fff_ffff);
    let (mut greatest, mut any) = ([_mm512_setzero_si512(); 2], [_mm512_setzero_si512(); 2]);
    let mut add = |at: usize, bits: __m512i| {
        greatest[at] = _mm512_max_epu32(greatest[at], _mm512_and_si512(bits, magnitude));
        any[at] = _mm512_or_si512(any[at], bits);
    };
    let (pairs, rest) = x.as_chunks::<{ 2 * LANES }>();
    for pair in pairs {
        // SAFETY: sixteen numbers are read, twice.
        unsafe {
            add(0, _mm512_loadu_si512(pair.as_ptr().cast()));
            add(1, _mm512_loadu_si512(pair[LANES..].as_ptr().cast()));
        }
    }
    for part in rest.chunks(LANES) {
        let there = (u32::MAX >> (32 - part.len())) as __mmask16;
        // SAFETY: only as many numbers are read as there are; zeros for the others change nothing.
        add(0, unsafe { _mm512_maskz_loadu_epi32(there, part.as_ptr().cast()) });
    }
    let greatest = _mm512_reduce_max_epu32(_mm512_max_epu32(greatest[0], greatest[1]));
    Bounds::of_bits(greatest, _mm512_reduce_or_epi32(_mm512_or_si512(any[0], any[1])) as u32)
}

/// See [`super::scan_rows`]: sixteen channels at a time, down all rows, so that they stay in registers.
#[target_feature(enable = "avx512f")]
pub(super) fn scan_rows(x: &[f32], columns: &mut Columns, waiting: &mut Waiting<'_>) {
    let width = columns.lo.len();
    let extrema = columns.lo.chunks_mut(LANES).zip(columns.hi.chunks_mut(LANES));
    let sums = columns.sum.chunks_mut(LANES).zip(columns.sum_sq.chunks_mut(LANES));
    for (first, ((lo, hi), (sum, sum_sq))) in (0..).step_by(LANES).zip(extrema.zip(sums)) {
        let mut lanes = Lanes::new();
        let len = lo.len();
        lanes.lo[..len].copy_from_slice(lo);
        lanes.hi[..len].copy_from_slice(hi);
        lanes.sum[..len].copy_from_slice(sum);
        lanes.sum_sq[..len].copy_from_slice(sum_sq);
        let mut here = load(&lanes);
        if len == LANES {
            for row in x.chunks_exact(width) {
                here = with_stretch(here, &row[first..first + LANES], waiting);
            }
        } else {
            for row in x.chunks_exact(width) {
                here = with_stretch(here, &row[first..], waiting);
            }
        }
        store(here, &mut lanes);
        lo.copy_from_slice(&lanes.lo[..len]);
        hi.copy_from_slice(&lanes.hi[..len]);
        sum.copy_from_slice(&lanes.sum[..len]);
        sum_sq.copy_from_slice(&lanes.sum_sq[..len]);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn with_stretch(mut lanes: Wide, x: &[f32], waiting: &mut Waiting<'_>) -> Wide {
    let (groups, rest) = x.as_chunks::<LANES>();
    for group in groups {
        // SAFETY: sixteen numbers are read.
        let v = unsafe { _mm512_loadu_ps(group.as_ptr()) };
        lanes = with_sums(lanes, v);
        lanes.lo = _mm512_min_ps(v, lanes.lo);
        lanes.hi = _mm512_max_ps(v, lanes.hi);
        waiting.add_some();
    }
    if !rest.is_empty() {
        let there = (1 << rest.len()) - 1;
        // SAFETY: only as many numbers are read as there are. The others count as zeros, which change no sum: sums are never
        // -0.0.
        let v = unsafe { _mm512_maskz_loadu_ps(there, rest.as_ptr()) };
        lanes = with_sums(lanes, v);
        lanes.lo = _mm512_mask_min_ps(lanes.lo, there, v, lanes.lo);
        lanes.hi = _mm512_mask_max_ps(lanes.hi, there, v, lanes.hi);
    }
    lanes
}

#[inline]
#[target_feature(enable = "avx512f")]
fn with_sums(mut lanes: Wide, v: __m512) -> Wide {
    let upper = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v));
    let halves = [_mm512_castps512_ps256(v), _mm256_castpd_ps(upper)];
    for (i, half) in halves.into_iter().enumerate() {
        let v = _mm512_cvtps_pd(half);
        lanes.sum[i] = _mm512_add_pd(lanes.sum[i], v);
        lanes.sum_sq[i] = _mm512_add_pd(lanes.sum_sq[i], _mm512_mul_pd(v, v));
    }
    lanes
}

/// By halves, as [`Lanes::fold`].
#[inline]
#[target_feature(enable = "avx512f")]
fn fold(lanes: Wide) -> Sums {
    Sums {
        lo: _mm512_reduce_min_ps(lanes.lo),
        hi: _mm512_reduce_max_ps(lanes.hi),
        sum: added(lanes.sum),
        sum_sq: added(lanes.sum_sq),
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn added([low, high]: [__m512d; 2]) -> f64 {
    let eight = _mm512_add_pd(low, high);
    let four = _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd::<1>(eight));
    let two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd::<1>(four));
    _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(lanes: &Lanes) -> Wide {
    // SAFETY: each array has sixteen numbers.
    unsafe {
        Wide {
            lo: _mm512_loadu_ps(lanes.lo.as_ptr()),
            hi: _mm512_loadu_ps(lanes.hi.as_ptr()),
            sum: [_mm512_loadu_pd(lanes.sum.as_ptr()), _mm512_loadu_pd(lanes.sum[8..].as_ptr())],
            sum_sq: [_mm512_loadu_pd(lanes.sum_sq.as_ptr()), _mm512_loadu_pd(lanes.sum_sq[8..].as_ptr())],
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(here: Wide, lanes: &mut Lanes) {
    // SAFETY: each array has sixteen numbers.
    unsafe {
        _mm512_storeu_ps(lanes.lo.as_mut_ptr(), here.lo);
        _mm512_storeu_ps(lanes.hi.as_mut_ptr(), here.hi);
        _mm512_storeu_pd(lanes.sum.as_mut_ptr(), here.sum[0]);
        _mm512_storeu_pd(lanes.sum[8..].as_mut_ptr(), here.sum[1]);
        _mm512_storeu_pd(lanes.sum_sq.as_mut_ptr(), here.sum_sq[0]);
        _mm512_storeu_pd(lanes.sum_sq[8..].as_mut_ptr(), here.sum_sq[1]);
    }
}
