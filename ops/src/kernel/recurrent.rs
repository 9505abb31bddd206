//! Recurrent layers over slices: RNN, GRU and LSTM cells in one walk over time.
//!
//! `x [seq, batch, input]`, `w [dirs, gates*H, input]`, `r [dirs, gates*H, H]`, biases `[dirs, 2*gates*H]` (input half,
//! recurrent half). Gate order: LSTM i o f c, GRU z r h. The backward direction walks each sequence of the batch from its
//! own end, and states behind the end of a short sequence are zero in `y` and left alone in the final state.

use std::borrow::Cow;

use super::quantize::{dynamic_grid, saturate};
use super::real::{Real, matrix, multiply};

/// An activation function of a gate with its parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Activation {
    Relu,
    Tanh,
    Sigmoid,
    Softsign,
    Softplus,
    Affine(f64, f64),
    LeakyRelu(f64),
    ThresholdedRelu(f64),
    ScaledTanh(f64, f64),
    HardSigmoid(f64, f64),
    Elu(f64),
}

impl Activation {
    /// Reads a list of names; parameters are taken in order by the functions that have them, with ONNX's defaults where
    /// the lists end. Names count without case, as ONNX Runtime reads them.
    pub fn list(names: &[&str], alphas: &[f32], betas: &[f32]) -> Result<Vec<Activation>, String> {
        let mut alphas = alphas.iter().map(|&alpha| f64::from(alpha));
        let mut betas = betas.iter().map(|&beta| f64::from(beta));
        let mut read = |name: &str| {
            let mut alpha = |default: f64| alphas.next().unwrap_or(default);
            let mut beta = |default: f64| betas.next().unwrap_or(default);
            Ok(match name.to_ascii_lowercase().as_str() {
                "relu" => Activation::Relu,
                "tanh" => Activation::Tanh,
                "sigmoid" => Activation::Sigmoid,
                "softsign" => Activation::Softsign,
                "softplus" => Activation::Softplus,
                "affine" => Activation::Affine(alpha(1.0), beta(0.0)),
                "leakyrelu" => Activation::LeakyRelu(alpha(0.01)),
                "thresholdedrelu" => Activation::ThresholdedRelu(alpha(1.0)),
                "scaledtanh" => Activation::ScaledTanh(alpha(1.0), beta(1.0)),
                "hardsigmoid" => Activation::HardSigmoid(alpha(0.2), beta(0.5)),
                "elu" => Activation::Elu(alpha(1.0)),
                _ => return Err(format!("activation {name:?}")),
            })
        };
        names.iter().map(|name| read(name)).collect()
    }

    fn of<T: Real>(self, x: T) -> T {
        let (zero, one) = (T::zero(), T::one());
        match self {
            Activation::Relu => x.max(zero),
            Activation::Tanh => x.tanh(),
            Activation::Sigmoid => one / (one + (-x).exp()),
            Activation::Softsign => x / (one + x.abs()),
            // For large x the exponential overflows while the result is x.
            Activation::Softplus => x.max(zero) + (-x.abs()).exp().ln_1p(),
            Activation::Affine(a, b) => T::of(a) * x + T::of(b),
            Activation::LeakyRelu(a) => {
                if x >= zero {
                    x
                } else {
                    T::of(a) * x
                }
            }
            Activation::ThresholdedRelu(a) => {
                if x >= T::of(a) {
                    x
                } else {
                    zero
                }
            }
            Activation::ScaledTanh(a, b) => T::of(a) * (T::of(b) * x).tanh(),
            Activation::HardSigmoid(a, b) => (T::of(a) * x + T::of(b)).max(zero).min(one),
            Activation::Elu(a) => {
                if x >= zero {
                    x
                } else {
                    T::of(a) * x.exp_m1()
                }
            }
        }
    }
}

/// The cell of a recurrent layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// One gate.
    Rnn,
    /// z r h; `linear_before_reset` multiplies the reset gate behind the recurrent product.
    Gru {
        /// See the variant.
        linear_before_reset: bool,
    },
    /// i o f c; `input_forget` couples the forget gate to the input gate.
    Lstm {
        /// See the variant.
        input_forget: bool,
    },
}

impl Cell {
    /// Gates.
    pub fn gates(self) -> usize {
        match self {
            Cell::Rnn => 1,
            Cell::Gru { .. } => 3,
            Cell::Lstm { .. } => 4,
        }
    }

