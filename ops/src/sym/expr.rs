//! Polynomials over atoms, always in canonical form.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Larger polynomials are not followed.
pub const MAX_TERMS: usize = 48;
/// Deeper nesting of atoms is not followed.
pub const MAX_DEPTH: usize = 12;

/// What a polynomial is built of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Atom {
    /// A named size, not negative.
    Symbol(Arc<str>),
    /// Quotient rounded down; the divisor is positive.
    FloorDiv(Box<Expr>, Box<Expr>),
    /// The smallest; sorted, at least two.
    Min(Vec<Expr>),
    /// The largest; sorted, at least two.
    Max(Vec<Expr>),
}

/// A product of powers of atoms; the empty product is 1.
pub type Monomial = BTreeMap<Atom, u32>;

/// A polynomial: coefficients, none zero, by monomial.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expr {
    pub(super) terms: BTreeMap<Monomial, i64>,
}

impl Expr {
    pub fn constant(value: i64) -> Expr {
        Expr::term(Monomial::new(), value)
    }

    pub fn symbol(name: &str) -> Expr {
        Expr::atom(Atom::Symbol(Arc::from(name)))
    }

    pub fn atom(atom: Atom) -> Expr {
        Expr::term(Monomial::from([(atom, 1)]), 1)
    }

    fn term(monomial: Monomial, coefficient: i64) -> Expr {
        let mut terms = BTreeMap::new();
        if coefficient != 0 {
            terms.insert(monomial, coefficient);
        }
        Expr { terms }
    }

    pub fn as_constant(&self) -> Option<i64> {
        match self.terms.len() {
            0 => Some(0),
            1 => self.terms.get(&Monomial::new()).copied(),
            _ => None,
        }
    }

    /// The atom, if the expression is one atom and nothing else.
    fn as_atom(&self) -> Option<&Atom> {
        let (monomial, &coefficient) = self.terms.first_key_value()?;
        let (atom, &power) = monomial.first_key_value()?;
        (self.terms.len() == 1 && coefficient == 1 && monomial.len() == 1 && power == 1).then_some(atom)
    }

    pub fn as_symbol(&self) -> Option<&str> {
        match self.as_atom()? {
            Atom::Symbol(name) => Some(name),
            _ => None,
        }
    }

    /// The name, `a` and `b`, if the expression is `a*name + b`.
    pub fn as_linear(&self) -> Option<(&str, i64, i64)> {
        let constant = self.terms.get(&Monomial::new()).copied();
        let mut others = self.terms.iter().filter(|(monomial, _)| !monomial.is_empty());
        let (monomial, &slope) = others.next()?;
        let (Atom::Symbol(name), 1) = monomial.first_key_value()? else { return None };
        (others.next().is_none() && monomial.len() == 1).then_some((name, slope, constant.unwrap_or(0)))
    }

    fn depth(&self) -> usize {
        let atoms = self.terms.keys().flat_map(Monomial::keys);
        atoms.map(Atom::depth).max().unwrap_or(0)
    }

    fn bounded(self) -> Option<Expr> {
        (self.terms.len() <= MAX_TERMS && self.depth() <= MAX_DEPTH).then_some(self)
    }

    pub fn add(&self, other: &Expr) -> Option<Expr> {
        let mut sum = self.clone();
        for (monomial, &coefficient) in &other.terms {
            sum.put(monomial.clone(), coefficient)?;
        }
        sum.bounded()
    }

    fn put(&mut self, monomial: Monomial, coefficient: i64) -> Option<()> {
        let found = self.terms.remove(&monomial).unwrap_or(0).checked_add(coefficient)?;
        if found != 0 {
            self.terms.insert(monomial, found);
        }
        Some(())
    }

    pub fn sub(&self, other: &Expr) -> Option<Expr> {
        self.add(&other.scaled(-1)?)
    }

    fn scaled(&self, by: i64) -> Option<Expr> {
        self.mul(&Expr::constant(by))
    }

    pub fn mul(&self, other: &Expr) -> Option<Expr> {
        let mut product = Expr::default();
        for (a, &x) in &self.terms {
            for (b, &y) in &other.terms {
                product.put(times(a, b)?, x.checked_mul(y)?)?;
                if product.terms.len() > MAX_TERMS {
                    return None;
                }
            }
        }
        Some(product)
    }

    /// `self / other` rounded down, for a positive `other`.
    pub fn floor_div(&self, other: &Expr) -> Option<Expr> {
        if let Some(exact) = self.exact_div(other) {
            return Some(exact);
        }
        match other.as_constant() {
            Some(divisor) if divisor <= 0 => None,
            Some(divisor) => self.floor_div_constant(divisor),
            None => Expr::atom(Atom::FloorDiv(Box::new(self.clone()), Box::new(other.clone()))).bounded(),
        }
    }

