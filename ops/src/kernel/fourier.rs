//! The discrete Fourier transform of one line: even lengths split in two, short odd ones are summed directly, and lengths
//! with a long odd part become a convolution of a power-of-two length (Bluestein's chirp).

/// A complex number.
pub type Complex = (f64, f64);

/// Longest odd length that is summed directly.
const DIRECT: usize = 61;

/// `exp(i pi turns)`.
fn unit(turns: f64) -> Complex {
    let angle = std::f64::consts::PI * turns;
    (angle.cos(), angle.sin())
}

/// With `n k = (n² + k² - (k - n)²) / 2` the sum is a convolution with the chirp `exp(i pi k² / N)`.
fn chirp(x: &[Complex], sign: f64) -> Vec<Complex> {
    let n = x.len();
    let size = (2 * n - 1).next_power_of_two();
    // k² is reduced first: the sine of a large angle would have lost its last digits.
    let turn = |k: usize| unit(sign * ((k as u128 * k as u128) % (2 * n as u128)) as f64 / n as f64);
    let chirp: Vec<Complex> = (0..n).map(turn).collect();
    let conjugate = |(re, im): Complex| (re, -im);
    let mut left = vec![(0.0, 0.0); size];
    let mut right = left.clone();
    for (k, (&x, &turn)) in x.iter().zip(&chirp).enumerate() {
        left[k] = times(x, turn);
        right[k] = conjugate(turn);
        right[(size - k) % size] = conjugate(turn);
    }
    let product = transform(&left, false).into_iter().zip(transform(&right, false));
    let product: Vec<Complex> = product.map(|(a, b)| times(a, b)).collect();
    transform(&product, true).into_iter().zip(&chirp).map(|(sum, &turn)| times(sum, turn)).collect()
}

/// `X[k] = sum_n x[n] exp(-+ 2 pi i k n / N)`; with `inverse` the sign is plus and the sum is divided by `N`.
pub fn transform(x: &[Complex], inverse: bool) -> Vec<Complex> {
    let n = x.len();
    if n == 0 {
        return Vec::new();
    }
    let sign = if inverse { 1.0 } else { -1.0 };
    let mut out = if n >> n.trailing_zeros() > DIRECT {
        chirp(x, sign)
    } else {
        // One table of all n-th roots of unity serves every level: a line of n/m points steps m through it.
        let roots: Vec<Complex> = (0..n).map(|k| unit(sign * 2.0 * k as f64 / n as f64)).collect();
        line(x, 0, 1, n, &roots)
    };
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
    fn the_chirp_agrees_with_the_sum() {
        for n in [1usize, 2, 5, 61, 134] {
            let x: Vec<Complex> = (0..n).map(|i| ((i * i % 7) as f64, (i % 3) as f64)).collect();
            let direct = (0..n).map(|k| {
                x.iter().enumerate().fold((0.0, 0.0), |sum: Complex, (i, &x)| {
                    let term = times(x, unit(-2.0 * (i * k % n) as f64 / n as f64));
                    (sum.0 + term.0, sum.1 + term.1)
                })
            });
            // Rounding of a few hundred additions of numbers below 10.
            let near = |(a, b): (Complex, Complex)| (a.0 - b.0).abs() < 1e-10 && (a.1 - b.1).abs() < 1e-10;
            assert!(chirp(&x, -1.0).into_iter().zip(direct).all(near));
        }
    }

    #[test]
    fn inverse_undoes_and_a_shifted_impulse_is_a_spiral() {
        for n in [1, 2, 3, 6, 8, 12, 15, 67, 268] {
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
