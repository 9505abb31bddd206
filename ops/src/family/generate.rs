//! Tensors out of little: Constant, ConstantOfShape, Range, EyeLike; and the random operators, which only have types.

use ir::{AttrValue, DType, Dim, Tensor};

use super::expand::sizes_at;
use crate::array;
use crate::attrs::Attributes;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::for_dtype;
use crate::infer::{CONTENTS_LIMIT, InferCx, Known};
use crate::kernel::movement;
use crate::rule::{OpRule, Table};
use crate::sym;

// ---- Constant --------------------------------------------------------------------------------------------------

/// The tensor that the attributes hold. One of `value`, `sparse_value` (opset 11), `value_float`, … (opset 12) is given.
fn constant_tensor(attrs: Attributes<'_>) -> Result<Option<std::result::Result<Tensor, ir::TensorError>>> {
    const NAMES: [&str; 8] = [
        "value",
        "sparse_value",
        "value_int",
        "value_ints",
        "value_float",
        "value_floats",
        "value_string",
        "value_strings",
    ];
    let Some((name, value)) = NAMES.iter().find_map(|name| Some((*name, attrs.get(name)?))) else {
        return Ok(None);
    };
    Ok(Some(match value {
        AttrValue::Tensor(tensor) => Ok(tensor.clone()),
        AttrValue::Sparse(sparse) => array::densify(sparse),
        AttrValue::Int(value) => Ok(Tensor::scalar(*value)),
        AttrValue::Ints(values) => Tensor::from_slice(&[values.len()], values),
        AttrValue::Float(value) => Ok(Tensor::scalar(*value)),
        AttrValue::Floats(values) => Tensor::from_slice(&[values.len()], values),
        AttrValue::String(value) => Tensor::strings(ir::Dims::new(), vec![value.clone()]),
        AttrValue::Strings(values) => Tensor::strings([values.len()].as_slice(), values.clone()),
        _ => return Err(attrs.wrong(name, "a constant", "something else")),
    }))
}

/// Sizes of a sparse constant are checked before it is built.
fn sparse_elements(attrs: Attributes<'_>) -> Option<(DType, &[usize])> {
    match attrs.get("sparse_value") {
        Some(AttrValue::Sparse(sparse)) => Some((sparse.values.dtype(), &sparse.dims)),
        _ => None,
    }
}

fn constant_infer(cx: &mut InferCx) -> Result<()> {
    if let Some((dtype, dims)) = sparse_elements(cx.attrs()) {
        cx.set(0, Some(dtype), Some(dims.iter().map(|&size| Dim::from(size)).collect()));
        return Ok(());
    }
    match constant_tensor(cx.attrs())? {
        Some(Ok(tensor)) => cx.set_known(0, Known::of_constant(tensor)),
        Some(Err(error)) => return Err(cx.invalid(error.to_string())),
        None => return Err(cx.invalid("it has no value")),
    }
    Ok(())
}

fn constant(cx: &EvalCx) -> Result<Outputs> {
    if let Some((dtype, dims)) = sparse_elements(cx.attrs()) {
        cx.reserve(dtype, dims)?;
    }
    let tensor = constant_tensor(cx.attrs())?.ok_or_else(|| cx.invalid("it has no value"))?;
    cx.give(tensor)
}

// ---- ConstantOfShape -------------------------------------------------------------------------------------------

/// The value as a tensor of one element; float 0 by default.
fn filler(attrs: Attributes<'_>) -> Result<Tensor> {
    match attrs.opt_tensor("value")? {
        None => Ok(Tensor::scalar(0f32)),
        Some(value) if value.elements() == 1 => Ok(value.clone()),
        Some(value) => Err(attrs.wrong("value", "one element", &format!("{:?}", value.dims()))),
    }
}

