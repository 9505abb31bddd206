//! Improvement sweeps: with everything else as it is, each code moves to its optimum and each scale is refitted.
//!
//! The output error E·H·Eᵀ is quadratic in every single weight, so with the gradient G = E·H the best value of w_k is
//! ŵ_k + G_k / H_kk, and the best scale of a block with centred codes c is s + (c·G) / (c·H·cᵀ). Both are exact line searches
//! followed by rounding to the nearest possible value, so a sweep can only lower the error. G is one matrix product per lazy
//! block; within the block it is kept up to date.

use super::Order;
use super::panel::{Panel, correct};
use crate::round::round_small;
use crate::weight::gemm::{Out, View, sgemm};
use crate::weight::isa::per_isa;

impl Panel<'_> {
    /// One sweep over all columns; false if no code changed.
    pub fn sweep(&mut self) -> bool {
        let (rows, plan) = (self.rows, self.plan);
        let cols = plan.cols;
        let top = f32::from(self.spec.bits.max_code());
        // A block's columns must lie together within a lazy block.
        let refits = plan.options.order != Order::Activation && plan.block <= plan.lazy;
        let mut changed = false;
        let mut gradient = vec![0.0; plan.lazy * rows];
        let mut moved = vec![0.0; rows];
        for b in (0..cols).step_by(plan.lazy) {
            let e = (b + plan.lazy).min(cols);
            let gradient = &mut gradient[..(e - b) * rows];
            let h = View { data: &plan.dense[b * cols..], rows: e - b, cols, row: cols, col: 1 };
            sgemm(1.0, h, View::rows(&self.error, cols, rows), 0.0, Out::rows(gradient, e - b, rows));
            for k in b..e {
                let g = plan.order[k] / plan.block;
                let starts = k == b || g != plan.order[k - 1] / plan.block;
                if starts && refits {
                    let last = (k..e).find(|&j| plan.order[j] / plan.block != g).unwrap_or(e);
                    self.refit(g, k..last, e, &mut gradient[(k - b) * rows..]);
                }
                let (now, later) = gradient[(k - b) * rows..].split_at_mut(rows);
                let h = &plan.dense[k * cols + k..k * cols + e];
                let column = Column {
                    weight: &self.weight[k * rows..][..rows],
                    gradient: now,
                    curve: h[0],
                    scales: &self.scales[g * rows..][..rows],
                    zeros: &self.zeros[g * rows..][..rows],
                    top,
                };
                let (codes, error) =
                    (&mut self.codes[k * rows..][..rows], &mut self.error[k * rows..][..rows]);
                if move_column(&column, codes, error, &mut moved) {
                    changed = true;
                    correct(&h[1..], &moved, later);
                }
            }
        }
        changed
    }

    /// Refits the scales of block `g` in its `columns`; `gradient` starts at the first of them and ends with the lazy
    /// block, at column `e`.
    fn refit(&mut self, g: usize, columns: std::ops::Range<usize>, e: usize, gradient: &mut [f32]) {
        let (rows, plan) = (self.rows, self.plan);
        let (cols, first, n) = (plan.cols, columns.start, columns.len());
        let zeros = &self.zeros[g * rows..][..rows];
        let mut centred = vec![0.0f32; n * rows];
        for (c, codes) in centred.chunks_mut(rows).zip(self.codes[first * rows..].chunks(rows)) {
            c.iter_mut().zip(codes).zip(zeros).for_each(|((c, &q), z)| *c = f32::from(q) - z);
        }
        // c·H for the columns from here on.
        let width = e - first;
        let mut product = vec![0.0f32; width * rows];
        let h = View { data: &plan.dense[first * cols + first..], rows: n, cols: width, row: cols, col: 1 };
        sgemm(1.0, h.t(), View::rows(&centred, n, rows), 0.0, Out::rows(&mut product, width, rows));
        let (mut slope, mut curve) = (vec![0.0f64; rows], vec![0.0f64; rows]);
        for ((c, p), g) in centred.chunks(rows).zip(product.chunks(rows)).zip(gradient.chunks(rows)) {
            for r in 0..rows {
                slope[r] += f64::from(c[r] * g[r]);
                curve[r] += f64::from(c[r] * p[r]);
            }
        }
        let mut step = vec![0.0f32; rows];
        for r in 0..rows {
            let scale = &mut self.scales[g * rows + r];
            let ideal = f64::from(*scale) + slope[r] / curve[r];
            // A scale that runs away means codes that say nothing about it; NaN fails the comparisons.
            let sane = curve[r] > 0.0 && ideal > 0.5 * f64::from(*scale) && ideal < 2.0 * f64::from(*scale);
            if let (true, Some(new)) = (sane, self.spec.scale.round(ideal)) {
                step[r] = new - *scale;
                *scale = new;
            }
        }
        for (k, c) in columns.zip(centred.chunks(rows)) {
            let (error, weight) = (&mut self.error[k * rows..][..rows], &self.weight[k * rows..][..rows]);
            let scales = &self.scales[g * rows..][..rows];
            error
                .iter_mut()
                .zip(weight)
                .zip(c.iter().zip(scales))
                .for_each(|((e, w), (c, s))| *e = w - c * s);
        }
        for (g, p) in gradient.chunks_mut(rows).zip(product.chunks(rows)) {
            g.iter_mut().zip(p).zip(&step).for_each(|((g, p), s)| *g -= p * s);
        }
    }
}

/// What moving one column needs, per row.
struct Column<'a> {
    weight: &'a [f32],
    gradient: &'a [f32],
    /// H_kk
    curve: f32,
    scales: &'a [f32],
    zeros: &'a [f32],
    top: f32,
}

/// Moves every code of a column to its optimum; writes how far the values moved, negated. Says whether any did.
#[inline(always)]
fn move_column_body(column: &Column<'_>, codes: &mut [u8], error: &mut [f32], moved: &mut [f32]) -> bool {
    let n = column.gradient.len();
    let (weight, scales, zeros) = (&column.weight[..n], &column.scales[..n], &column.zeros[..n]);
    let (codes, error, moved) = (&mut codes[..n], &mut error[..n], &mut moved[..n]);
    let inverse = 1.0 / column.curve;
    let mut any = 0u8;
    for r in 0..n {
        let (lo, hi) = (-zeros[r], column.top - zeros[r]);
        let old = f32::from(codes[r]) - zeros[r];
        let code = round_small((old + column.gradient[r] * inverse / scales[r]).max(lo).min(hi));
        moved[r] = (old - code) * scales[r];
        error[r] = weight[r] - code * scales[r];
        // SAFETY: an integer in 0..=255.
        let new = unsafe { (code + zeros[r]).to_int_unchecked::<i32>() } as u8;
        any |= new ^ codes[r];
        codes[r] = new;
    }
    any != 0
}

per_isa! {
    fn move_column(column: &Column<'_>, codes: &mut [u8], error: &mut [f32], moved: &mut [f32]) -> bool
        = move_column_body
}
