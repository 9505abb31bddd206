//! The search of all blocks of a batch at once.

use super::Kernel;
use super::batch::{Batch, LANES, Lanes};
use super::ladder::{Best, Ladder, POLISH, Sums, larger, smaller};
use crate::round::MAGIC;
use crate::weight::isa::per_isa;

/// The sums of a trial in every lane.
#[derive(Clone, Copy)]
struct LaneSums {
    dd: Lanes,
    dr: Lanes,
    rr: Lanes,
}

impl LaneSums {
    #[inline(always)]
    fn at(&self, l: usize) -> Sums {
        Sums { dd: self.dd[l], dr: self.dr[l], rr: self.rr[l] }
    }
}

/// `Z` trials of neighbouring zero points in every lane, equal to [`trial_ref`] to the bit: adding [`MAGIC`] in a fused
/// product rounds it to an integer, once and half to even, and clipping an integer before or after taking it away again is
/// the same (what is too large to be rounded exactly is clipped anyway).
#[inline(always)]
fn trials<const Z: usize, const WEIGHTED: bool>(
    batch: &Batch,
    inverse: &Lanes,
    zero: &Lanes,
    top: f32,
) -> [LaneSums; Z] {
    let mut sums = [LaneSums { dd: [0.0; LANES], dr: [0.0; LANES], rr: [0.0; LANES] }; Z];
    let (mut lo, mut hi) = ([[0.0; LANES]; Z], [[0.0; LANES]; Z]);
    for z in 0..Z {
        for l in 0..LANES {
            lo[z][l] = MAGIC - (zero[l] + z as f32);
            hi[z][l] = MAGIC + (top - (zero[l] + z as f32));
        }
    }
    for (k, v) in batch.values.iter().enumerate() {
        let i = if WEIGHTED { batch.importance[k] } else { 1.0 };
        for l in 0..LANES {
            let rounded = v[l].mul_add(inverse[l], MAGIC);
            for z in 0..Z {
                let r = smaller(larger(rounded, lo[z][l]), hi[z][l]) - MAGIC;
                let d = v[l].mul_add(inverse[l], -r);
                let (di, ri) = if WEIGHTED { (d * i, r * i) } else { (d, r) };
                let s = &mut sums[z];
                s.dd[l] = di.mul_add(d, s.dd[l]);
                s.dr[l] = di.mul_add(r, s.dr[l]);
                s.rr[l] = ri.mul_add(r, s.rr[l]);
            }
        }
    }
    sums
}

#[inline(always)]
fn search_lanes<const WEIGHTED: bool>(batch: &Batch, ladder: &Ladder) -> [Best; LANES] {
    let (mut lo, mut hi, mut base) = ([0.0; LANES], [0.0; LANES], [1.0; LANES]);
    let mut best = [Best { error: f32::INFINITY, scale: 1.0, zero: ladder.center }; LANES];
    for l in 0..LANES {
        (lo[l], hi[l]) = (batch.lo[l] * batch.factor[l], batch.hi[l] * batch.factor[l]);
        base[l] = ladder.base(lo[l], hi[l]);
        best[l].scale = base[l];
    }
    let (mut scale, mut inverse, mut zero) = ([1.0; LANES], [1.0; LANES], [0.0; LANES]);
    for i in 0..ladder.steps {
        let part = ladder.first + ladder.step * i as f32;
        for l in 0..LANES {
            scale[l] = base[l] * part;
            inverse[l] = 1.0 / scale[l];
            zero[l] = ladder.zero(lo[l], hi[l], scale[l]);
        }
        if ladder.free {
            let [a, b] = trials::<2, WEIGHTED>(batch, &inverse, &zero, ladder.top);
            for l in 0..LANES {
                best[l] = best[l].or(a.at(l), scale[l], zero[l]).or(b.at(l), scale[l], zero[l] + 1.0);
            }
        } else {
            let [a] = trials::<1, WEIGHTED>(batch, &inverse, &zero, ladder.top);
            for l in 0..LANES {
                best[l] = best[l].or(a.at(l), scale[l], zero[l]);
            }
        }
    }
    for _ in 0..POLISH {
        for l in 0..LANES {
            (inverse[l], zero[l]) = (1.0 / best[l].scale, best[l].zero);
        }
        let [a] = trials::<1, WEIGHTED>(batch, &inverse, &zero, ladder.top);
        for (l, best) in best.iter_mut().enumerate() {
            *best = best.or(a.at(l), best.scale, best.zero);
        }
    }
    best
}

#[inline(always)]
fn search_body(batch: &Batch, ladder: &Ladder) -> [Best; LANES] {
    match batch.importance.is_empty() {
        true => search_lanes::<false>(batch, ladder),
        false => search_lanes::<true>(batch, ladder),
    }
}

per_isa! { fn search_fast(batch: &Batch, ladder: &Ladder) -> [Best; LANES] = search_body }

/// Σ d² of a grid in every lane.
#[inline(always)]
fn errors_body(batch: &Batch, inverse: &Lanes, zero: &Lanes, top: f32) -> Lanes {
    let [sums] = match batch.importance.is_empty() {
        true => trials::<1, false>(batch, inverse, zero, top),
        false => trials::<1, true>(batch, inverse, zero, top),
    };
    sums.dd
}

per_isa! { fn errors_fast(batch: &Batch, inverse: &Lanes, zero: &Lanes, top: f32) -> Lanes = errors_body }

pub(super) const FAST: Kernel = Kernel { search: search_fast, errors: errors_fast };