fn constant_of_shape_infer(cx: &mut InferCx) -> Result<()> {
    let value = filler(cx.attrs())?;
    let dims = match cx.contents(0) {
        Some(contents) => Some(contents.into_owned()),
        None => {
            let rank = cx.need_rank(0, 1)?.and_then(|dims| dims[0].known());
            rank.filter(|rank| *rank <= CONTENTS_LIMIT).map(|rank| vec![Dim::Unknown; rank])
        }
    };
    if dims.iter().flatten().any(|dim| matches!(dim, Dim::Known(size) if *size < 0)) {
        return Err(cx.invalid("a negative size"));
    }
    let count = dims.as_ref().and_then(|dims| {
        dims.iter().try_fold(1usize, |n, dim| n.checked_mul(dim.known()?)).filter(|n| *n <= CONTENTS_LIMIT)
    });
    cx.set(0, Some(value.dtype()), dims);
    if let (Some(count), Some(contents)) = (count, Known::of_constant(value).contents()) {
        cx.set_contents(0, vec![contents[0].clone(); count]);
    }
    Ok(())
}

fn constant_of_shape(cx: &EvalCx) -> Result<Outputs> {
    let value = filler(cx.attrs())?;
    if cx.tensor(0)?.rank() != 1 {
        return Err(cx.wrong_input(0, "a tensor of rank 1"));
    }
    let dims = sizes_at(cx, 0)?;
    let elements = cx.reserve(value.dtype(), &dims)?;
    cx.give(movement::take(&value, &dims, std::iter::repeat_n(0, elements)))
}

// ---- Range -----------------------------------------------------------------------------------------------------

fn range_infer(cx: &mut InferCx) -> Result<()> {
    (0..3).try_for_each(|at| cx.need(at).map(|_| ()))?;
    let dtype = cx.same_dtype(0..3)?;
    let one = |at: usize| cx.contents(at).and_then(|all| all.first().cloned()).unwrap_or(Dim::Unknown);
    let (start, limit, delta) = (one(0), one(1), one(2));
    let count = match delta {
        Dim::Known(1..) => sym::max(&sym::ceil_div(&sym::sub(&limit, &start), &delta), &Dim::Known(0)),
        Dim::Known(by) if by < 0 => {
            let by = by.checked_neg().map_or(Dim::Unknown, Dim::Known);
            sym::max(&sym::ceil_div(&sym::sub(&start, &limit), &by), &Dim::Known(0))
        }
        _ => Dim::Unknown,
    };
    let count = if count == Dim::Unknown { cx.fresh("count") } else { count };
    cx.set(0, dtype, Some(vec![count.clone()]));
    if let Some(count) = count.known().filter(|count| *count <= CONTENTS_LIMIT) {
        let step = |i: usize| sym::add(&start, &sym::mul(&Dim::from(i), &delta));
        cx.set_contents(0, (0..count).map(step).collect());
    }
    Ok(())
}

/// Number of steps of a range of floats, reserved.
fn range_count(cx: &EvalCx, start: f64, limit: f64, delta: f64) -> Result<usize> {
    let count = ((limit - start) / delta).ceil().max(0.0);
    // NaN and infinite counts fail here.
    match count < 9e15 {
        true => cx.reserve(DType::F64, &[count as usize]),
        false => Err(cx.invalid("it has no end")),
    }
}

