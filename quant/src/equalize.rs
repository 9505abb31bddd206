//! Cross-layer equalization: scaling channels between two linear layers so that all use their grid alike.
//!
//! For layers joined by a function f with f(s·x) = s·f(x) for s > 0 (Relu, LeakyRelu, PRelu, nothing), dividing output
//! channel i of the first by s and multiplying input channel i of the second by s changes no result. With r the largest
//! magnitudes of the channel on both sides, s = √(r1/r2) gives both sides √(r1·r2) (Nagel et al., arXiv 1906.04721).
//! With a depthwise layer in between, three sides become equal: m = ∛(r1·r2·r3).
//!
//! Which layers may be joined this way is the caller's to know: a tensor that anything else reads, or a Clip in between,
//! forbids it.

use crate::error::{Error, check_len};
use crate::quantize::Layout;

/// Largest factor either way: beyond it a nearly dead channel would push its neighbour's numbers out of float16.
const LIMIT: f64 = 1024.0;

/// Whether factors are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Factors {
    /// As computed.
    #[default]
    Exact,
    /// To powers of two: the float model then gives the same bits as before.
    PowersOfTwo,
}

impl Factors {
    /// `s` within the limits; 1 where it says nothing (NaN, 0, Inf).
    fn settle(self, s: f64) -> f32 {
        if !(s.is_finite() && s > 0.0) {
            return 1.0;
        }
        let s = s.clamp(1.0 / LIMIT, LIMIT);
        match self {
            Self::Exact => s as f32,
            Self::PowersOfTwo => s.log2().round_ties_even().exp2() as f32,
        }
    }
}

/// Factors s for channels whose largest magnitudes are `first` (rows of the first layer) and `second` (columns of the
/// second): divide the first layer's rows and bias by s, multiply the second's columns. A channel that is dead on
/// either side keeps 1.
pub fn pair(first: &[f32], second: &[f32], factors: Factors) -> Result<Vec<f32>, Error> {
    check_len("channels of the second layer", first.len(), second.len())?;
    Ok(first
        .iter()
        .zip(second)
        .map(|(&a, &b)| factors.settle((f64::from(a) / f64::from(b)).sqrt()))
        .collect())
}

/// Factors (s12, s23) with a depthwise layer (largest magnitudes `middle`) in between: divide the first layer's rows and
/// bias by s12; multiply the middle's weights by s12 / s23 and divide its bias by s23; multiply the last's columns by
/// s23.
pub fn triple(
    first: &[f32],
    middle: &[f32],
    last: &[f32],
    factors: Factors,
) -> Result<(Vec<f32>, Vec<f32>), Error> {
    check_len("channels of the depthwise layer", first.len(), middle.len())?;
    check_len("channels of the last layer", first.len(), last.len())?;
    let each = first.iter().zip(middle).zip(last).map(|((&a, &b), &c)| {
        let (a, b, c) = (f64::from(a), f64::from(b), f64::from(c));
        let m = (a * b * c).cbrt();
        if m.is_finite() && m > 0.0 { (factors.settle(a / m), factors.settle(m / c)) } else { (1.0, 1.0) }
    });
    Ok(each.unzip())
}

/// Largest magnitude under each of the layout's scales; NaN and Inf are passed over.
pub fn abs_max(x: &[f32], layout: &Layout) -> Result<Vec<f32>, Error> {
    if layout.axis().is_some() {
        return Ok(crate::range::Channels::observe(x, layout)?.abs_max());
    }
    check_len("elements of the layout", layout.len(), x.len())?;
    let mut greatest = vec![0f32; layout.params_len()];
    for (i, v) in x.iter().enumerate().filter(|(_, v)| v.is_finite()) {
        let place = &mut greatest[layout.param_of(i)];
        *place = place.max(v.abs());
    }
    Ok(greatest)
}

