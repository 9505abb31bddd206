//! Sequences and optionals: SequenceEmpty, SequenceConstruct, SequenceInsert, SequenceErase, SequenceAt, SequenceLength,
//! ConcatFromSequence, SplitToSequence, SequenceMap; Optional, OptionalHasElement, OptionalGetElement.
//!
//! Positions may be negative. OptionalHasElement and OptionalGetElement take plain tensors and sequences since opset 18,
//! which count as present.

use ir::{AttrValue, DType, Dim, Tensor, Type, TypeKind};

use super::concat::{join, section};
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::{InferCx, Known, shape};
use crate::rule::{OpRule, Table};
use crate::value::Value;

fn sequence_of(ty: Type) -> Type {
    Type::new(TypeKind::Sequence(Box::new(ty)))
}

/// The type of the items of input `at`.
fn items(cx: &InferCx, at: usize) -> Result<Option<Type>> {
    match cx.need(at)?.ty.as_ref().map(|ty| &ty.kind) {
        Some(TypeKind::Sequence(items)) => Ok(Some((**items).clone())),
        None | Some(TypeKind::None) => Ok(None),
        Some(_) => Err(cx.wrong_input(at, "a sequence")),
    }
}

fn sequence<'a>(cx: &EvalCx<'a>, at: usize) -> Result<&'a [Value]> {
    match cx.value(at)? {
        Value::Sequence(items) => Ok(items),
        _ => Err(cx.wrong_input(at, "a sequence")),
    }
}

fn empty_infer(cx: &mut InferCx) -> Result<()> {
    let dtype = cx.attrs().dtype("dtype")?.unwrap_or(DType::F32);
    cx.set_type(0, Some(sequence_of(Type::tensor(dtype, None))));
    Ok(())
}

fn empty(_: &EvalCx) -> Result<Outputs> {
    Ok(vec![Value::Sequence(Vec::new())])
}

fn construct_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.same_dtype(0..cx.input_count())?;
    let mut items = cx.ty(0).cloned();
    for at in 1..cx.input_count() {
        items = items.zip(cx.ty(at)).and_then(|(a, b)| shape::join(&a, b));
    }
    cx.set_type(0, items.map(sequence_of));
    Ok(())
}

fn construct(cx: &EvalCx) -> Result<Outputs> {
    cx.value(0)?;
    cx.same_dtype(0..cx.input_count())?;
    let items = (0..cx.input_count()).map(|at| cx.value(at).cloned()).collect::<Result<Vec<Value>>>()?;
    Ok(vec![Value::Sequence(items)])
}

fn insert_infer(cx: &mut InferCx) -> Result<()> {
    let items = items(cx, 0)?;
    cx.need(1)?;
    let joined = items.zip(cx.ty(1)).and_then(|(items, item)| shape::join(&items, item));
    cx.set_type(0, joined.map(sequence_of));
    Ok(())
}

/// The position that input `at` names in a list of `size`; none if the input is omitted.
fn position(cx: &EvalCx, at: usize, size: usize) -> Result<Option<usize>> {
    let Some(position) = cx.opt_ints(at)? else { return Ok(None) };
    let position = position.first().and_then(|&position| shape::axis(position, size));
    position.map(Some).ok_or_else(|| cx.wrong_input(at, &format!("a position in a sequence of {size}")))
}

fn insert(cx: &EvalCx) -> Result<Outputs> {
    let mut items = sequence(cx, 0)?.to_vec();
    let at = match cx.opt_ints(2)?.as_deref() {
        None => items.len(),
        // A negative position counts from the end before the insertion.
        Some([at]) if *at >= 0 => {
            usize::try_from(*at).ok().filter(|at| *at <= items.len()).unwrap_or(usize::MAX)
        }
        Some(_) => position(cx, 2, items.len())?.unwrap_or(usize::MAX),
    };
    if at > items.len() {
        return Err(cx.wrong_input(2, &format!("a position in a sequence of {}", items.len())));
    }
    items.insert(at, cx.value(1)?.clone());
    Ok(vec![Value::Sequence(items)])
}

fn erase_infer(cx: &mut InferCx) -> Result<()> {
    let items = items(cx, 0)?;
    cx.set_type(0, items.map(sequence_of));
    Ok(())
}

fn erase(cx: &EvalCx) -> Result<Outputs> {
    let mut items = sequence(cx, 0)?.to_vec();
    let last = items.len().checked_sub(1);
    let at =
        position(cx, 1, items.len())?.or(last).ok_or_else(|| cx.wrong_input(0, "a sequence with items"))?;
    items.remove(at);
    Ok(vec![Value::Sequence(items)])
}

fn at_infer(cx: &mut InferCx) -> Result<()> {
    let items = items(cx, 0)?;
    cx.need(1)?;
    cx.set_type(0, items);
    Ok(())
}

