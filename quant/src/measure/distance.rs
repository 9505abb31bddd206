//! Elementwise distance: SQNR, cosine, relative L2, largest and mean error.

use crate::error::{Error, check_len};
use crate::range::density::{MAX_DB, decibels};
use crate::range::exact_sum::ExactSum;

/// Elementwise distance between a reference and another result.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Distance {
    count: u64,
    broken: u64,
    reference: ExactSum,
    other: ExactSum,
    product: ExactSum,
    squared_error: ExactSum,
    absolute_error: ExactSum,
    max_error: f64,
    max_reference: f64,
}

impl Distance {
    /// Adds a pair of slices of equal length.
    pub fn add(&mut self, reference: &[f32], other: &[f32]) -> Result<(), Error> {
        check_len("result to compare", reference.len(), other.len())?;
        let part = sums_of(reference, other);
        if !part.finite {
            self.broken += reference.iter().zip(other).filter(|(r, o)| !alike(**r, **o)).count() as u64;
        }
        self.max_error = self.max_error.max(part.max_error);
        self.max_reference = self.max_reference.max(part.max_reference);
        self.count += reference.len() as u64;
        for (total, sum) in self.sums_mut().into_iter().zip(part.sums) {
            total.add(sum);
        }
        Ok(())
    }

    fn sums_mut(&mut self) -> [&mut ExactSum; 5] {
        [
            &mut self.reference,
            &mut self.other,
            &mut self.product,
            &mut self.squared_error,
            &mut self.absolute_error,
        ]
    }

    /// Adds what another one measured.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.broken += other.broken;
        self.max_error = self.max_error.max(other.max_error);
        self.max_reference = self.max_reference.max(other.max_reference);
        let theirs =
            [&other.reference, &other.other, &other.product, &other.squared_error, &other.absolute_error];
        for (a, b) in self.sums_mut().into_iter().zip(theirs) {
            a.merge(b);
        }
    }

    /// Pairs compared.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Pairs of which one only is NaN or Inf, or that are unlike ones.
    pub fn broken(&self) -> u64 {
        self.broken
    }

    /// 10·log10(Σ r² / Σ (r - o)²); 200 for equal results, -200 if anything is broken.
    pub fn sqnr_db(&self) -> f64 {
        if self.broken > 0 { -MAX_DB } else { decibels(self.reference.value(), self.squared_error.value()) }
    }

    /// Cosine of the angle between the two; 1 if both are zero, 0 if one is.
    pub fn cosine(&self) -> f64 {
        let (r, o) = (self.reference.value(), self.other.value());
        if r == 0.0 && o == 0.0 {
            return 1.0;
        }
        if r == 0.0 || o == 0.0 {
            return 0.0;
        }
        (self.product.value() / (r.sqrt() * o.sqrt())).clamp(-1.0, 1.0)
    }

    /// √(Σ (r - o)² / Σ r²); 0 for equal results, Inf if only the reference is zero.
    pub fn relative_l2(&self) -> f64 {
        let e = self.squared_error.value();
        if e == 0.0 { 0.0 } else { (e / self.reference.value()).sqrt() }
    }

    /// Largest |r - o|.
    pub fn max_abs(&self) -> f64 {
        self.max_error
    }

    /// Largest |r|.
    pub fn max_reference(&self) -> f64 {
        self.max_reference
    }

    /// Mean |r - o|.
    pub fn mean_abs(&self) -> f64 {
        self.absolute_error.value() / self.count.saturating_sub(self.broken).max(1) as f64
    }

    /// Mean (r - o)².
    pub fn mean_square(&self) -> f64 {
        self.squared_error.value() / self.count.saturating_sub(self.broken).max(1) as f64
    }
}

/// Both finite, or the same NaN or Inf.
fn alike(r: f32, o: f32) -> bool {
    (r.is_finite() && o.is_finite()) || (r.is_nan() && o.is_nan()) || r == o
}

/// Sums over the pairs of which both are finite.
struct Part {
    /// r², o², r·o, e², |e|.
    sums: [f64; 5],
    max_error: f64,
    max_reference: f64,
    /// Whether all pairs are finite.
    finite: bool,
}

