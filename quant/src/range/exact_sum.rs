//! A sum of f64 numbers that does not depend on their order: fixed point wide enough to be exact.
//!
//! Statistics are merged over shards and threads in any order and must come out bit-identical, which floating-point
//! addition does not give. Here a number is split into 32-bit digits at fixed places (a Kulisch accumulator), kept only
//! where they are not zero: activations touch three to six of the seventy places.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// Weight of the lowest place: every finite f64 is a multiple of 2^-1074.
const LOWEST: i32 = -1074;

/// The exact sum of the finite numbers added so far.
///
/// The value is Σ `digits[i]`·2^(32·(first + i) - 1074), with 0 ≤ digit < 2^32 except the last, which carries the sign;
/// first and last digits are not zero. So equal sums have equal fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Raw", try_from = "Raw")]
pub struct ExactSum {
    first: u16,
    /// In place: there is a sum for each channel of each value.
    digits: SmallVec<[i64; 4]>,
}

#[derive(Serialize, Deserialize)]
struct Raw {
    first: u16,
    digits: Vec<i64>,
}

impl From<ExactSum> for Raw {
    fn from(sum: ExactSum) -> Self {
        Self { first: sum.first, digits: sum.digits.into_vec() }
    }
}

impl TryFrom<Raw> for ExactSum {
    type Error = &'static str;
    fn try_from(raw: Raw) -> Result<Self, Self::Error> {
        // f64 has 66 places; sums of 2^64 terms need two more.
        let small = |d: &i64| (i64::from(i32::MIN)..1 << 32).contains(d);
        if usize::from(raw.first) + raw.digits.len() > 72 || !raw.digits.iter().all(small) {
            return Err("not an exact sum");
        }
        let mut sum = Self { first: raw.first, digits: raw.digits.into() };
        sum.normalize();
        Ok(sum)
    }
}

impl ExactSum {
    /// Adds `x`. Inf and NaN are ignored: callers count them apart.
    pub fn add(&mut self, x: f64) {
        if x == 0.0 || !x.is_finite() {
            return;
        }
        let bits = x.to_bits();
        let exponent = ((bits >> 52) & 0x7ff) as u32;
        let fraction = bits & ((1 << 52) - 1);
        // x = ±mantissa·2^(shift - 1074)
        let (mantissa, shift) =
            if exponent == 0 { (fraction, 0) } else { (fraction | 1 << 52, exponent - 1) };
        let wide = u128::from(mantissa) << (shift % 32);
        let sign = if x < 0.0 { -1 } else { 1 };
        let mut part = [0i64; 3];
        for (i, p) in part.iter_mut().enumerate() {
            *p = sign * ((wide >> (32 * i)) as u32 as i64);
        }
        let used = part.iter().rposition(|p| *p != 0).map_or(0, |last| last + 1);
        self.add_digits((shift / 32) as u16, &part[..used]);
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Self) {
        self.add_digits(other.first, &other.digits);
    }

    fn add_digits(&mut self, first: u16, part: &[i64]) {
        if part.is_empty() {
            return;
        }
        if self.digits.is_empty() {
            self.first = first;
        }
        if first < self.first {
            let missing = usize::from(self.first - first);
            self.digits.insert_many(0, std::iter::repeat_n(0, missing));
            self.first = first;
        }
        let at = usize::from(first - self.first);
        // The digit that was the last one has a sign.
        let from = at.min(self.digits.len().saturating_sub(1));
        if self.digits.len() < at + part.len() {
            self.digits.resize(at + part.len(), 0);
        }
        self.digits[at..].iter_mut().zip(part).for_each(|(d, p)| *d += p);
        if !self.carry(from) {
            self.normalize();
        }
    }

    /// Carries from digit `from` on, which is all that most additions need; whether the sum has its one form then.
    fn carry(&mut self, from: usize) -> bool {
        let Some((last, digits)) = self.digits.split_last_mut() else { return false };
        let mut carry = 0;
        for d in digits.iter_mut().skip(from) {
            let sum = *d + carry;
            (*d, carry) = (sum & 0xffff_ffff, sum >> 32);
        }
        *last += carry;
        let fits = i32::try_from(*last).is_ok_and(|last| last != 0 && last != -1);
        fits && self.digits.first() != Some(&0)
    }

