//! The fast form, piece by piece.

use std::cell::RefCell;

use super::lanes::{Bounds, Lanes, Sums, bounds, scan, scan_all, scan_rows};
use super::tally::{CHUNK, Tally};
use super::{Columns, Histogram, Observed, Split, plain};

/// Counts `x`, which has as many numbers as the split, into `histogram` and `columns`; equal to
/// [`observe_ref`](super::observe_ref) to the bit.
pub fn observe(x: &[f32], split: Split, histogram: &mut Histogram, columns: &mut Columns) -> Observed {
    let mut out = Observed::new();
    columns.reset(split.channels);
    SCRATCH.with_borrow_mut(|(tally, sums)| {
        let mut call = Call { x, out: &mut out, histogram, columns, tally, sums };
        if split.is_rows() {
            call.rows(split.channels);
        } else if split.inner >= CHUNK {
            call.long_stretches(split);
        } else if split.inner > 0 {
            call.short_stretches(split);
        }
        call.tally.flush(call.histogram);
    });
    out.fold(columns);
    out
}

thread_local! {
    static SCRATCH: RefCell<(Box<Tally>, Vec<Sums>)> = RefCell::new((Box::new(Tally::new()), Vec::new()));
}

/// State of one call.
struct Call<'a> {
    x: &'a [f32],
    out: &'a mut Observed,
    histogram: &'a mut Histogram,
    columns: &'a mut Columns,
    tally: &'a mut Tally,
    sums: &'a mut Vec<Sums>,
}

impl<'a> Call<'a> {
    /// Rows of numbers of as many channels.
    fn rows(&mut self, channels: usize) {
        let rows = (CHUNK / channels).max(1);
        let mut at = 0;
        for piece in self.x.chunks(rows * channels) {
            at += piece.len();
            // Sums of a channel run through all pieces: what is no number must be known before.
            match bounds(piece) {
                Some(bounds) => {
                    scan_rows(piece, self.columns, &mut self.tally.waiting());
                    self.count(piece, at, bounds);
                }
                None => {
                    self.tally.flush(self.histogram);
                    plain::rows(piece, channels, self.out, self.histogram, self.columns);
                }
            }
        }
    }

    /// Stretches of a piece or more.
    fn long_stretches(&mut self, split: Split) {
        let mut at = 0;
        for (run, stretch) in self.x.chunks(split.inner).enumerate() {
            let mut lanes = Lanes::new();
            for piece in stretch.chunks(CHUNK) {
                at += piece.len();
                match scan(piece, &mut lanes, &mut self.tally.waiting()) {
                    Some(bounds) => self.count(piece, at, bounds),
                    None => self.plainly(piece, &mut lanes),
                }
            }
            self.columns.add(run % split.channels, &lanes.fold());
        }
    }

    /// As many whole stretches as a piece holds.
    fn short_stretches(&mut self, split: Split) {
        let together = CHUNK / split.inner;
        let (mut run, mut at) = (0, 0);
        for piece in self.x.chunks(together * split.inner) {
            at += piece.len();
            match scan_all(piece, split.inner, self.sums, &mut self.tally.waiting()) {
                Some(bounds) => {
                    for sums in self.sums.iter() {
                        self.columns.add(run % split.channels, sums);
                        run += 1;
                    }
                    self.count(piece, at, bounds);
                }
                None => {
                    for stretch in piece.chunks(split.inner) {
                        let mut lanes = Lanes::new();
                        self.plainly(stretch, &mut lanes);
                        self.columns.add(run % split.channels, &lanes.fold());
                        run += 1;
                    }
                }
            }
        }
    }

    fn plainly(&mut self, x: &[f32], lanes: &mut Lanes) {
        // What follows goes to the histogram itself.
        self.tally.flush(self.histogram);
        plain::stretch(x, lanes, self.out, self.histogram);
    }

    /// Counts finite numbers and zeros; `end` is where they end in the slice.
    fn count(&mut self, piece: &[f32], end: usize, bounds: Bounds) {
        let next = self.x.get(end..).unwrap_or_default();
        self.out.zeros += self.tally.count(piece, next, bounds, self.histogram);
    }
}
