//! Some rows on their way through the columns.

use super::{GptqPlan, Groups, Range};
use crate::round::round_small;
use crate::weight::gemm::{Out, View, sgemm};
use crate::weight::isa::per_isa;
use crate::weight::rtn::{BlockGrid, min_max};
use crate::weight::rtn_search::Searcher;
use crate::weight::{Spec, Weight, WeightError};

/// Some rows on their way, transposed: element (k, r) at `k * rows + r`, k in the plan's order.
pub(super) struct Panel<'p> {
    pub(super) plan: &'p GptqPlan,
    pub(super) spec: &'p Spec,
    pub(super) rows: usize,
    pub(super) weight: Vec<f32>,
    /// E = weight − value of the code.
    pub(super) error: Vec<f32>,
    pub(super) codes: Vec<u8>,
    /// Per block of columns, by its place at inference: `[blocks][rows]`.
    pub(super) scales: Vec<f32>,
    pub(super) zeros: Vec<f32>,
    pub(super) searcher: Searcher,
    /// Blocks of zeros seen.
    pub zero_blocks: usize,
    /// Blocks whose scale did not fit its type.
    pub moved: usize,
}

impl<'p> Panel<'p> {
    /// Reads rows `first..first + rows`.
    pub fn new(
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
        let (rows, spec) = (self.rows, self.spec);
        let Self { scales, zeros, zero_blocks, moved, searcher, .. } = self;
        let mut put = |r: usize, grid: BlockGrid| {
            scales[g * rows + r] = grid.scale;
            zeros[g * rows + r] = f32::from(grid.zero);
            *zero_blocks += usize::from(grid.zeros_only);
            *moved += usize::from(grid.scale_moved);
        };
        match self.plan.options.range {
            Range::MinMax => {
                for (r, w) in block.chunks(importance.len()).enumerate() {
                    put(r, min_max(w, spec));
                }
            }
            Range::Search => searcher.choose(block, importance, spec, put),
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

    /// Rounds all columns, with error feedback.
    pub fn round(&mut self) {
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

    /// Writes `[rows][cols]` codes and `[rows][blocks]` scales and zero points.
    pub fn write(&self, codes: &mut [u8], scales: &mut [f32], zeros: &mut [u8]) {
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

per_isa! { pub(super) fn correct(m: &[f32], error: &[f32], later: &mut [f32]) = correct_body }

per_isa! {
    fn round_column(
        column: &Column<'_>, current: &[f32], codes: &mut [u8], error: &mut [f32], m: &[f32], later: &mut [f32]
    ) = round_column_body
}