crate::dispatch! {
    fn sums_of, sums_of_avx2 = sums_of_body(reference: &[f32], other: &[f32]) -> Part
}

/// Eight lanes by position, folded in order: the same result for every vector width.
#[inline(always)]
fn sums_of_body(reference: &[f32], other: &[f32]) -> Part {
    const LANES: usize = 8;
    let mut sums = [[0.0f64; LANES]; 5];
    let (mut error, mut size, mut odd) = ([0.0f64; LANES], [0.0f64; LANES], [false; LANES]);
    let mut each = |i: usize, r: f32, o: f32| {
        let ok = (r.abs() < f32::INFINITY) & (o.abs() < f32::INFINITY);
        odd[i] |= !ok;
        let (r, o) = (f64::from(if ok { r } else { 0.0 }), f64::from(if ok { o } else { 0.0 }));
        let e = (r - o).abs();
        sums[0][i] += r * r;
        sums[1][i] += o * o;
        sums[2][i] += r * o;
        sums[3][i] += e * e;
        sums[4][i] += e;
        error[i] = if e > error[i] { e } else { error[i] };
        size[i] = if r.abs() > size[i] { r.abs() } else { size[i] };
    };
    let ((rs, r), (os, o)) = (reference.as_chunks::<LANES>(), other.as_chunks::<LANES>());
    for (r, o) in rs.iter().zip(os) {
        for i in 0..LANES {
            each(i, r[i], o[i]);
        }
    }
    for (i, (r, o)) in r.iter().zip(o).enumerate() {
        each(i, *r, *o);
    }
    Part {
        sums: sums.map(|lanes| lanes.iter().sum()),
        max_error: error.into_iter().fold(0.0, f64::max),
        max_reference: size.into_iter().fold(0.0, f64::max),
        finite: !odd.iter().any(|b| *b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn distances_by_hand() {
        let mut d = Distance::default();
        d.add(&[3.0, 4.0], &[3.0, 3.5]).unwrap();
        assert!((d.sqnr_db() - 10.0 * (25.0f64 / 0.25).log10()).abs() < 1e-12);
        assert_eq!((d.max_abs(), d.mean_abs(), d.relative_l2()), (0.5, 0.25, 0.1));
        assert!((d.cosine() - 23.0 / (5.0 * 21.25f64.sqrt())).abs() < 1e-15);
        let mut same = Distance::default();
        same.add(&[1.0, f32::NAN, f32::INFINITY], &[1.0, f32::NAN, f32::INFINITY]).unwrap();
        assert_eq!((same.sqnr_db(), same.broken(), same.relative_l2()), (200.0, 0, 0.0));
        same.add(&[1.0], &[f32::NAN]).unwrap();
        same.add(&[f32::INFINITY], &[f32::NEG_INFINITY]).unwrap();
        assert_eq!((same.sqnr_db(), same.broken()), (-200.0, 2));
        let mut zero = Distance::default();
        zero.add(&[0.0], &[0.0]).unwrap();
        assert_eq!((zero.sqnr_db(), zero.cosine()), (200.0, 1.0));
        zero.add(&[0.0], &[1.0]).unwrap();
        assert_eq!((zero.sqnr_db(), zero.cosine(), zero.relative_l2()), (-200.0, 0.0, f64::INFINITY));
        assert!(zero.add(&[0.0], &[]).is_err());
        assert_eq!(Distance::default().mean_abs(), 0.0);
    }

    proptest! {
        #[test]
        fn order_of_samples_does_not_matter(x in prop::collection::vec((any::<f32>(), any::<f32>()), 0..40), n in 1usize..6) {
            let parts: Vec<_> = x.chunks(n).collect();
            let measure = |parts: &mut dyn Iterator<Item = &&[(f32, f32)]>| {
                let mut all = Distance::default();
                for p in parts {
                    let mut d = Distance::default();
                    let (r, o): (Vec<f32>, Vec<f32>) = p.iter().copied().unzip();
                    d.add(&r, &o).unwrap();
                    all.merge(&d);
                }
                all
            };
            prop_assert_eq!(measure(&mut parts.iter()), measure(&mut parts.iter().rev()));
        }
    }
}
