//! RNN, GRU and LSTM: one or two directions, optional biases, initial states, lengths and peepholes.
//!
//! Inputs: `x, w, r, b?, sequence_lens?, initial_h?`, LSTM also `initial_c?, p?`. Outputs `y, y_h`, LSTM also `y_c`. With
//! `layout = 1` (opset 14) the batch stands before time in `x` and `y` and before the direction in the states.

use ir::Dim;

use super::reals::{for_real, opt_reals, opt_reals_of, reals, reals_of, value};
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::real::Real;
use crate::kernel::recurrent::{Activation, Cell, Layer, Sizes};
use crate::rule::{OpRule, Table};
use crate::sym;

/// Number of directions, and whether a single one walks backwards.
pub(super) fn directions(attrs: crate::attrs::Attributes<'_>) -> Result<(usize, bool)> {
    match attrs.str("direction", "forward")? {
        "forward" => Ok((1, false)),
        "reverse" => Ok((1, true)),
        "bidirectional" => Ok((2, false)),
        other => Err(attrs.wrong("direction", "forward, reverse or bidirectional", other)),
    }
}

fn infer_cell(cx: &mut InferCx, cell: Cell) -> Result<()> {
    let attrs = cx.attrs();
    let batch_first = attrs.int("layout", 0)? != 0;
    let dirs = Dim::from(directions(attrs)?.0);
    let hidden = match attrs.opt_int("hidden_size")? {
        Some(size) => Dim::Known(size),
        None => match cx.need_rank(2, 3)? {
            Some(dims) => dims[2].clone(),
            None => cx
                .dims(1)
                .and_then(|dims| dims.get(1))
                .map_or(Dim::Unknown, |rows| sym::floor_div(rows, &Dim::from(cell.gates()))),
        },
    };
    let (first, second) =
        cx.need_rank(0, 3)?.map_or((Dim::Unknown, Dim::Unknown), |d| (d[0].clone(), d[1].clone()));
    let (y, state) = match batch_first {
        true => (vec![first.clone(), second, dirs.clone(), hidden.clone()], vec![first, dirs, hidden]),
        false => (vec![first, dirs.clone(), second.clone(), hidden.clone()], vec![dirs, second, hidden]),
    };
    let dtype = cx.dtype(0);
    cx.set(0, dtype, Some(y));
    cx.set(1, dtype, Some(state.clone()));
    if matches!(cell, Cell::Lstm { .. }) {
        cx.set(2, dtype, Some(state));
    }
    Ok(())
}

/// Swaps the first two of `[a, b, rest]`.
fn swapped<T: Copy>(x: &[T], a: usize, b: usize) -> Vec<T> {
    let rest = x.len() / (a * b).max(1);
    let mut out = Vec::with_capacity(x.len());
    for second in 0..b {
        for first in 0..a {
            out.extend_from_slice(&x[(first * b + second) * rest..][..rest]);
        }
    }
    out
}

/// `sequence_lens`, checked.
pub(super) fn lengths(cx: &EvalCx, at: usize, seq: usize, batch: usize) -> Result<Option<Vec<usize>>> {
    let Some(lengths) = cx.opt_ints(at)? else { return Ok(None) };
    let wrong = || cx.wrong_input(at, &format!("{batch} lengths of at most {seq}"));
    let lengths: Option<Vec<usize>> =
        lengths.iter().map(|&l| usize::try_from(l).ok().filter(|&l| l <= seq)).collect();
    lengths.filter(|lengths| lengths.len() == batch).map(Some).ok_or_else(wrong)
}

/// The activation functions of all directions.
pub(super) fn activations(cx: &EvalCx, cell: Cell, dirs: usize) -> Result<Vec<Activation>> {
    let attrs = cx.attrs();
    let default = cell.default_activations();
    let names: Vec<&str> = match attrs.opt_strings("activations")?.filter(|names| !names.is_empty()) {
        Some(names) => names.iter().map(|name| std::str::from_utf8(name).unwrap_or_default()).collect(),
        None => default.repeat(dirs),
    };
    let (alphas, betas) = (attrs.opt_floats("activation_alpha")?, attrs.opt_floats("activation_beta")?);
    let list = Activation::list(&names, alphas.unwrap_or_default(), betas.unwrap_or_default());
    let list = list.map_err(|why| cx.unsupported(why))?;
    if list.len() != default.len() * dirs {
        let wanted = format!("{} names", default.len() * dirs);
        return Err(attrs.wrong("activations", &wanted, &list.len().to_string()));
    }
    Ok(list)
}

/// The attribute `clip`; none where it does not bound anything.
pub(super) fn clip(attrs: crate::attrs::Attributes<'_>) -> Result<Option<f64>> {
    Ok(attrs.opt_float("clip")?.filter(|&clip| clip > 0.0).map(f64::from))
}

