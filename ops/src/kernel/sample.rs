//! Reading an image between its pixels: what GridSample, DeformConv and RoiAlign share.

use super::interpolate::cubic;
use super::real::Real;

/// What lies outside an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Outside {
    Zeros,
    Border,
    Reflection,
}

/// How pixels around a point are weighed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Blend {
    Nearest,
    Linear,
    Cubic,
}

/// A sampler of images of given sizes.
#[derive(Clone, Debug)]
pub struct Sampler {
    /// Spatial sizes.
    pub sizes: Vec<usize>,
    /// Pixels outside.
    pub outside: Outside,
    /// Weights.
    pub blend: Blend,
    /// Pixel centres of the corners, not their outer edges, are the ends of the image; says where it is mirrored.
    pub align_corners: bool,
}

/// `x` mirrored at `low` and `high` until it lies between them.
fn reflect(x: f64, low: f64, high: f64) -> f64 {
    let range = high - low;
    if (low..=high).contains(&x) || range <= 0.0 {
        return x.clamp(low, high.max(low));
    }
    let distance = if x < low { low - x } else { x - high };
    let turns = (distance / range).trunc();
    let rest = distance - turns * range;
    match (x < low) == (turns % 2.0 == 0.0) {
        true => low + rest,
        false => high - rest,
    }
}

impl Sampler {
    fn ends(&self, size: usize) -> (f64, f64) {
        let size = size as f64;
        if self.align_corners { (0.0, size - 1.0) } else { (-0.5, size - 0.5) }
    }

    /// The position in pixels of a normalized coordinate in [-1, 1], rounded to f32 as runtimes keep it.
    pub fn denormalize(&self, normal: f64, size: usize) -> f64 {
        let size = size as f64;
        let x = match self.align_corners {
            true => (normal + 1.0) / 2.0 * (size - 1.0),
            false => ((normal + 1.0) * size - 1.0) / 2.0,
        };
        f64::from(x as f32)
    }

    /// The position lies outside the image, in a way that the specification and ONNX Runtime take differently: cubic at a
    /// border moves the point to the border first, or only the pixels around it.
    pub fn is_disputed(&self, x: f64, size: usize) -> bool {
        let (low, high) = self.ends(size);
        self.blend == Blend::Cubic && self.outside == Outside::Border && !(low..=high).contains(&x)
    }

    fn index(&self, at: f64, size: usize) -> Option<usize> {
        let last = size.checked_sub(1)?;
        let inside = at >= 0.0 && at <= last as f64;
        match self.outside {
            _ if inside => Some(at as usize),
            Outside::Zeros => None,
            Outside::Border => Some((at.max(0.0) as usize).min(last)),
            Outside::Reflection => {
                let (low, high) = self.ends(size);
                Some((reflect(at, low, high).max(0.0) as usize).min(last))
            }
        }
    }

    fn taps(&self, x: f64, size: usize) -> Vec<(usize, f64)> {
        if !x.is_finite() {
            // Nothing is near; production runtimes differ here, zero is what stays inside the image.
            return Vec::new();
        }
        let x = if self.blend == Blend::Nearest { x.round_ties_even() } else { x };
        let (low, high) = self.ends(size);
        let x = match self.outside {
            Outside::Border if x < low || x > high => x.clamp(0.0, (size as f64 - 1.0).max(0.0)),
            Outside::Reflection if x < low || x > high => reflect(x, low, high),
            _ => x,
        };
        let base = x.floor();
        let steps: &[f64] = match self.blend {
            Blend::Nearest => return self.index(x.trunc(), size).map(|at| (at, 1.0)).into_iter().collect(),
            Blend::Linear => &[0.0, 1.0],
            Blend::Cubic => &[-1.0, 0.0, 1.0, 2.0],
        };
        let weigh = |step: f64| {
            let distance = (x - base - step).abs();
            if self.blend == Blend::Cubic { cubic(distance, -0.75) } else { 1.0 - distance }
        };
        steps.iter().filter_map(|&step| Some((self.index(base + step, size)?, weigh(step)))).collect()
    }

    /// The flat pixel indices and weights around a point, outermost coordinate first.
    pub fn at(&self, point: &[f64]) -> Vec<(usize, f64)> {
        let mut taps = vec![(0, 1.0)];
        for (&x, &size) in point.iter().zip(&self.sizes) {
            let own = self.taps(x, size);
            taps = taps
                .iter()
                .flat_map(|&(base, weight)| own.iter().map(move |&(at, w)| (base * size + at, weight * w)))
                .collect();
        }
        taps
    }
}

/// The weighted sum of pixels.
pub fn blend<T: Real>(image: &[T], taps: &[(usize, f64)]) -> f64 {
    taps.iter().map(|&(at, weight)| weight * image[at].wide()).sum()
}
