//! Einsum: sums of products over named axes, `"ij,jk->ik"`.
//!
//! Without an arrow the result has the names that stand once, in alphabetical order, after the ellipsis. An ellipsis
//! stands for any axes, which broadcast. A name twice in one operand takes the diagonal.

use std::collections::BTreeMap;

use ir::{DType, Dim};

use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::{InferCx, shape};
use crate::kernel::movement;
use crate::rule::{OpRule, Table};

/// The name of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Axis {
    /// One of the ellipsis, counted from its last.
    Rest(usize),
    /// A named one.
    Letter(char),
}

/// The names of each operand's axes and of the result's.
pub struct Equation {
    /// The axes of each operand.
    pub operands: Vec<Vec<Axis>>,
    /// The axes of the result; none stands twice.
    pub result: Vec<Axis>,
}

/// One term of the equation: letters before and after the ellipsis.
fn term(text: &str, rank: Option<usize>, rest: usize) -> Option<Vec<Axis>> {
    let letters = |part: &str| -> Option<Vec<Axis>> {
        part.chars().map(|c| c.is_ascii_alphabetic().then_some(Axis::Letter(c))).collect()
    };
    let names = match text.split_once("...") {
        None => letters(text)?,
        Some((before, after)) => {
            let (before, after) = (letters(before)?, letters(after)?);
            let count = match rank {
                Some(rank) => rank.checked_sub(before.len() + after.len())?,
                None => rest,
            };
            [before, (0..count).rev().map(Axis::Rest).collect(), after].concat()
        }
    };
    (rank.is_none() || rank == Some(names.len())).then_some(names)
}

impl Equation {
    /// None if the equation is not well-formed or does not fit the ranks.
    pub fn parse(text: &str, ranks: &[usize]) -> Option<Equation> {
        let text: String = text.chars().filter(|c| *c != ' ').collect();
        let (left, right) = match text.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (text.as_str(), None),
        };
        let terms: Vec<&str> = left.split(',').collect();
        if terms.len() != ranks.len() {
            return None;
        }
        let operands: Vec<Vec<Axis>> =
            terms.iter().zip(ranks).map(|(text, &rank)| term(text, Some(rank), 0)).collect::<Option<_>>()?;
        let rests = operands.iter().flatten().filter_map(|name| match name {
            Axis::Rest(at) => Some(at + 1),
            Axis::Letter(_) => None,
        });
        let rest = rests.max().unwrap_or(0);
        let result = match right {
            Some(right) => term(right, None, rest)?,
            None => {
                let mut counts: BTreeMap<char, usize> = BTreeMap::new();
                for name in operands.iter().flatten() {
                    if let Axis::Letter(letter) = name {
                        *counts.entry(*letter).or_default() += 1;
                    }
                }
                let once = counts.into_iter().filter(|(_, count)| *count == 1);
                (0..rest).rev().map(Axis::Rest).chain(once.map(|(letter, _)| Axis::Letter(letter))).collect()
            }
        };
        let known = |name: &Axis| operands.iter().flatten().any(|other| other == name);
        let twice = (1..result.len()).any(|at| result[..at].contains(&result[at]));
        (result.iter().all(known) && !twice).then_some(Equation { operands, result })
    }
}

fn einsum_infer(cx: &mut InferCx) -> Result<()> {
    let count = cx.input_count();
    let text = cx.attrs().need_str("equation")?;
    let dtype = cx.same_dtype(0..count)?;
    let Some(ranks) = (0..count).map(|at| cx.rank(at)).collect::<Option<Vec<usize>>>() else {
        cx.set(0, dtype, None);
        return Ok(());
    };
    let equation = Equation::parse(text, &ranks);
    let equation = equation.ok_or_else(|| cx.attrs().wrong("equation", "one that fits the inputs", text))?;
    let mut sizes: BTreeMap<Axis, Dim> = BTreeMap::new();
    for (at, names) in equation.operands.iter().enumerate() {
        for (name, dim) in names.iter().zip(cx.dims(at).unwrap_or_default()) {
            let joined = match sizes.get(name) {
                None => Some(dim.clone()),
                Some(sofar) => shape::broadcast_dim(sofar, dim),
            };
            let joined = joined.ok_or_else(|| cx.wrong_input(at, "sizes that agree by name"))?;
            sizes.insert(*name, joined);
        }
    }
    let dims = equation.result.iter().map(|name| sizes.get(name).cloned().unwrap_or(Dim::Unknown)).collect();
    cx.set(0, dtype, Some(dims));
    Ok(())
}

