//! Sizes as expressions over named sizes.
//!
//! [`ir::Dim::Symbol`] holds an expression as text in canonical form: two sizes with the same text are equal, and
//! `2*seq + 1 - seq` is written `seq + 1`. An expression is a polynomial with integer coefficients over names and over
//! `floordiv(a, b)`, `min(a, b)` and `max(a, b)`; rounding up and remainders are written with `floordiv`. A name that is
//! not an identifier stands in backticks.
//!
//! Names stand for sizes, so they are never negative; they may be zero. Expressions as such may be negative: they also
//! describe the contents of integer tensors. What cannot be said, overflows or grows beyond `MAX_TERMS` terms is
//! [`Dim::Unknown`].

mod expr;
mod text;

use ir::Dim;

use expr::Expr;

/// The size as an expression; none if nothing is known.
fn read(dim: &Dim) -> Option<Expr> {
    match dim {
        Dim::Known(value) => Some(Expr::constant(*value)),
        Dim::Symbol(text) => Some(text::parse(text).unwrap_or_else(|| Expr::symbol(text))),
        Dim::Unknown => None,
    }
}

fn write(expr: Option<Expr>) -> Dim {
    match expr {
        None => Dim::Unknown,
        Some(expr) => match expr.as_constant() {
            Some(value) => Dim::Known(value),
            None => text::print(&expr).map_or(Dim::Unknown, |text| Dim::Symbol(text.into())),
        },
    }
}

fn binary(a: &Dim, b: &Dim, f: impl Fn(&Expr, &Expr) -> Option<Expr>) -> Dim {
    match (read(a), read(b)) {
        (Some(a), Some(b)) => write(f(&a, &b)),
        _ => Dim::Unknown,
    }
}

/// A size of that name, whatever characters it has.
pub fn symbol(name: &str) -> Dim {
    write(Some(Expr::symbol(name)))
}

/// The text as a file would hold it: a name alone loses its backticks.
pub fn plain(dim: &Dim) -> Dim {
    match read(dim).as_ref().and_then(Expr::as_symbol) {
        Some(name) => Dim::symbol(name),
        None => dim.clone(),
    }
}

/// The size with a name replaced by another size.
pub fn substitute(dim: &Dim, name: &str, by: &Dim) -> Dim {
    match (dim, read(dim), read(by)) {
        (Dim::Symbol(_), Some(expr), Some(by)) => write(expr.substitute(name, &by)),
        (Dim::Symbol(_), Some(expr), None) if expr.names(name) => Dim::Unknown,
        _ => dim.clone(),
    }
}

/// The expression holds the name.
pub fn names(dim: &Dim, name: &str) -> bool {
    matches!(dim, Dim::Symbol(_)) && read(dim).is_some_and(|expr| expr.names(name))
}

/// The only name in an expression, and its size where the expression is `value`; none unless that is one sure size.
pub fn solve(dim: &Dim, value: i64) -> Option<(String, i64)> {
    let expr = read(dim)?;
    let (name, slope, constant) = expr.as_linear()?;
    let rest = value.checked_sub(constant)?;
    let size = rest.checked_div(slope).filter(|&size| size >= 0 && size.checked_mul(slope) == Some(rest))?;
    Some((name.to_string(), size))
}

/// `a + b`.
pub fn add(a: &Dim, b: &Dim) -> Dim {
    match (a, b) {
        (Dim::Known(0), other) | (other, Dim::Known(0)) => other.clone(),
        (Dim::Known(a), Dim::Known(b)) => known(a.checked_add(*b)),
        _ => binary(a, b, Expr::add),
    }
}

/// `a - b`.
pub fn sub(a: &Dim, b: &Dim) -> Dim {
    match (a, b) {
        (other, Dim::Known(0)) => other.clone(),
        (Dim::Known(a), Dim::Known(b)) => known(a.checked_sub(*b)),
        _ => binary(a, b, Expr::sub),
    }
}

/// `a * b`.
pub fn mul(a: &Dim, b: &Dim) -> Dim {
    match (a, b) {
        // Also of unknown sizes: an empty tensor stays empty.
        (Dim::Known(0), _) | (_, Dim::Known(0)) => Dim::Known(0),
        (Dim::Known(1), other) | (other, Dim::Known(1)) => other.clone(),
        (Dim::Known(a), Dim::Known(b)) => known(a.checked_mul(*b)),
        _ => binary(a, b, Expr::mul),
    }
}

