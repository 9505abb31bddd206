//! `gptq`: rounds columns one after the other and lets the later ones make up for the error of the earlier ones,
//! so that the *output* error tr(E·H·Eᵀ) is small (E = W − Ŵ, H the Gram matrix of the layer's inputs).
//!
//! **Form.** With H = M·D·Mᵀ, M unit upper triangular (Cholesky of the reversed matrix), the output error of a row is
//! Σ D_k·e_k² where e = E·M. Column k is rounded at w_k + Σ_{j<k} E_j·M_jk, which makes e_k its rounding error alone.
//! This equals the published form (Frantar et al. 2022, error feedback through the Cholesky factor of H⁻¹) without
//! inverting anything: one factorization, K³/3 operations, in f64.
//!
//! **Speed.** Columns go in blocks of about 128: corrections from earlier blocks are one matrix product, within a block
//! they are applied at once. The work is transposed (columns outside, rows inside), so that everything vectorizes
//! over rows; panels of rows run in parallel and are independent, so the result does not depend on the thread count.
//!
//! **Choices.**
//! - [`Order::GroupAware`] (default): groups by their largest input power, columns within a group likewise. Groups stay
//!   contiguous at inference, so no permutation is emitted. [`Order::Activation`] sorts all columns, with the grids
//!   fixed beforehand; [`Order::Natural`] keeps the order.
//! - Grids are chosen from the *updated* weights when a group's first column comes up: those that are best with all
//!   columns so far fixed (published code reads stale ones within a lazy block), by min/max or by the search of [`super::rtn_search`] weighted with D.
//! - [`GptqOptions::sweeps`]: afterwards, sweeps over the columns that re-round each at the optimum given all others,
//!   and refit each block's scale; every step lowers the output error.
//! - Damping: H + p·mean(diag H)·I; p is raised tenfold until the factorization succeeds, and the result says so.
//! - Columns whose inputs were always zero are rounded to nearest (published code zeroes them) and counted in the notes.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::gemm::{Out, View, sgemm};
use super::gram::Gram;
use super::isa::per_isa;
use super::rtn::{BlockGrid, min_max};
use super::rtn_search::Searcher;
use super::tiles::Tiles;
use super::{Method, Note, Quantized, Spec, Weight, WeightError, check_len};
use crate::round::round_small;

/// Columns that are corrected together, rounded down to whole blocks.
const LAZY: usize = 128;

/// The order in which columns are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As they are.
    Natural,
    /// Blocks by their most powerful input, columns within a block by power.
    #[default]
    GroupAware,
    /// All columns by power; implies [`Groups::Static`].
    Activation,
}

/// When the grid of a block is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Groups {
    /// When its first column comes up, from weights that carry all corrections so far.
    #[default]
    Updated,
    /// Beforehand, from the original weights.
    Static,
}

/// How the grid of a block is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Range {
    /// Minimum and maximum.
    MinMax,
    /// Least weighted squared error.
    #[default]
    Search,
}

/// The choices of [`gptq`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GptqOptions {
    /// Added to the diagonal, as a part of its mean.
    pub damping: f64,
    /// Column order.
    pub order: Order,
    /// Updated or static grids.
    pub groups: Groups,
    /// Min/max or searched grids.
    pub range: Range,
    /// Improvement sweeps after the rounding; each costs twice the rounding itself.
    pub sweeps: usize,
}

impl Default for GptqOptions {
    fn default() -> Self {
        Self {
            damping: 0.01,
            order: Order::default(),
            groups: Groups::default(),
            range: Range::default(),
            sweeps: 2,
        }
    }
}

/// A factored Gram matrix, shared by all weights that read the same input.
#[derive(Debug, Clone)]
pub struct GptqPlan {
    cols: usize,
    block: usize,
    options: GptqOptions,
    /// Column at each place of the order.
    order: Vec<usize>,
    /// Columns of a lazy block.
    lazy: usize,
    /// Per lazy block of columns b..e of M, in order: rows 0..e, row-major.
    panels: Vec<Vec<f32>>,
    /// D, in order.
    weights: Vec<f32>,
    /// Diagonal of the damped H, by column.
    diagonal: Vec<f32>,
    /// The damped H, in order, row-major, for the sweeps (empty without).
    dense: Vec<f32>,
    notes: Vec<Note>,
}

