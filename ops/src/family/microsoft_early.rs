//! Operators of com.microsoft that ONNX took over later, and read as those: Trilu, Pad, Range, GatherND, GridSample, and
//! ExpandDims, an Unsqueeze whose axis is one integer.
//!
//! Range may lack its step, which is 1 then; Pad's amounts may be `[1, 2 * rank]`.

use ir::{Dim, OpKind};

use super::reals::value;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::rule::{self, OpName, OpRule, Table};
use crate::{array, sym};

/// The rule of ONNX's operator of the same name, in the version that the early one is like.
struct Early {
    name: &'static str,
    version: i64,
}

impl Early {
    fn rule(&self) -> Result<&'static dyn OpRule> {
        Ok(rule::rule(&OpKind::new("", self.name), Some(self.version))?)
    }
}

impl OpRule for Early {
    fn op(&self) -> OpName {
        OpName::of("com.microsoft", self.name)
    }

    fn opsets(&self) -> std::ops::RangeInclusive<i64> {
        1..=1
    }

    fn infer(&self, cx: &mut InferCx) -> Result<()> {
        let rule = self.rule()?;
        let own = std::mem::replace(&mut cx.opset, self.version);
        let result = rule.infer(cx);
        cx.opset = own;
        result
    }

    fn eval(&self, cx: &EvalCx) -> Result<Outputs> {
        self.rule()?.eval(&cx.under(self.version))
    }

    fn evaluates(&self) -> bool {
        true
    }
}

const RANGE: Early = Early { name: "Range", version: 11 };

fn infer_range(cx: &mut InferCx) -> Result<()> {
    if cx.has(2) {
        return RANGE.infer(cx);
    }
    let dtype = cx.same_dtype(0..2)?;
    let one = |at: usize| cx.contents(at).and_then(|all| all.first().cloned()).unwrap_or(Dim::Unknown);
    let count = sym::max(&sym::sub(&one(1), &one(0)), &Dim::Known(0));
    let count = if count == Dim::Unknown { cx.fresh("count") } else { count };
    cx.set(0, dtype, Some(vec![count]));
    Ok(())
}

fn eval_range(cx: &EvalCx) -> Result<Outputs> {
    match cx.has(2) {
        true => RANGE.eval(cx),
        false => Err(cx.unsupported("it has no step")),
    }
}

fn infer_expand(cx: &mut InferCx) -> Result<()> {
    let dtype = cx.need(0)?.dtype();
    let axis = cx.ints(1).and_then(|axes| axes.first().copied());
    let dims = match (cx.dims(0), axis) {
        (Some(dims), Some(axis)) => {
            let axis = cx.axis(axis, dims.len() + 1)?;
            let mut dims = dims.to_vec();
            dims.insert(axis, Dim::Known(1));
            Some(dims)
        }
        (Some(dims), None) => Some(vec![Dim::Unknown; dims.len() + 1]),
        _ => None,
    };
    cx.set(0, dtype, dims);
    Ok(())
}

fn eval_expand(cx: &EvalCx) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let &[axis] = cx.ints(1)?.as_slice() else { return Err(cx.wrong_input(1, "one axis")) };
    let mut dims = input.dims().to_vec();
    dims.insert(cx.axis(axis, dims.len() + 1)?, 1);
    cx.give(input.reshaped(dims))
}

// ---- Inverse, CDist --------------------------------------------------------------------------------------------

fn infer_inverse(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.copy_type(0, 0);
    Ok(())
}

/// Gauss-Jordan elimination with the largest pivot of each column, in f64.
fn invert(size: usize, matrix: &[f64]) -> Option<Vec<f64>> {
    let mut a = matrix.to_vec();
    let mut inverse: Vec<f64> =
        (0..size * size).map(|at| f64::from(u8::from(at / size == at % size))).collect();
    for column in 0..size {
        let of = |row: usize| a[row * size + column].abs();
        let pivot = (column..size).max_by(|&x, &y| of(x).total_cmp(&of(y)))?;
        if !(of(pivot) > 0.0 && of(pivot).is_finite()) {
            return None;
        }
        for rows in [&mut a, &mut inverse] {
            (0..size).for_each(|at| rows.swap(column * size + at, pivot * size + at));
        }
        let by = a[column * size + column];
        for rows in [&mut a, &mut inverse] {
            rows[column * size..][..size].iter_mut().for_each(|x| *x /= by);
        }
        for row in (0..size).filter(|&row| row != column) {
            let times = a[row * size + column];
            for rows in [&mut a, &mut inverse] {
                for at in 0..size {
                    rows[row * size + at] -= times * rows[column * size + at];
                }
            }
        }
    }
    Some(inverse)
}

