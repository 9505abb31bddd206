//! The discrete Fourier transform of one line: even lengths split in two, odd ones are summed directly.

/// A complex number.
pub type Complex = (f64, f64);

/// `X[k] = sum_n x[n] exp(-+ 2 pi i k n / N)`; with `inverse` the sign is plus and the sum is divided by `N`.
pub fn transform(x: &[Complex], inverse: bool) -> Vec<Complex> {
    let n = x.len();
    if n == 0 {
        return Vec::new();
    }
    // One table of all n-th roots of unity serves every level: a line of n/m points steps m through it.
    let sign = if inverse { 1.0 } else { -1.0 };
    let root = |k: usize| {
        let angle = sign * 2.0 * std::f64::consts::PI * k as f64 / n as f64;
        (angle.cos(), angle.sin())
    };
    let roots: Vec<Complex> = (0..n).map(root).collect();
    let mut out = line(x, 0, 1, n, &roots);
    if inverse {
        out.iter_mut().for_each(|(re, im)| {
            *re /= n as f64;
            *im /= n as f64;
        });
    }
    out
}

/// The transform of `count` points from `start`, `step` apart; `count * step` is the length of `roots`.
fn line(x: &[Complex], start: usize, step: usize, count: usize, roots: &[Complex]) -> Vec<Complex> {
    if count == 1 {
        return vec![x[start]];
    }
    if count % 2 == 1 {
        let sum = |k: usize| {
            (0..count).fold((0.0, 0.0), |sum, n| {
                let term = times(x[start + n * step], roots[(k * n % count) * step]);
                (sum.0 + term.0, sum.1 + term.1)
            })
        };
        return (0..count).map(sum).collect();
    }
    let even = line(x, start, step * 2, count / 2, roots);
    let odd = line(x, start + step, step * 2, count / 2, roots);
    let mut out = vec![(0.0, 0.0); count];
    for (k, (&even, &odd)) in even.iter().zip(&odd).enumerate() {
        let odd = times(odd, roots[k * step]);
        out[k] = (even.0 + odd.0, even.1 + odd.1);
        out[k + count / 2] = (even.0 - odd.0, even.1 - odd.1);
    }
    out
}

fn times(a: Complex, b: Complex) -> Complex {
    (a.0 * b.0 - a.1 * b.1, a.0 * b.1 + a.1 * b.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverse_undoes_and_a_shifted_impulse_is_a_spiral() {
        for n in [1, 2, 3, 6, 8, 12, 15] {
            let x: Vec<Complex> = (0..n).map(|i| (f64::from(i * i % 7), f64::from(i % 3))).collect();
            let back = transform(&transform(&x, false), true);
            // Rounding of n additions of numbers below 10 in f64.
            assert!(x.iter().zip(&back).all(|(a, b)| (a.0 - b.0).abs() < 1e-12 && (a.1 - b.1).abs() < 1e-12));
        }
        let spiral = transform(&[(0.0, 0.0), (1.0, 0.0), (0.0, 0.0), (0.0, 0.0)], false);
        let expected = [(1.0, 0.0), (0.0, -1.0), (-1.0, 0.0), (0.0, 1.0)];
        assert!(
            spiral.iter().zip(expected).all(|(a, b)| (a.0 - b.0).abs() < 1e-15 && (a.1 - b.1).abs() < 1e-15)
        );
    }
}
