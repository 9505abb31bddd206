//! DynamicQuantizeLSTM of com.microsoft: an LSTM with 8-bit weights whose inputs are put on 8-bit grids as they come.
//!
//! `x, w [dirs, in, 4H], r [dirs, H, 4H], b?, sequence_lens?, initial_h?, initial_c?, p?, w_scale, w_zero, r_scale, r_zero`;
//! scales are one a direction or one a column. The whole of `x` shares one grid, the state has a new one at every
//! step. (ONNX Runtime gives every sequence grids of its own where it runs the batch in parallel.)

use ir::Dim;

use super::reals::{opt_reals, opt_reals_of, value};
use super::recurrent::{activations, clip, directions, lengths, sizes};
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::recurrent::{Cell, Layer, Sizes, coarse};
use crate::rule::{OpRule, Table};

fn infer(cx: &mut InferCx) -> Result<()> {
    let dirs = Dim::from(directions(cx.attrs())?.0);
    let hidden = match cx.attrs().opt_int("hidden_size")? {
        Some(size) => Dim::Known(size),
        None => cx.need_rank(2, 3)?.map_or(Dim::Unknown, |dims| dims[1].clone()),
    };
    let (seq, batch) =
        cx.need_rank(0, 3)?.map_or((Dim::Unknown, Dim::Unknown), |d| (d[0].clone(), d[1].clone()));
    let state = vec![dirs.clone(), batch.clone(), hidden.clone()];
    cx.set(0, cx.dtype(0), Some(vec![seq, dirs, batch, hidden]));
    cx.set(1, cx.dtype(0), Some(state.clone()));
    cx.set(2, cx.dtype(0), Some(state));
    Ok(())
}

/// The weight at input `at`, `[dirs, depth, columns]`, as numbers and turned to `[dirs, columns, depth]`.
fn weight(cx: &EvalCx, at: usize, scale: usize, [dirs, depth, columns]: [usize; 3]) -> Result<Vec<f32>> {
    if cx.tensor(at)?.dims() != [dirs, depth, columns] || cx.tensor(at)?.dtype().bits() != 8 {
        return Err(cx.wrong_input(at, &format!("8-bit integers of sizes {:?}", [dirs, depth, columns])));
    }
    let codes = cx.ints(at)?;
    let (scales, zeros) = (cx.f32s(scale)?, cx.ints(scale + 1)?);
    let per = match scales.len() {
        len if len == zeros.len() && (len == dirs || len == dirs * columns) => len / dirs,
        _ => return Err(cx.wrong_input(scale, "a scale and zero point for each direction or column")),
    };
    let mut out = Vec::with_capacity(codes.len());
    for dir in 0..dirs {
        for column in 0..columns {
            let grid = dir * per + if per == 1 { 0 } else { column };
            out.extend((0..depth).map(|row| {
                let code = codes[(dir * depth + row) * columns + column];
                code.saturating_sub(zeros[grid]) as f32 * scales[grid]
            }));
        }
    }
    Ok(out)
}

fn eval(cx: &EvalCx) -> Result<Outputs> {
    let attrs = cx.attrs();
    let (dirs, reverse) = directions(attrs)?;
    let x = cx.tensor(0)?;
    let hidden = *cx.tensor(2)?.dims().get(1).ok_or_else(|| cx.wrong_input(2, "a tensor of rank 3"))?;
    let sizes = sizes(cx, x.dims(), hidden, dirs)?;
    let Sizes { seq, batch, input, .. } = sizes;
    let cell = Cell::Lstm { input_forget: attrs.flag("input_forget", false)? };
    cx.reserve(x.dtype(), &[seq, dirs, batch, 4 * hidden])?;
    let (w, r) =
        (weight(cx, 1, 8, [dirs, input, 4 * hidden])?, weight(cx, 2, 10, [dirs, hidden, 4 * hidden])?);
    let bias = opt_reals_of::<f32>(cx, 3, &[dirs, 8 * hidden])?;
    let lengths = lengths(cx, 4, seq, batch)?;
    let state = |at: usize| opt_reals_of::<f32>(cx, at, &[dirs, batch, hidden]);
    let (initial_h, initial_c) = (state(5)?, state(6)?);
    let peepholes = opt_reals::<f32>(cx, 7)?;
    if peepholes.as_ref().is_some_and(|p| p.len() != dirs * 3 * hidden) {
        return Err(cx.wrong_input(7, &format!("sizes {:?}", [dirs, 3 * hidden])));
    }
    let activations = activations(cx, cell, dirs)?;
    let layer = Layer {
        cell,
        sizes,
        reverse,
        w: &w,
        r: &r,
        bias: bias.as_deref(),
        peepholes: peepholes.as_deref(),
        initial_h: initial_h.as_deref(),
        initial_c: initial_c.as_deref(),
        lengths: lengths.as_deref(),
        activations: &activations,
        clip: clip(attrs)?,
        coarse_state: true,
    };
    let run = layer.run(&coarse(&cx.f32s(0)?));
    Ok(vec![
        value(cx, x.dtype(), &[seq, dirs, batch, hidden], &run.y)?,
        value(cx, x.dtype(), &[dirs, batch, hidden], &run.y_h)?,
        value(cx, x.dtype(), &[dirs, batch, hidden], &run.y_c)?,
    ])
}

/// The table.
pub const RULES: &[&dyn OpRule] =
    &[&Table::new("DynamicQuantizeLSTM", 1, infer).domain("com.microsoft", 1).eval(eval)];
