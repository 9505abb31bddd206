//! Weights as the quantizers see them: N rows (output channels) of K columns, blocks along K.
//!
//! The view is strided, so an ONNX MatMul weight `[K, N]` is read in place, and it reads f32, f16 and bf16. Quantizers
//! ask for a *panel* (a few whole rows as f32, row-major); nobody needs a float copy of the matrix.

use std::borrow::Cow;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::WeightError;
use crate::round::ScaleType;

/// The elements of a weight.
#[derive(Debug, Clone, Copy)]
pub enum Elements<'a> {
    /// float
    F32(&'a [f32]),
    /// float16
    F16(&'a [f16]),
    /// bfloat16
    Bf16(&'a [bf16]),
}

impl Elements<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(s) => s.len(),
            Self::F16(s) => s.len(),
            Self::Bf16(s) => s.len(),
        }
    }

    /// No elements?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Elements out of the little-endian bytes of a tensor: borrowed where the bytes are aligned, copied where they are not.
#[derive(Debug, Clone)]
pub enum Stored<'a> {
    /// float
    F32(Cow<'a, [f32]>),
    /// float16
    F16(Cow<'a, [f16]>),
    /// bfloat16
    Bf16(Cow<'a, [bf16]>),
}

impl<'a> Stored<'a> {
    /// The elements of `bytes`, of the type that stores scales `like` this.
    pub fn new(bytes: &'a [u8], like: ScaleType) -> Self {
        match like {
            ScaleType::F16 => Self::F16(native(bytes, |b| f16::from_le_bytes([b[0], b[1]]))),
            ScaleType::Bf16 => Self::Bf16(native(bytes, |b| bf16::from_le_bytes([b[0], b[1]]))),
            _ => Self::F32(native(bytes, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
        }
    }

    /// The view that a [`Weight`] is made of.
    pub fn elements(&self) -> Elements<'_> {
        match self {
            Self::F32(s) => Elements::F32(s),
            Self::F16(s) => Elements::F16(s),
            Self::Bf16(s) => Elements::Bf16(s),
        }
    }
}

/// `read` sees exactly as many bytes as `T` has.
fn native<T: bytemuck::AnyBitPattern>(bytes: &[u8], read: impl Fn(&[u8]) -> T) -> Cow<'_, [T]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(slice) if cfg!(target_endian = "little") => Cow::Borrowed(slice),
        _ => Cow::Owned(bytes.chunks_exact(size_of::<T>()).map(read).collect()),
    }
}

impl<'a> From<&'a [f32]> for Elements<'a> {
    fn from(s: &'a [f32]) -> Self {
        Self::F32(s)
    }
}

impl<'a> From<&'a [f16]> for Elements<'a> {
    fn from(s: &'a [f16]) -> Self {
        Self::F16(s)
    }
}

impl<'a> From<&'a [bf16]> for Elements<'a> {
    fn from(s: &'a [bf16]) -> Self {
        Self::Bf16(s)
    }
}

