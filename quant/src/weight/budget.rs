//! Which width for which weight, given a total size: the multiple-choice knapsack.
//!
//! Every item (a weight, or weights that must be equal) has choices, each with its bytes and its loss (tr(ΔW·H·ΔWᵀ), or a
//! weighted squared error without data). Wanted: one choice per item, total bytes within the budget, least total loss.
//!
//! - [`greedy`]: from the smallest choices upwards along each item's lower convex hull, always the step with the most
//!   loss saved per byte; then single swaps that still fit. Linear-logarithmic. It also gives a lower bound (that of the
//!   linear relaxation), so a report can say how far from the optimum it can be.
//! - [`exact`]: the integer program, solved by branch and bound (`good_lp` on `microlp`), for up to a few hundred items.

use good_lp::{Expression, ProblemVariables, Solution, SolverModel, microlp, variable};
use serde::{Deserialize, Serialize};

use super::WeightError;

/// One way to store an item.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Size in bytes.
    pub bytes: u64,
    /// Loss, finite and ≥ 0.
    pub loss: f64,
}

/// One choice per item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Allocation {
    /// Index of the choice, per item.
    pub picks: Vec<usize>,
    /// Total size.
    pub bytes: u64,
    /// Total loss.
    pub loss: f64,
    /// No allocation within the budget has a loss below this.
    pub bound: f64,
}

/// Why there is no allocation.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BudgetError {
    /// An item without choices, or a loss that is no number ≥ 0.
    #[error("item {item}: {why}")]
    Item {
        /// Index of the item.
        item: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Even the smallest choices are too big.
    #[error("the smallest possible size is {least} bytes, the budget {budget}")]
    TooSmall {
        /// Bytes of the smallest choices.
        least: u64,
        /// The budget.
        budget: u64,
    },
    /// The solver gave up.
    #[error("the integer program was not solved: {0}")]
    Solver(String),
}

/// Bytes that `elements` weights may take at `bits` bits a weight.
pub fn bytes_at(elements: u64, bits: f64) -> Result<u64, WeightError> {
    if !(bits.is_finite() && bits > 0.0 && bits <= 64.0) {
        return Err(WeightError::Option {
            what: "bits per weight",
            must: "in 0..=64",
            found: bits.to_string(),
        });
    }
    Ok((elements as f64 * bits / 8.0).floor() as u64)
}

/// Per item the indices of the choices on its lower convex hull, smallest first: bytes rise, loss falls, and each step
/// saves less loss per byte than the one before.
fn hull(choices: &[Choice]) -> Vec<usize> {
    let mut sorted: Vec<usize> = (0..choices.len()).collect();
    sorted.sort_by(|&a, &b| {
        let (a, b) = (&choices[a], &choices[b]);
        a.bytes.cmp(&b.bytes).then(a.loss.total_cmp(&b.loss))
    });
    let mut hull: Vec<usize> = Vec::new();
    for c in sorted {
        if hull.last().is_some_and(|&last| choices[c].loss >= choices[last].loss) {
            continue;
        }
        while let [.., before, last] = hull[..] {
            if saving(&choices[before], &choices[last]) > saving(&choices[last], &choices[c]) {
                break;
            }
            hull.pop();
        }
        hull.push(c);
    }
    hull
}

/// Loss saved per byte from a smaller choice to a bigger one.
fn saving(from: &Choice, to: &Choice) -> f64 {
    (from.loss - to.loss) / (to.bytes - from.bytes) as f64
}

fn check(items: &[Vec<Choice>], budget: u64) -> Result<(), BudgetError> {
    let mut least = 0u64;
    for (item, choices) in items.iter().enumerate() {
        if choices.iter().any(|c| !(c.loss.is_finite() && c.loss >= 0.0)) {
            return Err(BudgetError::Item { item, why: "a loss is not a number ≥ 0" });
        }
        let smallest = choices.iter().map(|c| c.bytes).min();
        least = least.saturating_add(smallest.ok_or(BudgetError::Item { item, why: "no choices" })?);
    }
    if least > budget { Err(BudgetError::TooSmall { least, budget }) } else { Ok(()) }
}

