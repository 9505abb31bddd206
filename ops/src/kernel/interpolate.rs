//! Weighted averages of neighbours along one axis: what Resize and Upsample are made of.
//!
//! Interpolation is separable, so an N-dimensional resize is a table of taps per axis, applied axis by axis.

use super::real::Real;

/// How an output position maps into the input (`coordinate_transformation_mode`).
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    TfHalfPixelForNn,
    AlignCorners,
    Asymmetric,
    /// Start and end of the region, normalized.
    TfCropAndResize(f32, f32),
}

/// Which neighbours count, and how much.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Filter {
    Nearest(Nearest),
    Linear,
    /// With the coefficient `a`.
    Cubic(f64),
}

/// Which neighbour is the nearest (`nearest_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Nearest {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
    /// What Upsample and Resize of opset 10 did: floor when growing, ceil when shrinking.
    Simple,
}

/// One axis to be resized.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Size of the input.
    pub input: usize,
    /// Size of the output.
    pub output: usize,
    /// Factor; need not be `output / input`.
    pub scale: f32,
    /// Mapping of positions.
    pub coordinates: Coordinates,
    /// Stretch the filter when shrinking.
    pub antialias: bool,
    /// Taps outside the input get no weight instead of the edge's value.
    pub exclude_outside: bool,
}

/// The taps of one output position: input index and weight; none where the position lies outside the crop region.
pub type Taps = Option<Vec<(usize, f64)>>;

impl Line {
    /// The input position, in f32 as production runtimes compute it: with f64, factors such as 10/7 stored as f32 would
    /// put exact positions just below the integer.
    fn position(&self, at: usize) -> Option<f32> {
        let (x, scale) = (at as f32, self.scale);
        let (input, output) = (self.input as f32, self.output as f32);
        let resized = scale * input;
        Some(match self.coordinates {
            Coordinates::HalfPixel => (x + 0.5) / scale - 0.5,
            Coordinates::TfHalfPixelForNn => (x + 0.5) / scale,
            Coordinates::PytorchHalfPixel => {
                if self.output > 1 {
                    (x + 0.5) / scale - 0.5
                } else {
                    0.0
                }
            }
            Coordinates::HalfPixelSymmetric => {
                let offset = input / 2.0 * (1.0 - output / resized);
                offset + (x + 0.5) / scale - 0.5
            }
            Coordinates::AlignCorners => {
                if self.output == 1 {
                    0.0
                } else {
                    x * (input - 1.0) / (output - 1.0)
                }
            }
            Coordinates::Asymmetric => x / scale,
            Coordinates::TfCropAndResize(start, end) => {
                let position = match self.output {
                    1 => 0.5 * (start + end) * (input - 1.0),
                    _ => start * (input - 1.0) + x * (end - start) * (input - 1.0) / (output - 1.0),
                };
                return (position >= 0.0 && position <= input - 1.0).then_some(position);
            }
        })
    }

    /// The taps of every output position.
    pub fn table(&self, filter: Filter) -> Vec<Taps> {
        (0..self.output).map(|at| self.position(at).map(|x| self.taps(x, filter))).collect()
    }

    fn taps(&self, x: f32, filter: Filter) -> Vec<(usize, f64)> {
        let last = self.input.saturating_sub(1);
        if let Filter::Nearest(nearest) = filter {
            let at = match nearest {
                Nearest::RoundPreferFloor => (x - 0.5).ceil(),
                Nearest::RoundPreferCeil => (x + 0.5).floor(),
                Nearest::Floor => x.floor(),
                Nearest::Ceil => x.ceil(),
                Nearest::Simple => {
                    if self.scale < 1.0 {
                        x.ceil()
                    } else {
                        x
                    }
                }
            };
            // A float cast saturates, so that the clamp is safe for every scale.
            return vec![((at.max(0.0) as usize).min(last), 1.0)];
        }
        let base = f64::from(x.ceil()) - 1.0;
        let ratio = f64::from(x) - base;
        let stretch = if self.antialias { f64::from(self.scale.min(1.0)) } else { 1.0 };
        let reach = match filter {
            Filter::Cubic(_) => 2.0,
            _ => 1.0,
        };
        // Beyond the whole input and its mirror there is nothing new to see, however small the scale is.
        let first = ((-reach / stretch).floor() + 1.0).max(-2.0 * self.input as f64 - 4.0) as i64;
        let mut taps: Vec<(f64, f64)> = (first..2 - first)
            .map(|step| {
                let distance = ((step as f64 - ratio) * stretch).abs();
                let weight = match filter {
                    Filter::Cubic(a) => cubic(distance, a),
                    _ => (1.0 - distance).max(0.0),
                };
                (base + step as f64, weight)
            })
            .collect();
        if self.exclude_outside {
            taps.retain(|&(at, _)| at >= 0.0 && at <= last as f64);
        }
        if self.exclude_outside || self.antialias {
            let sum: f64 = taps.iter().map(|tap| tap.1).sum();
            taps.iter_mut().for_each(|tap| tap.1 /= sum);
        }
        taps.into_iter().map(|(at, weight)| ((at.max(0.0) as usize).min(last), weight)).collect()
    }
}

/// Keys' cubic convolution kernel at a distance.
pub fn cubic(x: f64, a: f64) -> f64 {
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((x - 5.0) * x + 8.0) * x * a - 4.0 * a
    } else {
        0.0
    }
}

/// Applies a table along the middle axis of `[outer, input, inner]`; positions without taps become `outside`.
pub fn apply<T: Real>(
    x: &[T],
    (outer, input, inner): (usize, usize, usize),
    table: &[Taps],
    outside: T,
) -> Vec<T> {
    let mut y = Vec::with_capacity(outer * table.len() * inner);
    for plane in x.chunks_exact((input * inner).max(1)).take(outer) {
        for taps in table {
            match taps.as_deref() {
                None => y.extend(std::iter::repeat_n(outside, inner)),
                Some(&[(at, 1.0)]) => y.extend_from_slice(&plane[at * inner..][..inner]),
                Some(taps) => y.extend((0..inner).map(|i| {
                    T::of(taps.iter().map(|&(at, weight)| weight * plane[at * inner + i].wide()).sum())
                })),
            }
        }
    }
    y
}
