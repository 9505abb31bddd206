//! Chosen by value: Where, NonZero, TopK, Unique, ArgMax, ArgMin.
//!
//! TopK takes k as an attribute up to opset 9. Equal elements: TopK takes the one with the lower index first, ArgMax and
//! ArgMin the first, or the last with `select_last_index` (opset 12). NaN is larger than everything.

use std::cmp::Ordering;

use ir::{DType, Dim, Tensor};

use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::{InferCx, shape};
use crate::kernel::broadcast::broadcast_strides;
use crate::kernel::movement;
use crate::rule::{OpRule, Table};
use crate::sym;
use crate::value::Value;

// ---- Where -----------------------------------------------------------------------------------------------------

fn where_infer(cx: &mut InferCx) -> Result<()> {
    (0..3).try_for_each(|at| cx.need(at).map(|_| ()))?;
    let dtype = cx.same_dtype(1..3)?;
    let dims = cx.broadcast(0..3)?;
    let sizes: Option<Vec<usize>> = dims.as_ref().and_then(|dims| dims.iter().map(Dim::known).collect());
    cx.set(0, dtype, dims);
    let Some(sizes) = sizes else { return Ok(()) };
    let spread = |at: usize| {
        let from: Option<Vec<usize>> = cx.dims(at)?.iter().map(Dim::known).collect();
        shape::spread(&cx.contents(at)?, &from?, &sizes)
    };
    let (condition, yes, no) = (spread(0), spread(1), spread(2));
    let count = [&condition, &yes, &no].into_iter().flatten().next().map_or(0, Vec::len);
    let at = |list: &Option<Vec<Dim>>, i: usize| list.as_ref().map_or(Dim::Unknown, |list| list[i].clone());
    let chosen = (0..count).map(|i| match (at(&condition, i), at(&yes, i), at(&no, i)) {
        (Dim::Known(0), _, no) => no,
        (Dim::Known(_), yes, _) => yes,
        (_, yes, no) if yes == no => yes,
        _ => Dim::Unknown,
    });
    let chosen = chosen.collect();
    cx.set_contents(0, chosen);
    Ok(())
}

fn where_eval(cx: &EvalCx) -> Result<Outputs> {
    let (condition, yes, no) = (cx.tensor(0)?, cx.tensor(1)?, cx.tensor(2)?);
    let wrong = |at: usize| cx.wrong_input(at, "sizes that broadcast");
    let dims = shape::broadcast_sizes(condition.dims(), yes.dims()).ok_or_else(|| wrong(1))?;
    let dims = shape::broadcast_sizes(&dims, no.dims()).ok_or_else(|| wrong(2))?;
    cx.reserve(yes.dtype(), &dims)?;
    let picked = cx.vec::<bool>(0)?;
    let sources = |tensor: &Tensor| {
        let strides: Vec<isize> =
            broadcast_strides(tensor.dims(), &dims).iter().map(|&s| s as isize).collect();
        movement::strided(&dims, 0, &strides)
    };
    let picks = sources(condition).zip(sources(yes)).zip(sources(no));
    let picks = picks.map(|((c, y), n)| if picked[c] { (0, y) } else { (1, n) });
    cx.give(movement::pick(&[yes, no], &dims, picks))
}

// ---- NonZero: [rank, count] ------------------------------------------------------------------------------------

fn non_zero_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let rank = cx.rank(0).map_or(Dim::Unknown, Dim::from);
    let count = cx.fresh("count");
    cx.set(0, Some(DType::I64), Some(vec![rank, count]));
    Ok(())
}

fn non_zero(cx: &EvalCx) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let set: Vec<bool> = match array::to_strings(input) {
        Some(strings) => strings.iter().map(|string| !string.is_empty()).collect(),
        None => cx.f64s(0)?.into_iter().map(|v| v != 0.0).collect(),
    };
    let count = set.iter().filter(|&&set| set).count();
    let rank = input.rank();
    cx.reserve(DType::I64, &[rank, count])?;
    let strides = array::strides(input.dims());
    let found: Vec<usize> = (0..set.len()).filter(|&at| set[at]).collect();
    let coordinate = |axis: usize, at: usize| (at / strides[axis] % input.dims()[axis]) as i64;
    let out: Vec<i64> =
        (0..rank).flat_map(|axis| found.iter().map(move |&at| coordinate(axis, at))).collect();
    cx.make(&[rank, count], &out)
}

// ---- orders ----------------------------------------------------------------------------------------------------

/// Elements that can be compared: floats as f64 with NaN on top, integers, strings.
enum Keys {
    Floats(Vec<f64>),
    Ints(Vec<i64>),
    Unsigned(Vec<u64>),
    Strings(Vec<bytes::Bytes>),
}