fn range(cx: &EvalCx) -> Result<Outputs> {
    let dtype = cx.tensor(0)?.dtype();
    cx.same_dtype(0..3)?;
    macro_rules! float_range {
        ($T:ty) => {{
            let one = |at: usize| {
                cx.vec::<$T>(at)?.first().copied().ok_or_else(|| cx.wrong_input(at, "one number"))
            };
            let (start, limit, delta) = (one(0)?, one(1)?, one(2)?);
            let count = range_count(cx, f64::from(start), f64::from(limit), f64::from(delta))?;
            let out: Vec<$T> = (0..count).map(|i| start + i as $T * delta).collect();
            cx.make(&[out.len()], &out)
        }};
    }
    match dtype {
        DType::F32 => float_range!(f32),
        DType::F64 => float_range!(f64),
        // Narrow floats (opset 27) are computed in f64 and rounded once.
        DType::F16 | DType::BF16 => {
            let one =
                |at: usize| cx.f64s(at)?.first().copied().ok_or_else(|| cx.wrong_input(at, "one number"));
            let (start, limit, delta) = (one(0)?, one(1)?, one(2)?);
            let count = range_count(cx, start, limit, delta)?;
            let out: Vec<f64> = (0..count).map(|i| start + i as f64 * delta).collect();
            cx.give(array::from_f64s(dtype, &[count], &out))
        }
        dtype => for_dtype!(dtype, T in [i16, i32, i64] => {
            let one = |at: usize| cx.vec::<T>(at)?.first().copied().ok_or_else(|| cx.wrong_input(at, "one number"));
            let (start, limit, delta) = (i128::from(one(0)?), i128::from(one(1)?), i128::from(one(2)?));
            if delta == 0 {
                return Err(cx.invalid("a step of 0"));
            }
            let span = limit - start;
            let count = (span / delta + i128::from(span % delta != 0 && (span > 0) == (delta > 0))).max(0);
            let count = usize::try_from(count).map_err(|_| cx.invalid("it is too long"))?;
            cx.reserve(dtype, &[count])?;
            let out: Vec<T> = (0..count as i128).map(|i| (start + i * delta) as T).collect();
            cx.make(&[count], &out)
        }, else => Err(cx.unsupported_dtype(0))),
    }
}

// ---- EyeLike ---------------------------------------------------------------------------------------------------

fn eye_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let dims = cx.need_rank(0, 2)?.map_or(vec![Dim::Unknown; 2], <[_]>::to_vec);
    let dtype = cx.attrs().dtype("dtype")?.or(cx.dtype(0));
    cx.set(0, dtype, Some(dims));
    Ok(())
}

fn eye(cx: &EvalCx) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let &[rows, columns] = input.dims() else { return Err(cx.wrong_input(0, "a matrix")) };
    let dtype = cx.attrs().dtype("dtype")?.unwrap_or(input.dtype());
    let k = cx.attrs().int("k", 0)?;
    cx.reserve(dtype, &[rows, columns])?;
    let values = if dtype.is_float() {
        array::from_f32s(dtype, &[2], &[0.0, 1.0])
    } else {
        array::from_i64s(dtype, &[2], &[0, 1])
    };
    let values = values.map_err(|error| cx.tensor_error(error))?;
    let ones = (0..rows as i64).flat_map(|row| {
        (0..columns as i64).map(move |column| usize::from(column.checked_sub(row) == Some(k)))
    });
    cx.give(movement::take(&values, &[rows, columns], ones))
}

// ---- random ----------------------------------------------------------------------------------------------------

fn random_infer(cx: &mut InferCx) -> Result<()> {
    let dtype = cx.attrs().dtype("dtype")?.unwrap_or(DType::F32);
    let shape = cx.attrs().need_ints("shape")?;
    if shape.iter().any(|&size| size < 0) {
        return Err(cx.attrs().wrong("shape", "sizes", &format!("{shape:?}")));
    }
    cx.set(0, Some(dtype), Some(shape.iter().map(|&size| Dim::Known(size)).collect()));
    Ok(())
}

fn random_like_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let dtype = cx.attrs().dtype("dtype")?.or(cx.dtype(0));
    cx.set(0, dtype, cx.dims(0).map(<[_]>::to_vec));
    Ok(())
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("Constant", 1, constant_infer).eval(constant),
    &Table::new("ConstantOfShape", 9, constant_of_shape_infer).eval(constant_of_shape),
    &Table::new("Range", 11, range_infer).eval(range),
    &Table::new("EyeLike", 9, eye_infer).eval(eye),
    &Table::new("RandomNormal", 1, random_infer),
    &Table::new("RandomUniform", 1, random_infer),
    &Table::new("RandomNormalLike", 1, random_like_infer),
    &Table::new("RandomUniformLike", 1, random_like_infer),
];
