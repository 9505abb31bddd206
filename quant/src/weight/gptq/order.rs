//! The order in which columns are rounded, and the factor H = M·D·Mᵀ for it (M unit upper triangular in that order).
//!
//! Π D = det H whatever the order, and the loss is about Σ D·step², so the best order makes the pivots D equal. The last
//! column's pivot is its own power; going backwards, each next pivot is what remains of a column's power once the
//! columns behind it are known. So the order is found from its end: always the column with the *least* remaining power,
//! which keeps the large ones for when much of them is known ("min-pivot"; of the orders by power alone this is the
//! refinement). Groups are kept together: the next group is the one with the least remaining power in sum.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::weight::gemm::{Out, View, dgemm};
use crate::weight::gram::Gram;
use crate::weight::tiles::{NotPositive, Tiles};

/// The order in which columns are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As they are.
    Natural,
    /// Groups by their most powerful input, columns within a group by power.
    GroupPower,
    /// Groups and columns within a group so that the pivots are as equal as can be had greedily (head of this file).
    /// Groups longer than [`LONGEST`] are ordered by power.
    #[default]
    GroupPivot,
    /// All columns by power, across groups ("act-order"); implies [`super::Groups::Static`].
    Activation,
}

/// Longest group that is ordered by pivots: within a group the factorization is not blocked.
pub const LONGEST: usize = 512;

/// A damped Gram matrix, factored in the order of the columns.
#[derive(Debug)]
pub(super) struct Factor {
    /// Column at each place.
    pub order: Vec<usize>,
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    Tiles(Tiles),
    Groups { block: usize, rows: Vec<Vec<f64>> },
}

/// H as seen by the factorization: scaled to mean diagonal 1, damped.
#[derive(Clone, Copy)]
pub(super) struct Damped<'a> {
    pub gram: &'a Gram,
    pub unit: f64,
    pub damping: f64,
}

impl Damped<'_> {
    pub fn at(&self, i: usize, j: usize) -> f64 {
        self.gram.at(i, j) * self.unit + if i == j { self.damping } else { 0.0 }
    }
}

impl Factor {
    pub fn new(h: Damped<'_>, block: usize, order: Order) -> Result<Self, NotPositive> {
        let cols = h.gram.cols();
        if order == Order::GroupPivot && block <= LONGEST {
            return by_pivot(h, block);
        }
        let order = by_power(&h.gram.diagonal(), block, order);
        let mut tiles = Tiles::from_fn(cols, |i, j| h.at(order[cols - 1 - i], order[cols - 1 - j]));
        tiles.cholesky()?;
        Ok(Self { order, storage: Storage::Tiles(tiles) })
    }

    /// M·D^½ at places j ≤ k.
    pub fn at(&self, j: usize, k: usize) -> f64 {
        let last = self.order.len() - 1;
        match &self.storage {
            Storage::Tiles(tiles) => tiles.at(last - j, last - k),
            Storage::Groups { block, rows } => {
                let column = self.order[j];
                let (group, within) = (column / block, column % block);
                let width = block.min(&(last + 1 - group * block)).to_owned();
                rows[group][(last - k) * width + within]
            }
        }
    }
}

/// Stable: equal powers keep the natural order.
fn by_power(diagonal: &[f64], block: usize, order: Order) -> Vec<usize> {
    let mut all: Vec<usize> = (0..diagonal.len()).collect();
    let by_power = |a: &usize, b: &usize| diagonal[*b].total_cmp(&diagonal[*a]);
    match order {
        Order::Natural => all,
        Order::Activation => {
            all.sort_by(by_power);
            all
        }
        Order::GroupPower | Order::GroupPivot => {
            let mut groups: Vec<Vec<usize>> = all.chunks(block).map(<[usize]>::to_vec).collect();
            groups.iter_mut().for_each(|g| g.sort_by(by_power));
            // A shorter last group stays last, so that groups never straddle lazy blocks.
            let full = diagonal.len() / block;
            groups[..full].sort_by(|a, b| by_power(&a[0], &b[0]));
            groups.concat()
        }
    }
}

/// Left-looking Cholesky, a group at a time, the group chosen as it goes. Per group of columns its rows of the factor are
/// kept transposed, `[pivots so far][group]`, so that a new group of pivots is appended.
fn by_pivot(h: Damped<'_>, block: usize) -> Result<Factor, NotPositive> {
    let cols = h.gram.cols();
    let count = cols.div_ceil(block);
    let width = |g: usize| block.min(cols - g * block);
    let mut rows: Vec<Vec<f64>> = vec![Vec::new(); count];
    let mut remaining: Vec<Vec<f64>> =
        (0..count).map(|g| (0..width(g)).map(|c| h.at(g * block + c, g * block + c)).collect()).collect();
    let mut open: Vec<usize> = (0..count).collect();
    let mut reversed = Vec::with_capacity(cols);
    for done in 0..count {
        // A shorter last group comes first here, that is last in the order.
        let short = open.iter().position(|&g| width(g) < block);
        let power = |g: &usize| remaining[*g].iter().sum::<f64>();
        let least = (0..open.len()).min_by(|&a, &b| power(&open[a]).total_cmp(&power(&open[b])));
        let Some(at) = short.or(least) else { break };
        let chosen = open.remove(at);
        let n = width(chosen);
        let pivots = reversed.len();
        let own = &rows[chosen];
        // The chosen columns' rows of the Schur complement.
        let schur = |g: usize, rows: &[f64]| {
            let m = width(g);
            let mut s: Vec<f64> =
                (0..n * m).map(|e| h.at(chosen * block + e / m, g * block + e % m)).collect();
            if done > 0 {
                let (a, b) = (View::rows(own, pivots, n), View::rows(rows, pivots, m));
                dgemm(-1.0, a.t(), b, 1.0, Out::rows(&mut s, n, m));
            }
            s
        };
        let (l, pivot_order) = pivoted(&schur(chosen, own), n)?;
        let appended: Vec<(usize, Vec<f64>)> =
            open.par_iter().map(|&g| (g, forward(&l, &pivot_order, &schur(g, &rows[g]), width(g)))).collect();
        // The chosen rows themselves: row of pivot p is p-th of l.
        let mut itself = vec![0.0; n * n];
        for (p, &c) in pivot_order.iter().enumerate() {
            (0..=p).for_each(|q| itself[q * n + c] = l[p * n + q]);
        }
        rows[chosen].extend_from_slice(&itself);
        for (g, x) in appended {
            let m = width(g);
            for row in x.chunks(m) {
                remaining[g].iter_mut().zip(row).for_each(|(r, x)| *r -= x * x);
            }
            rows[g].extend_from_slice(&x);
        }
        reversed.extend(pivot_order.iter().map(|c| chosen * block + c));
    }
    reversed.reverse();
    Ok(Factor { order: reversed, storage: Storage::Groups { block, rows } })
}