/// Damping is raised at most to this multiple of the mean diagonal; a symmetric matrix with a diagonal of zeros fails.
const MOST_DAMPING: f64 = 1e3;

impl GptqPlan {
    /// Orders and factors a Gram matrix for blocks of `spec`. An error if the matrix holds NaN; a singular one is
    /// damped more, an all-zero one makes [`gptq`] round to nearest.
    pub fn new(gram: &Gram, spec: &Spec, options: &GptqOptions) -> Result<Self, WeightError> {
        let cols = gram.cols();
        if cols == 0 {
            return Err(WeightError::Shape { rows: 0, cols, found: 0 });
        }
        if !(options.damping.is_finite() && options.damping >= 0.0) {
            return Err(WeightError::Option {
                what: "damping",
                must: "a number ≥ 0",
                found: options.damping.to_string(),
            });
        }
        let block = spec.block.columns(cols)?.min(cols);
        let mut options = *options;
        if options.order == Order::Activation {
            options.groups = Groups::Static;
        }
        let diagonal = gram.diagonal();
        if let Some(index) = diagonal.iter().position(|d| !(d.is_finite() && *d >= 0.0)) {
            return Err(WeightError::Value { what: "Gram diagonal", index, value: diagonal[index] });
        }
        let mut notes = Vec::new();
        let dead = diagonal.iter().filter(|d| **d == 0.0).count();
        notes.extend((dead > 0).then_some(Note::DeadColumns(dead)));
        let mean = diagonal.iter().sum::<f64>() / cols as f64;
        // Only ratios count, so H is scaled to mean diagonal 1: it then fits f32 whatever the token count.
        let unit = if mean > 0.0 { 1.0 / mean } else { 0.0 };
        let order = column_order(&diagonal, block, options.order);
        let (factor, damping) = Self::factor(gram, &order, unit, options.damping)?;
        if damping > options.damping {
            notes.push(Note::DampingRaised { asked: options.damping, used: damping });
        }
        let lazy = if block <= LAZY { LAZY / block * block } else { LAZY };
        // M_jk = L[K−1−j, K−1−k] / L[K−1−k, K−1−k].
        let l = |j: usize, k: usize| factor.at(cols - 1 - j, cols - 1 - k);
        let panels = (0..cols).step_by(lazy).collect::<Vec<_>>();
        let panels = panels
            .into_par_iter()
            .map(|b| {
                let e = (b + lazy).min(cols);
                let inverse: Vec<f64> = (b..e).map(|k| 1.0 / l(k, k)).collect();
                let mut panel = vec![0.0; e * (e - b)];
                for (j, row) in panel.chunks_mut(e - b).enumerate() {
                    for ((m, k), inverse) in row.iter_mut().zip(b..e).zip(&inverse) {
                        *m = if j <= k { (l(j, k) * inverse) as f32 } else { 0.0 };
                    }
                }
                panel
            })
            .collect();
        let damped = |i: usize, j: usize| gram.at(i, j) * unit + if i == j { damping } else { 0.0 };
        let mut dense = Vec::new();
        if options.sweeps > 0 {
            dense = vec![0.0; cols * cols];
            dense.par_chunks_mut(cols).zip(&order).for_each(|(row, &i)| {
                row.iter_mut().zip(&order).for_each(|(v, &j)| *v = damped(i, j) as f32);
            });
        }
        Ok(Self {
            cols,
            block,
            options,
            lazy,
            panels,
            weights: (0..cols).map(|k| l(k, k).powi(2) as f32).collect(),
            diagonal: (0..cols).map(|k| damped(k, k) as f32).collect(),
            dense,
            order,
            notes,
        })
    }

    /// Cholesky of the damped, ordered and reversed matrix, and the damping that made it succeed.
    fn factor(gram: &Gram, order: &[usize], unit: f64, asked: f64) -> Result<(Tiles, f64), WeightError> {
        let cols = order.len();
        let mut damping = asked;
        while damping <= MOST_DAMPING.max(asked) {
            let mut tiles = Tiles::from_fn(cols, |i, j| {
                let (a, b) = (order[cols - 1 - i], order[cols - 1 - j]);
                gram.at(a, b) * unit + if i == j { damping } else { 0.0 }
            });
            if tiles.cholesky().is_ok() {
                return Ok((tiles, damping));
            }
            damping = (damping * 10.0).max(1e-6);
        }
        Err(WeightError::Option {
            what: "Gram matrix",
            must: "positive semidefinite",
            found: "one that is not, at any damping".into(),
        })
    }

