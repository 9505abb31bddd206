//! Pooling over slices: one walk over windows, several ways to sum them up.

use super::real::Real;
use super::window::{Axis, advance};
use crate::array::strides;

/// The taps of one window: indices into the image and how many positions lie in the image or its pads.
pub struct WindowTaps<'a> {
    /// Flat indices into one channel's image, in row-major order of the window.
    pub inside: &'a [usize],
    /// Positions inside the image and its pads, for means that count pads.
    pub padded: usize,
}

/// Calls `pool` for every output position with its taps, position fastest along the last axis. The taps depend on the
/// position alone, so callers loop over images and channels inside.
pub fn for_windows(axes: &[Axis], mut pool: impl FnMut(usize, WindowTaps<'_>)) {
    let outputs: Vec<usize> = axes.iter().map(|axis| axis.output).collect();
    if outputs.contains(&0) {
        return;
    }
    let strides = strides(&axes.iter().map(|axis| axis.input).collect::<Vec<_>>());
    let mut at = vec![0; axes.len()];
    let mut inside = Vec::new();
    let mut position = 0;
    loop {
        inside.clear();
        inside.push(0);
        for (axis, (&at, &stride)) in axes.iter().zip(at.iter().zip(&strides)) {
            let taps: Vec<usize> = axis.taps(at).map(|(_, input)| input * stride).collect();
            inside = inside.iter().flat_map(|&base| taps.iter().map(move |tap| base + tap)).collect();
        }
        let padded = axes.iter().zip(&at).map(|(axis, &at)| axis.padded_count(at)).product();
        pool(position, WindowTaps { inside: &inside, padded });
        position += 1;
        if !advance(&mut at, &outputs) {
            break;
        }
    }
}

fn sizes(axes: &[Axis]) -> (usize, usize) {
    (axes.iter().map(|axis| axis.input).product(), axes.iter().map(|axis| axis.output).product())
}

/// What a mean divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divisor {
    /// The taps inside the image.
    Inside,
    /// The taps inside the image and its pads (`count_include_pad`).
    Padded,
}

/// The mean of every window of `planes` images. A window without taps gives 0.
pub fn average<T: Real>(x: &[T], planes: usize, axes: &[Axis], divisor: Divisor) -> Vec<T> {
    let (inputs, outputs) = sizes(axes);
    let mut y = vec![T::zero(); planes * outputs];
    for_windows(axes, |at, taps| {
        let count = match divisor {
            Divisor::Inside => taps.inside.len(),
            Divisor::Padded => taps.padded,
        };
        for plane in 0..planes {
            let x = &x[plane * inputs..][..inputs];
            let sum: f64 = taps.inside.iter().map(|&tap| x[tap].wide()).sum();
            y[plane * outputs + at] = T::of(if count == 0 { 0.0 } else { sum / count as f64 });
        }
    });
    y
}

/// The p-norm of every window.
pub fn norm<T: Real>(x: &[T], planes: usize, axes: &[Axis], p: f64) -> Vec<T> {
    let (inputs, outputs) = sizes(axes);
    let mut y = vec![T::zero(); planes * outputs];
    for_windows(axes, |at, taps| {
        for plane in 0..planes {
            let x = &x[plane * inputs..][..inputs];
            let sum: f64 = taps.inside.iter().map(|&tap| x[tap].wide().abs().powf(p)).sum();
            y[plane * outputs + at] = T::of(sum.powf(1.0 / p));
        }
    });
    y
}

/// The greatest element of every window and its index in one channel's image; none where a window has no taps. The
/// first of equal elements wins; NaN is never greater.
pub fn maximum<T: Copy + PartialOrd>(x: &[T], planes: usize, axes: &[Axis]) -> Vec<Option<(T, usize)>> {
    let (inputs, outputs) = sizes(axes);
    let mut y = vec![None; planes * outputs];
    for_windows(axes, |at, taps| {
        for plane in 0..planes {
            let x = &x[plane * inputs..][..inputs];
            let mut best: Option<(T, usize)> = None;
            for &tap in taps.inside {
                if best.is_none_or(|(greatest, _)| x[tap] > greatest) {
                    best = Some((x[tap], tap));
                }
            }
            y[plane * outputs + at] = best;
        }
    });
    y
}
