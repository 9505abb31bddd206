//! `moving-average`, `mean-extrema`, `median-extrema`: averages of each sample's least and greatest number.
//!
//! One sample with an outlier moves them little, which is why they suit activations whose extremes differ from sample
//! to sample. Beyond 1024 samples they see a fixed subset ([`super::extrema`]).

use super::Interval;
use super::sketch::Sketch;

/// x ← x + weight·(new - x) over the samples in the order of their indices, starting at the first.
/// PyTorch's MovingAverageMinMaxObserver and onnxruntime's `moving_average`, sample by sample.
pub fn moving_average(sketch: &Sketch, weight: f64) -> Option<Interval> {
    let samples = sketch.extrema().samples();
    let mut ends = samples.iter().map(|s| (f64::from(s.lo), f64::from(s.hi)));
    let first = ends.next()?;
    let (lo, hi) = ends.fold(first, |(lo, hi), (a, b)| (lo + weight * (a - lo), hi + weight * (b - hi)));
    Some((lo as f32, hi as f32))
}

/// The mean of the least and of the greatest numbers.
pub fn mean(sketch: &Sketch) -> Option<Interval> {
    let samples = sketch.extrema().samples();
    let n = samples.len() as f64;
    let mean =
        |f: fn(&super::extrema::Sample) -> f32| samples.iter().map(|s| f64::from(f(s))).sum::<f64>() / n;
    (!samples.is_empty()).then(|| (mean(|s| s.lo) as f32, mean(|s| s.hi) as f32))
}

/// The median of the least and of the greatest numbers (of an even number of samples, the mean of the middle two).
pub fn median(sketch: &Sketch) -> Option<Interval> {
    let samples = sketch.extrema().samples();
    let middle = |mut v: Vec<f32>| {
        v.sort_by(f32::total_cmp);
        let (a, b) = (*v.get(v.len().checked_sub(1)? / 2)?, *v.get(v.len() / 2)?);
        Some((0.5 * (f64::from(a) + f64::from(b))) as f32)
    };
    Some((middle(samples.iter().map(|s| s.lo).collect())?, middle(samples.iter().map(|s| s.hi).collect())?))
}
