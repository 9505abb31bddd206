//! The reference: one number at a time. The fast form comes here for pieces with NaN or Inf.

use super::lanes::{LANES, Lanes};
use super::{Columns, Histogram, Observed, Split};

/// Counts `x`, which has as many numbers as the split, into `histogram` and `columns`, one number at a time. The reference
/// for [`observe`](super::observe).
pub fn observe_ref(x: &[f32], split: Split, histogram: &mut Histogram, columns: &mut Columns) -> Observed {
    let mut out = Observed::new();
    columns.reset(split.channels);
    if split.is_rows() {
        rows(x, split.channels, &mut out, histogram, columns);
    } else {
        for (run, numbers) in x.chunks(split.inner.max(1)).enumerate() {
            let mut lanes = Lanes::new();
            stretch(numbers, &mut lanes, &mut out, histogram);
            columns.add(run % split.channels, &lanes.fold());
        }
    }
    out.fold(columns);
    out
}

/// Rows of numbers of as many channels.
pub(super) fn rows(
    x: &[f32],
    channels: usize,
    out: &mut Observed,
    histogram: &mut Histogram,
    columns: &mut Columns,
) {
    for (i, &v) in x.iter().enumerate() {
        if count_one(v, out, histogram) {
            columns.add_one(i % channels, v);
        }
    }
}

/// A part of a stretch that starts at a multiple of the lanes.
pub(super) fn stretch(x: &[f32], lanes: &mut Lanes, out: &mut Observed, histogram: &mut Histogram) {
    for (i, &v) in x.iter().enumerate() {
        if count_one(v, out, histogram) {
            lanes.add_one(i % LANES, v);
        }
    }
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
