//! Sequences and optionals: SequenceEmpty, SequenceConstruct, SequenceInsert, SequenceErase, SequenceAt, SequenceLength,
//! ConcatFromSequence, SplitToSequence, SequenceMap; Optional, OptionalHasElement, OptionalGetElement.
//!
//! Inference knows a sequence item by item as long as every run gives it as many: what is taken out of it has its own type.
//!
//! Positions may be negative. OptionalHasElement and OptionalGetElement take plain tensors and sequences since opset 18,
//! which count as present.

use ir::{AttrValue, DType, Dim, Rare, Tensor, Type, TypeKind};

use super::concat::{join, section};
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::{InferCx, Inside, Known, shape};
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

/// No more items are known one by one.
const MOST_ITEMS: usize = 64;

/// Sets output 0 to a sequence of these items. Where there are none, or too many, `all` is the type of each of them.
fn set_items(cx: &mut InferCx, items: Option<Vec<Option<Type>>>, all: Option<Type>) {
    let items = items.filter(|items| items.len() <= MOST_ITEMS);
    let joined = items.as_ref().and_then(|items| {
        let (first, rest) = items.split_first()?;
        rest.iter()
            .fold(first.clone(), |all, item| all.zip(item.as_ref()).and_then(|(a, b)| shape::join(&a, b)))
    });
    let ty = joined.or(all).map(sequence_of);
    cx.set_known(0, Known { ty, inside: Rare::new(Inside { elements: None, items }), ..Known::default() });
}

/// The position that input `at` names in a list of `size`, if it is the same in every run.
fn known_position(cx: &InferCx, at: usize, size: usize) -> Option<usize> {
    shape::axis(cx.ints(at)?.first().copied()?, size)
}

fn empty_infer(cx: &mut InferCx) -> Result<()> {
    let dtype = cx.attrs().dtype("dtype")?.unwrap_or(DType::F32);
    set_items(cx, Some(Vec::new()), Some(Type::tensor(dtype, None)));
    Ok(())
}

fn empty(_: &EvalCx) -> Result<Outputs> {
    Ok(vec![Value::Sequence(Vec::new())])
}

fn construct_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    cx.same_dtype(0..cx.input_count())?;
    let mut all = cx.ty(0).cloned();
    for at in 1..cx.input_count() {
        all = all.zip(cx.ty(at)).and_then(|(a, b)| shape::join(&a, b));
    }
    let items = (0..cx.input_count()).map(|at| cx.ty(at).cloned()).collect();
    set_items(cx, Some(items), all);
    Ok(())
}

fn construct(cx: &EvalCx) -> Result<Outputs> {
    cx.value(0)?;
    cx.same_dtype(0..cx.input_count())?;
    let items = (0..cx.input_count()).map(|at| cx.value(at).cloned()).collect::<Result<Vec<Value>>>()?;
    Ok(vec![Value::Sequence(items)])
}

fn insert_infer(cx: &mut InferCx) -> Result<()> {
    let all = items(cx, 0)?;
    cx.need(1)?;
    let joined = all.zip(cx.ty(1)).and_then(|(all, item)| shape::join(&all, item));
    let mut known = cx.input(0).and_then(|known| known.inside.items.clone());
    if let Some(list) = &mut known {
        let at = match cx.ints(2).as_deref() {
            None if !cx.has(2) => Some(list.len()),
            // A position behind the last item is one more than there are.
            Some([at]) if *at >= 0 => usize::try_from(*at).ok().filter(|at| *at <= list.len()),
            Some(_) => known_position(cx, 2, list.len()),
            None => None,
        };
        match at {
            Some(at) => list.insert(at, cx.ty(1).cloned()),
            None => known = None,
        }
    }
    set_items(cx, known, joined);
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
    let all = items(cx, 0)?;
    let known = cx.input(0).and_then(|known| known.inside.items.clone()).and_then(|mut list| {
        let at = if cx.has(1) { known_position(cx, 1, list.len()) } else { list.len().checked_sub(1) };
        list.remove(at?);
        Some(list)
    });
    set_items(cx, known, all);
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
    let all = items(cx, 0)?;
    cx.need(1)?;
    let own = cx.input(0).and_then(|known| {
        let list = known.inside.items.as_ref()?;
        list.get(known_position(cx, 1, list.len())?)?.clone()
    });
    cx.set_type(0, own.or(all));
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
    if let Some(list) = cx.input(0).and_then(|known| known.inside.items.as_ref()) {
        cx.set_contents(0, vec![Dim::Known(list.len() as i64)]);
    }
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
            let list = cx.input(0).and_then(|known| known.inside.items.as_ref());
            if new_axis {
                let count = list.map_or(Dim::Unknown, |list| Dim::Known(list.len() as i64));
                dims.insert(axis, count);
            } else {
                let size = |item: &Option<Type>| {
                    i64::try_from(item.as_ref()?.shape()?.dims.get(axis)?.known()?).ok()
                };
                let sizes = list.and_then(|list| list.iter().map(size).collect::<Option<Vec<i64>>>());
                let sum = sizes.and_then(|sizes| sizes.into_iter().try_fold(0i64, i64::checked_add));
                dims[axis] = sum.map_or(Dim::Unknown, Dim::Known);
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
    let list = parts_of(cx).map(|sizes| {
        let item = |size: i64| {
            let axis = cx.axis(cx.attrs().int("axis", 0).ok()?, cx.rank(0)?).ok()?;
            let mut dims = cx.dims(0)?.to_vec();
            match keep {
                true => dims[axis] = Dim::Known(size),
                false => drop(dims.remove(axis)),
            }
            Known::tensor(cx.dtype(0), Some(dims)).ty
        };
        sizes.into_iter().map(item).collect()
    });
    set_items(cx, list, Known::tensor(cx.dtype(0), dims).ty);
    Ok(())
}

/// The sizes of the parts, if every run gives as many; none if they do not add up.
fn parts_of(cx: &InferCx) -> Option<Vec<i64>> {
    let axis = cx.axis(cx.attrs().int("axis", 0).ok()?, cx.rank(0)?).ok()?;
    let size = i64::try_from(cx.dims(0)?[axis].known()?).ok()?;
    let scalar = cx.rank(1) == Some(0);
    let sizes = match (cx.has(1), cx.ints(1)) {
        (false, _) if size <= MOST_ITEMS as i64 => vec![1; usize::try_from(size).ok()?],
        (true, Some(each)) if scalar => {
            let each = each.first().copied().filter(|&each| each > 0 && size / each < MOST_ITEMS as i64)?;
            (0..).map(|at| each.min(size - at * each)).take_while(|&part| part > 0).collect()
        }
        (true, Some(sizes)) if cx.rank(1) == Some(1) => sizes,
        _ => return None,
    };
    let sum = sizes.iter().try_fold(0i64, |sum, &part| sum.checked_add(part).filter(|_| part >= 0));
    (sum == Some(size)).then_some(sizes)
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