fn total(items: &[Vec<Choice>], picks: Vec<usize>, bound: f64) -> Allocation {
    let chosen = || items.iter().zip(&picks).map(|(c, &p)| c[p]);
    Allocation {
        bytes: chosen().map(|c| c.bytes).fold(0, u64::saturating_add),
        loss: chosen().map(|c| c.loss).sum(),
        picks,
        bound,
    }
}

/// Greedy allocation along the convex hulls, and the bound of the linear relaxation.
pub fn greedy(items: &[Vec<Choice>], budget: u64) -> Result<Allocation, BudgetError> {
    check(items, budget)?;
    let hulls: Vec<Vec<usize>> = items.iter().map(|c| hull(c)).collect();
    let mut picks: Vec<usize> = hulls.iter().map(|h| h[0]).collect();
    let mut left = budget - items.iter().zip(&picks).map(|(c, &p)| c[p].bytes).sum::<u64>();
    // Steps of all hulls, best first. Within an item they come in order because hulls are convex; equal savings keep the
    // order of items.
    let mut steps: Vec<(f64, usize, usize)> = Vec::new();
    for (item, h) in hulls.iter().enumerate() {
        for (at, pair) in h.windows(2).enumerate() {
            steps.push((saving(&items[item][pair[0]], &items[item][pair[1]]), item, at + 1));
        }
    }
    steps.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut bound: f64 = items.iter().zip(&picks).map(|(c, &p)| c[p].loss).sum();
    let mut relaxed = left as f64;
    let mut blocked = vec![false; items.len()];
    for (saving, item, at) in steps {
        let (from, to) = (&items[item][hulls[item][at - 1]], &items[item][hulls[item][at]]);
        let more = to.bytes - from.bytes;
        // The relaxation takes steps in this order and the first that does not fit in part.
        let part = (relaxed / more as f64).min(1.0);
        bound -= saving * more as f64 * part;
        relaxed -= more as f64 * part;
        if blocked[item] || more > left {
            blocked[item] = true;
            continue;
        }
        picks[item] = hulls[item][at];
        left -= more;
    }
    // What is left of the budget may still pay for a choice off the hull.
    loop {
        let mut best: Option<(f64, usize, usize)> = None;
        for (item, choices) in items.iter().enumerate() {
            let now = choices[picks[item]];
            for (c, choice) in choices.iter().enumerate() {
                let gain = now.loss - choice.loss;
                let fits = choice.bytes <= now.bytes.saturating_add(left);
                if fits && gain > 0.0 && best.is_none_or(|b| gain > b.0) {
                    best = Some((gain, item, c));
                }
            }
        }
        let Some((_, item, c)) = best else { break };
        left = left + items[item][picks[item]].bytes - items[item][c].bytes;
        picks[item] = c;
    }
    let allocation = total(items, picks, bound.max(0.0));
    Ok(Allocation { bound: allocation.bound.min(allocation.loss), ..allocation })
}

