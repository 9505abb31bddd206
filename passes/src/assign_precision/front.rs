//! The Pareto front of loss against one other cost.

use super::{AssignError, Assignment, Budgets, Column, Effort, Problem, solve};

/// The best assignments at up to `points` budgets of a column, spread evenly from the least possible cost to where more
/// buys nothing, within further budgets. Cheapest first; each is more accurate than all before it.
///
/// # Errors
/// As [`solve`], if not even the further budgets can be met.
pub fn front(
    problem: &Problem,
    against: Column,
    budgets: &Budgets,
    points: usize,
    effort: Effort,
) -> Result<Vec<Assignment>, AssignError> {
    let column = against as usize;
    let cheapest = solve(problem, against, budgets, effort)?;
    let best = solve(problem, Column::Loss, budgets, effort)?;
    let (low, high) = (cheapest.costs[column], best.costs[column]);
    let mut found = vec![best];
    for step in 0..points.max(2) {
        let share = step as f64 / (points.max(2) - 1) as f64;
        let budget = low + (high - low).max(0.0) * share;
        let tighter = budgets[column].map_or(budget, |given| given.min(budget));
        let mut at = *budgets;
        at[column] = Some(tighter);
        match solve(problem, Column::Loss, &at, effort) {
            Ok(assignment) => found.push(assignment),
            // Only the cheapest point itself can be missed, by rounding of its budget.
            Err(AssignError::Infeasible { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    found.push(cheapest);
    found.sort_by(|a, b| a.costs[column].total_cmp(&b.costs[column]).then(a.costs[0].total_cmp(&b.costs[0])));
    let mut front: Vec<Assignment> = Vec::new();
    for assignment in found {
        if front.last().is_none_or(|last| assignment.costs[0] < last.costs[0]) {
            front.push(assignment);
        }
    }
    Ok(front)
}
