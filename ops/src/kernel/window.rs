//! The geometry of sliding windows: what Conv, the pools, ConvTranspose and their quantized forms share.
//!
//! Per spatial axis, with `reach = (kernel - 1) * dilation + 1`:
//!
//! - explicit pads: `out = floor((in + before + after - reach) / stride) + 1`; with `ceil_mode` the division rounds up,
//!   and a last window that would start behind the input and its leading pad is dropped;
//! - `VALID`: the same with no pads;
//! - `SAME_UPPER`, `SAME_LOWER`: `out = ceil(in / stride)`, pads as needed, the odd one at the end or at the start.

use crate::attrs::Attributes;
use crate::error::Result as OpResult;

/// What the attribute `auto_pad` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoPad {
    /// The attribute `pads` counts.
    Explicit,
    /// No pads.
    Valid,
    /// Output as large as the input over the stride, the odd pad at the end.
    SameUpper,
    /// The same with the odd pad at the start.
    SameLower,
}

/// The window attributes of an operator, before the input's sizes are known.
#[derive(Clone, Debug)]
pub struct WindowAttrs {
    /// Window sizes.
    pub kernel: Vec<usize>,
    /// Steps between windows; all at least 1.
    pub strides: Vec<usize>,
    /// Steps inside a window; all at least 1.
    pub dilations: Vec<usize>,
    /// Explicit pads, `(before, after)` an axis.
    pub pads: Vec<(usize, usize)>,
    /// How pads are found.
    pub auto_pad: AutoPad,
    /// Round the number of windows up.
    pub ceil: bool,
}

/// One spatial axis with all sizes known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Size of the input.
    pub input: usize,
    /// Size of the output.
    pub output: usize,
    /// Window size.
    pub kernel: usize,
    /// Step between windows.
    pub stride: usize,
    /// Step inside a window.
    pub dilation: usize,
    /// Pad before the input.
    pub before: usize,
    /// Pad behind the input.
    pub after: usize,
}

impl Axis {
    /// The kernel indices of window `at` whose position, counted from the start of the leading pad, lies in `from..to`.
    /// Found by division: a kernel may be far larger than what it meets.
    fn inside(self, at: usize, from: usize, to: usize) -> std::ops::Range<usize> {
        let start = at * self.stride;
        let reached =
            |position: usize| position.saturating_sub(start).div_ceil(self.dilation).min(self.kernel);
        reached(from)..reached(to)
    }

    /// Input positions of window `at`: `(kernel index, input index)` for those inside the input.
    pub fn taps(self, at: usize) -> impl Iterator<Item = (usize, usize)> {
        let taps = self.inside(at, self.before, self.before + self.input);
        taps.map(move |k| (k, at * self.stride + k * self.dilation - self.before))
    }

    /// The range of outputs whose kernel index `k` meets the input.
    pub fn covered(self, k: usize) -> std::ops::Range<usize> {
        let shift = k * self.dilation;
        let first = self.before.saturating_sub(shift).div_ceil(self.stride);
        // The last position is below `input + before`.
        let end = (self.input + self.before).saturating_sub(shift).div_ceil(self.stride);
        let end = end.min(self.output);
        first.min(end)..end
    }

    /// Positions of window `at` inside the input and its pads (the last window of `ceil_mode` may lie partly behind).
    pub fn padded_count(self, at: usize) -> usize {
        self.inside(at, 0, self.input + self.before + self.after).len()
    }
}

/// No size in a model is larger: it keeps every product of the arithmetic here inside 64 bits.
const LARGEST: i64 = 1 << 31;

impl WindowAttrs {
    /// Reads `strides`, `dilations`, `pads`, `auto_pad`, `ceil_mode` beside a kernel that is known already.
    pub fn read(attrs: Attributes<'_>, kernel: &[usize]) -> OpResult<WindowAttrs> {
        let rank = kernel.len();
        let list = |name: &str, count: usize, default: usize, least: i64| match attrs.opt_ints(name)? {
            None | Some([]) => Ok(vec![default; count]),
            Some(values) if values.len() == count && values.iter().all(|v| (least..LARGEST).contains(v)) => {
                Ok(values.iter().map(|&value| value as usize).collect())
            }
            Some(values) => {
                let expected = format!("{count} sizes from {least} on");
                Err(attrs.wrong(name, &expected, &format!("{values:?}")))
            }
        };
        if kernel.iter().any(|&size| size == 0 || size as u64 >= LARGEST as u64) {
            return Err(attrs.wrong("kernel_shape", "positive sizes", &format!("{kernel:?}")));
        }
        let (strides, dilations) = (list("strides", rank, 1, 1)?, list("dilations", rank, 1, 1)?);
        let pads = list("pads", 2 * rank, 0, 0)?;
        let pads = (0..rank).map(|axis| (pads[axis], pads[rank + axis])).collect();
        let auto_pad = match attrs.str("auto_pad", "NOTSET")? {
            "NOTSET" | "" => AutoPad::Explicit,
            "VALID" => AutoPad::Valid,
            "SAME_UPPER" => AutoPad::SameUpper,
            "SAME_LOWER" => AutoPad::SameLower,
            other => return Err(attrs.wrong("auto_pad", "NOTSET, VALID, SAME_UPPER or SAME_LOWER", other)),
        };
        let ceil = attrs.flag("ceil_mode", false)?;
        Ok(WindowAttrs { kernel: kernel.to_vec(), strides, dilations, pads, auto_pad, ceil })
    }