/// `a / b` rounded down; unknown unless `b` is positive. A symbolic divisor is taken to be positive.
pub fn floor_div(a: &Dim, b: &Dim) -> Dim {
    match (a, b) {
        (other, Dim::Known(1)) => other.clone(),
        (_, Dim::Known(b)) if *b <= 0 => Dim::Unknown,
        (Dim::Known(a), Dim::Known(b)) => known(a.checked_div_euclid(*b)),
        (a, b) if a == b && *a != Dim::Unknown => Dim::Known(1),
        _ => binary(a, b, Expr::floor_div),
    }
}

/// `a / b` where nothing is left over in any run; else unknown.
pub fn exact_div(a: &Dim, b: &Dim) -> Dim {
    let quotient = floor_div(a, b);
    if mul(&quotient, b) == *a { quotient } else { Dim::Unknown }
}

/// `a / b` rounded up; unknown unless `b` is positive.
pub fn ceil_div(a: &Dim, b: &Dim) -> Dim {
    floor_div(&add(a, &sub(b, &Dim::Known(1))), b)
}

/// The remainder of [`floor_div`], which has the sign of `b`.
pub fn rem(a: &Dim, b: &Dim) -> Dim {
    sub(a, &mul(b, &floor_div(a, b)))
}

/// The smaller one.
pub fn min(a: &Dim, b: &Dim) -> Dim {
    match (a, b) {
        (Dim::Known(a), Dim::Known(b)) => Dim::Known(*a.min(b)),
        _ => binary(a, b, Expr::smaller),
    }
}

/// The larger one.
pub fn max(a: &Dim, b: &Dim) -> Dim {
    match (a, b) {
        (Dim::Known(a), Dim::Known(b)) => Dim::Known(*a.max(b)),
        _ => binary(a, b, Expr::larger),
    }
}

/// The product of all.
pub fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
    dims.into_iter().fold(Dim::Known(1), |product, dim| mul(&product, dim))
}

/// The sum of all.
pub fn sum<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
    dims.into_iter().fold(Dim::Known(0), |sum, dim| add(&sum, dim))
}

/// `a >= 0` in every run.
pub fn is_non_negative(a: &Dim) -> bool {
    read(a).is_some_and(|expr| expr.lower_bound().is_some_and(|bound| bound >= 0))
}

/// How two sizes compare in every run, where that can be said.
pub fn compare(a: &Dim, b: &Dim) -> Option<std::cmp::Ordering> {
    match (a, b) {
        (Dim::Known(a), Dim::Known(b)) => Some(a.cmp(b)),
        _ => {
            let difference = read(a)?.sub(&read(b)?)?;
            if let Some(constant) = difference.as_constant() {
                return Some(constant.cmp(&0));
            }
            let negated = Expr::constant(0).sub(&difference)?;
            match (difference.lower_bound(), negated.lower_bound()) {
                (Some(low), _) if low > 0 => Some(std::cmp::Ordering::Greater),
                (_, Some(low)) if low > 0 => Some(std::cmp::Ordering::Less),
                _ => None,
            }
        }
    }
}

/// `a <= b` in every run.
pub fn at_most(a: &Dim, b: &Dim) -> bool {
    matches!((read(a), read(b)), (Some(a), Some(b)) if b.sub(&a).and_then(|d| d.lower_bound()).is_some_and(|low| low >= 0))
}