impl Keys {
    fn of(tensor: &Tensor) -> Option<Keys> {
        Some(match tensor.dtype() {
            DType::U64 => Keys::Unsigned(tensor.to_vec().ok()?),
            DType::String => Keys::Strings(array::to_strings(tensor)?.to_vec()),
            dtype if dtype.is_float() => Keys::Floats(array::to_f64s(tensor)?),
            _ => Keys::Ints(array::to_i64s(tensor)?),
        })
    }

    fn compare(&self, a: usize, b: usize) -> Ordering {
        match self {
            Keys::Floats(all) => {
                all[a].partial_cmp(&all[b]).unwrap_or_else(|| all[a].is_nan().cmp(&all[b].is_nan()))
            }
            Keys::Ints(all) => all[a].cmp(&all[b]),
            Keys::Unsigned(all) => all[a].cmp(&all[b]),
            Keys::Strings(all) => all[a].cmp(&all[b]),
        }
    }
}

fn keys(cx: &EvalCx) -> Result<Keys> {
    Keys::of(cx.tensor(0)?).ok_or_else(|| cx.unsupported_dtype(0))
}

// ---- TopK ------------------------------------------------------------------------------------------------------

fn top_k_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let k = match cx.opset() < 10 {
        true => Dim::Known(cx.attrs().need_int("k")?),
        false => {
            cx.need(1)?;
            cx.contents(1).and_then(|k| k.first().cloned()).unwrap_or(Dim::Unknown)
        }
    };
    let dims = match cx.dims(0) {
        None => None,
        Some(dims) => {
            let axis = cx.axis(cx.attrs().int("axis", -1)?, dims.len())?;
            if let (Dim::Known(k), Dim::Known(size)) = (&k, &dims[axis])
                && !(0..=*size).contains(k)
            {
                return Err(cx.invalid(format!("the first {k} of {size}")));
            }
            let mut dims = dims.to_vec();
            dims[axis] = k;
            Some(dims)
        }
    };
    cx.set(0, cx.dtype(0), dims.clone());
    cx.set(1, Some(DType::I64), dims);
    Ok(())
}

/// Outer, axis and inner sizes of a shape around an axis.
pub(super) fn around(dims: &[usize], axis: usize) -> (usize, usize, usize) {
    (dims[..axis].iter().product(), dims[axis], dims[axis + 1..].iter().product())
}

fn top_k(cx: &EvalCx) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let k = if cx.opset() < 10 { Some(cx.attrs().need_int("k")?) } else { cx.ints(1)?.first().copied() };
    let largest = cx.attrs().flag("largest", true)?;
    let axis = cx.axis(cx.attrs().int("axis", -1)?, input.rank())?;
    let (outer, size, inner) = around(input.dims(), axis);
    let k = k.and_then(|k| usize::try_from(k).ok()).filter(|k| *k <= size);
    let k = k.ok_or_else(|| cx.invalid(format!("k is not a size up to {size}")))?;
    let keys = keys(cx)?;
    let mut dims = input.dims().to_vec();
    dims[axis] = k;
    let elements = cx.reserve(DType::I64, &dims)?;
    // Nothing to sort, however many rows of nothing there are.
    let outer = if elements == 0 { 0 } else { outer };
    let (mut from, mut indices) = (vec![0usize; elements], vec![0i64; elements]);
    for (row, column) in (0..outer).flat_map(|row| (0..inner).map(move |column| (row, column))) {
        let at = |i: usize| (row * size + i) * inner + column;
        let mut order: Vec<usize> = (0..size).collect();
        // Stable: of equal ones the first comes first in both directions.
        order.sort_by(|&a, &b| if largest { keys.compare(at(b), at(a)) } else { keys.compare(at(a), at(b)) });
        for (rank, &i) in order.iter().take(k).enumerate() {
            let to = (row * k + rank) * inner + column;
            from[to] = at(i);
            indices[to] = i as i64;
        }
    }
    let values = movement::take(input, &dims, from.into_iter()).map_err(|error| cx.tensor_error(error))?;
    let mut outputs = vec![Value::Tensor(values)];
    outputs.extend(cx.make(&dims, &indices)?);
    Ok(outputs)
}

// ---- ArgMax, ArgMin --------------------------------------------------------------------------------------------

fn arg_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let dims = match cx.dims(0) {
        None => None,
        Some(dims) => {
            let axis = cx.axis(cx.attrs().int("axis", 0)?, dims.len())?;
            let mut dims = dims.to_vec();
            match cx.attrs().flag("keepdims", true)? {
                true => dims[axis] = Dim::Known(1),
                false => {
                    dims.remove(axis);
                }
            }
            Some(dims)
        }
    };
    cx.set(0, Some(DType::I64), dims);
    Ok(())
}