    /// M_jk for the columns `first..last` of one lazy block, j < first.
    fn row(&self, j: usize, first: usize, last: usize) -> &[f32] {
        let b = first / self.lazy * self.lazy;
        let width = (b + self.lazy).min(self.cols) - b;
        &self.panels[first / self.lazy][j * width + first - b..][..last - first]
    }

    /// Quantizes a weight whose input the Gram matrix describes.
    pub fn quantize(&self, weight: &Weight<'_>, spec: &Spec) -> Result<Quantized, WeightError> {
        check_len("Gram matrix", weight.cols(), self.cols)?;
        if spec.block.columns(self.cols)?.min(self.cols) != self.block {
            return Err(WeightError::Option {
                what: "block",
                must: "that of the plan",
                found: format!("{:?}", spec.block),
            });
        }
        let mut out = Quantized::new(*spec, weight, Method::Gptq)?;
        out.provenance.notes = self.notes.clone();
        let per_row = out.blocks_per_row();
        // Rows that run together: a function of the shape only. At most what keeps a panel of errors in a large cache.
        let rows = weight.rows().div_ceil(16).next_multiple_of(16).clamp(16, 256);
        let mut unused = vec![0u8; if out.zero_points.is_none() { out.scales.len() } else { 0 }];
        let zeros = out.zero_points.as_mut().unwrap_or(&mut unused);
        let notes: Result<Vec<(usize, usize)>, WeightError> = out
            .codes
            .par_chunks_mut(rows * self.cols)
            .zip(out.scales.par_chunks_mut(rows * per_row))
            .zip(zeros.par_chunks_mut(rows * per_row))
            .enumerate()
            .map(|(p, ((codes, scales), zeros))| {
                let n = codes.len() / self.cols;
                let mut panel = Panel::new(self, spec, weight, p * rows, n)?;
                panel.round();
                for _ in 0..self.options.sweeps {
                    if !panel.sweep() {
                        break;
                    }
                }
                panel.write(codes, scales, zeros);
                Ok((panel.zero_blocks, panel.moved))
            })
            .collect();
        let (zero_blocks, moved) = notes?.iter().fold((0, 0), |a, c| (a.0 + c.0, a.1 + c.1));
        out.provenance.notes.extend((zero_blocks > 0).then_some(Note::ZeroBlocks(zero_blocks)));
        out.provenance.notes.extend((moved > 0).then_some(Note::ScaleOutOfType(moved)));
        Ok(out)
    }
}

/// Rounds with error feedback: [`GptqPlan::new`] and [`GptqPlan::quantize`].
pub fn gptq(
    weight: &Weight<'_>,
    spec: &Spec,
    gram: &Gram,
    options: &GptqOptions,
) -> Result<Quantized, WeightError> {
    check_len("Gram matrix", weight.cols(), gram.cols())?;
    GptqPlan::new(gram, spec, options)?.quantize(weight, spec)
}

/// Stable: equal powers keep the natural order.
fn column_order(diagonal: &[f64], block: usize, order: Order) -> Vec<usize> {
    let mut all: Vec<usize> = (0..diagonal.len()).collect();
    let by_power = |a: &usize, b: &usize| diagonal[*b].total_cmp(&diagonal[*a]);
    match order {
        Order::Natural => all,
        Order::Activation => {
            all.sort_by(by_power);
            all
        }
        Order::GroupAware => {
            let mut groups: Vec<Vec<usize>> = all.chunks(block).map(<[usize]>::to_vec).collect();
            groups.iter_mut().for_each(|g| g.sort_by(by_power));
            // A shorter last group stays last, so that groups never straddle lazy blocks.
            let full = diagonal.len() / block;
            groups[..full].sort_by(|a, b| by_power(&a[0], &b[0]));
            groups.concat()
        }
    }
}

/// Some rows on their way, transposed: element (k, r) at `k * rows + r`, k in the plan's order.
struct Panel<'p> {
    plan: &'p GptqPlan,
    spec: &'p Spec,
    rows: usize,
    weight: Vec<f32>,
    /// E = weight − value of the code.
    error: Vec<f32>,
    codes: Vec<u8>,
    /// Per block of columns, by its place at inference: `[blocks][rows]`.
    scales: Vec<f32>,
    zeros: Vec<f32>,
    searcher: Searcher,
    zero_blocks: usize,
    moved: usize,
}

