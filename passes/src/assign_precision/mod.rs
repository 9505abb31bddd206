//! Assigns a precision to every group of operators: the most accurate mix within budgets of size, multiplications and
//! time, or the cheapest mix that is accurate enough.
//!
//! Numbers in, choices out. A [`Problem`] lists for every group its choices, each with four [`Costs`]: loss (the part of
//! the noise power in the model's outputs that the choice causes; parts of independent groups add up), bytes, bit
//! operations and time. Where two neighbouring groups compute in different precisions a conversion stands between them:
//! a [`Boundary`] gives its costs for every pair of choices.
//!
//! - [`solve()`] minimizes one cost within budgets on any of them. Lower bounds come from Lagrangian relaxation, with
//!   boundaries kept exactly along a spanning forest of the groups (dynamic programming) and the rest at their cheapest;
//!   branch and bound on these bounds closes the gap. The answer says how far from the optimum it can be.
//! - [`front()`] is the whole Pareto front of loss against one other cost.
//!
//! What the numbers are measured from is in the program (`src/pipeline/sensitivity`).

mod front;
mod local;
mod relax;
mod search;

use serde::{Deserialize, Serialize};

pub use front::front;
pub use search::{Effort, solve};

/// The columns of [`Costs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Column {
    /// Noise power at the outputs as a share of the signal's.
    Loss,
    /// Bytes of the file.
    Bytes,
    /// Multiplications times the bits of both operands.
    Bitops,
    /// Microseconds of one run.
    Latency,
}

impl Column {
    /// All, in the order of [`Costs`].
    pub const ALL: [Column; COLUMNS] = [Column::Loss, Column::Bytes, Column::Bitops, Column::Latency];
}

/// Number of columns.
pub const COLUMNS: usize = 4;

/// What a choice costs, by [`Column`]. Every number is finite and at least 0.
pub type Costs = [f64; COLUMNS];

/// Limits, by [`Column`].
pub type Budgets = [Option<f64>; COLUMNS];

/// Two groups between which values pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Boundary {
    /// The two groups, different ones.
    pub groups: (usize, usize),
    /// Costs of each pair of choices: the first group's choice counts slowest.
    pub costs: Vec<Costs>,
}

/// What there is to choose from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// The choices of each group; at least one.
    pub groups: Vec<Vec<Costs>>,
    /// Where conversions may be needed.
    pub boundaries: Vec<Boundary>,
    /// Costs of everything that is not up for choice.
    pub base: Costs,
}

/// One choice for every group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// Index of the choice of each group.
    pub picks: Vec<usize>,
    /// The whole cost.
    pub costs: Costs,
    /// No assignment within the budgets has the minimized cost below this.
    pub bound: f64,
}

/// Why there is no assignment.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AssignError {
    /// The problem is not well formed.
    #[error("group {group}: {why}")]
    Problem {
        /// The group.
        group: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No assignment within the budgets was found.
    #[error("no assignment is within the budgets")]
    Infeasible {
        /// The one found that exceeds the budgets least, as a share of the budgets.
        nearest: Box<Assignment>,
        /// It is proven that there is none.
        proven: bool,
    },
}

impl Problem {
    /// The whole cost of one choice for every group.
    ///
    /// # Panics
    /// If there are not as many picks as groups, or one is out of range.
    pub fn costs(&self, picks: &[usize]) -> Costs {
        let mut sum = self.base;
        for (choices, &pick) in self.groups.iter().zip(picks) {
            add(&mut sum, &choices[pick]);
        }
        for boundary in &self.boundaries {
            add(&mut sum, self.pair(boundary, picks[boundary.groups.0], picks[boundary.groups.1]));
        }
        sum
    }

    fn pair<'a>(&self, boundary: &'a Boundary, a: usize, b: usize) -> &'a Costs {
        &boundary.costs[a * self.groups[boundary.groups.1].len() + b]
    }

    /// Checks what the type does not.
    ///
    /// # Errors
    /// A group without choices, a cost that is no number of at least 0, a boundary that does not fit its groups.
    pub fn check(&self) -> Result<(), AssignError> {
        let sound = |costs: &Costs| costs.iter().all(|cost| cost.is_finite() && *cost >= 0.0);
        for (group, choices) in self.groups.iter().enumerate() {
            if choices.is_empty() {
                return Err(AssignError::Problem { group, why: "it has no choices" });
            }
            if !choices.iter().all(sound) {
                return Err(AssignError::Problem { group, why: "a cost is not a number of at least 0" });
            }
        }
        for boundary in &self.boundaries {
            let (a, b) = boundary.groups;
            let size = |group: usize| self.groups.get(group).map(Vec::len);
            let fits = a != b && size(a).zip(size(b)).is_some_and(|(a, b)| a * b == boundary.costs.len());
            if !fits || !boundary.costs.iter().all(sound) {
                return Err(AssignError::Problem { group: a, why: "a boundary does not fit its groups" });
            }
        }
        if !sound(&self.base) {
            return Err(AssignError::Problem { group: 0, why: "a base cost is not a number of at least 0" });
        }
        Ok(())
    }
}

fn add(sum: &mut Costs, more: &Costs) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

/// How far costs are beyond the budgets, as shares of them, added up; 0 if all hold. Sums of floats may differ in the last
/// digits with their order, hence the allowance of one part in 10^12.
fn excess(costs: &Costs, budgets: &Budgets) -> f64 {
    let over = |(cost, budget): (&f64, &Option<f64>)| match budget {
        Some(budget) if *cost > budget * (1.0 + 1e-12) => {
            (cost - budget) / budget.abs().max(f64::MIN_POSITIVE)
        }
        _ => 0.0,
    };
    costs.iter().zip(budgets).map(over).sum()
}

fn dot(weights: &Costs, costs: &Costs) -> f64 {
    weights.iter().zip(costs).map(|(weight, cost)| weight * cost).sum()
}
