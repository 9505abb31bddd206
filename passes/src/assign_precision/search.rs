//! The best assignment within budgets: prices by subgradient steps, then branch and bound.

use super::local::{State, around};
use super::relax::Forest;
use super::{AssignError, Assignment, Budgets, COLUMNS, Column, Costs, Problem, excess};

/// How long to search.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Steps of the prices.
    pub steps: usize,
    /// Partial assignments that branch and bound looks at.
    pub nodes: usize,
}

impl Default for Effort {
    /// Proves the optimum of a few dozen groups; for thousands the gap is stated.
    fn default() -> Effort {
        Effort { steps: 160, nodes: 200_000 }
    }
}

/// An answer this close to the bound counts as the optimum.
const CLOSE: f64 = 1e-9;

/// Minimizes one cost within the budgets.
///
/// # Errors
/// A problem that is not well formed, or budgets that nothing found can meet, with the nearest assignment.
pub fn solve(
    problem: &Problem,
    goal: Column,
    budgets: &Budgets,
    effort: Effort,
) -> Result<Assignment, AssignError> {
    problem.check()?;
    let around = around(problem);
    let mut search = Search::new(problem, &around, goal as usize, budgets);
    search.price(effort.steps);
    // Nodes of big problems cost more: the work stays bounded.
    let size: usize = problem.groups.iter().map(Vec::len).sum();
    let nodes = effort.nodes.min(40_000_000 / size.max(1));
    let exhausted = search.branch(nodes);
    match search.best {
        Some(best) => {
            let bound =
                if exhausted { best.costs[search.goal] } else { search.bound.min(best.costs[search.goal]) };
            Ok(Assignment { bound, ..best })
        }
        None => {
            let nearest = search.nearest.map(|(_, nearest)| nearest);
            let nearest = nearest.unwrap_or_else(|| {
                let picks = vec![0; problem.groups.len()];
                Assignment { costs: problem.costs(&picks), picks, bound: 0.0 }
            });
            Err(AssignError::Infeasible { nearest: Box::new(nearest), proven: exhausted })
        }
    }
}

struct Search<'a> {
    problem: &'a Problem,
    around: &'a [Vec<usize>],
    forest: Forest,
    goal: usize,
    budgets: &'a Budgets,
    /// Price of each column, the goal's being 1.
    prices: Costs,
    /// Prices at other scales of the budgets; a bound from any of them holds.
    bound: f64,
    best: Option<Assignment>,
    nearest: Option<(f64, Assignment)>,
}

