//! The search of one block after the other, written plainly: what [`super::lanes`] must equal to the bit.

use super::Kernel;
use super::ladder::{Best, Ladder, POLISH, Sums};

/// One trial at scale 1 / `inverse` with codes clipped to `lo..=hi` around zero, plainly: the quotient is rounded once, half
/// to even. Its product is exact in f64.
fn trial_ref(values: &[f32], importance: &[f32], inverse: f32, lo: f32, hi: f32) -> Sums {
    let mut sums = Sums::ZERO;
    for (k, &v) in values.iter().enumerate() {
        let r = ((f64::from(v) * f64::from(inverse)).round_ties_even() as f32).clamp(lo, hi);
        let d = v.mul_add(inverse, -r);
        let (di, ri) = importance.get(k).map_or((d, r), |i| (d * i, r * i));
        sums.dd = di.mul_add(d, sums.dd);
        sums.dr = di.mul_add(r, sums.dr);
        sums.rr = ri.mul_add(r, sums.rr);
    }
    sums
}

/// The search of one block, plainly. `values` and range are normalized.
fn search_ref(values: &[f32], importance: &[f32], lo: f32, hi: f32, ladder: &Ladder) -> Best {
    let look = |scale: f32, zero: f32| trial_ref(values, importance, 1.0 / scale, -zero, ladder.top - zero);
    let base = ladder.base(lo, hi);
    let mut best = Best { error: f32::INFINITY, scale: base, zero: ladder.center };
    for i in 0..ladder.steps {
        let scale = base * (ladder.first + ladder.step * i as f32);
        let zero = ladder.zero(lo, hi, scale);
        best = best.or(look(scale, zero), scale, zero);
        if ladder.free {
            best = best.or(look(scale, zero + 1.0), scale, zero + 1.0);
        }
    }
    for _ in 0..POLISH {
        best = best.or(look(best.scale, best.zero), best.scale, best.zero);
    }
    best
}

/// One lane after the other.
pub(super) const PLAIN: Kernel = Kernel {
    search: |batch, ladder| {
        std::array::from_fn(|l| {
            let values: Vec<f32> = batch.values.iter().map(|v| v[l]).collect();
            let (lo, hi) = (batch.lo[l] * batch.factor[l], batch.hi[l] * batch.factor[l]);
            search_ref(&values, &batch.importance, lo, hi, ladder)
        })
    },
    errors: |batch, inverse, zero, top| {
        std::array::from_fn(|l| {
            let values: Vec<f32> = batch.values.iter().map(|v| v[l]).collect();
            trial_ref(&values, &batch.importance, inverse[l], -zero[l], top - zero[l]).dd
        })
    },
};