    /// Distance from the first to behind the last position of a window.
    pub fn reach(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1).saturating_mul(self.dilations[axis]).saturating_add(1)
    }

    /// The geometry of one axis; an error where not a single window fits.
    pub fn axis(&self, axis: usize, input: usize) -> Result<Axis, String> {
        let (kernel, stride, dilation) = (self.kernel[axis], self.strides[axis], self.dilations[axis]);
        let reach = self.reach(axis);
        if input as u64 >= LARGEST as u64 || reach as u64 >= LARGEST as u64 {
            return Err(format!("a window of {reach} over {input} is too large"));
        }
        let (before, after, output) = match self.auto_pad {
            AutoPad::SameUpper | AutoPad::SameLower => {
                let output = input.div_ceil(stride);
                let total = (output.saturating_sub(1) * stride + reach).saturating_sub(input);
                let (less, more) = (total / 2, total - total / 2);
                match self.auto_pad {
                    AutoPad::SameUpper => (less, more, output),
                    _ => (more, less, output),
                }
            }
            AutoPad::Explicit | AutoPad::Valid => {
                let (before, after) = if self.auto_pad == AutoPad::Valid { (0, 0) } else { self.pads[axis] };
                let room = (input + before + after).checked_sub(reach);
                let room = room.ok_or_else(|| format!("a window of {reach} does not fit into {input}"))?;
                let mut output = if self.ceil { room.div_ceil(stride) } else { room / stride } + 1;
                if self.ceil && (output - 1) * stride >= input + before {
                    output -= 1;
                }
                (before, after, output)
            }
        };
        Ok(Axis { input, output, kernel, stride, dilation, before, after })
    }

    /// The geometry of all axes.
    pub fn axes(&self, sizes: &[usize]) -> Result<Vec<Axis>, String> {
        if sizes.len() != self.kernel.len() {
            return Err(format!("{} window axes for {} spatial axes", self.kernel.len(), sizes.len()));
        }
        sizes.iter().enumerate().map(|(axis, &size)| self.axis(axis, size)).collect()
    }
}

/// Steps an index over sizes, last axis fastest; false after the last.
pub fn advance(index: &mut [usize], sizes: &[usize]) -> bool {
    for (at, &size) in index.iter_mut().zip(sizes).rev() {
        *at += 1;
        if *at < size {
            return true;
        }
        *at = 0;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(
        kernel: usize,
        stride: usize,
        pads: (usize, usize),
        auto_pad: AutoPad,
        ceil: bool,
    ) -> WindowAttrs {
        WindowAttrs {
            kernel: vec![kernel],
            strides: vec![stride],
            dilations: vec![1],
            pads: vec![pads],
            auto_pad,
            ceil,
        }
    }

    #[test]
    fn outputs() {
        let axis = |w: WindowAttrs, input| w.axis(0, input).map(|a| (a.before, a.after, a.output));
        assert_eq!(axis(window(3, 1, (1, 1), AutoPad::Explicit, false), 5), Ok((1, 1, 5)));
        assert_eq!(axis(window(3, 2, (1, 1), AutoPad::Valid, false), 5), Ok((0, 0, 2)));
        assert_eq!(axis(window(2, 2, (0, 0), AutoPad::SameUpper, false), 5), Ok((0, 1, 3)));
        assert_eq!(axis(window(2, 2, (0, 0), AutoPad::SameLower, false), 5), Ok((1, 0, 3)));
        assert_eq!(axis(window(3, 2, (0, 0), AutoPad::Explicit, true), 4), Ok((0, 0, 2)));
        // The third window would start at 4, behind the input and its leading pad.
        assert_eq!(axis(window(1, 2, (0, 1), AutoPad::Explicit, true), 4), Ok((0, 1, 2)));
        assert!(axis(window(7, 1, (0, 0), AutoPad::Explicit, false), 5).is_err());
    }

    #[test]
    fn covered_agrees_with_taps() {
        for (input, kernel, stride, dilation, before, after) in
            [(5, 3, 1, 1, 1, 1), (7, 3, 2, 2, 3, 0), (4, 2, 3, 1, 0, 2), (1, 3, 1, 1, 1, 1)]
        {
            let pads = (before, after);
            let mut w = window(kernel, stride, pads, AutoPad::Explicit, false);
            w.dilations = vec![dilation];
            let axis = w.axis(0, input).unwrap();
            for k in 0..kernel {
                let taps: Vec<usize> =
                    (0..axis.output).filter(|&at| axis.taps(at).any(|(tap, _)| tap == k)).collect();
                assert_eq!(axis.covered(k).collect::<Vec<_>>(), taps);
            }
        }
    }
}
