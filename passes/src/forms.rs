//! Operands that an operator set moved from attributes to inputs, read in either form.

use ir::{OpId, Tensor, ValueId};

use crate::driver::{Scope, Skip};
use crate::numbers;

/// A list of integers that is the attribute `name` in older operator sets and the constant at input `at` in newer ones.
/// None if it is absent; declines where it is there and not constant.
pub fn ints(scope: Scope, op: OpId, name: &str, at: usize) -> Result<Option<Vec<i64>>, Skip> {
    if let Some(values) = scope.graph().op(op).attrs.ints(name) {
        return Ok(Some(values.to_vec()));
    }
    let Some(value) = scope.input(op, at) else { return Ok(None) };
    let tensor = scope.constant(value).ok_or_else(|| scope.because(op, format!("{name} is not constant")))?;
    let ints = numbers::ints(tensor);
    ints.map(Some).ok_or_else(|| scope.because(op, format!("{name} holds {}", tensor.dtype())))
}

/// A scalar that is the attribute `name` in older operator sets and the constant at input `at` in newer ones.
pub fn float(scope: Scope, op: OpId, name: &str, at: usize) -> Result<Option<f64>, Skip> {
    if let Some(value) = scope.graph().op(op).attrs.float(name) {
        return Ok(Some(f64::from(value)));
    }
    let Some(value) = scope.input(op, at) else { return Ok(None) };
    let tensor = scope.constant(value).ok_or_else(|| scope.because(op, format!("{name} is not constant")))?;
    let value = numbers::splat(tensor).filter(|_| tensor.elements() == 1);
    value.map(Some).ok_or_else(|| scope.because(op, format!("{name} is not one number")))
}

/// An axis that may be negative, as an index below `rank`.
pub fn axis(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    let axis = if axis < 0 { axis.checked_add(rank)? } else { axis };
    (0..rank).contains(&axis).then_some(axis as usize)
}

/// Axes that may be negative, as sorted indices below `rank`; none if one is out of range or occurs twice.
pub fn axes(axes: &[i64], rank: usize) -> Option<Vec<usize>> {
    let mut found = axes.iter().map(|&a| axis(a, rank)).collect::<Option<Vec<usize>>>()?;
    found.sort_unstable();
    found.windows(2).all(|pair| pair[0] != pair[1]).then_some(found)
}

/// What a `Slice` takes: one entry for each sliced axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// First index on each axis.
    pub starts: Vec<i64>,
    /// Behind the last index on each axis.
    pub ends: Vec<i64>,
    /// The axes; may be negative. None: the first ones.
    pub axes: Option<Vec<i64>>,
    /// Steps on each axis.
    pub steps: Vec<i64>,
}

impl Slice {
    /// Reads a `Slice` whose operands are constant.
    pub fn of(scope: Scope, op: OpId) -> Result<Slice, Skip> {
        let (starts, ends) = (ints(scope, op, "starts", 1)?, ints(scope, op, "ends", 2)?);
        let (axes, steps) = (ints(scope, op, "axes", 3)?, ints(scope, op, "steps", 4)?);
        let (Some(starts), Some(ends)) = (starts, ends) else { return Err(Skip::NoMatch) };
        let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
        let fits = starts.len() == ends.len()
            && steps.len() == starts.len()
            && axes.as_ref().is_none_or(|axes| axes.len() == starts.len());
        if !fits {
            return Err(scope.because(op, "its operands differ in length"));
        }
        Ok(Slice { starts, ends, axes, steps })
    }

    /// The axes as the operator means them, possibly negative.
    pub fn axes(&self) -> Vec<i64> {
        self.axes.clone().unwrap_or_else(|| (0..self.starts.len() as i64).collect())
    }
}

