//! Reductions over axes: ReduceSum, ReduceMean, ReduceMax, ReduceMin, ReduceProd, ReduceL1, ReduceL2, ReduceLogSum,
//! ReduceLogSumExp, ReduceSumSquare.
//!
//! Axes are an attribute, and an input since opset 13 (ReduceSum) or 18 (the others); none means all, or with
//! `noop_with_empty_axes` none. Floats are summed in f64 and rounded once. Integers wrap; means and norms of integers are
//! computed in f64 and cut.
//! Over nothing: sums 0, products 1, maxima the lowest and minima the highest value of the type.

use ir::{DType, Dim};

use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::movement;
use crate::rule::{LATEST, OpName, OpRule};
use crate::sym;

struct Reduce {
    name: &'static str,
    /// Version that made the axes an input.
    axes_input: i64,
    /// From the numbers of one group.
    float: fn(&mut dyn Iterator<Item = f64>) -> f64,
    /// The same for integers; none computes as floats.
    int: Option<fn(&mut dyn Iterator<Item = i64>) -> i64>,
    /// The result over nothing is the end of the type's range.
    extreme: bool,
    /// The same on the contents of a vector.
    sym: Option<fn(&[Dim]) -> Dim>,
}

impl Reduce {
    /// The axes: `Some(None)` if they are given but not known.
    fn known_axes(&self, cx: &InferCx) -> Result<Option<Option<Vec<i64>>>> {
        if cx.opset() < self.axes_input {
            return Ok(cx.attrs().opt_ints("axes")?.map(|axes| Some(axes.to_vec())));
        }
        cx.need_axes(1)?;
        Ok(cx.has(1).then(|| match cx.dims(1) {
            Some([Dim::Known(0)]) => Some(Vec::new()),
            _ => cx.ints(1),
        }))
    }
}

/// Which axes go; none named means all, unless `noop`.
fn reduced(axes: &[i64], rank: usize, noop: bool) -> Option<Vec<bool>> {
    let mut marks = vec![axes.is_empty() && !noop; rank];
    for &axis in axes {
        *marks.get_mut(crate::infer::shape::axis(axis, rank)?)? = true;
    }
    Some(marks)
}

impl OpRule for Reduce {
    fn op(&self) -> OpName {
        OpName::onnx(self.name)
    }

    fn opsets(&self) -> std::ops::RangeInclusive<i64> {
        1..=LATEST
    }

    fn infer(&self, cx: &mut InferCx) -> Result<()> {
        cx.need(0)?;
        let keep = cx.attrs().flag("keepdims", true)?;
        let noop = cx.attrs().flag("noop_with_empty_axes", false)?;
        let Some(dims) = cx.dims(0) else {
            let all = self.known_axes(cx)?.is_none() && !noop && !keep;
            cx.set(0, cx.dtype(0), all.then(Vec::new));
            return Ok(());
        };
        let axes = self.known_axes(cx)?;
        let Some(axes) = axes.unwrap_or(Some(Vec::new())) else {
            let count = cx.dims(1).and_then(|axes| axes.first()?.known()).filter(|count| *count > 0);
            let rank =
                if keep { Some(dims.len()) } else { count.and_then(|count| dims.len().checked_sub(count)) };
            cx.set(0, cx.dtype(0), rank.map(|rank| vec![Dim::Unknown; rank]));
            return Ok(());
        };
        let marks = reduced(&axes, dims.len(), noop).ok_or_else(|| cx.invalid(format!("axes {axes:?}")))?;
        let mut out = Vec::new();
        for (dim, gone) in dims.iter().zip(&marks) {
            match (gone, keep) {
                (true, true) => out.push(Dim::Known(1)),
                (true, false) => {}
                (false, _) => out.push(dim.clone()),
            }
        }
        cx.set(0, cx.dtype(0), Some(out));
        if let (Some(f), Some(contents), [true]) = (self.sym, cx.contents(0), marks.as_slice()) {
            cx.set_contents(0, vec![f(&contents)]);
        }
        Ok(())
    }