fn known(value: Option<i64>) -> Dim {
    value.map_or(Dim::Unknown, Dim::Known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dim(text: &str) -> Dim {
        write(text::parse(text))
    }

    /// Each line: an expression as it may be written, and its canonical form.
    #[test]
    fn expressions_have_one_form() {
        for (written, canonical) in [
            ("2*seq + 1 - seq", "seq + 1"),
            ("b*a + a*b", "2*a*b"),
            ("a - a", "0"),
            ("(a + 1)*(a - 1)", "a^2 - 1"),
            ("-a + 3", "-a + 3"),
            ("floordiv(4*a + 6, 4)", "a + 1"),
            ("floordiv(a*b, b)", "a"),
            ("floordiv(6*a*b + 3*b, 3*b)", "2*a + 1"),
            ("floordiv(a*c + b*c, a + b)", "c"),
            ("floordiv(floordiv(a - 1, 2), 2)", "floordiv(a + 3, 4) - 1"),
            ("floordiv(floordiv(a, 2) + 1, 2)", "floordiv(a + 2, 4)"),
            ("max(a, 0)", "a"),
            ("min(a + 3, a)", "a"),
            ("max(b, a)", "max(a, b)"),
            ("min(min(a, b), a)", "min(a, b)"),
            ("`batch-size` + 1", "`batch-size` + 1"),
            ("`plain`", "plain"),
        ] {
            let found = dim(written);
            assert_eq!(found.to_string(), canonical, "{written}");
            assert_eq!(dim(&found.to_string()), found, "{written}");
        }
    }

    #[test]
    fn names_of_files_are_not_expressions() {
        assert_eq!(symbol("a-b").to_string(), "`a-b`");
        assert_eq!(sub(&symbol("a-b"), &symbol("a")).to_string(), "`a-b` - a");
        assert_eq!(plain(&symbol("a-b")), Dim::symbol("a-b"));
        for odd in ["", "`", "a`b\\", "3", "min(", "((((", "floordiv(a, 0)", "a b", "é"] {
            let quoted = symbol(odd);
            assert_eq!(plain(&quoted), Dim::symbol(odd), "{odd:?} is {quoted}");
            assert_eq!(sub(&add(&quoted, &Dim::Known(2)), &Dim::Known(2)), quoted, "{odd:?}");
        }
    }

    #[test]
    fn rounding_up_and_remainders() {
        assert_eq!(ceil_div(&dim("a"), &Dim::Known(2)).to_string(), "floordiv(a + 1, 2)");
        assert_eq!(ceil_div(&dim("2*a"), &Dim::Known(2)).to_string(), "a");
        assert_eq!(rem(&dim("4*a + 3"), &Dim::Known(4)), Dim::Known(3));
        assert_eq!(rem(&Dim::Known(-1), &Dim::Known(4)), Dim::Known(3));
        assert_eq!(floor_div(&dim("a"), &Dim::Known(0)), Dim::Unknown);
    }

    #[test]
    fn equations_in_one_name_are_solved() {
        for (expr, value, solution) in [
            ("3*a", 12, Some(4)),
            ("2*a - 1", 7, Some(4)),
            ("-a + 3", 3, Some(0)),
            ("3*a", 13, None),
            ("a + 5", 3, None),
            ("a + b", 3, None),
            ("a^2", 9, None),
            ("floordiv(a, 2)", 3, None),
            ("3", 3, None),
        ] {
            assert_eq!(
                solve(&dim(expr), value),
                solution.map(|size| ("a".to_string(), size)),
                "{expr} = {value}"
            );
        }
    }

    #[test]
    fn what_grows_without_end_becomes_unknown() {
        let mut size = dim("a + b + c");
        for _ in 0..40 {
            size = mul(&size, &dim("a + b + d"));
        }
        assert_eq!(size, Dim::Unknown);
        assert_eq!(dim(&format!("{}a{}", "(".repeat(5000), ")".repeat(5000))), Dim::Unknown);
        assert_eq!(mul(&dim("a"), &Dim::Known(i64::MAX)).to_string(), format!("{}*a", i64::MAX));
        assert_eq!(mul(&mul(&dim("a"), &Dim::Known(i64::MAX)), &Dim::Known(2)), Dim::Unknown);
    }

    #[test]
    fn comparisons_say_only_what_always_holds() {
        use std::cmp::Ordering::{Greater, Less};
        assert_eq!(compare(&dim("a + 1"), &dim("a")), Some(Greater));
        assert_eq!(compare(&Dim::Known(-1), &dim("a")), Some(Less));
        assert_eq!(compare(&dim("a"), &Dim::Known(1)), None);
        assert!(at_most(&Dim::Known(0), &dim("a")) && !at_most(&Dim::Known(1), &dim("a")));
    }
}