    /// Activation functions of one direction when none are given.
    pub fn default_activations(self) -> &'static [&'static str] {
        match self {
            Cell::Rnn => &["Tanh"],
            Cell::Gru { .. } => &["Sigmoid", "Tanh"],
            Cell::Lstm { .. } => &["Sigmoid", "Tanh", "Tanh"],
        }
    }
}

/// Sizes of a layer, checked by the caller against the slices of [`Layer`].
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Time steps.
    pub seq: usize,
    /// Sequences.
    pub batch: usize,
    /// Features of the input.
    pub input: usize,
    /// Features of the state.
    pub hidden: usize,
    /// Directions: 1 or 2.
    pub dirs: usize,
}

/// A layer: everything but its input.
pub struct Layer<'a, T> {
    /// Cell.
    pub cell: Cell,
    /// Sizes.
    pub sizes: Sizes,
    /// The only direction walks backwards; with two directions the second one does.
    pub reverse: bool,
    /// `[dirs, gates*H, input]`.
    pub w: &'a [T],
    /// `[dirs, gates*H, H]`.
    pub r: &'a [T],
    /// `[dirs, 2*gates*H]`.
    pub bias: Option<&'a [T]>,
    /// `[dirs, 3*H]` in the order i o f.
    pub peepholes: Option<&'a [T]>,
    /// `[dirs, batch, H]`.
    pub initial_h: Option<&'a [T]>,
    /// `[dirs, batch, H]`.
    pub initial_c: Option<&'a [T]>,
    /// Steps of each sequence, at most `seq`.
    pub lengths: Option<&'a [usize]>,
    /// Those of each direction in turn.
    pub activations: &'a [Activation],
    /// Bound of what enters an activation function.
    pub clip: Option<f64>,
    /// The state enters its product on the 8-bit grid of its own range (that of all sequences at one step).
    pub coarse_state: bool,
}

/// Numbers on the 8-bit grid of their own range.
pub fn coarse<T: Real>(x: &[T]) -> Vec<T> {
    let x: Vec<f32> = x.iter().map(|x| x.wide() as f32).collect();
    let (scale, zero) = dynamic_grid(&x);
    let number = |&x: &f32| {
        let zero = i64::from(zero);
        T::of(f64::from((saturate(x / scale, zero, (0, 255)) - zero) as f32 * scale))
    };
    x.iter().map(number).collect()
}

/// What a layer gives.
pub struct Run<T> {
    /// `[seq, dirs, batch, H]`.
    pub y: Vec<T>,
    /// `[dirs, batch, H]`.
    pub y_h: Vec<T>,
    /// `[dirs, batch, H]`; zeros for cells without one.
    pub y_c: Vec<T>,
}