/// Cholesky of a symmetric n × n matrix, always taking the least pivot: the factor in pivot order, and that order.
fn pivoted(s: &[f64], n: usize) -> Result<(Vec<f64>, Vec<usize>), NotPositive> {
    let mut order: Vec<usize> = (0..n).collect();
    let mut power: Vec<f64> = (0..n).map(|i| s[i * n + i]).collect();
    // Row of each original index: its factor entries so far.
    let mut l = vec![0.0; n * n];
    for p in 0..n {
        let least = (p..n).min_by(|&a, &b| power[order[a]].total_cmp(&power[order[b]])).unwrap_or(p);
        // Moves it to place p and keeps the others in order, so that ties stay deterministic and natural.
        order[p..=least].rotate_right(1);
        let c = order[p];
        if !(power[c] > 0.0 && power[c].is_finite()) {
            return Err(NotPositive);
        }
        let pivot = power[c].sqrt();
        l[c * n + p] = pivot;
        let row = l[c * n..c * n + p].to_vec();
        for &i in &order[p + 1..] {
            let other = &l[i * n..i * n + p];
            let dot: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
            let v = (s[i * n + c] - dot) / pivot;
            l[i * n + p] = v;
            power[i] -= v * v;
        }
    }
    let ordered = order.iter().flat_map(|&c| l[c * n..(c + 1) * n].to_vec()).collect();
    Ok((ordered, order))
}

/// L⁻¹·P·S: solves for a group's part of the new factor columns, `[n][m]`.
fn forward(l: &[f64], order: &[usize], s: &[f64], m: usize) -> Vec<f64> {
    let n = order.len();
    let mut x = vec![0.0; n * m];
    for (p, &c) in order.iter().enumerate() {
        let (done, row) = x.split_at_mut(p * m);
        let row = &mut row[..m];
        row.copy_from_slice(&s[c * m..(c + 1) * m]);
        for (q, known) in done.chunks(m).enumerate() {
            let factor = l[p * n + q];
            row.iter_mut().zip(known).for_each(|(r, k)| *r -= factor * k);
        }
        let pivot = l[p * n + p];
        row.iter_mut().for_each(|r| *r /= pivot);
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::testing::gaussian;

    fn gram(cols: usize, seed: u64) -> Gram {
        let x = gaussian(3 * cols * cols, seed);
        let mut gram = Gram::new(cols);
        // Columns of different power.
        let x: Vec<f32> = x.iter().enumerate().map(|(i, v)| v * (1.0 + (i % cols % 7) as f32)).collect();
        gram.add(&x).unwrap();
        gram
    }

    #[test]
    fn every_factor_multiplies_back() {
        for (cols, block) in [(1, 1), (7, 16), (64, 16), (70, 32), (300, 32), (130, 130), (40, 7)] {
            let gram = gram(cols, cols as u64);
            let h = Damped { gram: &gram, unit: 1.0 / gram.at(0, 0), damping: 0.01 };
            for order in [Order::Natural, Order::GroupPower, Order::GroupPivot, Order::Activation] {
                let f = Factor::new(h, block, order).unwrap();
                let mut sorted = f.order.clone();
                sorted.sort();
                assert_eq!(sorted, (0..cols).collect::<Vec<_>>());
                for j in 0..cols {
                    for i in 0..=j {
                        let product: f64 = (j..cols).map(|k| f.at(i, k) * f.at(j, k)).sum();
                        let exact = h.at(f.order[i], f.order[j]);
                        assert!((product - exact).abs() < 1e-9 * h.at(0, 0).max(50.0), "{cols} {order:?}");
                    }
                }
                if matches!(order, Order::GroupPower | Order::GroupPivot) {
                    for group in f.order.chunks(block) {
                        assert!(group.iter().all(|c| c / block == group[0] / block), "groups stay together");
                    }
                }
            }
        }
    }

    #[test]
    fn pivots_are_more_equal_than_by_power() {
        let gram = gram(128, 3);
        let h = Damped { gram: &gram, unit: 1.0 / gram.at(0, 0), damping: 0.01 };
        let sum = |order| -> f64 {
            let f = Factor::new(h, 32, order).unwrap();
            (0..128).map(|k| f.at(k, k).powi(2)).sum()
        };
        assert!(sum(Order::GroupPivot) <= sum(Order::GroupPower));
    }
}