fn eval_inverse(cx: &EvalCx) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let dims = input.dims();
    let size = match *dims {
        [.., rows, columns] if rows == columns && rows > 0 => rows,
        _ => return Err(cx.wrong_input(0, "square matrices")),
    };
    cx.reserve(input.dtype(), dims)?;
    // The steps are cubic in the size.
    if size > 512 {
        return Err(cx.unsupported("the matrices are large"));
    }
    let numbers = cx.f64s(0)?;
    let mut out = Vec::with_capacity(numbers.len());
    for matrix in numbers.chunks_exact(size * size) {
        out.extend(invert(size, matrix).ok_or_else(|| cx.unsupported("a matrix has no inverse"))?);
    }
    Ok(vec![value(cx, input.dtype(), dims, &out)?])
}

fn infer_distance(cx: &mut InferCx) -> Result<()> {
    let dtype = cx.same_dtype(0..2)?;
    let rows =
        |at: usize| -> Result<Dim> { Ok(cx.need_rank(at, 2)?.map_or(Dim::Unknown, |dims| dims[0].clone())) };
    cx.set(0, dtype, Some(vec![rows(0)?, rows(1)?]));
    Ok(())
}

fn eval_distance(cx: &EvalCx) -> Result<Outputs> {
    let (a, b) = (cx.tensor_of_rank(0, 2)?, cx.tensor_of_rank(1, 2)?);
    cx.same_dtype(0..2)?;
    let squared = match cx.attrs().str("metric", "sqeuclidean")? {
        "sqeuclidean" => true,
        "euclidean" => false,
        other => return Err(cx.attrs().wrong("metric", "euclidean or sqeuclidean", other)),
    };
    let width = a.dims()[1];
    if b.dims()[1] != width {
        return Err(cx.wrong_input(1, &format!("rows of {width}")));
    }
    let dims = [a.dims()[0], b.dims()[0]];
    let elements = cx.reserve(a.dtype(), &dims)?;
    let (x, y) = (cx.f64s(0)?, cx.f64s(1)?);
    let mut out = Vec::with_capacity(elements);
    for row in 0..dims[0] {
        for other in 0..dims[1] {
            let pairs = x[row * width..][..width].iter().zip(&y[other * width..][..width]);
            let sum: f64 = pairs.map(|(a, b)| (a - b) * (a - b)).sum();
            out.push(if squared { sum } else { sum.sqrt() });
        }
    }
    cx.give(array::from_f64s(a.dtype(), &dims, &out))
}

// ---- only types: no CPU kernel to compare an evaluation with ---------------------------------------------------

/// BiasSoftmax, BiasAdd and GroupNorm give what they read; BiasDropout and SkipGroupNorm something of the same sizes besides.
fn infer_same(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.copy_type(0, 0);
    Ok(())
}

fn infer_bias_dropout(cx: &mut InferCx) -> Result<()> {
    infer_same(cx)?;
    cx.set(1, Some(ir::DType::Bool), cx.dims(0).map(<[Dim]>::to_vec));
    Ok(())
}

fn infer_skip_group_norm(cx: &mut InferCx) -> Result<()> {
    infer_same(cx)?;
    cx.copy_type(1, 0);
    Ok(())
}

/// The last axis holds a value and its gate.
fn infer_bias_split_gelu(cx: &mut InferCx) -> Result<()> {
    let dims = cx.need(0)?.dims().map(|dims| {
        let mut dims = dims.to_vec();
        if let Some(last) = dims.last_mut() {
            *last = sym::exact_div(last, &Dim::Known(2));
        }
        dims
    });
    cx.set(0, cx.dtype(0), dims);
    Ok(())
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Early { name: "Trilu", version: 14 },
    &Early { name: "Pad", version: 18 },
    &Early { name: "GatherND", version: 12 },
    &Early { name: "GridSample", version: 16 },
    &Table::new("Range", 1, infer_range).domain("com.microsoft", 1).eval(eval_range),
    &Table::new("ExpandDims", 1, infer_expand).domain("com.microsoft", 1).eval(eval_expand),
    &Table::new("Inverse", 1, infer_inverse).domain("com.microsoft", 1).eval(eval_inverse),
    &Table::new("CDist", 1, infer_distance).domain("com.microsoft", 1).eval(eval_distance),
    &Table::new("BiasSoftmax", 1, infer_same).domain("com.microsoft", 1),
    &Table::new("BiasAdd", 1, infer_same).domain("com.microsoft", 1),
    &Table::new("GroupNorm", 1, infer_same).domain("com.microsoft", 1),
    &Table::new("BiasDropout", 1, infer_bias_dropout).domain("com.microsoft", 1),
    &Table::new("SkipGroupNorm", 1, infer_skip_group_norm).domain("com.microsoft", 1),
    &Table::new("BiasSplitGelu", 1, infer_bias_split_gelu).domain("com.microsoft", 1),
];