fn arg(cx: &EvalCx, wanted: Ordering) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let axis = cx.axis(cx.attrs().int("axis", 0)?, input.rank())?;
    let last = cx.attrs().flag("select_last_index", false)?;
    let (outer, size, inner) = around(input.dims(), axis);
    let keys = keys(cx)?;
    let mut dims = input.dims().to_vec();
    match cx.attrs().flag("keepdims", true)? {
        true => dims[axis] = 1,
        false => {
            dims.remove(axis);
        }
    }
    cx.reserve(DType::I64, &dims)?;
    if size == 0 && !dims.contains(&0) {
        return Err(cx.invalid("the axis is empty"));
    }
    let best = |(row, column): (usize, usize)| {
        let at = |i: usize| (row * size + i) * inner + column;
        let better = |a: usize, b: usize| match keys.compare(at(b), at(a)) {
            Ordering::Equal => last,
            order => order == wanted,
        };
        (1..size).fold(0, |best, i| if better(best, i) { i } else { best }) as i64
    };
    let out: Vec<i64> =
        (0..outer).flat_map(|row| (0..inner).map(move |column| (row, column))).map(best).collect();
    cx.make(&dims, &out)
}

// ---- Unique ----------------------------------------------------------------------------------------------------

fn unique_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let count = cx.fresh("count");
    let (dims, length) = match (cx.attrs().opt_int("axis")?, cx.dims(0)) {
        (None, dims) => (Some(vec![count.clone()]), dims.map_or(Dim::Unknown, sym::product)),
        (Some(_), None) => (None, Dim::Unknown),
        (Some(axis), Some(dims)) => {
            let mut dims = dims.to_vec();
            let axis = cx.axis(axis, dims.len())?;
            let length = std::mem::replace(&mut dims[axis], count.clone());
            (Some(dims), length)
        }
    };
    cx.set(0, cx.dtype(0), dims);
    for (at, size) in [(1, count.clone()), (2, length), (3, count)] {
        cx.set(at, Some(DType::I64), Some(vec![size]));
    }
    Ok(())
}

fn unique(cx: &EvalCx) -> Result<Outputs> {
    let input = cx.tensor(0)?;
    let axis = cx.attrs().opt_int("axis")?.map(|axis| cx.axis(axis, input.rank())).transpose()?;
    let (outer, size, inner) = axis.map_or((1, input.elements(), 1), |axis| around(input.dims(), axis));
    if input.elements() == 0 && axis.is_some() {
        return Err(cx.unsupported("entries without elements"));
    }
    let keys = keys(cx)?;
    let at = |entry: usize, row: usize, column: usize| (row * size + entry) * inner + column;
    let compare = |a: &usize, b: &usize| {
        let places = (0..outer).flat_map(|row| (0..inner).map(move |column| (row, column)));
        let mut orders = places.map(|(row, column)| keys.compare(at(*a, row, column), at(*b, row, column)));
        orders.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    };
    let mut order: Vec<usize> = (0..size).collect();
    order.sort_by(compare);
    // Groups of equal entries, each with its members in order.
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for entry in order {
        match groups.last_mut().filter(|group| compare(&group[0], &entry).is_eq()) {
            Some(group) => group.push(entry),
            None => groups.push(vec![entry]),
        }
    }
    if !cx.attrs().flag("sorted", true)? {
        groups.sort_by_key(|group| group[0]);
    }
    let mut dims = input.dims().to_vec();
    match axis {
        Some(axis) => dims[axis] = groups.len(),
        None => dims = vec![groups.len()],
    }
    let first: Vec<usize> = groups.iter().map(|group| group[0]).collect();
    let picks = (0..outer).flat_map(|row| {
        first.iter().flat_map(move |&entry| (0..inner).map(move |column| (entry, row, column)))
    });
    let values = movement::take(input, &dims, picks.map(|(entry, row, column)| at(entry, row, column)));
    let mut inverse = vec![0i64; size];
    for (number, group) in groups.iter().enumerate() {
        group.iter().for_each(|&entry| inverse[entry] = number as i64);
    }
    let firsts: Vec<i64> = first.iter().map(|&entry| entry as i64).collect();
    let counts: Vec<i64> = groups.iter().map(|group| group.len() as i64).collect();
    let mut outputs = cx.give(values)?;
    for list in [firsts, inverse, counts] {
        outputs.extend(cx.make(&[list.len()], &list)?);
    }
    Ok(outputs)
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("Where", 9, where_infer).eval(where_eval),
    &Table::new("NonZero", 9, non_zero_infer).eval(non_zero),
    &Table::new("TopK", 1, top_k_infer).eval(top_k),
    &Table::new("ArgMax", 1, arg_infer).eval(|cx| arg(cx, Ordering::Greater)),
    &Table::new("ArgMin", 1, arg_infer).eval(|cx| arg(cx, Ordering::Less)),
    &Table::new("Unique", 11, unique_infer).eval(unique),
];