fn at_eval(cx: &EvalCx) -> Result<Outputs> {
    let items = sequence(cx, 0)?;
    let at = position(cx, 1, items.len())?.ok_or_else(|| cx.wrong_input(1, "a position"))?;
    Ok(vec![items[at].clone()])
}

fn length_infer(cx: &mut InferCx) -> Result<()> {
    items(cx, 0)?;
    cx.set(0, Some(DType::I64), Some(vec![]));
    Ok(())
}

fn length(cx: &EvalCx) -> Result<Outputs> {
    Ok(vec![Value::Tensor(Tensor::scalar(sequence(cx, 0)?.len() as i64))])
}

// ---- ConcatFromSequence, SplitToSequence -----------------------------------------------------------------------

fn concat_infer(cx: &mut InferCx) -> Result<()> {
    let items = items(cx, 0)?;
    let axis = cx.attrs().need_int("axis")?;
    let new_axis = cx.attrs().flag("new_axis", false)?;
    let dims = match items.as_ref().and_then(Type::shape) {
        None => None,
        Some(found) => {
            let mut dims = found.dims.to_vec();
            let axis = cx.axis(axis, dims.len() + usize::from(new_axis))?;
            if new_axis {
                dims.insert(axis, Dim::Unknown);
            } else {
                dims[axis] = Dim::Unknown;
            }
            Some(dims)
        }
    };
    cx.set(0, items.as_ref().and_then(Type::dtype), dims);
    Ok(())
}

fn concat(cx: &EvalCx) -> Result<Outputs> {
    let items = sequence(cx, 0)?;
    let new_axis = cx.attrs().flag("new_axis", false)?;
    let rank = items.first().and_then(Value::as_tensor).map_or(0, Tensor::rank);
    let axis = cx.axis(cx.attrs().need_int("axis")?, rank + usize::from(new_axis))?;
    let mut parts = Vec::new();
    for item in items {
        let tensor = item.as_tensor().filter(|tensor| tensor.rank() == rank);
        let tensor = tensor.ok_or_else(|| cx.wrong_input(0, "tensors of one rank"))?;
        let mut dims = tensor.dims().to_vec();
        if new_axis {
            dims.insert(axis, 1);
        }
        parts.push(tensor.reshaped(dims.as_slice()).map_err(|error| cx.tensor_error(error))?);
    }
    cx.give(Ok(join(cx, &parts.iter().collect::<Vec<_>>(), axis)?))
}

fn split_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let keep = cx.attrs().flag("keepdims", true)? || cx.has(1);
    let dims = match cx.dims(0) {
        None => None,
        Some(dims) => {
            let axis = cx.axis(cx.attrs().int("axis", 0)?, dims.len())?;
            let mut dims = dims.to_vec();
            match keep {
                true if cx.has(1) => dims[axis] = Dim::Unknown,
                true => dims[axis] = Dim::Known(1),
                false => {
                    dims.remove(axis);
                }
            }
            Some(dims)
        }
    };
    cx.set_type(0, Known::tensor(cx.dtype(0), dims).ty.map(sequence_of));
    Ok(())
}

fn split(cx: &EvalCx) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let axis = cx.axis(cx.attrs().int("axis", 0)?, input.rank())?;
    let size = input.dims()[axis];
    let wrong = || cx.wrong_input(1, &format!("sizes that add up to {size}"));
    let scalar = cx.opt_tensor(1)?.is_some_and(|split| split.rank() == 0);
    let sizes: Vec<usize> = match cx.opt_ints(1)? {
        None => vec![1; size],
        Some(each) if scalar => {
            let each = each.first().and_then(|&each| usize::try_from(each).ok()).filter(|each| *each > 0);
            let each = each.ok_or_else(wrong)?;
            (0..size.div_ceil(each)).map(|part| each.min(size - part * each)).collect()
        }
        Some(sizes) => {
            sizes.iter().map(|&v| usize::try_from(v).ok()).collect::<Option<_>>().ok_or_else(wrong)?
        }
    };
    if sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size)) != Some(size) {
        return Err(wrong());
    }
    let keep = cx.attrs().flag("keepdims", true)? || cx.has(1);
    let mut items = Vec::new();
    let mut start = 0;
    cx.hold(sizes.len().saturating_mul(64))?;
    for size in sizes {
        let part = section(cx, input, axis, start, size)?;
        let mut dims = part.dims().to_vec();
        if !keep {
            dims.remove(axis);
        }
        items.push(Value::Tensor(part.reshaped(dims.as_slice()).map_err(|error| cx.tensor_error(error))?));
        start += size;
    }
    Ok(vec![Value::Sequence(items)])
}

