//! Real slices to integer codes and back: q = clip(round_half_even(x / scale) + zero_point), x̂ = (q - zero_point)·scale.
//!
//! The division is an f32 division by the scale (not a product with its reciprocal, which differs in the last place
//! and flips ties), as in ONNX's QuantizeLinear. NaN becomes the zero point, that is 0.0; ±Inf saturates.
//! Float codes (float8, float4) are in [`crate::minifloat`].

use crate::error::{Error, check_len};
use crate::grid::Params;
use crate::round::{MAGIC, round_small};

/// An integer that stores one code: `i8` or `u8` for widths up to 8 bits (unpacked), and the wider types.
pub trait Code: Copy + Default + Send + Sync {
    /// Whether codes take all 32 bits, so that differences need more.
    const WIDE: bool;
    /// Keeps the low bits.
    fn from_i32(code: i32) -> Self;
    /// Widens.
    fn to_i32(self) -> i32;
}

macro_rules! code {
    ($($t:ty),*) => {$(
        impl Code for $t {
            const WIDE: bool = size_of::<$t>() == 4;
            #[inline(always)]
            fn from_i32(code: i32) -> Self { code as $t }
            #[inline(always)]
            fn to_i32(self) -> i32 { self as i32 }
        }
    )*};
}
code!(i8, u8, i16, u16, i32);

/// Which scale belongs to which element of a row-major tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    outer: usize,
    axis: usize,
    inner: usize,
    /// `None`: one scale for each position on the axis, shared by all outer positions.
    block: Option<usize>,
}

impl Layout {
    /// One scale for `len` elements.
    pub fn per_tensor(len: usize) -> Self {
        Self { outer: 1, axis: 1, inner: len, block: None }
    }

    /// One scale for each position on `axis`.
    pub fn per_axis(dims: &[usize], axis: usize) -> Result<Self, Error> {
        let size = |d: &[usize]| {
            d.iter()
                .try_fold(1usize, |n, &d| n.checked_mul(d))
                .ok_or_else(|| Error::Shape(format!("shape {dims:?} has too many elements")))
        };
        let (Some(outer), Some(&len), Some(inner)) = (dims.get(..axis), dims.get(axis), dims.get(axis + 1..))
        else {
            return Err(Error::Shape(format!("axis {axis} of a tensor with {} dimensions", dims.len())));
        };
        size(dims)?;
        Ok(Self { outer: size(outer)?, axis: len, inner: size(inner)?, block: None })
    }

    /// One scale for each run of `block` positions on `axis`, at every other position: scales have the tensor's shape
    /// with `axis` shortened to ⌈len/block⌉.
    pub fn blocked(dims: &[usize], axis: usize, block: usize) -> Result<Self, Error> {
        if block == 0 {
            return Err(Error::Shape("block size 0".to_string()));
        }
        Ok(Self { block: Some(block), ..Self::per_axis(dims, axis)? })
    }

    /// Elements of the tensor.
    pub fn len(&self) -> usize {
        self.outer * self.axis * self.inner
    }

    /// Whether the tensor has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Positions before, on and after the axis, where there is one scale for each position on it.
    pub fn axis(&self) -> Option<(usize, usize, usize)> {
        self.block.is_none().then_some((self.outer, self.axis, self.inner))
    }

    /// Number of scales.
    pub fn params_len(&self) -> usize {
        match self.block {
            None => self.axis,
            Some(b) => self.outer * self.axis.div_ceil(b) * self.inner,
        }
    }

    /// Index of the scale of the element at flat index `i`.
    pub fn param_of(&self, i: usize) -> usize {
        let (o, a, n) = (i / (self.axis * self.inner), i / self.inner % self.axis, i % self.inner);
        match self.block {
            None => a,
            Some(b) => (o * self.axis.div_ceil(b) + a / b) * self.inner + n,
        }
    }

    /// Calls `f(start, len, run)` for stretches of elements that are contiguous in memory, in order, covering all.
    pub(crate) fn for_each_run(&self, mut f: impl FnMut(usize, usize, Run)) {
        let row = self.axis * self.inner;
        for o in 0..self.outer {
            match self.block {
                None if self.inner == 1 => f(o * row, row, Run::Zip(0)),
                None => (0..self.axis).for_each(|a| f(o * row + a * self.inner, self.inner, Run::One(a))),
                Some(b) => {
                    let blocks = self.axis.div_ceil(b);
                    if self.inner == 1 {
                        for k in 0..blocks {
                            let start = k * b;
                            f(o * row + start, b.min(self.axis - start), Run::One(o * blocks + k));
                        }
                    } else {
                        for a in 0..self.axis {
                            let params = (o * blocks + a / b) * self.inner;
                            f(o * row + a * self.inner, self.inner, Run::Zip(params));
                        }
                    }
                }
            }
        }
    }