/// A weight matrix `[rows, cols]` = `[N, K]`; element (n, k) lies at `n * row_stride + k * col_stride`.
#[derive(Debug, Clone, Copy)]
pub struct Weight<'a> {
    data: Elements<'a>,
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Weight<'a> {
    /// A weight stored `[N, K]` (Gemm with transB, embeddings, 1×1 convolutions).
    pub fn from_rows(data: impl Into<Elements<'a>>, rows: usize, cols: usize) -> Result<Self, WeightError> {
        Self::strided(data, rows, cols, cols, 1)
    }

    /// A weight stored `[K, N]` (MatMul): `rows` is still N, `cols` K.
    pub fn from_kn(data: impl Into<Elements<'a>>, rows: usize, cols: usize) -> Result<Self, WeightError> {
        Self::strided(data, rows, cols, 1, rows)
    }

    /// Any strides, in elements. An error if an element would lie outside `data` or the matrix has no element.
    pub fn strided(
        data: impl Into<Elements<'a>>,
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Result<Self, WeightError> {
        let data = data.into();
        let shape = || WeightError::Shape { rows, cols, found: data.len() };
        let last = |n: usize, stride: usize| n.checked_sub(1).and_then(|n| n.checked_mul(stride));
        let end = last(rows, row_stride)
            .zip(last(cols, col_stride))
            .and_then(|(a, b)| a.checked_add(b))
            .filter(|_| rows.checked_mul(cols).is_some())
            .ok_or_else(shape)?;
        if end >= data.len() {
            return Err(shape());
        }
        Ok(Self { data, rows, cols, row_stride, col_stride })
    }

    /// N, the number of output channels.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// K, the number of inputs of one output channel.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Reads rows `first .. first + out.len() / K` as f32, row-major. NaN and infinities are an error that names the
    /// first one (by row, then column). `out.len()` is a multiple of K and the rows exist: the callers chunk by rows.
    pub(crate) fn panel(&self, first: usize, out: &mut [f32]) -> Result<(), WeightError> {
        match self.data {
            Elements::F32(s) => self.read(s, first, out, |from, to| to.copy_from_slice(from)),
            Elements::F16(s) => self.read(s, first, out, |from, to| from.convert_to_f32_slice(to)),
            Elements::Bf16(s) => self.read(s, first, out, |from, to| from.convert_to_f32_slice(to)),
        }
        // One pass that vectorizes: without its sign, an infinity or NaN is 0x7f800000 or more.
        let largest = |c: &[f32]| c.iter().fold(0, |a, x| (x.to_bits() & 0x7fff_ffff).max(a));
        if out.chunks(1024).any(|c| largest(c) >= 0x7f80_0000)
            && let Some(at) = out.iter().position(|v| !v.is_finite())
        {
            let (row, col) = (first + at / self.cols, at % self.cols);
            return Err(WeightError::NotFinite { row, col, value: out[at] });
        }
        Ok(())
    }

    /// The whole matrix as f32, row-major: for the calibrated methods, which update it.
    pub fn to_f32(&self) -> Result<Vec<f32>, WeightError> {
        let mut out = vec![0.0; self.rows * self.cols];
        self.panel(0, &mut out)?;
        Ok(out)
    }

    /// Every `step`-th row as f32, row-major: for estimates over rows.
    pub fn sampled_rows(&self, step: usize) -> Result<Vec<f32>, WeightError> {
        let step = step.max(1);
        if step == 1 {
            return self.to_f32();
        }
        let mut out = vec![0.0; self.rows.div_ceil(step) * self.cols];
        for (i, row) in out.chunks_mut(self.cols).enumerate() {
            self.panel(i * step, row)?;
        }
        Ok(out)
    }

    /// `convert` makes f32 of as many elements as it is given.
    fn read<T: Copy>(&self, data: &[T], first: usize, out: &mut [f32], convert: impl Fn(&[T], &mut [f32])) {
        let cols = self.cols;
        if self.col_stride == 1 {
            for (i, row) in out.chunks_exact_mut(cols).enumerate() {
                let at = (first + i) * self.row_stride;
                convert(&data[at..at + cols], row);
            }
        } else if self.row_stride == 1 {
            // [K, N]: a tile at a time, read along N and written along K, so that both see whole cache lines.
            let mut tile = [[0.0f32; TILE.0]; TILE.1];
            for (group, rows) in out.chunks_mut(TILE.0 * cols).enumerate() {
                let (start, count) = (first + group * TILE.0, rows.len() / cols);
                for k in (0..cols).step_by(TILE.1) {
                    let width = TILE.1.min(cols - k);
                    for (j, column) in tile[..width].iter_mut().enumerate() {
                        let at = start + (k + j) * self.col_stride;
                        convert(&data[at..at + count], &mut column[..count]);
                    }
                    for (i, row) in rows.chunks_exact_mut(cols).enumerate() {
                        for (v, column) in row[k..k + width].iter_mut().zip(&tile) {
                            *v = column[i];
                        }
                    }
                }
            }
        } else {
            for (at, v) in out.iter_mut().enumerate() {
                let (i, k) = (at / cols, at % cols);
                let from = (first + i) * self.row_stride + k * self.col_stride;
                convert(&data[from..from + 1], std::slice::from_mut(v));
            }
        }
    }
}

/// Rows and columns of the tiles in which a `[K, N]` weight is turned.
const TILE: (usize, usize) = (32, 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_orders_and_all_types_read_the_same() {
        let nk: Vec<f32> = (0..15).map(|i| i as f32 - 7.0).collect(); // [3, 5]
        let kn: Vec<f32> = (0..15).map(|i| nk[(i % 3) * 5 + i / 3]).collect();
        let half: Vec<f16> = nk.iter().map(|&v| f16::from_f32(v)).collect();
        let brain: Vec<bf16> = kn.iter().map(|&v| bf16::from_f32(v)).collect();
        for w in [
            Weight::from_rows(&nk[..], 3, 5).unwrap(),
            Weight::from_kn(&kn[..], 3, 5).unwrap(),
            Weight::from_rows(&half[..], 3, 5).unwrap(),
            Weight::from_kn(&brain[..], 3, 5).unwrap(),
        ] {
            assert_eq!(w.to_f32().unwrap(), nk);
            let mut two = [0.0; 10];
            w.panel(1, &mut two).unwrap();
            assert_eq!(two, nk[5..15]);
        }
    }

    #[test]
    fn impossible_views_are_errors() {
        let d = [0.0f32; 6];
        assert!(Weight::from_rows(&d[..], 2, 3).is_ok());
        assert!(Weight::from_rows(&d[..], 3, 3).is_err());
        assert!(Weight::from_rows(&d[..], 0, 3).is_err());
        assert!(Weight::from_rows(&d[..], 2, 0).is_err());
        assert!(Weight::strided(&d[..], usize::MAX, 2, usize::MAX, 1).is_err());
        assert!(Weight::strided(&d[..], usize::MAX, 2, 0, 0).is_err());
    }

    #[test]
    fn nan_is_named() {
        let mut d = [1.0f32; 12];
        d[7] = f32::NAN;
        let err = Weight::from_rows(&d[..], 3, 4).unwrap().to_f32().unwrap_err();
        assert!(matches!(err, WeightError::NotFinite { row: 1, col: 3, .. }));
        d[7] = f32::INFINITY;
        let err = Weight::from_kn(&d[..], 4, 3).unwrap().to_f32().unwrap_err();
        assert!(matches!(err, WeightError::NotFinite { row: 3, col: 1, .. }));
    }
}