impl<'p> Panel<'p> {
    fn new(
        plan: &'p GptqPlan,
        spec: &'p Spec,
        weight: &Weight<'_>,
        first: usize,
        rows: usize,
    ) -> Result<Self, WeightError> {
        let cols = plan.cols;
        let mut natural = vec![0.0; rows * cols];
        weight.panel(first, &mut natural)?;
        let mut w = vec![0.0; rows * cols];
        for (column, &k) in w.chunks_mut(rows).zip(&plan.order) {
            column.iter_mut().zip(natural.chunks(cols)).for_each(|(o, row)| *o = row[k]);
        }
        let blocks = cols.div_ceil(plan.block);
        let mut panel = Self {
            plan,
            spec,
            rows,
            error: vec![0.0; w.len()],
            codes: vec![0; w.len()],
            scales: vec![1.0; blocks * rows],
            zeros: vec![f32::from(spec.bits.center()); blocks * rows],
            searcher: Searcher::default(),
            weight: w,
            zero_blocks: 0,
            moved: 0,
        };
        if plan.options.groups == Groups::Static {
            for g in 0..blocks {
                let columns = g * plan.block..((g + 1) * plan.block).min(cols);
                let mut block = vec![0.0; rows * columns.len()];
                for (b, row) in block.chunks_mut(columns.len()).zip(natural.chunks(cols)) {
                    b.copy_from_slice(&row[columns.clone()]);
                }
                panel.choose(g, &block, &plan.diagonal[columns]);
            }
        }
        Ok(panel)
    }

    /// Chooses the grids of block `g` from its weights `[rows][columns]`.
    fn choose(&mut self, g: usize, block: &[f32], importance: &[f32]) {
        let rows = self.rows;
        for (r, w) in block.chunks(importance.len()).enumerate() {
            let grid = match self.plan.options.range {
                Range::MinMax => min_max(w, self.spec),
                Range::Search => self.searcher.choose(w, Some(importance), self.spec),
            };
            let BlockGrid { scale, zero, zeros_only, scale_moved } = grid;
            self.scales[g * rows + r] = scale;
            self.zeros[g * rows + r] = f32::from(zero);
            self.zero_blocks += usize::from(zeros_only);
            self.moved += usize::from(scale_moved);
        }
    }

    /// weight + Σ_{j<upto} E_j·M_jk for the columns `first..last` of one lazy block.
    fn corrected(&self, upto: usize, first: usize, last: usize, out: &mut [f32]) {
        let (rows, plan) = (self.rows, self.plan);
        out.copy_from_slice(&self.weight[first * rows..last * rows]);
        let b = first / plan.lazy * plan.lazy;
        let width = (b + plan.lazy).min(plan.cols) - b;
        let m = View {
            data: &plan.panels[b / plan.lazy][first - b..],
            rows: upto,
            cols: last - first,
            row: width,
            col: 1,
        };
        let errors = View::rows(&self.error[..upto * rows], upto, rows);
        sgemm(1.0, m.t(), errors, 1.0, Out::rows(out, last - first, rows));
    }

    /// Chooses the grid of the block that starts at place `k`, from its corrected weights. `current` holds those of the
    /// lazy block b..e.
    fn choose_updated(&mut self, k: usize, b: usize, e: usize, current: &[f32]) {
        let (rows, plan) = (self.rows, self.plan);
        let g = plan.order[k] / plan.block;
        let last = k + plan.block.min(plan.cols - g * plan.block);
        let mut columns = vec![0.0; (last - k) * rows];
        let here = last.min(e);
        columns[..(here - k) * rows].copy_from_slice(&current[(k - b) * rows..(here - b) * rows]);
        let mut at = here;
        while at < last {
            let next = (at / plan.lazy * plan.lazy + plan.lazy).min(last);
            self.corrected(k, at, next, &mut columns[(at - k) * rows..(next - k) * rows]);
            at = next;
        }
        // Columns after the first are not there yet: their own predecessors in the block will be in error by what they
        // were corrected. Going through the block without rounding gives the weights that are best with all columns
        // before the block fixed.
        let mut error = vec![0.0; rows];
        for j in k..last {
            let (done, later) = columns.split_at_mut((j - k + 1) * rows);
            let weight = &self.weight[j * rows..][..rows];
            error.iter_mut().zip(weight).zip(&done[(j - k) * rows..]).for_each(|((e, w), c)| *e = w - c);
            let mut at = j + 1;
            while at < last {
                let next = (at / plan.lazy * plan.lazy + plan.lazy).min(last);
                let later = &mut later[(at - j - 1) * rows..(next - j - 1) * rows];
                correct(plan.row(j, at, next), &error, later);
                at = next;
            }
        }
        let mut block = vec![0.0; columns.len()];
        let n = last - k;
        for (c, column) in columns.chunks(rows).enumerate() {
            column.iter().enumerate().for_each(|(r, &v)| block[r * n + c] = v);
        }
        self.choose(g, &block, &plan.weights[k..last]);
    }

