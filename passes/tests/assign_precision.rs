//! The solver against brute force: ten groups, random boundaries, random budgets on any columns.

use onnxq_passes::assign_precision::{
    AssignError, Boundary, Budgets, COLUMNS, Column, Costs, Effort, Problem, front, solve,
};
use proptest::prelude::*;

/// Every assignment with its costs.
fn all(problem: &Problem) -> Vec<Costs> {
    let mut picks = vec![0; problem.groups.len()];
    let mut found = Vec::new();
    loop {
        found.push(problem.costs(&picks));
        let Some(at) = (0..picks.len()).find(|&at| picks[at] + 1 < problem.groups[at].len()) else {
            return found;
        };
        picks[..at].fill(0);
        picks[at] += 1;
    }
}

/// As the program's comparison with a budget: sums differ in their last digits with the order.
fn within(costs: &Costs, budgets: &Budgets) -> bool {
    costs
        .iter()
        .zip(budgets)
        .all(|(cost, budget)| budget.is_none_or(|budget| *cost <= budget * (1.0 + 1e-12)))
}

/// Choices as quantization has them: more bytes, less loss, with a group's own size and sensitivity.
fn group() -> impl Strategy<Value = Vec<Costs>> {
    (1.0..1000.0f64, -12.0..0.0f64, prop::collection::vec(0.5..2.0f64, 3)).prop_map(|(size, loss, jitter)| {
        let choice = |at: usize, bits: f64| {
            let loss = 10f64.powf(loss - 1.2 * at as f64) * jitter[at];
            [loss, size * bits, size * bits * bits, size * (bits / 8.0).sqrt() * jitter[2 - at]]
        };
        vec![choice(0, 4.0), choice(1, 8.0), choice(2, 32.0)]
    })
}

fn problem(groups: usize) -> impl Strategy<Value = Problem> {
    let boundary = (0..groups, 1..groups, 0.0..200.0f64);
    (prop::collection::vec(group(), groups), prop::collection::vec(boundary, 0..groups + 4)).prop_map(
        move |(groups, links)| {
            let boundaries = links.into_iter().map(|(a, by, time)| {
                let pairs = (0..9).map(|pair| {
                    let differ = pair / 3 != pair % 3;
                    [0.0, if differ { 16.0 } else { 0.0 }, 0.0, if differ { time } else { 0.0 }]
                });
                Boundary { groups: (a, (a + by) % groups.len()), costs: pairs.collect() }
            });
            let boundaries = boundaries.collect();
            Problem { groups, boundaries, base: [0.0, 100.0, 0.0, 5.0] }
        },
    )
}

/// For each column, whether it has a budget and where between least and most.
fn budgets() -> impl Strategy<Value = [Option<f64>; COLUMNS]> {
    let one = || prop::option::of(0.0..1.0f64);
    (prop::option::weighted(0.3, 0.0..1.0f64), one(), one(), one()).prop_map(|(a, b, c, d)| [a, b, c, d])
}

fn spread(shares: &[Option<f64>; COLUMNS], all: &[Costs]) -> Budgets {
    std::array::from_fn(|c| {
        let (low, high) = all
            .iter()
            .map(|costs| costs[c])
            .fold((f64::INFINITY, 0.0f64), |(low, high), cost| (low.min(cost), high.max(cost)));
        shares[c].map(|share| low + (high - low) * share)
    })
}