    pub(crate) fn check(&self, elements: usize, params: usize, out: usize) -> Result<(), Error> {
        check_len("elements of the layout", self.len(), elements)?;
        check_len("scales", self.params_len(), params)?;
        check_len("output", elements, out)
    }
}

/// The scales of a contiguous stretch.
pub(crate) enum Run {
    /// The same scale for all.
    One(usize),
    /// One scale an element, from this index on.
    Zip(usize),
}

/// out = f(x, its parameter), with the parameter found once a stretch. Lengths are checked by the caller.
pub(crate) fn map_with<P: Copy, T: Copy, U>(
    x: &[T],
    layout: &Layout,
    params: &[P],
    out: &mut [U],
    f: impl Fn(T, P) -> U,
) {
    layout.for_each_run(|start, len, run| {
        let (x, out) = (&x[start..start + len], &mut out[start..start + len]);
        match run {
            Run::One(p) => {
                let p = params[p];
                out.iter_mut().zip(x).for_each(|(o, &x)| *o = f(x, p));
            }
            Run::Zip(p) => {
                let p = &params[p..p + len];
                out.iter_mut().zip(x).zip(p).for_each(|((o, &x), &p)| *o = f(x, p));
            }
        }
    });
}

/// Params with the clip bounds already moved by the zero point, so that the inner loop only compares and rounds.
#[derive(Clone, Copy)]
struct Kernel {
    scale: f32,
    lo: f32,
    hi: f32,
    zp: i32,
}

impl Kernel {
    /// `None` if the codes are too wide for the fast rounding (int32).
    fn new(p: Params, clip: (i32, i32)) -> Option<Self> {
        let near = |v: i32| v.checked_sub(p.zero_point()).filter(|d| d.unsigned_abs() < 1 << 22);
        Some(Self {
            scale: p.scale(),
            lo: near(clip.0)? as f32,
            hi: near(clip.1)? as f32,
            zp: p.zero_point(),
        })
    }

    /// x / scale clamped to the codes, not rounded. Clamping first is exact because the bounds are integers.
    #[inline(always)]
    fn place(self, x: f32) -> f32 {
        let v = x / self.scale;
        let v = if v.is_nan() { 0.0 } else { v };
        let v = if v < self.lo { self.lo } else { v };
        if v > self.hi { self.hi } else { v }
    }

    #[inline(always)]
    fn code(self, x: f32) -> i32 {
        // The low mantissa bits of v + MAGIC are the rounded integer.
        ((self.place(x) + MAGIC).to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32).wrapping_add(self.zp)
    }

    #[inline(always)]
    fn fake(self, x: f32) -> f32 {
        round_small(self.place(x)) * self.scale
    }
}

/// One code, by the definition.
pub fn quantize_one(x: f32, p: Params, clip: (i32, i32)) -> i32 {
    let q = (x / p.scale()).round_ties_even() as i64; // saturates, NaN gives 0
    q.saturating_add(i64::from(p.zero_point())).max(i64::from(clip.0)).min(i64::from(clip.1)) as i32
}

/// The real value of one code, by the definition.
#[inline(always)]
pub fn dequantize_one(q: i32, p: Params) -> f32 {
    (i64::from(q) - i64::from(p.zero_point())) as f32 * p.scale()
}

/// Quantizes with clipping to the codes `clip` (a type's [`int_range`](crate::CodeType::int_range) for what a runtime
/// computes, a grid's [`codes`](crate::Grid::codes) for constants). Reference for [`quantize`].
pub fn quantize_ref<C: Code>(
    x: &[f32],
    layout: &Layout,
    params: &[Params],
    clip: (i32, i32),
    out: &mut [C],
) -> Result<(), Error> {
    layout.check(x.len(), params.len(), out.len())?;
    for (i, (o, &x)) in out.iter_mut().zip(x).enumerate() {
        *o = C::from_i32(quantize_one(x, params[layout.param_of(i)], clip));
    }
    Ok(())
}

