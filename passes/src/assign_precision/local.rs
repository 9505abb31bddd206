//! From any assignment to a good one nearby: first into the budgets, then better within them.

use super::{Assignment, Budgets, COLUMNS, Costs, Problem, excess};

/// Changes of two groups at once are tried up to this many groups.
const PAIRS_UP_TO: usize = 150;

/// An assignment with its costs, cheap to change.
pub(super) struct State<'a> {
    problem: &'a Problem,
    /// Boundaries of each group.
    around: &'a [Vec<usize>],
    pub(super) picks: Vec<usize>,
    pub(super) costs: Costs,
}

/// Boundaries of each group.
pub(super) fn around(problem: &Problem) -> Vec<Vec<usize>> {
    let mut around = vec![Vec::new(); problem.groups.len()];
    for (at, boundary) in problem.boundaries.iter().enumerate() {
        around[boundary.groups.0].push(at);
        around[boundary.groups.1].push(at);
    }
    around
}

impl<'a> State<'a> {
    pub(super) fn new(problem: &'a Problem, around: &'a [Vec<usize>], picks: Vec<usize>) -> State<'a> {
        let costs = problem.costs(&picks);
        State { problem, around, picks, costs }
    }

    /// The costs after a change of one group.
    fn after(&self, group: usize, pick: usize) -> Costs {
        let mut costs = self.costs;
        let (old, new) = (&self.problem.groups[group][self.picks[group]], &self.problem.groups[group][pick]);
        for c in 0..COLUMNS {
            costs[c] += new[c] - old[c];
        }
        for &at in &self.around[group] {
            let boundary = &self.problem.boundaries[at];
            let (a, b) = boundary.groups;
            let now = self.problem.pair(boundary, self.picks[a], self.picks[b]);
            let (pa, pb) = if a == group { (pick, self.picks[b]) } else { (self.picks[a], pick) };
            let then = self.problem.pair(boundary, pa, pb);
            for c in 0..COLUMNS {
                costs[c] += then[c] - now[c];
            }
        }
        costs
    }

    fn change(&mut self, group: usize, pick: usize) {
        self.costs = self.after(group, pick);
        self.picks[group] = pick;
    }

    /// Every change of one group.
    fn moves(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let choices = |group: usize| (0..self.problem.groups[group].len()).map(move |pick| (group, pick));
        (0..self.picks.len()).flat_map(choices).filter(|&(group, pick)| self.picks[group] != pick)
    }

    /// Moves into the budgets, always by the change that gains most for what it adds to the goal.
    pub(super) fn repair(&mut self, goal: usize, budgets: &Budgets) {
        let mut over = excess(&self.costs, budgets);
        // Each change makes the excess smaller, and there are finitely many assignments; the limit bounds the time.
        for _ in 0..4 * self.picks.len() + 16 {
            if over == 0.0 {
                return;
            }
            let unit = self.costs[goal].abs().max(1e-30);
            let mut best: Option<(f64, f64, usize, usize)> = None;
            for (group, pick) in self.moves() {
                let after = self.after(group, pick);
                let left = excess(&after, budgets);
                let gain = over - left;
                if gain <= 0.0 {
                    continue;
                }
                let price = ((after[goal] - self.costs[goal]) / unit).max(0.0) + 1e-9;
                if best.is_none_or(|(rate, ..)| gain / price > rate) {
                    best = Some((gain / price, left, group, pick));
                }
            }
            let Some((_, left, group, pick)) = best else { return };
            self.change(group, pick);
            over = left;
        }
    }

    /// Improves the goal within the budgets by changes of one group, then of two at once.
    pub(super) fn improve(&mut self, goal: usize, budgets: &Budgets) {
        // Gains below a part in 10^12 are rounding.
        let better = |new: f64, old: f64| new < old - old.abs() * 1e-12;
        for _ in 0..8 * self.picks.len() + 16 {
            let mut best: Option<(f64, usize, usize)> = None;
            for (group, pick) in self.moves() {
                let after = self.after(group, pick);
                if better(after[goal], best.map_or(self.costs[goal], |b| b.0))
                    && excess(&after, budgets) == 0.0
                {
                    best = Some((after[goal], group, pick));
                }
            }
            if let Some((_, group, pick)) = best {
                self.change(group, pick);
                continue;
            }
            if self.picks.len() > PAIRS_UP_TO || !self.improve_pair(goal, budgets) {
                break;
            }
        }
        // Changes added up rounding errors.
        self.costs = self.problem.costs(&self.picks);
    }

    fn improve_pair(&mut self, goal: usize, budgets: &Budgets) -> bool {
        let moves: Vec<(usize, usize)> = self.moves().collect();
        for &(group, pick) in &moves {
            let (before, costs) = (self.picks[group], self.costs);
            self.change(group, pick);
            for &(other, with) in moves.iter().filter(|(other, _)| *other > group) {
                let after = self.after(other, with);
                if after[goal] < costs[goal] * (1.0 - 1e-12) && excess(&after, budgets) == 0.0 {
                    self.change(other, with);
                    return true;
                }
            }
            self.picks[group] = before;
            self.costs = costs;
        }
        false
    }

    pub(super) fn assignment(&self, bound: f64) -> Assignment {
        Assignment { picks: self.picks.clone(), costs: self.problem.costs(&self.picks), bound }
    }
}