    fn normalize(&mut self) {
        let mut carry = 0i64;
        let last = self.digits.len().saturating_sub(1);
        for (i, d) in self.digits.iter_mut().enumerate() {
            let sum = *d + carry;
            // The last digit keeps the sign; it spills only when it outgrows 32 bits.
            (*d, carry) = if i == last { (sum, 0) } else { (sum & 0xffff_ffff, sum >> 32) };
        }
        while let Some(d) =
            self.digits.last_mut().filter(|d| **d > i64::from(i32::MAX) || **d < i64::from(i32::MIN))
        {
            let high = *d >> 32;
            *d &= 0xffff_ffff;
            self.digits.push(high);
        }
        // One form for each value: a last digit of 0 or -1 above a digit that can carry the sign itself is dropped.
        while let [.., low, high] = self.digits[..] {
            let joined = (high << 32).wrapping_add(low);
            if !(i64::from(i32::MIN)..=i64::from(i32::MAX)).contains(&high) || i32::try_from(joined).is_err()
            {
                break;
            }
            self.digits.pop();
            if let Some(d) = self.digits.last_mut() {
                *d = joined;
            }
        }
        while self.digits.last() == Some(&0) {
            self.digits.pop();
        }
        let zeros = self.digits.iter().take_while(|d| **d == 0).count();
        self.digits.drain(..zeros);
        self.first = if self.digits.is_empty() { 0 } else { self.first + zeros as u16 };
    }

    /// The sum as an f64: the top 96 bits or more, rounded.
    pub fn value(&self) -> f64 {
        let n = self.digits.len();
        let top = &self.digits[n.saturating_sub(3)..];
        let wide = top.iter().rev().fold(0i128, |w, &d| (w << 32) + i128::from(d));
        let place = 32 * (i32::from(self.first) + (n - top.len()) as i32) + LOWEST;
        // Two factors: 2^place alone may be below the least f64.
        let half = place / 2;
        wide as f64 * 2f64.powi(half) * 2f64.powi(place - half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(x: &[f64]) -> ExactSum {
        let mut s = ExactSum::default();
        x.iter().for_each(|&x| s.add(x));
        s
    }

    #[test]
    fn cancels_exactly() {
        assert_eq!(sum(&[1e300, 1.0, -1e300]).value(), 1.0);
        assert_eq!(sum(&[1e-300, -1.0, 1.0]).value(), 1e-300);
        assert_eq!(sum(&[5e-324, -5e-324]), ExactSum::default());
        assert_eq!(sum(&[f64::MAX, f64::MAX, -f64::MAX]).value(), f64::MAX);
        assert_eq!(sum(&[5e-324]).value(), 5e-324);
        assert_eq!(sum(&[f64::NAN, f64::INFINITY, 2.0]).value(), 2.0);
        assert_eq!(sum(&[-0.1, -0.2, 0.1, 0.2]), ExactSum::default());
        assert_eq!(sum(&vec![-1.5; 100_000]).value(), -150_000.0);
        assert_eq!(sum(&vec![-1.0; 4096]), sum(&[-4096.0]));
        assert_eq!(sum(&[4294967296.0 * 3.0, -1.0, 1.0]), sum(&[4294967296.0 * 3.0]));
    }

    proptest! {
        #[test]
        fn order_and_grouping_do_not_matter(mut x in prop::collection::vec(prop_oneof![any::<f64>(), -1e3..1e3f64], 0..30), cut in 0usize..30) {
            let a = sum(&x);
            x.reverse();
            let (l, r) = x.split_at(cut.min(x.len()));
            let mut b = sum(r);
            b.merge(&sum(l));
            prop_assert_eq!(&a, &b);
            let neg: Vec<f64> = x.iter().map(|v| -v).collect();
            b.merge(&sum(&neg));
            prop_assert_eq!(b, ExactSum::default());
        }

        #[test]
        fn value_is_near(x in prop::collection::vec(-1e6f64..1e6, 0..50)) {
            // f64 addition of 50 numbers below 1e6 is off by at most 50·5e7·2^-53.
            let plain: f64 = x.iter().sum();
            prop_assert!((sum(&x).value() - plain).abs() <= 1e-6);
        }
    }
}