    fn round(&mut self) {
        let (rows, plan) = (self.rows, self.plan);
        let top = f32::from(self.spec.bits.max_code());
        let mut current = vec![0.0; plan.lazy * rows];
        for b in (0..plan.cols).step_by(plan.lazy) {
            let e = (b + plan.lazy).min(plan.cols);
            let current = &mut current[..(e - b) * rows];
            self.corrected(b, b, e, current);
            for k in b..e {
                let starts = k == 0 || plan.order[k] / plan.block != plan.order[k - 1] / plan.block;
                if starts && plan.options.groups == Groups::Updated {
                    self.choose_updated(k, b, e, current);
                }
                let g = plan.order[k] / plan.block;
                let (done, later) = current.split_at_mut((k - b + 1) * rows);
                let column = Column {
                    weight: &self.weight[k * rows..][..rows],
                    scales: &self.scales[g * rows..][..rows],
                    zeros: &self.zeros[g * rows..][..rows],
                    top,
                };
                let m = if k + 1 < e { plan.row(k, k + 1, e) } else { &[] };
                let (codes, error) =
                    (&mut self.codes[k * rows..][..rows], &mut self.error[k * rows..][..rows]);
                round_column(&column, &done[(k - b) * rows..], codes, error, m, later);
            }
        }
    }

    /// One improvement sweep; false if nothing changed.
    fn sweep(&mut self) -> bool {
        let (rows, plan) = (self.rows, self.plan);
        let cols = plan.cols;
        let top = f32::from(self.spec.bits.max_code());
        let mut changed = false;
        let mut gradient = vec![0.0; plan.lazy * rows];
        for b in (0..cols).step_by(plan.lazy) {
            let e = (b + plan.lazy).min(cols);
            let gradient = &mut gradient[..(e - b) * rows];
            let h = View { data: &plan.dense[b * cols..], rows: e - b, cols, row: cols, col: 1 };
            sgemm(1.0, h, View::rows(&self.error, cols, rows), 0.0, Out::rows(gradient, e - b, rows));
            for k in b..e {
                let g = plan.order[k] / plan.block;
                let starts = k == b || g != plan.order[k - 1] / plan.block;
                if starts && plan.options.order != Order::Activation && plan.block <= plan.lazy {
                    let last = (k..e).find(|&j| plan.order[j] / plan.block != g).unwrap_or(e);
                    self.refit(g, k, last, b, e, gradient);
                }
                let h = &plan.dense[k * cols + b..][..e - b];
                for r in 0..rows {
                    let (scale, zero) = (self.scales[g * rows + r], self.zeros[g * rows + r]);
                    let value = self.weight[k * rows + r] - self.error[k * rows + r];
                    let target = value + gradient[(k - b) * rows + r] / h[k - b];
                    let code = round_small((target / scale).max(-zero).min(top - zero));
                    let moved = code * scale - value;
                    if (code + zero) as u8 != self.codes[k * rows + r] {
                        changed = true;
                        self.codes[k * rows + r] = (code + zero) as u8;
                        self.error[k * rows + r] = self.weight[k * rows + r] - code * scale;
                        for (j, h) in h.iter().enumerate() {
                            gradient[j * rows + r] -= moved * h;
                        }
                    }
                }
            }
        }
        changed
    }