/// Multiplies each position of the layout's axis by its factor.
pub fn multiply(x: &mut [f32], layout: &Layout, factors: &[f32]) -> Result<(), Error> {
    scale(x, layout, factors, |v, s| v * s)
}

/// Divides each position of the layout's axis by its factor.
pub fn divide(x: &mut [f32], layout: &Layout, factors: &[f32]) -> Result<(), Error> {
    scale(x, layout, factors, |v, s| v / s)
}

fn scale(x: &mut [f32], layout: &Layout, factors: &[f32], f: impl Fn(f32, f32) -> f32) -> Result<(), Error> {
    check_len("elements of the layout", layout.len(), x.len())?;
    check_len("factors", layout.params_len(), factors.len())?;
    for (i, v) in x.iter_mut().enumerate() {
        *v = f(*v, factors[layout.param_of(i)]);
    }
    Ok(())
}

/// The part of each output channel's bias that the next layer can take over, when a normalization with these shifts and
/// gains made the channel: values below shift - 3·|gain| are rare, so that much passes a Relu unchanged. Take c off the
/// first layer's bias and add Σ W2·c to the second's. Without a Relu in between all of the shift can move.
pub fn absorbable(shift: &[f32], gain: &[f32], relu: bool) -> Result<Vec<f32>, Error> {
    check_len("gains beside the shifts", shift.len(), gain.len())?;
    let part = |(&b, &g): (&f32, &f32)| if relu { (b - 3.0 * g.abs()).max(0.0) } else { b };
    Ok(shift.iter().zip(gain).map(part).map(|c| if c.is_finite() { c } else { 0.0 }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_become_equal() {
        let (mut w1, mut w2) = (vec![8.0, -2.0, 0.5, 0.25], vec![0.5, 2.0, -0.125, 1.0]);
        let (rows, columns) = (Layout::per_axis(&[2, 2], 0).unwrap(), Layout::per_axis(&[2, 2], 1).unwrap());
        let s =
            pair(&abs_max(&w1, &rows).unwrap(), &abs_max(&w2, &columns).unwrap(), Factors::Exact).unwrap();
        assert_eq!(s, [4.0, 0.5]);
        divide(&mut w1, &rows, &s).unwrap();
        multiply(&mut w2, &columns, &s).unwrap();
        assert_eq!((w1, w2), (vec![2.0, -0.5, 1.0, 0.5], vec![2.0, 1.0, -0.5, 0.5]));
    }

    #[test]
    fn three_sides_become_equal() {
        let (a, b, c) = ([6.0f32, 0.01], [0.5f32, 3.0], [0.07f32, 2.0]);
        let (s12, s23) = triple(&a, &b, &c, Factors::Exact).unwrap();
        for i in 0..2 {
            let sides = [a[i] / s12[i], b[i] * s12[i] / s23[i], c[i] * s23[i]];
            // three float32 products
            assert!(sides.iter().all(|v| (v / sides[0] - 1.0).abs() < 1e-6), "{sides:?}");
        }
    }

    #[test]
    fn dead_and_wild_channels_stay_put() {
        let s =
            pair(&[0.0, 1.0, f32::NAN, 1e30, f32::INFINITY], &[1.0, 0.0, 1.0, 1e-30, 1.0], Factors::Exact);
        assert_eq!(s.unwrap(), [1.0, 1.0, 1.0, 1024.0, 1.0]);
        assert_eq!(triple(&[0.0], &[1.0], &[1.0], Factors::Exact).unwrap(), (vec![1.0], vec![1.0]));
        assert_eq!(pair(&[3.0], &[0.4], Factors::PowersOfTwo).unwrap(), [2.0]);
        assert!(pair(&[1.0], &[], Factors::Exact).is_err());
        assert_eq!(absorbable(&[5.0, 1.0, f32::NAN], &[1.0, -1.0, 1.0], true).unwrap(), [2.0, 0.0, 0.0]);
        assert_eq!(absorbable(&[-5.0], &[1.0], false).unwrap(), [-5.0]);
    }
}
