//! Small parts that larger patterns are made of.

use ir::{OpId, ValueId};

use crate::driver::{Scope, Skip};
use crate::{forms, numbers};

/// A binary operator of this kind that produces the value, with its operands.
pub fn binary(scope: Scope, value: ValueId, kind: &str) -> Option<(OpId, ValueId, ValueId)> {
    let op = scope.producer_is(value, kind)?;
    Some((op, scope.input(op, 0)?, scope.input(op, 1)?))
}

/// A unary operator of this kind that produces the value, with its operand.
pub fn unary(scope: Scope, value: ValueId, kind: &str) -> Option<(OpId, ValueId)> {
    let op = scope.producer_is(value, kind)?;
    Some((op, scope.input(op, 0)?))
}

/// The number that every element of the constant is.
pub fn number(scope: Scope, value: ValueId) -> Option<f64> {
    numbers::splat(scope.constant(value)?)
}

/// An operator of two operands in any order, one of them a constant number that does not widen the shape.
pub fn with_number(scope: Scope, value: ValueId, kind: &str) -> Option<(OpId, ValueId, f64)> {
    let (op, a, b) = binary(scope, value, kind)?;
    let (x, constant) = if scope.constant(b).is_some() { (a, b) } else { (b, a) };
    let number = number(scope, constant)?;
    let narrow = forms::keeps_shape(scope, x, scope.constant(constant)?.dims());
    narrow.then_some((op, x, number))
}

/// The value divided by a number, or multiplied by its inverse: `(operators, value, divisor)`.
pub fn divided(scope: Scope, value: ValueId) -> Option<(OpId, ValueId, f64)> {
    if let Some((op, x, factor)) = with_number(scope, value, "Mul") {
        return Some((op, x, 1.0 / factor));
    }
    let (op, x, by) = binary(scope, value, "Div")?;
    let narrow = forms::keeps_shape(scope, x, scope.constant(by)?.dims());
    Some((op, x, number(scope, by)?)).filter(|_| narrow)
}

/// The number is the wanted one up to the rounding of the type that it is written in (half precision has 11 bits).
pub fn close(found: f64, wanted: f64, dtype: Option<ir::DType>) -> bool {
    let rounding = match dtype {
        Some(ir::DType::F16) => 1e-3,
        Some(ir::DType::BF16) => 8e-3,
        Some(ir::DType::F64) => 1e-7,
        _ => 1e-6,
    };
    (found - wanted).abs() <= rounding * wanted.abs()
}

/// The factors of a product written as a tree of `Mul`, and the operators of the tree. Numbers are gathered in one.
pub struct Product {
    /// The operators, the root first.
    pub ops: Vec<OpId>,
    /// What is multiplied, left to right.
    pub factors: Vec<ValueId>,
    /// The product of the constant numbers.
    pub number: f64,
}

impl Product {
    /// Reads the tree below a `Mul` (also `Div` by a number) as deep as inner products have no other reader.
    pub fn of(scope: Scope, root: OpId) -> Option<Product> {
        const DEEPEST: usize = 8;
        let mut product = Product { ops: vec![root], factors: Vec::new(), number: 1.0 };
        let mut at = 0;
        while at < product.ops.len() {
            let op = product.ops[at];
            at += 1;
            let divides = scope.graph().op(op).kind.is("Div");
            let (a, b) = (scope.input(op, 0)?, scope.input(op, 1)?);
            for (slot, value) in [a, b].into_iter().enumerate() {
                let wide = || {
                    let sizes = scope.constant(value).map(|constant| constant.dims());
                    let other = if slot == 0 { b } else { a };
                    sizes.is_none_or(|sizes| !forms::keeps_shape(scope, other, sizes))
                };
                match number(scope, value).filter(|_| !wide()) {
                    Some(number) if divides && slot == 1 => product.number /= number,
                    Some(number) if !divides => product.number *= number,
                    _ if divides && slot == 1 => return None,
                    _ => match inner(scope, value) {
                        Some(inner) if product.ops.len() < DEEPEST => product.ops.push(inner),
                        _ => product.factors.push(value),
                    },
                }
            }
        }
        Some(product)
    }
}

fn inner(scope: Scope, value: ValueId) -> Option<OpId> {
    scope.sole_use(value)?;
    let (op, _) = scope.graph().producer(value)?;
    let kind = &scope.graph().op(op).kind;
    let divides = kind.is("Div") && number(scope, scope.input(op, 1)?).is_some();
    (kind.is("Mul") || divides).then_some(op)
}

/// Declines if something outside of the pattern reads what an operator of it writes; the root's result may be read.
pub fn closed(scope: Scope, root: OpId, ops: &[OpId]) -> Result<(), Skip> {
    for &op in ops.iter().filter(|&&op| op != root) {
        for value in scope.op_outputs(op).into_iter().flatten() {
            if scope.is_output(value) || scope.uses(value).iter().any(|reader| !ops.contains(&reader.op)) {
                let name = scope.graph().value(value).name();
                return Err(scope.because(root, format!("something outside of the pattern reads {name:?}")));
            }
        }
    }
    Ok(())
}

/// Declines below the operator set that has the operator.
pub fn since(scope: Scope, root: OpId, kind: &str, version: i64) -> Result<(), Skip> {
    match scope.opset() >= version {
        true => Ok(()),
        false => Err(scope.because(root, format!("{kind} needs operator set {version}: see raise_opset"))),
    }
}
