//! Merges a `Slice` of a `Slice` into one.
//!
//! ```text
//! t = Slice(x, {0}, {8}, {2}, {2})
//! y = Slice(t, {0}, {4}, {3}, {1})   =>   y = Slice(x, {0, 0}, {8, 4}, {2, 3}, {2, 1})
//! ```
//!
//! On different axes the two are independent and go side by side. On the same axis they compose where both go forward in
//! steps of one from the front: the second counts from the start of the first.
//!
//! Declines: operands that are not constant; negative and positive axes mixed where the rank is not known; the same axis
//! with steps, or counted from the back; a first slice that something else reads.

use ir::{AttrValue, Model, Op, OpId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{Changes, Cx, OrNoMatch, Pass, PassError, Patch, Rule, Scope, Skip, apply_rules};
use crate::forms::{self, Slice};
use crate::numbers;

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeSlices {}

impl Pass for MergeSlices {
    fn name(&self) -> &'static str {
        "merge_slices"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        apply_rules(self.name(), &[&Pair], model, cx)
    }
}

struct Pair;

/// start, end, step on one axis.
type Range = (i64, i64, i64);

impl Rule for Pair {
    fn name(&self) -> &'static str {
        "pair"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::onnx("Slice")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let (middle, y) = (scope.input(at, 0).or_no_match()?, scope.output(at, 0).or_no_match()?);
        let first = scope.producer_is(middle, "Slice").or_no_match()?;
        let x = scope.input(first, 0).or_no_match()?;
        let (inner, outer) = (Slice::of(scope, first)?, Slice::of(scope, at)?);
        if scope.sole_use(middle).is_none() {
            return Err(scope.because(at, "something else reads the first slice"));
        }
        let rank = scope.rank(x).or_else(|| scope.rank(middle));
        let mut ranges = Vec::new();
        ranges_of(&inner, rank, &mut ranges).map_err(|why| scope.because(at, why))?;
        let mut second = Vec::new();
        ranges_of(&outer, rank, &mut second).map_err(|why| scope.because(at, why))?;
        for (axis, range) in second {
            match ranges.iter_mut().find(|(other, _)| *other == axis) {
                None => ranges.push((axis, range)),
                Some((_, first)) => {
                    *first = compose(*first, range).ok_or_else(|| {
                        scope.because(at, format!("both slice axis {axis} in a way that does not compose"))
                    })?;
                }
            }
        }
        let list = |pick: fn(&(i64, Range)) -> i64| ranges.iter().map(pick).collect::<Vec<i64>>();
        let (axes, starts) = (list(|(axis, _)| *axis), list(|(_, range)| range.0));
        let (ends, steps) = (list(|(_, range)| range.1), list(|(_, range)| range.2));
        let mut patch = Patch::instead_of(&[at, first]);
        if scope.opset() < 10 {
            let op = Op::new("Slice")
                .with("axes", AttrValue::Ints(axes))
                .with("ends", AttrValue::Ints(ends))
                .with("starts", AttrValue::Ints(starts));
            patch.produce(at, op, &[Some(x.into())], &[Some(y)]);
            return Ok(patch);
        }
        let name = scope.graph().value(y).name().clone();
        let mut constant = |suffix: &str, values: &[i64]| {
            Some(patch.constant(&format!("{name}_{suffix}"), numbers::vector(values)))
        };
        let mut inputs = vec![
            Some(x.into()),
            constant("starts", &starts),
            constant("ends", &ends),
            constant("axes", &axes),
        ];
        if steps.iter().any(|&step| step != 1) {
            inputs.push(constant("steps", &steps));
        }
        patch.produce(at, Op::new("Slice"), &inputs, &[Some(y)]);
        Ok(patch)
    }
}

/// One range an axis. With the rank, axes are counted from the front; without it none may be negative.
fn ranges_of(slice: &Slice, rank: Option<usize>, ranges: &mut Vec<(i64, Range)>) -> Result<(), String> {
    for (at, axis) in slice.axes().into_iter().enumerate() {
        let axis = match rank {
            Some(rank) => {
                forms::axis(axis, rank).ok_or_else(|| format!("axis {axis} is out of range"))? as i64
            }
            None if axis < 0 => return Err("an axis is negative and the rank is not known".to_string()),
            None => axis,
        };
        if ranges.iter().any(|(other, _)| *other == axis) {
            return Err(format!("axis {axis} occurs twice"));
        }
        ranges.push((axis, (slice.starts[at], slice.ends[at], slice.steps[at])));
    }
    Ok(())
}

/// The range of a range, both from the front and forward by one.
fn compose(first: Range, second: Range) -> Option<Range> {
    let forward = |(start, end, step): Range| step == 1 && start >= 0 && end >= 0;
    if !forward(first) || !forward(second) {
        return None;
    }
    let start = first.0.checked_add(second.0)?;
    let end = first.0.saturating_add(second.1).min(first.1);
    // An empty range stays empty: ONNX takes nothing where the end lies before the start.
    Some((start, end, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_compose_like_numpy() {
        let take = |n: i64, r: Range| (r.0.min(n)..r.1.min(n)).collect::<Vec<i64>>();
        for n in 0..8 {
            for first in [(0, 5, 1), (2, 4, 1), (3, i64::MAX, 1), (4, 2, 1), (7, 9, 1)] {
                for second in [(0, 2, 1), (1, i64::MAX, 1), (2, 3, 1), (5, 6, 1)] {
                    let middle = take(n, first);
                    let indices = take(middle.len() as i64, second);
                    let wanted: Vec<i64> = indices.iter().map(|&at| middle[at as usize]).collect();
                    assert_eq!(take(n, compose(first, second).unwrap()), wanted, "{n} {first:?} {second:?}");
                }
            }
        }
        assert_eq!(compose((0, 5, 2), (0, 1, 1)), None);
        assert_eq!(compose((-3, 5, 1), (0, 1, 1)), None);
    }
}
