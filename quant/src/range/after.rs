//! The range of a value that only a function reads: what counts is the error behind the function.
//!
//! Sigmoid, SiLU, HardSwish, Gelu are flat on one side or on both. There an error of the input costs nothing, so the codes
//! may be spent where the function is steep: a SiLU whose input runs from -12 to 6 is served better by -4 to 6, with a step
//! almost half as wide.
//!
//! The expected squared error of f(rounded x) - f(x) is summed over four points of each piece of the sketch's density, with
//! f as a table over the extent. The search is that of [`super::mse`].

use super::density::{Density, decibels};
use super::mse::search;
use super::sketch::Sketch;
use super::{Choice, Method};
use crate::grid::{Grid, Params, Policy};

/// A function of one number, as a table of evenly spaced points over an interval; straight lines in between, constant beyond.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    lo: f64,
    step: f64,
    values: Vec<f64>,
}

impl Table {
    /// The points of which [`Self::new`] wants the values: `count` of them from `lo` to `hi`.
    pub fn points(lo: f32, hi: f32, count: usize) -> Vec<f32> {
        let (lo, hi) = (f64::from(lo), f64::from(hi));
        let last = count.max(2) - 1;
        (0..=last).map(|at| (lo + (hi - lo) * at as f64 / last as f64) as f32).collect()
    }

    /// The table of these values at [`Self::points`]. None if a value is not finite, or the interval is empty.
    pub fn new(lo: f32, hi: f32, values: &[f32]) -> Option<Table> {
        let step = (f64::from(hi) - f64::from(lo)) / (values.len().checked_sub(1)? as f64);
        let fits = step.is_finite() && step > 0.0 && values.iter().all(|v| v.is_finite());
        fits.then(|| Table { lo: lo.into(), step, values: values.iter().map(|&v| v.into()).collect() })
    }

    /// The function at `x`.
    pub fn at(&self, x: f64) -> f64 {
        let last = self.values.len() - 1;
        let place = ((x - self.lo) / self.step).clamp(0.0, last as f64);
        let index = (place as usize).min(last.saturating_sub(1));
        let (a, b) = (self.values[index], self.values[(index + 1).min(last)]);
        a + (b - a) * (place - index as f64)
    }
}

/// The sampled density and what the function makes of it.
struct Samples {
    x: Vec<f64>,
    y: Vec<f64>,
    count: Vec<f64>,
    signal: f64,
}

impl Samples {
    fn of(sketch: &Sketch, f: &Table) -> Samples {
        let density = Density::of(sketch);
        let (from, to, count) = density.pieces();
        let (mut x, mut n) = (Vec::with_capacity(4 * count.len() + 1), Vec::new());
        for ((&a, &b), &count) in from.iter().zip(to).zip(count) {
            for part in [0.125, 0.375, 0.625, 0.875] {
                x.push(a + (b - a) * part);
                n.push(0.25 * count);
            }
        }
        // Every grid holds zero itself, so zeros cost nothing; but they are signal.
        let y: Vec<f64> = x.iter().map(|&x| f.at(x)).collect();
        let zero = f.at(0.0);
        let signal = y.iter().zip(&n).map(|(y, n)| n * y * y).sum::<f64>() + density.zeros() * zero * zero;
        Samples { x, y, count: n, signal }
    }

    /// Σ of squared errors behind the function.
    fn noise(&self, f: &Table, params: Params, grid: Grid) -> f64 {
        let (lo, hi) = grid.codes();
        let (scale, zero) = (f64::from(params.scale()), params.zero_point());
        let behind: Vec<f64> = (lo..=hi).map(|code| f.at(f64::from(code - zero) * scale)).collect();
        let (least, most, inverse) = (f64::from(lo), f64::from(hi), 1.0 / scale);
        let error = |((&x, &y), &n): ((&f64, &f64), &f64)| {
            let code = (x * inverse + f64::from(zero)).round_ties_even().clamp(least, most);
            let e = behind.get((code - least) as usize).copied().unwrap_or(y) - y;
            n * e * e
        };
        self.x.iter().zip(&self.y).zip(&self.count).map(error).sum()
    }
}

