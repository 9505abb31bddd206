//! From scores and costs to a mix of precisions.

use std::collections::BTreeMap;

use anyhow::Result;
use passes::assign_precision::{Assignment, Boundary, Budgets, Column, Costs, Effort, Problem, front};
use passes::quantize::Precision;

use super::costs::{CostTable, bits};
use super::damage::{Score, decibels};
use super::mix::Mixer;
use super::table::Change;
use crate::report::schema::Point;

/// Points of each front.
const POINTS: usize = 16;

/// Bytes that a conversion adds to the file: two operators with their names.
const CONVERSION_BYTES: f64 = 160.0;

/// A problem and what its numbers stand for.
pub struct Choice {
    /// The numbers.
    pub problem: Problem,
    /// Precisions of each group, in the order of the problem's choices; float is the first.
    pub precisions: Vec<Vec<Precision>>,
    /// Times are known.
    pub timed: bool,
}

/// Builds the problem. `whole` is the size of the float model's file; `correction` scales predicted noise to what was
/// measured of the uniform plan: noise of the groups does not quite add up.
pub fn choice(
    mixer: &Mixer<'_>,
    scores: &BTreeMap<Change, Score>,
    bytes: &BTreeMap<Change, (u64, u64)>,
    whole: u64,
    costs: Option<&CostTable>,
    correction: f64,
) -> Choice {
    let mut precisions = Vec::new();
    let mut groups = Vec::new();
    let mut parts = 0.0;
    // A group that breaks the outputs costs more than everything else together, and stays a number.
    let loss = |noise: f64| if noise.is_finite() { (noise * correction).min(1e6) } else { 1e6 };
    for group in &mixer.groups {
        let change = |precision| (group.name.clone(), precision);
        let float_bytes = bytes
            .iter()
            .filter(|((name, _), _)| *name == group.name)
            .map(|(_, (_, before))| *before as f64)
            .fold(0.0, f64::max);
        parts += float_bytes;
        let time =
            |precision| costs.and_then(|costs| costs.groups.get(&change(precision))).copied().unwrap_or(0.0);
        let operations = |precision| {
            let (activation, weight) = bits(precision);
            group.macs as f64 * (activation * weight) as f64
        };
        let mut known = vec![Precision::Float];
        let mut choices: Vec<Costs> =
            vec![[0.0, float_bytes, operations(Precision::Float), time(Precision::Float)]];
        if !group.product {
            // Float costs nothing here and would cut the way of the codes: it follows its neighbours, not the budget.
            known.clear();
            choices.clear();
        }
        for &(precision, _) in Precision::ALL {
            let Some(score) = scores.get(&change(precision)).filter(|_| precision != Precision::Float) else {
                continue;
            };
            let after = bytes.get(&change(precision)).map_or(float_bytes, |(after, _)| *after as f64);
            known.push(precision);
            choices.push([loss(score.noise), after, operations(precision), time(precision)]);
        }
        if known.is_empty() {
            known.push(mixer.uniform());
            choices.push([0.0, float_bytes, operations(mixer.uniform()), time(mixer.uniform())]);
        }
        precisions.push(known);
        groups.push(choices);
    }
    let boundaries = boundaries(mixer, &precisions, costs);
    let rest = costs.map_or(0.0, |costs| costs.rest);
    let base = [0.0, (whole as f64 - parts).max(0.0), 0.0, rest];
    Choice { problem: Problem { groups, boundaries, base }, precisions, timed: costs.is_some() }
}

/// Where values pass between groups: a conversion if one side computes on codes and the other does not.
fn boundaries(mixer: &Mixer<'_>, precisions: &[Vec<Precision>], costs: Option<&CostTable>) -> Vec<Boundary> {
    let mut merged: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    for (from, to, value) in mixer.links() {
        let time = costs.and_then(|costs| costs.conversions.get(&value)).copied().unwrap_or(0.0);
        *merged.entry((from.min(to), from.max(to))).or_default() += time;
    }
    let pair = |a: Precision, b: Precision, time: f64| match on_codes(a) == on_codes(b) {
        true => [0.0; 4],
        false => [0.0, CONVERSION_BYTES, 0.0, time],
    };
    let boundary = |(&groups, &time): (&(usize, usize), &f64)| {
        let all =
            precisions[groups.0].iter().flat_map(|&a| precisions[groups.1].iter().map(move |&b| (a, b)));
        Boundary { groups, costs: all.map(|(a, b)| pair(a, b, time)).collect() }
    };
    merged.iter().map(boundary).collect()
}

/// Which codes travel between operators of this precision; none for float.
fn on_codes(precision: Precision) -> Option<(u64, u64)> {
    match precision {
        Precision::Float => None,
        other if other.is_storage() => None,
        other => Some(bits(other)),
    }
}

impl Choice {
    /// The precisions of an assignment.
    pub fn mix(&self, picks: &[usize]) -> Vec<Precision> {
        self.precisions.iter().zip(picks).map(|(known, &pick)| known[pick]).collect()
    }

    /// The picks in which every group has this precision, where it can.
    pub fn uniform(&self, precision: Precision) -> Vec<usize> {
        let pick = |known: &Vec<Precision>| known.iter().position(|&p| p == precision).unwrap_or(0);
        self.precisions.iter().map(pick).collect()
    }

    /// The fronts of loss against each cost that differs between choices, within budgets of the other costs.
    ///
    /// # Errors
    /// The budgets cannot be met, or the problem is not sound.
    pub fn fronts(&self, budgets: &Budgets) -> Result<Vec<(Column, Vec<Assignment>)>> {
        // A picture needs no proof of the last percent.
        let effort = Effort { steps: 80, nodes: 2_000 };
        let mut fronts = Vec::new();
        for column in [Column::Bitops, Column::Bytes, Column::Latency] {
            let differ = self.problem.groups.iter().any(|choices| {
                choices.iter().any(|costs| costs[column as usize] != choices[0][column as usize])
            });
            if differ && (self.timed || column != Column::Latency) {
                fronts.push((column, front(&self.problem, column, budgets, POINTS, effort)?));
            }
        }
        Ok(fronts)
    }

    /// An assignment as a point of the report.
    pub fn point(&self, column: Column, picks: &[usize], costs: &Costs) -> Point {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mix = self.mix(picks);
        for precision in &mix {
            *counts.entry(precision.to_string()).or_default() += 1;
        }
        let differ =
            |boundary: &&Boundary| on_codes(mix[boundary.groups.0]) != on_codes(mix[boundary.groups.1]);
        Point {
            axis: axis(column).into(),
            bytes: costs[Column::Bytes as usize].round() as u64,
            bitops: costs[Column::Bitops as usize].round() as u64,
            latency_us: self.timed.then_some(costs[Column::Latency as usize]),
            predicted_db: decibels(costs[Column::Loss as usize]),
            measured_db: None,
            metric: None,
            counts,
            boundaries: self.problem.boundaries.iter().filter(differ).count(),
            chosen: false,
        }
    }
}

/// The name of a cost in the report.
pub fn axis(column: Column) -> &'static str {
    match column {
        Column::Bytes => "size",
        Column::Latency => "latency",
        _ => "bitops",
    }
}