    /// Terms that the divisor divides go out: floor((k*q + r) / k) = q + floor(r / k), with the constant of r in 0..k.
    fn floor_div_constant(&self, divisor: i64) -> Option<Expr> {
        let (mut whole, mut rest) = (Expr::default(), Expr::default());
        for (monomial, &coefficient) in &self.terms {
            let quotient = match monomial.is_empty() || coefficient % divisor == 0 {
                true => coefficient.checked_div_euclid(divisor)?,
                false => 0,
            };
            whole.put(monomial.clone(), quotient)?;
            rest.put(monomial.clone(), coefficient.checked_sub(quotient.checked_mul(divisor)?)?)?;
        }
        if let Some(constant) = rest.as_constant() {
            return whole.add(&Expr::constant(constant.checked_div_euclid(divisor)?));
        }
        // floor((floor(a / m) + c) / k) = floor((a + c*m) / (m*k))
        let constant = rest.terms.get(&Monomial::new()).copied().unwrap_or(0);
        let inner = rest.sub(&Expr::constant(constant))?;
        if let Some(Atom::FloorDiv(a, m)) = inner.as_atom()
            && let Some(m) = m.as_constant()
        {
            let flat = a.add(&Expr::constant(constant.checked_mul(m)?))?;
            return whole.add(&flat.floor_div_constant(m.checked_mul(divisor)?)?);
        }
        let atom = Atom::FloorDiv(Box::new(rest), Box::new(Expr::constant(divisor)));
        whole.add(&Expr::atom(atom)).and_then(Expr::bounded)
    }

    /// The polynomial whose product with `other` is this one, if there is one.
    fn exact_div(&self, other: &Expr) -> Option<Expr> {
        let (lead, &lead_coefficient) = other.leading()?;
        let (mut rest, mut quotient) = (self.clone(), Expr::default());
        for _ in 0..MAX_TERMS {
            let Some((monomial, &coefficient)) = rest.leading() else { return Some(quotient) };
            if coefficient.checked_rem(lead_coefficient)? != 0 {
                return None;
            }
            let step = Expr::term(over(monomial, lead)?, coefficient.checked_div(lead_coefficient)?);
            rest = rest.sub(&step.mul(other)?)?;
            quotient = quotient.add(&step)?;
        }
        None
    }

    /// The leading term in an order of monomials that multiplication keeps: by degree, then by the powers of the atoms.
    fn leading(&self) -> Option<(&Monomial, &i64)> {
        self.terms.iter().max_by(|(a, _), (b, _)| {
            let degree = |m: &Monomial| m.values().map(|&p| u64::from(p)).sum::<u64>();
            degree(a).cmp(&degree(b)).then_with(|| {
                let atoms = a.keys().chain(b.keys()).collect::<std::collections::BTreeSet<_>>();
                let power = |m: &Monomial, atom: &Atom| m.get(atom).copied().unwrap_or(0);
                let differs = atoms.into_iter().find(|atom| power(a, atom) != power(b, atom));
                differs.map_or(std::cmp::Ordering::Equal, |atom| power(a, atom).cmp(&power(b, atom)))
            })
        })
    }

    pub fn smaller(&self, other: &Expr) -> Option<Expr> {
        Expr::extreme(self, other, true)
    }

    pub fn larger(&self, other: &Expr) -> Option<Expr> {
        Expr::extreme(self, other, false)
    }

    fn extreme(a: &Expr, b: &Expr, min: bool) -> Option<Expr> {
        let mut all: Vec<Expr> = Vec::new();
        for expr in [a, b] {
            match (expr.as_atom(), min) {
                (Some(Atom::Min(inner)), true) | (Some(Atom::Max(inner)), false) => all.extend(inner.clone()),
                _ => all.push(expr.clone()),
            }
        }
        all.sort();
        all.dedup();
        // Drop what another one always beats; of two equal ones only one is left by now.
        let beats = |x: &Expr, y: &Expr| {
            let difference = if min { y.sub(x) } else { x.sub(y) };
            difference.and_then(|d| d.lower_bound()).is_some_and(|low| low >= 0)
        };
        let mut kept: Vec<Expr> = Vec::new();
        for candidate in all {
            if kept.iter().any(|other| beats(other, &candidate)) {
                continue;
            }
            kept.retain(|other| !beats(&candidate, other));
            kept.push(candidate);
        }
        match kept.len() {
            1 => kept.pop(),
            0 => None,
            2..=8 => Expr::atom(if min { Atom::Min(kept) } else { Atom::Max(kept) }).bounded(),
            _ => None,
        }
    }

    /// A number that the expression is never below.
    pub fn lower_bound(&self) -> Option<i64> {
        self.terms.iter().try_fold(0i64, |sum, (monomial, &coefficient)| {
            let bound = match (monomial.is_empty(), coefficient > 0) {
                (true, _) => coefficient,
                (false, true) => lower(monomial)?.checked_mul(coefficient)?,
                (false, false) => upper(monomial)?.checked_mul(coefficient)?,
            };
            sum.checked_add(bound)
        })
    }