proptest! {
    // Each case evaluates 59,049 assignments.
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_optimum_is_found(problem in problem(10), shares in budgets(), goal in 0..COLUMNS) {
        let all = all(&problem);
        let budgets = spread(&shares, &all);
        let best = all.iter().filter(|costs| within(costs, &budgets)).map(|costs| costs[goal]).fold(f64::INFINITY, f64::min);
        match solve(&problem, Column::ALL[goal], &budgets, Effort::default()) {
            Ok(found) => {
                prop_assert!(within(&found.costs, &budgets));
                // Sums of ten floats in two orders.
                prop_assert!(found.costs[goal] <= best * (1.0 + 1e-8), "{} {best}", found.costs[goal]);
                prop_assert!(found.bound <= best * (1.0 + 1e-8));
            }
            Err(AssignError::Infeasible { nearest, proven }) => {
                prop_assert!(best.is_infinite() && proven);
                prop_assert!(!within(&nearest.costs, &budgets));
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn no_assignment_beats_the_front(problem in problem(6)) {
        let front = front(&problem, Column::Bytes, &[None; COLUMNS], 9, Effort::default()).unwrap();
        for pair in front.windows(2) {
            prop_assert!(pair[0].costs[1] < pair[1].costs[1] && pair[0].costs[0] > pair[1].costs[0]);
        }
        for costs in all(&problem) {
            for point in &front {
                let beaten = costs[1] <= point.costs[1] && costs[0] < point.costs[0] * (1.0 - 1e-8);
                prop_assert!(!beaten, "{costs:?} {:?}", point.costs);
            }
        }
    }
}

/// 300 groups in a chain with boundaries: the stated gap is small, and the answer fits.
#[test]
fn many_groups_end_near_the_bound() {
    let choice = |group: usize, at: usize| {
        let size = 100.0 + ((group * 7919) % 900) as f64;
        let sensitivity = (1 + (group * 104_729) % 997) as f64;
        let bits = [4.0, 8.0, 32.0][at];
        [sensitivity * [1e-2, 1e-4, 0.0][at], size * bits, size * bits * bits, size * bits]
    };
    let groups: Vec<Vec<Costs>> =
        (0..300).map(|group| (0..3).map(|at| choice(group, at)).collect()).collect();
    let pairs: Vec<Costs> =
        (0..9).map(|pair| [0.0, 0.0, 0.0, if pair / 3 == pair % 3 { 0.0 } else { 500.0 }]).collect();
    let boundaries = (1..300).map(|at| Boundary { groups: (at - 1, at), costs: pairs.clone() }).collect();
    let problem = Problem { groups, boundaries, base: [0.0; COLUMNS] };
    let full: Costs = problem.costs(&[2; 300]);
    let budgets = [None, Some(full[1] * 0.4), None, Some(full[3] * 0.6)];
    let effort = Effort { nodes: 200, ..Effort::default() };
    let found = solve(&problem, Column::Loss, &budgets, effort).unwrap();
    assert!(within(&found.costs, &budgets));
    // Two budgets, so at most a few groups are split in the relaxation: far less than 5 % of 300.
    assert!(found.costs[0] <= found.bound * 1.05, "{} {}", found.costs[0], found.bound);
}

#[test]
fn ugly_problems() {
    let none = [None; COLUMNS];
    let empty = solve(&Problem::default(), Column::Loss, &none, Effort::default()).unwrap();
    assert!(empty.picks.is_empty());
    let of = |costs: f64| vec![[costs; COLUMNS]];
    let problem = |groups| Problem { groups, ..Problem::default() };
    for bad in [vec![vec![]], vec![of(f64::NAN)], vec![of(-1.0)], vec![of(f64::INFINITY)]] {
        assert!(matches!(
            solve(&problem(bad), Column::Bytes, &none, Effort::default()),
            Err(AssignError::Problem { .. })
        ));
    }
    let mut budgets = none;
    budgets[1] = Some(0.5);
    let missed = solve(&problem(vec![of(1.0)]), Column::Loss, &budgets, Effort::default());
    assert!(matches!(missed, Err(AssignError::Infeasible { proven: true, .. })), "{missed:?}");
    // A boundary to itself is no boundary.
    let looped = Problem {
        boundaries: vec![Boundary { groups: (0, 0), costs: vec![[0.0; COLUMNS]] }],
        ..problem(vec![of(1.0)])
    };
    assert!(solve(&looped, Column::Loss, &none, Effort::default()).is_err());
}
