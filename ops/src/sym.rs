//! Arithmetic on sizes. Known sizes give known sizes, anything else what can be said.

use ir::Dim;

fn both(a: &Dim, b: &Dim, f: impl Fn(i64, i64) -> Option<i64>) -> Dim {
    match (a, b) {
        (Dim::Known(a), Dim::Known(b)) => f(*a, *b).map_or(Dim::Unknown, Dim::Known),
        _ => Dim::Unknown,
    }
}

/// `a + b`.
pub fn add(a: &Dim, b: &Dim) -> Dim {
    match (a, b) {
        (Dim::Known(0), other) | (other, Dim::Known(0)) => other.clone(),
        _ => both(a, b, i64::checked_add),
    }
}

/// `a - b`.
pub fn sub(a: &Dim, b: &Dim) -> Dim {
    match (a, b) {
        (other, Dim::Known(0)) => other.clone(),
        _ => both(a, b, i64::checked_sub),
    }
}

/// `a * b`.
pub fn mul(a: &Dim, b: &Dim) -> Dim {
    match (a, b) {
        (Dim::Known(1), other) | (other, Dim::Known(1)) => other.clone(),
        _ => both(a, b, i64::checked_mul),
    }
}

/// `a / b` rounded down; unknown where `b` is zero.
pub fn floor_div(a: &Dim, b: &Dim) -> Dim {
    both(a, b, |a, b| a.checked_div_euclid(b).filter(|_| b > 0))
}

/// `a / b` rounded up; unknown where `b` is zero.
pub fn ceil_div(a: &Dim, b: &Dim) -> Dim {
    both(a, b, |a, b| a.checked_add(b)?.checked_sub(1)?.checked_div_euclid(b).filter(|_| b > 0))
}

/// The smaller one.
pub fn min(a: &Dim, b: &Dim) -> Dim {
    if a == b && *a != Dim::Unknown { a.clone() } else { both(a, b, |a, b| Some(a.min(b))) }
}

/// The larger one.
pub fn max(a: &Dim, b: &Dim) -> Dim {
    if a == b && *a != Dim::Unknown { a.clone() } else { both(a, b, |a, b| Some(a.max(b))) }
}

/// The product of all.
pub fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
    dims.into_iter().fold(Dim::Known(1), |product, dim| mul(&product, dim))
}

/// A size of that name.
pub fn symbol(name: &str) -> Dim {
    Dim::symbol(name)
}