    /// A number that the expression is never above.
    fn upper_bound(&self) -> Option<i64> {
        self.scaled(-1)?.lower_bound()?.checked_neg()
    }

    pub fn names(&self, name: &str) -> bool {
        self.terms.keys().flat_map(Monomial::keys).any(|atom| match atom {
            Atom::Symbol(found) => &**found == name,
            Atom::FloorDiv(a, b) => a.names(name) || b.names(name),
            Atom::Min(all) | Atom::Max(all) => all.iter().any(|expr| expr.names(name)),
        })
    }

    pub fn substitute(&self, name: &str, by: &Expr) -> Option<Expr> {
        let mut sum = Expr::default();
        for (monomial, &coefficient) in &self.terms {
            let mut product = Expr::constant(coefficient);
            for (atom, &power) in monomial {
                let replaced = match atom {
                    Atom::Symbol(found) if &**found == name => by.clone(),
                    Atom::Symbol(_) => Expr::atom(atom.clone()),
                    Atom::FloorDiv(a, b) => a.substitute(name, by)?.floor_div(&b.substitute(name, by)?)?,
                    Atom::Min(all) => fold(all, name, by, Expr::smaller)?,
                    Atom::Max(all) => fold(all, name, by, Expr::larger)?,
                };
                for _ in 0..power {
                    product = product.mul(&replaced)?;
                }
            }
            sum = sum.add(&product)?;
        }
        Some(sum)
    }
}

fn fold(all: &[Expr], name: &str, by: &Expr, f: impl Fn(&Expr, &Expr) -> Option<Expr>) -> Option<Expr> {
    let mut replaced = all.iter().map(|expr| expr.substitute(name, by));
    let first = replaced.next()??;
    replaced.try_fold(first, |sofar, next| f(&sofar, &next?))
}

impl Atom {
    fn depth(&self) -> usize {
        match self {
            Atom::Symbol(_) => 1,
            Atom::FloorDiv(a, b) => 1 + a.depth().max(b.depth()),
            Atom::Min(all) | Atom::Max(all) => 1 + all.iter().map(Expr::depth).max().unwrap_or(0),
        }
    }

    fn lower_bound(&self) -> Option<i64> {
        match self {
            Atom::Symbol(_) => Some(0),
            // Towards minus infinity only the sign of the dividend is kept, which no divisor changes.
            Atom::FloorDiv(a, b) => match (a.lower_bound()?, b.as_constant()) {
                (low, Some(divisor)) => low.checked_div_euclid(divisor),
                (low, None) => (low >= 0).then_some(0),
            },
            Atom::Min(all) => all.iter().try_fold(i64::MAX, |low, expr| Some(low.min(expr.lower_bound()?))),
            Atom::Max(all) => all.iter().filter_map(Expr::lower_bound).max(),
        }
    }

    fn upper_bound(&self) -> Option<i64> {
        match self {
            Atom::Symbol(_) => None,
            Atom::FloorDiv(a, b) => a.upper_bound()?.checked_div_euclid(b.as_constant()?),
            Atom::Min(all) => all.iter().filter_map(Expr::upper_bound).min(),
            Atom::Max(all) => all.iter().try_fold(i64::MIN, |high, expr| Some(high.max(expr.upper_bound()?))),
        }
    }
}

/// A product is bounded below where every factor is not negative.
fn lower(monomial: &Monomial) -> Option<i64> {
    monomial.iter().try_fold(1i64, |product, (atom, &power)| match (atom.lower_bound()?, power) {
        (low, 1) if monomial.len() == 1 => Some(low),
        (low, _) if low >= 0 => product.checked_mul(low.checked_pow(power)?),
        _ => None,
    })
}

fn upper(monomial: &Monomial) -> Option<i64> {
    monomial.iter().try_fold(1i64, |product, (atom, &power)| match (atom.upper_bound()?, power) {
        (high, 1) if monomial.len() == 1 => Some(high),
        (high, _) if atom.lower_bound()? >= 0 => product.checked_mul(high.checked_pow(power)?),
        _ => None,
    })
}

fn times(a: &Monomial, b: &Monomial) -> Option<Monomial> {
    let mut product = a.clone();
    for (atom, &power) in b {
        let found = product.entry(atom.clone()).or_insert(0);
        *found = found.checked_add(power).filter(|&power| power <= 16)?;
    }
    Some(product)
}

/// The monomial whose product with `b` is `a`, if there is one.
fn over(a: &Monomial, b: &Monomial) -> Option<Monomial> {
    let mut quotient = a.clone();
    for (atom, power) in b {
        let found = quotient.get_mut(atom)?;
        *found = found.checked_sub(*power)?;
        if *found == 0 {
            quotient.remove(atom);
        }
    }
    Some(quotient)
}
