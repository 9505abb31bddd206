//! Merges a `Cast` of a `Cast` into one where the first loses nothing.
//!
//! ```text
//! t = Cast <to = double> (x)    x is float
//! y = Cast <to = half> (t)      =>   y = Cast <to = half> (x)
//! ```
//!
//! The first cast loses nothing if its type holds every value of the one before: a wider float of the same kind, a wider
//! integer, a float with enough digits for an integer, anything from bool. Then one rounding takes place in either form.
//! The first stays if something else reads it. A cast back to the first type is then one to its own type, which is
//! removed.
//!
//! Declines: a first cast that may round or wrap, types that are not known, small floats, whose overflow is a choice.

use ir::{Class, DType, Model, Op, OpId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{Changes, Cx, OrNoMatch, Pass, PassError, Patch, Rule, Scope, Skip, apply_rules};

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeCasts {}

impl Pass for MergeCasts {
    fn name(&self) -> &'static str {
        "merge_casts"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        apply_rules(self.name(), &[&Pair], model, cx)
    }
}

struct Pair;

impl Rule for Pair {
    fn name(&self) -> &'static str {
        "pair"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("Cast")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let (middle, y) = (scope.input(at, 0).or_no_match()?, scope.output(at, 0).or_no_match()?);
        let first = scope.producer_is(middle, "Cast").or_no_match()?;
        let x = scope.input(first, 0).or_no_match()?;
        let from = scope.dtype(x).ok_or_else(|| scope.because(first, "its input's type is not known"))?;
        let (through, to) = (target(scope, first)?, target(scope, at)?);
        if !keeps(from, through) {
            return Err(
                scope.because(at, format!("the cast from {from} to {through} before it loses values"))
            );
        }
        let mut patch = Patch::instead_of(&[at, first]);
        if from == to && scope.can_redirect(at, y, x).is_ok() {
            patch.redirect(y, x);
            return Ok(patch);
        }
        let op = Op::new("Cast").with_attrs(scope.graph().op(at).attrs.clone());
        patch.produce(at, op, &[Some(x.into())], &[Some(y)]);
        Ok(patch)
    }
}

fn target(scope: Scope, op: OpId) -> Result<DType, Skip> {
    let to = scope.graph().op(op).attrs.int("to").or_no_match()?;
    i32::try_from(to).ok().and_then(DType::from_code).or_no_match()
}

/// Every value of the first type is a value of the second.
pub fn keeps(from: DType, to: DType) -> bool {
    if from == to {
        return true;
    }
    let integer_bits = |dtype: DType| match dtype.class() {
        Class::Bool => Some((1, false)),
        Class::Unsigned => Some((dtype.bits(), false)),
        Class::Signed => Some((dtype.bits() - 1, true)),
        _ => None,
    };
    // Digits of the significand, the hidden one included.
    let digits = |dtype: DType| match dtype {
        DType::F64 => Some(53),
        DType::F32 => Some(24),
        DType::F16 => Some(11),
        DType::BF16 => Some(8),
        _ => None,
    };
    match (integer_bits(from), integer_bits(to), digits(from), digits(to)) {
        // A cast to bool is a comparison with zero, not a conversion.
        (Some(_), Some(_), ..) if to == DType::Bool => false,
        (Some((bits, signed)), Some((room, negative)), ..) => bits <= room && (!signed || negative),
        (Some((bits, _)), None, _, Some(digits)) => bits <= digits && !(to == DType::F16 && bits > 15),
        (None, None, Some(_), Some(_)) => {
            matches!(
                (from, to),
                (DType::F16 | DType::BF16, DType::F32 | DType::F64) | (DType::F32, DType::F64)
            )
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wider_types_keep_everything() {
        use DType::*;
        let kept = [
            (F32, F64),
            (F16, F32),
            (BF16, F32),
            (Bool, I8),
            (Bool, F16),
            (I8, F16),
            (U8, BF16),
            (I8, BF16),
            (I16, F32),
            (U16, F32),
            (I32, F64),
            (U32, I64),
            (U8, I16),
            (I4, I8),
            (U4, U8),
            (F32, F32),
        ];
        let lost = [
            (F64, F32),
            (F32, F16),
            (F32, BF16),
            (BF16, F16),
            (F16, BF16),
            (I32, F32),
            (I64, F64),
            (I8, U8),
            (U8, I8),
            (U32, I32),
            (I16, F16),
            (I16, BF16),
            (F32, I64),
            (U8, Bool),
            (String, F32),
            (F32, String),
            (F8E4M3FN, F32),
            (C64, F32),
            (U64, I64),
        ];
        kept.iter().for_each(|&(a, b)| assert!(keeps(a, b), "{a} to {b}"));
        lost.iter().for_each(|&(a, b)| assert!(!keeps(a, b), "{a} to {b}"));
    }
}