    /// The best scales of block `g` (columns `first..last` of the lazy block b..e) with the codes and all other columns
    /// as they are: s += (c·gradient) / (c·H·cᵀ) with c the centred codes.
    fn refit(&mut self, g: usize, first: usize, last: usize, b: usize, e: usize, gradient: &mut [f32]) {
        let (rows, plan) = (self.rows, self.plan);
        let cols = plan.cols;
        let mut centred = vec![0.0f32; last - first];
        let mut product = vec![0.0f32; e - b];
        for r in 0..rows {
            let (scale, zero) = (self.scales[g * rows + r], self.zeros[g * rows + r]);
            let mut slope = 0.0f64;
            for (c, k) in centred.iter_mut().zip(first..last) {
                *c = f32::from(self.codes[k * rows + r]) - zero;
                slope += f64::from(*c) * f64::from(gradient[(k - b) * rows + r]);
            }
            product.fill(0.0);
            for (c, k) in centred.iter().zip(first..last) {
                let h = &plan.dense[k * cols + b..][..e - b];
                product.iter_mut().zip(h).for_each(|(p, h)| *p += c * h);
            }
            let curve: f64 = centred.iter().zip(&product[first - b..]).map(|(c, p)| f64::from(c * p)).sum();
            let ideal = f64::from(scale) + slope / curve;
            // A scale that runs away means codes that say nothing about it.
            if !(curve > 0.0 && ideal > 0.5 * f64::from(scale) && ideal < 2.0 * f64::from(scale)) {
                continue;
            }
            let Some(new) = self.spec.scale.round(ideal) else { continue };
            let step = new - scale;
            if step == 0.0 {
                continue;
            }
            self.scales[g * rows + r] = new;
            for (c, k) in centred.iter().zip(first..last) {
                self.error[k * rows + r] = self.weight[k * rows + r] - c * new;
            }
            for (j, p) in product.iter().enumerate() {
                gradient[j * rows + r] -= step * p;
            }
        }
    }

    /// Writes `[rows][cols]` codes and `[rows][blocks]` scales and zero points.
    fn write(&self, codes: &mut [u8], scales: &mut [f32], zeros: &mut [u8]) {
        let (rows, cols) = (self.rows, self.plan.cols);
        for (column, &k) in self.codes.chunks(rows).zip(&self.plan.order) {
            column.iter().enumerate().for_each(|(r, &c)| codes[r * cols + k] = c);
        }
        let blocks = self.scales.len() / rows;
        for g in 0..blocks {
            for r in 0..rows {
                scales[r * blocks + g] = self.scales[g * rows + r];
                zeros[r * blocks + g] = self.zeros[g * rows + r] as u8;
            }
        }
    }
}

/// What rounding one column needs, per row.
struct Column<'a> {
    weight: &'a [f32],
    scales: &'a [f32],
    zeros: &'a [f32],
    top: f32,
}

/// Rounds `current` (the corrected column), writes codes and errors, and corrects the `later` columns of the lazy block:
/// later_j += m_j·error.
#[inline(always)]
fn round_column_body(
    column: &Column<'_>,
    current: &[f32],
    codes: &mut [u8],
    error: &mut [f32],
    m: &[f32],
    later: &mut [f32],
) {
    let n = current.len();
    let (weight, scales, zeros) = (&column.weight[..n], &column.scales[..n], &column.zeros[..n]);
    let (codes, error) = (&mut codes[..n], &mut error[..n]);
    for r in 0..n {
        let (lo, hi) = (-zeros[r], column.top - zeros[r]);
        let code = round_small((current[r] / scales[r]).max(lo).min(hi));
        error[r] = weight[r] - code * scales[r];
        // SAFETY: an integer in 0..=255.
        codes[r] = unsafe { (code + zeros[r]).to_int_unchecked::<i32>() } as u8;
    }
    correct_body(m, error, later);
}

/// later_j += m_j·error for every later column.
#[inline(always)]
fn correct_body(m: &[f32], error: &[f32], later: &mut [f32]) {
    for (m, later) in m.iter().zip(later.chunks_exact_mut(error.len())) {
        for (l, e) in later.iter_mut().zip(error) {
            *l += m * e;
        }
    }
}

per_isa! { fn correct(m: &[f32], error: &[f32], later: &mut [f32]) = correct_body }

per_isa! {
    fn round_column(
        column: &Column<'_>, current: &[f32], codes: &mut [u8], error: &mut [f32], m: &[f32], later: &mut [f32]
    ) = round_column_body
}