/// The choice with the least expected error behind `f`, weighed against `method`'s own: none if that is as good (within
/// `worthwhile` dB), if the codes are more than can be tabulated, or if nothing was seen. The decibels of the answer are
/// those behind the function.
pub fn range(
    sketch: &Sketch,
    grid: Grid,
    policy: &Policy,
    f: &Table,
    own: &Choice,
    worthwhile: f64,
) -> Option<Choice> {
    let (lo, hi) = sketch.extent()?;
    if grid.code.is_float() || grid.code.bits() > 8 {
        return None;
    }
    let samples = Samples::of(sketch, f);
    let noise = |lo: f32, hi: f32| samples.noise(f, Params::from_range(lo, hi, grid, policy).0, grid);
    let one_ended = grid.symmetric || lo >= 0.0 || hi <= 0.0;
    let (a, b) = search((lo, hi), one_ended, noise);
    let (before, after) = (samples.noise(f, own.params, grid), noise(a, b));
    if decibels(before, after) < worthwhile {
        return None;
    }
    let (params, note) = Params::from_range(a, b, grid, policy);
    let clipped = Density::of(sketch).clipped(params, grid);
    let sqnr_db = decibels(samples.signal, after);
    Some(Choice { method: Method::Mse, lo: a, hi: b, params, note, sqnr_db, clipped })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::CodeType;
    use crate::range::choose;

    fn spread(lo: f32, hi: f32) -> Sketch {
        Sketch::of(&Table::points(lo, hi, 40_000))
    }

    fn table(lo: f32, hi: f32, f: impl Fn(f32) -> f32) -> Table {
        let values: Vec<f32> = Table::points(lo, hi, 4096).into_iter().map(f).collect();
        Table::new(lo, hi, &values).unwrap()
    }

    #[test]
    fn the_flat_side_gets_no_codes() {
        let sketch = spread(-20.0, 6.0);
        let silu = table(-20.0, 6.0, |x| x / (1.0 + (-x).exp()));
        let (grid, policy) = (Grid::asymmetric(CodeType::U8), Policy::default());
        let own = choose(Method::Auto, &sketch, grid, &policy);
        let found = range(&sketch, grid, &policy, &silu, &own, 0.5).unwrap();
        assert!(found.lo > -9.0 && found.lo < -2.0, "{}", found.lo);
        assert!(found.hi > 5.9, "{}", found.hi);
        // A plain line behind the value changes nothing.
        let line = table(-20.0, 6.0, |x| 3.0 * x + 1.0);
        assert!(range(&sketch, grid, &policy, &line, &own, 0.5).is_none());
    }

    #[test]
    fn tables_interpolate_and_refuse() {
        let square = table(-1.0, 1.0, |x| x * x);
        // 4096 points: the error of a chord of x² is at most step²/8.
        assert!((square.at(0.3) - 0.09).abs() < 1e-7);
        assert_eq!(square.at(5.0), 1.0);
        assert!(Table::new(0.0, 0.0, &[1.0, 1.0]).is_none());
        assert!(Table::new(0.0, 1.0, &[1.0, f32::NAN]).is_none());
        assert!(Table::new(0.0, 1.0, &[]).is_none());
    }

    #[test]
    fn wide_codes_and_empty_sketches_are_declined() {
        let f = table(-1.0, 1.0, |x| x);
        let policy = Policy::default();
        for (grid, sketch) in [
            (Grid::asymmetric(CodeType::U16), spread(-1.0, 1.0)),
            (Grid::asymmetric(CodeType::U8), Sketch::new()),
        ] {
            let own = choose(Method::MinMax, &sketch, grid, &policy);
            assert!(range(&sketch, grid, &policy, &f, &own, 0.5).is_none());
        }
    }
}