    fn eval(&self, cx: &EvalCx) -> Result<Outputs> {
        let input = cx.tensor(0)?;
        let keep = cx.attrs().flag("keepdims", true)?;
        let noop = cx.attrs().flag("noop_with_empty_axes", false)?;
        let axes = match cx.opset() < self.axes_input {
            true => cx.attrs().opt_ints("axes")?.map(<[_]>::to_vec),
            false => cx.opt_axes(1)?,
        };
        let axes = axes.unwrap_or_default();
        let marks = reduced(&axes, input.rank(), noop).ok_or_else(|| cx.invalid(format!("axes {axes:?}")))?;
        let strides = array::strides(input.dims());
        let part = |wanted: bool| {
            let chosen = (0..input.rank()).filter(|&axis| marks[axis] == wanted);
            let (dims, steps): (Vec<usize>, Vec<isize>) =
                chosen.map(|axis| (input.dims()[axis], strides[axis] as isize)).unzip();
            (dims, steps)
        };
        let ((outer, outer_steps), (group, group_steps)) = (part(false), part(true));
        let dims: Vec<usize> = match keep {
            true => {
                input.dims().iter().zip(&marks).map(|(&size, &gone)| if gone { 1 } else { size }).collect()
            }
            false => outer.clone(),
        };
        if cx.reserve(input.dtype(), &dims)? == 0 {
            return cx.give(movement::take(input, &dims, std::iter::empty()));
        }
        let empty = group.contains(&0);
        let offsets: Vec<usize> = movement::strided(&group, 0, &group_steps).collect();
        let starts = movement::strided(&outer, 0, &outer_steps);
        let dtype = input.dtype();
        if empty && self.extreme {
            let low = self.name == "ReduceMax";
            let count = ir::checked_elements(&dims).map_err(|error| cx.tensor_error(error))?;
            return extremes(cx, dtype, &dims, count, low);
        }
        if let Some(f) = self.int.filter(|_| !dtype.is_float()) {
            // u64 wraps through i64: sums and products agree bit for bit; its order does not.
            if dtype == DType::U64 && self.extreme {
                return Err(cx.unsupported_dtype(0));
            }
            let numbers = cx.ints(0)?;
            let out: Vec<i64> =
                starts.map(|start| f(&mut offsets.iter().map(|at| numbers[start + at]))).collect();
            return cx.give(array::from_i64s(dtype, &dims, &out));
        }
        let numbers = cx.f64s(0)?;
        let out: Vec<f64> =
            starts.map(|start| (self.float)(&mut offsets.iter().map(|at| numbers[start + at]))).collect();
        match dtype.is_float() {
            true => cx.give(array::from_f64s(dtype, &dims, &out)),
            false => {
                let out: Vec<i64> = out.into_iter().map(|v| v as i64).collect();
                cx.give(array::from_i64s(dtype, &dims, &out))
            }
        }
    }

    fn evaluates(&self) -> bool {
        true
    }
}

/// `count` times the lowest (or highest) value of a type.
fn extremes(cx: &EvalCx, dtype: DType, dims: &[usize], count: usize, low: bool) -> Result<Outputs> {
    if dtype.is_float() {
        let value = if low { f64::NEG_INFINITY } else { f64::INFINITY };
        return cx.give(array::from_f64s(dtype, dims, &vec![value; count]));
    }
    let bits = dtype.bits().clamp(1, 64) as u32;
    let value = match (dtype, low) {
        (DType::Bool, low) => i64::from(!low),
        (dtype, low) if dtype.class() == ir::Class::Signed => {
            let min = i64::MIN >> (64 - bits);
            if low { min } else { !min }
        }
        (_, true) => 0,
        // All ones, cut to the width.
        (_, false) => -1,
    };
    cx.give(array::from_i64s(dtype, dims, &vec![value; count]))
}

fn mean(numbers: &mut dyn Iterator<Item = f64>) -> f64 {
    let (count, sum) = numbers.fold((0u64, 0.0), |(count, sum), v| (count + 1, sum + v));
    sum / count as f64
}

fn max(numbers: &mut dyn Iterator<Item = f64>) -> f64 {
    numbers.fold(f64::NEG_INFINITY, |a, b| if a.is_nan() || a > b { a } else { b })
}

fn log_sum_exp(numbers: &mut dyn Iterator<Item = f64>) -> f64 {
    let all: Vec<f64> = numbers.collect();
    let top = max(&mut all.iter().copied());
    // Infinities would cancel to NaN.
    if top.is_infinite() { top } else { top + all.iter().map(|v| (v - top).exp()).sum::<f64>().ln() }
}

const fn reduce(name: &'static str, float: fn(&mut dyn Iterator<Item = f64>) -> f64) -> Reduce {
    Reduce { name, axes_input: 18, float, int: None, extreme: false, sym: None }
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Reduce {
        axes_input: 13,
        int: Some(|all| all.fold(0, i64::wrapping_add)),
        sym: Some(|all| sym::sum(all)),
        ..reduce("ReduceSum", |all| all.sum())
    },
    &Reduce {
        int: Some(|all| all.fold(1, i64::wrapping_mul)),
        sym: Some(|all| sym::product(all)),
        ..reduce("ReduceProd", |all| all.product())
    },
    &Reduce {
        int: Some(|all| all.max().unwrap_or(0)),
        extreme: true,
        sym: Some(|all| fold(all, sym::max)),
        ..reduce("ReduceMax", max)
    },
    &Reduce {
        int: Some(|all| all.min().unwrap_or(0)),
        extreme: true,
        sym: Some(|all| fold(all, sym::min)),
        ..reduce("ReduceMin", |all| -max(&mut all.map(|v| -v)))
    },
    &Reduce {
        int: Some(|all| all.fold(0, |sum, v| sum.wrapping_add(v.wrapping_abs()))),
        ..reduce("ReduceL1", |all| all.map(f64::abs).sum())
    },
    &Reduce {
        int: Some(|all| all.fold(0, |sum, v| sum.wrapping_add(v.wrapping_mul(v)))),
        ..reduce("ReduceSumSquare", |all| all.map(|v| v * v).sum())
    },
    &reduce("ReduceMean", mean),
    &reduce("ReduceL2", |all| all.map(|v| v * v).sum::<f64>().sqrt()),
    &reduce("ReduceLogSum", |all| all.sum::<f64>().ln()),
    &reduce("ReduceLogSumExp", log_sum_exp),
];

fn fold(all: &[Dim], f: fn(&Dim, &Dim) -> Dim) -> Dim {
    all.split_first().map_or(Dim::Unknown, |(first, rest)| rest.iter().fold(first.clone(), |a, b| f(&a, b)))
}