/// Quantizes; equal to [`quantize_ref`] to the bit.
pub fn quantize<C: Code>(
    x: &[f32],
    layout: &Layout,
    params: &[Params],
    clip: (i32, i32),
    out: &mut [C],
) -> Result<(), Error> {
    layout.check(x.len(), params.len(), out.len())?;
    let Some(kernels) = params.iter().map(|&p| Kernel::new(p, clip)).collect::<Option<Vec<_>>>() else {
        return quantize_ref(x, layout, params, clip, out);
    };
    map_with(x, layout, &kernels, out, |x, k| C::from_i32(k.code(x)));
    Ok(())
}

/// Codes to real values.
pub fn dequantize<C: Code>(
    q: &[C],
    layout: &Layout,
    params: &[Params],
    out: &mut [f32],
) -> Result<(), Error> {
    layout.check(q.len(), params.len(), out.len())?;
    let small = |p: &Params| p.zero_point().unsigned_abs() < 1 << 30;
    if C::WIDE || !params.iter().all(small) {
        map_with(q, layout, params, out, |q: C, p| dequantize_one(q.to_i32(), p));
    } else {
        map_with(q, layout, params, out, |q: C, p| (q.to_i32() - p.zero_point()) as f32 * p.scale());
    }
    Ok(())
}

/// Quantize and dequantize, element by element. Reference for [`fake_quantize`].
pub fn fake_quantize_ref(
    x: &[f32],
    layout: &Layout,
    params: &[Params],
    clip: (i32, i32),
    out: &mut [f32],
) -> Result<(), Error> {
    layout.check(x.len(), params.len(), out.len())?;
    for (i, (o, &x)) in out.iter_mut().zip(x).enumerate() {
        let p = params[layout.param_of(i)];
        *o = dequantize_one(quantize_one(x, p, clip), p);
    }
    Ok(())
}

/// Quantize and dequantize in one pass, without codes in between; equal to [`fake_quantize_ref`] to the bit.
pub fn fake_quantize(
    x: &[f32],
    layout: &Layout,
    params: &[Params],
    clip: (i32, i32),
    out: &mut [f32],
) -> Result<(), Error> {
    layout.check(x.len(), params.len(), out.len())?;
    let Some(kernels) = params.iter().map(|&p| Kernel::new(p, clip)).collect::<Option<Vec<_>>>() else {
        return fake_quantize_ref(x, layout, params, clip, out);
    };
    map_with(x, layout, &kernels, out, |x, k| k.fake(x));
    Ok(())
}

/// Least and greatest value under each scale, NaN ignored, ±Inf kept; `(Inf, -Inf)` where there is none. The input of
/// [`Params::for_channels`].
pub fn ranges(x: &[f32], layout: &Layout) -> Result<Vec<(f32, f32)>, Error> {
    check_len("elements of the layout", layout.len(), x.len())?;
    let mut out = vec![(f32::INFINITY, f32::NEG_INFINITY); layout.params_len()];
    layout.for_each_run(|start, len, run| {
        let x = &x[start..start + len];
        match run {
            Run::One(p) => {
                let (lo, hi) = crate::quantize::min_max(x);
                out[p] = (out[p].0.min(lo), out[p].1.max(hi));
            }
            Run::Zip(p) => {
                out[p..p + len].iter_mut().zip(x).for_each(|(r, &x)| *r = (r.0.min(x), r.1.max(x)));
            }
        }
    });
    Ok(out)
}

/// Least and greatest element, NaN ignored; `(Inf, -Inf)` if there is none.
pub fn min_max(x: &[f32]) -> (f32, f32) {
    const LANES: usize = 16;
    let (mut lo, mut hi) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let (chunks, rest) = x.as_chunks::<LANES>();
    for c in chunks {
        for i in 0..LANES {
            lo[i] = if c[i] < lo[i] { c[i] } else { lo[i] };
            hi[i] = if c[i] > hi[i] { c[i] } else { hi[i] };
        }
    }
    for &v in rest {
        lo[0] = if v < lo[0] { v } else { lo[0] };
        hi[0] = if v > hi[0] { v } else { hi[0] };
    }
    (lo.into_iter().fold(f32::INFINITY, f32::min), hi.into_iter().fold(f32::NEG_INFINITY, f32::max))
}