impl<'a> Search<'a> {
    fn new(problem: &'a Problem, around: &'a [Vec<usize>], goal: usize, budgets: &'a Budgets) -> Search<'a> {
        let forest = Forest::new(problem);
        let mut prices = [0.0; COLUMNS];
        prices[goal] = 1.0;
        Search { problem, around, forest, goal, budgets, prices, bound: 0.0, best: None, nearest: None }
    }

    /// What the budgets give back at these prices.
    fn rebate(&self, prices: &Costs) -> f64 {
        let paid = |(c, budget): (usize, &Option<f64>)| match budget {
            Some(budget) if c != self.goal => prices[c] * budget,
            _ => 0.0,
        };
        self.budgets.iter().enumerate().map(paid).sum()
    }

    /// Finds good prices, and good assignments on the way.
    fn price(&mut self, steps: usize) {
        let free = vec![None; self.problem.groups.len()];
        let limited: Vec<usize> =
            (0..COLUMNS).filter(|&c| c != self.goal && self.budgets[c].is_some()).collect();
        let (value, picks) = self.forest.cheapest(self.problem, &self.prices, &free);
        self.bound = value;
        self.try_from(picks);
        // What a whole budget is worth, at first: the goal's spread.
        let worst: f64 = self
            .problem
            .groups
            .iter()
            .map(|choices| choices.iter().map(|costs| costs[self.goal]).fold(0.0, f64::max))
            .sum();
        let unit = worst.max(1e-30);
        let mut prices = self.prices;
        let mut tries = 0;
        let mut step = 0.5;
        let mut since = 0;
        for at in 0..steps {
            let (value, picks) = self.forest.cheapest(self.problem, &prices, &free);
            let value = value - self.rebate(&prices);
            since += 1;
            if value > self.bound {
                (self.bound, self.prices, since) = (value, prices, 0);
            }
            let costs = self.problem.costs(&picks);
            if at % 8 == 0 || tries < 12 {
                tries += 1;
                self.try_from(picks);
            }
            if limited.is_empty() || self.closed() {
                break;
            }
            // A step up in the prices of what is exceeded and down in the others, as shares of each budget.
            let slope: Vec<f64> = limited
                .iter()
                .map(|&c| {
                    let budget = self.budgets[c].unwrap_or(0.0);
                    (costs[c] - budget) / budget.abs().max(1e-30)
                })
                .collect();
            let length = slope.iter().map(|s| s * s).sum::<f64>();
            if length == 0.0 {
                break;
            }
            let gap = match &self.best {
                Some(best) => (best.costs[self.goal] - value).max(unit * 1e-9),
                None => unit * step,
            };
            if since > 12 {
                (step, since) = (step * 0.5, 0);
            }
            for (&c, slope) in limited.iter().zip(&slope) {
                let budget = self.budgets[c].unwrap_or(0.0).abs().max(1e-30);
                let change = step * gap * slope / length / budget;
                prices[c] = (prices[c] + change).max(0.0);
            }
        }
        if let Some(budget) = self.budgets[self.goal]
            && self.best.is_none()
        {
            // The goal has a budget of its own: everything above it is as good as nothing.
            self.bound = self.bound.min(budget);
        }
    }

    fn closed(&self) -> bool {
        self.best.as_ref().is_some_and(|best| {
            let found = best.costs[self.goal];
            found - self.bound <= found.abs() * CLOSE
        })
    }

    /// Makes an assignment good and keeps it if it is the best.
    fn try_from(&mut self, picks: Vec<usize>) {
        let mut state = State::new(self.problem, self.around, picks);
        state.repair(self.goal, self.budgets);
        let over = excess(&state.costs, self.budgets);
        if over > 0.0 {
            if self.nearest.as_ref().is_none_or(|(least, _)| over < *least) {
                self.nearest = Some((over, state.assignment(0.0)));
            }
            return;
        }
        state.improve(self.goal, self.budgets);
        self.keep(state.assignment(0.0));
    }

    fn keep(&mut self, found: Assignment) {
        if excess(&found.costs, self.budgets) > 0.0 {
            return;
        }
        if self.best.as_ref().is_none_or(|best| found.costs[self.goal] < best.costs[self.goal]) {
            self.best = Some(found);
        }
    }

    /// Depth first, groups with the most to decide first. True if everything was looked at.
    fn branch(&mut self, nodes: usize) -> bool {
        if self.closed() {
            return true;
        }
        let spread = |group: &usize| {
            let prices = self.problem.groups[*group].iter().map(|costs| super::dot(&self.prices, costs));
            let (low, high) = prices.fold((f64::INFINITY, 0.0f64), |(l, h), p| (l.min(p), h.max(p)));
            high - low
        };
        let mut order: Vec<usize> = (0..self.problem.groups.len()).collect();
        let spreads: Vec<f64> = order.iter().map(spread).collect();
        order.sort_by(|&a, &b| spreads[b].total_cmp(&spreads[a]).then(a.cmp(&b)));
        let mut fixed = vec![None; order.len()];
        let mut left = nodes;
        let least = self.least();
        self.descend(&order, 0, &mut fixed, &mut left, &least);
        left > 0
    }

    /// The least that every group adds to each column, for the question whether a partial assignment can still fit.
    fn least(&self) -> Vec<Costs> {
        let least = |choices: &Vec<Costs>| {
            choices.iter().fold([f64::INFINITY; COLUMNS], |mut low, costs| {
                low.iter_mut().zip(costs).for_each(|(low, cost)| *low = low.min(*cost));
                low
            })
        };
        self.problem.groups.iter().map(least).collect()
    }

    fn descend(
        &mut self,
        order: &[usize],
        depth: usize,
        fixed: &mut Vec<Option<usize>>,
        left: &mut usize,
        least: &[Costs],
    ) {
        if *left == 0 {
            return;
        }
        *left -= 1;
        if self.cannot_fit(fixed, least) {
            return;
        }
        let (value, picks) = self.forest.cheapest(self.problem, &self.prices, fixed);
        let value = value - self.rebate(&self.prices);
        if let Some(best) = &self.best {
            let found = best.costs[self.goal];
            if value >= found - found.abs() * CLOSE {
                return;
            }
        }
        let costs = self.problem.costs(&picks);
        if excess(&costs, self.budgets) == 0.0 {
            self.keep(Assignment { picks: picks.clone(), costs, bound: 0.0 });
        }
        let Some(&group) = order.get(depth) else { return };
        // The relaxed choice first: most likely to be right, and a good answer early prunes the rest.
        let likely = picks[group];
        let others = (0..self.problem.groups[group].len()).filter(|&pick| pick != likely);
        for pick in std::iter::once(likely).chain(others) {
            fixed[group] = Some(pick);
            self.descend(order, depth + 1, fixed, left, least);
        }
        fixed[group] = None;
    }

    /// Even the least of everything that is open exceeds a budget.
    fn cannot_fit(&self, fixed: &[Option<usize>], least: &[Costs]) -> bool {
        let mut sum = self.problem.base;
        for (group, pick) in fixed.iter().enumerate() {
            let costs = pick.map_or(&least[group], |pick| &self.problem.groups[group][pick]);
            super::add(&mut sum, costs);
        }
        for boundary in &self.problem.boundaries {
            if let (Some(a), Some(b)) = (fixed[boundary.groups.0], fixed[boundary.groups.1]) {
                super::add(&mut sum, self.problem.pair(boundary, a, b));
            }
        }
        excess(&sum, self.budgets) > 0.0
    }
}
