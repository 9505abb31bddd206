//! Constant weights of linear operators: where their output channel is, and how to scale it.

use ir::{DType, OpId, Tensor, ValueId};

use crate::driver::{OrNoMatch, Scope, Skip};
use crate::numbers;

/// A linear operator with a constant weight: `y[.., c, ..] = sum(x * w[.., c, ..]) + b[c]`.
pub struct Linear<'a> {
    /// The operator.
    pub op: OpId,
    /// The weight.
    pub weight: &'a Tensor,
    /// The constant bias, where there is one.
    pub bias: Option<&'a Tensor>,
    /// Number of output channels.
    pub channels: usize,
    /// Which dimension of the output the channels are, counted from the front; none: the last one.
    pub axis: Option<usize>,
    /// The channel of each element: `(index / inner) % count + (index / outer) * count`, see [`Linear::channel`].
    layout: Layout,
    /// Where the input channels are.
    inputs: Inputs,
}

/// How the input channels lie in a row-major weight: element `index` meets channel
/// `(index / inner) % count + (index / outer) / group * count`.
struct Inputs {
    inner: usize,
    count: usize,
    outer: usize,
    /// Output channels of a group, where each group reads channels of its own.
    group: usize,
    channels: usize,
}

/// How the channels lie in a row-major weight.
struct Layout {
    /// Elements from one channel to the next.
    inner: usize,
    /// Channels that lie beside each other before the next group begins.
    count: usize,
    /// Elements from one group to the next.
    outer: usize,
}

