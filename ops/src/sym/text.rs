//! The text form of expressions: `2*seq + floordiv(w - 1, 2)`, `max(a, b)`, `` `odd name` ``.

use std::fmt::Write;

use super::expr::{Atom, Expr, Monomial};

/// Longer texts are not written.
const MAX_LENGTH: usize = 400;
/// Deeper parentheses are not read.
const MAX_NESTING: usize = 32;

/// The canonical text; none if it grows too long.
pub fn print(expr: &Expr) -> Option<String> {
    let mut out = String::new();
    write_expr(&mut out, expr);
    // A single name, however long, is the file's own.
    (out.len() <= MAX_LENGTH || expr.as_symbol().is_some()).then_some(out)
}

fn write_expr(out: &mut String, expr: &Expr) {
    // Sums before differences, the constant last.
    let mut terms: Vec<_> = expr.terms.iter().collect();
    terms.sort_by_key(|(monomial, coefficient)| (monomial.is_empty(), **coefficient < 0));
    if expr.terms.is_empty() {
        out.push('0');
    }
    for (at, (monomial, coefficient)) in terms.into_iter().enumerate() {
        match (at, *coefficient < 0) {
            (0, true) => out.push('-'),
            (0, false) => {}
            (_, true) => out.push_str(" - "),
            (_, false) => out.push_str(" + "),
        }
        write_term(out, monomial, coefficient.unsigned_abs());
    }
}

fn write_term(out: &mut String, monomial: &Monomial, coefficient: u64) {
    let mut first = true;
    if coefficient != 1 || monomial.is_empty() {
        let _ = write!(out, "{coefficient}");
        first = false;
    }
    for (atom, power) in monomial {
        if !std::mem::replace(&mut first, false) {
            out.push('*');
        }
        write_atom(out, atom);
        if *power != 1 {
            let _ = write!(out, "^{power}");
        }
    }
}

fn write_atom(out: &mut String, atom: &Atom) {
    let mut call = |name: &str, parts: &[&Expr]| {
        out.push_str(name);
        for (at, part) in parts.iter().enumerate() {
            out.push_str(if at == 0 { "(" } else { ", " });
            write_expr(out, part);
        }
        out.push(')');
    };
    match atom {
        Atom::FloorDiv(a, b) => call("floordiv", &[a, b]),
        Atom::Min(all) => call("min", &all.iter().collect::<Vec<_>>()),
        Atom::Max(all) => call("max", &all.iter().collect::<Vec<_>>()),
        Atom::Symbol(name) if is_identifier(name) => out.push_str(name),
        Atom::Symbol(name) => {
            out.push('`');
            for c in name.chars() {
                if matches!(c, '`' | '\\') {
                    out.push('\\');
                }
                out.push(c);
            }
            out.push('`');
        }
    }
}

fn is_identifier(name: &str) -> bool {
    let start = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    start && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
}

/// Reads an expression; none if the text is not one.
pub fn parse(text: &str) -> Option<Expr> {
    if is_identifier(text) {
        return Some(Expr::symbol(text));
    }
    let mut parser = Parser { rest: text, nesting: 0 };
    let expr = parser.sum()?;
    parser.skip();
    parser.rest.is_empty().then_some(expr)
}

struct Parser<'a> {
    rest: &'a str,
    nesting: usize,
}

impl<'a> Parser<'a> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start_matches(' ');
    }

    fn eat(&mut self, token: char) -> bool {
        self.skip();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn take(&mut self, matches: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !matches(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn sum(&mut self) -> Option<Expr> {
        let mut sum = if self.eat('-') { Expr::constant(0).sub(&self.product()?)? } else { self.product()? };
        loop {
            if self.eat('+') {
                sum = sum.add(&self.product()?)?;
            } else if self.eat('-') {
                sum = sum.sub(&self.product()?)?;
            } else {
                return Some(sum);
            }
        }
    }

    fn product(&mut self) -> Option<Expr> {
        let mut product = self.power()?;
        while self.eat('*') {
            product = product.mul(&self.power()?)?;
        }
        Some(product)
    }

    fn power(&mut self) -> Option<Expr> {
        let base = self.factor()?;
        if !self.eat('^') {
            return Some(base);
        }
        self.skip();
        let power: u32 = self.take(|c| c.is_ascii_digit()).parse().ok().filter(|power| *power <= 16)?;
        (0..power).try_fold(Expr::constant(1), |product, _| product.mul(&base))
    }

    fn factor(&mut self) -> Option<Expr> {
        self.skip();
        match self.rest.chars().next()? {
            '(' => {
                let mut inside = self.arguments()?;
                inside.pop().filter(|_| inside.is_empty())
            }
            '`' => self.quoted(),
            c if c.is_ascii_digit() => self.take(|c| c.is_ascii_digit()).parse().ok().map(Expr::constant),
            c if c.is_ascii_alphabetic() || c == '_' => {
                let name = self.take(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
                if self.rest.starts_with('(') { self.call(name) } else { Some(Expr::symbol(name)) }
            }
            _ => None,
        }
    }

    fn call(&mut self, name: &str) -> Option<Expr> {
        let all = self.arguments()?;
        let (first, others) = all.split_first()?;
        match (name, others) {
            ("floordiv", [divisor]) => first.floor_div(divisor),
            ("min", _) => others.iter().try_fold(first.clone(), |sofar, next| sofar.smaller(next)),
            ("max", _) => others.iter().try_fold(first.clone(), |sofar, next| sofar.larger(next)),
            _ => None,
        }
    }

    fn arguments(&mut self) -> Option<Vec<Expr>> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING || !self.eat('(') {
            return None;
        }
        let mut all = vec![self.sum()?];
        while self.eat(',') {
            all.push(self.sum()?);
        }
        self.nesting -= 1;
        self.eat(')').then_some(all)
    }

    fn quoted(&mut self) -> Option<Expr> {
        let mut name = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '`' => {
                    self.rest = &self.rest[at + 1..];
                    return Some(Expr::symbol(&name));
                }
                '\\' => name.push(chars.next()?.1),
                c => name.push(c),
            }
        }
        None
    }
}