/// Sizes by name; none where they contradict each other.
fn name_sizes(equation: &Equation, dims: &[&[usize]]) -> Option<BTreeMap<Axis, usize>> {
    let mut sizes: BTreeMap<Axis, usize> = BTreeMap::new();
    for (names, dims) in equation.operands.iter().zip(dims) {
        for (name, &size) in names.iter().zip(*dims) {
            let found = sizes.entry(*name).or_insert(size);
            match (*found, size) {
                (a, b) if a == b => {}
                (1, size) => *found = size,
                (_, 1) => {}
                _ => return None,
            }
        }
    }
    Some(sizes)
}

fn einsum(cx: &EvalCx) -> Result<Outputs> {
    let count = cx.input_count();
    let text = cx.attrs().need_str("equation")?;
    let tensors = (0..count).map(|at| cx.tensor(at)).collect::<Result<Vec<_>>>()?;
    let ranks: Vec<usize> = tensors.iter().map(|tensor| tensor.rank()).collect();
    let dims: Vec<&[usize]> = tensors.iter().map(|tensor| tensor.dims()).collect();
    let found = Equation::parse(text, &ranks).and_then(|equation| {
        let sizes = name_sizes(&equation, &dims)?;
        Some((equation, sizes))
    });
    let (equation, sizes) =
        found.ok_or_else(|| cx.attrs().wrong("equation", "one that fits the inputs", text))?;
    let summed: Vec<Axis> = sizes.keys().filter(|name| !equation.result.contains(name)).copied().collect();
    let shape_of = |names: &[Axis]| names.iter().map(|name| sizes[name]).collect::<Vec<usize>>();
    let (outer, inner) = (shape_of(&equation.result), shape_of(&summed));
    let dtype = tensors.first().ok_or_else(|| cx.wrong_input(0, "a tensor"))?.dtype();
    cx.reserve(DType::F64, &outer)?;
    // Strides of each operand by the names of the result, and by the names that are summed over.
    let strides = |at: usize, names: &[Axis]| -> Vec<isize> {
        let own = array::strides(dims[at]);
        let axes = |name: &Axis| {
            let axes = equation.operands[at].iter().zip(dims[at]).zip(&own);
            axes.filter(|((other, size), _)| *other == name && **size != 1)
                .map(|(_, &stride)| stride as isize)
                .sum()
        };
        names.iter().map(axes).collect()
    };
    let offsets = |at: usize, names: &[Axis], shape: &[usize]| -> Vec<usize> {
        movement::strided(shape, 0, &strides(at, names)).collect()
    };
    cx.reserve(DType::I64, &[count, ir::checked_elements(&outer).unwrap_or(usize::MAX)])?;
    cx.reserve(DType::I64, &[count, ir::checked_elements(&inner).unwrap_or(usize::MAX)])?;
    let starts: Vec<Vec<usize>> = (0..count).map(|at| offsets(at, &equation.result, &outer)).collect();
    let steps: Vec<Vec<usize>> = (0..count).map(|at| offsets(at, &summed, &inner)).collect();
    let (positions, terms) = (starts.first().map_or(0, Vec::len), steps.first().map_or(0, Vec::len));
    if dtype.is_float() {
        let numbers = (0..count).map(|at| cx.f64s(at)).collect::<Result<Vec<_>>>()?;
        let out: Vec<f64> = (0..positions)
            .map(|i| {
                (0..terms)
                    .map(|j| (0..count).map(|at| numbers[at][starts[at][i] + steps[at][j]]).product::<f64>())
                    .sum()
            })
            .collect();
        return cx.give(array::from_f64s(dtype, &outer, &out));
    }
    let numbers = (0..count).map(|at| cx.ints(at)).collect::<Result<Vec<_>>>()?;
    let product = |i: usize, j: usize| {
        (0..count).map(|at| numbers[at][starts[at][i] + steps[at][j]]).fold(1i64, i64::wrapping_mul)
    };
    let out: Vec<i64> =
        (0..positions).map(|i| (0..terms).map(|j| product(i, j)).fold(0i64, i64::wrapping_add)).collect();
    cx.give(array::from_i64s(dtype, &outer, &out))
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[&Table::new("Einsum", 12, einsum_infer).eval(einsum)];
