//! Agreement on the largest of each row.

use super::whole_rows;
use crate::error::{Error, check_len};

/// Agreement on the largest of each row, and accuracy where labels are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopK {
    rows: u64,
    first: u64,
    top5: u64,
    labelled: u64,
    right: u64,
    right5: u64,
}

impl TopK {
    /// Adds rows of `row` scores of a reference and another result. Of equal scores the first counts; NaN is least.
    pub fn add(&mut self, reference: &[f32], other: &[f32], row: usize) -> Result<(), Error> {
        check_len("result to compare", reference.len(), other.len())?;
        whole_rows(reference, row)?;
        for (r, o) in reference.chunks_exact(row).zip(other.chunks_exact(row)) {
            let (Some(&best), top) = (top(r, 1).first(), top(o, 5)) else { continue };
            self.rows += 1;
            self.first += u64::from(top.first() == Some(&best));
            self.top5 += u64::from(top.contains(&best));
        }
        Ok(())
    }

    /// Adds one row of scores whose right answer is known.
    pub fn add_labelled(&mut self, scores: &[f32], label: usize) {
        let top = top(scores, 5);
        self.labelled += 1;
        self.right += u64::from(top.first() == Some(&label));
        self.right5 += u64::from(top.contains(&label));
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.first += other.first;
        self.top5 += other.top5;
        self.labelled += other.labelled;
        self.right += other.right;
        self.right5 += other.right5;
    }

    /// Rows compared.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Share of rows with the same first place; `None` if there were no rows.
    pub fn top1_agreement(&self) -> Option<f64> {
        share(self.first, self.rows)
    }

    /// Share of rows where the reference's first place is among the other's first five.
    pub fn top5_agreement(&self) -> Option<f64> {
        share(self.top5, self.rows)
    }

    /// Share of labelled rows with the label in first place.
    pub fn accuracy(&self) -> Option<f64> {
        share(self.right, self.labelled)
    }

    /// Share of labelled rows with the label among the first five.
    pub fn accuracy5(&self) -> Option<f64> {
        share(self.right5, self.labelled)
    }
}

fn share(part: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| part as f64 / all as f64)
}

/// Indices of the `k` largest, largest first; the first of equal ones; NaN last.
pub fn top(scores: &[f32], k: usize) -> Vec<usize> {
    let mut best: Vec<usize> = Vec::with_capacity(k + 1);
    let above = |a: usize, b: usize| scores[a] > scores[b] || (scores[b].is_nan() && !scores[a].is_nan());
    for i in 0..scores.len() {
        if best.len() == k && !best.last().is_some_and(|&last| above(i, last)) {
            continue;
        }
        let at = best.iter().position(|&b| above(i, b)).unwrap_or(best.len());
        best.insert(at, i);
        best.truncate(k);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_places() {
        assert_eq!(top(&[1.0, 3.0, f32::NAN, 3.0, 2.0, -1.0], 5), [1, 3, 4, 0, 5]);
        assert_eq!(top(&[f32::NAN, 1.0], 1), [1]);
        assert_eq!(top(&[], 5), [] as [usize; 0]);
        let mut t = TopK::default();
        t.add(&[0.0, 1.0, 2.0, 9.0, 3.0, 4.0], &[0.0, 2.0, 1.0, 9.0, 3.0, 4.0], 3).unwrap();
        t.add_labelled(&[0.1, 0.9], 0);
        assert_eq!((t.top1_agreement(), t.top5_agreement()), (Some(0.5), Some(1.0)));
        assert_eq!((t.accuracy(), t.accuracy5()), (Some(0.0), Some(1.0)));
        assert_eq!(TopK::default().top1_agreement(), None);
    }
}
