//! The relaxed problem: budgets become prices, and the cheapest assignment at these prices is found by dynamic programming
//! along a spanning forest of the groups. Boundaries outside the forest count with their cheapest pair, so the result
//! is never above the true minimum.

use super::{Costs, Problem, dot};

/// A spanning forest, and what the dynamic program needs of the problem at any prices.
pub(super) struct Forest {
    /// Groups, every parent before its children.
    order: Vec<usize>,
    /// Parent of each group and the boundary to it.
    parent: Vec<Option<(usize, usize)>>,
    /// Boundaries outside the forest.
    loose: Vec<usize>,
}

impl Forest {
    /// The forest that keeps the boundaries with the greatest spread of costs.
    pub(super) fn new(problem: &Problem) -> Forest {
        let count = problem.groups.len();
        let spread = |at: usize| -> f64 {
            let costs = &problem.boundaries[at].costs;
            // Time is what conversions cost; the other columns hardly differ.
            let sums = costs.iter().map(|c| c.iter().sum::<f64>());
            let (low, high) = sums.fold((f64::INFINITY, 0.0f64), |(l, h), s| (l.min(s), h.max(s)));
            high - low
        };
        let mut by_spread: Vec<usize> = (0..problem.boundaries.len()).collect();
        let spreads: Vec<f64> = by_spread.iter().map(|&at| spread(at)).collect();
        by_spread.sort_by(|&a, &b| spreads[b].total_cmp(&spreads[a]).then(a.cmp(&b)));
        let mut root: Vec<usize> = (0..count).collect();
        let find = |root: &mut Vec<usize>, mut at: usize| {
            while root[at] != at {
                root[at] = root[root[at]];
                at = root[at];
            }
            at
        };
        let (mut links, mut loose) = (vec![Vec::new(); count], Vec::new());
        for at in by_spread {
            let (a, b) = problem.boundaries[at].groups;
            let (ra, rb) = (find(&mut root, a), find(&mut root, b));
            if ra == rb {
                loose.push(at);
            } else {
                root[ra] = rb;
                links[a].push((b, at));
                links[b].push((a, at));
            }
        }
        let (mut order, mut parent) = (Vec::with_capacity(count), vec![None; count]);
        let mut seen = vec![false; count];
        for start in 0..count {
            let mut stack = vec![start];
            while let Some(group) = stack.pop() {
                if std::mem::replace(&mut seen[group], true) {
                    continue;
                }
                order.push(group);
                for &(next, boundary) in links[group].iter().filter(|(next, _)| !seen[*next]) {
                    parent[next] = Some((group, boundary));
                    stack.push(next);
                }
            }
        }
        Forest { order, parent, loose }
    }

    /// The cheapest assignment at these prices where `fixed` groups have no choice: its relaxed price and the picks.
    pub(super) fn cheapest(
        &self,
        problem: &Problem,
        prices: &Costs,
        fixed: &[Option<usize>],
    ) -> (f64, Vec<usize>) {
        let allowed = |group: usize, pick: usize| fixed[group].is_none_or(|only| only == pick);
        // Best price of the subtree below each group for each of its choices.
        let mut below: Vec<Vec<f64>> = problem
            .groups
            .iter()
            .enumerate()
            .map(|(group, choices)| {
                let price = |(pick, costs)| match allowed(group, pick) {
                    true => dot(prices, costs),
                    false => f64::INFINITY,
                };
                choices.iter().enumerate().map(price).collect()
            })
            .collect();
        let mut reply: Vec<Vec<usize>> = vec![Vec::new(); problem.groups.len()];
        let mut total = dot(prices, &problem.base);
        for &group in self.order.iter().rev() {
            let Some((parent, at)) = self.parent[group] else { continue };
            let boundary = &problem.boundaries[at];
            let first = boundary.groups.0 == parent;
            let own = std::mem::take(&mut below[group]);
            for pick in 0..below[parent].len() {
                let mut best = (f64::INFINITY, 0);
                for (child, price) in own.iter().enumerate() {
                    let (a, b) = if first { (pick, child) } else { (child, pick) };
                    let price = price + dot(prices, problem.pair(boundary, a, b));
                    if price < best.0 {
                        best = (price, child);
                    }
                }
                below[parent][pick] += best.0;
                reply[group].push(best.1);
            }
            below[group] = own;
        }
        let mut picks = vec![0; problem.groups.len()];
        for &group in &self.order {
            picks[group] = match self.parent[group] {
                Some((parent, _)) => reply[group][picks[parent]],
                None => {
                    let best =
                        (0..below[group].len()).min_by(|&a, &b| below[group][a].total_cmp(&below[group][b]));
                    let best = best.unwrap_or(0);
                    total += below[group][best];
                    best
                }
            };
        }
        for &at in &self.loose {
            let boundary = &problem.boundaries[at];
            let (a, b) = boundary.groups;
            let width = problem.groups[b].len();
            let pairs = boundary.costs.iter().enumerate();
            let open = pairs.filter(|(pair, _)| allowed(a, pair / width) && allowed(b, pair % width));
            let least = open.map(|(_, costs)| dot(prices, costs)).fold(f64::INFINITY, f64::min);
            total += if least.is_finite() { least } else { 0.0 };
        }
        (total, picks)
    }
}