// ---- SequenceMap: a body for each item -------------------------------------------------------------------------

fn map_infer(cx: &mut InferCx) -> Result<()> {
    let body = cx.attrs().need_graph("body")?;
    let inputs = (0..cx.input_count())
        .map(|at| match cx.ty(at).map(|ty| &ty.kind) {
            Some(TypeKind::Sequence(items)) => Known::of_type((**items).clone()),
            _ => Known { ty: cx.ty(at).cloned(), ..Known::default() },
        })
        .collect();
    // Sizes that the body names differ from item to item.
    for (at, known) in cx.infer_graph(body, inputs)?.into_iter().enumerate() {
        let dims = known.dims().map(|dims| {
            dims.iter()
                .map(|dim| if matches!(dim, Dim::Symbol(_)) { Dim::Unknown } else { dim.clone() })
                .collect()
        });
        let item = match known.ty.as_ref().and_then(Type::as_tensor) {
            Some(tensor) => Known::tensor(tensor.dtype, dims).ty,
            None => known.ty,
        };
        cx.set_type(at, item.map(sequence_of));
    }
    Ok(())
}

fn map_eval(cx: &EvalCx) -> Result<Outputs> {
    let body = cx.attrs().need_graph("body")?;
    let count = sequence(cx, 0)?.len();
    let mut outputs: Vec<Vec<Value>> = vec![Vec::new(); cx.wanted()];
    let mut held = 0usize;
    for item in 0..count {
        let pick = |at: usize| match cx.value(at)? {
            Value::Sequence(items) => {
                items.get(item).cloned().ok_or_else(|| cx.wrong_input(at, "as many items"))
            }
            other => Ok(other.clone()),
        };
        let inputs = (0..cx.input_count()).map(pick).collect::<Result<Vec<Value>>>()?;
        for (all, value) in outputs.iter_mut().zip(cx.run(body, inputs)?) {
            held = held.saturating_add(value.bytes());
            all.push(value);
        }
        cx.hold(held)?;
    }
    Ok(outputs.into_iter().map(Value::Sequence).collect())
}

// ---- optionals -------------------------------------------------------------------------------------------------

fn optional_infer(cx: &mut InferCx) -> Result<()> {
    let inner = match (cx.ty(0), cx.attrs().get("type")) {
        (Some(ty), _) => Some(ty.clone()),
        (None, Some(AttrValue::Type(ty))) => Some(ty.clone()),
        _ => None,
    };
    cx.set_type(0, inner.map(|ty| Type::new(TypeKind::Optional(Box::new(ty)))));
    Ok(())
}

fn optional(cx: &EvalCx) -> Result<Outputs> {
    Ok(vec![Value::Optional(cx.opt_value(0).cloned().map(Box::new))])
}

fn has_element_infer(cx: &mut InferCx) -> Result<()> {
    cx.set(0, Some(DType::Bool), Some(vec![]));
    Ok(())
}

fn has_element(cx: &EvalCx) -> Result<Outputs> {
    let has = !matches!(cx.opt_value(0), None | Some(Value::Optional(None)));
    Ok(vec![Value::Tensor(Tensor::scalar(has))])
}

fn get_element_infer(cx: &mut InferCx) -> Result<()> {
    let known = cx.need(0)?;
    match known.ty.as_ref().map(|ty| &ty.kind) {
        Some(TypeKind::Optional(inner)) => cx.set_type(0, Some((**inner).clone())),
        _ => cx.set_known(0, known.clone()),
    }
    Ok(())
}

fn get_element(cx: &EvalCx) -> Result<Outputs> {
    match cx.value(0)? {
        Value::Optional(Some(inner)) => Ok(vec![(**inner).clone()]),
        Value::Optional(None) => Err(cx.wrong_input(0, "an optional that holds something")),
        other => Ok(vec![other.clone()]),
    }
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("SequenceEmpty", 11, empty_infer).eval(empty),
    &Table::new("SequenceConstruct", 11, construct_infer).eval(construct),
    &Table::new("SequenceInsert", 11, insert_infer).eval(insert),
    &Table::new("SequenceErase", 11, erase_infer).eval(erase),
    &Table::new("SequenceAt", 11, at_infer).eval(at_eval),
    &Table::new("SequenceLength", 11, length_infer).eval(length),
    &Table::new("ConcatFromSequence", 11, concat_infer).eval(concat),
    &Table::new("SplitToSequence", 11, split_infer).eval(split),
    &Table::new("SequenceMap", 17, map_infer).eval(map_eval),
    &Table::new("Optional", 15, optional_infer).eval(optional),
    &Table::new("OptionalHasElement", 15, has_element_infer).eval(has_element),
    &Table::new("OptionalGetElement", 15, get_element_infer).eval(get_element),
];
