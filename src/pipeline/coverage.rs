//! Whether the data were enough: when ranges settled, how far two halves of the data differ, what was never seen.

use quant::range::Sketch;
use serde::Serialize;

use super::table::CalibrationTable;

/// What the table says about the data.
#[derive(Clone, Debug, Serialize)]
pub struct Coverage {
    /// Samples in the table.
    pub samples: usize,
    /// Number of values seen.
    pub values: usize,
    /// Samples until nine of ten values had reached 95 % of their final range.
    pub settled_after: Option<usize>,
    /// Values whose range differs most between even and odd samples: name and share of the wider range.
    pub drift: Vec<(String, f64)>,
    /// Values with NaN or infinite elements: name and how many.
    pub not_finite: Vec<(String, u64)>,
    /// Values that were never seen or had no finite element.
    pub never_seen: Vec<String>,
}

/// How many of the drifting values are listed.
const LISTED: usize = 5;

impl CalibrationTable {
    /// What the table says about the data, given the values that it should hold.
    pub fn coverage(&self, expected: &[String]) -> Coverage {
        let mut settled: Vec<usize> = self.values.values().filter_map(settled_after).collect();
        settled.sort_unstable();
        let mut drift: Vec<(String, f64)> =
            self.values.iter().filter_map(|(name, sketch)| Some((name.clone(), drift(sketch)?))).collect();
        drift.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        drift.truncate(LISTED);
        let bad = |sketch: &Sketch| sketch.nan() + sketch.infinite();
        let unseen = |name: &&String| self.values.get(*name).is_none_or(|sketch| sketch.finite() == 0);
        Coverage {
            samples: self.samples.len(),
            values: self.values.len(),
            settled_after: settled.get(settled.len().saturating_sub(1) * 9 / 10).copied(),
            drift,
            not_finite: self
                .values
                .iter()
                .map(|(n, s)| (n.clone(), bad(s)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            never_seen: expected.iter().filter(unseen).cloned().collect(),
        }
    }
}

/// Samples until the range was at least 95 % of the final one.
fn settled_after(sketch: &Sketch) -> Option<usize> {
    let (low, high) = sketch.extent()?;
    let wanted = 0.95 * (f64::from(high) - f64::from(low));
    let (mut lo, mut hi) = (f32::INFINITY, f32::NEG_INFINITY);
    for sample in sketch.extrema().samples() {
        (lo, hi) = (lo.min(sample.lo), hi.max(sample.hi));
        if f64::from(hi) - f64::from(lo) >= wanted {
            return Some(sample.index as usize + 1);
        }
    }
    None
}

/// How much the ranges of even and odd samples differ, as a share of the whole.
fn drift(sketch: &Sketch) -> Option<f64> {
    let (low, high) = sketch.extent()?;
    let whole = f64::from(high) - f64::from(low);
    let mut halves = [(f32::INFINITY, f32::NEG_INFINITY); 2];
    for sample in sketch.extrema().samples() {
        let half = &mut halves[(sample.index % 2) as usize];
        *half = (half.0.min(sample.lo), half.1.max(sample.hi));
    }
    let width = |(lo, hi): (f32, f32)| f64::from(hi) - f64::from(lo);
    let [even, odd] = halves.map(width);
    (whole > 0.0 && even.is_finite() && odd.is_finite()).then(|| (even - odd).abs() / whole)
}