/// How a `Pad` pads.
#[derive(Clone, Debug, PartialEq)]
pub struct Pad {
    /// Elements added before and behind each axis of the input; may be negative.
    pub before: Vec<i64>,
    /// Elements added behind each axis.
    pub behind: Vec<i64>,
    /// `constant`, `reflect`, …
    pub mode: String,
    /// What is filled in; none for zero.
    pub value: Option<Tensor>,
}

impl Pad {
    /// Reads a `Pad` whose operands are constant and whose input's rank is known or given by its pads.
    pub fn of(scope: Scope, op: OpId) -> Result<Pad, Skip> {
        let node = scope.graph().op(op);
        let mode = node.attrs.str("mode").unwrap_or("constant").to_string();
        let pads = ints(scope, op, "pads", 1)?.or_else(|| node.attrs.ints("paddings").map(<[i64]>::to_vec));
        let pads = pads.ok_or(Skip::NoMatch)?;
        let value = match (node.attrs.float("value"), scope.input(op, 2)) {
            (Some(value), _) if value != 0.0 => Some(Tensor::scalar(value)),
            (_, Some(value)) => {
                let tensor =
                    scope.constant(value).ok_or_else(|| scope.because(op, "its value is not constant"))?;
                (numbers::splat(tensor) != Some(0.0)).then(|| tensor.clone())
            }
            _ => None,
        };
        let half = pads.len() / 2;
        let (mut before, mut behind) = (pads[..half].to_vec(), pads[half..].to_vec());
        if pads.len() % 2 != 0 {
            return Err(scope.because(op, "its pads are odd in number"));
        }
        if let Some(chosen) = ints(scope, op, "axes", 3)? {
            let rank = scope.input(op, 0).and_then(|x| scope.rank(x));
            let rank = rank.ok_or_else(|| scope.because(op, "the rank of its input is not known"))?;
            let wrong = || scope.because(op, "its axes do not fit its pads");
            if chosen.len() != half {
                return Err(wrong());
            }
            let (mut all_before, mut all_behind) = (vec![0; rank], vec![0; rank]);
            for (at, &chosen) in chosen.iter().enumerate() {
                let axis = axis(chosen, rank).ok_or_else(wrong)?;
                (all_before[axis], all_behind[axis]) = (before[at], behind[at]);
            }
            (before, behind) = (all_before, all_behind);
        }
        Ok(Pad { before, behind, mode, value })
    }
}

/// The permutation of a `Transpose`; the reversal where none is given, which needs the rank.
pub fn permutation(scope: Scope, op: OpId) -> Result<Vec<usize>, Skip> {
    if let Some(perm) = scope.graph().op(op).attrs.ints("perm") {
        let perm: Option<Vec<usize>> = perm.iter().map(|&axis| usize::try_from(axis).ok()).collect();
        let perm = perm.filter(|perm| (0..perm.len()).all(|axis| perm.contains(&axis)));
        return perm.ok_or_else(|| scope.because(op, "perm is not a permutation"));
    }
    let rank = scope.input(op, 0).and_then(|x| scope.rank(x));
    let rank = rank.ok_or_else(|| scope.because(op, "it has no perm and the rank is not known"))?;
    Ok((0..rank).rev().collect())
}

/// Both values have the same shape in every run.
pub fn same_shape(scope: Scope, a: ValueId, b: ValueId) -> bool {
    match (scope.shape(a), scope.shape(b)) {
        (Some(a), Some(b)) => a.dims == b.dims && !a.dims.contains(&ir::Dim::Unknown),
        _ => false,
    }
}

/// Broadcasting a constant of these sizes against the value gives the value's shape.
pub fn keeps_shape(scope: Scope, value: ValueId, sizes: &[usize]) -> bool {
    if sizes.is_empty() {
        return true;
    }
    let Some(shape) = scope.shape(value) else { return false };
    let Some(lead) = shape.rank().checked_sub(sizes.len()) else { return false };
    sizes.iter().zip(&shape.dims[lead..]).all(|(&size, dim)| size == 1 || dim.known() == Some(size))
}