/// The sizes of a layer from those of its input (time first) and of `r`.
pub(super) fn sizes(cx: &EvalCx, x: &[usize], hidden: usize, dirs: usize) -> Result<Sizes> {
    let &[seq, batch, input] = x else { return Err(cx.wrong_input(0, "a tensor of rank 3")) };
    if cx.attrs().opt_int("hidden_size")?.is_some_and(|size| usize::try_from(size) != Ok(hidden)) {
        return Err(cx.invalid(format!("hidden_size differs from the {hidden} of the recurrent weights")));
    }
    Ok(Sizes { seq, batch, input, hidden, dirs })
}

fn eval_cell(cx: &EvalCx, cell: Cell) -> Result<Outputs> {
    for_real!(cx, 0, T => run::<T>(cx, cell))
}

fn run<T: Real>(cx: &EvalCx, cell: Cell) -> Result<Outputs> {
    let attrs = cx.attrs();
    let batch_first = attrs.int("layout", 0)? != 0;
    let (dirs, reverse) = directions(attrs)?;
    let (x, r) = (cx.tensor(0)?, cx.tensor(2)?);
    let hidden = *r.dims().get(2).ok_or_else(|| cx.wrong_input(2, "a tensor of rank 3"))?;
    let mut x_dims = x.dims().to_vec();
    let mut data = reals::<T>(cx, 0)?;
    if batch_first && x_dims.len() == 3 {
        data = swapped(&data, x_dims[0], x_dims[1]);
        x_dims.swap(0, 1);
    }
    let sizes = sizes(cx, &x_dims, hidden, dirs)?;
    let Sizes { seq, batch, input, .. } = sizes;
    let rows = cell.gates() * hidden;
    cx.reserve(x.dtype(), &[seq, dirs, batch, rows])?;
    let state = |at: usize| match batch_first {
        true => {
            Ok(opt_reals_of::<T>(cx, at, &[batch, dirs, hidden])?.map(|state| swapped(&state, batch, dirs)))
        }
        false => opt_reals_of::<T>(cx, at, &[dirs, batch, hidden]),
    };
    let lstm = matches!(cell, Cell::Lstm { .. });
    let (w, r) = (reals_of::<T>(cx, 1, &[dirs, rows, input])?, reals_of::<T>(cx, 2, &[dirs, rows, hidden])?);
    let bias = opt_reals_of::<T>(cx, 3, &[dirs, 2 * rows])?;
    let lengths = lengths(cx, 4, seq, batch)?;
    let (initial_h, initial_c) = (state(5)?, if lstm { state(6)? } else { None });
    let peepholes = if lstm { opt_reals::<T>(cx, 7)? } else { None };
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
        coarse_state: false,
    };
    let run = layer.run(&data);
    let dtype = x.dtype();
    let give_state = |state: &[T]| match batch_first {
        true => value(cx, dtype, &[batch, dirs, hidden], &swapped(state, dirs, batch)),
        false => value(cx, dtype, &[dirs, batch, hidden], state),
    };
    let y = match batch_first {
        // [seq, dirs, batch, H] to [batch, seq, dirs, H].
        true => value(cx, dtype, &[batch, seq, dirs, hidden], &swapped(&run.y, seq * dirs, batch))?,
        false => value(cx, dtype, &[seq, dirs, batch, hidden], &run.y)?,
    };
    let mut outputs = vec![y, give_state(&run.y_h)?];
    if lstm {
        outputs.push(give_state(&run.y_c)?);
    }
    Ok(outputs)
}

fn infer_rnn(cx: &mut InferCx) -> Result<()> {
    infer_cell(cx, Cell::Rnn)
}

fn infer_gru(cx: &mut InferCx) -> Result<()> {
    infer_cell(cx, Cell::Gru { linear_before_reset: false })
}

fn infer_lstm(cx: &mut InferCx) -> Result<()> {
    infer_cell(cx, Cell::Lstm { input_forget: false })
}

fn eval_rnn(cx: &EvalCx) -> Result<Outputs> {
    eval_cell(cx, Cell::Rnn)
}

fn eval_gru(cx: &EvalCx) -> Result<Outputs> {
    eval_cell(cx, Cell::Gru { linear_before_reset: cx.attrs().flag("linear_before_reset", false)? })
}

fn eval_lstm(cx: &EvalCx) -> Result<Outputs> {
    eval_cell(cx, Cell::Lstm { input_forget: cx.attrs().flag("input_forget", false)? })
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("RNN", 7, infer_rnn).eval(eval_rnn),
    &Table::new("GRU", 7, infer_gru).eval(eval_gru),
    &Table::new("LSTM", 7, infer_lstm).eval(eval_lstm),
];