impl<T: Real> Layer<'_, T> {
    /// Runs the layer over `x [seq, batch, input]`.
    pub fn run(&self, x: &[T]) -> Run<T> {
        let Sizes { seq, batch, hidden, dirs, .. } = self.sizes;
        let state = batch * hidden;
        let initial =
            |given: Option<&[T]>| given.map_or_else(|| vec![T::zero(); dirs * state], <[T]>::to_vec);
        let mut run = Run {
            y: vec![T::zero(); seq * dirs * state],
            y_h: initial(self.initial_h),
            y_c: initial(self.initial_c),
        };
        for dir in 0..dirs {
            self.walk(dir, x, &mut run);
        }
        run
    }

    fn walk(&self, dir: usize, x: &[T], run: &mut Run<T>) {
        let Sizes { seq, batch, input, hidden, dirs } = self.sizes;
        let gates = self.cell.gates() * hidden;
        let backward = self.reverse || dir == 1;
        let w = matrix(&self.w[dir * gates * input..], gates, input);
        let r = matrix(&self.r[dir * gates * hidden..], gates, hidden);
        let (input_bias, state_bias) = match self.bias {
            Some(bias) => bias[dir * 2 * gates..][..2 * gates].split_at(gates),
            None => (&[][..], &[][..]),
        };
        let mut from_input = vec![T::zero(); seq * batch * gates];
        multiply(matrix(x, seq * batch, input), w.t(), T::zero(), &mut from_input);
        for row in from_input.chunks_exact_mut(gates.max(1)) {
            row.iter_mut().zip(input_bias).for_each(|(y, &bias)| *y = *y + bias);
        }
        let mut from_state = vec![T::zero(); batch * gates];
        let state = dir * batch * hidden..(dir + 1) * batch * hidden;
        for step in 0..seq {
            let before = &run.y_h[state.clone()];
            let before = if self.coarse_state { coarse(before).into() } else { Cow::Borrowed(before) };
            multiply(matrix(&before, batch, hidden), r.t(), T::zero(), &mut from_state);
            for row in from_state.chunks_exact_mut(gates.max(1)) {
                row.iter_mut().zip(state_bias).for_each(|(y, &bias)| *y = *y + bias);
            }
            for item in 0..batch {
                let length = self.lengths.map_or(seq, |lengths| lengths[item]);
                if step >= length {
                    continue;
                }
                let time = if backward { length - 1 - step } else { step };
                let own = state.start + item * hidden..state.start + (item + 1) * hidden;
                let (h, c) = (&mut run.y_h[own.clone()], &mut run.y_c[own]);
                let from_input = &from_input[(time * batch + item) * gates..][..gates];
                let from_state = &from_state[item * gates..][..gates];
                match self.cell {
                    Cell::Rnn => self.rnn(dir, from_input, from_state, h),
                    Cell::Gru { linear_before_reset: true } => self.gru(dir, from_input, from_state, h, None),
                    Cell::Gru { linear_before_reset: false } => {
                        let r = &self.r[(dir * 3 + 2) * hidden * hidden..][..hidden * hidden];
                        self.gru(dir, from_input, from_state, h, Some((r, state_bias.get(2 * hidden..))));
                    }
                    Cell::Lstm { input_forget } => self.lstm(dir, input_forget, from_input, from_state, h, c),
                }
                run.y[((time * dirs + dir) * batch + item) * hidden..][..hidden].copy_from_slice(h);
            }
        }
    }

    fn clipped(&self, value: T) -> T {
        match self.clip {
            Some(clip) => value.max(T::of(-clip)).min(T::of(clip)),
            None => value,
        }
    }

    fn rnn(&self, dir: usize, x: &[T], s: &[T], h: &mut [T]) {
        let f = self.activations[dir];
        for (at, h) in h.iter_mut().enumerate() {
            *h = f.of(self.clipped(x[at] + s[at]));
        }
    }

    /// `hidden_gate` is the recurrent matrix and bias of the last gate where the reset comes before its product.
    fn gru(&self, dir: usize, x: &[T], s: &[T], h: &mut [T], hidden_gate: Option<(&[T], Option<&[T]>)>) {
        let size = h.len();
        let (f, g) = (self.activations[2 * dir], self.activations[2 * dir + 1]);
        let gate = |at: usize| f.of(self.clipped(x[at] + s[at]));
        let reset: Vec<T> = (0..size).map(|at| gate(size + at)).collect();
        let candidate: Vec<T> = match hidden_gate {
            None => (0..size).map(|at| reset[at] * s[2 * size + at]).collect(),
            Some((r, bias)) => {
                let kept: Vec<T> = reset.iter().zip(h.iter()).map(|(&reset, &h)| reset * h).collect();
                let mut product = match bias {
                    Some(bias) => bias[..size].to_vec(),
                    None => vec![T::zero(); size],
                };
                multiply(matrix(r, size, size), matrix(&kept, size, 1), T::one(), &mut product);
                product
            }
        };
        for (at, h) in h.iter_mut().enumerate() {
            let update = gate(at);
            let new = g.of(self.clipped(x[2 * size + at] + candidate[at]));
            *h = (T::one() - update) * new + update * *h;
        }
    }

    fn lstm(&self, dir: usize, input_forget: bool, x: &[T], s: &[T], h: &mut [T], c: &mut [T]) {
        let size = h.len();
        let [f, g, out] = [0, 1, 2].map(|at| self.activations[3 * dir + at]);
        let peephole = |gate: usize, at: usize, cell: T| match self.peepholes {
            Some(p) => p[(3 * dir + gate) * size + at] * cell,
            None => T::zero(),
        };
        for (at, (h, c)) in h.iter_mut().zip(c).enumerate() {
            let sum = |gate: usize| x[gate * size + at] + s[gate * size + at];
            let input = f.of(self.clipped(sum(0) + peephole(0, at, *c)));
            let forget = match input_forget {
                true => T::one() - input,
                false => f.of(self.clipped(sum(2) + peephole(2, at, *c))),
            };
            *c = forget * *c + input * g.of(self.clipped(sum(3)));
            let output = f.of(self.clipped(sum(1) + peephole(1, at, *c)));
            // ONNX Runtime does not clip the cell on its way into the last activation.
            *h = output * out.of(*c);
        }
    }
}