impl<'a> Linear<'a> {
    /// Reads a `Conv`, `ConvTranspose`, `Gemm`, `MatMul` or `BatchNormalization` whose weight (and bias) is constant.
    pub fn of(scope: Scope<'a>, op: OpId) -> Result<Linear<'a>, Skip> {
        let node = scope.graph().op(op);
        let weight = scope.input(op, 1).or_no_match()?;
        let weight = scope.constant(weight).ok_or_else(|| scope.because(op, "its weight is not constant"))?;
        if !weight.dtype().is_compute_float() {
            return Err(scope.because(op, format!("its weight is {}", weight.dtype())));
        }
        let dims = weight.dims();
        let wrong = || scope.because(op, "its weight has the wrong rank");
        let group = usize::try_from(node.attrs.int("group").unwrap_or(1)).ok().filter(|&group| group > 0);
        let group = group.ok_or_else(|| scope.because(op, "its group is not positive"))?;
        let whole = weight.elements().max(1);
        let plain =
            |inner: usize, count: usize| Inputs { inner, count, outer: whole, group: 1, channels: count };
        let (channels, axis, layout, inputs) = match &*node.kind.name {
            "Conv" => {
                let (&channels, rest) =
                    dims.split_first().filter(|(_, rest)| rest.len() >= 2).ok_or_else(wrong)?;
                let inner: usize = rest.iter().product();
                if channels % group != 0 || rest[0] == 0 {
                    return Err(wrong());
                }
                let inputs = Inputs {
                    inner: rest[1..].iter().product(),
                    count: rest[0],
                    outer: inner,
                    group: channels / group,
                    channels: rest[0].saturating_mul(group),
                };
                (channels, Some(1), Layout { inner, count: channels, outer: weight.elements() }, inputs)
            }
            "ConvTranspose" => {
                // [input channels, output channels of a group, spatial]
                let [ins, outs, spatial @ ..] = dims else { return Err(wrong()) };
                if ins % group != 0 || spatial.is_empty() {
                    return Err(wrong());
                }
                let inner = spatial.iter().product();
                let outer = (ins / group).saturating_mul(*outs).saturating_mul(inner);
                let inputs = plain(outs.saturating_mul(inner), *ins);
                (outs.saturating_mul(group), Some(1), Layout { inner, count: *outs, outer }, inputs)
            }
            "Gemm" => {
                let [rows, columns] = *dims else { return Err(wrong()) };
                match node.attrs.int("transB").unwrap_or(0) != 0 {
                    true => {
                        let layout = Layout { inner: columns, count: rows, outer: whole };
                        (rows, None, layout, plain(1, columns))
                    }
                    false => {
                        let layout = Layout { inner: 1, count: columns, outer: whole };
                        (columns, None, layout, plain(columns, rows))
                    }
                }
            }
            // One factor a channel: y[.., c, ..] = (x[.., c, ..] - mean[c]) / sqrt(var[c] + epsilon) * w[c] + b[c].
            "BatchNormalization" => {
                let [channels] = *dims else { return Err(wrong()) };
                (channels, Some(1), Layout { inner: 1, count: channels, outer: whole }, plain(1, channels))
            }
            "MatMul" => {
                let [rows, columns] = *dims else { return Err(wrong()) };
                (columns, None, Layout { inner: 1, count: columns, outer: whole }, plain(columns, rows))
            }
            _ => return Err(Skip::NoMatch),
        };
        let bias = match scope.input(op, 2) {
            None => None,
            Some(bias) => {
                Some(scope.constant(bias).ok_or_else(|| scope.because(op, "its bias is not constant"))?)
            }
        };
        if channels == 0 || weight.elements() == 0 {
            return Err(wrong());
        }
        Ok(Linear { op, weight, bias, channels, axis, layout, inputs })
    }

    /// Element type of the weight.
    pub fn dtype(&self) -> DType {
        self.weight.dtype()
    }

    /// Output channel of the weight's element at `index`.
    pub fn channel(&self, index: usize) -> usize {
        let Layout { inner, count, outer } = self.layout;
        (index / inner) % count + (index / outer) * count
    }

    /// Number of input channels.
    pub fn input_channels(&self) -> usize {
        self.inputs.channels
    }

    /// Input channel that the weight's element at `index` meets.
    pub fn input_channel(&self, index: usize) -> usize {
        let Inputs { inner, count, outer, group, .. } = self.inputs;
        (index / inner.max(1)) % count.max(1) + (index / outer.max(1)) / group.max(1) * count
    }

    /// The weight with each output channel multiplied by its factor; computed in f64 and rounded once.
    pub fn scaled(&self, factors: &[f64]) -> Option<Tensor> {
        let inner = self.layout.inner;
        numbers::scale_runs(self.weight, inner, |run| factors.get(self.channel(run * inner)).copied())
    }

    /// The bias, one number a channel; zeros where there is none. None if it has another shape.
    pub fn bias_values(&self) -> Option<Vec<f64>> {
        let Some(bias) = self.bias else { return Some(vec![0.0; self.channels]) };
        let values = numbers::floats(bias)?;
        let last = bias.dims().last().copied().unwrap_or(1);
        match values.len() {
            // A scalar, or one row: what Gemm allows beside a vector.
            1 => Some(vec![values[0]; self.channels]),
            n if n == self.channels && last == n => Some(values),
            _ => None,
        }
    }
}

/// The tensor, unless a value of it overflowed.
pub fn finite(tensor: Tensor) -> Option<Tensor> {
    numbers::floats(&tensor)?.iter().all(|value| value.is_finite()).then_some(tensor)
}

/// The constant as one number a channel of the value, if it only varies along that dimension: `[C, 1, 1]` or `[1, C, 1]`
/// for dimension 1 of rank 3. A scalar gives the same number `channels` times.
pub fn per_channel(
    scope: Scope,
    value: ValueId,
    constant: &Tensor,
    axis: Option<usize>,
    channels: usize,
) -> Option<Vec<f64>> {
    let values = numbers::floats(constant)?;
    if values.len() == 1 && constant.rank() <= 1 {
        return Some(vec![values[0]; channels]);
    }
    let rank = match axis {
        // The last dimension is the last whatever the rank, as long as the constant has no more dimensions.
        None if constant.rank() == 1 => 1,
        _ => scope.rank(value)?,
    };
    if constant.rank() > rank {
        return None;
    }
    let axis = axis.unwrap_or(rank.checked_sub(1)?);
    let lead = rank - constant.rank();
    let fits = |(at, &size): (usize, &usize)| size == 1 || (at + lead == axis && size == channels);
    if !constant.dims().iter().enumerate().all(fits) {
        return None;
    }
    Some(if values.len() == 1 { vec![values[0]; channels] } else { values })
}
