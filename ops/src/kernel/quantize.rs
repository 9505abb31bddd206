//! Quantize and dequantize arithmetic over slices, bit-exact with ONNX's reference and ONNX Runtime.
//!
//! `q = saturate(round_half_even(x / scale) + zero_point)` and `x = (q - zero_point) * scale`. The quotient is rounded
//! to the precision of the division (that of the scale unless an attribute says otherwise); the difference is exact and
//! the product is rounded once.

use half::{bf16, f16};
use ir::DType;

/// Which scale belongs to which element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granularity {
    outer: usize,
    size: usize,
    inner: usize,
    block: usize,
    /// Steps in the scale for one step of `outer`, block and `inner`.
    steps: (usize, usize, usize),
}

impl Granularity {
    /// Per tensor (one scale), per axis (1-D scale) or blocked (scale of the input's rank), as the scale's sizes say.
    pub fn new(dims: &[usize], scale: &[usize], axis: i64, block: i64) -> Result<Granularity, String> {
        let rank = dims.len();
        let elements = dims.iter().product();
        let misfit = || format!("scale {scale:?} does not fit {dims:?} (axis {axis}, block size {block})");
        if block == 0 && scale.iter().product::<usize>() == 1 && scale.len() <= 1 {
            return Ok(Granularity { outer: 1, size: 1, inner: elements, block: 1, steps: (0, 0, 0) });
        }
        let axis = if axis < 0 { axis + rank as i64 } else { axis };
        let axis = usize::try_from(axis).ok().filter(|&axis| axis < rank).ok_or_else(misfit)?;
        let (outer, size) = (dims[..axis].iter().product(), dims[axis]);
        let inner: usize = dims[axis + 1..].iter().product();
        if block == 0 {
            let fits = *scale == [size];
            let per_axis = Granularity { outer, size, inner, block: 1, steps: (0, 1, 0) };
            return if fits { Ok(per_axis) } else { Err(misfit()) };
        }
        let block = usize::try_from(block).map_err(|_| misfit())?;
        let groups = size.div_ceil(block);
        let same = scale.len() == rank
            && (0..rank).all(|at| scale[at] == if at == axis { groups } else { dims[at] });
        if !same {
            return Err(misfit());
        }
        Ok(Granularity { outer, size, inner, block, steps: (groups * inner, inner, 1) })
    }

    /// Calls `visit(element, scale index)` for every element in row-major order.
    pub fn for_each(self, mut visit: impl FnMut(usize, usize)) {
        let (per_outer, per_block, per_inner) = self.steps;
        let mut at = 0;
        for outer in 0..self.outer {
            for i in 0..self.size {
                let base = outer * per_outer + i / self.block * per_block;
                for inner in 0..self.inner {
                    visit(at, base + inner * per_inner);
                    at += 1;
                }
            }
        }
    }
}

/// Least and greatest code of an integer type that quantization writes.
pub fn code_range(dtype: DType) -> Option<(i64, i64)> {
    Some(match dtype {
        DType::I2 => (-2, 1),
        DType::U2 => (0, 3),
        DType::I4 => (-8, 7),
        DType::U4 => (0, 15),
        DType::I8 => (-128, 127),
        DType::U8 => (0, 255),
        DType::I16 => (-32768, 32767),
        DType::U16 => (0, 65535),
        DType::I32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => return None,
    })
}

/// `round_half_even(value) + zero_point`, saturated. NaN gives the least code, as both references do.
pub fn saturate(value: f32, zero_point: i64, (least, greatest): (i64, i64)) -> i64 {
    if value.is_nan() {
        return least;
    }
    // The cast saturates at the ends of i64, far outside every range.
    (value.round_ties_even() as i64).saturating_add(zero_point).clamp(least, greatest)
}

/// A number rounded to a compute type; other types keep it.
pub fn rounded(value: f32, precision: DType) -> f32 {
    match precision {
        DType::F16 => f16::from_f32(value).to_f32(),
        DType::BF16 => bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

/// `x / scale` rounded to the precision.
pub fn quotients(x: &[f32], scale: &[f32], granularity: Granularity, precision: DType) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    granularity.for_each(|at, scale_at| out[at] = rounded(x[at] / scale[scale_at], precision));
    out
}

/// Integer codes of the quotients.
pub fn codes(
    quotients: &[f32],
    zero: Option<&[i64]>,
    granularity: Granularity,
    range: (i64, i64),
) -> Vec<i64> {
    let mut out = vec![0; quotients.len()];
    granularity.for_each(|at, scale_at| {
        out[at] = saturate(quotients[at], zero.map_or(0, |zero| zero[scale_at]), range);
    });
    out
}

/// `(q - zero) * scale` in f32.
pub fn dequantize(q: &[i64], scale: &[f32], zero: Option<&[i64]>, granularity: Granularity) -> Vec<f32> {
    let mut out = vec![0.0; q.len()];
    granularity.for_each(|at, scale_at| {
        let difference = q[at].wrapping_sub(zero.map_or(0, |zero| zero[scale_at]));
        out[at] = difference as f32 * scale[scale_at];
    });
    out
}

/// The dynamic 8-bit grid of some values: scale and zero point. Zero is inside the range; all zeros give scale 1, as
/// ONNX Runtime does (the formula of the specification would divide by zero).
pub fn dynamic_grid(x: &[f32]) -> (f32, u8) {
    let least = x.iter().fold(0.0f32, |least, &x| least.min(x));
    let greatest = x.iter().fold(0.0f32, |greatest, &x| greatest.max(x));
    let scale = if greatest == least { 1.0 } else { (greatest - least) / 255.0 };
    (scale, (-least / scale).round_ties_even().clamp(0.0, 255.0) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_round_to_even_and_ends_saturate() {
        let range = (-128, 127);
        let values = [0.5, 1.5, 2.5, -0.5, -1.5, 200.0, f32::NEG_INFINITY, f32::NAN];
        let codes: Vec<i64> = values.iter().map(|&v| saturate(v, 0, range)).collect();
        assert_eq!(codes, [0, 2, 2, 0, -2, 127, -128, -128]);
    }

    #[test]
    fn scales_follow_the_axis_and_the_blocks() {
        let index = |dims: &[usize], scale: &[usize], axis, block| {
            let mut out = Vec::new();
            Granularity::new(dims, scale, axis, block).unwrap().for_each(|_, at| out.push(at));
            out
        };
        assert_eq!(index(&[2, 3], &[], 1, 0), [0; 6]);
        assert_eq!(index(&[2, 3], &[3], -1, 0), [0, 1, 2, 0, 1, 2]);
        assert_eq!(index(&[2, 3], &[2], 0, 0), [0, 0, 0, 1, 1, 1]);
        assert_eq!(index(&[3, 2], &[2, 2], 0, 2), [0, 1, 0, 1, 2, 3]);
        assert_eq!(index(&[2, 3], &[2, 2], 1, 2), [0, 0, 1, 2, 2, 3]);
        assert!(Granularity::new(&[2, 3], &[2], 1, 0).is_err());
        assert!(Granularity::new(&[2, 3], &[2, 1], 1, 2).is_err());
    }
}