/// The best allocation, by branch and bound on the integer program. Never worse than [`greedy`].
pub fn exact(items: &[Vec<Choice>], budget: u64) -> Result<Allocation, BudgetError> {
    let start = greedy(items, budget)?;
    if items.is_empty() || start.loss <= start.bound {
        return Ok(start);
    }
    // Scaled so that the solver's absolute tolerances mean parts of the whole.
    let loss_unit = start.loss.max(f64::MIN_POSITIVE);
    let byte_unit = budget.max(1) as f64;
    let mut variables = ProblemVariables::new();
    let chosen: Vec<Vec<_>> =
        items.iter().map(|c| c.iter().map(|_| variables.add(variable().binary())).collect()).collect();
    let sum = |value: &dyn Fn(&Choice) -> f64| -> Expression {
        let terms = items.iter().zip(&chosen).flat_map(|(c, v)| c.iter().zip(v));
        terms.map(|(c, &v)| value(c) * v).sum()
    };
    let objective = sum(&|c| c.loss / loss_unit);
    let size = sum(&|c| c.bytes as f64 / byte_unit);
    let mut model = variables.minimise(objective).using(microlp).with(size.leq(1.0));
    for v in &chosen {
        model = model.with(v.iter().copied().sum::<Expression>().eq(1.0));
    }
    let solution = model.solve().map_err(|e| BudgetError::Solver(e.to_string()))?;
    let pick = |v: &Vec<_>| {
        let mut best = 0;
        for (i, &x) in v.iter().enumerate() {
            if solution.value(x) > solution.value(v[best]) {
                best = i;
            }
        }
        best
    };
    let found = total(items, chosen.iter().map(pick).collect(), start.bound);
    // The solver works in floats: what it returns is checked, and the greedy answer stands if it does not hold.
    Ok(if found.bytes <= budget && found.loss <= start.loss {
        Allocation { bound: found.loss, ..found }
    } else {
        start
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::testing::Random;

    fn items(count: usize, seed: u64) -> Vec<Vec<Choice>> {
        let mut random = Random::new(seed);
        let mut item = || {
            let size = 100 + random.bits() % 900;
            let sensitivity = random.uniform() * 5.0;
            (2..=8)
                .step_by(2)
                .map(|b| Choice {
                    bytes: size * b,
                    loss: sensitivity * 4f64.powi(-(b as i32)) * (0.8 + 0.4 * random.uniform()),
                })
                .collect()
        };
        (0..count).map(|_| item()).collect()
    }

    /// All allocations of a few items.
    fn brute_force(items: &[Vec<Choice>], budget: u64) -> f64 {
        let mut best = f64::INFINITY;
        let mut picks = vec![0; items.len()];
        loop {
            let a = total(items, picks.clone(), 0.0);
            if a.bytes <= budget {
                best = best.min(a.loss);
            }
            let Some(i) = (0..picks.len()).find(|&i| picks[i] + 1 < items[i].len()) else { return best };
            picks[..i].fill(0);
            picks[i] += 1;
        }
    }

    #[test]
    fn exact_is_optimal_and_greedy_close() {
        for seed in 0..12 {
            let items = items(6, seed);
            let full: u64 = items.iter().map(|c| c[3].bytes).sum();
            for part in [0.3, 0.5, 0.62, 0.9, 1.0] {
                let budget = (full as f64 * part) as u64;
                let best = brute_force(&items, budget);
                let (g, e) = (greedy(&items, budget).unwrap(), exact(&items, budget).unwrap());
                assert!(g.bytes <= budget && e.bytes <= budget);
                assert!(e.loss <= best * (1.0 + 1e-9), "{} {best}", e.loss); // the solver's float sums
                assert!(g.bound <= best * (1.0 + 1e-9) && g.loss >= best);
            }
        }
    }

    #[test]
    fn greedy_is_near_its_bound_on_many_items() {
        let items = items(300, 99);
        let full: u64 = items.iter().map(|c| c[3].bytes).sum();
        let a = greedy(&items, full / 2).unwrap();
        // Off by at most one item's step; 300 items.
        assert!(a.loss <= 1.01 * a.bound, "{} {}", a.loss, a.bound);
    }

    #[test]
    fn ugly_items() {
        assert!(greedy(&[], 0).unwrap().picks.is_empty());
        assert_eq!(exact(&[], 0).unwrap().bytes, 0);
        let c = |bytes, loss| Choice { bytes, loss };
        assert_eq!(greedy(&[vec![]], 5), Err(BudgetError::Item { item: 0, why: "no choices" }));
        assert!(greedy(&[vec![c(1, f64::NAN)]], 5).is_err());
        assert!(greedy(&[vec![c(1, -1.0)]], 5).is_err());
        assert_eq!(
            greedy(&[vec![c(6, 0.0)], vec![c(u64::MAX, 0.0)]], 5),
            Err(BudgetError::TooSmall { least: u64::MAX, budget: 5 })
        );
        // Equal sizes, dominated choices, duplicates.
        let a = exact(&[vec![c(4, 2.0), c(4, 1.0), c(5, 3.0), c(4, 1.0)]], 9).unwrap();
        assert_eq!((a.picks, a.loss), (vec![1], 1.0));
        assert!(bytes_at(100, f64::NAN).is_err());
        assert_eq!(bytes_at(1000, 4.6).unwrap(), 575);
    }
}
